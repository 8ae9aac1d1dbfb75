//! What is shown, asked for and recorded.

use pillion_testkit::tls::{self as peers, TLS12, TLS13};
use rstest::rstest;

use super::*;

#[tokio::test]
async fn simple_shows_nothing_and_believes_a_server_of_the_name() {
    let web = Web::new();
    let server = web.server();
    for versions in [TLS12, TLS13] {
        // It would take a certificate of its own clients, and is content without.
        let config = peers::outside_server_of_versions(&server, None, versions);
        let (outcome, seen) = web.dial(&web.simple(), config).await;
        let (record, read) = outcome.unwrap();
        let seen = seen.unwrap();
        assert_eq!((record.mode, record.peer.as_str(), record.local.as_str()), (TlsMode::Simple, HOST, ""));
        assert!(read.is_none() && seen.client.is_none(), "{seen:?}");
        assert_eq!(seen.alpn.as_deref(), Some(&b"http/1.1"[..]));
        assert!(record.peer_not_after > SystemTime::now() && !record.peer_serial.is_empty());
    }
}

#[rstest]
#[case::a_uri(|_: &mut rcgen::CertificateParams| {}, "spiffe://other.mesh/client")]
#[case::a_subject(
    |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names.clear();
        params.distinguished_name.push(rcgen::DnType::CommonName, "the client");
    },
    "CN=the client"
)]
#[tokio::test]
async fn mutual_shows_the_certificate_of_the_rule_and_records_it(
    #[case] change: fn(&mut rcgen::CertificateParams),
    #[case] local: &str,
) {
    let web = Web::new();
    let clients = TestCa::root("root of the clients");
    let held = clients.intermediate("between").issue_with("spiffe://other.mesh/client", change);
    let how = web.mutual(&held);
    for versions in [TLS12, TLS13] {
        let config = peers::outside_server_of_versions(&web.server(), Some(&clients), versions);
        let (outcome, seen) = web.dial(&how, config).await;
        let (record, _) = outcome.unwrap();
        assert_eq!(seen.unwrap().client.as_ref(), held.chain.first());
        assert_eq!(
            (record.mode, record.peer.as_str(), record.local.as_str()),
            (TlsMode::Mutual, HOST, local)
        );
    }
}

/// The record tells that what was meant to be mutual was not.
#[tokio::test]
async fn a_certificate_that_nobody_asked_for_is_not_recorded_as_shown() {
    let web = Web::new();
    let how = web.mutual(&web.ca.issue("spiffe://other.mesh/client"));
    let (outcome, seen) = web.dial(&how, peers::outside_server(&web.server(), None)).await;
    let (record, _) = outcome.unwrap();
    assert_eq!((record.mode, record.local.as_str()), (TlsMode::Mutual, ""));
    assert_eq!(seen.unwrap().client, None);
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_and_gets_none_is_heard() {
    let web = Web::new();
    let config = |versions| peers::outside_server_of_versions(&web.server(), Some(&web.ca), versions);
    let (outcome, _) = web.dial(&web.simple(), config(TLS12)).await;
    let error = outcome.map(|_| ()).unwrap_err();
    assert_eq!(error.reason, Reason::PeerRefused, "{error}");
    // In TLS 1.3 the server says so after the handshake, which the relay passes on.
    let (outcome, _) = web.dial(&web.simple(), config(TLS13)).await;
    let read = outcome.unwrap().1.expect("the first read fails");
    assert!(read.to_string().contains("CertificateRequired"), "{read}");
}

/// `insecureSkipVerify` believes any certificate, but not one that is somebody else's.
#[tokio::test]
async fn req_14_who_is_believed_without_verification_must_hold_the_certificates_key_all_the_same() {
    let web = Web::new();
    let how = Origination { insecure_skip_verify: true, ca_certificates: None, ..web.simple() };
    let stranger = TestCa::root("a stranger");
    let expired = stranger.issue_with("spiffe://nowhere/x", |leaf| {
        pillion_testkit::authority::valid_between(
            leaf,
            SystemTime::now() - days(9),
            SystemTime::now() - days(1),
        );
    });
    for versions in [TLS12, TLS13] {
        let config = peers::outside_server_of_versions(&expired, None, versions);
        let (record, _) = web.dial_names(&how, config, &[]).await.0.unwrap();
        assert_eq!((record.peer.as_str(), record.mode), ("", TlsMode::Simple));
        let stolen = Held { chain: web.server().chain, key: stranger.issue("spiffe://nowhere/x").key };
        let config = peers::outside_server_of_versions(&stolen, None, versions);
        let error = web.dial_names(&how, config, &[]).await.0.map(|_| ()).unwrap_err();
        assert_eq!(error.reason, Reason::CertificateInvalid, "{error}");
        assert!(error.detail.contains("did not prove that it holds"), "{error}");
    }
}

#[tokio::test]
async fn req_14_a_verified_certificate_without_its_key_proves_nothing() {
    let web = Web::new();
    let stolen = Held { chain: web.server().chain, key: web.server().key };
    for versions in [TLS12, TLS13] {
        let config = peers::outside_server_of_versions(&stolen, None, versions);
        let error = web.dial(&web.simple(), config).await.0.map(|_| ()).unwrap_err();
        assert_eq!(error.reason, Reason::CertificateInvalid, "{error}");
    }
}

/// The server hands out tickets and would take early data.
#[tokio::test]
async fn req_16_req_18_nothing_is_resumed_and_no_data_is_sent_early() {
    let web = Web::new();
    for versions in [TLS12, TLS13] {
        let mut config = peers::outside_server_of_versions(&web.server(), None, versions);
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(16);
        config.max_early_data_size = 1024;
        for _ in 0..2 {
            let (outcome, seen) = web.dial(&web.simple(), config.clone()).await;
            assert!(!outcome.unwrap().0.resumed && !seen.unwrap().resumed);
        }
    }
}

/// What goes out first.
async fn hello(web: &Web, wanted: Wanted<'_>) -> ClientHello {
    let (near, mut far) = duplex(16 * 1024);
    let material = web.originator.material(&web.simple()).await.unwrap();
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
    let (_, hello) = tokio::join!(web.originator.connect(near, Arc::default(), &material, wanted), reading);
    hello
}

#[rstest]
#[case::of_the_host(Some(HOST), Some("http/1.1"), Some(HOST))]
#[case::of_nobody(None, None, None)]
#[case::no_name_but_an_address(Some("192.0.2.1"), Some("h2"), None)]
#[case::no_name_but_an_ipv6_address(Some("2001:db8::1"), None, None)]
#[tokio::test]
async fn the_hello_carries_the_name_and_the_protocol_of_the_plan_and_no_mark_of_the_mesh(
    #[case] server_name: Option<&str>,
    #[case] alpn: Option<&'static str>,
    #[case] sni: Option<&str>,
) {
    let web = Web::new();
    let hello = hello(&web, Wanted { server_name, names: &[], alpn }).await;
    assert_eq!(hello.sni.as_deref(), sni);
    let offered: Vec<Vec<u8>> = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    assert_eq!(hello.alpn, offered);
    assert!(!hello.is_mesh());
}

#[tokio::test]
async fn with_min_version_1_3_no_tls_1_2_is_spoken() {
    let settings = TlsSettings { min_version: crate::tls::TlsVersion::Tls13, ..TlsSettings::default() };
    let web = Web { originator: Arc::new(Originator::new(settings, Clock::system())), ..Web::new() };
    let config = |versions| peers::outside_server_of_versions(&web.server(), None, versions);
    assert!(web.dial(&web.simple(), config(TLS13)).await.0.is_ok());
    let error = web.dial(&web.simple(), config(TLS12)).await.0.map(|_| ()).unwrap_err();
    assert!(error.detail.contains("does not speak our versions of TLS"), "{error}");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_named_as_one() {
    let web = Web::new();
    let material = web.originator.material(&web.simple()).await.unwrap();
    let (near, mut far) = duplex(16 * 1024);
    let server = async move {
        far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let _ = far.read_to_end(&mut Vec::new()).await;
    };
    let wanted = Wanted { server_name: Some(HOST), names: &[], alpn: None };
    let (outcome, ()) = tokio::join!(web.originator.connect(near, Arc::default(), &material, wanted), server);
    let error = outcome.map(|_| ()).unwrap_err();
    assert_eq!(error.reason, Reason::HandshakeFailed);
    assert!(error.detail.contains("does it speak TLS on this port?"), "{error}");
}
