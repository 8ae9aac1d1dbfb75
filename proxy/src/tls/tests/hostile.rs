//! Chains that must be refused, shown by a client to our server and by a server to our client, in TLS 1.2 and 1.3.

use pillion_testkit::defect::{self, Defect, permit_dns};
use pillion_testkit::tls::{TLS12, TLS13, client_of_versions, server_of_versions};
use pillion_testkit::{authority, tls as peers, weak};
use rstest::rstest;
use rustls::internal::msgs::codec::{Codec, Reader};
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, DigitallySignedStruct, SignatureScheme};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::tls::failure::Role;
use crate::tls::verify::check_chain;

/// What a peer with this defect is refused for.
fn expected(defect: Defect) -> Reason {
    match defect {
        Defect::Expired | Defect::IntermediateExpired => Reason::CertificateExpired,
        Defect::NotYetValid => Reason::CertificateNotYetValid,
        Defect::OtherRoot | Defect::OtherRootOfSameName | Defect::SignatureTampered => {
            Reason::CertificateUntrusted
        }
        Defect::OtherTrustDomain => Reason::TrustDomainUnknown,
        Defect::PathLength
        | Defect::SignerIsNoCa
        | Defect::SignerWithoutKeyCertSign
        | Defect::SignedByLeaf
        | Defect::UriNameConstraint
        | Defect::SignerWithPath => Reason::CertificateInvalid,
        Defect::TwoUriSans
        | Defect::SameUriTwice
        | Defect::DnsSanOnly
        | Defect::UriIsNoSpiffeId
        | Defect::NoPath
        | Defect::CaAsLeaf
        | Defect::KeyCertSign
        | Defect::CrlSign
        | Defect::NoKeyUsage
        | Defect::KeyUsageNotCritical
        | Defect::NoDigitalSignature
        | Defect::ServerAuthOnly
        | Defect::ClientAuthOnly
        | Defect::CodeSigningOnly
        | Defect::UnknownCriticalExtension
        | Defect::DuplicateExtension
        | Defect::TrailingBytes
        | Defect::AlgorithmMismatch
        | Defect::NotDer => Reason::SvidInvalid,
    }
}

/// Each defect in both directions and both versions; returns the details, of which each names who was refused by whom.
async fn refused(defects: &[Defect]) -> Vec<String> {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    let mut details = Vec::new();
    for defect in defects {
        for versions in [TLS12, TLS13] {
            let held = defect::issue(&ca, CLIENT, *defect);
            let (handshake, seen) = serve(client_of_versions(&ca, Some(&held), versions), &ours).await;
            let error = handshake.expect_err("a hostile client got in");
            assert_eq!(error.reason, expected(*defect), "{defect:?} of a client: {error}");
            assert!(error.detail.contains("the client's certificate was refused by"), "{error}");
            alert_seen(seen);
            details.push(error.detail);

            let (handshake, seen) =
                dial(&ours, server_of_versions(&ca, &held, versions), &[id(CLIENT)]).await;
            let error = handshake.expect_err("a hostile server was believed");
            assert_eq!(error.reason, expected(*defect), "{defect:?} of a server: {error}");
            assert!(error.detail.contains("the server's certificate was refused by"), "{error}");
            alert_seen(seen);
        }
    }
    details
}

#[tokio::test]
async fn every_hostile_chain_is_refused_in_both_directions() {
    refused(Defect::ALL).await;
}

/// Without which the table would prove nothing.
#[tokio::test]
async fn good_chains_are_accepted_in_both_directions_and_versions() {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    let constrained = ca.intermediate_with("DNS only", permit_dns("elsewhere.example"));
    for held in
        [ca.issue(CLIENT), ca.intermediate("a").intermediate("b").issue(CLIENT), constrained.issue(CLIENT)]
    {
        for versions in [TLS12, TLS13] {
            let (handshake, seen) = serve(client_of_versions(&ca, Some(&held), versions), &ours).await;
            assert_eq!(handshake.unwrap().peer, id(CLIENT));
            assert_eq!(seen.unwrap(), b"welcome");
            let (handshake, seen) =
                dial(&ours, server_of_versions(&ca, &held, versions), &[id(CLIENT)]).await;
            assert_eq!(handshake.unwrap().peer, id(CLIENT));
            assert_eq!(seen.unwrap(), b"welcome");
        }
    }
}

#[tokio::test]
async fn req_05_the_right_root_cannot_vouch_for_another_trust_domain() {
    for detail in refused(&[Defect::OtherTrustDomain]).await {
        assert!(detail.contains("other.domain") && detail.contains("bundles for: cluster.local"), "{detail}");
    }
    for detail in refused(&[Defect::OtherRoot, Defect::OtherRootOfSameName]).await {
        assert!(detail.contains("we trust CN=root"), "{detail}");
    }
}

/// An alias is another name of our trust domain: our own roots vouch for it, those that it had under that name do not.
#[tokio::test]
async fn req_05_our_own_roots_vouch_for_an_alias_and_for_no_other_trust_domain() {
    let (ca, former) = (TestCa::root("root"), TestCa::root("former root"));
    let bundles = bundle(&ca).also_for(&["old.domain".parse().unwrap()]);
    let ours = credentials(&ca.issue(SERVER), bundles);
    for (authority, trust_domain, reason) in [
        (&ca, "cluster.local", None),
        (&ca, "old.domain", None),
        (&ca, "other.domain", Some(Reason::TrustDomainUnknown)),
        (&ca, "domain", Some(Reason::TrustDomainUnknown)),
        (&former, "old.domain", Some(Reason::CertificateUntrusted)),
    ] {
        let peer = format!("spiffe://{trust_domain}/ns/default/sa/client");
        let held = authority.issue(&peer);
        let (as_client, _) = serve(peers::client(&ca, Some(&held)), &ours).await;
        let (as_server, _) = dial(&ours, peers::server(&ca, &held), &[id(&peer)]).await;
        for handshake in [as_client, as_server] {
            assert_eq!(handshake.err().map(|error| error.reason), reason, "{peer} by {}", authority.name());
        }
    }
}

#[tokio::test]
async fn req_06_a_leaf_that_may_sign_or_not_authenticate_is_refused() {
    refused(&[
        Defect::CaAsLeaf,
        Defect::KeyCertSign,
        Defect::CrlSign,
        Defect::NoKeyUsage,
        Defect::KeyUsageNotCritical,
        Defect::NoDigitalSignature,
    ])
    .await;
}

#[tokio::test]
async fn req_07_an_extended_key_usage_must_fit_the_direction() {
    refused(&[Defect::ServerAuthOnly, Defect::ClientAuthOnly, Defect::CodeSigningOnly]).await;
}

/// An intermediate that may vouch for servers only, or for clients only, does so.
#[tokio::test]
async fn req_07_an_extended_key_usage_of_a_signer_must_fit_the_direction() {
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    for (purpose, accepts_client, accepts_server) in [(ClientAuth, true, false), (ServerAuth, false, true)] {
        let signer = ca.intermediate_with("one purpose", |params| params.extended_key_usages = vec![purpose]);
        let held = signer.issue(CLIENT);
        let (as_client, _) = serve(client_of_versions(&ca, Some(&held), TLS13), &ours).await;
        let (as_server, _) = dial(&ours, server_of_versions(&ca, &held, TLS13), &[id(CLIENT)]).await;
        assert_eq!((as_client.is_ok(), as_server.is_ok()), (accepts_client, accepts_server));
        for refused in [as_client, as_server].into_iter().filter_map(Result::err) {
            assert_eq!(refused.reason, Reason::CertificateInvalid, "{refused}");
        }
    }
}

/// The impostor holds a good SVID of the mesh; byte for byte it is not the wanted one.
#[rstest]
#[case("spiffe://cluster.local/ns/default/sa/Backend")]
#[case("spiffe://cluster.local/ns/default/sa/backend2")]
#[case("spiffe://cluster.local/ns/default/sa/backen")]
#[case("spiffe://cluster.local/ns/default/sa/xbackend")]
#[case("spiffe://cluster.local/ns/default/sa/backend/x")]
#[case("spiffe://cluster.local/ns/other/sa/backend")]
#[tokio::test]
async fn req_08_a_server_with_another_identity_is_refused_and_never_sees_our_certificate(
    #[case] impostor: &str,
) {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(CLIENT), bundle(&ca));
    for versions in [TLS12, TLS13] {
        let held = ca.issue(impostor);
        let (handshake, seen) = dial(&ours, server_of_versions(&ca, &held, versions), &[id(SERVER)]).await;
        let error = handshake.unwrap_err();
        assert_eq!(error.reason, Reason::IdentityUnexpected, "{error}");
        assert!(
            error.detail.contains(impostor) && error.detail.contains(SERVER) && error.detail.contains(CLIENT)
        );
        // With our certificate and Finished it would have finished its handshake instead.
        assert_eq!(alert_seen(seen), AlertDescription::AccessDenied);
    }
}

#[tokio::test]
async fn req_08_any_of_several_wanted_identities_will_do_and_none_accepts_nobody() {
    let ca = TestCa::root("root");
    let (client, server) =
        (credentials(&ca.issue(CLIENT), bundle(&ca)), credentials(&ca.issue(SERVER), bundle(&ca)));
    let many = |extra: &[&str]| {
        let others = (0..40).map(|number| id(&format!("spiffe://cluster.local/ns/default/sa/{number}")));
        let mut all: Vec<SpiffeId> = others.chain(extra.iter().map(|extra| id(extra))).collect();
        all.sort();
        all
    };
    let (dialled, _) = meet(&client, &server, &many(&[SERVER])).await;
    assert_eq!(dialled.unwrap().peer, id(SERVER));
    let (dialled, _) = meet(&client, &server, &many(&[])).await;
    let error = dialled.unwrap_err();
    assert_eq!(error.reason, Reason::IdentityUnexpected);
    assert!(error.detail.ends_with(" or one of 32 more"), "{error}");
    let (dialled, accepted) = meet(&client, &server, &[]).await;
    assert_eq!(dialled.unwrap_err().reason, Reason::IdentityUnexpected);
    assert_eq!(accepted.unwrap_err().reason, Reason::PeerRefused);
}

#[tokio::test]
async fn req_09_an_identity_that_cannot_be_read_is_an_error_and_not_no_identity() {
    for detail in refused(&[Defect::UriIsNoSpiffeId, Defect::DnsSanOnly, Defect::NoPath]).await {
        assert!(detail.contains("SPIFFE") || detail.contains("URI"), "{detail}");
    }
    refused(&[Defect::TwoUriSans, Defect::SameUriTwice]).await;
}

#[tokio::test]
async fn req_10_the_path_is_validated_and_every_signer_must_be_one() {
    for detail in refused(&[Defect::Expired, Defect::NotYetValid, Defect::IntermediateExpired]).await {
        assert!(detail.contains("our clock says 20"), "{detail}");
    }
    refused(&[
        Defect::PathLength,
        Defect::SignerIsNoCa,
        Defect::SignerWithoutKeyCertSign,
        Defect::SignedByLeaf,
        Defect::SignerWithPath,
        Defect::UnknownCriticalExtension,
    ])
    .await;
}

#[tokio::test]
async fn req_10_validity_has_no_grace() {
    let ca = TestCa::root("root");
    let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(today) + days(1);
    let held = ca.issue_with(CLIENT, |params| authority::valid_between(params, begin, begin + days(1)));
    let second = Duration::from_secs(1);
    for (now, reason) in [
        (begin - second, Some(Reason::CertificateNotYetValid)),
        (begin, None),
        (begin + days(1), None),
        (begin + days(1) + second, Some(Reason::CertificateExpired)),
    ] {
        let ours = credentials_at(&ca.issue(SERVER), bundle(&ca), &Clock::of(move || now));
        let (handshake, _) = serve(peers::client(&ca, Some(&held)), &ours).await;
        assert_eq!(handshake.err().map(|error| error.reason), reason, "at {now:?}");
    }
}

#[tokio::test]
async fn req_10_an_expired_root_vouches_for_nobody_and_is_named() {
    let now = SystemTime::now();
    let expired =
        TestCa::root_with("old root", |p| authority::valid_between(p, now - days(9), now - days(1)));
    let early = TestCa::root_with("new root", |p| authority::valid_between(p, now + days(1), now + days(9)));
    for ca in [expired, early] {
        let ours = credentials(&ca.issue(SERVER), bundle(&ca));
        for versions in [TLS12, TLS13] {
            let (handshake, seen) =
                serve(client_of_versions(&ca, Some(&ca.issue(CLIENT)), versions), &ours).await;
            let error = handshake.unwrap_err();
            assert_eq!(error.reason, Reason::CertificateUntrusted);
            assert!(error.detail.contains(&format!("leads only to root CN={}", ca.name())), "{error}");
            assert_eq!(alert_seen(seen), AlertDescription::UnknownCA);
        }
    }
}

#[tokio::test]
async fn req_10_a_roots_own_path_length_counts() {
    let narrow =
        TestCa::root_with("narrow", |p| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0)));
    let ours = credentials(&narrow.issue(SERVER), bundle(&narrow));
    let (handshake, _) = serve(peers::client(&narrow, Some(&narrow.issue(CLIENT))), &ours).await;
    assert_eq!(handshake.unwrap().peer, id(CLIENT));
    let held = narrow.intermediate("below").issue(CLIENT);
    let error = serve(peers::client(&narrow, Some(&held)), &ours).await.0.unwrap_err();
    assert_eq!(error.reason, Reason::CertificateInvalid);
    assert!(error.detail.contains("at most 0 intermediates below root CN=narrow"), "{error}");
}

#[tokio::test]
async fn req_11_a_uri_name_constraint_refuses_the_chain() {
    for detail in refused(&[Defect::UriNameConstraint]).await {
        assert!(detail.contains("NameConstraintViolation"), "{detail}");
    }
    let root = TestCa::root_with("constrained", defect::permit_uri("allowed.domain"));
    let error = Bundles::from_pem(&trust_domain(), root.bundle_pem().as_bytes()).unwrap_err().to_string();
    assert!(error.contains("RFC 5280 6.1.4 (g)"), "{error}");
}

#[tokio::test]
async fn req_12_what_is_not_strict_der_is_refused() {
    refused(&[Defect::TrailingBytes, Defect::DuplicateExtension, Defect::AlgorithmMismatch, Defect::NotDer])
        .await;
}

#[test]
fn req_13_weak_signatures_and_signers_break_the_path() {
    let bundles = Bundles::from_pem(&trust_domain(), weak::root_pem()).unwrap();
    for (name, chain) in weak::chains() {
        let (leaf, intermediates) = chain.split_first().unwrap();
        for role in [Role::Client, Role::Server] {
            let algorithms = provider().signature_verification_algorithms;
            let judged = check_chain(
                &bundles,
                &Revoked::default(),
                &algorithms,
                leaf,
                intermediates,
                SystemTime::now(),
                role,
            );
            let reason = judged.unwrap_err().reason;
            assert!(
                matches!(reason, Reason::CertificateInvalid | Reason::CertificateUntrusted),
                "{name}: {reason}"
            );
        }
    }
}

#[test]
fn req_13_weak_keys_prove_nothing_though_their_signature_is_right() {
    use rustls::client::danger::ServerCertVerifier;
    use rustls::server::danger::ClientCertVerifier;
    let verifier = credentials(&TestCa::root("root").issue(SERVER), Bundles::default()).verifier.clone();
    for key in weak::keys() {
        let scheme =
            if key.is_rsa { SignatureScheme::RSA_PSS_SHA256 } else { SignatureScheme::ECDSA_NISTP256_SHA256 };
        let signed = signed_by_peer(scheme, key.signature);
        let judged = [
            ClientCertVerifier::verify_tls12_signature(&verifier, weak::SIGNED_MESSAGE, &key.leaf, &signed),
            ClientCertVerifier::verify_tls13_signature(&verifier, weak::SIGNED_MESSAGE, &key.leaf, &signed),
            ServerCertVerifier::verify_tls12_signature(&verifier, weak::SIGNED_MESSAGE, &key.leaf, &signed),
            ServerCertVerifier::verify_tls13_signature(&verifier, weak::SIGNED_MESSAGE, &key.leaf, &signed),
        ];
        assert!(judged.iter().all(Result::is_err), "{} was accepted", key.name);
    }
}

#[test]
fn req_13_no_weak_scheme_is_offered() {
    use rustls::client::danger::ServerCertVerifier;
    let verifier = credentials(&TestCa::root("root").issue(SERVER), Bundles::default()).verifier.clone();
    for scheme in ServerCertVerifier::supported_verify_schemes(&verifier) {
        let name = format!("{scheme:?}");
        assert!(
            !name.contains("SHA1") && !name.contains("MD5") && !name.contains("Unknown"),
            "{name} is offered"
        );
    }
}

fn signed_by_peer(scheme: SignatureScheme, signature: &[u8]) -> DigitallySignedStruct {
    let mut bytes = Vec::new();
    scheme.encode(&mut bytes);
    bytes.extend(u16::try_from(signature.len()).unwrap().to_be_bytes());
    bytes.extend(signature);
    DigitallySignedStruct::read(&mut Reader::init(&bytes)).unwrap()
}

/// Somebody who copied a certificate but does not have its key.
#[tokio::test]
async fn req_14_a_certificate_without_its_key_proves_nothing() {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    let stolen = Held { chain: ca.issue(CLIENT).chain, key: ca.issue(CLIENT).key };
    for versions in [TLS12, TLS13] {
        let (handshake, seen) = serve(client_of_versions(&ca, Some(&stolen), versions), &ours).await;
        let error = handshake.unwrap_err();
        assert_eq!(error.reason, Reason::CertificateInvalid);
        assert!(error.detail.contains("did not prove that it holds"), "{error}");
        assert_eq!(alert_seen(seen), AlertDescription::DecryptError);
        let (handshake, _) = dial(&ours, server_of_versions(&ca, &stolen, versions), &[id(CLIENT)]).await;
        assert_eq!(handshake.unwrap_err().reason, Reason::CertificateInvalid);
    }
}

#[tokio::test]
async fn req_15_a_certificate_message_over_64_kib_is_refused() {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    let mut held = ca.issue(CLIENT);
    held.chain.extend(std::iter::repeat_n(ca.intermediate("filler").certificate().clone(), 200));
    assert!(held.chain.iter().map(|der| der.len()).sum::<usize>() > 64 * 1024);
    for versions in [TLS12, TLS13] {
        let (handshake, _) = serve(client_of_versions(&ca, Some(&held), versions), &ours).await;
        assert_eq!(handshake.unwrap_err().reason, Reason::HandshakeFailed);
        let (handshake, _) = dial(&ours, server_of_versions(&ca, &held, versions), &[id(CLIENT)]).await;
        assert_eq!(handshake.unwrap_err().reason, Reason::HandshakeFailed);
    }
}

/// Thirty signers of one name that all could have signed each other: a search that tried every order would not end.
#[test]
fn req_15_the_search_for_a_path_is_bounded() {
    let (root, stranger) = (TestCa::root("root"), TestCa::root("maze"));
    let mut ring: Vec<CertificateDer<'_>> = Vec::new();
    let mut last = stranger;
    for _ in 0..30 {
        last = last.intermediate("maze");
        ring.push(last.certificate().clone());
    }
    let leaf = last.issue(CLIENT).chain.remove(0);
    let begun = std::time::Instant::now();
    let algorithms = provider().signature_verification_algorithms;
    let error = check_chain(
        &bundle(&root),
        &Revoked::default(),
        &algorithms,
        &leaf,
        &ring,
        SystemTime::now(),
        Role::Client,
    )
    .unwrap_err();
    assert!(matches!(error.reason, Reason::CertificateInvalid | Reason::CertificateUntrusted), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "the search took {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_without_a_certificate_is_told_so() {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    for versions in [TLS12, TLS13] {
        let (handshake, seen) = serve(client_of_versions(&ca, None, versions), &ours).await;
        assert_eq!(handshake.unwrap_err().reason, Reason::NoClientCertificate);
        assert!(matches!(
            alert_seen(seen),
            AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure
        ));
    }
}

/// A client that goes on sending would get a reset instead of the alert if our side closed at once.
#[tokio::test]
async fn an_alert_arrives_though_the_client_sends_on() {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    let config = client_of_versions(&ca, Some(&defect::issue(&ca, CLIENT, Defect::Expired)), TLS13);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let accepted = listener.accept().await.unwrap().0;
    SockRef::from(&stream).set_send_buffer_size(16 * 1024).unwrap();
    SockRef::from(&accepted).set_recv_buffer_size(16 * 1024).unwrap();
    let client = async {
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(peers::any_name(), stream).await?;
        stream.write_all(&[0; 256 * 1024]).await?; // more than the sockets hold
        first_read(&mut stream).await
    };
    let (seen, handshake) =
        timeout(LONG, async { tokio::join!(client, server::accept(accepted, Arc::default(), &ours, DOOR)) })
            .await
            .unwrap();
    assert_eq!(handshake.map(|_| ()).unwrap_err().reason, Reason::CertificateExpired);
    assert_eq!(alert_seen(seen), AlertDescription::CertificateExpired);
}

#[rstest]
#[case(Defect::Expired, AlertDescription::CertificateExpired)]
#[case(Defect::NotYetValid, AlertDescription::CertificateExpired)]
#[case(Defect::OtherRoot, AlertDescription::UnknownCA)]
#[case(Defect::OtherTrustDomain, AlertDescription::UnknownCA)]
#[case(Defect::TwoUriSans, AlertDescription::BadCertificate)]
#[case(Defect::PathLength, AlertDescription::BadCertificate)]
#[tokio::test]
async fn the_peer_gets_the_alert_that_fits(#[case] defect: Defect, #[case] alert: AlertDescription) {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    let held = defect::issue(&ca, CLIENT, defect);
    for versions in [TLS12, TLS13] {
        let (_, seen) = serve(client_of_versions(&ca, Some(&held), versions), &ours).await;
        assert_eq!(alert_seen(seen), alert);
        let (_, seen) = dial(&ours, server_of_versions(&ca, &held, versions), &[id(CLIENT)]).await;
        assert_eq!(alert_seen(seen), alert);
    }
}
