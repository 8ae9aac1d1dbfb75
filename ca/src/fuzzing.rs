//! What reads bytes of strangers or of the disk, for fuzzers: each function takes any bytes, and panics where a law is broken.
//!
//! `tests/fuzz.rs` runs them over mutated seeds for a bounded time; `fuzz/` in the root of the repository runs them under
//! libFuzzer. Nobody else calls them.

// A broken law is a panic, which is what fuzzers look for.
#![allow(clippy::panic, clippy::expect_used, reason = "fuzzers look for panics")]

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pillion_mesh::spiffe::{SpiffeId, TrustDomain, bundle};
use rcgen::PublicKeyData;
use rustls_pki_types::CertificateDer;

use crate::attest::jwt::{self, Issuer, Issuers, Jwks};
use crate::attest::token::{self, TokenStore};
use crate::attest::{Attestor, Evidence};
use crate::bundle::Bundle;
use crate::csr;
use crate::slots::Signer;

/// A CSR: what is accepted is a signed request, and its key is the one that its fingerprint names.
pub fn csr(bytes: &[u8]) {
    if let Ok(csr) = csr::read(bytes) {
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &csr.key.subject_public_key_info());
        let expected: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(csr.sha256, expected, "the fingerprint is of another key");
        assert!(csr.ignored.chars().count() <= 513, "a log line without end");
    }
}

/// An `Authorization` header: no bytes prove an identity to a CA that has handed out no token and trusts one key, whose
/// private half is nowhere.
pub fn evidence(bytes: &[u8]) {
    static ATTESTOR: LazyLock<Attestor> = LazyLock::new(|| {
        let issuer = Issuer {
            issuer: "https://issuer.example".to_owned(),
            audience: "ca".to_owned(),
            jwks: Jwks { file: Some(seed("jwks/one-key.json")), ..Jwks::default() },
        };
        let nothing = TokenStore::new(PathBuf::from("/nonexistent/tokens"));
        let attestor = Attestor::new(trust_domain(), [backend()], nothing);
        attestor.with_issuers(Issuers::new(&[issuer]).into())
    });
    let now = SystemTime::UNIX_EPOCH;
    let refused = ATTESTOR.identify(&Evidence::Authorization(bytes), now, now);
    let refusal = refused.expect_err("an identity out of nothing");
    assert!(refusal.to_string().len() < 4096, "a log line without end");
}

/// A client certificate: the identity that is read is one that can be written.
pub fn certificate(bytes: &[u8]) {
    let leaf = CertificateDer::from(bytes);
    if let Ok(id) = crate::attest::certificate::identify(&leaf) {
        assert_eq!(
            id.as_str().parse::<SpiffeId>().as_ref(),
            Ok(&id),
            "an identity that cannot be read again"
        );
    }
}

/// A bundle on its way in, which is read as it would be written, or refused; and a root on its way out: what is published is
/// JSON that holds it, or nothing.
pub fn bundle(bytes: &[u8]) {
    if let Ok(read) = bundle::Bundle::parse(bytes) {
        let written = serde_json::to_vec(&read).expect("a bundle that is no JSON");
        assert_eq!(bundle::Bundle::parse(&written).ok(), Some(read), "a bundle that cannot be read again");
    }
    let root = CertificateDer::from(bytes.to_vec());
    let bundle = serde_json::to_value(Bundle::of([&root], 1)).expect("a bundle that is no JSON");
    let keys = bundle.get("keys").and_then(serde_json::Value::as_array).expect("a bundle without keys");
    for key in keys {
        let x5c = key.pointer("/x5c/0").and_then(serde_json::Value::as_str).unwrap_or_default();
        assert_eq!(STANDARD.decode(x5c).as_deref(), Ok(bytes), "another root than the one given");
    }
}

/// A set of an issuer's keys: it is read or refused.
pub fn jwks(bytes: &[u8]) {
    let _ = jwt::read_keys(bytes);
}

/// Files of the state folder: a signer's certificate and its key with a NUL between, which are taken up or refused; or a
/// token record, which is written as it was read.
pub fn state(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match text.split_once('\0') {
        Some((certificate, key)) => drop(Signer::load(certificate, key, &trust_domain())),
        None => token::read_and_write(bytes),
    }
}

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().expect("a trust domain")
}

fn backend() -> SpiffeId {
    SpiffeId::of_service_account(&trust_domain(), "default", "backend").expect("an identity")
}

/// A file of `fuzz/seeds`.
fn seed(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name)
}
