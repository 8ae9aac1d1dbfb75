//! A trust bundle as a SPIFFE bundle: a JWK set with one key for each root (SPIFFE Trust Domain and Bundle 4, X509-SVID 6).
//!
//! Whose bundle it is stands nowhere in it: the reader knows that from where it asked. Whether a root may sign identities
//! is asked of `svid::check_signer` by those who trust it.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry as oid;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// What a key of the JWK set is for, where it is a root of X.509 certificates (X509-SVID 6.1). Case counts.
const USE: &str = "x509-svid";
/// The key types that are known here (RFC 7518 6.1, RFC 8037 2).
const KEY_TYPES: [&str; 3] = ["EC", "RSA", "OKP"];

/// The roots of one trust domain, each once, in the order of the bundle. Without roots it says that the trust domain has
/// revoked all that it had.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bundle {
    roots: Vec<Root>,
    /// Counts up with each change of the bundle (`spiffe_sequence`).
    pub sequence: Option<u64>,
    /// How often to look for a newer one, in whole seconds (`spiffe_refresh_hint`).
    pub refresh_hint: Option<Duration>,
}

/// A certificate and its public key as a JWK has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Root {
    der: Vec<u8>,
    key: Parameters,
}

/// Why bytes are no SPIFFE bundle. The number counts the elements of `keys` from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Not JSON, or not a JWK set.
    #[error("expected a SPIFFE bundle, a JSON object with an array `keys`: {0}")]
    Json(String),
    /// A root that cannot be read. The whole bundle is refused then: it is damaged, and the next root may be missing.
    #[error("key {number}: expected in x5c a certificate, base64 of DER (X509-SVID 6.1): {fault}")]
    Certificate {
        /// Which one.
        number: usize,
        /// What was seen.
        fault: String,
    },
}

impl Bundle {
    /// A bundle of certificates in DER. One that cannot be read, or whose key has no JWK form, is left out.
    #[must_use]
    pub fn of<R: AsRef<[u8]>>(
        roots: impl IntoIterator<Item = R>,
        sequence: Option<u64>,
        refresh_hint: Option<Duration>,
    ) -> Self {
        let roots = roots.into_iter().filter_map(|der| Root::read(der.as_ref().to_vec()).ok().flatten());
        Bundle { roots: unique(roots), sequence, refresh_hint }
    }

    /// Reads a bundle. What is unknown is passed over: other members, keys of other kinds and for other uses, such as
    /// those of JWT-SVIDs; of an `x5c` with several certificates the first counts (X509-SVID 6.2).
    ///
    /// # Errors
    /// [`BundleError`]: a bundle is taken whole or not at all.
    pub fn parse(json: &[u8]) -> Result<Self, BundleError> {
        // serde would take an array of the members' values too.
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err(BundleError::Json("it does not begin with {".to_owned()));
        }
        let set: KeySet =
            serde_json::from_slice(json).map_err(|error| BundleError::Json(error.to_string()))?;
        let mut roots = Vec::new();
        for (number, key) in (1..).zip(&set.keys) {
            let fault = |fault| BundleError::Certificate { number, fault };
            let Some(certificate) = certificate_of(key) else { continue };
            roots.extend(decoded(certificate).and_then(Root::read).map_err(fault)?);
        }
        Ok(Bundle {
            roots: unique(roots),
            sequence: set.spiffe_sequence,
            refresh_hint: set.spiffe_refresh_hint.map(Duration::from_secs),
        })
    }

    /// The certificates in DER.
    pub fn roots(&self) -> impl Iterator<Item = &[u8]> {
        self.roots.iter().map(|root| root.der.as_slice())
    }
}

/// The bundle as text. Members that are not set are left out, `keys` is always there.
impl Serialize for Bundle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Bundle { roots, sequence, refresh_hint } = self;
        let members = 1 + usize::from(sequence.is_some()) + usize::from(refresh_hint.is_some());
        let mut object = serializer.serialize_struct("Bundle", members)?;
        object.serialize_field("keys", &roots.iter().map(Root::key).collect::<Vec<_>>())?;
        match sequence {
            Some(sequence) => object.serialize_field("spiffe_sequence", sequence)?,
            None => object.skip_field("spiffe_sequence")?,
        }
        match refresh_hint {
            Some(hint) => object.serialize_field("spiffe_refresh_hint", &hint.as_secs())?,
            None => object.skip_field("spiffe_refresh_hint")?,
        }
        object.end()
    }
}

// Reading

/// A JWK set with the members that SPIFFE adds.
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u64>,
}

/// The certificate of a key that is a root of X.509 certificates; none where the key has to be passed over.
fn certificate_of(key: &Value) -> Option<&Value> {
    let is_one_of_ours = key.get("use")? == USE && KEY_TYPES.contains(&key.get("kty")?.as_str()?);
    is_one_of_ours.then(|| key.get("x5c")?.as_array()?.first()).flatten()
}

fn decoded(certificate: &Value) -> Result<Vec<u8>, String> {
    let text = certificate.as_str().ok_or("it is no text")?;
    STANDARD.decode(text).map_err(|error| error.to_string())
}

fn unique(roots: impl IntoIterator<Item = Root>) -> Vec<Root> {
    let mut unique: Vec<Root> = Vec::new();
    for root in roots {
        if !unique.contains(&root) {
            unique.push(root);
        }
    }
    unique
}

impl Root {
    /// None where the key is of a kind that has no JWK form here.
    fn read(der: Vec<u8>) -> Result<Option<Root>, String> {
        let (behind, certificate) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        if !behind.is_empty() {
            return Err(format!("{} bytes behind the certificate", behind.len()));
        }
        let key = Parameters::of(&certificate);
        Ok(key.map(|key| Root { der, key }))
    }

    fn key(&self) -> Key<'_> {
        Key { usage: USE, parameters: &self.key, x5c: [STANDARD.encode(&self.der)] }
    }
}

// Writing

/// One element of `keys`: the public key after RFC 7518 and the certificate itself. It has no `kid` (X509-SVID 6.1).
#[derive(Serialize)]
struct Key<'r> {
    #[serde(rename = "use")]
    usage: &'static str,
    #[serde(flatten)]
    parameters: &'r Parameters,
    x5c: [String; 1],
}

/// A public key's parameters (RFC 7518 6.2.1 and 6.3.1, RFC 8037 2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kty")]
enum Parameters {
    #[serde(rename = "EC")]
    Curve { crv: &'static str, x: String, y: String },
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
    #[serde(rename = "OKP")]
    Octets { crv: &'static str, x: String },
}

impl Parameters {
    fn of(certificate: &X509Certificate<'_>) -> Option<Parameters> {
        let key = certificate.public_key();
        if key.algorithm.algorithm == oid::OID_SIG_ED25519 {
            let x = URL_SAFE_NO_PAD.encode(&key.subject_public_key.data);
            return Some(Parameters::Octets { crv: "Ed25519", x });
        }
        match key.parsed().ok()? {
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
                Some(Parameters::Curve { crv, x: URL_SAFE_NO_PAD.encode(x), y: URL_SAFE_NO_PAD.encode(y) })
            }
            PublicKey::RSA(rsa) => {
                Some(Parameters::Rsa { n: unsigned(rsa.modulus), e: unsigned(rsa.exponent) })
            }
            _ => None,
        }
    }
}

/// Base64urlUInt: no zero bytes in front (RFC 7518 2).
fn unsigned(number: &[u8]) -> String {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    URL_SAFE_NO_PAD.encode(number.get(start..).unwrap_or_default())
}

#[cfg(test)]
mod tests;
