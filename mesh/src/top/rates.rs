//! Rates: what has come and passed between two readings.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Counted, Traffic};
use crate::edges::{Edge, Key};

/// How much passes on each edge.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rates {
    /// Between the readings, in seconds; 0 where the proxy's clock was set back.
    pub seconds: f64,
    /// Every edge that is known, with or without traffic, in the order of `pillion edges`.
    pub edges: Vec<Flow>,
    /// Connections that began and ended between the readings, and of which the proxy keeps nothing any more.
    pub missed: u64,
}

/// An edge and what passes on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// Who talks to whom. Its numbers of connections are of all that the proxies still know.
    #[serde(flatten)]
    pub edge: Edge,
    /// New connections a second; of an edge that is refused, refusals.
    pub new_per_second: f64,
    /// HTTP requests a second that were refused on its connections, by an AuthorizationPolicy or else.
    pub refused_requests_per_second: f64,
    /// Application bytes a second from the client to the server.
    pub to_server_per_second: u64,
    /// Application bytes a second from the server to the client.
    pub to_client_per_second: u64,
}

/// What came between the readings.
#[derive(Debug, Clone, Copy, Default)]
struct Gain {
    connections: u64,
    refused_requests: u64,
    to_server: u64,
    to_client: u64,
}

impl Rates {
    /// What came between two readings of one proxy. A proxy that was started anew in between begins at nothing.
    #[must_use]
    pub fn between(before: &Traffic, after: &Traffic) -> Self {
        let elapsed = after.now.duration_since(before.now).unwrap_or_default();
        let started_anew = after.last_id < before.last_id;
        let nothing = Vec::new();
        let (seen, last_id) =
            if started_anew { (&nothing, 0) } else { (&before.connections, before.last_id) };
        // By id, with its edge: one that was refused late has changed its edge.
        let keys: Vec<Key> = after.edges.iter().map(Edge::key).collect();
        let old_keys: Vec<Key> = before.edges.iter().map(Edge::key).collect();
        let seen: HashMap<u64, &Counted> = seen.iter().map(|counted| (counted.id, counted)).collect();
        let mut gains = vec![Gain::default(); keys.len()];
        for counted in &after.connections {
            let Some((gain, key)) = counted.edge.and_then(|edge| gains.get_mut(edge).zip(keys.get(edge)))
            else {
                continue;
            };
            let old = seen.get(&counted.id);
            let was_here = old.and_then(|old| old_keys.get(old.edge?)).is_some_and(|old| old == key);
            gain.connections += u64::from(!was_here);
            gain.to_server += counted.to_server.saturating_sub(old.map_or(0, |old| old.to_server));
            gain.to_client += counted.to_client.saturating_sub(old.map_or(0, |old| old.to_client));
        }
        for refused in &after.refused_requests {
            if let Some(gain) = gains.get_mut(refused.edge) {
                gain.refused_requests += refused.count;
            }
        }
        let told = after.connections.iter().filter(|counted| counted.id > last_id).count() as u64;
        let flows = after.edges.iter().zip(gains).map(|(edge, gain)| flow(edge.clone(), gain, elapsed));
        Self {
            seconds: elapsed.as_secs_f64(),
            edges: flows.collect(),
            missed: (after.last_id - last_id.min(after.last_id)).saturating_sub(told),
        }
    }

    /// Those of several proxies. What both ends tell of stands once, as in [`crate::edges::Edges::of_all`].
    #[must_use]
    pub fn of_all(proxies: impl IntoIterator<Item = Rates>) -> Self {
        let mut all = Self::default();
        let mut flows: BTreeMap<Key, Flow> = BTreeMap::new();
        for rates in proxies {
            all.seconds = all.seconds.max(rates.seconds);
            all.missed += rates.missed;
            for flow in rates.edges {
                match flows.entry(flow.edge.key()) {
                    std::collections::btree_map::Entry::Vacant(vacant) => _ = vacant.insert(flow),
                    std::collections::btree_map::Entry::Occupied(mut known) => known.get_mut().join(flow),
                }
            }
        }
        all.edges = flows.into_values().collect();
        all.edges.sort_by(|one, other| one.edge.place().cmp(&other.edge.place()));
        all
    }
}

impl Flow {
    /// Takes in what the other end tells of it: the same connections, so the greater number holds.
    fn join(&mut self, other: Flow) {
        self.edge.join(other.edge, u64::max);
        self.new_per_second = self.new_per_second.max(other.new_per_second);
        self.refused_requests_per_second =
            self.refused_requests_per_second.max(other.refused_requests_per_second);
        self.to_server_per_second = self.to_server_per_second.max(other.to_server_per_second);
        self.to_client_per_second = self.to_client_per_second.max(other.to_client_per_second);
    }
}

fn flow(edge: Edge, gain: Gain, elapsed: Duration) -> Flow {
    let Gain { connections, refused_requests, to_server, to_client } = gain;
    // Beyond 2^53 a double counts less exactly, which no eye sees.
    let rate = |count: u64| if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() };
    Flow {
        edge,
        new_per_second: rate(connections),
        refused_requests_per_second: rate(refused_requests),
        to_server_per_second: per_second(to_server, elapsed),
        to_client_per_second: per_second(to_client, elapsed),
    }
}

/// In whole bytes; 0 where no time has passed.
fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let rate = (u128::from(bytes) * 1_000_000).checked_div(elapsed.as_micros()).unwrap_or_default();
    u64::try_from(rate).unwrap_or(u64::MAX)
}
