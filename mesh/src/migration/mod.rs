//! Moving a port to STRICT without fear: who comes to it, and how; and whether somebody would be cut off.
//!
//! A sidecar counts its inbound connections in a [`Tally`], in bounded room; [`Watched`] is what it tells of them, and
//! [`Watched::judged`] the verdict. Names that only others know (DNS) are added by who asks.

#[cfg(test)]
mod tests;
mod text;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::policy::Snapshot;
use crate::policy::mode::Mode;
use crate::reason::{Kind, Reason};
use crate::wire::{ConnectionRecord, Direction, FirstBytes, rfc3339};
use crate::workload::Workload;

/// Ports that are told apart. A stranger may try them all.
const MOST_PORTS: usize = 64;
/// Peers without mutual TLS that are named, of all ports together.
const MOST_PEERS: usize = 1_000;
/// A peer that has not come for so long makes room for another.
const STALE: Duration = Duration::from_secs(60 * 60);
/// Names of one peer.
const MOST_NAMES: usize = 4;

/// What a sidecar has counted since it began.
#[derive(Debug)]
pub struct Tally {
    since: SystemTime,
    ports: BTreeMap<u16, OfPort>,
    peers: usize,
    other_ports: Option<Seen>,
}

#[derive(Debug, Default)]
struct OfPort {
    mutual_tls: Option<Seen>,
    without: Option<Seen>,
    refused: Option<Seen>,
    shadow_refused: Option<Seen>,
    peers: HashMap<IpAddr, OfPeer>,
    unnamed: Option<Seen>,
}

/// One that has come without mutual TLS.
#[derive(Debug)]
struct OfPeer {
    how: How,
    looks_like: Option<String>,
    without: Option<Seen>,
    refused: Option<Seen>,
    mutual_tls: Option<Seen>,
}

/// Connections that are alike: how many, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// How many.
    pub connections: u64,
    /// When the first was accepted.
    #[serde(with = "rfc3339")]
    pub first: SystemTime,
    /// When the last was; of one that is open, now.
    #[serde(with = "rfc3339")]
    pub last: SystemTime,
}

/// How somebody comes without mutual TLS of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum How {
    /// In plaintext.
    Plaintext,
    /// With TLS of the app's own.
    OwnTls,
    /// It waits for the server to speak first.
    Silent,
    /// The port is DISABLE: nobody has looked.
    NotLookedAt,
}

/// What a sidecar tells of its ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watched {
    /// Whose ports, `namespace/name`.
    pub workload: String,
    /// Since when connections are counted: the start of the proxy.
    #[serde(with = "rfc3339")]
    pub since: SystemTime,
    /// When this was told.
    #[serde(with = "rfc3339")]
    pub now: SystemTime,
    /// The ports that are declared, have a mode of their own or were called; in order.
    pub ports: Vec<WatchedPort>,
    /// Connections to further ports, which are not told apart.
    pub other_ports: Option<Seen>,
}

/// What is known of one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchedPort {
    /// Its number.
    pub port: u16,
    /// The service that leads to it, `host:port`.
    pub service: Option<String>,
    /// What it accepts.
    pub mode: Mode,
    /// The policy that decided, in words.
    pub because: String,
    /// What policies in dry run make of it, where there are any.
    pub shadow: Option<WatchedShadow>,
    /// Connections by mutual TLS.
    pub mutual_tls: Option<Seen>,
    /// Those that were let in without.
    pub without: Option<Seen>,
    /// Those that were refused since they had no mutual TLS.
    pub refused: Option<Seen>,
    /// Who came without mutual TLS, the last first.
    pub peers: Vec<WatchedPeer>,
    /// Connections without mutual TLS of those for whom there was no room to be named.
    pub unnamed: Option<Seen>,
}

/// What policies in dry run make of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchedShadow {
    /// What it would accept.
    pub mode: Mode,
    /// The policy that would decide, in words.
    pub because: String,
    /// Connections that were let in and would have been refused.
    pub refused: Option<Seen>,
}

/// Somebody who came without mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchedPeer {
    /// From where.
    pub address: IpAddr,
    /// Who that may be: hosts of services with an endpoint there, or what DNS calls it. No proof.
    pub names: Vec<String>,
    /// How it came last.
    pub how: How,
    /// What its plaintext looked like.
    pub looks_like: Option<String>,
    /// Its connections that were let in without mutual TLS.
    pub without: Option<Seen>,
    /// Those of them that are open.
    pub open: u64,
    /// Its connections that were refused since they had none.
    pub refused: Option<Seen>,
    /// Those by mutual TLS from the same address, since it is known.
    pub mutual_tls: Option<Seen>,
}

/// Whether a port can be switched to STRICT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It is STRICT.
    Strict,
    /// Whoever was seen comes by mutual TLS.
    Safe,
    /// Somebody would be cut off.
    NotYet,
    /// Nobody was seen, so nothing is known.
    NothingSeen,
    /// It is DISABLE: nobody looks, so nothing is known.
    NotLookedAt,
}

impl Verdict {
    /// Whether nobody who was seen would be cut off.
    #[must_use]
    pub fn is_safe(self) -> bool {
        matches!(self, Verdict::Strict | Verdict::Safe)
    }
}

/// A port with the verdict on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JudgedPort {
    /// What is known of it.
    #[serde(flatten)]
    pub port: WatchedPort,
    /// Whether it can be switched.
    pub verdict: Verdict,
    /// Why, and what to do.
    pub verdict_because: String,
}

/// The ports of a workload with the verdicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// Whose.
    pub workload: String,
    /// Since when connections are counted.
    #[serde(with = "rfc3339")]
    pub since: SystemTime,
    /// When this was told.
    #[serde(with = "rfc3339")]
    pub now: SystemTime,
    /// In order.
    pub ports: Vec<JudgedPort>,
    /// Connections to further ports, which are not told apart.
    pub other_ports: Option<Seen>,
}

impl Tally {
    /// Begins to count.
    #[must_use]
    pub fn new(since: SystemTime) -> Self {
        Self { since, ports: BTreeMap::new(), peers: 0, other_ports: None }
    }

    /// Counts a connection, once: when it is let in, or when it has ended without that.
    pub fn count(&mut self, record: &ConnectionRecord) {
        let Some(came) = Came::of(record) else { return };
        let Some(port) = record.original_destination.map(|address| address.port()) else { return };
        let at = record.accepted;
        if self.ports.len() >= MOST_PORTS && !self.ports.contains_key(&port) {
            add(&mut self.other_ports, at);
            return;
        }
        let of_port = self.ports.entry(port).or_default();
        let client = record.client.ip().to_canonical();
        let total = match came {
            Came::MutualTls => {
                if let Some(peer) = of_port.peers.get_mut(&client) {
                    add(&mut peer.mutual_tls, at);
                }
                &mut of_port.mutual_tls
            }
            Came::Without(_) => &mut of_port.without,
            Came::Refused(_) => &mut of_port.refused,
        };
        add(total, at);
        if record.mode.as_ref().and_then(|mode| mode.shadow.as_ref()).is_some_and(|it| it.refused.is_some()) {
            add(&mut of_port.shadow_refused, at);
        }
        match came {
            Came::Without(how) | Came::Refused(how) => self.name(port, client, how, record),
            Came::MutualTls => {}
        }
    }

    /// Counts one without mutual TLS for its peer.
    fn name(&mut self, port: u16, client: IpAddr, how: How, record: &ConnectionRecord) {
        let is_known = self.ports.get(&port).is_some_and(|of_port| of_port.peers.contains_key(&client));
        let has_room = is_known || self.peers < MOST_PEERS || self.forget_one(record.accepted);
        let Some(of_port) = self.ports.get_mut(&port) else { return };
        if !has_room {
            add(&mut of_port.unnamed, record.accepted);
            return;
        }
        self.peers += usize::from(!is_known);
        let new = || OfPeer { how, looks_like: None, without: None, refused: None, mutual_tls: None };
        let peer = of_port.peers.entry(client).or_insert_with(new);
        peer.how = how;
        if record.looks_like.is_some() {
            peer.looks_like.clone_from(&record.looks_like);
        }
        let was_refused = record.reason.is_some_and(is_for_want_of_mutual_tls);
        add(if was_refused { &mut peer.refused } else { &mut peer.without }, record.accepted);
    }

    /// Makes room, if the peer that was not seen for the longest time was not seen for long.
    fn forget_one(&mut self, now: SystemTime) -> bool {
        let of_port = |(port, of_port): (&u16, &OfPort)| {
            let port = *port;
            let last = of_port.peers.iter().map(move |(peer, of_peer)| (of_peer.last(), port, *peer));
            last.min()
        };
        let Some((Some(last), port, peer)) = self.ports.iter().filter_map(of_port).min() else {
            return false;
        };
        let is_stale = now.duration_since(last).is_ok_and(|since| since > STALE);
        if is_stale && let Some(of_port) = self.ports.get_mut(&port) {
            of_port.peers.remove(&peer);
            self.peers = self.peers.saturating_sub(1);
        }
        is_stale
    }

    /// What was counted for `workload`, for which `snapshot` was made. `open` are the connections that are open `now`.
    #[must_use]
    pub fn told(
        &self,
        workload: &Workload,
        snapshot: &Snapshot,
        open: &[ConnectionRecord],
        now: SystemTime,
    ) -> Watched {
        let declared = snapshot.own_ports().map(|(port, _)| port);
        let with_mode = snapshot.modes.ports().map(|(port, _)| port);
        let shown: BTreeSet<u16> = declared.chain(with_mode).chain(self.ports.keys().copied()).collect();
        let names = names(snapshot);
        Watched {
            workload: format!("{}/{}", workload.namespace, workload.name),
            since: self.since,
            now,
            ports: shown.into_iter().map(|port| self.port(port, snapshot, open, &names, now)).collect(),
            other_ports: self.other_ports,
        }
    }

    fn port(
        &self,
        port: u16,
        snapshot: &Snapshot,
        open: &[ConnectionRecord],
        names: &HashMap<IpAddr, BTreeSet<String>>,
        now: SystemTime,
    ) -> WatchedPort {
        let nothing = OfPort::default();
        let counted = self.ports.get(&port).unwrap_or(&nothing);
        let decision = snapshot.modes.for_port(port);
        let own = snapshot.own_port(port);
        let is_open = |record: &&ConnectionRecord| {
            record.original_destination.is_some_and(|address| address.port() == port)
                && record.times.opened.is_some()
                && matches!(Came::of(record), Some(Came::Without(_)))
        };
        let mut still_open: HashMap<IpAddr, u64> = HashMap::new();
        for record in open.iter().filter(is_open) {
            *still_open.entry(record.client.ip().to_canonical()).or_default() += 1;
        }
        let mut without = counted.without;
        let mut unnamed = counted.unnamed;
        let is_unnamed = still_open.keys().any(|address| !counted.peers.contains_key(address));
        for (seen, is_open) in [(&mut without, !still_open.is_empty()), (&mut unnamed, is_unnamed)] {
            if let Some(seen) = seen.as_mut().filter(|_| is_open) {
                seen.last = now;
            }
        }
        let mut peers: Vec<WatchedPeer> = counted
            .peers
            .iter()
            .map(|(address, peer)| peer.told(*address, still_open.get(address).copied(), names, now))
            .collect();
        peers.sort_by_key(|peer| (Reverse(peer.last()), peer.address));
        WatchedPort {
            port,
            service: own.map(|own| format!("{}:{}", own.host, own.port)),
            mode: decision.mode,
            because: decision.because.clone(),
            shadow: snapshot.modes.shadow_for_port(port).map(|shadow| WatchedShadow {
                mode: shadow.mode,
                because: shadow.because.clone(),
                refused: counted.shadow_refused,
            }),
            mutual_tls: counted.mutual_tls,
            without,
            refused: counted.refused,
            peers,
            unnamed,
        }
    }
}

impl OfPeer {
    fn last(&self) -> Option<SystemTime> {
        self.without.into_iter().chain(self.refused).map(|seen| seen.last).max()
    }

    fn told(
        &self,
        address: IpAddr,
        open: Option<u64>,
        names: &HashMap<IpAddr, BTreeSet<String>>,
        now: SystemTime,
    ) -> WatchedPeer {
        let mut without = self.without;
        if let (Some(without), Some(_)) = (&mut without, open) {
            without.last = now;
        }
        WatchedPeer {
            address,
            names: names.get(&address).into_iter().flatten().take(MOST_NAMES).cloned().collect(),
            how: self.how,
            looks_like: self.looks_like.clone(),
            without,
            open: open.unwrap_or_default(),
            refused: self.refused,
            mutual_tls: self.mutual_tls,
        }
    }
}

impl WatchedPeer {
    fn last(&self) -> Option<SystemTime> {
        self.without.into_iter().chain(self.refused).map(|seen| seen.last).max()
    }
}

/// How a connection came.
#[derive(Debug, Clone, Copy)]
enum Came {
    MutualTls,
    Without(How),
    /// It was refused since it had no mutual TLS.
    Refused(How),
}

impl Came {
    /// `None` for one that says nothing of the matter: it failed before that was known, or was refused for another reason.
    fn of(record: &ConnectionRecord) -> Option<Self> {
        if record.direction != Direction::Inbound {
            return None;
        }
        // At the edge of the mesh there is none, and everybody may come as they like.
        record.mode.as_ref()?;
        if let Some(reason) = record.reason.filter(|reason| reason.kind() == Kind::Refused) {
            if is_for_want_of_mutual_tls(reason) {
                return how(record).map(Self::Refused);
            }
            if !matches!(reason, Reason::AppUnreachable | Reason::ConnectTimeout) {
                return None;
            }
        }
        if record.tls.is_some() { Some(Self::MutualTls) } else { how(record).map(Self::Without) }
    }
}

fn is_for_want_of_mutual_tls(reason: Reason) -> bool {
    matches!(reason, Reason::StrictPlaintext | Reason::StrictSilent | Reason::NoClientCertificate)
}

/// `None` where the first bytes are not known, or bear the mark of the mesh.
fn how(record: &ConnectionRecord) -> Option<How> {
    match record.first_bytes.as_ref()? {
        FirstBytes::Plaintext => Some(How::Plaintext),
        FirstBytes::Silent => Some(How::Silent),
        FirstBytes::Unseen => Some(How::NotLookedAt),
        FirstBytes::Tls { mesh, .. } => (!mesh).then_some(How::OwnTls),
    }
}

fn add(seen: &mut Option<Seen>, at: SystemTime) {
    let seen = seen.get_or_insert(Seen { connections: 0, first: at, last: at });
    seen.connections = seen.connections.saturating_add(1);
    seen.first = seen.first.min(at);
    seen.last = seen.last.max(at);
}

/// The services with an endpoint at an address.
fn names(snapshot: &Snapshot) -> HashMap<IpAddr, BTreeSet<String>> {
    let mut names: HashMap<IpAddr, BTreeSet<String>> = HashMap::new();
    for destination in snapshot.registry.destinations() {
        names.entry(destination.endpoint.ip().to_canonical()).or_default().insert(destination.host);
    }
    names
}

impl Watched {
    /// Whether each port can be switched to STRICT, by what was seen `within` so long; by everything where that is not said.
    #[must_use]
    pub fn judged(self, within: Option<Duration>) -> Judged {
        let Self { workload, since, now, ports, other_ports } = self;
        let from = within.and_then(|within| now.checked_sub(within));
        let judge = Judge { since, from };
        let judged = |port: WatchedPort| {
            let (verdict, verdict_because) = judge.judge(&port);
            JudgedPort { port, verdict, verdict_because }
        };
        Judged { workload, since, now, ports: ports.into_iter().map(judged).collect(), other_ports }
    }
}

impl Judged {
    /// Whether every port can be switched.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.ports.iter().all(|port| port.verdict.is_safe())
    }
}

/// By what is judged.
struct Judge {
    since: SystemTime,
    /// Only what was seen after it counts.
    from: Option<SystemTime>,
}

impl Judge {
    fn judge(&self, port: &WatchedPort) -> (Verdict, String) {
        match port.mode {
            Mode::Strict => (Verdict::Strict, self.strict(port)),
            Mode::Disable => {
                let because =
                    "nobody looks at a port that is DISABLE: set it to PERMISSIVE, and watch who comes";
                (Verdict::NotLookedAt, because.to_owned())
            }
            Mode::Permissive => self.permissive(port),
        }
    }

    fn strict(&self, port: &WatchedPort) -> String {
        match self.who(port, |peer| peer.refused) {
            None => "it is STRICT, and nobody was refused".to_owned(),
            Some(who) => format!("it is STRICT, and cuts off {who}; give them a sidecar"),
        }
    }

    fn permissive(&self, port: &WatchedPort) -> (Verdict, String) {
        let since = rfc3339::print(self.from.unwrap_or(self.since).max(self.since));
        if let Some(who) = self.who(port, |peer| peer.without) {
            return (Verdict::NotYet, format!("give a sidecar first to {who}"));
        }
        if self.counts(port.unnamed) {
            let because = "more came without mutual TLS than there is room to name: look into the access log";
            return (Verdict::NotYet, because.to_owned());
        }
        if self.counts(port.mutual_tls) {
            return (Verdict::Safe, format!("safe to switch: mutual TLS only since {since}"));
        }
        (Verdict::NothingSeen, format!("nothing seen yet: watched since {since}"))
    }

    /// The peers of whom a kind of connection counts.
    fn who(&self, port: &WatchedPort, kind: impl Fn(&WatchedPeer) -> Option<Seen>) -> Option<String> {
        const TOLD: usize = 3;
        let counting: Vec<String> =
            port.peers.iter().filter(|peer| self.counts(kind(peer))).map(WatchedPeer::called).collect();
        let more = counting.len().saturating_sub(TOLD);
        let told = counting.get(..TOLD).unwrap_or(&counting).join(", ");
        match (counting.is_empty(), more) {
            (true, _) => None,
            (false, 0) => Some(told),
            (false, more) => Some(format!("{told} and {more} more")),
        }
    }

    fn counts(&self, seen: Option<Seen>) -> bool {
        seen.is_some_and(|seen| self.from.is_none_or(|from| seen.last >= from))
    }
}

impl WatchedPeer {
    /// `10.0.0.9`, or `10.0.0.9 (legacy)`.
    fn called(&self) -> String {
        if self.names.is_empty() {
            self.address.to_string()
        } else {
            format!("{} ({})", self.address, self.names.join(", "))
        }
    }
}
