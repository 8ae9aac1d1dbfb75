//! What a sidecar would say of a certificate chain, for tools that ask without one.

use std::time::SystemTime;

use pillion_mesh::spiffe::TrustDomain;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::tls::{Bundles, judge_chain};

/// A chain that leads to a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The roots that it was judged by: subject and serial number each.
    pub roots: String,
}

/// The certificates of a PEM text, in DER.
///
/// # Errors
/// When a section of it is damaged.
pub fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    CertificateDer::pem_slice_iter(pem)
        .map(|der| der.map(|der| der.to_vec()).map_err(|error| error.to_string()))
        .collect()
}

/// Judges a chain, leaf first, by the bundle of `trust_domain`, a SPIFFE bundle in JSON or PEM: the leaf's and the signers'
/// rules, and a path to a root that is valid `now`, for a client and for a server (RFC 5280 6, X509-SVID 5).
///
/// # Errors
/// What a sidecar with this bundle would refuse it for, or what is wrong with the bundle.
pub fn judge(
    chain: &[Vec<u8>],
    trust_domain: &TrustDomain,
    bundle: &[u8],
    now: SystemTime,
) -> Result<Verified, String> {
    let (bundles, _) =
        Bundles::from_text(trust_domain, bundle).map_err(|fault| format!("the bundle: {fault}"))?;
    let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    judge_chain(&bundles, &chain, now).map_err(|error| error.to_string())?;
    Ok(Verified { roots: bundles.to_string() })
}
