//! SPIFFE IDs and trust domains after the SPIFFE-ID standard, and the view that Istio has of them.
//!
//! The only room that knows the `spiffe` crate and the only one that writes `spiffe://`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A trust domain: 1 to 255 bytes of `[a-z0-9.-_]` (SPIFFE-ID 2.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(spiffe::TrustDomain);

/// A SPIFFE ID with a path (SPIFFE-ID 2): what one workload is called across the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(spiffe::SpiffeId);

/// Why a text is no SPIFFE ID or trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a SPIFFE ID: {fault}")]
pub struct SpiffeIdError {
    text: String,
    fault: String,
}

impl TrustDomain {
    /// The name without scheme, lower-case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        todo!()
    }
}

impl SpiffeId {
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, Istio's form.
    ///
    /// # Errors
    /// When a part holds a character that a path segment may not (SPIFFE-ID 2.2).
    pub fn of_service_account(
        _trust_domain: &TrustDomain,
        _namespace: &str,
        _service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        todo!()
    }
    /// The trust domain that must vouch for this ID.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        todo!()
    }
    /// The namespace, where the path is `/ns/<namespace>/sa/<service account>`.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        todo!()
    }
    /// The service account, where the path is `/ns/<namespace>/sa/<service account>`.
    #[must_use]
    pub fn service_account(&self) -> Option<&str> {
        todo!()
    }
    /// Istio's principal: the ID without its scheme, `cluster.local/ns/default/sa/backend`.
    #[must_use]
    pub fn principal(&self) -> &str {
        todo!()
    }
    /// The whole ID, `spiffe://…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        todo!()
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;
    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        todo!()
    }
}
impl FromStr for SpiffeId {
    type Err = SpiffeIdError;
    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        todo!()
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
