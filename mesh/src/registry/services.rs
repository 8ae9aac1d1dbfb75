//! From `ServiceEntry` and `WorkloadEntry` to services with their endpoints and identities.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::endpoints::WorkloadEntries;
use super::rules::{Applied, Rules};
use crate::finding::{Code, Finding};
use crate::policy::dial::OutboundPolicy;
use crate::policy::mode::{ByScope, Mode, Winners};
use crate::resource::{
    ClientTls, Location, Port, Protocol, Resolution, Resources, ServiceEntry, WorkloadEntry,
};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::workload::{MeshConfig, Workload};

/// The services that one workload sees, in reading order.
#[derive(Debug, Default)]
pub(super) struct Services {
    pub(super) all: Vec<Service>,
    /// The places of those of which DNS names an endpoint.
    pub(super) named: Vec<usize>,
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
    pub(super) hosts: Arc<[String]>,
    pub(super) service_entry: String,
    pub(super) place: String,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    pub(super) location: Location,
    pub(super) resolution: Resolution,
    pub(super) addresses: Vec<IpNet>,
    pub(super) identities: Arc<[SpiffeId]>,
    pub(super) backends: Vec<Backend>,
    /// The DestinationRule that applies.
    pub(super) rule: Option<Arc<Applied>>,
}

/// An endpoint before DNS.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    pub(super) address: Address,
    pub(super) port: u16,
    pub(super) has_sidecar: bool,
    pub(super) takes_tunnels: bool,
    pub(super) mode: Mode,
    /// The rule's subsets that it belongs to, by their numbers.
    pub(super) subsets: Vec<usize>,
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
        let root_namespace = &config.root_namespace;
        let mut services = Self {
            namespace: workload.namespace.clone(),
            registry_only: config.outbound_policy == OutboundPolicy::RegistryOnly,
            ..Self::default()
        };
        let (mut rules, mut findings) = Rules::of(&resources.destination_rules, workload, root_namespace);
        let known = Known {
            workload_entries: WorkloadEntries::new(&resources.workload_entries),
            authentications: ByScope::new(&resources.peer_authentications, root_namespace),
        };
        let mut names = HashSet::new();
        let visible =
            resources.service_entries.iter().filter(|entry| entry.is_visible_in(&workload.namespace));
        for entry in visible {
            let members = known.members_of(entry);
            let identities = identities_of(entry, &members, workload, config);
            findings.extend(doubts(entry, &members, &identities));
            let groups = host_groups(entry, &rules);
            for port in &entry.ports {
                for group in &groups {
                    let backends = backends_of(entry, port, group, &members, &mut rules);
                    let rule = group.rule.and_then(|rule| rules.applied(rule, port.number));
                    services.note_names(port, &backends, rule.as_deref(), &mut names);
                    let service = service(entry, port, group, &identities, backends, rule);
                    if service.has_names() {
                        services.named.push(services.all.len());
                    }
                    services.all.push(service);
                }
            }
        }
        (services, findings)
    }

    /// `known` holds the names that were noted before; `rule` is the one that applies to the port.
    fn note_names(
        &mut self,
        port: &Port,
        backends: &[Backend],
        rule: Option<&Applied>,
        known: &mut HashSet<String>,
    ) {
        let tls = rule.and_then(|applied| applied.rule.tls.as_ref());
        let is_originated = tls.is_some_and(|tls| *tls != ClientTls::Disable);
        for backend in backends {
            let Address::Name(name) = &backend.address else { continue };
            if known.insert(name.clone()) {
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
}

impl Service {
    /// Whether DNS is asked for one of its endpoints.
    pub(super) fn has_names(&self) -> bool {
        self.backends.iter().any(|backend| matches!(backend.address, Address::Name(_)))
    }
}

fn service(
    entry: &ServiceEntry,
    port: &Port,
    group: &HostGroup,
    identities: &Arc<[SpiffeId]>,
    backends: Vec<Backend>,
    rule: Option<Arc<Applied>>,
) -> Service {
    Service {
        host: group.hosts.first().cloned().unwrap_or_default(),
        hosts: group.hosts.clone(),
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
    }
}

/// Whether DNS looks up the hosts themselves, for want of endpoints.
fn resolves_hosts(entry: &ServiceEntry) -> bool {
    entry.resolution == Resolution::Dns && entry.endpoints.is_empty() && entry.workload_selector.is_none()
}

/// Hosts of an entry that share their endpoints and their rule.
#[derive(Debug)]
struct HostGroup {
    hosts: Arc<[String]>,
    /// The number of the DestinationRule.
    rule: Option<usize>,
}

/// The hosts that share their endpoints and their rule, in the order of their first. Where the hosts themselves are looked
/// up, each is by itself.
fn host_groups(entry: &ServiceEntry, rules: &Rules<'_>) -> Vec<HostGroup> {
    let mut groups: Vec<(Vec<String>, Option<usize>)> = Vec::new();
    let mut group_of_rule = HashMap::new();
    let apart = resolves_hosts(entry);
    for host in &entry.hosts {
        let rule = rules.find(host, &entry.meta.namespace);
        let known = group_of_rule.get(&rule).filter(|_| !apart);
        if let Some((hosts, _)) = known.and_then(|number: &usize| groups.get_mut(*number)) {
            hosts.push(host.clone());
        } else {
            group_of_rule.insert(rule, groups.len());
            groups.push((vec![host.clone()], rule));
        }
    }
    groups.into_iter().map(|(hosts, rule)| HostGroup { hosts: hosts.into(), rule }).collect()
}

/// What endpoints are found in.
struct Known<'r> {
    workload_entries: WorkloadEntries<'r>,
    authentications: ByScope<'r>,
}

/// An endpoint with what its ports accept by the policies known here.
struct Member<'r> {
    endpoint: &'r WorkloadEntry,
    authentications: Winners<'r>,
}

impl<'r> Known<'r> {
    fn members_of(&self, entry: &'r ServiceEntry) -> Vec<Member<'r>> {
        let member = |endpoint: &'r WorkloadEntry| Member {
            authentications: self.authentications.winners(&endpoint.meta.namespace, &endpoint.labels),
            endpoint,
        };
        self.workload_entries.of(entry).into_iter().map(member).collect()
    }
}

fn backends_of(
    entry: &ServiceEntry,
    port: &Port,
    group: &HostGroup,
    members: &[Member<'_>],
    rules: &mut Rules<'_>,
) -> Vec<Backend> {
    if resolves_hosts(entry) {
        let named = |host: &String| Backend {
            address: Address::Name(host.clone()),
            port: port.target(),
            has_sidecar: false,
            takes_tunnels: false,
            mode: Mode::Permissive,
            subsets: Vec::new(),
        };
        return group.hosts.iter().map(named).collect();
    }
    let backend = |Member { endpoint, authentications }: &Member<'_>| {
        let target = port.at(endpoint);
        Some(Backend {
            address: address_of(entry, endpoint)?,
            port: target,
            has_sidecar: endpoint.has_sidecar(),
            takes_tunnels: endpoint.takes_tunnels(),
            mode: authentications.mode(target),
            subsets: group.rule.map(|rule| rules.subsets_of(rule, &endpoint.labels)).unwrap_or_default(),
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
    let accounts: BTreeSet<(&str, &str)> = members
        .iter()
        .filter_map(|Member { endpoint, .. }| {
            Some((endpoint.meta.namespace.as_str(), endpoint.service_account.as_deref()?))
        })
        .collect();
    let accounts = accounts.into_iter().flat_map(|(namespace, account)| {
        let of =
            |trust_domain: &TrustDomain| SpiffeId::of_service_account(trust_domain, namespace, account).ok();
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
