//! Word of what happens to connections, for those who look on (`/events`). Nobody waits for them: one who is slow loses
//! the oldest, and is told how many.

use std::sync::Arc;

use pillion_mesh::wire::{ConnectionRecord, RequestRecord};
use tokio::sync::broadcast::{Receiver, Sender};

/// Events that wait for the slowest at most.
const WAITING: usize = 256;
/// Who may look on at the same time.
pub(crate) const MAX_ONLOOKERS: usize = 8;

/// Something that happened.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A connection was admitted, or is over.
    Connection(Arc<ConnectionRecord>),
    /// A request was refused or cut.
    Request(Arc<RequestRecord>),
}

/// Those who look on.
#[derive(Debug)]
pub(super) struct Onlookers(Sender<Event>);

impl Default for Onlookers {
    fn default() -> Self {
        Self(Sender::new(WAITING))
    }
}

impl Onlookers {
    /// One more; none where there are enough.
    pub(super) fn join(&self) -> Option<Receiver<Event>> {
        (self.0.receiver_count() < MAX_ONLOOKERS).then(|| self.0.subscribe())
    }

    /// Tells them, where anybody is there.
    pub(super) fn tell(&self, event: impl FnOnce() -> Event) {
        if self.0.receiver_count() > 0 {
            // Whoever has left meanwhile misses nothing.
            let _ = self.0.send(event());
        }
    }
}
