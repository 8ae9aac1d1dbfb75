//! One workload as its sidecar sees it: what its ports accept, who may call it, how it calls others, and why.
//!
//! A view of a [`Snapshot`]: nothing is decided here. The admin API gives it as JSON, and `pillion describe` prints the
//! same whether it has it from a running proxy or from the files.

mod text;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::finding::Finding;
use crate::policy::Snapshot;
use crate::policy::authz::PolicyDescription;
use crate::policy::dial::DialTls;
use crate::policy::mode::{ConsideredPolicy, Mode, PortDecision};
use crate::policy::route::Route;
use crate::registry::ListedEndpoint;
use crate::resource::{HostPattern, Location, PathMatch};
use crate::spiffe::SpiffeId;
use crate::workload::{Labels, Workload};

/// Everything that the resources mean for one workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// Who it is.
    pub workload: WorkloadDescription,
    /// Its ports that are declared, or have a mode of their own, or were asked for; in order.
    pub ports: Vec<PortDescription>,
    /// What holds for every other port.
    pub other_ports: ModeDescription,
    /// The PeerAuthentications that were considered, the widest scope first.
    pub peer_authentications: Vec<ConsideredPolicy>,
    /// The AuthorizationPolicies that apply.
    pub authorization_policies: Vec<PolicyDescription>,
    /// What becomes of a caller whom no rule is about.
    pub others_allowed: bool,
    /// The services that it sees, with their endpoints.
    pub destinations: Vec<DestinationDescription>,
    /// Where it sends requests as an edge proxy.
    pub routes: Vec<RouteDescription>,
    /// What is legal in the resources and probably not meant.
    pub findings: Vec<Finding>,
}

/// Who a workload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadDescription {
    /// What logs and metrics call it.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its SPIFFE ID; none where the service account is not known.
    pub identity: Option<SpiffeId>,
    /// What selectors match on.
    pub labels: Labels,
}

/// What a port accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModeDescription {
    /// STRICT, PERMISSIVE or DISABLE.
    pub mode: Mode,
    /// The policy that decided, to follow "by".
    pub because: String,
    /// What it would accept with the policies in dry run, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Box<ModeDescription>>,
}

/// One of the workload's own ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortDescription {
    /// Its number.
    pub port: u16,
    /// The service that leads to it, `host:port`.
    pub service: Option<String>,
    /// What is declared to be spoken there, `HTTP`, or `undeclared`.
    pub protocol: String,
    /// What it accepts.
    #[serde(flatten)]
    pub mode: ModeDescription,
    /// Whether its connections are read as HTTP, so that each request is authorized by itself.
    pub reads_http: bool,
    /// Why they are, or are not.
    pub reads_http_because: String,
}

/// How an endpoint of a service is dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationDescription {
    /// The service's host.
    pub host: String,
    /// The service's port.
    pub port: u16,
    /// What is declared to be spoken there, `HTTP`, or `undeclared`.
    pub protocol: String,
    /// `MESH_EXTERNAL` or `MESH_INTERNAL`.
    pub location: String,
    /// The endpoint's address, or its name where DNS does not know it yet.
    pub endpoint: String,
    /// Whether it is known to have a sidecar.
    pub has_sidecar: bool,
    /// `DISABLE`, `SIMPLE`, `MUTUAL`, `ISTIO_MUTUAL`, `HBONE` (the same in a tunnel), or `REFUSED`.
    pub tls: String,
    /// The server name that is asked for.
    pub sni: Option<String>,
    /// Who may answer: SPIFFE IDs, or names of a certificate.
    pub expects: Vec<String>,
    /// Why, in words.
    pub because: String,
    /// The DestinationRule that applies, `namespace/name`.
    pub rule: Option<String>,
    /// The ServiceEntry, `namespace/name`.
    pub service_entry: String,
}

/// A route of an edge proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteDescription {
    /// The edge proxy's port.
    pub port: u16,
    /// The host that requests are for; `*` is any.
    pub host: String,
    /// The paths that it takes, `/api*` those that begin so; none is every one.
    pub paths: Vec<String>,
    /// `host:port` of the service, with its subset.
    pub destination: String,
    /// The VirtualService, `namespace/name`.
    pub virtual_service: String,
    /// `file:line` of the destination.
    pub place: String,
    /// The Gateways that ask for the port, `namespace/name`.
    pub gateways: Vec<String>,
}

/// Describes `workload`, for which `snapshot` was made. `ports` are shown besides those that the resources name.
#[must_use]
pub fn describe(snapshot: &Snapshot, workload: &Workload, ports: &BTreeSet<u16>) -> Description {
    let declared = snapshot.own_ports().map(|(port, _)| port);
    let with_mode = snapshot.modes.ports().map(|(port, _)| port);
    let with_shadow = snapshot.modes.shadow_ports();
    let shown: BTreeSet<u16> =
        declared.chain(with_mode).chain(with_shadow).chain(ports.iter().copied()).collect();
    Description {
        workload: WorkloadDescription {
            name: workload.name.clone(),
            namespace: workload.namespace.clone(),
            service_account: workload.service_account.clone(),
            identity: workload.id().ok(),
            labels: workload.labels.clone(),
        },
        ports: shown.into_iter().map(|port| described_port(snapshot, port)).collect(),
        other_ports: described_mode(
            snapshot.modes.for_other_ports(),
            snapshot.modes.shadow_for_other_ports(),
        ),
        peer_authentications: snapshot.considered.to_vec(),
        authorization_policies: snapshot.authorization.describe(),
        others_allowed: snapshot.authorization.allow_others(),
        destinations: snapshot.registry.list().iter().map(|listed| destination(snapshot, listed)).collect(),
        routes: routes(snapshot),
        findings: snapshot.findings.clone(),
    }
}

fn described_port(snapshot: &Snapshot, port: u16) -> PortDescription {
    let reading = snapshot.reading(port);
    PortDescription {
        port,
        service: snapshot.own_port(port).map(|own| format!("{}:{}", own.host, own.port)),
        protocol: snapshot.protocol(port).as_str().to_owned(),
        mode: described_mode(snapshot.modes.for_port(port), snapshot.modes.shadow_for_port(port)),
        reads_http: reading.is_http(),
        reads_http_because: reading.because().to_owned(),
    }
}

fn described_mode(decision: &PortDecision, shadow: Option<&PortDecision>) -> ModeDescription {
    ModeDescription {
        mode: decision.mode,
        because: decision.because.clone(),
        shadow: shadow.map(|shadow| Box::new(described_mode(shadow, None))),
    }
}

fn destination(snapshot: &Snapshot, listed: &ListedEndpoint) -> DestinationDescription {
    let plan = snapshot.plan_listed(listed);
    let ListedEndpoint { destination, name } = listed;
    let (sni, expects) = match &plan.tls {
        DialTls::IstioMutual { sni, identities } => {
            (Some(sni.clone()), identities.iter().map(ToString::to_string).collect())
        }
        DialTls::Tunnel { identities, .. } => (None, identities.iter().map(ToString::to_string).collect()),
        DialTls::Originate { server_name, names, .. } => (server_name.clone(), names.clone()),
        DialTls::Plaintext | DialTls::Refuse(_) => (None, Vec::new()),
    };
    DestinationDescription {
        host: destination.host.clone(),
        port: destination.port,
        protocol: destination.protocol.as_str().to_owned(),
        location: match destination.location {
            Location::MeshExternal => "MESH_EXTERNAL".to_owned(),
            Location::MeshInternal => "MESH_INTERNAL".to_owned(),
        },
        endpoint: name.clone(),
        has_sidecar: destination.has_sidecar,
        tls: plan.tls.mode().to_owned(),
        sni,
        expects,
        because: plan.because,
        rule: destination.rule.as_ref().map(|rule| rule.name.clone()),
        service_entry: destination.service_entry.clone(),
    }
}

fn routes(snapshot: &Snapshot) -> Vec<RouteDescription> {
    let described = |(port, host, route): (u16, HostPattern, Arc<Route>)| {
        let to = &route.destination;
        let of_port = to.port.map(|port| format!(":{port}")).unwrap_or_default();
        let subset = to.subset.as_ref().map(|name| format!(" (subset {name})")).unwrap_or_default();
        RouteDescription {
            port,
            host: host.to_string(),
            paths: route.paths.iter().map(path).collect(),
            destination: format!("{}{of_port}{subset}", to.host),
            virtual_service: route.virtual_service.clone(),
            place: route.place.clone(),
            gateways: snapshot.routes.gateways(port).to_vec(),
        }
    };
    snapshot.routes.all().into_iter().map(described).collect()
}

fn path(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(whole) => whole.clone(),
        PathMatch::Prefix(start) => format!("{start}*"),
    }
}
