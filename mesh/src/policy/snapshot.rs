//! Everything resolved for one workload, immutable. A connection takes one snapshot and all its decisions come from it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::authz::Policies;
use super::dial::{DialPlan, OutboundPolicy, plan, plan_for_known};
use super::mode::{ConsideredPolicy, Modes};
use super::route::{Route, Routes};
use crate::finding::{Code, Finding};
use crate::registry::{
    Addresses, Destination, FoundBy, ListedEndpoint, Miss, Registry, RouteMiss, WorkloadEntries,
};
use crate::resource::{
    Port, Protocol, Resources, RouteDestination, ServiceEntry, WorkloadEntry, is_of_sidecar,
};
use crate::workload::{MeshConfig, Workload};

/// What the mesh folder means for one workload.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The modes of the workload's ports.
    pub modes: Modes,
    /// Who may do what with the workload.
    pub authorization: Policies,
    /// Where outbound traffic can go.
    pub registry: Registry,
    /// Where an edge proxy sends requests.
    pub routes: Routes,
    /// What is legal but probably not meant.
    pub findings: Vec<Finding>,
    /// The PeerAuthentications that were considered for the modes.
    pub considered: Arc<[ConsideredPolicy]>,
    outbound_policy: OutboundPolicy,
    own_ports: Arc<BTreeMap<u16, OwnPort>>,
    /// Those of `findings` that addresses do not change.
    findings_of_resources: Arc<[Finding]>,
}

/// What a `ServiceEntry` says of one of the workload's own ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPort {
    /// The service's host name (its first).
    pub host: String,
    /// The service's port.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// Whether connections to a port are read as HTTP, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// They are: the port is declared so.
    DeclaredHttp,
    /// They are: nothing is declared, and a policy in force asks for what only HTTP has.
    AskedFor,
    /// They are not: the port is declared as something else.
    DeclaredOther,
    /// They are not: nothing is declared, and no policy asks for HTTP.
    NotAskedFor,
}

impl Reading {
    /// Whether they are.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::DeclaredHttp | Self::AskedFor)
    }

    /// In words, to follow "since".
    #[must_use]
    pub fn because(self) -> &'static str {
        match self {
            Self::DeclaredHttp => "a ServiceEntry declares it so",
            Self::AskedFor => "nothing is declared, and an AuthorizationPolicy asks for what only HTTP has",
            Self::DeclaredOther => "a ServiceEntry declares it as something else",
            Self::NotAskedFor => {
                "nothing is declared, and no AuthorizationPolicy asks for what only HTTP has"
            }
        }
    }
}

impl Snapshot {
    /// Resolves all resources for `workload`. Names in the registry have no addresses yet.
    #[must_use]
    pub fn build(resources: &Resources, workload: &Workload, config: &MeshConfig) -> Self {
        let mut findings = of_the_folder(resources);
        let (registry, of_registry) = Registry::build(resources, workload, config);
        let snapshot = Self::build_seeing(resources, workload, config, (registry, of_registry));
        findings.extend_from_slice(&snapshot.findings_of_resources);
        Self { findings_of_resources: findings.into(), ..snapshot }.with_findings()
    }

    /// The same, without what is found of the folder as a whole, for a workload that sees these services: for many
    /// workloads that see the same.
    pub(crate) fn build_seeing(
        resources: &Resources,
        workload: &Workload,
        config: &MeshConfig,
        (registry, of_registry): (Registry, Vec<Finding>),
    ) -> Self {
        let root_namespace = &config.root_namespace;
        let (modes, of_modes) = Modes::resolve(
            &resources.peer_authentications,
            root_namespace,
            &workload.namespace,
            &workload.labels,
        );
        let (own_ports, of_ports) = own_ports(resources, workload);
        let authorization = Policies::build(
            &resources.authorization_policies,
            root_namespace,
            workload,
            &config.trust_domain_aliases,
        );
        let (routes, of_routes) = Routes::build(resources, workload);
        let mut findings = routes_astray(&routes, &registry);
        findings.extend(of_modes.into_iter().chain(of_registry).chain(of_ports).chain(of_routes));
        let without_http =
            own_ports.iter().filter(|(_, own)| own.protocol.is_declared() && !own.protocol.is_http());
        findings
            .extend(authorization.http_fields_on(&without_http.map(|(port, _)| *port).collect::<Vec<_>>()));
        findings.extend(authorization.escaped_by_plaintext(&modes));
        Self {
            modes,
            considered: Modes::trace(
                &resources.peer_authentications,
                root_namespace,
                &workload.namespace,
                &workload.labels,
            )
            .into(),
            authorization,
            findings: Vec::new(),
            registry,
            routes,
            outbound_policy: config.outbound_policy,
            own_ports: Arc::new(own_ports),
            findings_of_resources: findings.into(),
        }
        .with_findings()
    }

    /// What is declared of one of the workload's own ports: by a `ServiceEntry` whose selector, or one of whose
    /// endpoints by namespace, service account and labels, is this workload.
    #[must_use]
    pub fn own_port(&self, port: u16) -> Option<&OwnPort> {
        self.own_ports.get(&port)
    }

    /// The workload's own ports that are declared, by the number that it listens on.
    pub fn own_ports(&self) -> impl Iterator<Item = (u16, &OwnPort)> {
        self.own_ports.iter().map(|(port, own)| (*port, own))
    }

    /// The declared protocol of one of the workload's own ports.
    #[must_use]
    pub fn protocol(&self, port: u16) -> Protocol {
        self.own_port(port).map_or(Protocol::Undeclared, |own| own.protocol)
    }

    /// Whether connections to one of the workload's own ports are read as HTTP: it is declared so, or nothing is
    /// declared and a policy in force asks for what only HTTP has.
    #[must_use]
    pub fn reads_http(&self, port: u16) -> bool {
        self.reading(port).is_http()
    }

    /// The same, with the reason.
    #[must_use]
    pub fn reading(&self, port: u16) -> Reading {
        match self.protocol(port) {
            protocol if protocol.is_http() => Reading::DeclaredHttp,
            protocol if protocol.is_declared() => Reading::DeclaredOther,
            _ if self.authorization.needs_http(port) => Reading::AskedFor,
            _ => Reading::NotAskedFor,
        }
    }

    /// How a destination is dialled; `None` is one that the registry does not know.
    #[must_use]
    pub fn plan(&self, destination: Option<&Destination>) -> DialPlan {
        plan(destination, self.outbound_policy)
    }

    /// How a connection that was made to `made`, or to a destination that was unknown, would be dialled now.
    #[must_use]
    pub fn plan_again(&self, by: &FoundBy, made: Option<&Destination>) -> DialPlan {
        match (self.registry.find_again(by, made), by) {
            (None, FoundBy::Host(host, port)) => DialPlan::for_unknown_host(host, *port),
            (now, _) => self.plan(now.as_ref()),
        }
    }

    /// How an endpoint of a list is dialled.
    #[must_use]
    pub fn plan_listed(&self, listed: &ListedEndpoint) -> DialPlan {
        plan_for_known(&listed.destination, &listed.name)
    }

    /// The same with fresh addresses of names.
    #[must_use]
    pub fn with_addresses(&self, addresses: &Addresses) -> Self {
        Self {
            modes: self.modes.clone(),
            considered: Arc::clone(&self.considered),
            authorization: self.authorization.clone(),
            findings: Vec::new(),
            registry: self.registry.with_addresses(addresses),
            routes: self.routes.clone(),
            outbound_policy: self.outbound_policy,
            own_ports: Arc::clone(&self.own_ports),
            findings_of_resources: Arc::clone(&self.findings_of_resources),
        }
        .with_findings()
    }

    fn with_findings(mut self) -> Self {
        self.findings = [&*self.findings_of_resources, self.registry.conflicts()].concat();
        self
    }
}

/// Routes of an edge proxy that lead nowhere.
fn routes_astray(routes: &Routes, registry: &Registry) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let mut told = HashSet::new();
    for (_, _, route) in routes.all() {
        let Route { virtual_service, place, destination, .. } = &*route;
        let RouteDestination { host, .. } = destination;
        let (code, why) = match registry.lookup_route(&route.target(), 0) {
            Err(RouteMiss::Miss(Miss::Unknown)) => (Code::RouteUnknown, "which no ServiceEntry has"),
            Err(RouteMiss::SeveralPorts) => {
                (Code::RouteUnknown, "which has several ports, and names none of them")
            }
            Err(RouteMiss::NoSubset(_)) => (Code::SubsetUnknown, "whose DestinationRule has no such subset"),
            Ok(_) | Err(RouteMiss::Miss(Miss::NoEndpoint(_))) => continue,
        };
        let port = destination.port.map(|port| format!(":{port}")).unwrap_or_default();
        let subset = destination.subset.as_ref().map(|name| format!(" (subset {name})")).unwrap_or_default();
        let message =
            format!("a route of VirtualService {virtual_service} leads to {host}{port}{subset}, {why}");
        if told.insert((place.clone(), message.clone())) {
            findings.push(Finding::new(code, place, message));
        }
    }
    findings
}

/// What is found of the files without asking for whom they are.
pub(crate) fn of_the_folder(resources: &Resources) -> Vec<Finding> {
    let not_read = |file: &String| Finding::new(Code::FileNotRead, file, "this file is not read");
    twins(resources).into_iter().chain(resources.skipped.iter().map(not_read)).collect()
}

/// Resources of one kind and name; in a cluster the later would have replaced the earlier.
fn twins(resources: &Resources) -> Vec<Finding> {
    let mut first_places = HashMap::new();
    let mut findings = Vec::new();
    for (kind, meta) in resources.metas() {
        if let Some(first) = first_places.get(&(kind, meta.full_name())) {
            let message = format!(
                "{kind} {} stands at {first} too, and both are read; in a cluster the later would have replaced the \
                 earlier",
                meta.full_name()
            );
            findings.push(Finding::new(Code::ResourceTwice, &meta.place, message));
        } else {
            first_places.insert((kind, meta.full_name()), &meta.place);
        }
    }
    findings
}

/// What the entries declare of the workload's own ports; the first in reading order is taken.
fn own_ports(resources: &Resources, workload: &Workload) -> (BTreeMap<u16, OwnPort>, Vec<Finding>) {
    let is_own = |entry: &&WorkloadEntry| is_workload(entry, workload);
    let own_entries = WorkloadEntries::new(resources.workload_entries.iter().filter(is_own));
    let mut declared: BTreeMap<u16, (&Port, &ServiceEntry)> = BTreeMap::new();
    let mut findings = Vec::new();
    for entry in &resources.service_entries {
        for (number, port) in declared_by(entry, &own_entries, workload) {
            match declared.entry(number) {
                Entry::Vacant(vacant) => {
                    vacant.insert((port, entry));
                }
                Entry::Occupied(first) if first.get().0.protocol != port.protocol => {
                    findings.push(declared_twice(number, first.get().1, entry));
                }
                Entry::Occupied(_) => {}
            }
        }
    }
    let own = |(number, (port, entry)): (u16, (&Port, &ServiceEntry))| {
        let host = entry.hosts.first().cloned().unwrap_or_default();
        (number, OwnPort { host, port: port.number, protocol: port.protocol })
    };
    (declared.into_iter().map(own).collect(), findings)
}

/// The ports of the workload that an entry describes, by the number that the workload listens on. `own_entries` are the
/// `WorkloadEntry` resources that are the workload.
fn declared_by<'a>(
    entry: &'a ServiceEntry,
    own_entries: &WorkloadEntries<'a>,
    workload: &Workload,
) -> Vec<(u16, &'a Port)> {
    let own_endpoints = own_entries.of(entry).into_iter().filter(|endpoint| is_workload(endpoint, workload));
    let by_endpoint =
        own_endpoints.flat_map(|endpoint| entry.ports.iter().map(move |port| (port.at(endpoint), port)));
    let is_selected = entry.meta.namespace == workload.namespace
        && entry.workload_selector.as_ref().is_some_and(|selector| selector.matches(&workload.labels));
    let by_selector = entry.ports.iter().filter(|_| is_selected).map(|port| (port.target(), port));
    by_endpoint.chain(by_selector).collect()
}

/// Whether an endpoint is this workload, by all that an entry says of it but the address.
fn is_workload(endpoint: &WorkloadEntry, workload: &Workload) -> bool {
    endpoint.meta.namespace == workload.namespace
        && endpoint.service_account.as_deref().unwrap_or_default() == workload.service_account
        && endpoint
            .labels
            .iter()
            .filter(|(name, _)| !is_of_sidecar(name))
            .all(|(name, value)| workload.labels.get(name) == Some(value))
}

fn declared_twice(port: u16, first: &ServiceEntry, second: &ServiceEntry) -> Finding {
    let message = format!(
        "ServiceEntry {} declares another protocol for this workload's port {port} than {} ({}), which comes first and \
         is taken",
        second.meta.full_name(),
        first.meta.full_name(),
        first.meta.place,
    );
    Finding::new(Code::ProtocolTwice, &second.meta.place, message)
}

#[cfg(test)]
mod tests;
