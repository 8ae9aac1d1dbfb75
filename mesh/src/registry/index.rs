//! Services by address and by name. Looking up an address costs one hash look-up, and one more for each length of
//! prefix among the ranges.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::services::{Address, Service, Services};
use super::{Addresses, Miss, RouteMiss};
use crate::finding::{Code, Finding};
use crate::policy::mode::Mode;
use crate::resource::{Location, Protocol, Resolution};

/// Suffixes that a cluster's resolver tries behind a name that is not full.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// The services by what a connection is known by. Services are counted as in [`Services::all`].
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    endpoints: Vec<Vec<Endpoint>>,
    claims: HashMap<SocketAddr, Claim>,
    ranges: HashMap<(IpNet, u16), usize>,
    /// Of the ranges, from the front longest first.
    prefix_lengths: Vec<u8>,
    hosts: HashMap<String, BTreeMap<u16, usize>>,
    /// The services that a server name alone tells, by port and host.
    snis: HashMap<u16, HashMap<String, usize>>,
    /// The endpoints of the subsets of services, by their places among `endpoints`.
    subsets: HashMap<(usize, usize), Vec<usize>>,
    conflicts: Vec<Finding>,
}

/// An address to dial and what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    pub(super) has_sidecar: bool,
    pub(super) mode: Mode,
}

/// What an address and port stand for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Claim {
    /// Any endpoint of the service.
    Virtual(usize),
    /// This endpoint of the service.
    Endpoint(usize, Endpoint),
}

impl Claim {
    fn service(self) -> usize {
        match self {
            Claim::Virtual(service) | Claim::Endpoint(service, _) => service,
        }
    }
}

impl Index {
    pub(super) fn build(services: &Services, addresses: &Addresses) -> Self {
        let all = &services.all;
        let mut index = Self::default();
        for (number, service) in all.iter().enumerate() {
            index.add_endpoints(number, service, addresses);
        }
        let mut lost = Lost::default();
        for (number, service) in all.iter().enumerate() {
            index.add_service_port(number, service, &mut lost);
            index.add_hosts(number, service, &mut lost);
        }
        let endpoints: Vec<_> = index.endpoints().collect();
        for (number, endpoint) in endpoints {
            index.claim_for(endpoint.address, Claim::Endpoint(number, endpoint), &mut lost);
        }
        let lengths: BTreeSet<u8> = index.ranges.keys().map(|(range, _)| range.prefix_len()).collect();
        index.prefix_lengths = lengths.into_iter().rev().collect();
        index.conflicts = lost.findings(all);
        index
    }

    /// What an address and port stand for: by themselves, else by the longest range that holds the address.
    pub(super) fn claim(&self, address: SocketAddr) -> Option<Claim> {
        let exact = self.claims.get(&address).copied();
        exact.or_else(|| self.range(address.ip(), address.port()).map(Claim::Virtual))
    }

    /// The service that a name means to a caller in `namespace`.
    pub(super) fn host(&self, host: &str, namespace: &str, port: u16) -> Option<usize> {
        names(host, namespace).iter().find_map(|host| self.hosts.get(host)?.get(&port).copied())
    }

    /// The service that a name means to a caller in `namespace`, where it has one port.
    pub(super) fn only_port(&self, host: &str, namespace: &str) -> Result<usize, RouteMiss> {
        let ports =
            names(host, namespace).iter().find_map(|host| self.hosts.get(host)).ok_or(Miss::Unknown)?;
        let mut services = ports.values();
        match (services.next(), services.next()) {
            (Some(only), None) => Ok(*only),
            (Some(_), Some(_)) => Err(RouteMiss::SeveralPorts),
            (None, _) => Err(Miss::Unknown.into()),
        }
    }

    /// The service that a server name tells.
    pub(super) fn sni(&self, name: &str, port: u16) -> Option<usize> {
        let hosts = self.snis.get(&port)?;
        let name = name.to_ascii_lowercase();
        with_wildcards(&name).find_map(|host| hosts.get(host.as_ref()).copied())
    }

    pub(super) fn asks_sni(&self, port: u16) -> bool {
        self.snis.contains_key(&port)
    }

    /// One endpoint of a service's subset; they take turns.
    pub(super) fn endpoint_of_subset(&self, service: usize, subset: usize, turn: usize) -> Option<Endpoint> {
        let members = self.subsets.get(&(service, subset))?;
        let member = *members.get(turn.checked_rem(members.len())?)?;
        self.endpoints.get(service)?.get(member).copied()
    }

    /// One endpoint of a service; they take turns.
    pub(super) fn endpoint(&self, service: usize, turn: usize) -> Option<Endpoint> {
        let endpoints = self.endpoints.get(service)?;
        endpoints.get(turn.checked_rem(endpoints.len())?).copied()
    }

    /// All endpoints with their services, in reading order.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = (usize, Endpoint)> {
        let numbered = self.endpoints.iter().enumerate();
        numbered.flat_map(|(service, endpoints)| endpoints.iter().map(move |endpoint| (service, *endpoint)))
    }

    pub(super) fn conflicts(&self) -> &[Finding] {
        &self.conflicts
    }

    fn range(&self, ip: IpAddr, port: u16) -> Option<usize> {
        let ranges = self.prefix_lengths.iter().filter_map(|length| IpNet::new(ip, *length).ok());
        ranges.into_iter().find_map(|range| self.ranges.get(&(range.trunc(), port)).copied())
    }

    /// Claims the service's port on its virtual addresses and on its endpoints.
    fn add_service_port(&mut self, number: usize, service: &Service, lost: &mut Lost) {
        for range in &service.addresses {
            if range.prefix_len() == range.max_prefix_len() {
                let address = SocketAddr::new(range.addr(), service.port);
                self.claim_for(address, Claim::Virtual(number), lost);
            } else {
                let winner = *self.ranges.entry((*range, service.port)).or_insert(number);
                lost.note(winner, number, format!("{range} port {}", service.port));
            }
        }
        for endpoint in self.endpoints.get(number).cloned().unwrap_or_default() {
            let address = SocketAddr::new(endpoint.address.ip(), service.port);
            self.claim_for(address, Claim::Endpoint(number, endpoint), lost);
        }
    }

    /// The addresses of a service's backends, each once, and which of them are in which subset.
    fn add_endpoints(&mut self, number: usize, service: &Service, addresses: &Addresses) {
        let (mut endpoints, mut seen) = (Vec::new(), HashSet::new());
        for backend in &service.backends {
            let ips = match &backend.address {
                Address::Ip(ip) => std::slice::from_ref(ip),
                Address::Name(name) => addresses.get(name).map(Vec::as_slice).unwrap_or_default(),
            };
            for ip in ips {
                let address = SocketAddr::new(ip.to_canonical(), backend.port);
                if !seen.insert(address) {
                    continue;
                }
                for subset in &backend.subsets {
                    self.subsets.entry((number, *subset)).or_default().push(endpoints.len());
                }
                endpoints.push(Endpoint { address, has_sidecar: backend.has_sidecar, mode: backend.mode });
            }
        }
        self.endpoints.push(endpoints);
    }

    fn add_hosts(&mut self, number: usize, service: &Service, lost: &mut Lost) {
        let by_name_alone = service.protocol == Protocol::Tls
            && service.resolution == Resolution::None
            && service.addresses.is_empty();
        for host in service.hosts.iter() {
            if by_name_alone {
                self.snis.entry(service.port).or_default().entry(host.clone()).or_insert(number);
            }
            let ports = self.hosts.entry(host.clone()).or_default();
            let winner = *ports.entry(service.port).or_insert(number);
            lost.note(winner, number, format!("{host}:{}", service.port));
        }
    }

    fn claim_for(&mut self, address: SocketAddr, claim: Claim, lost: &mut Lost) {
        match self.claims.entry(address) {
            Entry::Vacant(vacant) => {
                vacant.insert(claim);
            }
            Entry::Occupied(first) => lost.note(first.get().service(), claim.service(), address.to_string()),
        }
    }
}

/// The names that `host` may stand for to a caller in `namespace`, the most likely first: as it is, as a cluster's
/// resolver completes it, and the wildcards that take it, longest first.
fn names(host: &str, namespace: &str) -> Vec<String> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let completed = [
        format!("{host}.{namespace}.svc.{CLUSTER_DOMAIN}"),
        format!("{host}.svc.{CLUSTER_DOMAIN}"),
        format!("{host}.{CLUSTER_DOMAIN}"),
    ];
    let wildcards: Vec<String> = with_wildcards(&host).skip(1).map(Cow::into_owned).collect();
    [host].into_iter().chain(completed).chain(wildcards).collect()
}

/// A host, and the wildcards that take it, longest first.
fn with_wildcards(host: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let suffixes = host.match_indices('.').filter_map(move |(dot, _)| host.get(dot..));
    std::iter::once(Cow::Borrowed(host)).chain(suffixes.map(|suffix| Cow::Owned(format!("*{suffix}"))))
}

/// What services lost to others: by (loser, winner), the first thing lost and how many more.
#[derive(Default)]
struct Lost(BTreeMap<(usize, usize), (String, usize)>);

impl Lost {
    fn note(&mut self, winner: usize, loser: usize, what: String) {
        if winner != loser {
            self.0.entry((loser, winner)).and_modify(|(_, more)| *more += 1).or_insert((what, 0));
        }
    }

    /// One finding for each pair of entries that a person can tell apart. Between two services outside the mesh without
    /// a DestinationRule it makes no difference who has an address: both are passed on as they are.
    fn findings(self, services: &[Service]) -> Vec<Finding> {
        let finding = |((loser, winner), (what, more)): ((usize, usize), (String, usize))| {
            let (loser, winner) = (services.get(loser)?, services.get(winner)?);
            let is_external =
                |service: &Service| service.location == Location::MeshExternal && service.rule.is_none();
            if loser.service_entry == winner.service_entry && loser.place == winner.place
                || is_external(loser) && is_external(winner)
            {
                return None;
            }
            let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
            let message = format!(
                "ServiceEntry {} does not get {what}{more}: ServiceEntry {} ({}) comes first",
                loser.service_entry, winner.service_entry, winner.place
            );
            Some(Finding::new(Code::AddressTaken, &loser.place, message))
        };
        self.0.into_iter().filter_map(finding).collect()
    }
}
