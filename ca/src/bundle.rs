//! The trust bundle as a SPIFFE bundle: a JWK set with one key for each root (SPIFFE Trust Domain and Bundle 4).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry as oid;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// How often a reader shall look for a newer bundle, in seconds (`spiffe_refresh_hint`).
const REFRESH_HINT: u64 = 300;

/// A SPIFFE bundle.
#[derive(Serialize)]
pub(crate) struct Bundle {
    keys: Vec<Key>,
    spiffe_sequence: u64,
    spiffe_refresh_hint: u64,
}

/// One root: its public key after RFC 7518 and the certificate itself.
#[derive(Serialize)]
struct Key {
    #[serde(rename = "use")]
    usage: &'static str,
    #[serde(flatten)]
    parameters: Parameters,
    x5c: [String; 1],
}

/// A public key's parameters (RFC 7518 6.2.1, 6.3.1).
#[derive(Serialize)]
#[serde(tag = "kty")]
enum Parameters {
    #[serde(rename = "EC")]
    Curve { crv: &'static str, x: String, y: String },
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
}

impl Bundle {
    /// The bundle of these roots; one whose key has no JWK form is left out, which no root of ours is.
    pub(crate) fn of<'a>(
        roots: impl IntoIterator<Item = &'a CertificateDer<'static>>,
        sequence: u64,
    ) -> Self {
        let keys = roots.into_iter().filter_map(|root| key_of(root)).collect();
        Bundle { keys, spiffe_sequence: sequence, spiffe_refresh_hint: REFRESH_HINT }
    }
}

fn key_of(root: &CertificateDer<'_>) -> Option<Key> {
    let (_, certificate) = X509Certificate::from_der(root).ok()?;
    let key = certificate.public_key();
    let parameters = match key.parsed().ok()? {
        PublicKey::EC(point) => {
            let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
            let crv = match curve {
                curve if curve == oid::OID_EC_P256 => "P-256",
                curve if curve == oid::OID_NIST_EC_P384 => "P-384",
                curve if curve == oid::OID_NIST_EC_P521 => "P-521",
                _ => return None,
            };
            let coordinates = point.data().strip_prefix(&[4])?; // uncompressed (SEC 1, 2.3.3)
            let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
            Parameters::Curve { crv, x: URL_SAFE_NO_PAD.encode(x), y: URL_SAFE_NO_PAD.encode(y) }
        }
        PublicKey::RSA(rsa) => Parameters::Rsa { n: unsigned(rsa.modulus), e: unsigned(rsa.exponent) },
        _ => return None,
    };
    Some(Key { usage: "x509-svid", parameters, x5c: [STANDARD.encode(root)] })
}

/// Base64urlUInt: no zero bytes in front (RFC 7518 2).
fn unsigned(number: &[u8]) -> String {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    URL_SAFE_NO_PAD.encode(number.get(start..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rstest::rstest;
    use serde_json::Value;

    use super::*;

    #[rstest]
    #[case(&rcgen::PKCS_ECDSA_P256_SHA256, "EC", "crv", "P-256")]
    #[case(&rcgen::PKCS_ECDSA_P384_SHA384, "EC", "crv", "P-384")]
    #[case(&rcgen::PKCS_RSA_SHA256, "RSA", "e", "AQAB")]
    fn a_root_is_one_key_with_its_certificate(
        #[case] algorithm: &'static rcgen::SignatureAlgorithm,
        #[case] kind: &str,
        #[case] parameter: &str,
        #[case] value: &str,
    ) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let root = CertificateParams::default().self_signed(&key).unwrap();
        let bundle = serde_json::to_value(Bundle::of([root.der()], 7)).unwrap();
        assert_eq!(bundle["spiffe_sequence"], 7);
        assert_eq!(bundle["spiffe_refresh_hint"], 300);
        let [entry] = bundle["keys"].as_array().unwrap().as_slice() else { panic!("{bundle}") };
        assert_eq!(entry["use"], "x509-svid");
        assert_eq!(entry["kty"], kind);
        assert_eq!(entry[parameter], value);
        assert_eq!(entry["kid"], Value::Null, "the standard asks for no kid");
        assert_eq!(entry["x5c"].as_array().unwrap().len(), 1);
        assert_eq!(STANDARD.decode(entry["x5c"][0].as_str().unwrap()).unwrap(), root.der().as_ref());
    }

    #[test]
    fn the_coordinates_are_those_of_the_key() {
        use rcgen::PublicKeyData;
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let root = CertificateParams::default().self_signed(&key).unwrap();
        let bundle = serde_json::to_value(Bundle::of([root.der()], 1)).unwrap();
        let coordinate =
            |name: &str| URL_SAFE_NO_PAD.decode(bundle["keys"][0][name].as_str().unwrap()).unwrap();
        assert_eq!([vec![4], coordinate("x"), coordinate("y")].concat(), key.der_bytes());
    }

    #[test]
    fn without_roots_the_keys_are_there_and_empty() {
        let bundle = serde_json::to_value(Bundle::of([], 1)).unwrap();
        assert_eq!(bundle["keys"], serde_json::json!([]));
    }
}
