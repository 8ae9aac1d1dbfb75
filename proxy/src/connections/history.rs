//! What is kept of connections that are over, so that a person can ask what became of one: the last that were served, and
//! the refusals of the last hour. Each list has a limit, and none takes the room of another: a flood of refusals leaves
//! what is known of the others.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pillion_mesh::reason::{Kind, Reason};
use pillion_mesh::wire::{ConnectionRecord, RequestRecord};

/// Records in each of the lists.
pub(crate) const KEPT: usize = 1_000;
/// How long a refusal is told of.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(60 * 60);

/// Records of what is over.
#[derive(Debug, Default)]
pub(super) struct History {
    /// That were served.
    ended: VecDeque<ConnectionRecord>,
    refused: VecDeque<(Instant, ConnectionRecord)>,
    /// That were refused or cut.
    requests: VecDeque<(Instant, RequestRecord)>,
}

impl History {
    /// A connection is over. Gives back the record that it takes the place of.
    pub(super) fn ended_now(&mut self, record: ConnectionRecord, now: Instant) -> Option<ConnectionRecord> {
        if record.reason.unwrap_or(Reason::Internal).kind() == Kind::Refused {
            push(&mut self.refused, (now, record)).map(|(_, oldest)| oldest)
        } else {
            push(&mut self.ended, record)
        }
    }

    /// A request is over; of those that were answered the access log tells.
    pub(super) fn request_ended(&mut self, record: RequestRecord, now: Instant) {
        if record.reason.kind() != Kind::Ended {
            push(&mut self.requests, (now, record));
        }
    }

    pub(super) fn ended(&self) -> Vec<ConnectionRecord> {
        self.ended.iter().cloned().collect()
    }

    pub(super) fn refused(&mut self, now: Instant) -> Vec<ConnectionRecord> {
        forget(&mut self.refused, now);
        self.refused.iter().map(|(_, record)| record.clone()).collect()
    }

    pub(super) fn refused_requests(&mut self, now: Instant) -> Vec<RequestRecord> {
        forget(&mut self.requests, now);
        self.requests.iter().map(|(_, record)| record.clone()).collect()
    }

    /// The connections of all refusals, newest first.
    pub(super) fn refusals(&mut self, now: Instant) -> Vec<u64> {
        forget(&mut self.refused, now);
        forget(&mut self.requests, now);
        let connections = self.refused.iter().map(|(at, record)| (*at, record.id));
        let requests = self.requests.iter().map(|(at, record)| (*at, record.connection));
        let mut refusals: Vec<_> = connections.chain(requests).collect();
        refusals.sort_unstable();
        refusals.into_iter().rev().map(|(_, id)| id).collect()
    }
}

fn push<T>(list: &mut VecDeque<T>, newest: T) -> Option<T> {
    let oldest = if list.len() >= KEPT { list.pop_front() } else { None };
    list.push_back(newest);
    oldest
}

fn forget<T>(list: &mut VecDeque<(Instant, T)>, now: Instant) {
    while list.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > REMEMBERED) {
        list.pop_front();
    }
}
