//! Tokens of an issuer with keys of every kind: who gets in, and who does not.

use rstest::rstest;
use serde_json::{Value, json};

use super::testing::{Signing, claims, issuers, now};
use super::*;
use crate::testing::trust_domain;

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
