//! What the proxy is told: as typed in the file, the environment and the flags ([`raw`]), then checked ([`check`]).
//!
//! Building [`Settings`] reads nothing but what it is given; the file is read by [`crate::entry`], the environment by
//! clap alone.

mod arguments;
mod check;
mod describe;
mod raw;
#[cfg(test)]
mod tests;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::time_scale::{FactorError, TimeScale};
use pillion_mesh::workload::{MeshConfig, Workload};
use serde::Deserialize;

pub(crate) use arguments::Arguments;
pub(crate) use check::Faults;
pub(crate) use raw::RawSettings;

use crate::identity;
use crate::net::Keepalive;
use crate::tls::TlsSettings;

/// Which program the settings are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// The sidecar.
    Proxy,
    /// The sidecar's identity and Workload API without the sidecar.
    Agent,
}

impl Program {
    /// What it is called by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Program::Proxy => "pillion-proxy",
            Program::Agent => "pillion-ca agent",
        }
    }
}

/// Checked settings: every value is one that the proxy can run with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Who this sidecar stands for. Its SPIFFE ID can be built.
    pub(crate) workload: Workload,
    /// What holds for the whole mesh.
    pub(crate) mesh_config: MeshConfig,
    /// Where the certificate comes from.
    pub(crate) identity: identity::Source,
    /// A file with revocation lists for peers of the mesh; without it nothing is revoked.
    pub(crate) crl: Option<PathBuf>,
    /// Where apps may have the identity too; `None` is off.
    pub(crate) workload_api: Option<WorkloadApi>,
    /// Other trust domains whose identities are believed. Each once, none of them ours.
    pub(crate) federation: Vec<identity::Federated>,
    /// A file or folder of Istio resources; without it there are no policies.
    pub(crate) mesh: Option<PathBuf>,
    /// Towards the app.
    pub(crate) inbound: Inbound,
    /// From the app.
    pub(crate) outbound: Outbound,
    /// As an edge proxy; `None` is off.
    pub(crate) gateway: Option<Gateway>,
    /// How the kernel hands connections over.
    pub(crate) interception: Interception,
    /// Where the admin API listens.
    pub(crate) admin: SocketAddr,
    /// Whether plaintext may be kept for who asks the admin API for it.
    pub(crate) capture_allowed: bool,
    /// Where `GET /healthz/ready` is answered.
    pub(crate) readiness: SocketAddr,
    /// For how long the certificate has to last to be ready; `None` is as long as it is valid.
    pub(crate) fail_before: Option<Duration>,
    /// Where `GET /stats/prometheus` is answered.
    pub(crate) metrics: SocketAddr,
    /// TLS of the mesh legs, and of those to servers outside.
    pub(crate) tls: TlsSettings,
    /// How long the first bytes may take: of an inbound connection, and of an outbound one that they may tell.
    pub(crate) detection_timeout: Duration,
    /// How long open connections may finish after a signal to stop.
    pub(crate) drain_timeout: Duration,
    /// What one peer, or all together, may take.
    pub(crate) limits: Limits,
    /// Tunnels, in and out.
    pub(crate) tunnels: Tunnels,
    /// How often names in the registry are looked up again.
    pub(crate) dns_refresh: Duration,
    /// What happens to open connections that a changed policy or trust bundle no longer allows.
    pub(crate) policy_change: PolicyChange,
    /// The form of log lines.
    pub(crate) log_format: LogFormat,
    /// The time that certificates live in, where it is not the world's.
    pub(crate) hurry: Option<Hurry>,
}

/// The SPIFFE Workload API as it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkloadApi {
    /// The Unix socket.
    pub(crate) socket: PathBuf,
    /// Its file mode: who may open it.
    pub(crate) mode: u32,
}

/// What is taken in for the app.
#[derive(Debug, Clone)]
pub(crate) struct Inbound {
    /// Where interception rules send inbound connections; `None` is off.
    pub(crate) capture: Option<SocketAddr>,
    /// Where peers bring connections in tunnels; `None` is off.
    pub(crate) tunnel: Option<SocketAddr>,
    /// Listeners that need no rules.
    pub(crate) listeners: Vec<InboundListener>,
    /// Where captured connections go.
    pub(crate) traffic_policy: TrafficPolicy,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub(crate) trusted_proxies: Vec<SpiffeId>,
}

/// An explicit inbound listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InboundListener {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The app; its port is the one that policies speak of.
    pub(crate) forward: SocketAddr,
}

/// What is taken from the app.
#[derive(Debug, Clone)]
pub(crate) struct Outbound {
    /// Where interception rules send outbound connections; `None` is off.
    pub(crate) capture: Option<SocketAddr>,
    /// Listeners that need no rules.
    pub(crate) listeners: Vec<OutboundListener>,
}

/// An explicit outbound listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutboundListener {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The host to look up in the registry, lower-case.
    pub(crate) host: String,
    /// The service's port.
    pub(crate) port: u16,
}

/// An edge proxy: listens on the ports of the `Gateway` resources that select the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gateway {
    /// Where it listens.
    pub(crate) address: IpAddr,
    /// The ports that are listened on in place of a Gateway's.
    pub(crate) ports: BTreeMap<u16, u16>,
}

impl Gateway {
    /// Where a Gateway's port is listened on.
    pub(crate) fn bound(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, self.ports.get(&port).copied().unwrap_or(port))
    }
}

/// How the kernel hands connections over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interception {
    /// By NAT or by transparent sockets.
    pub(crate) mode: InterceptionMode,
    /// `SO_MARK` of the proxy's own sockets, by which rules may know them.
    pub(crate) mark: Option<u32>,
}

/// What one peer, or all together, may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at the same time, both directions together.
    pub(crate) max_connections: usize,
    /// A TLS handshake, from its first byte to its last.
    pub(crate) handshake_timeout: Duration,
    /// Bytes of a ClientHello.
    pub(crate) hello_size: usize,
    /// Bytes of an HTTP message's head, at least 8 KiB.
    pub(crate) request_head_size: usize,
    /// The head of an HTTP request, from its first byte to its last.
    pub(crate) request_head_timeout: Duration,
    /// A connection to the app or to the peer.
    pub(crate) connect_timeout: Duration,
    /// TCP keepalive of every connection.
    pub(crate) keepalive: Keepalive,
}

/// Connections that share a session of mutual TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tunnels {
    /// Connections in one tunnel at the same time.
    pub(crate) max_streams: usize,
    /// Our own tunnels to one peer at the same time.
    pub(crate) max_tunnels: usize,
    /// How long one of ours may be empty.
    pub(crate) idle_timeout: Duration,
}

/// Istio's `outboundTrafficPolicy`: what becomes of captured connections to a destination that the registry does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[value(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum OutboundTrafficPolicy {
    /// They are passed on as they are.
    AllowAny,
    /// They are refused.
    RegistryOnly,
}

/// Istio's `inboundTrafficPolicy`: where captured connections go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
#[value(rename_all = "UPPER")]
pub(crate) enum TrafficPolicy {
    /// To the address that the client dialled.
    Passthrough,
    /// To 127.0.0.1 (::1), for apps that listen on loopback only.
    Localhost,
}

/// Which rules intercept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
#[value(rename_all = "UPPER")]
pub(crate) enum InterceptionMode {
    /// NAT: the app sees 127.0.0.6 as its client.
    Redirect,
    /// Transparent sockets: the app sees its client's own address; needs CAP_NET_ADMIN.
    Tproxy,
}

/// What happens to open connections that a changed policy or trust bundle no longer allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PolicyChange {
    /// They are cut.
    Close,
    /// They stay; only new ones are judged by the new policy (as Envoy does).
    Keep,
}

/// How the time that certificates live in runs, for lessons and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hurry {
    /// With an origin that counts only where one was given.
    scale: TimeScale,
    /// Since when; none is the start of the process.
    pub(crate) origin: Option<SystemTime>,
}

impl Hurry {
    /// # Errors
    /// Where the factor is out of range.
    fn new(factor: u32, origin: Option<SystemTime>) -> Result<Self, FactorError> {
        Ok(Self { scale: TimeScale::new(SystemTime::UNIX_EPOCH, factor)?, origin })
    }

    /// For a process that started at `start`.
    pub(crate) fn scale(self, start: SystemTime) -> TimeScale {
        self.scale.since(self.origin.unwrap_or(start))
    }
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

impl Interception {
    /// The mark of connections that leave this host. With TPROXY it is for those to the app alone: packets that bear it
    /// are routed to this host.
    pub(crate) fn mark_outwards(self) -> Option<u32> {
        match self.mode {
            InterceptionMode::Redirect => self.mark,
            InterceptionMode::Tproxy => None,
        }
    }
}

impl Settings {
    /// Every address that the proxy listens on, with the path of its setting, in the order of the file.
    pub(crate) fn bound_addresses(&self) -> Vec<(String, SocketAddr)> {
        let mut bound = Vec::new();
        bound.extend(self.inbound.capture.map(|address| ("inbound.capture".to_owned(), address)));
        for (n, listener) in self.inbound.listeners.iter().enumerate() {
            bound.push((format!("inbound.listeners[{n}].address"), listener.address));
        }
        bound.extend(self.inbound.tunnel.map(|address| ("inbound.tunnel".to_owned(), address)));
        bound.extend(self.outbound.capture.map(|address| ("outbound.capture".to_owned(), address)));
        for (n, listener) in self.outbound.listeners.iter().enumerate() {
            bound.push((format!("outbound.listeners[{n}].address"), listener.address));
        }
        bound.push(("admin.address".to_owned(), self.admin));
        bound.push(("readiness.address".to_owned(), self.readiness));
        bound.push(("metrics.address".to_owned(), self.metrics));
        bound
    }

    /// The ports of [`Settings::bound_addresses`]; port 0, which the kernel chooses, is not among them.
    pub(crate) fn own_ports(&self) -> BTreeSet<u16> {
        self.bound_addresses().iter().map(|(_, address)| address.port()).filter(|port| *port != 0).collect()
    }
}
