//! A root as it is made, and every stored pair that must not be taken up.

use std::time::Duration;

use pillion_mesh::svid::check_signer;
use rstest::rstest;

use super::*;
use crate::testing::{ROOT, new_root, trust_domain};

fn load(certificate: &str, key: &str) -> Result<Signer, SignerError> {
    Signer::load(certificate, key, &trust_domain())
}

fn refusal(certificate: &str, key: &str) -> String {
    match load(certificate, key) {
        Ok(_) => panic!("the pair was taken up"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_new_root_is_a_signer_of_its_trust_domain_for_ten_years() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let root = new_root(now);
    let signer = load(&root.certificate_pem, &root.key_pem).unwrap();
    check_signer(&signer.certificate).unwrap();
    let certificate = parse(&signer.certificate).unwrap();
    assert_eq!(system_time(certificate.validity().not_before), now - BACKDATE);
    assert_eq!(signer.not_after(), now + ROOT.life);
    let constraints = certificate.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
    assert!(!usage.value.digital_signature());
    assert!(certificate.subject().to_string().contains("CN=cluster.local"));
}

#[test]
fn a_trust_domain_of_255_bytes_has_a_root_too() {
    let long: TrustDomain = "a".repeat(255).parse().unwrap();
    let root = Signer::create(&long, &ROOT, SystemTime::now()).unwrap();
    Signer::load(&root.certificate_pem, &root.key_pem, &long).unwrap();
}

#[rstest]
#[case(RootKey::EcdsaP256, KeyKind::EcdsaP256)]
#[case(RootKey::EcdsaP384, KeyKind::EcdsaP384)]
#[case(RootKey::Rsa2048, KeyKind::Rsa)]
#[case(RootKey::Rsa4096, KeyKind::Rsa)]
fn a_root_of_every_key_type_signs(#[case] key: RootKey, #[case] kind: KeyKind) {
    let now = SystemTime::now();
    let root = Signer::create(&trust_domain(), &RootPlan { key, ..ROOT }, now).unwrap();
    let signer = load(&root.certificate_pem, &root.key_pem).unwrap();
    assert_eq!(keys::kind_of(parse(&signer.certificate).unwrap().public_key()).unwrap(), kind);
}

#[test]
fn an_intermediate_signs_for_its_root_and_is_renewed_at_half_its_life() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let day = Duration::from_secs(24 * 3_600);
    let plan = RootPlan { intermediate: Some(30 * day), ..ROOT };
    let root = Signer::create(&trust_domain(), &plan, now).unwrap();
    let root = load(&root.certificate_pem, &root.key_pem).unwrap();
    assert!(root.takes_intermediate());
    let signer = root.with_intermediate(&trust_domain(), 30 * day, now).unwrap();
    assert_eq!((signer.not_after(), signer.renew_at()), (now + 30 * day, Some(now + 15 * day)));
    let below = signer.chain().next().unwrap();
    check_signer(below).unwrap();
    assert_eq!(one_certificate(&signer.chain_pem()).unwrap(), *below);
    let slots = Slots::only(signer, now);
    assert_eq!(slots.roots().count(), 1, "only the root is published");
    assert!(!slots.bundle_pem().contains(&slots.current().chain_pem()));
}

#[test]
fn under_a_root_without_room_there_is_no_intermediate() {
    let root = new_root(SystemTime::now());
    assert!(!load(&root.certificate_pem, &root.key_pem).unwrap().takes_intermediate());
}

#[test]
fn two_roots_are_never_the_same() {
    let now = SystemTime::now();
    let (one, other) = (new_root(now), new_root(now));
    let digest = |root: &NewRoot| summarize(&root.certificate_pem).unwrap().sha256;
    assert_ne!(digest(&one), digest(&other));
    assert_ne!(*one.key_pem, *other.key_pem);
}

#[rstest]
#[case::empty("", "seen: none")]
#[case::not_pem("hello", "seen: none")]
#[case::no_end("-----BEGIN CERTIFICATE-----\nMAA=\n", "certificate is damaged")]
#[case::no_certificate(
    "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
    "certificate is damaged"
)]
fn req_35_a_damaged_certificate_is_refused(#[case] certificate: &str, #[case] expected: &str) {
    let refusal = refusal(certificate, &new_root(SystemTime::now()).key_pem);
    assert!(refusal.contains(expected), "{refusal}");
}

#[test]
fn req_35_a_certificate_cut_anywhere_is_refused() {
    let root = new_root(SystemTime::now());
    let whole = root.certificate_pem.trim_end();
    for length in 0..whole.len() {
        assert!(load(&whole[..length], &root.key_pem).is_err(), "cut to {length} bytes");
    }
    load(whole, &root.key_pem).unwrap();
}

#[test]
fn req_35_a_key_cut_anywhere_is_refused() {
    let root = new_root(SystemTime::now());
    let whole = root.key_pem.trim_end();
    for length in 0..whole.len() {
        assert!(load(&root.certificate_pem, &whole[..length]).is_err(), "cut to {length} bytes");
    }
    load(&root.certificate_pem, whole).unwrap();
}

#[test]
fn req_35_a_certificate_with_any_byte_changed_is_refused() {
    let root = new_root(SystemTime::now());
    let der = one_certificate(&root.certificate_pem).unwrap();
    for at in 0..der.len() {
        let mut changed = der.to_vec();
        changed[at] ^= 1;
        assert!(load(&pem(&changed), &root.key_pem).is_err(), "byte {at} of {}", der.len());
    }
    load(&pem(&der), &root.key_pem).unwrap();
}

#[test]
fn req_35_a_key_of_another_root_is_refused() {
    let now = SystemTime::now();
    let refusal = refusal(&new_root(now).certificate_pem, &new_root(now).key_pem);
    assert!(refusal.contains("do not belong together"), "{refusal}");
}

#[test]
fn a_root_of_another_trust_domain_is_refused() {
    let other = Signer::create(&"other.example".parse().unwrap(), &ROOT, SystemTime::now()).unwrap();
    let refusal = refusal(&other.certificate_pem, &other.key_pem);
    assert!(refusal.contains("of URI(spiffe://other.example)"), "{refusal}");
    assert!(refusal.contains("trustDomain: cluster.local"), "{refusal}");
}

#[test]
fn a_leaf_is_no_signer() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.subject_alt_names = vec![SanType::URI(trust_domain().uri().try_into().unwrap())];
    let leaf = params.self_signed(&key).unwrap();
    let refusal = refusal(&leaf.pem(), &key.serialize_pem());
    assert!(refusal.contains("may not sign workloads"), "{refusal}");
}

#[test]
fn req_32_serial_numbers_are_positive_random_and_16_bytes_long() {
    let serials: Vec<_> = (0..1000).map(|_| random_serial().unwrap().to_bytes()).collect();
    let different: std::collections::BTreeSet<_> = serials.iter().collect();
    assert_eq!(different.len(), serials.len());
    assert!(serials.iter().all(|serial| serial.len() == 16 && (0x40..0x80).contains(&serial[0])));
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
