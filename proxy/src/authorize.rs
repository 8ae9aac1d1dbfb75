//! Asks the AuthorizationPolicies about one inbound connection, or about a request on it: what is known to facts, the
//! verdict to the record.
//!
//! What the policies say is `pillion_mesh::policy::authz`'s to decide.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use pillion_mesh::policy::authz::{Facts, HttpFacts, Permit, Policies, Shadow, Verdict};
use pillion_mesh::reason::Reason;
use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::wire::{AuthorizationRecord, ShadowRecord};

use crate::net::relay::End;
use crate::outbound::refuse;

/// What is known of a connection once it was admitted; kept, so that changed policies can be asked again.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// The identity that the client has proved; none in plaintext.
    pub(crate) peer: Option<SpiffeId>,
    /// The client's address.
    pub(crate) source: IpAddr,
    /// Where it was going.
    pub(crate) destination: SocketAddr,
    /// The server name of its ClientHello.
    pub(crate) sni: Option<String>,
    /// The DER of the certificate by which the client proved its identity.
    pub(crate) certificate: Option<Arc<[u8]>>,
}

impl Known {
    /// The decision for the connection as a whole, and what the record says of it.
    pub(crate) fn ask(&self, policies: &Policies) -> (Result<Permit, End>, AuthorizationRecord) {
        let (outcome, record) = decide(policies, &self.facts());
        (outcome.map_err(|because| refuse(Reason::AuthorizationDenied, because)), record)
    }

    /// The decision for one request on the connection that came by way of `remote`, and what its record says of it; the
    /// error is in words.
    pub(crate) fn ask_request(
        &self,
        policies: &Policies,
        request: HttpFacts<'_>,
        remote: IpAddr,
    ) -> (Result<Permit, String>, AuthorizationRecord) {
        decide(policies, &Facts { http: Some(request), remote, ..self.facts() })
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            peer: self.peer.as_ref(),
            source: self.source,
            remote: self.source,
            destination: self.destination,
            sni: self.sni.as_deref(),
            http: None,
        }
    }
}

fn decide(policies: &Policies, facts: &Facts<'_>) -> (Result<Permit, String>, AuthorizationRecord) {
    let Verdict { outcome, audited, shadow } = policies.authorize(facts);
    let because = match &outcome {
        Ok(permit) => permit.because().to_string(),
        Err(denial) => denial.to_string(),
    };
    let record = AuthorizationRecord {
        allowed: outcome.is_ok(),
        because: because.clone(),
        audited: audited.map(|rule| rule.to_string()),
        shadow: in_short(&shadow),
    };
    (outcome.map_err(|_denial| because), record)
}

/// What the dry runs come to: a DENY that matches, else what the ALLOW policies say.
fn in_short(shadow: &Shadow) -> Option<ShadowRecord> {
    let denied = shadow.deny.as_ref().filter(|result| !result.allowed);
    let result = denied.or(shadow.allow.as_ref()).or(shadow.deny.as_ref())?;
    Some(ShadowRecord { allowed: result.allowed, rule: result.rule.as_ref().map(ToString::to_string) })
}
