//! `proxy-config endpoint`: the services that the proxy knows, and how each of their endpoints is dialled.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Filter, cell, known, table};
use crate::policy::Snapshot;
use crate::policy::dial::DialTls;
use crate::policy::mode::Mode;
use crate::registry::ListedEndpoint;
use crate::resource::Location;
use crate::spiffe::SpiffeId;

/// The page `/endpoints`, whole or what a filter wants of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// In the order of the files.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint of a service, and how it is dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The service's host.
    pub host: String,
    /// The service's port.
    pub port: u16,
    /// The endpoint's address; its name and port where DNS does not know it yet; `as dialled` where the client's own choice
    /// is kept.
    pub endpoint: String,
    /// Whether it can be dialled: its address is known, or is the client's choice.
    pub resolved: bool,
    /// What is declared to be spoken there, `HTTP`, or `undeclared`.
    pub protocol: String,
    /// `MESH_EXTERNAL` or `MESH_INTERNAL`.
    pub location: String,
    /// The ServiceEntry, `namespace/name`.
    pub service_entry: String,
    /// Whether it is known to have a sidecar.
    pub has_sidecar: bool,
    /// What its port accepts by the PeerAuthentications that are known here.
    pub mode: Mode,
    /// `DISABLE`, `SIMPLE`, `MUTUAL`, `ISTIO_MUTUAL`, `HBONE` (the same in a tunnel), or `REFUSED`.
    pub tls: String,
    /// The server name that is asked for.
    pub sni: Option<String>,
    /// Why, in words.
    pub because: String,
    /// The DestinationRule that applies, `namespace/name`.
    pub rule: Option<String>,
    /// The identities that may serve the host.
    pub identities: Vec<SpiffeId>,
}

impl Endpoints {
    /// Those that a workload sees, names that DNS does not know yet too.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        Self { endpoints: snapshot.registry.list().iter().map(|listed| endpoint(snapshot, listed)).collect() }
    }

    /// Those that `filter` wants: by the port of the service or of the endpoint.
    #[must_use]
    pub fn wanted(mut self, filter: &Filter) -> Self {
        self.endpoints.retain(|endpoint| {
            let socket: Option<SocketAddr> = endpoint.endpoint.parse().ok();
            let address: Vec<_> = socket.iter().map(SocketAddr::ip).collect();
            let own_port = endpoint.endpoint.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
            let ports: Vec<u16> = [endpoint.port].into_iter().chain(own_port).collect();
            filter.wants_port(&ports)
                && filter.wants_address(&address)
                && filter.wants_service(Some(&endpoint.service()))
        });
        self
    }

    /// How a service is dialled, and why, by its first endpoint.
    pub(super) fn dialled(&self, service: &str) -> Option<(String, String)> {
        let first = self.endpoints.iter().find(|endpoint| endpoint.service() == service)?;
        Some((first.tls.clone(), first.because.clone()))
    }
}

impl Endpoint {
    fn service(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

fn endpoint(snapshot: &Snapshot, listed: &ListedEndpoint) -> Endpoint {
    let plan = snapshot.plan_listed(listed);
    let ListedEndpoint { destination, name } = listed;
    let sni = match &plan.tls {
        DialTls::IstioMutual { sni, .. } => Some(sni.clone()),
        DialTls::Originate { server_name, .. } => server_name.clone(),
        DialTls::Plaintext | DialTls::Tunnel { .. } | DialTls::Refuse(_) => None,
    };
    Endpoint {
        host: destination.host.clone(),
        port: destination.port,
        endpoint: name.clone(),
        resolved: name == ListedEndpoint::AS_DIALLED || name.parse::<SocketAddr>().is_ok(),
        protocol: destination.protocol.as_str().to_owned(),
        location: match destination.location {
            Location::MeshExternal => "MESH_EXTERNAL".to_owned(),
            Location::MeshInternal => "MESH_INTERNAL".to_owned(),
        },
        service_entry: destination.service_entry.clone(),
        has_sidecar: destination.has_sidecar,
        mode: destination.endpoint_mode,
        tls: plan.tls.mode().to_owned(),
        sni,
        because: plan.because,
        rule: destination.rule.as_ref().map(|rule| rule.name.clone()),
        identities: destination.identities.to_vec(),
    }
}

impl Display for Endpoints {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let head = ["ENDPOINT", "STATUS", "CLUSTER", "MODE", "TLS", "DESTINATION RULE", "BECAUSE"];
        let row = |endpoint: &Endpoint| {
            [
                cell(&endpoint.endpoint),
                if endpoint.resolved { "known" } else { "no address" }.to_owned(),
                // As Envoy names it: direction, port, subset, host.
                cell(&format!("outbound|{}||{}", endpoint.port, endpoint.host)),
                // What a server without a sidecar accepts is nobody's policy.
                if endpoint.has_sidecar { endpoint.mode.to_string() } else { "-".to_owned() },
                cell(&endpoint.tls),
                known(endpoint.rule.as_ref()),
                cell(&endpoint.because),
            ]
        };
        table(f, head, self.endpoints.iter().map(row), "The proxy knows no such endpoint.")
    }
}
