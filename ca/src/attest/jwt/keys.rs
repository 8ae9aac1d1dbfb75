//! An issuer's keys: a JWK set (RFC 7517) as far as signatures are verified by it.

use std::fmt;

use aws_lc_rs::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// Most keys that are kept of one set.
const MOST_KEYS: usize = 100;

/// The algorithms that are accepted; whoever reads a header of another fails (RFC 8725 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    #[serde(alias = "Ed25519")]
    EdDSA,
}

/// A set of keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct KeySet(Vec<Key>);

/// A key that verifies.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    kid: Option<String>,
    /// The only algorithm that it is for, where it says so.
    alg: Option<String>,
    material: Material,
}

#[derive(Debug, PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Points uncompressed (SEC 1, 2.3.3).
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct SetDocument {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct KeyDocument {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a set. Keys of kinds that verify nothing here are passed over (RFC 7517 5), among them all secret ones.
    ///
    /// # Errors
    /// What was expected, where that is no JWK set or has no key that can be used.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let set: SetDocument = serde_json::from_slice(json)
            .map_err(|error| format!("expected a JWK set, {{\"keys\": […]}}: {error}"))?;
        let total = set.keys.len();
        let keys: Vec<_> = set.keys.into_iter().filter_map(key).take(MOST_KEYS).collect();
        if keys.is_empty() {
            return Err(format!(
                "none of its {total} keys verifies signatures of RSA, P-256, P-384 or Ed25519"
            ));
        }
        Ok(KeySet(keys))
    }

    /// The key of this name; without a name the only key that there is.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<&Key> {
        match (kid, self.0.as_slice()) {
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(_), keys) => keys.iter().find(|key| key.kid.as_deref() == kid),
        }
    }
}

/// Which keys there are, for a log line.
impl fmt::Display for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        let names: Vec<_> =
            self.0.iter().map(|key| key.kid.as_deref().unwrap_or("(without a name)")).collect();
        match names.as_slice() {
            [] => f.write_str("no keys yet"),
            names if names.len() <= SHOWN => write!(f, "{names:?}"),
            names => write!(f, "{} keys", names.len()),
        }
    }
}

fn key(document: serde_json::Value) -> Option<Key> {
    let document: KeyDocument = serde_json::from_value(document).ok()?;
    if document.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return None;
    }
    let part = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
    let point = |size: usize| {
        let (x, y) = (part(&document.x)?, part(&document.y)?);
        (x.len() == size && y.len() == size).then(|| [vec![4], x, y].concat())
    };
    let material = match (document.kty.as_str(), document.crv.as_deref()) {
        ("RSA", _) => Material::Rsa { n: part(&document.n)?, e: part(&document.e)? },
        ("EC", Some("P-256")) => Material::P256(point(32)?),
        ("EC", Some("P-384")) => Material::P384(point(48)?),
        ("OKP", Some("Ed25519")) => Material::Ed25519(part(&document.x).filter(|x| x.len() == 32)?),
        _ => return None,
    };
    Some(Key { kid: document.kid, alg: document.alg, material })
}

impl Key {
    /// Checks a signature; `alg` is what its maker says, and must be one of this key's kind.
    pub(super) fn verify(&self, alg: Algorithm, message: &[u8], signature: &[u8]) -> Result<(), ()> {
        if self.alg.as_deref().is_some_and(|own| own != alg.name()) {
            return Err(());
        }
        let point = |algorithm: &'static dyn VerificationAlgorithm, point: &[u8]| {
            UnparsedPublicKey::new(algorithm, point).verify(message, signature).map_err(drop)
        };
        match (&self.material, alg) {
            (Material::P256(key), Algorithm::ES256) => point(&signature::ECDSA_P256_SHA256_FIXED, key),
            (Material::P384(key), Algorithm::ES384) => point(&signature::ECDSA_P384_SHA384_FIXED, key),
            (Material::Ed25519(key), Algorithm::EdDSA) => point(&signature::ED25519, key),
            (Material::Rsa { n, e }, alg) => {
                let parameters = alg.rsa().ok_or(())?;
                let key = RsaPublicKeyComponents { n: n.as_slice(), e: e.as_slice() };
                key.verify(parameters, message, signature).map_err(drop)
            }
            _ => Err(()),
        }
    }
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Algorithm::RS256 => "RS256",
            Algorithm::RS384 => "RS384",
            Algorithm::RS512 => "RS512",
            Algorithm::PS256 => "PS256",
            Algorithm::PS384 => "PS384",
            Algorithm::PS512 => "PS512",
            Algorithm::ES256 => "ES256",
            Algorithm::ES384 => "ES384",
            Algorithm::EdDSA => "EdDSA",
        }
    }

    /// From 2048 bits on.
    fn rsa(self) -> Option<&'static signature::RsaParameters> {
        Some(match self {
            Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
            Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
            Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
            _ => return None,
        })
    }
}
