//! Istio's TCP metrics: who talked to whom, as the labels that Kiali, Grafana and Istio's own queries expect.
//!
//! One entry for each edge, that is each distinct set of labels; the metric families are views of it, made when they
//! are read. A label never holds bytes that nobody has verified (a server name, an address), and the number of edges
//! has a limit, beyond which peers and services are called `other`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use pillion_mesh::reason::Reason;
use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::wire::{ConnectionRecord, Direction, RequestRecord, TlsMode};
use pillion_mesh::workload::Workload;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;

/// Edges that are told apart. Peers come and go with deployments, and the exporter forgets none.
pub(super) const MAX_EDGES: usize = 2_000;

const UNKNOWN: &str = "unknown";
const OTHER: &str = "other";

/// The counters of all edges of one workload.
#[derive(Debug)]
pub(super) struct Edges {
    own: Own,
    counts: RwLock<HashMap<Edge, Arc<Counts>>>,
}

/// What is counted on an edge.
#[derive(Debug, Default)]
pub(super) struct Counts {
    opened: AtomicU64,
    closed: AtomicU64,
    failed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counts {
    /// A connection was admitted and both legs stand.
    pub(super) fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that had been opened has ended.
    pub(super) fn closed(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection never came to be open.
    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes moved. Istio speaks from the server's place at both ends: what the client sent is `received`, the answer
    /// is `sent`, also where the client's sidecar reports it (istio/istio#32399, kiali/kiali#6760).
    pub(super) fn moved(&self, to_server: u64, to_client: u64) {
        self.received.fetch_add(to_server, Ordering::Relaxed);
        self.sent.fetch_add(to_client, Ordering::Relaxed);
    }
}

impl Edges {
    pub(super) fn new(workload: &Workload) -> Self {
        Self { own: Own::new(workload), counts: RwLock::default() }
    }

    /// The counters of the edge that `record` belongs to, with the flags of how it ended (`-` while it is open).
    pub(super) fn of(&self, record: &ConnectionRecord) -> Arc<Counts> {
        let edge = Edge::of(record);
        let known = self.counts.read().unwrap_or_else(PoisonError::into_inner).get(&edge).cloned();
        known.unwrap_or_else(|| self.enter(edge))
    }

    fn enter(&self, edge: Edge) -> Arc<Counts> {
        let mut counts = self.counts.write().unwrap_or_else(PoisonError::into_inner);
        let full = counts.len() >= MAX_EDGES && !counts.contains_key(&edge);
        counts.entry(if full { edge.merged() } else { edge }).or_default().clone()
    }
}

/// What tells one edge from another; the labels follow from it and from [`Own`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Edge {
    direction: Direction,
    peer: Peer,
    service: Service,
    flags: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Peer {
    /// It proved no identity.
    Unknown,
    /// It proved this one.
    Verified(String),
    /// It is no workload of the mesh; with the URIs, if any, that it and we have shown each other.
    Outside { theirs: Option<String>, ours: Option<String> },
    /// It proved one of those beyond [`MAX_EDGES`].
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Service {
    /// A host of the registry.
    Host(String),
    /// No service that the registry knows.
    Passthrough,
    /// The proxy itself, or nobody that REGISTRY_ONLY lets out to.
    BlackHole,
    /// A host beyond [`MAX_EDGES`].
    Other,
}

impl Edge {
    fn of(record: &ConnectionRecord) -> Self {
        let peer = record.tls.as_ref().map_or(Peer::Unknown, |tls| Peer::of(tls.mode, &tls.peer, &tls.local));
        let service = match &record.service {
            _ if record.reason == Some(Reason::SelfLoop) => Service::BlackHole,
            Some(service) => Service::Host(host_of(service).to_owned()),
            // Where Istio sends what REGISTRY_ONLY does not let out.
            None if record.reason == Some(Reason::DestinationUnknown) => Service::BlackHole,
            None => Service::Passthrough,
        };
        Self {
            direction: record.direction,
            peer,
            service,
            flags: response_flags(record.direction, record.reason),
        }
    }

    /// The edge that a request belongs to.
    pub(super) fn of_request(record: &RequestRecord) -> Self {
        let peer = record.tls.as_ref().map_or(Peer::Unknown, |tls| Peer::of(tls.mode, &tls.peer, &tls.local));
        let service = record.service.as_deref();
        let service =
            service.map_or(Service::Passthrough, |service| Service::Host(host_of(service).to_owned()));
        let flags = response_flags(record.direction, Some(record.reason));
        Self { direction: record.direction, peer, service, flags }
    }

    /// The edge that stands for all that find no place of their own. There are few of these.
    pub(super) fn merged(self) -> Self {
        let peer = match self.peer {
            Peer::Verified(_) => Peer::Other,
            Peer::Outside { .. } => Peer::Outside { theirs: None, ours: None },
            peer => peer,
        };
        let service = match self.service {
            Service::Host(_) => Service::Other,
            service => service,
        };
        Self { peer, service, ..self }
    }
}

/// Istio's principals are URIs of certificates; a DNS name or a subject is none.
fn uri(name: &str) -> Option<String> {
    name.contains("://").then(|| name.to_owned())
}

/// Envoy's response flags for how a connection or request ended, `-` for one that is open or ended well.
pub(super) fn response_flags(direction: Direction, reason: Option<Reason>) -> &'static str {
    let inbound = direction == Direction::Inbound;
    let Some(reason) = reason else { return "-" };
    match reason {
        Reason::Completed => "-",
        // Downstream and upstream connection termination.
        Reason::ClientReset | Reason::ClientLost => "DC",
        Reason::ServerReset | Reason::ServerLost => "UC",
        // No filter chain takes these bytes, no route leads there.
        Reason::StrictPlaintext
        | Reason::StrictSilent
        | Reason::TlsToHttpPort
        | Reason::HelloTooLarge
        | Reason::NoOriginalDestination
        | Reason::DestinationUnknown
        | Reason::NoRoute
        | Reason::SelfLoop
        | Reason::AddressNotOurs => "NR",
        // Envoy has no flag for it; ztunnel's word.
        Reason::AuthorizationDenied | Reason::DeniedByPeer => "DENY",
        Reason::NoEndpoint => "UH",
        Reason::AppUnreachable
        | Reason::DestinationUnreachable
        | Reason::ConnectTimeout
        | Reason::TunnelRefused
        | Reason::TunnelFailed => "UF",
        Reason::TooManyConnections | Reason::TunnelsFull => "UO",
        // Downstream and upstream protocol error.
        Reason::RequestMalformed | Reason::RequestTimeout => "DPE",
        Reason::TlsTruncated | Reason::TlsBroken if inbound => "DPE",
        Reason::TlsTruncated | Reason::TlsBroken => "UPE",
        // Duration timeout, and resets of our own.
        Reason::Drained => "DT",
        Reason::PolicyChanged | Reason::Internal => "LR",
        // Handshakes that did not come to be.
        Reason::HandshakeTimeout
        | Reason::HandshakeFailed
        | Reason::NoClientCertificate
        | Reason::CertificateExpired
        | Reason::CertificateNotYetValid
        | Reason::CertificateUntrusted
        | Reason::CertificateInvalid
        | Reason::CertificateRevoked
        | Reason::SvidInvalid
        | Reason::TrustDomainUnknown
        | Reason::IdentityUnexpected
        | Reason::NoExpectedIdentity
        | Reason::NoServerName
        | Reason::ServerNameUnexpected
        | Reason::TlsFilesUnusable
        | Reason::PeerRefused
        | Reason::NoCertificate => {
            if inbound {
                "DPE"
            } else {
                "UF"
            }
        }
    }
}

/// The labels of the workload itself.
#[derive(Debug)]
pub(super) struct Own {
    side: [String; 6],
    principal: String,
    namespace: String,
}

impl Own {
    pub(super) fn new(workload: &Workload) -> Self {
        let label = |names: &[&str]| names.iter().find_map(|name| workload.labels.get(*name)).cloned();
        let app = label(&["app"]);
        let version = label(&["version"]);
        let service = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
        let revision =
            label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
        Self {
            side: [
                workload.name.clone(),
                workload.namespace.clone(),
                app.unwrap_or_else(|| UNKNOWN.to_owned()),
                version.unwrap_or_else(|| UNKNOWN.to_owned()),
                service.unwrap_or_else(|| workload.name.clone()),
                revision.unwrap_or_else(|| "latest".to_owned()),
            ],
            principal: workload.id().map_or_else(|_no_id| UNKNOWN.to_owned(), |id| id.as_str().to_owned()),
            namespace: workload.namespace.clone(),
        }
    }
}

/// `source_*` or `destination_*`: workload, its namespace, app, version, canonical service and revision. The principal
/// comes apart.
type Side<'a> = [Cow<'a, str>; 6];

pub(super) type Labels<'a> = Vec<(&'static str, Cow<'a, str>)>;

impl Edge {
    /// Istio's labels, all of them on every metric. `protocol` is `tcp`, `http` or `grpc`.
    pub(super) fn labels<'a>(&'a self, own: &'a Own, protocol: &'static str) -> Labels<'a> {
        let secured = matches!(self.peer, Peer::Verified(_) | Peer::Other);
        let own_principal = match &self.peer {
            Peer::Unknown => UNKNOWN,
            Peer::Verified(_) | Peer::Other => own.principal.as_str(),
            Peer::Outside { ours, .. } => ours.as_deref().unwrap_or(UNKNOWN),
        };
        let own_side: Side<'_> = own.side.each_ref().map(|label| Cow::from(label.as_str()));
        let (peer_side, peer_principal) = self.peer.side();
        let inbound = self.direction == Direction::Inbound;
        let (source, source_principal, destination, destination_principal) = if inbound {
            (peer_side, peer_principal, own_side, own_principal)
        } else {
            (own_side, own_principal, peer_side, peer_principal)
        };
        let server_namespace = if inbound { Cow::from(&own.namespace) } else { namespace_of(&destination) };
        let [service, service_name, service_namespace] = self.service.labels(inbound, server_namespace);
        let [s_workload, s_namespace, s_app, s_version, s_service, s_revision] = source;
        let [d_workload, d_namespace, d_app, d_version, d_service, d_revision] = destination;
        vec![
            ("reporter", if inbound { "destination" } else { "source" }.into()),
            ("source_workload", s_workload),
            ("source_workload_namespace", s_namespace),
            ("source_principal", source_principal.into()),
            ("source_app", s_app),
            ("source_version", s_version),
            ("source_canonical_service", s_service),
            ("source_canonical_revision", s_revision),
            ("source_cluster", UNKNOWN.into()),
            ("destination_workload", d_workload),
            ("destination_workload_namespace", d_namespace),
            ("destination_principal", destination_principal.into()),
            ("destination_app", d_app),
            ("destination_version", d_version),
            ("destination_canonical_service", d_service),
            ("destination_canonical_revision", d_revision),
            ("destination_cluster", UNKNOWN.into()),
            ("destination_service", service),
            ("destination_service_name", service_name),
            ("destination_service_namespace", service_namespace),
            ("request_protocol", protocol.into()),
            ("response_flags", self.flags.into()),
            ("connection_security_policy", security_policy(inbound, secured).into()),
        ]
    }
}

/// Only the destination can say it; the source says `unknown`, as Istio's does.
fn security_policy(inbound: bool, secured: bool) -> &'static str {
    match (inbound, secured) {
        (true, true) => "mutual_tls",
        (true, false) => "none",
        (false, _) => UNKNOWN,
    }
}

fn namespace_of<'a>([_, namespace, ..]: &Side<'a>) -> Cow<'a, str> {
    namespace.clone()
}

impl Peer {
    fn of(mode: TlsMode, peer: &str, local: &str) -> Self {
        match mode {
            TlsMode::IstioMutual => Peer::Verified(peer.to_owned()),
            TlsMode::Mutual | TlsMode::Simple => Peer::Outside { theirs: uri(peer), ours: uri(local) },
        }
    }

    /// What is known of the other workload, which is what its identity says, and the identity.
    fn side(&self) -> (Side<'_>, &str) {
        let side = |workload: &str, namespace: &str| -> Side<'_> {
            [workload, namespace, UNKNOWN, UNKNOWN, workload, "latest"]
                .map(|label| Cow::from(label.to_owned()))
        };
        match self {
            Peer::Unknown => (side(UNKNOWN, UNKNOWN), UNKNOWN),
            Peer::Other => (side(OTHER, OTHER), OTHER),
            Peer::Outside { theirs, .. } => (side(UNKNOWN, UNKNOWN), theirs.as_deref().unwrap_or(UNKNOWN)),
            Peer::Verified(principal) => {
                let id = principal.parse::<SpiffeId>().ok();
                let workload = id.as_ref().and_then(SpiffeId::service_account).unwrap_or(UNKNOWN);
                let namespace = id.as_ref().and_then(SpiffeId::namespace).unwrap_or(UNKNOWN);
                (side(workload, namespace), principal)
            }
        }
    }
}

impl Service {
    /// `destination_service`, `_name` and `_namespace`.
    fn labels<'a>(&'a self, inbound: bool, server_namespace: Cow<'a, str>) -> [Cow<'a, str>; 3] {
        match self {
            Service::Host(host) => match kubernetes_name(host) {
                Some((name, namespace)) => [host.into(), name.into(), namespace.into()],
                None => [host.into(), host.into(), server_namespace],
            },
            Service::Passthrough if inbound => {
                [UNKNOWN.into(), "InboundPassthroughCluster".into(), server_namespace]
            }
            Service::Passthrough => [UNKNOWN.into(), "PassthroughCluster".into(), UNKNOWN.into()],
            Service::BlackHole => [UNKNOWN.into(), "BlackHoleCluster".into(), UNKNOWN.into()],
            Service::Other => [OTHER.into(), OTHER.into(), OTHER.into()],
        }
    }
}

/// The host in the `host:port` of a record: Istio's labels name the service without its port.
fn host_of(service: &str) -> &str {
    service.rsplit_once(':').map_or(service, |(host, _port)| host)
}

/// Name and namespace of `<name>.<namespace>.svc.…`.
fn kubernetes_name(host: &str) -> Option<(&str, &str)> {
    let (name, rest) = host.split_once('.')?;
    let (namespace, rest) = rest.split_once('.')?;
    (rest == "svc" || rest.starts_with("svc.")).then_some((name, namespace))
}

/// A metric family as a view of the counters: its name without `_total`, its help, and what it reads.
type View = (&'static str, &'static str, fn(&Counts) -> &AtomicU64);

const FAMILIES: [View; 5] = [
    ("istio_tcp_connections_opened", "TCP connections opened", |counts| &counts.opened),
    ("istio_tcp_connections_closed", "TCP connections closed after they had been opened", |counts| {
        &counts.closed
    }),
    ("istio_tcp_connections_failed", "TCP connections that never came to be open", |counts| &counts.failed),
    ("istio_tcp_sent_bytes", "Bytes sent as responses, server to client", |counts| &counts.sent),
    ("istio_tcp_received_bytes", "Bytes received as requests, client to server", |counts| &counts.received),
];

impl Collector for Edges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, help, read) in FAMILIES {
            let counter = ConstCounter::new(0_u64);
            let mut family = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            for (edge, counts) in &counts {
                let value = read(counts).load(Ordering::Relaxed);
                if value > 0 {
                    let labels = edge.labels(&self.own, "tcp");
                    ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}
