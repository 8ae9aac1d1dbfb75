//! Evidence to SPIFFE ID: who is this caller?
//!
//! One file for each kind of evidence. Whatever the kind, the identity that comes out is of our trust domain and stands
//! in the registrations, or the caller is refused; a registration that is taken away ends renewals too.

pub(crate) mod certificate;
pub(crate) mod delivery;
pub(crate) mod jwt;
pub(crate) mod token;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use pillion_mesh::spiffe::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;

use self::jwt::{Issuers, JwtError};
use self::token::{OneTime, SpendError, TokenError, TokenStore};
use crate::refusal::RefusalId;

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
    /// The kind, as the audit log names it before more is known.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Evidence::Authorization(header) if jwt::is_one(header) => "jwt",
            Evidence::Authorization(_) => "token",
            Evidence::Certificate(_) => "certificate",
            Evidence::Nothing => "none",
        }
    }
}

/// Who the caller is, and what proved it.
#[derive(Debug)]
pub(crate) struct Identified {
    pub(crate) id: SpiffeId,
    /// The kind of the evidence, as the audit log names it.
    pub(crate) evidence: &'static str,
    once: Option<OneTime>,
}

impl Identified {
    /// Uses the evidence up, where it counts once; asked for when all else is right.
    pub(crate) fn spend(&self) -> Result<(), Refusal> {
        self.once.as_ref().map_or(Ok(()), OneTime::spend).map_err(|error| match error {
            SpendError::Spent(error) => Refusal::Token(error),
            SpendError::File(_) => Refusal::NotSpent(error),
        })
    }
}

/// Why evidence is refused. For the log alone: the caller learns only that it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no evidence: neither an Authorization header nor a client certificate")]
    Nothing,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Jwt(#[from] JwtError),
    #[error("the client certificate is no SVID: {0}")]
    Certificate(#[from] pillion_mesh::svid::SvidError),
    #[error(transparent)]
    NotSpent(SpendError),
    #[error("the evidence is for {id}, which is not of the trust domain {expected}")]
    OtherTrustDomain { id: SpiffeId, expected: TrustDomain },
    #[error("the evidence is for {0}, which is not in registrations")]
    NotRegistered(SpiffeId),
}

impl Refusal {
    pub(crate) fn id(&self) -> RefusalId {
        match self {
            Refusal::Nothing => RefusalId::NoEvidence,
            Refusal::Token(TokenError::NotBearer | TokenError::Form) => RefusalId::EvidenceMalformed,
            Refusal::Token(TokenError::Unknown) => RefusalId::TokenUnknown,
            Refusal::Token(TokenError::Expired { .. }) => RefusalId::TokenExpired,
            Refusal::Token(TokenError::Spent { .. }) => RefusalId::TokenReplayed,
            Refusal::Token(TokenError::Damaged(_)) => RefusalId::TokenDamaged,
            Refusal::Jwt(error) => error.id(),
            Refusal::NotSpent(_) => RefusalId::TokenNotSpent,
            Refusal::Certificate(_) => RefusalId::CertificateRefused,
            Refusal::OtherTrustDomain { .. } => RefusalId::ForeignTrustDomain,
            Refusal::NotRegistered(_) => RefusalId::NotRegistered,
        }
    }
}

/// Turns evidence into identities.
pub(crate) struct Attestor {
    trust_domain: TrustDomain,
    registered: BTreeSet<SpiffeId>,
    tokens: TokenStore,
    issuers: Arc<Issuers>,
}

impl Attestor {
    pub(crate) fn new(
        trust_domain: TrustDomain,
        registered: impl IntoIterator<Item = SpiffeId>,
        tokens: TokenStore,
    ) -> Self {
        let registered = registered.into_iter().collect();
        Attestor { trust_domain, registered, tokens, issuers: Arc::default() }
    }

    /// Takes the tokens of these issuers too.
    pub(crate) fn with_issuers(self, issuers: Arc<Issuers>) -> Self {
        Attestor { issuers, ..self }
    }

    /// The identity that the evidence proves at `now`. Tokens of other issuers live by the `world`'s time, which is another
    /// where ours is hurried.
    pub(crate) fn identify(
        &self,
        evidence: &Evidence<'_>,
        now: SystemTime,
        world: SystemTime,
    ) -> Result<Identified, Refusal> {
        let (id, once) = match evidence {
            Evidence::Authorization(header) if jwt::is_one(header) => {
                (self.issuers.identify(token::bearer(header)?, &self.trust_domain, world)?, None)
            }
            Evidence::Authorization(header) => {
                let shown = self.tokens.identify(header, now)?;
                (shown.id, shown.once)
            }
            Evidence::Certificate(leaf) => (certificate::identify(leaf)?, None),
            Evidence::Nothing => return Err(Refusal::Nothing),
        };
        if id.trust_domain() != self.trust_domain {
            return Err(Refusal::OtherTrustDomain { id, expected: self.trust_domain.clone() });
        }
        if !self.registered.contains(&id) {
            return Err(Refusal::NotRegistered(id));
        }
        let evidence = if once.is_some() { "one-time token" } else { evidence.kind() };
        Ok(Identified { id, evidence, once })
    }
}

#[cfg(test)]
mod tests;
