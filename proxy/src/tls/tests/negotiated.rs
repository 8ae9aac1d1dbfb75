//! What is negotiated: versions, groups, ALPN, kinds of keys, and the record of it.

use pillion_mesh::client_hello::{self, MESH_ALPN, Sniff};
use pillion_testkit::tls::{self as peers, TLS12, TLS13, client_of_versions, server_of_versions};
use rstest::rstest;
use rustls::AlertDescription;

use super::*;
use crate::tls::credentials::ANSWERED;

#[tokio::test]
async fn two_sidecars_prove_their_identities_with_a_post_quantum_group() {
    let ca = TestCa::root("root");
    let (client, server) =
        (credentials(&ca.issue(CLIENT), bundle(&ca)), credentials(&ca.issue(SERVER), bundle(&ca)));
    let (dialled, accepted) = meet(&client, &server, &[id(SERVER)]).await;
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    assert_eq!((dialled.peer, accepted.peer), (id(SERVER), id(CLIENT)));
    for (record, peer, local) in [(dialled.record, &server, &client), (accepted.record, &client, &server)] {
        assert_eq!((record.peer, record.local), (peer.svid.id.to_string(), local.svid.id.to_string()));
        assert_eq!((&*record.version, &*record.group), ("TLSv1.3", "X25519MLKEM768"));
        assert!(record.cipher_suite.starts_with("TLS_AES_"), "{}", record.cipher_suite);
        assert!(!record.resumed && record.handshake_micros > 0);
        assert_eq!(
            (record.peer_serial, record.peer_not_after),
            (peer.svid.serial.clone(), peer.svid.not_after)
        );
    }
}

#[tokio::test]
async fn tls_1_2_is_spoken_and_recorded_by_its_iana_names() {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    let record =
        serve(client_of_versions(&ca, Some(&ca.issue(CLIENT)), TLS12), &ours).await.0.unwrap().record;
    assert_eq!((&*record.version, &*record.group), ("TLSv1.2", "x25519"));
    assert!(record.cipher_suite.starts_with("TLS_ECDHE_ECDSA_WITH_"), "{}", record.cipher_suite);
}

#[tokio::test]
async fn with_min_version_1_3_no_tls_1_2_is_spoken_either_way() {
    let ca = TestCa::root("root");
    let held = ca.issue(SERVER);
    let ours = Credentials::new(held.chain, &held.key, bundle(&ca), only_13(), &Clock::system(), 1).unwrap();
    let other = ca.issue(CLIENT);
    let (handshake, seen) = serve(client_of_versions(&ca, Some(&other), TLS12), &ours).await;
    let error = handshake.unwrap_err();
    assert_eq!(error.reason, Reason::HandshakeFailed);
    assert!(error.detail.contains("we speak TLS 1.3 only"), "{error}");
    assert_eq!(alert_seen(seen), AlertDescription::ProtocolVersion);
    let error = dial(&ours, server_of_versions(&ca, &other, TLS12), &[id(CLIENT)]).await.0.unwrap_err();
    assert_eq!(error.reason, Reason::PeerRefused, "{error}");
    assert!(error.detail.contains("protocol_version: it does not speak our versions of TLS"), "{error}");
    assert!(serve(client_of_versions(&ca, Some(&other), TLS13), &ours).await.0.is_ok());
}

/// Settings that choose one suite and one group of TLS 1.3.
fn chosen(suite: &str, group: &str) -> TlsSettings {
    let ciphers = Ciphers::of(vec![suite.parse().unwrap()], vec![group.parse().unwrap()]);
    TlsSettings { ciphers, ..only_13() }
}

#[rstest]
#[case::by_the_client(true, false)]
#[case::by_the_server(false, true)]
#[case::by_both(true, true)]
#[tokio::test]
async fn what_one_side_has_chosen_is_negotiated(#[case] by_client: bool, #[case] by_server: bool) {
    let ca = TestCa::root("root");
    let narrow = chosen("TLS_CHACHA20_POLY1305_SHA256", "P-384");
    let with = |name: &str, narrowed: bool| {
        let (held, settings) = (ca.issue(name), if narrowed { narrow } else { TlsSettings::default() });
        Credentials::new(held.chain, &held.key, bundle(&ca), settings, &Clock::system(), 1).unwrap()
    };
    let (dialled, accepted) = meet(&with(CLIENT, by_client), &with(SERVER, by_server), &[id(SERVER)]).await;
    for record in [dialled.unwrap().record, accepted.unwrap().record] {
        assert_eq!(record.cipher_suite, "TLS_CHACHA20_POLY1305_SHA256");
        assert_eq!(record.group, "secp384r1");
    }
}

#[rstest]
#[case::suites("TLS_AES_128_GCM_SHA256", "X25519", "TLS_AES_256_GCM_SHA384", "X25519")]
#[case::groups("TLS_AES_128_GCM_SHA256", "X25519", "TLS_AES_128_GCM_SHA256", "P-256")]
#[tokio::test]
async fn without_one_in_common_there_is_no_handshake_and_ours_are_named(
    #[case] suite: &str,
    #[case] group: &str,
    #[case] other_suite: &str,
    #[case] other_group: &str,
) {
    let ca = TestCa::root("root");
    let with = |name: &str, settings| {
        let held = ca.issue(name);
        Credentials::new(held.chain, &held.key, bundle(&ca), settings, &Clock::system(), 1).unwrap()
    };
    let (client, server) =
        (with(CLIENT, chosen(suite, group)), with(SERVER, chosen(other_suite, other_group)));
    let (dialled, accepted) = meet(&client, &server, &[id(SERVER)]).await;
    let (dialled, accepted) = (dialled.unwrap_err(), accepted.unwrap_err());
    assert_eq!((dialled.reason, accepted.reason), (Reason::PeerRefused, Reason::HandshakeFailed));
    assert!(dialled.detail.contains("no cipher suite or group in common"), "{dialled}");
    let ours = format!("we speak TLS 1.3 only, of cipher suites {other_suite}, of groups {other_group}");
    assert!(accepted.detail.contains(&ours), "{accepted}");
}

#[rstest]
#[case::ecdsa_p256(&rcgen::PKCS_ECDSA_P256_SHA256)]
#[case::ecdsa_p384(&rcgen::PKCS_ECDSA_P384_SHA384)]
#[case::ed25519(&rcgen::PKCS_ED25519)]
#[case::rsa_2048(&rcgen::PKCS_RSA_SHA256)]
#[tokio::test]
async fn every_kind_of_key_works_in_both_versions(#[case] algorithm: &'static rcgen::SignatureAlgorithm) {
    let ca = TestCa::root("root");
    let held = ca.issue_for_key(SERVER, algorithm, |_| {});
    let ours = credentials(&held, bundle(&ca));
    for versions in [TLS12, TLS13] {
        let other = ca.issue_for_key(CLIENT, algorithm, |_| {});
        assert_eq!(
            serve(client_of_versions(&ca, Some(&other), versions), &ours).await.0.unwrap().peer,
            id(CLIENT)
        );
        let server = server_of_versions(&ca, &other, versions);
        assert_eq!(dial(&ours, server, &[id(CLIENT)]).await.0.unwrap().peer, id(CLIENT));
    }
}

#[rstest]
#[case::pillion(&["istio"], Some("istio"))]
#[case::istio_for_tcp(&["istio-peer-exchange", "istio"], Some("istio"))]
#[case::istio_for_http_1(&["istio-http/1.1", "istio", "http/1.1"], Some("istio"))]
#[case::istio_for_http_2(&["istio-h2", "istio", "h2"], Some("istio"))]
#[case::no_plain_mark(&["istio-h2", "h2"], Some("istio-h2"))]
#[case::metadata_exchange_alone(&["istio-peer-exchange"], None)]
#[case::curl(&["h2", "http/1.1"], None)]
#[case::nothing(&[], None)]
#[tokio::test]
async fn alpn_is_answered_with_a_mark_or_not_at_all(
    #[case] offered: &[&str],
    #[case] answered: Option<&str>,
) {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    let mut config = peers::client(&ca, Some(&ca.issue(CLIENT)));
    config.alpn_protocols = offered.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let (near, far) = duplex(16 * 1024);
    let connector = TlsConnector::from(Arc::new(config));
    let (client, server) = tokio::join!(
        connector.connect(peers::any_name(), near),
        server::accept(far, Arc::default(), &ours, DOOR)
    );
    let (client, server) = (client.unwrap(), server.unwrap().0);
    let answered = answered.map(str::as_bytes);
    assert_eq!(
        (client.get_ref().1.alpn_protocol(), server.connection().alpn_protocol()),
        (answered, answered)
    );
}

#[test]
fn every_alpn_protocol_that_is_answered_marks_the_mesh() {
    assert!(ANSWERED.iter().all(|protocol| MESH_ALPN.contains(protocol)));
}

#[tokio::test]
async fn our_hello_carries_the_mark_the_sni_and_a_post_quantum_share() {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(CLIENT), bundle(&ca));
    for (sni, sent) in [(SNI, Some(SNI)), ("not a name", None), ("10.0.0.1", None)] {
        let (near, mut far) = duplex(16 * 1024);
        let dialling = client::connect(near, Arc::default(), &ours, there(), sni, [id(SERVER)]);
        let reading = async {
            let mut bytes = Vec::new();
            loop {
                assert!(far.read_buf(&mut bytes).await.unwrap() > 0);
                if let Sniff::Tls(hello) = client_hello::sniff(&bytes) {
                    drop(far);
                    return hello;
                }
            }
        };
        let (_, hello) = tokio::join!(dialling, reading);
        assert_eq!((hello.sni.as_deref(), hello.alpn.as_slice()), (sent, [b"istio".to_vec()].as_slice()));
        assert_eq!(hello.key_share_groups.first(), Some(&0x11ec));
        assert!(hello.is_mesh());
    }
}
