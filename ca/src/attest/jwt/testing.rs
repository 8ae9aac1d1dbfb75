//! An issuer for tests: its keys, and tokens signed with them.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;

const ISSUER: &str = "https://kubernetes.example";

/// A key of an issuer.
pub(in crate::attest) enum Signing {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl Signing {
    pub(in crate::attest) fn p256() -> Self {
        Signing::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(in crate::attest) fn of(alg: &str) -> Self {
        match alg {
            "ES256" => Signing::p256(),
            "ES384" => Signing::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()),
            "EdDSA" => Signing::Ed25519(Ed25519KeyPair::generate().unwrap()),
            _ => Signing::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        }
    }

    pub(in crate::attest) fn jwk(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let curve = |name: &str, point: &[u8]| {
            let (x, y) = point[1..].split_at(point.len() / 2);
            json!({"kty": "EC", "crv": name, "kid": kid, "x": text(x), "y": text(y)})
        };
        match self {
            Signing::P256(key) => curve("P-256", key.public_key().as_ref()),
            Signing::P384(key) => curve("P-384", key.public_key().as_ref()),
            Signing::Ed25519(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": text(key.public_key().as_ref())})
            }
            Signing::Rsa(key) => {
                let parts: PublicKeyComponents<Vec<u8>> = key.public_key().into();
                json!({"kty": "RSA", "kid": kid, "use": "sig", "n": text(&parts.n), "e": text(&parts.e)})
            }
        }
    }

    fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Signing::P256(key) | Signing::P384(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Signing::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Signing::Rsa(key) => {
                let padding: &dyn aws_lc_rs::signature::RsaEncoding =
                    if alg.starts_with("PS") { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    pub(in crate::attest) fn token(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let alg = header["alg"].as_str().unwrap_or_default();
        let signature = self.sign(alg, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

pub(super) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(super) fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "ca", "exp": 1_800_000_600, "sub": "system:serviceaccount:default:backend"})
}

/// Issuers with this set of keys in a file.
pub(super) fn issuers(keys: &[Value]) -> (tempfile::TempDir, Issuers) {
    let folder = tempfile::tempdir().unwrap();
    let issuers = with_keys(folder.path(), keys);
    (folder, issuers)
}

/// One issuer with one key, `one`.
pub(in crate::attest) fn issuers_in(folder: &Path, key: &Signing) -> Issuers {
    with_keys(folder, &[key.jwk("one")])
}

/// A good token of the key `one` that lasts so long.
pub(in crate::attest) fn token_until(key: &Signing, end: SystemTime) -> String {
    let mut claims = claims();
    claims["exp"] = json!(end.duration_since(UNIX_EPOCH).unwrap().as_secs());
    key.token(&json!({"alg": "ES256", "kid": "one"}), &claims)
}

fn with_keys(folder: &Path, keys: &[Value]) -> Issuers {
    let file = folder.join("jwks.json");
    std::fs::write(&file, json!({"keys": keys}).to_string()).unwrap();
    let jwks = Jwks { file: Some(file), ..Jwks::default() };
    Issuers::new(&[Issuer { issuer: ISSUER.to_owned(), audience: "ca".to_owned(), jwks }])
}
