//! Hands credentials and their status to the rest of the proxy, with the revocation lists in force.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use pillion_mesh::reason::Reason;
use tokio::sync::watch;
use tracing::error;

use super::federation::Faults;
use super::{Identity, Status};
use crate::tls::{Credentials, Revocations, Revoked};

/// The writer of an [`Identity`]. Clones write the same one.
#[derive(Debug, Clone)]
pub(super) struct Publisher {
    credentials: watch::Sender<Option<Arc<Credentials>>>,
    status: watch::Sender<Status>,
    gate: Arc<Mutex<Gate>>,
}

/// What has to come together before credentials are handed on.
#[derive(Debug, Default)]
struct Gate {
    revoked: Revoked,
    /// Whether there are to be revocation lists: without them no peer can be judged.
    awaits_lists: bool,
    /// Credentials that wait for them.
    held: Option<Credentials>,
}

impl Publisher {
    pub(super) fn new() -> (Publisher, Identity) {
        let (credentials, live) = watch::channel(None);
        let (status, shown) = watch::channel(Status::default());
        let publisher = Publisher { credentials, status, gate: Arc::default() };
        (publisher, Identity { credentials: live, status: shown, federation: Faults::none() })
    }

    /// Hands no credentials on before there are revocation lists.
    pub(super) fn await_lists(&self) {
        self.gate().awaits_lists = true;
    }

    /// The credentials in use.
    pub(super) fn current(&self) -> Option<Arc<Credentials>> {
        self.credentials.borrow().clone()
    }

    /// The revocation lists in force.
    pub(super) fn revoked(&self) -> Revoked {
        self.gate().revoked.clone()
    }

    /// What the next credentials count as.
    pub(super) fn next_generation(&self) -> u64 {
        self.credentials.borrow().as_ref().map_or(1, |current| current.generation() + 1)
    }

    /// Takes credentials into use for every handshake from now on, by the revocation lists in force; where there are to be
    /// some and none were read yet, as soon as there are.
    pub(super) fn publish(&self, credentials: Credentials) {
        let mut gate = self.gate();
        if gate.awaits_lists && gate.revoked.0.is_none() {
            gate.held = Some(credentials);
        } else {
            self.hand_on(credentials, &gate.revoked);
        }
        self.status.send_modify(|status| {
            status.succeeded += 1;
            status.last_error = None;
        });
    }

    /// Puts revocation lists in force, for handshakes and for open connections.
    pub(super) fn revoke(&self, lists: Arc<Revocations>) {
        self.status.send_modify(|status| {
            status.lists_error = None;
            status.lists = Some(Arc::clone(&lists));
        });
        let mut gate = self.gate();
        gate.revoked = Revoked(Some(lists));
        if let Some(held) = gate.held.take() {
            self.hand_on(held, &gate.revoked);
        } else if let Some(current) = self.current() {
            self.hand_on_again(&current, &gate.revoked);
        }
    }

    /// Why the revocation lists as they are now cannot be used; none when they can be again.
    pub(super) fn lists_failed(&self, fault: Option<String>) {
        self.status.send_modify(|status| status.lists_error = fault);
    }

    fn hand_on(&self, credentials: Credentials, revoked: &Revoked) {
        if *credentials.revoked() == *revoked {
            self.credentials.send_replace(Some(Arc::new(credentials)));
        } else {
            self.hand_on_again(&credentials, revoked);
        }
    }

    fn hand_on_again(&self, credentials: &Credentials, revoked: &Revoked) {
        // Lists may have come since the credentials were counted.
        let generation = credentials.generation().max(self.next_generation());
        match credentials.with_revoked(revoked.clone(), generation) {
            Ok(credentials) => {
                report_own_revocation(&credentials);
                self.credentials.send_replace(Some(Arc::new(credentials)));
            }
            // Cannot happen for credentials that were built before; without lists they must not be used.
            Err(fault) => error!("the credentials cannot be used with the revocation lists: {fault}"),
        }
    }

    /// An attempt failed; what is in use stays.
    pub(super) fn failed(&self, error: String) {
        self.status.send_modify(|status| {
            status.failed += 1;
            status.last_error = Some(error);
        });
    }

    /// What failed works again, and nothing had to be replaced.
    pub(super) fn recovered(&self) {
        self.status.send_modify(|status| status.last_error = None);
    }

    /// When the CA is asked next.
    pub(super) fn scheduled(&self, next: SystemTime) {
        self.status.send_modify(|status| status.next_attempt = Some(next));
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Peers with the same lists will refuse us, and only somebody else can help.
fn report_own_revocation(credentials: &Credentials) {
    if let Err(fault) = credentials.check_own_chain()
        && fault.reason == Reason::CertificateRevoked
    {
        error!(
            "OUR OWN certificate is revoked, and peers refuse it: {}; have a new one issued",
            fault.detail
        );
    }
}
