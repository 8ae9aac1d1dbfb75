//! The leaf rules of the X509-SVID standard: DER in, SPIFFE ID out, or the clause that is broken.
//!
//! Leaves the signature path to webpki (`proxy::tls::verify`).

use std::time::SystemTime;

use crate::spiffe::SpiffeId;

/// A leaf certificate that keeps every rule. Its chain is not yet proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Svid {
    /// The one URI SAN.
    pub id: SpiffeId,
    /// Serial number in lower-case hexadecimal.
    pub serial: String,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

/// A broken rule: the clause of the standard, what it asks for and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("X509-SVID {clause}: {expected}; seen: {seen}")]
pub struct SvidError {
    /// Section of the X509-SVID standard, or the RFC and section it rests on.
    pub clause: &'static str,
    /// What the clause asks for.
    pub expected: &'static str,
    /// What the certificate has.
    pub seen: String,
}

/// Checks a leaf against every MUST of X509-SVID 2 to 5. Validity dates are read, not judged.
///
/// # Errors
/// The first broken clause.
pub fn check_leaf(_der: &[u8]) -> Result<Svid, SvidError> {
    todo!()
}

/// Checks a signing certificate of a verified path: cA, keyCertSign, no path in its SPIFFE ID if it has one
/// (X509-SVID 3, 4), and no URI name constraints, which nobody here enforces (RFC 5280 6.1.4 (g)).
///
/// # Errors
/// The first broken clause.
pub fn check_signer(_der: &[u8]) -> Result<(), SvidError> {
    todo!()
}
