//! Handshakes in memory: our side against our side, and against rustls as it comes (`pillion_testkit::tls`).

// A test holds a handful of handshakes, and holds them on its own stack.
#![allow(clippy::large_futures)]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pillion_mesh::policy::mode::Mode;
use pillion_mesh::spiffe::TrustDomain;
use pillion_testkit::{Held, TestCa};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::bundles::Root;
use super::*;

mod clocks;
mod hello;
mod hostile;
mod negotiated;
mod proof;
mod revoked;
mod session;
mod stream;

const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/default/sa/backend";
const SNI: &str = "outbound_.8080_._.backend.default.svc.cluster.local";
const DOOR: Door = Door { port: 8080, mode: Mode::Strict };
const LONG: Duration = Duration::from_secs(20);

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn bundle(ca: &TestCa) -> Bundles {
    Bundles::from_pem(&trust_domain(), ca.bundle_pem().as_bytes()).unwrap()
}

/// Where the server is.
fn there() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 8080))
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn credentials(held: &Held, bundles: Bundles) -> Credentials {
    credentials_at(held, bundles, &Clock::system())
}

fn credentials_at(held: &Held, bundles: Bundles, clock: &Clock) -> Credentials {
    Credentials::new(held.chain.clone(), &held.key, bundles, TlsSettings::default(), clock, 1).unwrap()
}

fn only_13() -> TlsSettings {
    TlsSettings { min_version: TlsVersion::Tls13, ..TlsSettings::default() }
}

/// Our client against our server.
async fn meet(
    client: &Credentials,
    server: &Credentials,
    wanted: &[SpiffeId],
) -> (Result<Handshake, HandshakeError>, Result<Handshake, HandshakeError>) {
    let (near, far) = duplex(16 * 1024);
    let client = async { client::connect(near, Arc::default(), client, there(), SNI, wanted).await };
    let server = async { server::accept(far, Arc::default(), server, DOOR).await };
    let (client, server) = timeout(LONG, async { tokio::join!(client, server) }).await.unwrap();
    // Streams are dropped only here, so neither side sees the other's end too early.
    (client.map(|(_, handshake)| handshake), server.map(|(_, handshake)| handshake))
}

/// A foreign client against our server: what ours says, and what the client sees on its first read.
async fn serve(
    client: ClientConfig,
    credentials: &Credentials,
) -> (Result<Handshake, HandshakeError>, io::Result<Vec<u8>>) {
    let (near, far) = duplex(16 * 1024);
    let client = async move {
        let connector = TlsConnector::from(Arc::new(client));
        let mut stream = connector.connect(pillion_testkit::tls::any_name(), near).await?;
        first_read(&mut stream).await
    };
    let server = async {
        let (mut stream, handshake) = server::accept(far, Arc::default(), credentials, DOOR).await?;
        stream.write_all(b"welcome").await.unwrap();
        stream.shutdown().await.unwrap();
        Ok((stream, handshake))
    };
    let (seen, accepted) = timeout(LONG, async { tokio::join!(client, server) }).await.unwrap();
    (accepted.map(|(_, handshake)| handshake), seen)
}

/// Our client against a foreign server.
async fn dial(
    credentials: &Credentials,
    server: ServerConfig,
    wanted: &[SpiffeId],
) -> (Result<Handshake, HandshakeError>, io::Result<Vec<u8>>) {
    let (near, far) = duplex(16 * 1024);
    let server = async move {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
        first_read(&mut stream).await
    };
    let client = async {
        let (mut stream, handshake) =
            client::connect(near, Arc::default(), credentials, there(), SNI, wanted).await?;
        stream.write_all(b"welcome").await.unwrap();
        stream.shutdown().await.unwrap();
        Ok((stream, handshake))
    };
    let (seen, dialled) = timeout(LONG, async { tokio::join!(server, client) }).await.unwrap();
    (dialled.map(|(_, handshake)| handshake), seen)
}

async fn first_read<S: AsyncReadExt + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.map(|_| bytes)
}

/// The alert that a peer got from us.
fn alert_seen(seen: io::Result<Vec<u8>>) -> rustls::AlertDescription {
    let error = seen.expect_err("the peer was refused");
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("expected an alert, seen: {error:?}"),
    }
}

/// Sends bytes as they are and returns what our server makes of them, and what it answers.
async fn accept_bytes(bytes: &[u8], credentials: &Credentials) -> (HandshakeError, Vec<u8>) {
    let (mut near, far) = duplex(256 * 1024);
    near.write_all(bytes).await.unwrap();
    let client = async {
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let server = async {
        server::accept(far, Arc::default(), credentials, DOOR)
            .await
            .map(|(_, handshake)| handshake)
            .unwrap_err()
    };
    let (answer, error) = timeout(LONG, async { tokio::join!(client, server) }).await.unwrap();
    (error, answer)
}

fn days(count: u64) -> Duration {
    Duration::from_secs(count * 24 * 3600)
}

#[test]
fn post_quantum_key_exchange_is_offered_first() {
    let first = provider().kx_groups.first().map(|group| group.name());
    assert_eq!(first, Some(rustls::NamedGroup::X25519MLKEM768));
}

#[test]
fn credentials_do_not_print_their_key() {
    let ca = TestCa::root("root");
    let text = format!("{:?}", credentials(&ca.issue(SERVER), bundle(&ca)));
    assert!(text.contains(SERVER) && !text.to_lowercase().contains("key"), "{text}");
}

#[test]
fn a_key_of_another_certificate_is_refused_and_both_are_named() {
    let ca = TestCa::root("root");
    let (held, other) = (ca.issue(SERVER), ca.issue(CLIENT));
    let error =
        Credentials::new(held.chain, &other.key, bundle(&ca), TlsSettings::default(), &Clock::system(), 1)
            .unwrap_err()
            .to_string();
    assert!(error.contains(SERVER) && error.contains("not the one"), "{error}");
}

#[test]
fn a_bundle_is_taken_whole_or_not_at_all() {
    let (root, leaf) = (TestCa::root("root"), TestCa::root("root").issue(SERVER));
    let read =
        |pem: &str| Bundles::from_pem(&trust_domain(), pem.as_bytes()).map_err(|error| error.to_string());
    assert!(read("").unwrap_err().contains("found none"));
    assert!(
        read(&(root.bundle_pem() + &leaf.chain_pem()))
            .unwrap_err()
            .contains("certificate 2 cannot be a root")
    );
    let cut = root.bundle_pem().replace("-----END", "-----EMD");
    assert!(read(&(root.bundle_pem() + &cut)).unwrap_err().contains("certificate 2 is not PEM"));
}

#[test]
fn a_root_that_stands_twice_in_a_bundle_counts_once() {
    let root = TestCa::root("root");
    let twice = root.bundle_pem() + &root.bundle_pem();
    let bundles = Bundles::from_pem(&trust_domain(), twice.as_bytes()).unwrap();
    assert_eq!(bundles.roots(&trust_domain()).map(<[Root]>::len), Some(1));
    assert_eq!(bundles, bundle(&root));
}

/// A duplex stream whose other side has gone.
fn abandoned() -> DuplexStream {
    duplex(16).0
}

#[tokio::test]
async fn a_peer_that_closes_in_the_middle_of_the_handshake_is_named() {
    let ca = TestCa::root("root");
    let credentials = credentials(&ca.issue(SERVER), bundle(&ca));
    let error =
        server::accept(abandoned(), Arc::default(), &credentials, DOOR).await.map(|_| ()).unwrap_err();
    assert_eq!(error.reason, Reason::HandshakeFailed);
    assert!(error.detail.contains("the client closed the connection"), "{error}");
    let error = client::connect(abandoned(), Arc::default(), &credentials, there(), SNI, [id(SERVER)])
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.reason, Reason::HandshakeFailed);
    assert!(error.detail.contains("the server"), "{error}");
}
