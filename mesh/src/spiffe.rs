//! SPIFFE IDs and trust domains after the SPIFFE-ID standard, and the view that Istio has of them.
//!
//! The only room that knows the `spiffe` crate and the only one that writes `spiffe://`. An ID has exactly one spelling
//! here, so two IDs are the same if and only if their bytes are. SPIFFE-ID 2.4 calls scheme and trust domain
//! case-insensitive, and 2.1 wants the trust domain lower-case: an ID in any other spelling is refused, never folded, so
//! that no certificate, log line or policy can hold a second form of one name.

pub mod bundle;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest SPIFFE ID in bytes, scheme included. Implementations must support this much (SPIFFE-ID 2.3); here longer
/// ones are refused, since an ID goes into logs, metrics and policies.
pub const MAX_ID_LENGTH: usize = 2048;

/// A trust domain: 1 to 255 bytes of `[a-z0-9.-_]` (SPIFFE-ID 2.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(spiffe::TrustDomain);

/// A SPIFFE ID with a path (SPIFFE-ID 2), of at most [`MAX_ID_LENGTH`] bytes: what one workload is called across the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    // Shared, since each connection names the same few.
    text: Arc<str>,
    id: Arc<spiffe::SpiffeId>,
}

/// Why a text is no SPIFFE ID or trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {wanted}: {fault}")]
pub struct SpiffeIdError {
    text: String,
    wanted: &'static str,
    fault: String,
}

impl TrustDomain {
    /// The name without scheme, lower-case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The ID of a signing certificate of this trust domain: `spiffe://<trust domain>` without a path (X509-SVID 3.2).
    #[must_use]
    pub fn uri(&self) -> String {
        self.0.id_string()
    }

    /// The trust domain that a signing certificate's ID names: `spiffe://<trust domain>` without a path (X509-SVID 3.2).
    pub(crate) fn of_signer(id: &str) -> Result<Self, SpiffeIdError> {
        let error = |fault| SpiffeIdError::new(id, "SPIFFE ID of a signing certificate", fault);
        let parsed = parse_exactly(id).map_err(error)?;
        if !parsed.path().is_empty() {
            return Err(error("it must not have a path (X509-SVID 3.2)".to_owned()));
        }
        Ok(Self(parsed.trust_domain().clone()))
    }
}

impl SpiffeId {
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, Istio's form.
    ///
    /// # Errors
    /// When a part is empty or holds a character that a path segment may not (SPIFFE-ID 2.2), or the whole is longer
    /// than [`MAX_ID_LENGTH`].
    pub fn of_service_account(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        let segments = ["ns", namespace, "sa", service_account];
        spiffe::SpiffeId::from_segments(trust_domain.0.clone(), &segments).map(Self::new).map_err(|fault| {
            let text = format!("{}/{}", trust_domain.0.id_string(), segments.join("/"));
            SpiffeIdError::new(&text, "SPIFFE ID", fault.to_string())
        })
    }

    /// The ID of a [`Self::principal`].
    pub(crate) fn of_principal(principal: &str) -> Result<Self, SpiffeIdError> {
        format!("{SCHEME}{principal}").parse()
    }

    /// The trust domain that must vouch for this ID.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.id.trust_domain().clone())
    }

    /// The namespace, where the path is `/ns/<namespace>/sa/<service account>`.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.service_account_path().map(|(namespace, _)| namespace)
    }

    /// The service account, where the path is `/ns/<namespace>/sa/<service account>`.
    #[must_use]
    pub fn service_account(&self) -> Option<&str> {
        self.service_account_path().map(|(_, service_account)| service_account)
    }

    /// Istio's principal: the ID without its scheme, `cluster.local/ns/default/sa/backend`.
    #[must_use]
    pub fn principal(&self) -> &str {
        self.text.strip_prefix(SCHEME).unwrap_or(&self.text)
    }

    /// The whole ID, `spiffe://…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn new(id: spiffe::SpiffeId) -> Self {
        Self { text: id.to_string().into(), id: Arc::new(id) }
    }

    fn service_account_path(&self) -> Option<(&str, &str)> {
        let (namespace, service_account) = self.id.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        let one_segment_each = !namespace.contains('/') && !service_account.contains('/');
        one_segment_each.then_some((namespace, service_account))
    }
}

/// Scheme and separator of every SPIFFE ID.
const SCHEME: &str = "spiffe://";

/// Whether a URI means to be a SPIFFE ID, well-formed or not. For signing certificates, whose other URIs mean nothing.
pub(crate) fn claims_spiffe_scheme(uri: &str) -> bool {
    uri.get(.."spiffe:".len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
}

/// Parses an ID, with or without a path, that prints as the very text it was parsed from.
fn parse_exactly(text: &str) -> Result<spiffe::SpiffeId, String> {
    if text.len() > MAX_ID_LENGTH {
        return Err(format!(
            "it has {} bytes, at most {MAX_ID_LENGTH} are allowed (SPIFFE-ID 2.3)",
            text.len()
        ));
    }
    let id = spiffe::SpiffeId::new(text).map_err(|fault| fault.to_string())?;
    if id.to_string() != text {
        return Err(format!("scheme and trust domain must be lower-case (SPIFFE-ID 2.1); write {id}"));
    }
    Ok(id)
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |fault| SpiffeIdError::new(text, "trust domain", fault);
        // The crate takes the trust domain out of a whole ID too.
        let name = spiffe::TrustDomain::new(text).map_err(|fault| error(fault.to_string()))?;
        if name.as_str() != text {
            return Err(error(format!(
                "it must be a lower-case name without scheme or path (SPIFFE-ID 2.1); write {name}"
            )));
        }
        Ok(Self(name))
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |fault| SpiffeIdError::new(text, "SPIFFE ID", fault);
        let id = parse_exactly(text).map_err(error)?;
        if id.path().is_empty() {
            return Err(error(
                "it names a trust domain but no workload: the path is missing (X509-SVID 3.1)".to_owned(),
            ));
        }
        Ok(Self::new(id))
    }
}

impl SpiffeIdError {
    fn new(text: &str, wanted: &'static str, fault: String) -> Self {
        /// Of the text of a stranger's certificate, more is noise.
        const SHOWN: usize = 120;
        let shown: String = text.chars().take(SHOWN).collect();
        let text = if shown.len() < text.len() { shown + "…" } else { shown };
        Self { text, wanted, fault }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Some identities in words, of many the first: `a or b`, `no identity at all`.
#[must_use]
pub fn alternatives(identities: &[SpiffeId]) -> String {
    /// Of more, nobody would read them.
    const NAMED: usize = 8;
    let named = identities.iter().take(NAMED).map(ToString::to_string);
    let more = identities.len().saturating_sub(NAMED);
    let more = (more > 0).then(|| format!("one of {more} more"));
    let words: Vec<String> = named.chain(more).collect();
    if words.is_empty() { "no identity at all".to_owned() } else { words.join(" or ") }
}

#[cfg(test)]
mod tests;
