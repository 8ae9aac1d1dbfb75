//! Evidence to SPIFFE ID: who is this caller?
//!
//! One file for each kind of evidence. Whatever the kind, the identity that comes out is of our trust domain and stands
//! in the registrations, or the caller is refused; a registration that is taken away ends renewals too.

pub(crate) mod certificate;
pub(crate) mod delivery;
pub(crate) mod token;

use std::collections::BTreeSet;
use std::time::SystemTime;

use pillion_mesh::spiffe::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;

use self::token::{TokenError, TokenStore};

/// What a caller shows for its identity.
pub(crate) enum Evidence<'a> {
    /// The value of the `Authorization` header.
    Authorization(&'a [u8]),
    /// The leaf of a client certificate whose chain the TLS handshake has verified against our root.
    Certificate(&'a CertificateDer<'static>),
    /// Neither.
    Nothing,
}

impl Evidence<'_> {
    /// The kind, as the audit log names it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Evidence::Authorization(_) => "token",
            Evidence::Certificate(_) => "certificate",
            Evidence::Nothing => "none",
        }
    }
}

/// Why evidence is refused. For the log alone: the caller learns only that it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no evidence: neither an Authorization header nor a client certificate")]
    Nothing,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the client certificate is no SVID: {0}")]
    Certificate(#[from] pillion_mesh::svid::SvidError),
    #[error("the evidence is for {id}, which is not of the trust domain {expected}")]
    OtherTrustDomain { id: SpiffeId, expected: TrustDomain },
    #[error("the evidence is for {0}, which is not in registrations")]
    NotRegistered(SpiffeId),
}

/// Turns evidence into identities.
pub(crate) struct Attestor {
    trust_domain: TrustDomain,
    registered: BTreeSet<SpiffeId>,
    tokens: TokenStore,
}

impl Attestor {
    pub(crate) fn new(
        trust_domain: TrustDomain,
        registered: impl IntoIterator<Item = SpiffeId>,
        tokens: TokenStore,
    ) -> Self {
        Attestor { trust_domain, registered: registered.into_iter().collect(), tokens }
    }

    /// The identity that the evidence proves.
    pub(crate) fn identify(&self, evidence: &Evidence<'_>, now: SystemTime) -> Result<SpiffeId, Refusal> {
        let id = match evidence {
            Evidence::Authorization(header) => self.tokens.identify(header, now)?,
            Evidence::Certificate(leaf) => certificate::identify(leaf)?,
            Evidence::Nothing => return Err(Refusal::Nothing),
        };
        if id.trust_domain() != self.trust_domain {
            return Err(Refusal::OtherTrustDomain { id, expected: self.trust_domain.clone() });
        }
        if !self.registered.contains(&id) {
            return Err(Refusal::NotRegistered(id));
        }
        Ok(id)
    }
}

#[cfg(test)]
mod tests;
