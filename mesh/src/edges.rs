//! Who talks to whom, with the identities of both and whether it is secured: made of the records of connections, seen from
//! one proxy or put together from several.
//!
//! Of the other side only what it has proved is taken for its name; a peer without a proof is its address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::reason::Kind;
use crate::spiffe::SpiffeId;
use crate::wire::{ConnectionRecord, Direction, FirstBytes, TlsMode, TlsRecord};
use crate::words::{Columns, Escaped};
use crate::workload::Workload;

/// One edge: a client, a server, and how they talk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    /// Who calls: a workload's name, that of its service account where it tells only by its identity, or an address.
    pub src: String,
    /// Who is called: likewise, or the host of a service.
    pub dst: String,
    /// The client's namespace, where it is known.
    pub src_namespace: Option<String>,
    /// The server's namespace, where it is known.
    pub dst_namespace: Option<String>,
    /// What the client has proved to the server.
    pub client_id: Option<String>,
    /// What the server has proved to the client.
    pub server_id: Option<String>,
    /// Whether the way between them is secured, and by whom.
    pub secured: Secured,
    /// Why: the policy or the plan in words; of a refusal the id of its reason.
    pub reason: String,
    /// The services that were called, `host:port`, as far as they are known.
    pub services: BTreeSet<String>,
    /// Connections that are open.
    pub open: u64,
    /// Connections that are over, as far as the proxy keeps them.
    pub over: u64,
    /// The ends that tell of it.
    pub seen_from: BTreeSet<End>,
}

/// Whether the way between two is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Secured {
    /// By mutual TLS between sidecars.
    MutualTls,
    /// By TLS to a server outside the mesh, as a DestinationRule asks for.
    Tls,
    /// By TLS of the apps' own, which the proxies pass on and do not look into.
    ByTheApp,
    /// Not, as far as the proxy has looked.
    No,
    /// Nothing passed: the connection was refused.
    Refused,
}

/// An end of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The client's proxy.
    Source,
    /// The server's proxy.
    Destination,
}

/// All edges, in the order of the table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Edges {
    /// Each once.
    pub edges: Vec<Edge>,
}

/// What makes two connections belong to one edge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// Both have proved who they are: whichever end tells of it.
    Proved { client: String, server: String },
    /// Anything else, as one end tells it; refusals also by their reason.
    Told {
        src: String,
        dst: String,
        secured: Secured,
        server: Option<String>,
        refused: Option<String>,
        from: End,
    },
}

impl Edges {
    /// What the proxy of `own` has seen, by the records of connections that it keeps, oldest first.
    #[must_use]
    pub fn seen_by<'r>(own: &Workload, records: impl IntoIterator<Item = &'r ConnectionRecord>) -> Self {
        Self::joined(records.into_iter().filter_map(|record| edge(own, record)), |known, more| known + more)
    }

    /// What several proxies have seen. An edge that both its ends tell of stands once; its connections are the same ones,
    /// so the greater number holds.
    #[must_use]
    pub fn of_all(proxies: impl IntoIterator<Item = Edges>) -> Self {
        Self::joined(proxies.into_iter().flat_map(|seen| seen.edges), u64::max)
    }

    fn joined(edges: impl Iterator<Item = Edge>, count: impl Fn(u64, u64) -> u64) -> Self {
        let mut known: BTreeMap<Key, Edge> = BTreeMap::new();
        for edge in edges {
            match known.entry(edge.key()) {
                std::collections::btree_map::Entry::Vacant(vacant) => _ = vacant.insert(edge),
                std::collections::btree_map::Entry::Occupied(mut known) => known.get_mut().join(edge, &count),
            }
        }
        let mut edges: Vec<Edge> = known.into_values().collect();
        edges.sort_by(|one, other| one.place().cmp(&other.place()));
        Self { edges }
    }
}

impl Edge {
    pub(crate) fn key(&self) -> Key {
        match (&self.client_id, &self.server_id, self.secured) {
            (Some(client), Some(server), Secured::MutualTls) => {
                Key::Proved { client: client.clone(), server: server.clone() }
            }
            _ => Key::Told {
                src: self.src.clone(),
                dst: self.dst.clone(),
                secured: self.secured,
                server: self.server_id.clone(),
                refused: (self.secured == Secured::Refused).then(|| self.reason.clone()),
                from: if self.seen_from.contains(&End::Source) { End::Source } else { End::Destination },
            },
        }
    }

    /// Takes in what is told again of it. Each end knows its own name best, and why it is secured the client's knows.
    pub(crate) fn join(&mut self, other: Edge, count: impl Fn(u64, u64) -> u64) {
        let new = |end: End| other.seen_from.contains(&end) && !self.seen_from.contains(&end);
        if new(End::Destination) {
            (self.dst, self.dst_namespace) = (other.dst, other.dst_namespace);
        } else {
            if new(End::Source) {
                (self.src, self.src_namespace) = (other.src, other.src_namespace);
            }
            // The newest, where one end tells it twice.
            self.reason = other.reason;
        }
        self.services.extend(other.services);
        self.seen_from.extend(other.seen_from);
        self.open = count(self.open, other.open);
        self.over = count(self.over, other.over);
    }

    pub(crate) fn place(&self) -> (&Option<String>, &str, &Option<String>, &str, Secured, &str) {
        (&self.src_namespace, &self.src, &self.dst_namespace, &self.dst, self.secured, &self.reason)
    }
}

impl Edge {
    /// The edge of one connection of the workload `own`; none where nothing is known of it that would make one, as before
    /// its first bytes.
    #[must_use]
    pub fn of(own: &Workload, record: &ConnectionRecord) -> Option<Self> {
        edge(own, record)
    }
}

/// The same.
pub(crate) fn edge(own: &Workload, record: &ConnectionRecord) -> Option<Edge> {
    let secured = secured(record)?;
    let mesh = record.tls.as_ref().filter(|tls| tls.mode == TlsMode::IstioMutual);
    let (client_id, server_id) = identities(record, record.tls.as_ref());
    let us = (own.name.clone(), Some(own.namespace.clone()));
    let peer = mesh.and_then(|tls| named_by(&tls.peer));
    let (src, dst, from) = match record.direction {
        Direction::Inbound => {
            (peer.unwrap_or_else(|| (record.client.ip().to_string(), None)), us, End::Destination)
        }
        Direction::Outbound => (us, peer.unwrap_or_else(|| (called(record), None)), End::Source),
    };
    Some(Edge {
        src: src.0,
        dst: dst.0,
        src_namespace: src.1,
        dst_namespace: dst.1,
        client_id,
        server_id,
        secured,
        reason: why(record, secured),
        services: record.service.iter().cloned().collect(),
        open: u64::from(record.reason.is_none()),
        over: u64::from(record.reason.is_some()),
        seen_from: BTreeSet::from([from]),
    })
}

pub(crate) fn secured(record: &ConnectionRecord) -> Option<Secured> {
    if record.reason.is_some_and(|reason| reason.kind() == Kind::Refused) {
        return Some(Secured::Refused);
    }
    record.times.opened?;
    Some(match (&record.tls, &record.first_bytes) {
        (Some(tls), _) if tls.mode == TlsMode::IstioMutual => Secured::MutualTls,
        (Some(_), _) => Secured::Tls,
        (None, Some(FirstBytes::Tls { .. })) => Secured::ByTheApp,
        (None, _) => Secured::No,
    })
}

/// Client's and server's; an empty text proves nothing.
fn identities(record: &ConnectionRecord, tls: Option<&TlsRecord>) -> (Option<String>, Option<String>) {
    let Some(TlsRecord { peer, local, .. }) = tls else { return (None, None) };
    let proved = |name: &String| (!name.is_empty()).then(|| name.clone());
    match record.direction {
        Direction::Inbound => (proved(peer), proved(local)),
        Direction::Outbound => (proved(local), proved(peer)),
    }
}

/// Service account and namespace of an identity.
fn named_by(identity: &str) -> Option<(String, Option<String>)> {
    let id: SpiffeId = identity.parse().ok()?;
    Some((id.service_account()?.to_owned(), Some(id.namespace()?.to_owned())))
}

/// The service's host, or else the address that was called.
fn called(record: &ConnectionRecord) -> String {
    let host = record
        .service
        .as_ref()
        .map(|service| service.rsplit_once(':').map_or(service.as_str(), |(host, _)| host));
    let address = record.original_destination.or(record.upstream).as_ref().map(SocketAddr::to_string);
    host.map(str::to_owned).or(address).unwrap_or_else(|| "unknown".to_owned())
}

fn why(record: &ConnectionRecord, secured: Secured) -> String {
    let refused = record.reason.filter(|_| secured == Secured::Refused).map(|reason| reason.id().to_owned());
    let mode = record.mode.as_ref().map(|mode| format!("{} by {}", mode.mode, mode.because));
    refused.or_else(|| record.plan.clone()).or(mode).unwrap_or_default()
}

impl Secured {
    /// As in the column of the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Secured::MutualTls | Secured::Tls => "√",
            Secured::ByTheApp => "by the app",
            Secured::No => "×",
            Secured::Refused => "refused",
        }
    }
}

impl Display for Edges {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.edges.is_empty() {
            return f.write_str("Nobody has talked to anybody, as far as is known.");
        }
        let head = ["SRC", "DST", "SRC_NS", "DST_NS", "CLIENT_ID", "SERVER_ID", "SECURED", "REASON"];
        let rows: Vec<[String; 8]> =
            [head.map(str::to_owned)].into_iter().chain(self.edges.iter().map(row)).collect();
        f.write_str(Columns(&rows).to_string().trim_end())
    }
}

fn row(edge: &Edge) -> [String; 8] {
    let cell = |text: &str| if text.is_empty() { "-".to_owned() } else { Escaped(text).to_string() };
    let known = |text: &Option<String>| cell(text.as_deref().unwrap_or_default());
    [
        cell(&edge.src),
        cell(&edge.dst),
        known(&edge.src_namespace),
        known(&edge.dst_namespace),
        known(&edge.client_id),
        known(&edge.server_id),
        edge.secured.as_str().to_owned(),
        cell(&edge.reason),
    ]
}

#[cfg(test)]
mod tests;
