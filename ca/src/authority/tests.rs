//! The profile of what is issued, whatever the request asked for.

use pillion_mesh::svid::check_leaf;
use rcgen::{CustomExtension, DnType};
use rstest::rstest;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::*;
use crate::csr;
use crate::testing::{DAY, HOUR, authority, id, plain_params, request, request_with};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

const NOW: u64 = 1_800_000_000;

fn leaf_of(issued: &Issued) -> CertificateDer<'static> {
    let mut chain = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes());
    let leaf = chain.next().unwrap().unwrap();
    assert!(chain.next().is_none(), "the root does not belong into the chain");
    leaf
}

/// A request that asks for all that it must not get, and that can be ignored.
fn forged() -> CertificateParams {
    let mut params = plain_params();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.subject_alt_names = vec![
        SanType::URI(id("admin").as_str().try_into().unwrap()),
        SanType::DnsName("admin.example".try_into().unwrap()),
        SanType::IpAddress([127, 0, 0, 1].into()),
    ];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning, ExtendedKeyUsagePurpose::Any];
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 1], vec![5, 0])];
    params
}

#[rstest]
#[case(&rcgen::PKCS_ECDSA_P256_SHA256)]
#[case(&rcgen::PKCS_ECDSA_P384_SHA384)]
#[case(&rcgen::PKCS_ED25519)]
#[case(&rcgen::PKCS_RSA_SHA256)]
fn req_31_32_a_forged_request_gets_the_fixed_profile_and_only_the_identity_of_the_evidence(
    #[case] algorithm: &'static rcgen::SignatureAlgorithm,
) {
    let authority = authority(at(NOW));
    let csr = csr::read(&request_with(&forged(), algorithm)).unwrap();
    let issued = authority.issue(&id("backend"), &csr, HOUR, at(NOW)).unwrap();
    let der = leaf_of(&issued);

    let svid = check_leaf(&der).unwrap();
    assert_eq!(svid.id, id("backend"));
    assert_eq!(svid.serial, issued.serial);
    assert_eq!((svid.not_before, svid.not_after), (at(NOW) - BACKDATE, at(NOW) + HOUR));
    assert_eq!(issued.not_after, svid.not_after);

    let (rest, leaf) = X509Certificate::from_der(&der).unwrap();
    assert!(rest.is_empty());
    assert_eq!(leaf.subject().iter().count(), 0, "the subject is empty");
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    assert_eq!(names.value.general_names, [GeneralName::URI(id("backend").as_str())]);
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    let rsa = csr.kind == KeyKind::Rsa;
    assert!(usage.critical);
    assert_eq!(usage.value.flags, if rsa { 0b101 } else { 0b001 }, "{}", usage.value);
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth);
    assert!(!extended.any && !extended.code_signing && extended.other.is_empty());
    // AKI, SAN, key usage, extended key usage, SKI, basic constraints: nothing that the request brought.
    assert_eq!(leaf.extensions().len(), 6);
    assert_eq!(leaf.public_key().raw, csr.key.subject_public_key_info());
}

#[test]
fn the_leaf_names_the_key_of_its_issuer_and_verifies_with_it() {
    let now = SystemTime::now();
    let authority = authority(now);
    let csr = csr::read(&request()).unwrap();
    let der = leaf_of(&authority.issue(&id("backend"), &csr, HOUR, now).unwrap());
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    let slots = authority.slots();
    let root = slots.roots().next().unwrap();
    let (_, issuer) = X509Certificate::from_der(root).unwrap();
    let identifier = |certificate: &X509Certificate<'_>, oid: &str| {
        let found = certificate.extensions().iter().find(|extension| extension.oid.to_id_string() == oid);
        found.unwrap().value.to_vec()
    };
    let (own, authoritys) = (identifier(&issuer, "2.5.29.14"), identifier(&leaf, "2.5.29.35"));
    assert!(authoritys.ends_with(&own[2..]), "the AKI is not the root's SKI");

    let anchors = [webpki::anchor_from_trusted_cert(root).unwrap()];
    for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
        webpki::EndEntityCert::try_from(&der)
            .unwrap()
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                &[],
                rustls_pki_types::UnixTime::now(),
                usage,
                None,
                None,
            )
            .unwrap();
    }
}

#[test]
fn nothing_outlives_its_signer() {
    let authority = authority(at(NOW));
    let end = authority.slots().current().not_after();
    let csr = csr::read(&request()).unwrap();
    let issued = authority.issue(&id("backend"), &csr, DAY, end - HOUR).unwrap();
    assert_eq!(issued.not_after, end);
    assert_eq!(check_leaf(&leaf_of(&issued)).unwrap().not_after, end);
}

#[test]
fn an_expired_signer_signs_no_more() {
    let authority = authority(at(NOW));
    let end = authority.slots().current().not_after();
    let csr = csr::read(&request()).unwrap();
    let error = authority.issue(&id("backend"), &csr, DAY, end).unwrap_err();
    assert!(error.to_string().contains("expired at 2037-"), "{error}");
    assert!(authority.issue_server(&["ca".try_into().unwrap()], end).is_err());
}

#[test]
fn req_32_the_same_request_twice_has_two_serial_numbers() {
    let authority = authority(at(NOW));
    let csr = csr::read(&request()).unwrap();
    let issue = || authority.issue(&id("backend"), &csr, HOUR, at(NOW)).unwrap().serial;
    assert_ne!(issue(), issue());
}

#[rstest]
#[case(None, DAY)]
#[case(Some(HOUR), HOUR)]
#[case(Some(Duration::from_secs(10)), Duration::from_secs(10))]
#[case(Some(91 * DAY), 90 * DAY)]
#[case(Some(Duration::MAX), 90 * DAY)]
fn a_lifetime_is_the_wished_one_up_to_the_longest(#[case] wish: Option<Duration>, #[case] granted: Duration) {
    let ttl = WorkloadTtl { default: DAY, max: 90 * DAY };
    assert_eq!(ttl.grant(wish), granted);
}

#[test]
fn the_server_certificate_has_the_names_and_is_no_svid() {
    let authority = authority(at(NOW));
    let names = ["ca", "localhost", "127.0.0.1", "::1"].map(|name| ServerName::try_from(name).unwrap());
    let certificate = authority.issue_server(&names, at(NOW)).unwrap();
    let (_, leaf) = X509Certificate::from_der(&certificate.chain[0]).unwrap();
    let seen = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    let v6 = std::net::Ipv6Addr::LOCALHOST.octets();
    assert_eq!(
        seen,
        [
            GeneralName::DNSName("ca"),
            GeneralName::DNSName("localhost"),
            GeneralName::IPAddress(&[127, 0, 0, 1]),
            GeneralName::IPAddress(&v6),
        ]
    );
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && !extended.client_auth, "it must not work as a client certificate");
    assert!(check_leaf(&certificate.chain[0]).is_err());
}
