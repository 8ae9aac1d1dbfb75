//! A CA that misbehaves on purpose, as its callers see it. What the real proxy makes of it is in the tests of `cli`.

use std::time::{Duration, Instant};

use rcgen::KeyPair;
use rstest::rstest;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::support::{Ca, Client, Home, csr, get, wait_for};

fn start(home: &Home, fault: &str) -> Ca {
    Ca::start(home.command(&["serve", "--log-format", "json", "--fault", fault]))
}

fn request() -> Vec<u8> {
    csr(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap())
}

#[tokio::test]
async fn a_ca_that_is_down_refuses_connections_and_can_be_asked_why() {
    let home = Home::new();
    let ca = start(&home, "down");
    let refused = tokio::net::TcpStream::connect(ca.api).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let (status, metrics) = ca.monitor("/metrics").await;
    assert!(status == 200 && metrics.contains("pillion_ca_fault{fault=\"down\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_slow_ca_answers_later_and_is_not_cut_off_for_it() {
    let home = Home::with("limits: {requestTimeout: 500ms}");
    let ca = start(&home, "slow=1s");
    let start = Instant::now();
    assert_eq!(Client::new(&ca, &home).sign(Some(&home.token()), request()).await.unwrap().status, 201);
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_ca_that_hangs_up_does_so_after_the_handshake() {
    let home = Home::new();
    let ca = start(&home, "hang-up");
    let answer = Client::new(&ca, &home).sign(Some(&home.token()), request()).await;
    assert!(answer.is_err());
    assert!(ca.audit().is_empty());
}

#[tokio::test]
async fn a_bundle_without_the_own_root_is_another_root_and_the_file_stays_right() {
    let home = Home::new();
    let ca = start(&home, "bundle-without-own-root");
    let bundle = Client::new(&ca, &home).send(get("/v1/bundle.pem")).await.unwrap();
    let published = CertificateDer::from_pem_slice(&bundle.body).unwrap();
    assert_ne!(published, home.root());
}

#[rstest]
#[case("refuse")]
#[case("expired")]
fn every_fault_is_told_loudly_at_the_start(#[case] fault: &str) {
    let home = Home::new();
    let ca = start(&home, fault);
    wait_for("the warning", || {
        let told = |line: &serde_json::Value| {
            line["level"] == "WARN"
                && line["message"].as_str().is_some_and(|text| text.contains("ON PURPOSE"))
        };
        ca.log().iter().any(told).then_some(())
    });
}

#[tokio::test]
async fn what_was_issued_by_a_fault_says_so_in_the_audit_log() {
    let home = Home::new();
    let ca = start(&home, "wrong-identity");
    Client::new(&ca, &home).enroll(&home.token(), "").await;
    let line = ca.audit_line(1);
    assert!(line["note"].as_str().unwrap().contains("on purpose: wrong-identity"), "{line}");
}

#[test]
fn a_fault_that_does_not_exist_ends_with_2() {
    let home = Home::new();
    let output = home.command(&["serve", "--fault", "dwon"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("expected one of down"));
}
