//! What each mode does with each kind of first bytes (the admission table on real connections).

use std::io;

use pillion_testkit::peer;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// What a client sends first.
#[derive(Debug, Clone, Copy)]
enum Sends {
    Plaintext,
    OnePlaintextByte,
    MeshTls,
    MeshTlsWithoutCertificate,
    /// TLS of the app's own: no mesh mark.
    OwnTls,
    /// The mark, letter by letter, but in another case: another protocol (RFC 7301 compares octets).
    AlmostMeshTls,
}

/// What the client sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sees {
    /// The app got the very bytes and echoed them.
    Echo,
    /// The sidecar finished the handshake; the echo came through TLS.
    EchoThroughMtls,
    Reset,
    HandshakeFailure,
}

#[rstest]
#[case(STRICT, Sends::Plaintext, Sees::Reset)]
#[case(STRICT, Sends::OnePlaintextByte, Sees::Reset)]
#[case(STRICT, Sends::MeshTls, Sees::EchoThroughMtls)]
#[case(STRICT, Sends::MeshTlsWithoutCertificate, Sees::HandshakeFailure)]
#[case(STRICT, Sends::OwnTls, Sees::HandshakeFailure)]
#[case(STRICT, Sends::AlmostMeshTls, Sees::HandshakeFailure)]
#[case(PERMISSIVE, Sends::Plaintext, Sees::Echo)]
#[case(PERMISSIVE, Sends::OnePlaintextByte, Sees::Echo)]
#[case(PERMISSIVE, Sends::MeshTls, Sees::EchoThroughMtls)]
#[case(PERMISSIVE, Sends::MeshTlsWithoutCertificate, Sees::HandshakeFailure)]
#[case(PERMISSIVE, Sends::OwnTls, Sees::Echo)]
#[case(PERMISSIVE, Sends::AlmostMeshTls, Sees::Echo)]
#[case(DISABLE, Sends::Plaintext, Sees::Echo)]
#[case(DISABLE, Sends::OnePlaintextByte, Sees::Echo)]
#[case(DISABLE, Sends::MeshTls, Sees::Echo)]
#[case(DISABLE, Sends::OwnTls, Sees::Echo)]
#[tokio::test]
async fn req_20_each_mode_admits_what_the_table_says(
    #[case] mode: &str,
    #[case] sends: Sends,
    #[case] sees: Sees,
) {
    let lab = Lab::new();
    lab.mode(mode);
    let app = peer::echo_app().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let saw = timeout(PATIENCE, see(&lab, sidecar.inbound(), sends)).await.unwrap();
    assert_eq!(saw, sees);
}

async fn see(lab: &Lab, address: SocketAddr, sends: Sends) -> Sees {
    match sends {
        Sends::Plaintext => echoed(address, b"GET / HTTP/1.1\r\n\r\n").await,
        Sends::OnePlaintextByte => echoed(address, b"x").await,
        Sends::OwnTls => echo_or_handshake(lab, address, None, &["h2", "http/1.1"]).await,
        Sends::AlmostMeshTls => echo_or_handshake(lab, address, None, &["Istio", "istio\0"]).await,
        Sends::MeshTls => echo_or_handshake(lab, address, Some("frontend"), &["istio"]).await,
        Sends::MeshTlsWithoutCertificate => echo_or_handshake(lab, address, None, &["istio"]).await,
    }
}

/// Sends bytes and half-closes; the app's echo must be the same.
async fn echoed(address: SocketAddr, bytes: &[u8]) -> Sees {
    match peer::send_and_half_close(address, bytes).await {
        Ok(answer) => {
            assert_eq!(answer, bytes);
            Sees::Echo
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Sees::Reset,
        Err(error) => panic!("neither an answer nor a reset: {error}"),
    }
}

/// A TLS client's view: a server that speaks TLS, or an app that echoes the hello itself, which no client takes for a
/// handshake. Then the hello alone is sent and must come back byte for byte.
async fn echo_or_handshake(lab: &Lab, address: SocketAddr, name: Option<&str>, alpn: &[&str]) -> Sees {
    let attempt = async {
        let mut stream = lab.tls_client(address, name, alpn).await?;
        stream.write_all(b"hello").await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"hello");
        io::Result::Ok(())
    };
    if attempt.await.is_ok() {
        return Sees::EchoThroughMtls;
    }
    let hello = client_hello(lab, alpn);
    let answer = peer::send_and_half_close(address, &hello).await.unwrap_or_default();
    if answer == hello { Sees::Echo } else { Sees::HandshakeFailure }
}

pub(super) fn client_hello(lab: &Lab, alpn: &[&str]) -> Vec<u8> {
    let mut config = pillion_testkit::tls::client(&lab.ca, None);
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let mut client =
        rustls::ClientConnection::new(Arc::new(config), pillion_testkit::tls::any_name()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// Requirement 19: nothing but a verified handshake makes the app hear of a connection at all.
#[tokio::test]
async fn req_19_strict_does_not_even_connect_to_the_app_before_the_handshake() {
    let lab = Lab::new();
    lab.mode(STRICT);
    let app = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = lab.in_front_of(app.local_addr().unwrap(), "detection: {timeout: 200ms}").await;

    assert_eq!(echoed(sidecar.inbound(), b"plain").await, Sees::Reset);
    sidecar.refused(Reason::StrictPlaintext).await;
    let silent = TcpStream::connect(sidecar.inbound()).await.unwrap();
    sidecar.refused(Reason::StrictSilent).await;
    drop(silent);
    let half_done = {
        let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
        stream.write_all(&client_hello(&lab, &["istio"])).await.unwrap();
        stream
    };
    // A TLS 1.3 client finishes before the server has judged it: whether this succeeds says nothing.
    let _ = lab.tls_client(sidecar.inbound(), None, &["istio"]).await;
    sidecar.refused(Reason::NoClientCertificate).await;

    let mut good = lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    good.write_all(b"it is me").await.unwrap();
    let (mut first, _) = timeout(PATIENCE, app.accept()).await.unwrap().unwrap();
    let mut heard = [0; 8];
    timeout(PATIENCE, first.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(&heard, b"it is me", "the app heard of a connection before this one");
    drop(half_done);
}

/// Requirement 23: a server that speaks first gets to speak at the deadline under PERMISSIVE, and at once under
/// DISABLE, which does not look.
#[rstest]
#[case(PERMISSIVE, "200ms")]
#[case(DISABLE, "1h")]
#[tokio::test]
async fn req_23_a_server_first_app_gets_to_speak(#[case] mode: &str, #[case] detection: &str) {
    let lab = Lab::new();
    lab.mode(mode);
    let app = peer::app_that_speaks_first(b"220 welcome\r\n").await;
    let sidecar = lab.in_front_of(app.address, &format!("detection: {{timeout: {detection}}}")).await;
    let mut client = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let mut banner = [0; 13];
    timeout(PATIENCE, client.read_exact(&mut banner)).await.unwrap().unwrap();
    assert_eq!(&banner, b"220 welcome\r\n");
}

/// Requirement 25 of the other side, and 20: a mesh client whose handshake fails is never passed on as plaintext.
#[tokio::test]
async fn req_20_a_failed_mesh_handshake_never_falls_back() {
    let lab = Lab::new();
    lab.mode(PERMISSIVE);
    let app = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = lab.in_front_of(app.local_addr().unwrap(), "").await;
    let stranger = TestCa::root("another root").issue(&Lab::id("frontend"));
    let config = pillion_testkit::tls::client(&lab.ca, Some(&stranger));
    let stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let connected =
        TlsConnector::from(Arc::new(config)).connect(pillion_testkit::tls::any_name(), stream).await;
    if let Ok(mut stream) = connected {
        assert!(stream.read(&mut [0; 1]).await.is_err());
    }
    sidecar.refused(Reason::CertificateUntrusted).await;
    assert!(
        timeout(Duration::ZERO, app.accept()).await.is_err(),
        "the app heard of a connection whose handshake failed"
    );
}

/// Requirements 21 and 22: the hello may come in any segments.
#[tokio::test]
async fn req_21_a_hello_in_single_bytes_is_still_mesh_tls() {
    let lab = Lab::new();
    lab.mode(STRICT);
    let app = peer::echo_app().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    // A relay that forwards one byte a write, with Nagle off.
    let dripping = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (through, target) = (dripping.local_addr().unwrap(), sidecar.inbound());
    tokio::spawn(async move {
        let (client, _) = dripping.accept().await.unwrap();
        let server = TcpStream::connect(target).await.unwrap();
        server.set_nodelay(true).unwrap();
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let mut byte = [0; 1];
        while from_client.read(&mut byte).await.is_ok_and(|read| read == 1) {
            to_server.write_all(&byte).await.unwrap();
        }
    });
    let mut stream =
        timeout(PATIENCE, lab.tls_client(through, Some("frontend"), &["istio"])).await.unwrap().unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"hello");
}
