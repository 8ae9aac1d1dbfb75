use std::sync::OnceLock;

use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rstest::rstest;
use serde_json::json;

use super::*;

const HINT: Duration = Duration::from_secs(300);

fn root_of(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
    let key = KeyPair::generate_for(algorithm).unwrap();
    CertificateParams::default().self_signed(&key).unwrap().der().to_vec()
}

/// One root for each kind of key, and a second of the most frequent.
fn roots() -> &'static [Vec<u8>] {
    static ROOTS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ECDSA_P521_SHA512,
            &rcgen::PKCS_RSA_SHA256,
            &rcgen::PKCS_ED25519,
        ]
        .map(root_of)
        .into()
    })
}

fn printed(bundle: &Bundle) -> Value {
    serde_json::to_value(bundle).unwrap()
}

fn parsed(bundle: &Value) -> Result<Bundle, BundleError> {
    Bundle::parse(bundle.to_string().as_bytes())
}

fn any_bundle() -> impl Strategy<Value = Bundle> {
    let roots = prop::sample::subsequence(roots(), 0..=roots().len()).prop_shuffle();
    (roots, any::<Option<u64>>(), any::<Option<u32>>()).prop_map(|(roots, sequence, hint)| {
        Bundle::of(roots, sequence, hint.map(|hint| Duration::from_secs(hint.into())))
    })
}

#[rstest]
#[case(&rcgen::PKCS_ECDSA_P256_SHA256, "EC", "crv", "P-256")]
#[case(&rcgen::PKCS_ECDSA_P384_SHA384, "EC", "crv", "P-384")]
#[case(&rcgen::PKCS_ECDSA_P521_SHA512, "EC", "crv", "P-521")]
#[case(&rcgen::PKCS_RSA_SHA256, "RSA", "e", "AQAB")]
#[case(&rcgen::PKCS_ED25519, "OKP", "crv", "Ed25519")]
fn a_root_is_one_key_with_its_certificate(
    #[case] algorithm: &'static rcgen::SignatureAlgorithm,
    #[case] kind: &str,
    #[case] parameter: &str,
    #[case] value: &str,
) {
    let root = root_of(algorithm);
    let bundle = printed(&Bundle::of([&root], Some(7), Some(HINT)));
    assert_eq!(bundle["spiffe_sequence"], 7);
    assert_eq!(bundle["spiffe_refresh_hint"], 300);
    let [entry] = bundle["keys"].as_array().unwrap().as_slice() else { panic!("{bundle}") };
    assert_eq!(entry["use"], "x509-svid");
    assert_eq!(entry["kty"], kind);
    assert_eq!(entry[parameter], value);
    assert_eq!(entry["kid"], Value::Null, "X509-SVID 6.1 forbids a kid");
    assert_eq!(entry["x5c"], json!([STANDARD.encode(&root)]));
}

#[test]
fn the_coordinates_are_those_of_the_key() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let root = CertificateParams::default().self_signed(&key).unwrap();
    let bundle = printed(&Bundle::of([root.der()], None, None));
    let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(bundle["keys"][0][name].as_str().unwrap()).unwrap();
    assert_eq!([vec![4], coordinate("x"), coordinate("y")].concat(), key.der_bytes());
}

#[test]
fn without_roots_the_keys_are_there_and_empty() {
    assert_eq!(printed(&Bundle::default()), json!({"keys": []}));
    assert_eq!(parsed(&json!({"keys": []})).unwrap(), Bundle::default());
}

#[rstest]
#[case::for_jwt_svids(json!({"kty": "EC", "use": "jwt-svid", "kid": "a", "crv": "P-256", "x": "AA", "y": "AA"}))]
#[case::use_in_another_case(json!({"kty": "EC", "use": "X509-SVID", "x5c": ["AA=="]}))]
#[case::without_use(json!({"kty": "EC", "x5c": ["AA=="]}))]
#[case::use_is_no_text(json!({"kty": "EC", "use": 1, "x5c": ["AA=="]}))]
#[case::without_kty(json!({"use": "x509-svid", "x5c": ["AA=="]}))]
#[case::of_unknown_kty(json!({"kty": "AKP", "use": "x509-svid", "x5c": ["AA=="]}))]
#[case::without_x5c(json!({"kty": "EC", "use": "x509-svid"}))]
#[case::with_empty_x5c(json!({"kty": "EC", "use": "x509-svid", "x5c": []}))]
#[case::no_object(json!("x509-svid"))]
fn a_key_that_is_no_root_for_us_is_passed_over(#[case] key: Value) {
    let root = &roots()[0];
    let mut bundle = printed(&Bundle::of([root], Some(1), None));
    let keys = bundle["keys"].as_array_mut().unwrap();
    keys.insert(0, key.clone());
    keys.push(key);
    assert_eq!(parsed(&bundle).unwrap(), Bundle::of([root], Some(1), None));
}

#[test]
fn of_several_certificates_in_x5c_the_first_counts() {
    let [first, second, ..] = roots() else { unreachable!() };
    let mut bundle = printed(&Bundle::of([first], None, None));
    bundle["keys"][0]["x5c"].as_array_mut().unwrap().push(STANDARD.encode(second).into());
    assert_eq!(parsed(&bundle).unwrap(), Bundle::of([first], None, None));
}

#[test]
fn a_root_that_stands_twice_counts_once() {
    let root = &roots()[0];
    let mut bundle = printed(&Bundle::of([root], None, None));
    let key = bundle["keys"][0].clone();
    bundle["keys"].as_array_mut().unwrap().push(key);
    assert_eq!(parsed(&bundle).unwrap().roots().count(), 1);
}

#[rstest]
#[case::empty("", "it does not begin with {")]
#[case::pem("-----BEGIN CERTIFICATE-----", "expected a SPIFFE bundle")]
#[case::array("[]", "it does not begin with {")]
#[case::array_of_its_members("[[], 1, 300]", "it does not begin with {")]
#[case::no_keys("{}", "missing field `keys`")]
#[case::keys_null(r#"{"keys": null}"#, "expected a sequence")]
#[case::keys_twice(r#"{"keys": [], "keys": []}"#, "duplicate field `keys`")]
#[case::bytes_behind(r#"{"keys": []} {}"#, "trailing characters")]
#[case::sequence_below_zero(r#"{"keys": [], "spiffe_sequence": -1}"#, "invalid value")]
#[case::sequence_with_a_point(r#"{"keys": [], "spiffe_sequence": 1.5}"#, "invalid type")]
#[case::hint_is_text(r#"{"keys": [], "spiffe_refresh_hint": "300"}"#, "invalid type")]
#[case::no_text(r#"{"keys": [{"kty": "EC", "use": "x509-svid", "x5c": [1]}]}"#, "key 1: ")]
#[case::no_base64(r#"{"keys": [{}, {"kty": "EC", "use": "x509-svid", "x5c": ["%"]}]}"#, "key 2: ")]
#[case::no_certificate(r#"{"keys": [{"kty": "EC", "use": "x509-svid", "x5c": ["AAAA"]}]}"#, "X509-SVID 6.1")]
fn what_is_no_bundle_is_refused_with_the_reason(#[case] text: &str, #[case] reason: &str) {
    let error = Bundle::parse(text.as_bytes()).unwrap_err().to_string();
    assert!(error.contains(reason), "{error}");
}

proptest! {
    #[test]
    fn what_was_printed_reads_as_what_it_was(bundle in any_bundle()) {
        prop_assert_eq!(parsed(&printed(&bundle)), Ok(bundle));
    }

    #[test]
    fn a_bundle_cut_off_anywhere_is_refused(bundle in any_bundle(), at in any::<prop::sample::Index>()) {
        let text = printed(&bundle).to_string();
        prop_assert!(Bundle::parse(&text.as_bytes()[..at.index(text.len())]).is_err());
    }

    /// A flipped bit must not panic, and cannot turn a root into another one: it stays, goes, or the bundle is refused.
    #[test]
    fn a_damaged_bundle_has_no_roots_but_certificates(
        bundle in any_bundle(), at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let mut text = printed(&bundle).to_string().into_bytes();
        let at = at.index(text.len());
        text[at] ^= 1_u8 << bit;
        if let Ok(damaged) = Bundle::parse(&text) {
            for root in damaged.roots() {
                prop_assert!(X509Certificate::from_der(root).is_ok_and(|(behind, _)| behind.is_empty()));
            }
            prop_assert_eq!(parsed(&printed(&damaged)), Ok(damaged));
        }
    }

    #[test]
    fn other_members_are_passed_over(bundle in any_bundle(), name in "[a-z_]{1,12}", value in any::<i64>()) {
        prop_assume!(!["keys", "spiffe_sequence", "spiffe_refresh_hint"].contains(&name.as_str()));
        let mut text = printed(&bundle);
        text[&name] = value.into();
        if let Some(key) = text["keys"].get_mut(0)
            && !["kty", "use", "x5c"].contains(&name.as_str()) {
            key[&name] = value.into();
        }
        prop_assert_eq!(parsed(&text), Ok(bundle));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Bundle::parse(&bytes);
    }
}
