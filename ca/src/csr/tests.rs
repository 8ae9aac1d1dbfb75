//! Requests good and hostile. The fixtures were made by `openssl req -new -subj /` with the keys their names tell.

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rstest::rstest;

use super::*;
use crate::testing::{plain_params, request, request_with};

fn refusal(body: &[u8]) -> String {
    match read(body) {
        Ok(_) => panic!("the request was accepted"),
        Err(error) => error.to_string(),
    }
}

#[rstest]
#[case(&rcgen::PKCS_ECDSA_P256_SHA256, KeyKind::EcdsaP256)]
#[case(&rcgen::PKCS_ECDSA_P384_SHA384, KeyKind::EcdsaP384)]
#[case(&rcgen::PKCS_ECDSA_P521_SHA512, KeyKind::EcdsaP521)]
#[case(&rcgen::PKCS_ED25519, KeyKind::Ed25519)]
#[case(&rcgen::PKCS_RSA_SHA256, KeyKind::Rsa)]
#[case(&rcgen::PKCS_RSA_SHA384, KeyKind::Rsa)]
#[case(&rcgen::PKCS_RSA_SHA512, KeyKind::Rsa)]
fn the_key_of_a_request_is_taken(
    #[case] algorithm: &'static rcgen::SignatureAlgorithm,
    #[case] kind: KeyKind,
) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let request = plain_params().serialize_request(&key).unwrap();
    let csr = read(request.der()).unwrap();
    assert_eq!(csr.kind, kind);
    assert_eq!(csr.key.subject_public_key_info(), key.subject_public_key_info());
    assert_eq!(csr.ignored, "");
    let from_pem = read(request.pem().unwrap().as_bytes()).unwrap();
    assert_eq!(from_pem.key.der_bytes(), key.der_bytes());
}

#[rstest]
#[case(include_bytes!("fixtures/rsa-1024.pem"), "the public key is RSA of 1024 bits")]
#[case(include_bytes!("fixtures/rsa-8200.pem"), "the public key is RSA of 8200 bits")]
#[case(include_bytes!("fixtures/p-224.pem"), "the public key is on the curve secp224r1 (P-224)")]
#[case(include_bytes!("fixtures/secp256k1.pem"), "the public key is on the curve secp256k1")]
#[case(include_bytes!("fixtures/explicit-curve.pem"), "an elliptic curve that is not given by name")]
#[case(include_bytes!("fixtures/ed448.pem"), "the public key is of the algorithm Ed448")]
#[case(include_bytes!("fixtures/dsa.pem"), "the public key is of the algorithm DSA")]
#[case(include_bytes!("fixtures/rsa-sha1.pem"), "the signature algorithm is sha1WithRSAEncryption")]
#[case(include_bytes!("fixtures/rsa-md5.pem"), "the signature algorithm is md5WithRSAEncryption")]
#[case(include_bytes!("fixtures/ecdsa-sha1.pem"), "the signature algorithm is ecdsa-with-SHA1")]
#[case(include_bytes!("fixtures/rsa-pss.pem"), "the signature algorithm is RSASSA-PSS")]
#[case(b"", "seen: an empty body")]
#[case(b"\x30", "is not well-formed PKCS#10")]
#[case(b"\x30\x84\xff\xff\xff\xff", "is not well-formed PKCS#10")]
#[case(b"hello", "seen: neither of them")]
#[case(
    b"-----BEGIN CERTIFICATE REQUEST-----\n!!!!\n-----END CERTIFICATE REQUEST-----\n",
    "seen: damaged PEM"
)]
#[case(b"-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n", "seen: damaged PEM")]
#[case(
    b"-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n",
    "is not well-formed PKCS#10"
)]
fn req_13_a_weak_foreign_or_malformed_request_is_refused_by_name(
    #[case] body: &[u8],
    #[case] expected: &str,
) {
    let refusal = refusal(body);
    assert!(refusal.contains(expected), "expected {expected:?}; seen {refusal:?}");
}

#[test]
fn req_32_a_request_whose_signature_does_not_fit_its_key_is_refused() {
    let (mine, theirs) = (request(), request());
    let mut tampered = mine.clone();
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    assert!(refusal(&tampered).contains("does not verify"), "a flipped bit in the signature");

    // Somebody else's public key under my signature: no proof that I hold the private one.
    let position = |der: &[u8]| {
        let (_, request) = X509CertificationRequest::from_der(der).unwrap();
        let key = request.certification_request_info.subject_pki.raw;
        let start = key.as_ptr() as usize - der.as_ptr() as usize;
        start..start + key.len()
    };
    let mut stolen = mine.clone();
    stolen[position(&mine)].copy_from_slice(&theirs[position(&theirs)]);
    assert!(refusal(&stolen).contains("does not verify"), "another key under my signature");
}

#[test]
fn req_12_bytes_behind_the_request_are_refused() {
    let mut body = request();
    body.extend_from_slice(b"\0\0");
    assert!(refusal(&body).contains("2 bytes follow the request"));
}

#[test]
fn two_requests_in_one_body_are_refused() {
    let pem = |der: Vec<u8>| {
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
    };
    assert!(read(pem(request()).as_bytes()).is_ok());
    let both = pem(request()) + &pem(request());
    assert!(refusal(both.as_bytes()).contains("more than one request"));
}

#[test]
fn what_a_request_asks_for_beside_its_key_is_named() {
    let mut params = plain_params();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.subject_alt_names = vec![
        SanType::URI("spiffe://cluster.local/ns/default/sa/admin".try_into().unwrap()),
        SanType::DnsName("admin.example".try_into().unwrap()),
    ];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let csr = read(&request_with(&params, &rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
    for wish in [
        "subject CN=admin",
        "SAN URI(spiffe://cluster.local/ns/default/sa/admin) DNSName(admin.example)",
        "keyUsage Digital Signature",
        "extendedKeyUsage",
    ] {
        assert!(csr.ignored.contains(wish), "{wish:?} is not in {:?}", csr.ignored);
    }
}

fn uri(name: &str) -> SanType {
    SanType::URI(format!("spiffe://cluster.local/ns/default/sa/{name}").try_into().unwrap())
}

/// An extension with this OID and content.
fn custom(oid: &[u64], critical: bool, content: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
const PRIVATE: &[u64] = &[1, 3, 6, 1, 4, 1, 55555, 1];

#[rstest]
#[case::authority(|params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
    "to be a certificate authority")]
#[case::authority_not_critical(|params: &mut CertificateParams| {
    params.custom_extensions = vec![custom(BASIC_CONSTRAINTS, false, b"\x30\x03\x01\x01\xff")];
}, "to be a certificate authority")]
#[case::signer(|params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::KeyCertSign],
    "to sign certificates")]
#[case::revoker(|params: &mut CertificateParams| {
    params.custom_extensions = vec![custom(KEY_USAGE, false, b"\x03\x02\x01\x02")];
}, "to sign certificates or revocation lists")]
#[case::two_identities(|params: &mut CertificateParams| {
    params.subject_alt_names = vec![uri("backend"), uri("admin")];
}, "2 URI names")]
#[case::one_identity_twice(|params: &mut CertificateParams| {
    params.subject_alt_names = vec![uri("backend"), uri("backend")];
}, "2 URI names")]
#[case::critical_name_constraints(|params: &mut CertificateParams| {
    params.custom_extensions = vec![custom(NAME_CONSTRAINTS, true, b"\x30\x00")];
}, "the critical extension 2.5.29.30")]
#[case::critical_unknown(|params: &mut CertificateParams| {
    params.custom_extensions = vec![custom(PRIVATE, true, b"\x05\x00")];
}, "the critical extension 1.3.6.1.4.1.55555.1")]
#[case::critical_key_usage(|params: &mut CertificateParams| {
    params.custom_extensions = vec![custom(KEY_USAGE, true, b"\x03\x02\x06\xc0")];
}, "a critical keyUsage of Digital Signature, Non Repudiation")]
#[case::critical_purpose(|params: &mut CertificateParams| {
    let code_signing = b"\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x03";
    params.custom_extensions = vec![custom(EXTENDED_KEY_USAGE, true, code_signing)];
}, "a critical extendedKeyUsage")]
#[case::extension_twice(|params: &mut CertificateParams| {
    params.subject_alt_names = vec![uri("backend")];
    params.custom_extensions = vec![custom(SUBJECT_ALT_NAME, false, b"\x30\x00")];
}, "the extension 2.5.29.17 stands in it twice")]
#[case::unreadable_extension(|params: &mut CertificateParams| {
    params.custom_extensions = vec![custom(SUBJECT_ALT_NAME, false, b"hello")];
}, "cannot be read")]
#[case::unreadable_name(|params: &mut CertificateParams| {
    params.custom_extensions = vec![custom(SUBJECT_ALT_NAME, false, b"\x30\x03\x86\x01\xff")];
}, "cannot be read")]
fn req_32_a_request_for_what_no_workload_can_have_is_refused_by_name(
    #[case] ask: fn(&mut CertificateParams),
    #[case] expected: &str,
) {
    let mut params = plain_params();
    ask(&mut params);
    let refusal = refusal(&request_with(&params, &rcgen::PKCS_ECDSA_P256_SHA256));
    assert!(refusal.contains(expected), "expected {expected:?}; seen {refusal:?}");
}

#[rstest]
#[case::what_it_gets(|params: &mut CertificateParams| {
    params.subject_alt_names = vec![uri("backend")];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
})]
#[case::somebody_elses_name(|params: &mut CertificateParams| params.subject_alt_names = vec![uri("admin")])]
#[case::a_private_extension(|params: &mut CertificateParams| {
    params.custom_extensions = vec![custom(PRIVATE, false, b"\x05\x00")];
})]
#[case::non_repudiation(|params: &mut CertificateParams| {
    params.custom_extensions = vec![custom(KEY_USAGE, false, b"\x03\x02\x06\xc0")];
})]
fn req_31_a_wish_that_a_caller_can_do_without_is_ignored(#[case] ask: fn(&mut CertificateParams)) {
    let mut params = plain_params();
    ask(&mut params);
    let csr = read(&request_with(&params, &rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
    assert!(!csr.ignored.is_empty());
}

#[test]
fn the_fingerprint_is_that_of_the_public_key() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let csr = read(plain_params().serialize_request(&key).unwrap().der()).unwrap();
    let digest = digest::digest(&digest::SHA256, &key.subject_public_key_info());
    let expected: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(csr.sha256, expected);
}

#[test]
fn req_12_a_request_that_is_not_der_is_refused() {
    // The outermost length, in a longer form than it needs.
    let good = request();
    let mut long = vec![0x30, 0x83, 0x00];
    assert_eq!(good[1], 0x81, "the request is shorter than 256 bytes");
    long.extend_from_slice(&good[2..]);
    assert!(refusal(&long).contains("shortest form"), "{}", refusal(&long));
    // Without a told length, closed by an end mark.
    let endless = [&[0x30, 0x80][..], &good[3..], &[0, 0]].concat();
    assert!(refusal(&endless).contains("indefinite"), "{}", refusal(&endless));
}

#[test]
fn a_long_list_of_wishes_is_cut() {
    let mut params = plain_params();
    let name = |i: usize| SanType::DnsName(format!("name-{i}.example").try_into().unwrap());
    params.subject_alt_names = (0..1000).map(name).collect();
    let csr = read(&request_with(&params, &rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
    assert_eq!(csr.ignored.chars().count(), wishes::LONGEST + 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn req_32_no_change_of_a_request_brings_in_another_key(at in 0usize..200, flip in 1u8..) {
        let good = include_bytes!("fixtures/good.der");
        let key = read(good).unwrap().key;
        let mut body = good.to_vec();
        let at = at % body.len();
        body[at] ^= flip;
        // Some tags outside of the signed part are read leniently; the proof of possession is untouched by them.
        prop_assert!(read(&body).map_or(true, |csr| csr.key.der_bytes() == key.der_bytes()));
    }

    #[test]
    fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&body);
    }
}
