//! The table of hostile requests at both doors: a clear refusal, the same at each, and a line in the log that names it.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::support::{Client, Home, csr, plain_params};

fn new_key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

fn asking(ask: fn(&mut CertificateParams)) -> Vec<u8> {
    let mut params = plain_params();
    ask(&mut params);
    params.serialize_request(&new_key()).unwrap().der().to_vec()
}

fn uri(name: &str) -> SanType {
    SanType::URI(format!("spiffe://cluster.local/ns/default/sa/{name}").try_into().unwrap())
}

/// What is sent, the id of the refusal, and a part of what the caller is told.
fn table() -> Vec<(Vec<u8>, &'static str, &'static str)> {
    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../src/csr/fixtures/", $name)).to_vec()
        };
    }
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut request = csr(&new_key());
        change(&mut request);
        request
    };
    vec![
        (fixture!("rsa-1024.pem"), "csr_key", "RSA of 1024 bits"),
        (fixture!("rsa-8200.pem"), "csr_key", "RSA of 8200 bits"),
        (fixture!("p-224.pem"), "csr_key", "P-224"),
        (fixture!("secp256k1.pem"), "csr_key", "secp256k1"),
        (fixture!("explicit-curve.pem"), "csr_key", "not given by name"),
        (fixture!("ed448.pem"), "csr_key", "Ed448"),
        (fixture!("dsa.pem"), "csr_key", "DSA"),
        (fixture!("rsa-sha1.pem"), "csr_key", "sha1WithRSAEncryption"),
        (fixture!("rsa-md5.pem"), "csr_key", "md5WithRSAEncryption"),
        (fixture!("ecdsa-sha1.pem"), "csr_key", "ecdsa-with-SHA1"),
        (fixture!("rsa-pss.pem"), "csr_key", "RSASSA-PSS"),
        (changed(|request| *request.last_mut().unwrap() ^= 1), "csr_key", "does not verify"),
        (asking(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "csr_wish", "CA:TRUE"),
        (
            asking(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
            "csr_wish",
            "to sign certificates",
        ),
        (asking(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]), "csr_wish", "revocation lists"),
        (
            asking(|params| params.subject_alt_names = vec![uri("backend"), uri("admin")]),
            "csr_wish",
            "2 URI names",
        ),
        (
            asking(|params| {
                let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], vec![0x30, 0]);
                extension.set_criticality(true);
                params.custom_extensions = vec![extension];
            }),
            "csr_wish",
            "the critical extension 2.5.29.30",
        ),
        (
            asking(|params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                let twice = vec![0x30, 0];
                params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 37], twice)];
            }),
            "csr_malformed",
            "stands in it twice",
        ),
        (changed(|request| request.extend([5, 0])), "csr_malformed", "2 bytes follow the request"),
        (changed(|request| request.truncate(100)), "csr_malformed", "longer than what is left"),
        (changed(|request| drop(request.splice(1..2, [0x83, 0]))), "csr_malformed", "shortest form"),
        (vec![], "csr_malformed", "an empty body"),
        (b"hello".to_vec(), "csr_malformed", "neither of them"),
        (vec![0x30; 60_000], "csr_malformed", "not well-formed"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\n".repeat(1000), "csr_malformed", "seen:"),
    ]
}

#[tokio::test]
async fn req_13_32_every_hostile_request_is_refused_by_name() {
    let home = Home::new();
    let ca = home.start();
    let client = Client::new(&ca, &home);
    let token = home.token();
    for (count, (body, refusal, expected)) in (1..).zip(table()) {
        let answer = client.sign(Some(&token), body).await.unwrap();
        assert_eq!(answer.status, 400, "{expected}: {}", answer.text());
        assert!(answer.text().contains(expected), "expected {expected:?}; seen {}", answer.text());
        let line = ca.audit_line(count);
        assert_eq!((&line["result"], &line["refusal"]), (&"refused".into(), &refusal.into()), "{line}");
        assert!(line["reason"].as_str().unwrap().contains(expected), "{line}");
    }
    client.enroll(&token, "").await;
}

#[cfg(feature = "grpc")]
#[tokio::test]
async fn req_13_32_every_hostile_request_is_an_invalid_argument_over_grpc() {
    let home = Home::new();
    let ca = home.start();
    let client = Client::new(&ca, &home);
    let token = home.token();
    for (count, (body, refusal, expected)) in (1..).zip(table()) {
        // Istio's field is a text, so DER goes as PEM.
        let text = String::from_utf8(body).unwrap_or_else(|der| pem(der.as_bytes()));
        let outcome = crate::grpc::create(&client, Some(&token), &text).await;
        assert_eq!(outcome.code, "3", "{expected}: {outcome:?}");
        let line = ca.audit_line(count);
        assert_eq!(
            (&line["door"], &line["refusal"]),
            (&"grpc".into(), &refusal.into()),
            "{expected}: {line}"
        );
    }
}

#[cfg(feature = "grpc")]
fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
}
