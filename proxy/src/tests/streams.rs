//! How streams end through a TLS leg, what attackers may hold, and what survives a panic.

use std::io;

use pillion_mesh::wire::Direction;
use pillion_testkit::peer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::connections::Connection;

/// A sidecar in front of a listener that the test itself answers.
async fn with_own_app(lab: &Lab, more: &str) -> (Sidecar, TcpListener) {
    lab.mode(STRICT);
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = lab.in_front_of(app.local_addr().unwrap(), more).await;
    (sidecar, app)
}

/// Requirement 29: half-close goes through TLS in both directions.
#[tokio::test]
async fn req_29_half_close_goes_through_tls() {
    let lab = Lab::new();
    let (sidecar, app) = with_own_app(&lab, "").await;
    let mut client = lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut served, _) = timeout(PATIENCE, app.accept()).await.unwrap().unwrap();
    let mut question = String::new();
    timeout(PATIENCE, served.read_to_string(&mut question)).await.unwrap().unwrap();
    served.write_all(b"late answer").await.unwrap();
    drop(served);
    let mut answer = String::new();
    timeout(PATIENCE, client.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!((question.as_str(), answer.as_str()), ("question", "late answer"));
}

/// Requirement 29: a TLS end without close_notify is a reset to the app, never a clean end.
#[tokio::test]
async fn req_29_a_truncated_tls_stream_is_a_reset_to_the_app() {
    let lab = Lab::new();
    let (sidecar, app) = with_own_app(&lab, "").await;
    let mut client = lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    client.write_all(b"transfer 100").await.unwrap();
    let (mut served, _) = timeout(PATIENCE, app.accept()).await.unwrap().unwrap();
    let mut read = [0; 12];
    timeout(PATIENCE, served.read_exact(&mut read)).await.unwrap().unwrap();
    let (tcp, _tls) = client.into_inner(); // a FIN without close_notify
    drop(tcp);
    let error = timeout(PATIENCE, served.read(&mut read)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Requirement 29: the app's reset reaches the TLS client as one.
#[tokio::test]
async fn req_29_the_apps_reset_is_a_reset_to_the_client() {
    let lab = Lab::new();
    let (sidecar, app) = with_own_app(&lab, "").await;
    let mut client = lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    let (served, _) = timeout(PATIENCE, app.accept()).await.unwrap().unwrap();
    served.set_zero_linger().unwrap();
    drop(served);
    let error = timeout(PATIENCE, client.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Requirement 26: a handshake that stalls is cut; so is a client that sends nothing.
#[tokio::test]
async fn req_26_a_stalled_handshake_is_cut() {
    let lab = Lab::new();
    let (sidecar, _app) =
        with_own_app(&lab, "limits: {handshakeTimeout: 200ms}\ndetection: {timeout: 200ms}").await;
    let mut silent = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let mut stalled = TcpStream::connect(sidecar.inbound()).await.unwrap();
    stalled.write_all(&hello(&lab)).await.unwrap();
    sidecar.refused(Reason::StrictSilent).await;
    sidecar.refused(Reason::HandshakeTimeout).await;
    assert!(timeout(PATIENCE, silent.read(&mut [0; 1])).await.unwrap().is_err());
    let mut rest = Vec::new();
    let _ =
        timeout(PATIENCE, stalled.read_to_end(&mut rest)).await.expect("the stalled client was not let go");
    sidecar.eventually("an empty table", || sidecar.running.shared.connections.len() == 0).await;
}

/// Requirement 26: the app's silence is bounded too.
#[tokio::test]
async fn req_26_an_app_that_cannot_be_reached_is_a_reset_with_a_reason() {
    let lab = Lab::new();
    let (sidecar, app) = with_own_app(&lab, "").await;
    drop(app);
    let mut client = lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    assert!(timeout(PATIENCE, client.read(&mut [0; 1])).await.unwrap().is_err());
    sidecar.refused(Reason::AppUnreachable).await;
}

/// Requirement 30: concurrent connections are bounded, and a place that is given back is used again.
#[tokio::test]
async fn req_30_connections_over_the_limit_are_refused() {
    let lab = Lab::new();
    lab.mode(PERMISSIVE);
    let app = peer::echo_app().await;
    let sidecar = lab.in_front_of(app.address, "limits: {maxConnections: 2}").await;
    let held = [
        TcpStream::connect(sidecar.inbound()).await.unwrap(),
        TcpStream::connect(sidecar.inbound()).await.unwrap(),
    ];
    sidecar.eventually("two open connections", || sidecar.running.shared.connections.len() == 2).await;
    let error = peer::send_and_half_close(sidecar.inbound(), b"x").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    sidecar.refused(Reason::TooManyConnections).await;
    drop(held);
    sidecar.eventually("no open connection", || sidecar.running.shared.connections.len() == 0).await;
    assert_eq!(peer::send_and_half_close(sidecar.inbound(), b"x").await.unwrap(), b"x");
}

/// Requirement 28: a flood of key updates on one connection starves nobody.
#[tokio::test]
async fn req_28_a_flood_on_one_connection_starves_no_other() {
    let lab = Lab::new();
    lab.mode(STRICT);
    let app = peer::echo_app().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut flood = lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    let flooding = tokio::spawn(async move {
        for _ in 0..20_000 {
            if flood.get_mut().1.refresh_traffic_keys().is_err() || flood.write_all(b"").await.is_err() {
                return;
            }
            if flood.flush().await.is_err() {
                return;
            }
        }
    });
    for _ in 0..20 {
        let mut good = lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap();
        good.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        timeout(PATIENCE, good.read_exact(&mut answer)).await.unwrap().unwrap();
    }
    flooding.abort();
}

/// Requirement 40: a panic ends one connection, is counted, and its record closes.
#[tokio::test]
async fn req_40_a_panic_ends_one_connection_and_is_counted() {
    let lab = Lab::new();
    lab.mode(PERMISSIVE);
    let app = peer::echo_app().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let shared = sidecar.running.shared.clone();
    let task = tokio::spawn(async move {
        let _connection = Connection::begin(
            &shared.connections,
            &shared.telemetry,
            Direction::Inbound,
            "127.0.0.1:1".parse().unwrap(),
        );
        panic!("as a fault of ours would");
    });
    assert!(task.await.unwrap_err().is_panic());
    assert_eq!(sidecar.running.shared.connections.len(), 0);
    assert!(sidecar.metrics().contains("pillion_panics_total 1"), "{}", sidecar.metrics());
    assert_eq!(peer::send_and_half_close(sidecar.inbound(), b"x").await.unwrap(), b"x");
}

fn hello(lab: &Lab) -> Vec<u8> {
    let config = pillion_testkit::tls::client(&lab.ca, None);
    let mut client =
        rustls::ClientConnection::new(Arc::new(config), pillion_testkit::tls::any_name()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}
