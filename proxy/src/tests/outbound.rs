//! Auto mTLS and secure naming: what the outbound side does with each kind of endpoint.

use std::io;

use pillion_testkit::peer;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// The service `backend:80` whose one endpoint is `endpoint`.
pub(super) fn service(endpoint: SocketAddr, labels: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\n\
         kind: ServiceEntry\n\
         metadata: {{name: backend}}\n\
         spec:\n  hosts: [backend.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
         ports: [{{number: 80, name: tcp, protocol: TCP, targetPort: {}}}]\n  \
         endpoints: [{{address: {}, serviceAccount: backend, labels: {{{labels}}}}}]\n",
        endpoint.port(),
        endpoint.ip(),
    )
}

pub(super) const HAS_SIDECAR: &str = "security.istio.io/tlsMode: istio";
pub(super) const LISTENER: &str =
    "outbound: {listeners: [{address: \"127.0.0.1:0\", destination: \"backend:80\"}]}";

#[tokio::test]
async fn an_endpoint_with_a_sidecar_is_reached_by_mutual_tls() {
    let lab = Lab::new();
    let app = peer::echo_app().await;
    let server = lab.in_front_of(app.address, "").await;
    lab.resources(Some(&service(server.inbound(), HAS_SIDECAR)));
    let client = lab.sidecar("frontend", LISTENER).await;
    let mut stream = TcpStream::connect(client.outbound()).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    let seen = &server.running.shared.connections.list()[0];
    let tls = seen.tls.as_ref().expect("the connection is not mutual TLS");
    assert_eq!(tls.peer, Lab::id("frontend"));
    assert_eq!(tls.local, Lab::id("backend"));
    assert_eq!((&*tls.version, &*tls.group), ("TLSv1.3", "X25519MLKEM768"));
    let made = &client.running.shared.connections.list()[0];
    assert_eq!(made.tls.as_ref().unwrap().peer, Lab::id("backend"));
    assert_eq!(made.bytes_to_server, 5);
}

/// The next connection spares the certificates, and each is told in the record and in the metric.
#[tokio::test]
async fn a_second_connection_to_a_sidecar_is_resumed() {
    let lab = Lab::new();
    let app = peer::echo_app().await;
    let server = lab.in_front_of(app.address, "").await;
    lab.resources(Some(&service(server.inbound(), HAS_SIDECAR)));
    let client = lab.sidecar("frontend", LISTENER).await;
    let mut open = Vec::new();
    for resumed in [false, true, true] {
        let mut stream = TcpStream::connect(client.outbound()).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        open.push(stream);
        for sidecar in [&client, &server] {
            let tls = sidecar.running.shared.connections.list().last().unwrap().tls.clone().unwrap();
            assert_eq!(tls.resumed, resumed, "{tls:?}");
        }
    }
    for (sidecar, direction) in [(&client, "outbound"), (&server, "inbound")] {
        let labels = format!("_count{{direction=\"{direction}\",resumed=\"true\"}} 2");
        let page = sidecar.metrics();
        assert!(page.contains(&labels), "{labels} is missing in:\n{page}");
    }
}

/// In both directions: the connections of a peer that a new list names are cut, and it gets no other.
#[tokio::test]
async fn the_open_connections_of_a_revoked_peer_are_closed() {
    let lab = Lab::new();
    lab.revoke(&[]);
    let app = peer::echo_app().await;
    let server = lab.in_front_of(app.address, "").await;
    lab.resources(Some(&service(server.inbound(), HAS_SIDECAR)));
    let client = lab.sidecar("frontend", LISTENER).await;
    let held = lab.held("other");
    let config = pillion_testkit::tls::client(&lab.ca, Some(&held));
    let connector = TlsConnector::from(Arc::new(config));
    let connect = async || {
        let stream = TcpStream::connect(server.inbound()).await.unwrap();
        connector.connect(pillion_testkit::tls::any_name(), stream).await
    };
    let mut foreign = connect().await.unwrap();
    let mut own = TcpStream::connect(client.outbound()).await.unwrap();
    let mut answer = [0; 5];
    for _ in 0..2 {
        foreign.write_all(b"hello").await.unwrap();
        timeout(PATIENCE, foreign.read_exact(&mut answer)).await.unwrap().unwrap();
        own.write_all(b"hello").await.unwrap();
        timeout(PATIENCE, own.read_exact(&mut answer)).await.unwrap().unwrap();
    }
    lab.revoke(&[&held]);
    assert!(timeout(PATIENCE, foreign.read_exact(&mut answer)).await.unwrap().is_err());
    own.write_all(b"hello").await.unwrap();
    timeout(PATIENCE, own.read_exact(&mut answer)).await.unwrap().expect("another peer's connection was cut");
    let refused = match connect().await {
        Ok(mut stream) => timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().is_err(),
        Err(_refused) => true,
    };
    assert!(refused);
    server.refused(Reason::CertificateRevoked).await;

    let backend = server.running.shared.credentials.borrow().clone().unwrap();
    let shown = Held { chain: backend.chain.clone(), ..held };
    lab.revoke(&[&shown]);
    assert!(timeout(PATIENCE, own.read_exact(&mut answer)).await.unwrap().is_err());
    let mut again = TcpStream::connect(client.outbound()).await.unwrap();
    assert!(timeout(PATIENCE, again.read_exact(&mut answer)).await.unwrap().is_err());
    client.refused(Reason::CertificateRevoked).await;
}

#[tokio::test]
async fn an_endpoint_without_a_sidecar_is_reached_in_plaintext() {
    let lab = Lab::new();
    let app = peer::echo_app().await;
    lab.resources(Some(&service(app.address, "")));
    let client = lab.sidecar("frontend", LISTENER).await;
    assert_eq!(peer::send_and_half_close(client.outbound(), b"hello").await.unwrap(), b"hello");
}

#[tokio::test]
async fn an_endpoint_whose_port_is_disable_is_reached_in_plaintext() {
    let lab = Lab::new();
    let app = peer::echo_app().await;
    let disable = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: DISABLE}}\n";
    lab.resources(Some(&format!("{}{disable}", service(app.address, HAS_SIDECAR))));
    let client = lab.sidecar("frontend", LISTENER).await;
    assert_eq!(peer::send_and_half_close(client.outbound(), b"hello").await.unwrap(), b"hello");
}

/// Requirement 8 on the wire: another workload's identity behind the right host is refused, before our certificate
/// or a byte of the app reaches it.
#[rstest]
#[case::another_workload("spiffe://cluster.local/ns/default/sa/impostor")]
#[case::a_longer_name("spiffe://cluster.local/ns/default/sa/backend2")]
#[case::another_case("spiffe://cluster.local/ns/default/sa/Backend")]
#[case::another_namespace("spiffe://cluster.local/ns/other/sa/backend")]
#[tokio::test]
async fn req_08_an_impostor_behind_the_right_host_is_refused(#[case] id: &str) {
    let lab = Lab::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    lab.resources(Some(&service(listener.local_addr().unwrap(), HAS_SIDECAR)));
    let acceptor = TlsAcceptor::from(Arc::new(pillion_testkit::tls::server(&lab.ca, &lab.ca.issue(id))));
    let impostor = tokio::spawn(async move { acceptor.accept(listener.accept().await.unwrap().0).await });
    let client = lab.sidecar("frontend", LISTENER).await;
    let error = peer::send_and_half_close(client.outbound(), b"secret").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    client.refused(Reason::IdentityUnexpected).await;
    assert!(
        timeout(PATIENCE, impostor).await.unwrap().unwrap().is_err(),
        "the impostor finished its handshake"
    );
}

/// Requirement 25: where mTLS is wanted, a server that cannot do it gets no plaintext.
#[tokio::test]
async fn req_25_a_failed_handshake_is_never_retried_in_plaintext() {
    let lab = Lab::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    lab.resources(Some(&service(listener.local_addr().unwrap(), HAS_SIDECAR)));
    let client = lab.sidecar("frontend", LISTENER).await;
    let app = tokio::spawn({
        let address = client.outbound();
        async move { peer::send_and_half_close(address, b"secret").await }
    });
    let (mut plain, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut first = [0; 1];
    plain.read_exact(&mut first).await.unwrap();
    assert_eq!(first[0], 0x16, "not a TLS record");
    plain.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    assert_eq!(
        timeout(PATIENCE, app).await.unwrap().unwrap().unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert!(
        timeout(Duration::from_millis(200), listener.accept()).await.is_err(),
        "a second connection was made"
    );
    client.refused(Reason::HandshakeFailed).await;
}

#[tokio::test]
async fn a_listener_for_an_unknown_service_refuses() {
    let lab = Lab::new();
    let client = lab.sidecar("frontend", LISTENER).await;
    assert!(peer::send_and_half_close(client.outbound(), b"x").await.is_err());
    client.refused(Reason::DestinationUnknown).await;
}

/// Requirement 38, without interception rules: a connection made to a capture port itself goes nowhere.
#[rstest]
#[case::inbound("inbound: {capture: \"127.0.0.1:0\"}")]
#[case::outbound("outbound: {capture: \"127.0.0.1:0\"}")]
#[tokio::test]
async fn req_38_a_connection_made_to_a_capture_port_is_refused(#[case] capture: &str) {
    let lab = Lab::new();
    let sidecar = lab.sidecar("backend", capture).await;
    let address = if capture.starts_with("inbound") { sidecar.inbound() } else { sidecar.outbound() };
    assert!(peer::send_and_half_close(address, b"x").await.is_err());
    sidecar
        .eventually("a refusal", || {
            let metrics = sidecar.metrics();
            metrics.contains("reason=\"self_loop\"") || metrics.contains("reason=\"no_original_destination\"")
        })
        .await;
}
