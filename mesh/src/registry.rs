//! Services and their endpoints: what lies behind an address that an app dialled.
//!
//! Names are resolved by the caller and handed in as [`Addresses`]; this file asks no DNS. `services` makes the
//! services from the resources, once for each reload; `index` finds them by address and by name, and is made anew
//! with fresh addresses.

mod endpoints;
mod index;
mod rules;
mod services;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::finding::Finding;
use crate::policy::mode::Mode;
use crate::resource::{Location, Protocol, Resolution, Resources};
use crate::spiffe::SpiffeId;
use crate::workload::{MeshConfig, Workload};
pub(crate) use endpoints::WorkloadEntries;
use index::{Claim, Endpoint, Index};
pub use rules::AppliedRule;
use services::Services;

/// What DNS said of each name last.
pub type Addresses = HashMap<String, Vec<IpAddr>>;

/// All services of the mesh folder, indexed for constant-time look-up. A clone costs nothing.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    services: Arc<Services>,
    index: Index,
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
    /// What the endpoint's port accepts by the PeerAuthentications known here.
    pub endpoint_mode: Mode,
    /// The identities that may serve this host, in the order of their texts.
    pub identities: Arc<[SpiffeId]>,
    /// The DestinationRule that applies.
    pub rule: Option<Arc<AppliedRule>>,
    /// The subset that a route means.
    pub subset: Option<String>,
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

/// What a route leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'w> {
    /// The host; a short name is one of `namespace`.
    pub host: &'w str,
    /// Whose short names are meant.
    pub namespace: &'w str,
    /// The service's port; `None` where it has one only.
    pub port: Option<u16>,
    /// A subset of its DestinationRule.
    pub subset: Option<&'w str>,
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
        (Self { services: Arc::new(services), index }, findings)
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
    pub fn lookup_route(&self, wanted: Wanted<'_>, turn: usize) -> Result<Destination, RouteMiss> {
        let Wanted { host, namespace, port, subset } = wanted;
        let service = match port {
            Some(port) => self.index.host(host, namespace, port).ok_or(Miss::Unknown)?,
            None => self.index.only_port(host, namespace)?,
        };
        let Some(subset) = subset else { return Ok(self.behind(service, None, turn)?) };
        let known = self.services.all.get(service).ok_or(Miss::Unknown)?;
        let of_rule = known.rule.as_ref().and_then(|applied| applied.subsets.get(subset));
        let (number, rule) = of_rule.ok_or_else(|| RouteMiss::NoSubset(known.host.clone()))?;
        let endpoint = self.index.endpoint_of_subset(service, *number, turn);
        let found = endpoint.and_then(|endpoint| self.destination(service, endpoint));
        let found = found.ok_or_else(|| Miss::NoEndpoint(known.host.clone()))?;
        Ok(Destination { rule: Some(Arc::clone(rule)), subset: Some(subset.to_owned()), ..found })
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

    /// The names that the caller shall resolve.
    #[must_use]
    pub fn names_to_resolve(&self) -> &[String] {
        &self.services.names
    }

    /// Whether a service whose names DNS resolves has this port and sidecars behind it, so that an unknown address on
    /// it may be a fresh one that must not be spoken to in plaintext.
    #[must_use]
    pub fn may_be_stale(&self, port: u16) -> bool {
        self.services.ports_by_name.contains(&port)
    }

    /// The same services with fresh addresses.
    #[must_use]
    pub fn with_addresses(&self, addresses: &Addresses) -> Registry {
        Self {
            services: Arc::clone(&self.services),
            index: self.index.with_addresses(&self.services, addresses),
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

    /// Which service lost an address and port to which.
    pub(crate) fn conflicts(&self) -> &[Finding] {
        self.index.conflicts()
    }

    /// An endpoint of a service; `original` is kept where the service has resolution NONE.
    fn behind(&self, service: usize, original: Option<SocketAddr>, turn: usize) -> Result<Destination, Miss> {
        let known = self.services.all.get(service).ok_or(Miss::Unknown)?;
        let endpoint = match (known.resolution, original) {
            (Resolution::None, Some(address)) => {
                Some(Endpoint { address, has_sidecar: false, mode: Mode::Permissive })
            }
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
            endpoint_mode: endpoint.mode,
            identities: Arc::clone(&known.identities),
            rule: known.rule.as_ref().map(|applied| Arc::clone(&applied.rule)),
            subset: None,
        })
    }
}

#[cfg(test)]
mod tests;
