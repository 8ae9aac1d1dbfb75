//! JSON Web Tokens of other issuers as evidence (RFC 7519), such as the projected service-account tokens of Kubernetes.
//!
//! Which issuers, and for which audience, the settings say. What a token must say is in [`pillion_mesh::jwt`], its form and
//! signature in [`compact`], the issuer's keys in [`keys`], and where those come from in [`source`]. The signature is checked with
//! aws-lc-rs, which is here for TLS: a token names its key and its algorithm, and only an algorithm of that very key counts
//! (RFC 8725 3.1). So there is no `none`, and no key of one kind taken for another.

mod compact;
mod fetch;
mod keys;
mod source;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use pillion_mesh::jwt::ClaimError;
use pillion_mesh::spiffe::{SpiffeId, TrustDomain};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use self::compact::Compact;
use self::source::Keys;
use crate::refusal::RefusalId;

/// An issuer whose tokens count, as the settings name it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Issuer {
    /// The claim `iss`, to the letter.
    pub(crate) issuer: String,
    /// What the claim `aud` must hold.
    pub(crate) audience: String,
    pub(crate) jwks: Jwks,
}

/// Where an issuer's keys are: a file, or a URL.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Jwks {
    pub(crate) file: Option<PathBuf>,
    pub(crate) url: Option<String>,
    /// What the URL's server is verified with; absent: the system's roots.
    pub(crate) ca_file: Option<PathBuf>,
}

impl Jwks {
    /// Whether it names one place that keys can come from.
    ///
    /// # Errors
    /// What was expected.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match (&self.file, &self.url, &self.ca_file) {
            (Some(_), None, None) => Ok(()),
            (None, Some(url), ca_file) => match fetch::Origin::parse(url, ca_file.clone()) {
                Some(_) => Ok(()),
                None => Err("expected a url such as https://host:6443/openid/v1/jwks"),
            },
            (Some(_), None, Some(_)) => Err("caFile is for a url"),
            _ => Err("expected exactly one of file and url"),
        }
    }
}

/// Why a token is refused. Holds nothing of it but what names its owner.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JwtError {
    #[error("the token is no JSON Web Token: {0}")]
    Form(&'static str),
    #[error("the token is of the issuer {0:?}, which attestation.jwt does not name")]
    UnknownIssuer(String),
    #[error("the token names the key {kid:?}; {issuer} has {known}")]
    NoKey { kid: String, issuer: String, known: String },
    #[error("the token's signature does not verify by its key of {0}, or is of another algorithm")]
    Signature(String),
    #[error(transparent)]
    Claims(#[from] ClaimError),
}

impl JwtError {
    pub(crate) fn id(&self) -> RefusalId {
        match self {
            JwtError::Form(_) | JwtError::Signature(_) => RefusalId::JwtInvalid,
            JwtError::UnknownIssuer(_) | JwtError::Claims(ClaimError::Issuer { .. }) => {
                RefusalId::JwtUnknownIssuer
            }
            JwtError::NoKey { .. } => RefusalId::JwtNoKey,
            JwtError::Claims(ClaimError::Endless | ClaimError::Expired { .. }) => RefusalId::JwtExpired,
            JwtError::Claims(ClaimError::NotYetValid { .. }) => RefusalId::JwtNotYetValid,
            JwtError::Claims(ClaimError::Audience { .. }) => RefusalId::JwtAudience,
            JwtError::Claims(ClaimError::Subject(_)) => RefusalId::JwtSubject,
        }
    }
}

/// The issuers whose tokens count, with their keys.
#[derive(Default)]
pub(crate) struct Issuers(Vec<(Issuer, Arc<Keys>)>);

impl Issuers {
    /// Reads the keys that are in files. An issuer whose keys cannot be read has none until they can.
    pub(crate) fn new(issuers: &[Issuer]) -> Self {
        Issuers(issuers.iter().map(|issuer| (issuer.clone(), Arc::new(Keys::new(issuer)))).collect())
    }

    /// Keeps the keys fresh until `stop`. Call it inside a runtime.
    pub(crate) fn watch(&self, stop: &CancellationToken) {
        for (_, keys) in &self.0 {
            let (keys, stop) = (Arc::clone(keys), stop.clone());
            tokio::spawn(async move { stop.run_until_cancelled(keys.keep_fresh()).await });
        }
    }

    /// The identity that the token proves.
    pub(crate) fn identify(
        &self,
        token: &str,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<SpiffeId, JwtError> {
        let token = Compact::parse(token)?;
        let named = |(issuer, _): &&(Issuer, Arc<Keys>)| issuer.issuer == token.claims.iss;
        let (issuer, keys) =
            self.0.iter().find(named).ok_or_else(|| JwtError::UnknownIssuer(shortened(&token.claims.iss)))?;
        let set = keys.current();
        let Some(key) = set.find(token.kid()) else {
            keys.wanted();
            return Err(JwtError::NoKey {
                kid: shortened(token.kid().unwrap_or_default()),
                issuer: issuer.issuer.clone(),
                known: set.to_string(),
            });
        };
        token.verify(key).map_err(|()| JwtError::Signature(issuer.issuer.clone()))?;
        token.claims.check(&issuer.issuer, &issuer.audience, now)?;
        Ok(token.claims.service_account(trust_domain)?)
    }
}

/// Whether an `Authorization` header holds a token of this form rather than one of ours, which has no dot.
pub(crate) fn is_one(header: &[u8]) -> bool {
    header.iter().filter(|byte| **byte == b'.').count() == 2
}

/// Reads a set of keys for nothing but to see whether it can be read.
pub(crate) fn read_keys(json: &[u8]) -> Result<(), String> {
    keys::KeySet::parse(json).map(drop)
}

/// What a stranger wrote, cut to what a log line can bear.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 100;
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
