//! Nothing outlives a handshake: no tickets, no resumption, no early data (requirements 16 to 18).

use pillion_testkit::tls::{TLS12, TLS13, client_of_versions, server_of_versions};
use rustls::HandshakeKind;
use rustls::client::Resumption;
use rustls::server::ServerSessionMemoryCache;

use super::*;

/// Connects twice with one client configuration that keeps sessions: to `first`, then to `second`.
async fn twice(
    config: ClientConfig,
    first: &Credentials,
    second: &Credentials,
) -> (Result<HandshakeKind, HandshakeError>, u32) {
    let connector = TlsConnector::from(Arc::new(config));
    let mut tickets = 0;
    let mut kind = None;
    for credentials in [first, second] {
        let (near, far) = duplex(16 * 1024);
        let client = async {
            let mut stream = connector.connect(pillion_testkit::tls::any_name(), near).await.unwrap();
            let _ = first_read(&mut stream).await;
            stream.get_ref().1.tls13_tickets_received()
        };
        let server = async {
            let (mut stream, handshake) = server::accept(far, credentials).await?;
            assert!(!handshake.record.resumed);
            stream.write_all(b"welcome").await.unwrap();
            stream.shutdown().await.unwrap();
            Ok(stream.get_ref().1.handshake_kind().unwrap())
        };
        let (received, outcome) = timeout(LONG, async { tokio::join!(client, server) }).await.unwrap();
        tickets += received;
        kind = Some(outcome);
    }
    (kind.unwrap(), tickets)
}

fn keeping_sessions(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::in_memory_sessions(16);
    config.enable_early_data = true;
    config
}

#[tokio::test]
async fn req_16_req_17_req_18_a_server_gives_no_ticket_and_resumes_nothing() {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    for versions in [TLS12, TLS13] {
        let config = keeping_sessions(client_of_versions(&ca, Some(&ca.issue(CLIENT)), versions));
        let (kind, tickets) = twice(config, &ours, &ours).await;
        assert!(
            matches!(kind, Ok(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)),
            "{kind:?}"
        );
        assert_eq!(tickets, 0);
    }
    // Without a ticket there is no early data (RFC 8446 4.2.10); with one there would be none either.
    for offered in [&[&b"istio"[..]][..], &[]] {
        assert_eq!(ours.server_config(offered.iter().copied()).max_early_data_size, 0);
    }
}

#[tokio::test]
async fn req_16_after_a_change_of_bundle_the_old_root_opens_no_second_connection() {
    let (old, new) = (TestCa::root("old"), TestCa::root("new"));
    let before = credentials(&old.issue(SERVER), bundle(&old));
    let after = before.with_bundles(bundle(&new), 2).unwrap();
    assert_eq!((before.generation(), after.generation()), (1, 2));
    for versions in [TLS12, TLS13] {
        let client = old.issue(CLIENT);
        let accepted =
            serve(keeping_sessions(client_of_versions(&old, Some(&client), versions)), &before).await.0;
        assert_eq!(accepted.unwrap().peer, id(CLIENT));
        let refused =
            serve(keeping_sessions(client_of_versions(&old, Some(&client), versions)), &after).await.0;
        assert_eq!(refused.unwrap_err().reason, Reason::CertificateUntrusted);
    }
}

/// The foreign server hands out tickets and session IDs and would take early data; our client uses none of it.
#[tokio::test]
async fn req_16_req_18_our_client_resumes_nothing_and_sends_no_early_data() {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(CLIENT), bundle(&ca));
    for versions in [TLS12, TLS13] {
        let mut config = server_of_versions(&ca, &ca.issue(SERVER), versions);
        config.session_storage = ServerSessionMemoryCache::new(16);
        config.max_early_data_size = 1024;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        for _ in 0..2 {
            let (near, far) = duplex(16 * 1024);
            let client = async {
                let (mut stream, handshake) = client::connect(near, &ours, SNI, [id(SERVER)]).await.unwrap();
                assert!(!handshake.record.resumed);
                first_read(&mut stream).await.unwrap()
            };
            let server = async {
                let mut stream = acceptor.accept(far).await.unwrap();
                assert_ne!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
                assert!(stream.get_mut().1.early_data().is_none());
                stream.write_all(b"welcome").await.unwrap();
                stream.shutdown().await.unwrap();
            };
            let (seen, ()) = timeout(LONG, async { tokio::join!(client, server) }).await.unwrap();
            assert_eq!(seen, b"welcome");
        }
    }
}
