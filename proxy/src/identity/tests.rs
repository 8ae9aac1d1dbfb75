//! The identity against a CA that misbehaves by name, and against files that change. Time is tokio's paused clock, so
//! hours pass in milliseconds; the CA is in memory.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pillion_mesh::spiffe::{SpiffeId, TrustDomain};
use tokio::time::Instant;

use super::*;
use crate::tls::Clock;

#[cfg(feature = "workload-api")]
mod agent;
mod ca;
mod fake_ca;
mod federation;
mod files;
mod revoked;

const ID: &str = "spiffe://cluster.local/ns/default/sa/backend";

fn id() -> SpiffeId {
    ID.parse().unwrap()
}

fn trust_domain() -> TrustDomain {
    id().trust_domain()
}

/// The wall clock of the test: it moves with tokio's.
fn virtual_clock() -> Clock {
    let (begin, start) = (SystemTime::now(), Instant::now());
    Clock::of(move || begin + start.elapsed())
}

/// Waits until the status says so, in virtual time.
async fn status_until(identity: &Identity, mut holds: impl FnMut(&Status) -> bool) -> Status {
    let mut status = identity.status.clone();
    let found =
        tokio::time::timeout(Duration::from_secs(3600), status.wait_for(|status| holds(status))).await;
    found.expect("it did not come to this within an hour").unwrap().clone()
}

/// Waits for credentials of at least this generation, in virtual time.
async fn credentials_until(identity: &Identity, generation: u64) -> Arc<crate::tls::Credentials> {
    let mut credentials = identity.credentials.clone();
    let wait = credentials.wait_for(|current| current.as_ref().is_some_and(|c| c.generation() >= generation));
    let found = tokio::time::timeout(Duration::from_secs(48 * 3600), wait).await;
    found.expect("they did not come within two days").unwrap().clone().unwrap()
}
