//! Hands credentials and their status to the rest of the proxy.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::federation::Faults;
use super::{Identity, Status};
use crate::tls::Credentials;

/// The one writer of an [`Identity`].
#[derive(Debug)]
pub(super) struct Publisher {
    credentials: watch::Sender<Option<Arc<Credentials>>>,
    status: watch::Sender<Status>,
}

impl Publisher {
    pub(super) fn new() -> (Publisher, Identity) {
        let (credentials, live) = watch::channel(None);
        let (status, shown) = watch::channel(Status::default());
        (
            Publisher { credentials, status },
            Identity { credentials: live, status: shown, federation: Faults::none() },
        )
    }

    /// The credentials in use.
    pub(super) fn current(&self) -> Option<Arc<Credentials>> {
        self.credentials.borrow().clone()
    }

    /// What the next credentials count as.
    pub(super) fn next_generation(&self) -> u64 {
        self.credentials.borrow().as_ref().map_or(1, |current| current.generation() + 1)
    }

    /// Takes credentials into use for every handshake from now on.
    pub(super) fn publish(&self, credentials: Credentials) {
        self.credentials.send_replace(Some(Arc::new(credentials)));
        self.status.send_modify(|status| {
            status.succeeded += 1;
            status.last_error = None;
        });
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
}
