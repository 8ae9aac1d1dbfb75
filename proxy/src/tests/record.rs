//! What the record of a real connection tells.

use pillion_mesh::client_hello::names;
use pillion_mesh::wire::{By, Closed, ConnectionRecord, FirstBytes, How};
use pillion_testkit::peer;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::http::{ask, head};
use super::outbound::{HAS_SIDECAR, LISTENER, service};
use super::*;

impl Sidecar {
    /// The record of the only connection that has ended, once it has.
    pub(super) async fn over(&self) -> ConnectionRecord {
        let table = &self.running.shared.connections;
        self.eventually("the end of a connection", || {
            table.len() == 0 && table.ended().len() + table.refused().len() > 0
        })
        .await;
        let mut known = table.all();
        assert_eq!(known.len(), 1, "{known:?}");
        known.remove(0)
    }
}

/// A stream that asks and is answered, and whose client then closes.
async fn talk<S: AsyncReadExt + AsyncWriteExt + Unpin>(mut stream: S) {
    stream.write_all(b"question").await.unwrap();
    let mut answer = [0; 8];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    stream.shutdown().await.unwrap();
    timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
}

#[tokio::test]
async fn mutual_tls_is_told_with_the_hello_both_certificates_each_step_and_who_closed() {
    let lab = Lab::new();
    lab.mode(STRICT);
    let app = peer::echo_app().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    talk(lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap()).await;
    let record = sidecar.over().await;

    let Some(FirstBytes::Tls { offer, .. }) = &record.first_bytes else { panic!("{record:?}") };
    assert_eq!(names::VERSIONS.names(&offer.versions), ["TLSv1.3", "TLSv1.2"]);
    assert!(names::GROUPS.names(&offer.groups).contains(&"x25519".into()), "{offer:?}");
    assert!(names::CIPHER_SUITES.names(&offer.cipher_suites).contains(&"TLS_AES_128_GCM_SHA256".into()));
    assert!(!offer.signature_algorithms.is_empty() && !offer.key_shares.is_empty(), "{offer:?}");
    assert!(offer.length > 200, "{offer:?}");

    let tls = record.tls.as_ref().unwrap();
    let shown = sidecar.running.shared.credentials.borrow().clone().unwrap().svid.clone();
    assert_eq!((&tls.local_serial, tls.local_not_after), (&Some(shown.serial), Some(shown.not_after)));
    assert_ne!(Some(&tls.peer_serial), tls.local_serial.as_ref());

    let times = record.times;
    let in_order = [
        times.first_bytes,
        times.handshake,
        times.authorized,
        times.dialled,
        times.connected,
        times.opened,
        times.asked,
        times.answered,
        Some(record.duration_micros),
    ];
    assert!(in_order.is_sorted() && in_order.iter().all(Option::is_some), "{times:?}");
    assert_eq!(record.closed, Some(Closed { by: By::Client, how: How::CloseNotify }));
}

#[tokio::test]
async fn a_step_that_did_not_come_has_no_time() {
    let lab = Lab::new();
    lab.mode(STRICT);
    let app = peer::echo_app().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    assert!(peer::send_and_half_close(sidecar.inbound(), b"GET / HTTP/1.1\r\n\r\n").await.is_err());
    let record = sidecar.over().await;
    let times = record.times;
    let later = [times.handshake, times.dialled, times.connected, times.opened, times.asked, times.answered];
    assert_eq!((times.first_bytes.is_some(), later), (true, [None; 6]));
    assert_eq!(record.closed, Some(Closed { by: By::Proxy, how: How::Reset }));
}

/// What a client does to a port that is read as HTTP.
#[derive(Debug, Clone, Copy)]
enum Asks {
    /// And closes when it is answered.
    ThenCloses,
    /// That the connection be closed behind the answer.
    ForAnEnd,
}

#[rstest]
#[case(Asks::ThenCloses, By::Client)]
#[case(Asks::ForAnEnd, By::Server)]
#[tokio::test]
async fn who_closes_a_connection_with_requests_is_told(#[case] asks: Asks, #[case] by: By) {
    let lab = Lab::new();
    let app = http::App::start().await;
    lab.resources(Some(&declared(app.address, "HTTP")));
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let more = if matches!(asks, Asks::ForAnEnd) { "Connection: close\r\n" } else { "" };
    assert_eq!(ask(&mut stream, &head("GET", "/", more)).await.unwrap().status, 200);
    if matches!(asks, Asks::ForAnEnd) {
        assert_eq!(timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
    }
    drop(stream);
    let record = sidecar.over().await;
    assert_eq!(record.closed, Some(Closed { by, how: How::Fin }), "{record:?}");
    assert!(record.times.asked.is_some() && record.times.answered > record.times.asked, "{record:?}");
    assert!(record.times.connected.is_some(), "{record:?}");
}

/// Ciphertext is kept of both ends, and is the same at both: what one has written the other has read.
#[tokio::test]
async fn both_ends_keep_the_same_first_ciphertext_and_it_tells_nothing() {
    let lab = Lab::new();
    let app = peer::echo_app().await;
    let backend = lab.in_front_of(app.address, "").await;
    lab.resources(Some(&service(backend.inbound(), HAS_SIDECAR)));
    let frontend = lab.sidecar("frontend", LISTENER).await;
    talk(TcpStream::connect(frontend.outbound()).await.unwrap()).await;
    let ciphertext = |record: ConnectionRecord| {
        let wire = *record.wire.unwrap();
        assert_eq!(wire.app, None, "nobody has switched it on");
        wire.mesh.unwrap()
    };
    let (near, far) = (ciphertext(frontend.over().await), ciphertext(backend.over().await));
    assert_eq!(near.to_server, far.to_server);
    // Records of application data (RFC 8446 5.1), the first of the client's behind its handshake: 8 bytes and a tag.
    assert_eq!(near.to_server[..5], [23, 3, 3, 0, 8 + 1 + 16]);
    assert_eq!(near.to_server.len(), 5 + 8 + 1 + 16 + 5 + 2 + 1 + 16);
    assert_eq!(near.to_client[..3], [23, 3, 3]);
    for bytes in [near.to_server, near.to_client, far.to_client] {
        assert!(!bytes.windows(8).any(|bytes| bytes == b"question"));
    }
}

#[tokio::test]
async fn plaintext_is_kept_while_a_person_has_switched_it_on() {
    let lab = Lab::new();
    lab.mode(STRICT);
    let app = peer::echo_app().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let on = "capture?for=60s";
    assert!(pressed(&sidecar, on).await.contains("\"bytesEachWay\":256"));
    talk(lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap()).await;
    let record = sidecar.over().await;
    let app = record.wire.as_ref().unwrap().app.clone().unwrap();
    assert_eq!((app.to_server, app.to_client), (b"question".to_vec(), b"question".to_vec()));
    assert!(pressed(&sidecar, "capture?for=0").await.contains("\"capture\":null"));
    talk(lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap()).await;
    let table = sidecar.running.shared.connections.clone();
    sidecar.eventually("two ends", || table.ended().len() == 2).await;
    let wire = table.ended().pop().unwrap().wire.unwrap();
    assert!(wire.app.is_none() && wire.mesh.is_some(), "{wire:?}");
}

/// What the admin API answers to a button.
async fn pressed(sidecar: &Sidecar, path: &str) -> String {
    let mut stream = TcpStream::connect(sidecar.running.addresses.admin).await.unwrap();
    let request = format!("POST /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer.replace(' ', "")
}

#[tokio::test]
async fn requests_are_captured_both_ways_too() {
    let lab = Lab::new();
    let app = http::App::start().await;
    lab.resources(Some(&declared(app.address, "HTTP")));
    let sidecar = lab.in_front_of(app.address, "").await;
    pressed(&sidecar, "capture?for=60s").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    ask(&mut stream, &head("GET", "/orders", "")).await.unwrap();
    drop(stream);
    let app = sidecar.over().await.wire.unwrap().app.unwrap();
    assert!(app.to_server.starts_with(b"GET /orders HTTP/1.1\r\n"), "{app:?}");
    assert!(
        app.to_client.starts_with(b"HTTP/1.1 200 OK\r\n") && app.to_client.ends_with(b"heard GET /orders")
    );
}

#[tokio::test]
async fn a_handshake_that_the_client_breaks_off_was_closed_by_the_client() {
    let lab = Lab::new();
    lab.mode(STRICT);
    let app = peer::silent_app().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut client = TcpStream::connect(sidecar.inbound()).await.unwrap();
    client.write_all(&modes::client_hello(&lab, &["istio"])).await.unwrap();
    assert_ne!(timeout(PATIENCE, client.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
    client.shutdown().await.unwrap();
    let record = sidecar.over().await;
    assert_eq!(record.reason, Some(Reason::HandshakeFailed), "{record:?}");
    assert_eq!(record.closed, Some(Closed { by: By::Client, how: How::Fin }));
}

#[tokio::test]
async fn an_app_that_hangs_up_closed_first() {
    let lab = Lab::new();
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = lab.in_front_of(app.local_addr().unwrap(), "").await;
    let mut client = TcpStream::connect(sidecar.inbound()).await.unwrap();
    client.write_all(b"x").await.unwrap();
    let (mut served, _) = timeout(PATIENCE, app.accept()).await.unwrap().unwrap();
    served.read_exact(&mut [0; 1]).await.unwrap();
    drop(served);
    assert_eq!(timeout(PATIENCE, client.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
    drop(client);
    assert_eq!(sidecar.over().await.closed, Some(Closed { by: By::Server, how: How::Fin }));
}

#[rstest]
#[case::it_went(true, By::Client, How::Fin)]
#[case::it_waited(false, By::Proxy, How::Timeout)]
#[tokio::test]
async fn a_silent_client_that_goes_is_told_from_one_that_waits(
    #[case] goes: bool,
    #[case] by: By,
    #[case] how: How,
) {
    let lab = Lab::new();
    lab.mode(STRICT);
    let app = peer::silent_app().await;
    let detection = if goes { "1h" } else { "50ms" };
    let sidecar = lab.in_front_of(app.address, &format!("detection: {{timeout: {detection}}}")).await;
    let mut client = TcpStream::connect(sidecar.inbound()).await.unwrap();
    if goes {
        client.shutdown().await.unwrap();
    }
    let record = sidecar.over().await;
    assert_eq!((record.reason, record.closed), (Some(Reason::StrictSilent), Some(Closed { by, how })));
}
