//! From `ServiceEntry` and `WorkloadEntry` to services with their endpoints and identities.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::rules::{self, AppliedRule, AppliedSubset, Rules};
use crate::finding::{Code, Finding};
use crate::policy::dial::OutboundPolicy;
use crate::policy::mode::{Mode, Modes};
use crate::resource::{
    ClientTls, DestinationRule, Location, Port, Protocol, Resolution, Resources, ServiceEntry, WorkloadEntry,
};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::workload::{Labels, MeshConfig, Workload};

/// The services that one workload sees, in reading order.
#[derive(Debug, Default)]
pub(super) struct Services {
    pub(super) all: Vec<Service>,
    /// The names among the endpoints, each once.
    pub(super) names: Vec<String>,
    /// The ports, of service and endpoint, behind those of the names that have a sidecar.
    pub(super) ports_by_name: HashSet<u16>,
    /// The ports, of service and endpoint, of those of the names that a DestinationRule asks for TLS to.
    pub(super) ports_originated: HashSet<u16>,
    /// Whether an address that is not known is refused.
    registry_only: bool,
    /// The workload's namespace, in which short names are looked up.
    pub(super) namespace: String,
}

/// One port of a `ServiceEntry`.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) host: String,
    pub(super) hosts: Vec<String>,
    pub(super) service_entry: String,
    pub(super) place: String,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    pub(super) location: Location,
    pub(super) resolution: Resolution,
    pub(super) addresses: Vec<IpNet>,
    pub(super) identities: Arc<[SpiffeId]>,
    pub(super) backends: Vec<Backend>,
    /// The DestinationRule that applies, and its subsets by name.
    pub(super) rule: Option<Arc<AppliedRule>>,
    pub(super) subsets: HashMap<String, AppliedSubset>,
}

/// An endpoint before DNS.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    pub(super) address: Address,
    pub(super) port: u16,
    pub(super) has_sidecar: bool,
    pub(super) mode: Mode,
    pub(super) labels: Arc<Labels>,
}

#[derive(Debug, Clone)]
pub(super) enum Address {
    Ip(IpAddr),
    Name(String),
}

impl Services {
    pub(super) fn build(
        resources: &Resources,
        workload: &Workload,
        config: &MeshConfig,
    ) -> (Self, Vec<Finding>) {
        let mut services = Self {
            namespace: workload.namespace.clone(),
            registry_only: config.outbound_policy == OutboundPolicy::RegistryOnly,
            ..Self::default()
        };
        let (rules, mut findings) = Rules::of(&resources.destination_rules, workload, &config.root_namespace);
        let visible =
            resources.service_entries.iter().filter(|entry| entry.is_visible_in(&workload.namespace));
        for entry in visible {
            let members = members_of(entry, resources, &config.root_namespace);
            let identities = identities_of(entry, &members, workload, config);
            findings.extend(doubts(entry, &members, &identities));
            for port in &entry.ports {
                for hosts in host_groups(entry) {
                    let backends = backends_of(entry, port, hosts, &members);
                    let rule = rules.find(hosts, &entry.meta.namespace);
                    services.add(entry, port, hosts, &identities, backends, rule);
                }
            }
        }
        (services, findings)
    }

    fn add(
        &mut self,
        entry: &ServiceEntry,
        port: &Port,
        hosts: &[String],
        identities: &Arc<[SpiffeId]>,
        backends: Vec<Backend>,
        rule: Option<&DestinationRule>,
    ) {
        let tls = rule.and_then(|rule| rule.tls(port.number, None));
        let is_originated = tls.is_some_and(|tls| *tls != ClientTls::Disable);
        for backend in &backends {
            if let Address::Name(name) = &backend.address {
                if !self.names.contains(name) {
                    self.names.push(name.clone());
                }
                if backend.has_sidecar || self.registry_only {
                    self.ports_by_name.extend([port.number, backend.port]);
                }
                if is_originated {
                    self.ports_originated.extend([port.number, backend.port]);
                }
            }
        }
        let (rule, subsets) = match rule.map(|rule| rules::apply(rule, port.number)) {
            Some((rule, subsets)) => (Some(rule), subsets),
            None => (None, HashMap::new()),
        };
        self.all.push(Service {
            host: hosts.first().cloned().unwrap_or_default(),
            hosts: hosts.to_vec(),
            service_entry: entry.meta.full_name(),
            place: entry.meta.place.clone(),
            port: port.number,
            protocol: port.protocol,
            location: entry.location,
            resolution: entry.resolution,
            addresses: entry.addresses.clone(),
            identities: Arc::clone(identities),
            backends,
            rule,
            subsets,
        });
    }
}

/// The endpoints: written in the entry, or the `WorkloadEntry` resources of its namespace that it selects.
pub(crate) fn endpoints_of<'r>(entry: &'r ServiceEntry, resources: &'r Resources) -> Vec<&'r WorkloadEntry> {
    match &entry.workload_selector {
        None => entry.endpoints.iter().collect(),
        Some(selector) => resources
            .workload_entries
            .iter()
            .filter(|workload| workload.meta.namespace == entry.meta.namespace)
            .filter(|workload| selector.matches(&workload.labels))
            .collect(),
    }
}

/// Whether DNS looks up the hosts themselves, for want of endpoints.
fn resolves_hosts(entry: &ServiceEntry) -> bool {
    entry.resolution == Resolution::Dns && entry.endpoints.is_empty() && entry.workload_selector.is_none()
}

/// The hosts that share their endpoints. Where the hosts themselves are looked up, each has its own.
fn host_groups(entry: &ServiceEntry) -> Vec<&[String]> {
    if resolves_hosts(entry) { entry.hosts.chunks(1).collect() } else { vec![entry.hosts.as_slice()] }
}

/// An endpoint with what its ports accept by the policies known here.
struct Member<'r> {
    endpoint: &'r WorkloadEntry,
    modes: Modes,
    labels: Arc<Labels>,
}

fn members_of<'r>(
    entry: &'r ServiceEntry,
    resources: &'r Resources,
    root_namespace: &str,
) -> Vec<Member<'r>> {
    let modes = |endpoint: &WorkloadEntry| {
        let policies = &resources.peer_authentications;
        Modes::resolve(policies, root_namespace, &endpoint.meta.namespace, &endpoint.labels).0
    };
    let member = |endpoint: &'r WorkloadEntry| Member {
        modes: modes(endpoint),
        labels: Arc::new(endpoint.labels.clone()),
        endpoint,
    };
    endpoints_of(entry, resources).into_iter().map(member).collect()
}

fn backends_of(entry: &ServiceEntry, port: &Port, hosts: &[String], members: &[Member<'_>]) -> Vec<Backend> {
    if resolves_hosts(entry) {
        let named = |host: &String| Backend {
            address: Address::Name(host.clone()),
            port: port.target(),
            has_sidecar: false,
            mode: Mode::Permissive,
            labels: Arc::default(),
        };
        return hosts.iter().map(named).collect();
    }
    let backend = |Member { endpoint, modes, labels }: &Member<'_>| {
        let target = port.at(endpoint);
        Some(Backend {
            address: address_of(entry, endpoint)?,
            port: target,
            has_sidecar: endpoint.has_sidecar(),
            mode: modes.for_port(target).mode,
            labels: Arc::clone(labels),
        })
    };
    members.iter().filter_map(backend).collect()
}

/// A name is no address for resolution STATIC; only a selected `WorkloadEntry` can have one there.
fn address_of(entry: &ServiceEntry, endpoint: &WorkloadEntry) -> Option<Address> {
    match endpoint.ip() {
        Some(ip) => Some(Address::Ip(ip)),
        None => (entry.resolution == Resolution::Dns).then(|| Address::Name(endpoint.address.clone())),
    }
}

/// Secure naming: the service accounts of all endpoints in the workload's own trust domain and its aliases, and what the
/// entry names besides.
fn identities_of(
    entry: &ServiceEntry,
    members: &[Member<'_>],
    workload: &Workload,
    config: &MeshConfig,
) -> Arc<[SpiffeId]> {
    let trust_domains = || [&workload.trust_domain].into_iter().chain(&config.trust_domain_aliases);
    let accounts = members.iter().flat_map(|Member { endpoint, .. }| {
        let of = |trust_domain: &TrustDomain| {
            let account = endpoint.service_account.as_ref()?;
            SpiffeId::of_service_account(trust_domain, &endpoint.meta.namespace, account).ok()
        };
        trust_domains().filter_map(of)
    });
    let identities: BTreeSet<SpiffeId> = accounts.chain(entry.subject_alt_names.iter().cloned()).collect();
    identities.into_iter().collect()
}

/// What is legal in an entry but probably not meant.
fn doubts(entry: &ServiceEntry, members: &[Member<'_>], identities: &[SpiffeId]) -> Vec<Finding> {
    let name = entry.meta.full_name();
    let mut findings = Vec::new();
    let with_sidecar = members.iter().find(|member| member.endpoint.has_sidecar());
    if let Some(member) = with_sidecar.filter(|_| entry.location == Location::MeshExternal) {
        let message = format!(
            "ServiceEntry {name} is MESH_EXTERNAL, as it is without `location`, so its endpoint {} with a sidecar is \
             dialled in plaintext",
            member.endpoint.address
        );
        findings.push(Finding::new(Code::ExternalWithSidecar, &entry.meta.place, message));
    }
    if let Some(member) = with_sidecar.filter(|_| identities.is_empty()) {
        let message = format!(
            "ServiceEntry {name} selects WorkloadEntry {} with a sidecar, and neither names who may serve: \
             connections there are refused",
            member.endpoint.meta.full_name()
        );
        findings.push(Finding::new(Code::NobodyMayServe, &member.endpoint.meta.place, message));
    }
    for Member { endpoint, .. } in
        members.iter().filter(|member| address_of(entry, member.endpoint).is_none())
    {
        let message = format!(
            "WorkloadEntry {} has a name for an address and is left out of ServiceEntry {name}, whose resolution is \
             STATIC",
            endpoint.meta.full_name()
        );
        findings.push(Finding::new(Code::NameForStatic, &endpoint.meta.place, message));
    }
    let told_by_name = entry.ports.iter().all(|port| port.protocol == Protocol::Tls);
    if entry.resolution == Resolution::None && entry.addresses.is_empty() && !told_by_name {
        let message = format!(
            "ServiceEntry {name} has resolution NONE, as it has without `resolution`, and no `addresses`: no \
             connection can be told to be its own"
        );
        findings.push(Finding::new(Code::NoAddress, &entry.meta.place, message));
    }
    if entry.workload_selector.as_ref().is_some_and(|selector| selector.match_labels.is_empty()) {
        let message = format!(
            "ServiceEntry {name} has an empty workloadSelector: every WorkloadEntry of its namespace serves it"
        );
        findings.push(Finding::new(Code::EverybodyServes, &entry.meta.place, message));
    }
    findings
}
