//! Whether connections are served: with a certificate that is valid, and as long as is asked for, at the edge with its ports
//! open, and not while draining.

use std::time::{Duration, SystemTime};

use pillion_mesh::duration;
use pillion_mesh::wire::rfc3339;

use crate::gateway::PortStatus;
use crate::tls::Credentials;

/// Ready or not, and why, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    pub(super) because: String,
}

/// What readiness depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) credentials: Option<&'a Credentials>,
    /// Of the newest try to get a certificate, or revocation lists.
    pub(super) last_error: Option<&'a str>,
    /// How long the certificate has to last, where that counts (`readiness.failBefore`).
    pub(super) fail_before: Option<Duration>,
    /// A port of the edge that is not open yet.
    pub(super) missing: Option<&'a PortStatus>,
    pub(super) draining: bool,
    pub(super) now: SystemTime,
}

/// Judges.
pub(super) fn judge(facts: &Facts<'_>) -> Readiness {
    match refusal(facts) {
        Some(because) => Readiness { ready: false, because },
        None => Readiness { ready: true, because: facts.credentials.map(valid_until).unwrap_or_default() },
    }
}

fn refusal(facts: &Facts<'_>) -> Option<String> {
    let last_error =
        facts.last_error.map(|error| format!("; the last try failed: {error}")).unwrap_or_default();
    if facts.draining {
        return Some("draining: no new connections are taken".to_owned());
    }
    let Some(credentials) = facts.credentials else {
        return Some(format!("there is no certificate yet{last_error}"));
    };
    if let Some(fault) = credentials.unusable_at(facts.now) {
        let cause = if facts.now > credentials.svid.not_after { last_error } else { String::new() };
        return Some(fault + &cause);
    }
    if let Some(PortStatus { port, address, fault }) = facts.missing {
        let fault = fault.as_deref().unwrap_or("not tried yet");
        return Some(format!("gateway port {port} is not listened on at {address}: {fault}"));
    }
    facts.fail_before.filter(|least| facts.now + *least > credentials.svid.not_after).map(|least| {
        format!(
            "{}, which is less than {} from now (readiness.failBefore){last_error}",
            valid_until(credentials),
            duration::print(least)
        )
    })
}

fn valid_until(credentials: &Credentials) -> String {
    let svid = &credentials.svid;
    format!("the certificate of {} is valid until {}", svid.id, rfc3339::print(svid.not_after))
}
