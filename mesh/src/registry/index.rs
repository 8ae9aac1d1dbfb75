//! Services by address and by name. Looking up an address costs two hash look-ups, and one more for each length of
//! prefix among the ranges.
//!
//! Services are counted as in [`Services::all`]. Those of which DNS names an endpoint stand apart, so that a fresh address
//! of one of them leaves the others as they are.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::services::{Address, Backend, Service, Services};
use super::{Addresses, Miss, RouteMiss};
use crate::finding::{Code, Finding};
use crate::matching::ranges::ByRange;
use crate::policy::mode::Mode;
use crate::resource::{Location, Protocol, Resolution};

/// Suffixes that a cluster's resolver tries behind a name that is not full.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// The services by what a connection is known by. A clone costs nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    fixed: Arc<Fixed>,
    /// The services with names, by the addresses of these.
    named: Arc<Layer>,
    conflicts: Arc<[Finding]>,
}

/// What no answer of DNS changes.
#[derive(Debug, Default)]
struct Fixed {
    /// The services without names.
    layer: Layer,
    ranges: ByRange<HashMap<u16, usize>>,
    hosts: HashMap<String, BTreeMap<u16, usize>>,
    /// The services that a server name alone tells, by port and host.
    snis: HashMap<u16, HashMap<String, usize>>,
    lost: Lost,
    /// What was lost, told.
    conflicts: Arc<[Finding]>,
}

/// Some of the services with their endpoints.
#[derive(Debug, Default)]
struct Layer {
    endpoints: BTreeMap<usize, Vec<Endpoint>>,
    claims: HashMap<SocketAddr, (Rank, Claim)>,
    /// The endpoints of the subsets of services, by their places among `endpoints`.
    subsets: HashMap<(usize, usize), Vec<usize>>,
}

/// Of two claims the lesser wins: a service's port before an endpoint's own, then the service that comes first.
type Rank = (Kind, usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    ServicePort,
    OwnPort,
}

/// An address to dial and what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    pub(super) has_sidecar: bool,
    pub(super) takes_tunnels: bool,
    pub(super) mode: Mode,
}

impl Endpoint {
    /// The client's own choice of address, of which nothing is known.
    pub(super) fn as_dialled(address: SocketAddr) -> Self {
        Self { address, has_sidecar: false, takes_tunnels: false, mode: Mode::Permissive }
    }
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
    pub(super) fn service(self) -> usize {
        match self {
            Claim::Virtual(service) | Claim::Endpoint(service, _) => service,
        }
    }
}

impl Index {
    /// Names have no addresses yet.
    pub(super) fn build(services: &Services) -> Self {
        let fixed = Arc::new(Fixed::build(&services.all));
        Self { conflicts: Arc::clone(&fixed.conflicts), named: Arc::default(), fixed }
            .with_addresses(services, &Addresses::new())
    }

    pub(super) fn with_addresses(&self, services: &Services, addresses: &Addresses) -> Self {
        let mut lost = Lost::default();
        let numbered = services.named.iter().filter_map(|number| Some((*number, services.all.get(*number)?)));
        let named = Layer::build(numbered, addresses, Some(&self.fixed.layer), &mut lost);
        let conflicts = if lost.0.is_empty() {
            Arc::clone(&self.fixed.conflicts)
        } else {
            self.fixed.lost.and(lost).findings(&services.all)
        };
        Self { fixed: Arc::clone(&self.fixed), named: Arc::new(named), conflicts }
    }

    /// What an address and port stand for: by themselves, else by the longest range that holds the address.
    pub(super) fn claim(&self, address: SocketAddr) -> Option<Claim> {
        let layers = [&self.fixed.layer, &self.named].into_iter();
        let claims = layers.filter_map(|layer| layer.claims.get(&address));
        let exact = claims.min_by_key(|(rank, _)| *rank).map(|(_, claim)| *claim);
        exact.or_else(|| {
            let mut ranges = self.fixed.ranges.holding(address.ip());
            ranges.find_map(|of_ports| of_ports.get(&address.port()).copied().map(Claim::Virtual))
        })
    }

    /// The service that a name means to a caller in `namespace`.
    pub(super) fn host(&self, host: &str, namespace: &str, port: u16) -> Option<usize> {
        names(host, namespace).iter().find_map(|host| self.fixed.hosts.get(host)?.get(&port).copied())
    }

    /// The service that a name means to a caller in `namespace`, where it has one port.
    pub(super) fn only_port(&self, host: &str, namespace: &str) -> Result<usize, RouteMiss> {
        let names = names(host, namespace);
        let ports = names.iter().find_map(|host| self.fixed.hosts.get(host)).ok_or(Miss::Unknown)?;
        let mut services = ports.values();
        match (services.next(), services.next()) {
            (Some(only), None) => Ok(*only),
            (Some(_), Some(_)) => Err(RouteMiss::SeveralPorts),
            (None, _) => Err(Miss::Unknown.into()),
        }
    }

    /// The service that a server name tells.
    pub(super) fn sni(&self, name: &str, port: u16) -> Option<usize> {
        let hosts = self.fixed.snis.get(&port)?;
        let name = name.to_ascii_lowercase();
        with_wildcards(&name).find_map(|host| hosts.get(host.as_ref()).copied())
    }

    pub(super) fn asks_sni(&self, port: u16) -> bool {
        self.fixed.snis.contains_key(&port)
    }

    /// One endpoint of a service's subset; they take turns.
    pub(super) fn endpoint_of_subset(&self, service: usize, subset: usize, turn: usize) -> Option<Endpoint> {
        let members = self.layer_of(service).subsets.get(&(service, subset))?;
        let member = *members.get(turn.checked_rem(members.len())?)?;
        self.endpoints_of(service).get(member).copied()
    }

    /// One endpoint of a service; they take turns.
    pub(super) fn endpoint(&self, service: usize, turn: usize) -> Option<Endpoint> {
        let endpoints = self.endpoints_of(service);
        endpoints.get(turn.checked_rem(endpoints.len())?).copied()
    }

    /// The endpoint of a service that has this address.
    pub(super) fn endpoint_at(&self, service: usize, address: SocketAddr) -> Option<Endpoint> {
        match self.claim(address) {
            Some(Claim::Endpoint(of, endpoint)) if of == service && endpoint.address == address => {
                Some(endpoint)
            }
            // Another service has the address too, and comes first.
            _ => self.endpoints_of(service).iter().copied().find(|endpoint| endpoint.address == address),
        }
    }

    /// The endpoints of a service, in reading order.
    pub(super) fn endpoints_of(&self, service: usize) -> &[Endpoint] {
        self.layer_of(service).endpoints.get(&service).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn conflicts(&self) -> &[Finding] {
        &self.conflicts
    }

    fn layer_of(&self, service: usize) -> &Layer {
        if self.named.endpoints.contains_key(&service) { &self.named } else { &self.fixed.layer }
    }
}

impl Fixed {
    fn build(services: &[Service]) -> Self {
        let mut fixed = Self::default();
        let mut lost = Lost::default();
        let numbered = services.iter().enumerate().filter(|(_, service)| !service.has_names());
        fixed.layer = Layer::build(numbered, &Addresses::new(), None, &mut lost);
        for (number, service) in services.iter().enumerate() {
            fixed.add_ranges(number, service, &mut lost);
            fixed.add_hosts(number, service, &mut lost);
        }
        fixed.conflicts = lost.findings(services);
        fixed.lost = lost;
        fixed
    }

    fn add_ranges(&mut self, number: usize, service: &Service, lost: &mut Lost) {
        for range in service.addresses.iter().filter(|range| range.prefix_len() < range.max_prefix_len()) {
            let winner = *self.ranges.entry(*range).entry(service.port).or_insert(number);
            lost.note(winner, number, || format!("{range} port {}", service.port));
        }
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
            lost.note(winner, number, || format!("{host}:{}", service.port));
        }
    }
}

impl Layer {
    /// `below` are the other services, whose claims may come first or lose as well.
    fn build<'s>(
        services: impl Iterator<Item = (usize, &'s Service)>,
        addresses: &Addresses,
        below: Option<&Layer>,
        lost: &mut Lost,
    ) -> Self {
        let mut layer = Self::default();
        let services: Vec<(usize, &Service)> = services.collect();
        for (number, service) in &services {
            layer.add_endpoints(*number, service, addresses);
        }
        for (number, service) in &services {
            layer.claim_service_port(*number, service, below, lost);
        }
        for (number, _) in services {
            for endpoint in layer.endpoints.get(&number).cloned().unwrap_or_default() {
                let claim = Claim::Endpoint(number, endpoint);
                layer.claim(endpoint.address, (Kind::OwnPort, number), claim, below, lost);
            }
        }
        layer
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
                let Backend { has_sidecar, takes_tunnels, mode, .. } = *backend;
                endpoints.push(Endpoint { address, has_sidecar, takes_tunnels, mode });
            }
        }
        self.endpoints.insert(number, endpoints);
    }

    /// Claims the service's port on its virtual addresses and on its endpoints.
    fn claim_service_port(
        &mut self,
        number: usize,
        service: &Service,
        below: Option<&Layer>,
        lost: &mut Lost,
    ) {
        let rank = (Kind::ServicePort, number);
        for range in service.addresses.iter().filter(|range| range.prefix_len() == range.max_prefix_len()) {
            let address = SocketAddr::new(range.addr(), service.port);
            self.claim(address, rank, Claim::Virtual(number), below, lost);
        }
        for endpoint in self.endpoints.get(&number).cloned().unwrap_or_default() {
            let address = SocketAddr::new(endpoint.address.ip(), service.port);
            self.claim(address, rank, Claim::Endpoint(number, endpoint), below, lost);
        }
    }

    fn claim(
        &mut self,
        address: SocketAddr,
        rank: Rank,
        claim: Claim,
        below: Option<&Layer>,
        lost: &mut Lost,
    ) {
        let first_below = below.and_then(|below| below.claims.get(&address));
        match self.claims.entry(address) {
            Entry::Vacant(vacant) => {
                vacant.insert((rank, claim));
                if let Some((below, other)) = first_below {
                    let (winner, loser) = if *below < rank { (*other, claim) } else { (claim, *other) };
                    lost.note(winner.service(), loser.service(), || address.to_string());
                }
            }
            Entry::Occupied(first) => {
                let winner = first_below.filter(|(below, _)| *below < first.get().0).unwrap_or(first.get());
                lost.note(winner.1.service(), claim.service(), || address.to_string());
            }
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
#[derive(Debug, Clone, Default)]
struct Lost(BTreeMap<(usize, usize), (String, usize)>);

impl Lost {
    fn note(&mut self, winner: usize, loser: usize, what: impl FnOnce() -> String) {
        if winner != loser {
            self.0.entry((loser, winner)).and_modify(|(_, more)| *more += 1).or_insert_with(|| (what(), 0));
        }
    }

    fn and(&self, others: Lost) -> Self {
        let mut all = self.clone();
        for (pair, (what, more)) in others.0 {
            all.0.entry(pair).and_modify(|(_, known)| *known += more + 1).or_insert((what, more));
        }
        all
    }

    /// One finding for each pair of entries that a person can tell apart. Between two services outside the mesh without
    /// a DestinationRule it makes no difference who has an address: both are passed on as they are.
    fn findings(&self, services: &[Service]) -> Arc<[Finding]> {
        let finding = |((loser, winner), (what, more)): (&(usize, usize), &(String, usize))| {
            let (loser, winner) = (services.get(*loser)?, services.get(*winner)?);
            let is_external =
                |service: &Service| service.location == Location::MeshExternal && service.rule.is_none();
            if loser.service_entry == winner.service_entry && loser.place == winner.place
                || is_external(loser) && is_external(winner)
            {
                return None;
            }
            let more = if *more == 0 { String::new() } else { format!(" (and {more} more)") };
            let message = format!(
                "ServiceEntry {} does not get {what}{more}: ServiceEntry {} ({}) comes first",
                loser.service_entry, winner.service_entry, winner.place
            );
            Some(Finding::new(Code::AddressTaken, &loser.place, message))
        };
        self.0.iter().filter_map(finding).collect()
    }
}
