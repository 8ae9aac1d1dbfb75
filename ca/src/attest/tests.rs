//! Evidence of every kind against the trust domain and the registrations.

use rustls_pki_types::pem::PemObject;

use super::*;
use crate::csr;
use crate::testing::{HOUR, authority, id, request, trust_domain};

fn attestor(registered: &[&str]) -> (tempfile::TempDir, Attestor) {
    let folder = tempfile::tempdir().unwrap();
    let tokens = TokenStore::new(folder.path().to_owned());
    (folder, Attestor::new(trust_domain(), registered.iter().map(|name| id(name)), tokens))
}

fn certificate_of(name: &str) -> CertificateDer<'static> {
    let now = SystemTime::now();
    let csr = csr::read(&request()).unwrap();
    let issued = authority(now).issue(&id(name), &csr, HOUR, now).unwrap();
    CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap()
}

#[test]
fn req_31_a_certificate_proves_the_identity_that_stands_in_it() {
    let (_folder, attestor) = attestor(&["backend", "frontend"]);
    let certificate = certificate_of("backend");
    let proved = attestor
        .identify(&Evidence::Certificate(&certificate), SystemTime::now(), SystemTime::now())
        .unwrap()
        .id;
    assert_eq!(proved, id("backend"));
}

#[test]
fn an_identity_that_is_not_registered_is_refused_whatever_the_evidence() {
    let (_folder, attestor) = attestor(&["frontend"]);
    let now = SystemTime::now();
    let certificate = certificate_of("backend");
    let token = attestor.tokens.create(&id("backend"), None).unwrap();
    let header = format!("Bearer {}", token.reveal());
    for evidence in [Evidence::Certificate(&certificate), Evidence::Authorization(header.as_bytes())] {
        let refusal = attestor.identify(&evidence, now, now).unwrap_err();
        assert!(matches!(refusal, Refusal::NotRegistered(_)), "{refusal}");
    }
}

#[test]
fn req_33_a_token_of_another_trust_domain_is_refused() {
    let (_folder, attestor) = attestor(&["backend"]);
    let foreign = "spiffe://other.example/ns/default/sa/backend".parse().unwrap();
    let token = attestor.tokens.create(&foreign, None).unwrap();
    let header = format!("Bearer {}", token.reveal());
    let evidence = Evidence::Authorization(header.as_bytes());
    let refusal = attestor.identify(&evidence, SystemTime::now(), SystemTime::now()).unwrap_err();
    assert!(matches!(refusal, Refusal::OtherTrustDomain { .. }), "{refusal}");
}

#[test]
fn the_cas_own_certificates_prove_nothing() {
    let (_folder, attestor) = attestor(&["backend"]);
    let now = SystemTime::now();
    let authority = authority(now);
    let server = authority.issue_server(&["ca".try_into().unwrap()], now).unwrap().chain.remove(0);
    let slots = authority.slots();
    let root = slots.roots().next().unwrap().clone();
    for certificate in [server, root] {
        let refusal = attestor.identify(&Evidence::Certificate(&certificate), now, now).unwrap_err();
        assert!(matches!(refusal, Refusal::Certificate(_)), "{refusal}");
    }
}

#[test]
fn without_evidence_there_is_no_identity() {
    let (_folder, attestor) = attestor(&["backend"]);
    let refusal = attestor.identify(&Evidence::Nothing, SystemTime::now(), SystemTime::now()).unwrap_err();
    assert!(matches!(refusal, Refusal::Nothing), "{refusal}");
}

/// The tokens of Kubernetes know nothing of a lesson's time.
#[test]
fn where_time_is_hurried_a_token_of_another_issuer_lives_by_the_worlds() {
    use pillion_mesh::jwt::ClaimError;
    let folder = tempfile::tempdir().unwrap();
    let key = jwt::testing::Signing::p256();
    let issuers = jwt::testing::issuers_in(folder.path(), &key);
    let (_tokens, attestor) = attestor(&["backend"]);
    let attestor = attestor.with_issuers(issuers.into());
    let world = SystemTime::now();
    let hurried = world + 1000 * HOUR;
    let header = format!("Bearer {}", jwt::testing::token_until(&key, world + HOUR));
    let evidence = Evidence::Authorization(header.as_bytes());
    assert_eq!(attestor.identify(&evidence, hurried, world).unwrap().id, id("backend"));
    let late = attestor.identify(&evidence, world, hurried).unwrap_err();
    assert!(matches!(late, Refusal::Jwt(JwtError::Claims(ClaimError::Expired { .. }))), "{late}");
}
