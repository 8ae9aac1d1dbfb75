//! What passes through a proxy just now: two readings of the page `/traffic` make rates by edge, and those of several proxies
//! one view, as text for a screen of any size.
//!
//! A reading is small, whatever the proxy serves: what connections have in common stands once.

mod rates;
mod screen;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

pub use rates::{Flow, Rates};
pub use screen::{Emphasis, Line, Look, Silent, Sort, View};
use serde::{Deserialize, Serialize};

use crate::edges::{self, Edge, Secured};
use crate::proxy_config::Owner;
use crate::reason::{Kind, Reason};
use crate::wire::{ConnectionRecord, Direction, RequestRecord, rfc3339};
use crate::workload::Workload;

/// Connections of which the page tells one by one: more than any screen has lines.
const NEWEST: usize = 50;

/// The page `/traffic`: one reading of a proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// When it was read, by the proxy's clock.
    #[serde(with = "rfc3339")]
    pub now: SystemTime,
    /// Whose proxy it is.
    pub workload: Owner,
    /// The id of the connection that was accepted last; they count up from 1.
    pub last_id: u64,
    /// Who talks to whom, by all connections that the proxy still knows.
    pub edges: Vec<Edge>,
    /// The connections that are open, and those that have ended since the time that was asked for.
    pub connections: Vec<Counted>,
    /// The HTTP requests that were refused since the time that was asked for, by the edge of their connection.
    pub refused_requests: Vec<RefusedRequests>,
    /// The newest connections, the newest first.
    pub newest: Vec<Newest>,
}

/// What a connection counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// Its id.
    pub id: u64,
    /// Which of `edges` it is of; none as long as nothing is known of it.
    pub edge: Option<usize>,
    /// Application bytes so far.
    pub to_server: u64,
    /// Application bytes so far.
    pub to_client: u64,
}

/// Requests that were refused on connections that were let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedRequests {
    /// Which of `edges` they are of.
    pub edge: usize,
    /// How many.
    pub count: u64,
}

/// One of the newest connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Newest {
    /// Its id, by which `pillion explain` tells more.
    pub id: u64,
    /// When it was accepted.
    #[serde(with = "rfc3339")]
    pub accepted: SystemTime,
    /// Towards the app or from it.
    pub direction: Direction,
    /// The address that dialled.
    pub client: SocketAddr,
    /// Who calls, as in [`Edge::src`]; none as long as that is not known.
    pub src: Option<String>,
    /// Who is called.
    pub dst: Option<String>,
    /// Whether it is secured.
    pub secured: Option<Secured>,
    /// Application bytes.
    pub to_server: u64,
    /// Application bytes.
    pub to_client: u64,
    /// From accept to end, or to now, in microseconds.
    pub duration_micros: u64,
    /// How it ended; none while it is open.
    pub reason: Option<Reason>,
}

impl Traffic {
    /// A reading at `now` of what the proxy of `own` knows: `records`, oldest first, and the `requests` that were refused. Of
    /// the connections and requests that have ended it counts those that did `since` that time, or all.
    #[must_use]
    pub fn of(
        own: &Workload,
        records: &[ConnectionRecord],
        requests: &[RequestRecord],
        since: Option<SystemTime>,
        now: SystemTime,
    ) -> Self {
        let now = to_the_millisecond(now);
        let (edges, of_connection) = edges_of(own, records);
        let counted = |record: &ConnectionRecord| Counted {
            id: record.id,
            edge: of_connection.get(&record.id).copied(),
            to_server: record.bytes_to_server,
            to_client: record.bytes_to_client,
        };
        let mut refused: BTreeMap<usize, u64> = BTreeMap::new();
        let is_since = |at: SystemTime| since.is_none_or(|since| at >= since);
        for request in requests.iter().filter(|request| request.reason.kind() == Kind::Refused) {
            let ended = ended(request.received, request.duration_micros);
            // Up to the time at which the next reading begins: none is counted twice.
            if let Some(edge) = of_connection.get(&request.connection)
                && is_since(ended)
                && ended < now
            {
                *refused.entry(*edge).or_default() += 1;
            }
        }
        let told = records.iter().filter(|record| {
            record.reason.is_none() || is_since(ended(record.accepted, record.duration_micros))
        });
        Self {
            now,
            workload: own.into(),
            last_id: records.iter().map(|record| record.id).max().unwrap_or_default(),
            connections: told.map(counted).collect(),
            refused_requests: refused
                .into_iter()
                .map(|(edge, count)| RefusedRequests { edge, count })
                .collect(),
            newest: records.iter().rev().take(NEWEST).map(|record| newest(own, record)).collect(),
            edges,
        }
    }
}

/// The edges of these connections, each once, and which of them each connection is of.
fn edges_of(own: &Workload, records: &[ConnectionRecord]) -> (Vec<Edge>, HashMap<u64, usize>) {
    let mut numbers: BTreeMap<edges::Key, usize> = BTreeMap::new();
    let mut known: Vec<Edge> = Vec::new();
    let mut of_connection = HashMap::new();
    for record in records {
        let Some(edge) = edges::edge(own, record) else { continue };
        let next = known.len();
        let number = *numbers.entry(edge.key()).or_insert(next);
        match known.get_mut(number) {
            Some(known) => known.join(edge, |one, other| one + other),
            None => known.push(edge),
        }
        of_connection.insert(record.id, number);
    }
    (known, of_connection)
}

/// When something ended that began at `begun`.
fn ended(begun: SystemTime, micros: u64) -> SystemTime {
    begun.checked_add(Duration::from_micros(micros)).unwrap_or(begun)
}

/// As [`rfc3339`] writes it, so that the next reading begins where this one ends.
fn to_the_millisecond(at: SystemTime) -> SystemTime {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(since.as_millis()).unwrap_or_default())
}

fn newest(own: &Workload, record: &ConnectionRecord) -> Newest {
    let edge = edges::edge(own, record);
    Newest {
        id: record.id,
        accepted: record.accepted,
        direction: record.direction,
        client: record.client,
        secured: edge.as_ref().map(|edge| edge.secured),
        src: edge.as_ref().map(|edge| edge.src.clone()),
        dst: edge.map(|edge| edge.dst),
        to_server: record.bytes_to_server,
        to_client: record.bytes_to_client,
        duration_micros: record.duration_micros,
        reason: record.reason,
    }
}

#[cfg(test)]
mod tests;
