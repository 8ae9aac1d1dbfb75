//! Services and their endpoints: what lies behind an address that an app dialled.
//!
//! Names are resolved by the caller and handed in as [`Addresses`]; this file asks no DNS. `services` makes the
//! services from the resources, once for each reload; `index` finds them by address and by name, and is made anew
//! with fresh addresses.

mod endpoints;
mod index;
mod rules;
mod services;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::finding::Finding;
use crate::policy::mode::Mode;
use crate::resource::{ClientTls, Location, Origination, Protocol, Resolution, Resources};
use crate::spiffe::SpiffeId;
use crate::workload::{MeshConfig, Workload};
pub(crate) use endpoints::WorkloadEntries;
use index::{Claim, Endpoint, Index};
pub use rules::AppliedRule;
use services::{Address, Backend, Services};

/// What DNS said of each name last.
pub type Addresses = HashMap<String, Vec<IpAddr>>;

/// All services of the mesh folder, indexed for constant-time look-up. A clone costs nothing.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    services: Arc<Services>,
    index: Index,
    addresses: Arc<Addresses>,
}

/// A known service port with the endpoint to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The service's host name: its first; where DNS looks up the hosts themselves, the one that leads here.
    pub host: String,
    /// The `ServiceEntry`, `namespace/name`.
    pub service_entry: String,
    /// The service's port.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// In or outside the mesh.
    pub location: Location,
    /// Where to connect; with several endpoints the choice turns with each look-up (`turn`).
    pub endpoint: SocketAddr,
    /// Whether that endpoint is known to have a sidecar. Never, where the client's own choice of address is kept
    /// without an endpoint (resolution NONE).
    pub has_sidecar: bool,
    /// Whether its sidecar is known to take tunnels.
    pub takes_tunnels: bool,
    /// What the endpoint's port accepts by the PeerAuthentications known here.
    pub endpoint_mode: Mode,
    /// The identities that may serve this host, in the order of their texts.
    pub identities: Arc<[SpiffeId]>,
    /// The DestinationRule that applies.
    pub rule: Option<Arc<AppliedRule>>,
    /// The subset that a route means.
    pub subset: Option<String>,
}

/// What a destination is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundBy {
    /// The address that an app dialled.
    Address(SocketAddr),
    /// The host and port that an explicit listener stands for.
    Host(String, u16),
    /// The server name that the app's own TLS asks for, and the address that it dialled.
    ServerName(String, SocketAddr),
    /// What a route of an edge proxy leads to.
    Route(RouteTarget),
}

/// What a route leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteTarget {
    /// The host; a short name is one of `namespace`.
    pub host: String,
    /// Whose short names are meant.
    pub namespace: String,
    /// The service's port; `None` where it has one only.
    pub port: Option<u16>,
    /// A subset of its DestinationRule.
    pub subset: Option<String>,
}

/// An endpoint of a service as the resources have it, whether DNS knows its address or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedEndpoint {
    /// The service and the endpoint. Where no address is known, that of the endpoint is unspecified and its port counts.
    pub destination: Destination,
    /// What the endpoint is called: `10.0.0.2:3000`, `backend:3000` where only DNS knows, or [`Self::AS_DIALLED`].
    pub name: String,
}

impl ListedEndpoint {
    /// Where the client's own choice of address is kept.
    pub const AS_DIALLED: &'static str = "as dialled";
}

/// Why a look-up found no endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// No service has this address and port.
    Unknown,
    /// The service is known, but none of its names has an address (its host is named).
    NoEndpoint(String),
}

/// Why a route leads to no endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteMiss {
    /// As for an address.
    Miss(Miss),
    /// The service is known (its host is named), but its DestinationRule has no such subset, or it has none.
    NoSubset(String),
    /// The host is known, but has several ports and none was named.
    SeveralPorts,
}

impl From<Miss> for RouteMiss {
    fn from(miss: Miss) -> Self {
        Self::Miss(miss)
    }
}

impl Registry {
    /// The services that `workload` sees. Names have no addresses yet. The second value tells what is legal but
    /// probably not meant.
    ///
    /// Where two services claim an address and port, the first in reading order has it. A service's own port comes
    /// before an endpoint's: who dials an endpoint at the port of a service means that service.
    #[must_use]
    pub fn build(resources: &Resources, workload: &Workload, config: &MeshConfig) -> (Self, Vec<Finding>) {
        let (services, findings) = Services::build(resources, workload, config);
        let index = Index::build(&services);
        (Self { services: Arc::new(services), index, addresses: Arc::default() }, findings)
    }

    /// By the address that an app dialled: a virtual address and service port, or an endpoint's address with the
    /// service port or the endpoint's own port. A dialled endpoint is kept; behind a virtual address `turn` picks one.
    /// An IPv4 address in IPv6 clothing (`::ffff:…`) is the IPv4 address.
    ///
    /// # Errors
    /// [`Miss`].
    pub fn lookup(&self, original: SocketAddr, turn: usize) -> Result<Destination, Miss> {
        let original = SocketAddr::new(original.ip().to_canonical(), original.port());
        match self.index.claim(original).ok_or(Miss::Unknown)? {
            Claim::Endpoint(service, endpoint) => self.destination(service, endpoint).ok_or(Miss::Unknown),
            Claim::Virtual(service) => self.behind(service, Some(original), turn),
        }
    }

    /// By the server name that the app's own TLS asks for, for a service that no address tells: one of resolution NONE,
    /// without `addresses`, whose port is declared as TLS. The address that was dialled is kept.
    ///
    /// # Errors
    /// [`Miss`].
    pub fn lookup_sni(&self, name: &str, original: SocketAddr) -> Result<Destination, Miss> {
        let service = self.index.sni(name, original.port()).ok_or(Miss::Unknown)?;
        self.behind(service, Some(original), 0)
    }

    /// Whether a service of this port is told by the server name alone, so that an unknown address on it is worth a look
    /// at the first bytes.
    #[must_use]
    pub fn asks_sni(&self, port: u16) -> bool {
        self.index.asks_sni(port)
    }

    /// What a route leads to.
    ///
    /// # Errors
    /// [`RouteMiss`].
    pub fn lookup_route(&self, target: &RouteTarget, turn: usize) -> Result<Destination, RouteMiss> {
        let service = self.service_of_route(target)?;
        let Some(subset) = &target.subset else { return Ok(self.behind(service, None, turn)?) };
        let known = self.services.all.get(service).ok_or(Miss::Unknown)?;
        let of_rule = known.rule.as_ref().and_then(|applied| applied.subsets.get(subset));
        let (number, _) = of_rule.ok_or_else(|| RouteMiss::NoSubset(known.host.clone()))?;
        let endpoint = self.index.endpoint_of_subset(service, *number, turn);
        let found = endpoint.and_then(|endpoint| self.destination(service, endpoint));
        let found = found.ok_or_else(|| Miss::NoEndpoint(known.host.clone()))?;
        Ok(self.in_subset(found, service, subset))
    }

    fn service_of_route(&self, target: &RouteTarget) -> Result<usize, RouteMiss> {
        let RouteTarget { host, namespace, port, .. } = target;
        match port {
            Some(port) => Ok(self.index.host(host, namespace, *port).ok_or(Miss::Unknown)?),
            None => self.index.only_port(host, namespace),
        }
    }

    /// The same destination by the rule of a subset, where its service has the subset.
    fn in_subset(&self, found: Destination, service: usize, subset: &str) -> Destination {
        let applied = self.services.all.get(service).and_then(|known| known.rule.as_ref());
        match applied.and_then(|applied| applied.subsets.get(subset)) {
            Some((_, rule)) => {
                Destination { rule: Some(Arc::clone(rule)), subset: Some(subset.to_owned()), ..found }
            }
            None => found,
        }
    }

    /// By host and port, for explicit listeners: the full name, or the name before `.<namespace>.svc.cluster.local`
    /// in the caller's own namespace. As in a cluster, `name.namespace` and `name.namespace.svc` do as well. An IP
    /// address in place of the name is looked up as [`lookup`](Self::lookup) does.
    ///
    /// # Errors
    /// [`Miss`].
    pub fn lookup_host(&self, host: &str, port: u16, turn: usize) -> Result<Destination, Miss> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.lookup(SocketAddr::new(address, port), turn);
        }
        let service = self.index.host(host, &self.services.namespace, port).ok_or(Miss::Unknown)?;
        self.behind(service, None, turn)
    }

    /// [`lookup`](Self::lookup), [`lookup_host`](Self::lookup_host), [`lookup_sni`](Self::lookup_sni) or
    /// [`lookup_route`](Self::lookup_route).
    ///
    /// # Errors
    /// [`Miss`].
    pub fn find(&self, by: &FoundBy, turn: usize) -> Result<Destination, Miss> {
        match by {
            FoundBy::Address(address) => self.lookup(*address, turn),
            FoundBy::Host(host, port) => self.lookup_host(host, *port, turn),
            FoundBy::ServerName(name, address) => self.lookup_sni(name, *address),
            FoundBy::Route(target) => self.lookup_route(target, turn).map_err(|miss| match miss {
                RouteMiss::Miss(miss) => miss,
                RouteMiss::NoSubset(_) | RouteMiss::SeveralPorts => Miss::Unknown,
            }),
        }
    }

    /// The same look-up for a connection that was made to `made`, or to a destination that was unknown. The endpoint that
    /// it goes to is kept; where its service has it no longer, or DNS has moved the service away from the address that was
    /// dialled, it is judged by what was known of it. `None` is a destination that is not, or no longer, known.
    #[must_use]
    pub fn find_again(&self, by: &FoundBy, made: Option<&Destination>) -> Option<Destination> {
        let by_host = |made: &Destination| self.index.host(&made.host, &self.services.namespace, made.port);
        let service = self.service(by).or_else(|| made.and_then(by_host))?;
        let known = self.services.all.get(service)?;
        let Some(made) = made.filter(|made| (&made.host, made.port) == (&known.host, known.port)) else {
            return self.find(by, 0).ok();
        };
        let before = Endpoint {
            address: made.endpoint,
            has_sidecar: made.has_sidecar,
            takes_tunnels: made.takes_tunnels,
            mode: made.endpoint_mode,
        };
        let now =
            self.destination(service, self.index.endpoint_at(service, made.endpoint).unwrap_or(before))?;
        Some(match &made.subset {
            Some(subset) => self.in_subset(now, service, subset),
            None => now,
        })
    }

    fn service(&self, by: &FoundBy) -> Option<usize> {
        let claimed =
            |ip: IpAddr, port| self.index.claim(SocketAddr::new(ip.to_canonical(), port)).map(Claim::service);
        match by {
            FoundBy::Address(address) => claimed(address.ip(), address.port()),
            FoundBy::Host(host, port) => match host.parse::<IpAddr>() {
                Ok(ip) => claimed(ip, *port),
                Err(_name) => self.index.host(host, &self.services.namespace, *port),
            },
            FoundBy::ServerName(name, address) => self.index.sni(name, address.port()),
            FoundBy::Route(target) => self.service_of_route(target).ok(),
        }
    }

    /// The names that the caller shall resolve.
    #[must_use]
    pub fn names_to_resolve(&self) -> &[String] {
        &self.services.names
    }

    /// Whether a service whose names DNS resolves has this port and sidecars behind it, so that an unknown address on
    /// it may be a fresh one that must not be spoken to in plaintext; with REGISTRY_ONLY, whether it has this port at all,
    /// so that a fresh address is not refused.
    #[must_use]
    pub fn may_be_stale(&self, port: u16) -> bool {
        self.services.ports_by_name.contains(&port)
    }

    /// Whether a DestinationRule asks for TLS to a service of this port whose names DNS resolves, so that plaintext of
    /// the app to an unknown address on it may be meant for a fresh one of that service.
    #[must_use]
    pub fn may_be_originated(&self, port: u16) -> bool {
        self.services.ports_originated.contains(&port)
    }

    /// The same services with fresh addresses.
    #[must_use]
    pub fn with_addresses(&self, addresses: &Addresses) -> Registry {
        Self {
            services: Arc::clone(&self.services),
            index: self.index.with_addresses(&self.services, addresses),
            addresses: Arc::new(addresses.clone()),
        }
    }

    /// All service ports with their endpoints, for `/endpoints`, in file order.
    #[must_use]
    pub fn destinations(&self) -> Vec<Destination> {
        let of = |service: usize| {
            let endpoints = self.index.endpoints_of(service).iter();
            endpoints.filter_map(move |endpoint| self.destination(service, *endpoint))
        };
        (0..self.services.all.len()).flat_map(of).collect()
    }

    /// How TLS is spoken to servers outside the mesh, by each rule and each of its subsets.
    pub fn originations(&self) -> impl Iterator<Item = &Origination> {
        let applied = self.services.all.iter().filter_map(|service| service.rule.as_ref());
        let rules = applied.flat_map(|applied| {
            [&applied.rule].into_iter().chain(applied.subsets.values().map(|(_, rule)| rule))
        });
        rules.filter_map(|rule| match &rule.tls {
            Some(ClientTls::Originate(how)) => Some(how.as_ref()),
            _ => None,
        })
    }

    /// All service ports with all that may be dialled for them, each once, in file order: for people, who want to see names
    /// that DNS does not know yet too.
    #[must_use]
    pub fn list(&self) -> Vec<ListedEndpoint> {
        let mut listed = Vec::new();
        for (number, service) in self.services.all.iter().enumerate() {
            if service.resolution == Resolution::None {
                let anywhere = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), service.port);
                let kept = Endpoint::as_dialled(anywhere);
                let destination = self.destination(number, kept);
                listed.extend(destination.map(|destination| ListedEndpoint {
                    destination,
                    name: ListedEndpoint::AS_DIALLED.to_owned(),
                }));
            }
            let mut names = HashSet::new();
            for backend in &service.backends {
                listed.extend(self.addresses_of(backend).into_iter().filter_map(|(address, name)| {
                    let Backend { has_sidecar, takes_tunnels, mode, .. } = *backend;
                    let endpoint = Endpoint { address, has_sidecar, takes_tunnels, mode };
                    let is_new = names.insert(name.clone());
                    let destination = self.destination(number, endpoint)?;
                    is_new.then_some(ListedEndpoint { destination, name })
                }));
            }
        }
        listed
    }

    /// What a backend is dialled as; a name that DNS does not know yet has itself.
    fn addresses_of(&self, backend: &Backend) -> Vec<(SocketAddr, String)> {
        let at = |ip: &IpAddr| SocketAddr::new(ip.to_canonical(), backend.port);
        let named = |address: SocketAddr| (address, address.to_string());
        match &backend.address {
            Address::Ip(ip) => vec![named(at(ip))],
            Address::Name(name) => match self.addresses.get(name).map(Vec::as_slice).unwrap_or_default() {
                [] => vec![(at(&IpAddr::from([0, 0, 0, 0])), format!("{name}:{}", backend.port))],
                known => known.iter().map(|ip| named(at(ip))).collect(),
            },
        }
    }

    /// Which service lost an address and port to which.
    pub(crate) fn conflicts(&self) -> &[Finding] {
        self.index.conflicts()
    }

    /// An endpoint of a service; `original` is kept where the service has resolution NONE.
    fn behind(&self, service: usize, original: Option<SocketAddr>, turn: usize) -> Result<Destination, Miss> {
        let known = self.services.all.get(service).ok_or(Miss::Unknown)?;
        let endpoint = match (known.resolution, original) {
            (Resolution::None, Some(address)) => Some(Endpoint::as_dialled(address)),
            _ => self.index.endpoint(service, turn),
        };
        endpoint
            .and_then(|endpoint| self.destination(service, endpoint))
            .ok_or_else(|| Miss::NoEndpoint(known.host.clone()))
    }

    fn destination(&self, service: usize, endpoint: Endpoint) -> Option<Destination> {
        let known = self.services.all.get(service)?;
        Some(Destination {
            host: known.host.clone(),
            service_entry: known.service_entry.clone(),
            port: known.port,
            protocol: known.protocol,
            location: known.location,
            endpoint: endpoint.address,
            has_sidecar: endpoint.has_sidecar,
            takes_tunnels: endpoint.takes_tunnels,
            endpoint_mode: endpoint.mode,
            identities: Arc::clone(&known.identities),
            rule: known.rule.as_ref().map(|applied| Arc::clone(&applied.rule)),
            subset: None,
        })
    }
}

#[cfg(test)]
mod tests;
