//! The snapshot in force: the latest value, and word of each change.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use pillion_mesh::policy::Snapshot;
use pillion_mesh::registry::Addresses;
use tokio::sync::watch;

use crate::memory;

/// A snapshot with what is known of its loading.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    /// What decides.
    pub(crate) snapshot: Snapshot,
    /// Counts policy loads from 1; unchanged by new addresses.
    pub(crate) version: u64,
    /// When the resources were read.
    pub(crate) loaded: SystemTime,
    /// Why the newest resources were not taken; the snapshot is the last good one then.
    pub(crate) last_error: Option<String>,
}

/// Follows the snapshot in force.
pub(crate) type LiveSnapshot = watch::Receiver<Arc<Published>>;

/// Changes the snapshot in force.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    sender: Arc<watch::Sender<Arc<Published>>>,
    addresses: Arc<Mutex<Arc<Addresses>>>,
}

impl Publisher {
    /// Begins with `snapshot` as version 1.
    pub(crate) fn new(snapshot: Snapshot, now: SystemTime) -> (Self, LiveSnapshot) {
        let first = Published { snapshot, version: 1, loaded: now, last_error: None };
        let (sender, receiver) = watch::channel(Arc::new(first));
        (Self { sender: Arc::new(sender), addresses: Arc::default() }, receiver)
    }

    /// Puts a new policy in force, with the addresses known so far.
    pub(crate) fn policy(&self, snapshot: &Snapshot, now: SystemTime) {
        memory::stirs(); // what was read, and the policy of before
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        self.sender.send_modify(|published| {
            *published = Arc::new(Published {
                snapshot: snapshot.with_addresses(&addresses),
                version: published.version + 1,
                loaded: now,
                last_error: None,
            });
        });
    }

    /// Notes that new resources were not taken. What is in force stays.
    pub(crate) fn failed(&self, error: String) {
        self.sender.send_modify(|published| {
            *published = Arc::new(Published { last_error: Some(error), ..Published::clone(published) });
        });
    }

    /// Puts fresh addresses of names in force. What is known of other names stays.
    pub(crate) fn learn(&self, fresh: Addresses) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if fresh.is_empty() {
            return;
        }
        let addresses = Arc::make_mut(&mut addresses);
        addresses.extend(fresh);
        self.sender.send_modify(|published| {
            let snapshot = published.snapshot.with_addresses(addresses);
            *published = Arc::new(Published { snapshot, ..Published::clone(published) });
        });
    }

    /// Forgets the addresses of names that nobody asks for any more.
    pub(crate) fn forget_names_but(&self, keeps: impl Fn(&str) -> bool) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.keys().any(|name| !keeps(name)) {
            Arc::make_mut(&mut addresses).retain(|name, _| keeps(name));
        }
    }

    /// The addresses of names known so far.
    pub(crate) fn addresses_now(&self) -> Arc<Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is in force now.
    pub(crate) fn current(&self) -> Arc<Published> {
        self.sender.borrow().clone()
    }

    /// Follows what is in force.
    pub(crate) fn subscribe(&self) -> LiveSnapshot {
        self.sender.subscribe()
    }
}
