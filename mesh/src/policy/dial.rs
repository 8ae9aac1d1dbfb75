//! How an outbound destination is reached: mTLS or plaintext, with which SNI, and who may answer (auto mTLS and
//! secure naming).

use crate::registry::Destination;
use crate::spiffe::SpiffeId;

/// How to connect, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialPlan {
    /// With or without TLS.
    pub tls: DialTls,
    /// In words, for log and explanation.
    pub because: String,
}

/// The TLS of an outbound leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialTls {
    /// The app's bytes as they are.
    Plaintext,
    /// Mutual TLS with the workload's own certificate.
    IstioMutual {
        /// `outbound_.<port>_.<subset>_.<host>`.
        sni: String,
        /// The server must prove one of these; never empty.
        identities: Vec<SpiffeId>,
    },
}

/// Auto mTLS: to an endpoint with a sidecar whose port is not DISABLE by mutual TLS, to others in plaintext; an
/// unknown destination (`None`) in plaintext.
#[must_use]
pub fn plan(_destination: Option<&Destination>) -> DialPlan {
    todo!()
}
