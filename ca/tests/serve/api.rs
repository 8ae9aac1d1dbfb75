//! What callers get over HTTPS, and what is logged of it.

use std::process::Command;
use std::time::SystemTime;

use pillion_mesh::svid::check_leaf;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rstest::rstest;
use rustls::version::{TLS12, TLS13};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::support::{
    BACKEND, Ca, Client, Home, Identity, csr, current, get, plain_params, sign_request, wait_for,
};

fn new_key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A request that wants to be an admin.
fn forged(key: &KeyPair) -> Vec<u8> {
    let mut params = plain_params();
    params.distinguished_name.push(DnType::CommonName, "admin");
    let admin = "spiffe://cluster.local/ns/default/sa/admin";
    params.subject_alt_names =
        vec![SanType::URI(admin.try_into().unwrap()), SanType::DnsName("admin".try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    params.serialize_request(key).unwrap().der().to_vec()
}

#[tokio::test]
async fn req_31_32_a_forged_request_gets_the_tokens_identity_and_nothing_it_asked_for() {
    let home = Home::new();
    let ca = home.start();
    let answer = Client::new(&ca, &home).sign(Some(&home.token()), forged(&new_key())).await.unwrap();
    assert_eq!(answer.headers["content-type"], "application/pem-certificate-chain");
    let chain = answer.chain();
    assert_eq!(chain.len(), 1, "the leaf alone: the root is in the bundle");
    assert_eq!(check_leaf(&chain[0]).unwrap().id.as_str(), BACKEND);
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names, [GeneralName::URI(BACKEND)]);
    assert!(names.critical && leaf.subject().iter().next().is_none());
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());

    let line = ca.audit_line(1);
    assert_eq!(line["result"], "issued");
    assert_eq!(line["identity"], BACKEND);
    assert_eq!(line["evidence"], "token");
    assert_eq!(line["serial"], check_leaf(&chain[0]).unwrap().serial);
    assert_eq!(line["public_key"], sha256(leaf.public_key().raw));
    assert!(line["not_after"].as_str().unwrap().ends_with('Z'));
    assert!(line["caller"].as_str().unwrap().starts_with("127.0.0.1:"));
    for wish in ["subject CN=admin", "sa/admin", "DNSName(admin)", "extendedKeyUsage"] {
        assert!(line["ignored"].as_str().unwrap().contains(wish), "{wish:?} is not in {line}");
    }
}

#[tokio::test]
async fn openssl_verifies_what_is_issued() {
    if Command::new("openssl").arg("version").output().is_err() {
        return; // an independent judge, where there is one
    }
    let home = Home::new();
    let ca = home.start();
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    for body in [csr(&new_key()), csr(&key)] {
        let answer = Client::new(&ca, &home).sign(Some(&home.token()), body).await.unwrap();
        std::fs::write(home.path("leaf.pem"), &answer.body).unwrap();
        for purpose in ["sslserver", "sslclient"] {
            let mut verify = Command::new("openssl");
            verify.args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"]);
            let output = verify.arg(home.path("run/bundle.pem")).arg(home.path("leaf.pem")).output().unwrap();
            assert!(output.status.success(), "{purpose}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[rstest]
#[case::tls_1_3(&TLS13)]
#[case::tls_1_2(&TLS12)]
#[tokio::test]
async fn a_certificate_is_renewed_by_itself_with_a_new_key(
    #[case] version: &'static rustls::SupportedProtocolVersion,
) {
    let home = Home::new();
    let ca = home.start();
    let first = Client::new(&ca, &home).enroll(&home.token(), "?ttl=1h").await;
    let client = Client::trusting(ca.api, &home.root(), Some(&first), &[version]);
    let chain = client.sign(None, forged(&new_key())).await.unwrap().chain();
    let (old, new) = (check_leaf(first.leaf()).unwrap(), check_leaf(&chain[0]).unwrap());
    assert_eq!(old.id, new.id);
    assert_ne!(old.serial, new.serial);
    assert!(new.not_after > old.not_after, "the default of a day is longer than the hour before");
    assert_eq!(ca.audit_line(2)["evidence"], "certificate");
}

/// A certificate for the backend by a root that the CA does not know, which has the same name.
fn foreign_identity() -> Identity {
    let root_key = new_key();
    let mut root = CertificateParams::default();
    root.distinguished_name = plain_params().distinguished_name;
    root.distinguished_name.push(DnType::OrganizationName, "pillion");
    root.distinguished_name.push(DnType::CommonName, "cluster.local");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(root, root_key);
    let key = new_key();
    let mut leaf = plain_params();
    leaf.subject_alt_names = vec![SanType::URI(BACKEND.try_into().unwrap())];
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Identity { chain: vec![leaf.signed_by(&key, &issuer).unwrap().into()], key }
}

#[tokio::test]
async fn a_certificate_of_a_foreign_root_is_refused() {
    let home = Home::new();
    let ca = home.start();
    let client = Client::with_certificate(&ca, &home, &foreign_identity());
    assert!(client.sign(None, csr(&new_key())).await.is_err(), "the handshake is refused");
    let line = ca.audit_line(1);
    assert_eq!((&line["result"], &line["evidence"]), (&"refused".into(), &"certificate".into()));
    let (_, metrics) = ca.monitor("/metrics").await;
    assert!(metrics.contains("\ncitadel_server_authentication_failure_count 1\n"), "{metrics}");
}

#[tokio::test]
async fn an_expired_certificate_renews_nothing() {
    let home = Home::new();
    let ca = home.start();
    let identity = Client::new(&ca, &home).enroll(&home.token(), "?ttl=1s").await;
    let end = check_leaf(identity.leaf()).unwrap().not_after;
    // The last second of a validity belongs to it (RFC 5280 4.1.2.5).
    wait_for("the certificate to expire", || {
        (SystemTime::now() > end + std::time::Duration::from_secs(1)).then_some(())
    });
    assert!(Client::with_certificate(&ca, &home, &identity).sign(None, csr(&new_key())).await.is_err());
}

#[tokio::test]
async fn req_33_a_caller_without_a_good_token_learns_only_that_and_the_log_tells_why() {
    let home = Home::new();
    let ca = home.start();
    let client = Client::new(&ca, &home);
    let unknown = "a".repeat(43);
    let cases = [
        (None, "no evidence"),
        (Some("short"), "43 characters"),
        (Some(unknown.as_str()), "the token is unknown"),
    ];
    for (count, (token, reason)) in (1..).zip(cases) {
        let answer = client.sign(token, csr(&new_key())).await.unwrap();
        assert_eq!(answer.status, 401);
        assert_eq!(answer.text(), r#"{"status":401,"title":"Unauthorized"}"#);
        let line = ca.audit_line(count);
        assert_eq!(line["result"], "refused");
        assert!(line["reason"].as_str().unwrap().contains(reason), "{reason:?} is not in {line}");
    }
}

#[tokio::test]
async fn req_33_no_token_and_no_key_is_ever_logged() {
    let home = Home::new();
    let mut command = home.command(&["serve", "--log-format", "json"]);
    command.env("RUST_LOG", "trace");
    let ca = Ca::start(command);
    let client = Client::new(&ca, &home);
    let token = home.token();
    client.enroll(&token, "").await;
    let wrong = token.replacen(|_: char| true, "~", 1);
    client.sign(Some(&wrong), csr(&new_key())).await.unwrap();
    ca.audit_line(2);
    let key =
        std::fs::read_to_string(home.path("state").join(current(&home).unwrap()).join("key.pem")).unwrap();
    let secrets = [&token, &token[1..], key.lines().nth(1).unwrap()];
    for line in ca.log() {
        let line = line.to_string();
        assert!(!secrets.iter().any(|secret| line.contains(secret)), "a secret is in the log: {line}");
    }
}

#[tokio::test]
async fn every_request_answered_is_one_line() {
    let home = Home::new();
    let ca = home.start();
    let client = Client::new(&ca, &home);
    let token = home.token();
    let answers = [
        (sign_request(Some(&token), "", csr(&new_key())), 201),
        (sign_request(None, "", csr(&new_key())), 401),
        (sign_request(Some(&token), "", b"hello".to_vec()), 400),
        (sign_request(Some(&token), "?ttl=x", csr(&new_key())), 400),
        (sign_request(Some(&token), "", vec![0x30; 70_000]), 413),
        (sign_request(Some(&token), "?ttl=1000d", csr(&new_key())), 201),
    ];
    for (request, status) in answers {
        assert_eq!(client.send(request).await.unwrap().status, status);
    }
    let capped = ca.audit_line(6);
    assert!(capped["note"].as_str().unwrap().contains("over workloadTtl.max"), "{capped}");
    let results: Vec<_> = ca.audit().iter().map(|line| line["result"].as_str().unwrap().to_owned()).collect();
    assert_eq!(results, ["issued", "refused", "refused", "refused", "refused", "issued"]);
}

#[tokio::test]
async fn a_quiet_log_still_has_the_audit_lines() {
    let home = Home::new();
    let mut command = home.command(&["serve", "--log-format", "json"]);
    // The addresses are read from the log.
    command.env("RUST_LOG", "error,pillion_ca::server=info");
    let ca = Ca::start(command);
    Client::new(&ca, &home).enroll(&home.token(), "").await;
    assert_eq!(ca.audit_line(1)["result"], "issued");
}

#[tokio::test]
async fn a_tampered_request_is_refused() {
    let home = Home::new();
    let ca = home.start();
    let mut body = csr(&new_key());
    *body.last_mut().unwrap() ^= 1;
    let answer = Client::new(&ca, &home).sign(Some(&home.token()), body).await.unwrap();
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("does not verify"), "{}", answer.text());
}

#[tokio::test]
async fn the_bundle_is_public_and_is_that_of_the_file() {
    let home = Home::new();
    let ca = home.start();
    let client = Client::new(&ca, &home);
    let pem = client.send(get("/v1/bundle.pem")).await.unwrap();
    assert_eq!(
        (pem.status, pem.text()),
        (200, std::fs::read_to_string(home.path("run/bundle.pem")).unwrap())
    );
    let json = client.send(get("/v1/bundle")).await.unwrap();
    let bundle: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
    assert_eq!(bundle["keys"][0]["use"], "x509-svid");
    assert_eq!(client.send(get("/v1/other")).await.unwrap().status, 404);
    let wrong = client.send(get("/v1/certificates")).await.unwrap();
    assert_eq!((wrong.status, wrong.headers["allow"].to_str().unwrap()), (405, "POST"));
}

#[tokio::test]
async fn monitoring_tells_of_readiness_and_of_what_was_issued() {
    let home = Home::new();
    let ca = home.start();
    Client::new(&ca, &home).enroll(&home.token(), "").await;
    for path in ["/healthz/ready", "/ready"] {
        assert_eq!(ca.monitor(path).await, (200, "ready\n".to_owned()));
    }
    for path in ["/metrics", "/stats/prometheus"] {
        let (status, text) = ca.monitor(path).await;
        assert_eq!(status, 200);
        assert!(text.contains("\ncitadel_server_success_cert_issuance_count 1\n"), "{text}");
    }
    assert_eq!(ca.monitor("/v1/bundle").await.0, 404);
}

#[tokio::test]
async fn a_restart_changes_neither_tokens_nor_the_root_nor_what_was_issued() {
    let home = Home::new();
    let first = home.start();
    let (token, root) = (home.token(), home.root());
    let identity = Client::new(&first, &home).enroll(&token, "").await;
    drop(first);
    let second = home.start();
    assert_eq!((home.token(), home.root()), (token.clone(), root));
    Client::new(&second, &home).enroll(&token, "").await;
    let renewed = Client::with_certificate(&second, &home, &identity).sign(None, csr(&new_key())).await;
    assert_eq!(renewed.unwrap().status, 201);
}

#[tokio::test]
async fn a_registration_taken_away_ends_renewal() {
    let home = Home::new();
    let first = home.start();
    let identity = Client::new(&first, &home).enroll(&home.token(), "").await;
    drop(first);
    let text = std::fs::read_to_string(home.config()).unwrap();
    std::fs::write(home.config(), text.replace("sa/backend,", "sa/other,")).unwrap();
    let second = home.start();
    let answer =
        Client::with_certificate(&second, &home, &identity).sign(None, csr(&new_key())).await.unwrap();
    assert_eq!(answer.status, 401);
    assert!(second.audit_line(1)["reason"].as_str().unwrap().contains("not in registrations"));
}
