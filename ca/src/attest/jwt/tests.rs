//! Tokens of an issuer with keys of every kind: who gets in, and who does not.

use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::testing::trust_domain;

const ISSUER: &str = "https://kubernetes.example";

/// A key of an issuer.
enum Signing {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl Signing {
    fn p256() -> Self {
        Signing::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn of(alg: &str) -> Self {
        match alg {
            "ES256" => Signing::p256(),
            "ES384" => Signing::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()),
            "EdDSA" => Signing::Ed25519(Ed25519KeyPair::generate().unwrap()),
            _ => Signing::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        }
    }

    fn jwk(&self, kid: &str) -> Value {
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

    fn token(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let alg = header["alg"].as_str().unwrap_or_default();
        let signature = self.sign(alg, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "ca", "exp": 1_800_000_600, "sub": "system:serviceaccount:default:backend"})
}

/// Issuers with this set of keys in a file.
fn issuers(keys: &[Value]) -> (tempfile::TempDir, Issuers) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, json!({"keys": keys}).to_string()).unwrap();
    let jwks = Jwks { file: Some(file), ..Jwks::default() };
    let issuer = Issuer { issuer: ISSUER.to_owned(), audience: "ca".to_owned(), jwks };
    let issuers = Issuers::new(&[issuer]);
    (folder, issuers)
}

fn refusal(issuers: &Issuers, token: &str) -> JwtError {
    issuers.identify(token, &trust_domain(), now()).expect_err("the token was taken")
}

#[rstest]
#[case("ES256")]
#[case("ES384")]
#[case("EdDSA")]
#[case("RS256")]
#[case("PS256")]
fn req_31_a_token_of_every_algorithm_proves_its_service_account(#[case] alg: &str) {
    let key = Signing::of(alg);
    let (_folder, issuers) = issuers(&[Signing::p256().jwk("other"), key.jwk("one")]);
    let token = key.token(&json!({"alg": alg, "kid": "one", "typ": "JWT"}), &claims());
    let id = issuers.identify(&token, &trust_domain(), now()).unwrap();
    assert_eq!(id.as_str(), "spiffe://cluster.local/ns/default/sa/backend");
}

#[test]
fn a_token_that_names_no_key_is_of_the_only_one_there_is() {
    let key = Signing::p256();
    let token = key.token(&json!({"alg": "ES256"}), &claims());
    let (_folder, alone) = issuers(&[key.jwk("one")]);
    assert!(alone.identify(&token, &trust_domain(), now()).is_ok());
    let (_folder, among) = issuers(&[key.jwk("one"), Signing::p256().jwk("two")]);
    assert!(matches!(refusal(&among, &token), JwtError::NoKey { .. }));
}

#[rstest]
#[case::none(json!({"alg": "none", "kid": "one"}), "an algorithm that is not accepted")]
#[case::hmac(json!({"alg": "HS256", "kid": "one"}), "an algorithm that is not accepted")]
#[case::no_algorithm(json!({"kid": "one"}), "its header is malformed")]
#[case::another_of_the_family(json!({"alg": "ES384", "kid": "one"}), "does not verify")]
#[case::another_family(json!({"alg": "RS256", "kid": "one"}), "does not verify")]
#[case::another_key(json!({"alg": "ES256", "kid": "two"}), "names the key \"two\"")]
#[case::critical(json!({"alg": "ES256", "kid": "one", "crit": ["b64"], "b64": false}), "critical extensions")]
fn req_33_the_algorithm_is_the_keys_and_not_the_tokens(#[case] header: Value, #[case] expected: &str) {
    let key = Signing::p256();
    let (_folder, issuers) = issuers(&[key.jwk("one")]);
    let error = refusal(&issuers, &key.token(&header, &claims())).to_string();
    assert!(error.contains(expected), "expected {expected:?}; seen {error:?}");
}

/// A token signed with the public key as if it were a shared secret, and one that brings its own key.
#[test]
fn req_33_neither_a_public_key_as_a_secret_nor_a_key_of_the_tokens_own_counts() {
    let key = Signing::p256();
    let (_folder, issuers) =
        issuers(&[key.jwk("one"), json!({"kty": "oct", "kid": "secret", "k": "c2VjcmV0"})]);
    let thief = Signing::p256();
    for header in [
        json!({"alg": "ES256", "kid": "one", "jwk": thief.jwk("one")}),
        json!({"alg": "ES256", "kid": "one", "jku": "https://thief.example/jwks"}),
    ] {
        assert!(matches!(refusal(&issuers, &thief.token(&header, &claims())), JwtError::Signature(_)));
    }
    let secret = thief.token(&json!({"alg": "ES256", "kid": "secret"}), &claims());
    assert!(matches!(refusal(&issuers, &secret), JwtError::NoKey { .. }));
}

#[test]
fn req_33_a_key_that_is_for_one_algorithm_or_not_for_signatures_is_used_for_nothing_else() {
    let key = Signing::of("RS256");
    let with = |name: &str, value: &str| {
        let mut jwk = key.jwk("one");
        jwk[name] = json!(value);
        jwk
    };
    let token = key.token(&json!({"alg": "PS256", "kid": "one"}), &claims());
    let (_folder, pinned) = issuers(&[with("alg", "RS256")]);
    assert!(matches!(refusal(&pinned, &token), JwtError::Signature(_)));
    let (_folder, encrypting) = issuers(&[with("use", "enc"), Signing::p256().jwk("other")]);
    assert!(matches!(refusal(&encrypting, &token), JwtError::NoKey { .. }));
}

#[test]
fn req_33_a_token_changed_in_any_byte_is_refused() {
    let key = Signing::p256();
    let (_folder, issuers) = issuers(&[key.jwk("one")]);
    let token = key.token(&json!({"alg": "ES256", "kid": "one"}), &claims());
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        // The last character of a part has bits that say nothing; a strict reader refuses them too.
        assert!(
            issuers.identify(std::str::from_utf8(&changed).unwrap(), &trust_domain(), now()).is_err(),
            "byte {at}"
        );
    }
}

#[rstest]
#[case::issuer("iss", json!("https://other.example"), RefusalId::JwtUnknownIssuer)]
#[case::audience("aud", json!("other"), RefusalId::JwtAudience)]
#[case::expired("exp", json!(1_799_999_999), RefusalId::JwtExpired)]
#[case::endless("exp", json!(null), RefusalId::JwtExpired)]
#[case::not_yet("nbf", json!(1_800_000_100), RefusalId::JwtNotYetValid)]
#[case::subject("sub", json!("system:node:one"), RefusalId::JwtSubject)]
fn req_33_a_token_that_says_something_else_is_refused_by_name(
    #[case] claim: &str,
    #[case] value: Value,
    #[case] expected: RefusalId,
) {
    let key = Signing::p256();
    let (_folder, issuers) = issuers(&[key.jwk("one")]);
    let mut claims = claims();
    claims[claim] = value;
    let error = refusal(&issuers, &key.token(&json!({"alg": "ES256", "kid": "one"}), &claims));
    assert_eq!(error.id(), expected, "{error}");
}

#[rstest]
#[case("..")]
#[case("a.b.c")]
#[case("eyJhbGciOiJFUzI1NiJ9..")]
#[case("eyJhbGciOiJFUzI1NiJ9.e30.")]
#[case("....")]
fn what_is_no_token_is_refused(#[case] text: &str) {
    let (_folder, issuers) = issuers(&[Signing::p256().jwk("one")]);
    assert!(matches!(refusal(&issuers, text), JwtError::Form(_)));
}

#[test]
fn without_issuers_every_token_is_of_an_unknown_one() {
    let token = Signing::p256().token(&json!({"alg": "ES256"}), &claims());
    let error = refusal(&Issuers::default(), &token);
    assert_eq!(error.id(), RefusalId::JwtUnknownIssuer);
}

#[test]
fn our_own_tokens_are_told_from_those_of_others() {
    assert!(is_one(b"Bearer a.b.c"));
    assert!(!is_one(&[b'a'; 43]) && !is_one(b"Bearer a.b.c.d") && !is_one(b""));
}
