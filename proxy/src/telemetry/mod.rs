//! What can be seen of the proxy from outside: the access log and the metrics. Both come from the one record of a
//! connection.

mod access;
mod edges;
pub(crate) mod log;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pillion_mesh::reason::{Kind, Reason};
use pillion_mesh::wire::{AuthorizationRecord, ConnectionRecord, Direction, RequestRecord, TlsMode};
use pillion_mesh::workload::Workload;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use edges::{Counts, Edges};
use requests::Requests;

/// Seconds that a handshake takes: a resumed one on loopback, a full one, one over an ocean, one that is stuck.
const HANDSHAKE_BUCKETS: [f64; 14] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Seconds that a dial takes: on loopback, over an ocean, with SYNs that are lost.
const DIAL_BUCKETS: [f64; 13] =
    [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0];

/// Seconds that a connection is open: for one request, for a session of a person, for days.
const CONNECTION_BUCKETS: [f64; 14] =
    [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0];

/// Counts and logs. Shared by every task; each call is short and never waits for I/O but the log line's.
#[derive(Debug)]
pub(crate) struct Telemetry {
    registry: Registry,
    edges: Arc<Edges>,
    requests: Arc<Requests>,
    /// What was counted so far of each open connection's bytes, by its id.
    open: Mutex<HashMap<u64, Reported>>,
    connections_open: Family<DirectionLabel, Gauge>,
    tunnels: Family<DirectionLabel, Counter>,
    tunnels_open: Family<DirectionLabel, Gauge>,
    refused: Family<ReasonLabels, Counter>,
    ended: Family<ReasonLabels, Counter>,
    requests_refused: Family<ReasonLabels, Counter>,
    handshakes: Family<HandshakeLabels, Histogram>,
    dials: Family<DirectionLabel, Histogram>,
    durations: Family<DirectionLabel, Histogram>,
    reloads: Family<ResultLabel, Counter>,
    /// 1 while the mesh resources as they were seen last are in force, 0 while older ones are.
    last_reload: Gauge,
    renewals: Family<ResultLabel, Counter>,
    expiry: Family<KindLabel, Gauge>,
    shadow: Family<ShadowLabel, Counter>,
    shadow_refused: Family<ShadowRefusedLabels, Counter>,
    panics: Counter,
    accept_failures: Counter,
    federation: Family<FederationLabels, Counter>,
    workload_api: Family<CallLabels, Counter>,
    workload_api_streams: Gauge,
}

/// What [`Telemetry::encode`] reads at the moment of the scrape rather than as it happens.
#[derive(Debug, Default)]
pub(crate) struct Scraped {
    /// The end of our leaf's validity.
    pub(crate) leaf_not_after: Option<SystemTime>,
    /// The end of validity of that root of our own trust domain which ends first.
    pub(crate) root_not_after: Option<SystemTime>,
    /// When the first of the revocation lists in force was to be replaced.
    pub(crate) crl_next_update: Option<SystemTime>,
    /// Certificates received since the start.
    pub(crate) renewals_succeeded: u64,
    /// Failed tries to get one since the start.
    pub(crate) renewals_failed: u64,
    /// The connections that are open now: their bytes move the counters before they end.
    pub(crate) open: Vec<ConnectionRecord>,
}

#[derive(Debug)]
struct Reported {
    counts: Arc<Counts>,
    /// Whether its dial was counted; requests dial later.
    dial: bool,
    to_server: u64,
    to_client: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    direction: &'static str,
    resumed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShadowLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShadowRefusedLabels {
    reason: &'static str,
    /// Of those that are declared, so there are few; `other` for the rest.
    port: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FederationLabels {
    /// Of the settings, so there are few.
    trust_domain: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

impl Telemetry {
    /// All counters at zero. `workload` names this side of every connection.
    pub(crate) fn new(workload: &Workload) -> Self {
        let mut telemetry = Self {
            registry: Registry::default(),
            edges: Arc::new(Edges::new(workload)),
            requests: Arc::new(Requests::new(workload)),
            open: Mutex::default(),
            connections_open: Family::default(),
            tunnels: Family::default(),
            tunnels_open: Family::default(),
            refused: Family::default(),
            ended: Family::default(),
            requests_refused: Family::default(),
            handshakes: Family::new_with_constructor(|| Histogram::new(HANDSHAKE_BUCKETS)),
            dials: Family::new_with_constructor(|| Histogram::new(DIAL_BUCKETS)),
            durations: Family::new_with_constructor(|| Histogram::new(CONNECTION_BUCKETS)),
            reloads: Family::default(),
            last_reload: Gauge::default(),
            renewals: Family::default(),
            expiry: Family::default(),
            shadow: Family::default(),
            shadow_refused: Family::default(),
            panics: Counter::default(),
            accept_failures: Counter::default(),
            federation: Family::default(),
            workload_api: Family::default(),
            workload_api_streams: Gauge::default(),
        };
        telemetry.register();
        // From the start, so that an alert on the first failure sees it rise.
        for taken in [true, false] {
            drop(telemetry.reloads.get_or_create(&result(taken)));
        }
        // Nobody starts with resources that cannot be used.
        telemetry.last_reload.set(1);
        telemetry
    }

    /// A connection was admitted and both its legs stand. [`Telemetry::closed`] follows exactly once.
    pub(crate) fn opened(&self, record: &ConnectionRecord) {
        let counts = self.edges.of(record);
        counts.opened();
        self.gauge(record.direction).inc();
        self.handshake(record);
        self.shadow_refused(record);
        let dial = self.dial(record);
        let reported = Reported { counts, dial, to_server: 0, to_client: 0 };
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(record.id, reported);
    }

    /// A connection has ended; `opened` says whether [`Telemetry::opened`] was called for it. Writes its line in the
    /// access log.
    pub(crate) fn closed(&self, record: &ConnectionRecord, opened: bool) {
        access::log(record);
        self.dry_run(record.authorization.as_ref());
        let reason = record.reason.unwrap_or(Reason::Internal);
        let labels = ReasonLabels { reason: reason.id(), direction: record.direction.as_str() };
        let counts = self.edges.of(record);
        if !opened {
            self.handshake(record);
            self.dial(record);
            self.shadow_refused(record);
            if reason.kind() != Kind::Ended {
                counts.failed();
            }
            if reason.kind() == Kind::Refused {
                self.refused.get_or_create(&labels).inc();
            }
            return;
        }
        let reported = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.id);
        let (to_server, to_client, dial) = reported
            .map_or((0, 0, false), |reported| (reported.to_server, reported.to_client, reported.dial));
        if !dial {
            self.dial(record);
        }
        self.durations.get_or_create(&direction(record)).observe(seconds(record.duration_micros));
        counts.moved(
            record.bytes_to_server.saturating_sub(to_server),
            record.bytes_to_client.saturating_sub(to_client),
        );
        counts.closed();
        self.ended.get_or_create(&labels).inc();
        self.gauge(record.direction).dec();
    }

    /// A request has ended. Writes its line in the access log.
    pub(crate) fn request_ended(&self, record: &RequestRecord) {
        access::log_request(record);
        self.requests.ended(record);
        self.dry_run(record.authorization.as_ref());
        if record.reason.kind() != Kind::Ended {
            let labels = ReasonLabels { reason: record.reason.id(), direction: record.direction.as_str() };
            self.requests_refused.get_or_create(&labels).inc();
        }
    }

    /// The mesh resources had changed; `taken` says whether the new ones are in force.
    pub(crate) fn policy_reloaded(&self, taken: bool) {
        self.reloads.get_or_create(&result(taken)).inc();
        self.last_reload.set(taken.into());
    }

    /// A task of ours panicked.
    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }

    /// The kernel did not hand over a connection, as when descriptors run out.
    pub(crate) fn accept_failed(&self) {
        self.accept_failures.inc();
    }

    /// The bundle of another trust domain was asked for; `taken` says whether there is a good one.
    pub(crate) fn federation_refreshed(&self, trust_domain: &str, taken: bool) {
        let trust_domain = trust_domain.to_owned();
        self.federation.get_or_create(&FederationLabels { trust_domain, result: result(taken).result }).inc();
    }

    /// A call of the SPIFFE Workload API was answered, a stream by its first message.
    pub(crate) fn workload_api_answered(&self, method: &'static str, code: &'static str) {
        self.workload_api.get_or_create(&CallLabels { method, code }).inc();
    }

    /// Streams of the SPIFFE Workload API that are open now.
    pub(crate) fn workload_api_streams(&self) -> Gauge {
        self.workload_api_streams.clone()
    }

    /// All metrics as OpenMetrics text.
    pub(crate) fn encode(&self, scraped: &Scraped) -> String {
        self.count_moved(&scraped.open);
        self.renewals
            .get_or_create(&result(true))
            .inner()
            .store(scraped.renewals_succeeded, Ordering::Relaxed);
        self.renewals.get_or_create(&result(false)).inner().store(scraped.renewals_failed, Ordering::Relaxed);
        let ends = [
            ("leaf", scraped.leaf_not_after),
            ("root", scraped.root_not_after),
            ("crl", scraped.crl_next_update),
        ];
        for (kind, not_after) in ends {
            match not_after {
                Some(at) => _ = self.expiry.get_or_create(&KindLabel { kind }).set(epoch_seconds(at)),
                None => _ = self.expiry.remove(&KindLabel { kind }),
            }
        }
        let mut page = String::new();
        if text::encode(&mut page, &self.registry).is_err() {
            // Writing to a String does not fail; a page without its end is refused by every reader.
            page.clear();
        }
        page
    }

    /// Counts what open connections have moved since they were last looked at.
    fn count_moved(&self, records: &[ConnectionRecord]) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            // One that has just ended is no longer there, and counted whole.
            let Some(reported) = open.get_mut(&record.id) else { continue };
            let to_server = record.bytes_to_server.saturating_sub(reported.to_server);
            let to_client = record.bytes_to_client.saturating_sub(reported.to_client);
            reported.counts.moved(to_server, to_client);
            reported.to_server += to_server;
            reported.to_client += to_client;
        }
    }

    fn dry_run(&self, decided: Option<&AuthorizationRecord>) {
        if let Some(shadow) = decided.and_then(|decided| decided.shadow.as_ref()) {
            let result = if shadow.allowed { "allowed" } else { "denied" };
            self.shadow.get_or_create(&ShadowLabel { result }).inc();
        }
    }

    /// Once for each connection that a PeerAuthentication in dry run would have refused.
    fn shadow_refused(&self, record: &ConnectionRecord) {
        let shadow = record.mode.as_ref().and_then(|mode| mode.shadow.as_ref());
        let Some(reason) = shadow.and_then(|shadow| shadow.refused) else { return };
        let port = record.original_destination.filter(|_| record.service.is_some());
        let port = port.map_or_else(|| "other".to_owned(), |address| address.port().to_string());
        self.shadow_refused.get_or_create(&ShadowRefusedLabels { reason: reason.id(), port }).inc();
    }

    /// A tunnel stands. [`Telemetry::tunnel_closed`] follows.
    pub(crate) fn tunnel_opened(&self, direction: Direction) {
        let label = DirectionLabel { direction: direction.as_str() };
        self.tunnels.get_or_create(&label).inc();
        self.tunnels_open.get_or_create(&label).inc();
    }

    /// A tunnel has ended.
    pub(crate) fn tunnel_closed(&self, direction: Direction) {
        self.tunnels_open.get_or_create(&DirectionLabel { direction: direction.as_str() }).dec();
    }

    fn gauge(&self, direction: Direction) -> Gauge {
        self.connections_open.get_or_create_owned(&DirectionLabel { direction: direction.as_str() })
    }

    /// Counts how long the dial of the other side took, where it was dialled with success. Says whether it was.
    fn dial(&self, record: &ConnectionRecord) -> bool {
        let Some((begun, done)) = record.times.dialled.zip(record.times.connected) else { return false };
        self.dials.get_or_create(&direction(record)).observe(seconds(done.saturating_sub(begun)));
        true
    }

    /// Of connections in a tunnel the first counts the handshake.
    fn handshake(&self, record: &ConnectionRecord) {
        if record.tunnel.is_some_and(|tunnel| tunnel.stream != 1) {
            return;
        }
        if let Some(tls) = record.tls.as_ref().filter(|tls| tls.mode == TlsMode::IstioMutual) {
            let labels = HandshakeLabels { direction: record.direction.as_str(), resumed: tls.resumed };
            self.handshakes.get_or_create(&labels).observe(seconds(tls.handshake_micros));
        }
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register_collector(Box::new(self.edges.clone()));
        registry.register_collector(Box::new(self.requests.clone()));
        registry.register(
            "pillion_connections_open",
            "Connections that are open now",
            self.connections_open.clone(),
        );
        registry.register("pillion_tunnels", "Tunnels that were opened", self.tunnels.clone());
        registry.register("pillion_tunnels_open", "Tunnels that are open now", self.tunnels_open.clone());
        registry.register(
            "pillion_connections_refused",
            "Connections that were not let in, or for which nothing could be reached",
            self.refused.clone(),
        );
        registry.register(
            "pillion_authorization_shadow",
            "Connections and requests by what AuthorizationPolicies in dry run would have decided",
            self.shadow.clone(),
        );
        registry.register(
            "pillion_shadow_refused",
            "Connections that were let in, and that a PeerAuthentication in dry run would have refused",
            self.shadow_refused.clone(),
        );
        registry.register(
            "pillion_connections_ended",
            "Connections that were open, by how they ended",
            self.ended.clone(),
        );
        registry.register(
            "pillion_requests_refused",
            "Requests that were not answered by whom they were for",
            self.requests_refused.clone(),
        );
        registry.register(
            "pillion_handshake_duration_seconds",
            "TLS handshakes between sidecars, from the first byte to the last",
            self.handshakes.clone(),
        );
        registry.register(
            "pillion_dial_duration_seconds",
            "Dials of the other side, until it had taken the connection and before any handshake",
            self.dials.clone(),
        );
        registry.register(
            "pillion_connection_duration_seconds",
            "Connections that were open and have ended, from the accept to the end",
            self.durations.clone(),
        );
        registry.register(
            "pillion_certificate_expiry_timestamp_seconds",
            "When our certificate, the first root of our trust domain, and the first revocation list end",
            self.expiry.clone(),
        );
        registry.register(
            "pillion_certificate_renewals",
            "Tries to get a certificate",
            self.renewals.clone(),
        );
        registry.register(
            "pillion_policy_reload",
            "Changes of the mesh resources that were seen",
            self.reloads.clone(),
        );
        registry.register(
            "pillion_policy_last_reload_successful",
            "1 while the mesh resources that were seen last are in force, 0 while those before them are",
            self.last_reload.clone(),
        );
        registry.register(
            "pillion_panics",
            "Faults of the proxy that cost one connection",
            self.panics.clone(),
        );
        registry.register(
            "pillion_accept_failures",
            "Connections that the kernel did not hand over",
            self.accept_failures.clone(),
        );
        registry.register(
            "pillion_federation_refresh",
            "Tries to get the trust bundle of another trust domain, and changes of its file",
            self.federation.clone(),
        );
        registry.register(
            "pillion_workload_api_calls",
            "Calls of the SPIFFE Workload API by how they were answered",
            self.workload_api.clone(),
        );
        registry.register(
            "pillion_workload_api_streams",
            "Streams of the SPIFFE Workload API that are open now",
            self.workload_api_streams.clone(),
        );
        registry.register(
            "pillion_build",
            "The version that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
    }
}

fn direction(record: &ConnectionRecord) -> DirectionLabel {
    DirectionLabel { direction: record.direction.as_str() }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

fn result(ok: bool) -> ResultLabel {
    ResultLabel { result: if ok { "success" } else { "failure" } }
}

/// Whole seconds since 1970; what was before is 0.
fn epoch_seconds(at: SystemTime) -> i64 {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
