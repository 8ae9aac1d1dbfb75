//! Where an edge proxy sends a request: `Gateway` and `VirtualService` to a service, by port, host and path.
//!
//! As in Istio the host chooses first, the whole name before the longest wildcard, and then the routes of that host in
//! their order; a host whose routes do not match is not looked for under another name.

mod hosts;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::path::Normalized;
use super::request::Host;
use crate::finding::{Code, Finding};
use crate::matching::texts::{Patterns, PatternsBuilder, TextKey};
use crate::registry::RouteTarget;
use crate::resource::{
    Gateway, HostPattern, HttpRoute, Meta, PathMatch, Resources, RouteDestination, VirtualService,
};
use crate::workload::Workload;

/// What one edge proxy listens for, and where its requests go. A clone costs nothing.
#[derive(Debug, Clone, Default)]
pub struct Routes(Arc<BTreeMap<u16, Port>>);

/// One port of the edge.
#[derive(Debug, Default)]
struct Port {
    /// The Gateways that ask for it, `namespace/name`.
    gateways: Vec<String>,
    exact: HashMap<String, OfHost>,
    /// By the suffix with its dot.
    below: HashMap<String, OfHost>,
    any: OfHost,
}

/// The routes of one host.
#[derive(Debug, Default)]
struct OfHost {
    /// In their order.
    routes: Vec<Arc<Route>>,
    /// The number of the first that takes such a path.
    by_path: Patterns<Option<usize>>,
}

/// One route, with where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The `VirtualService`, `namespace/name`.
    pub virtual_service: String,
    /// Its namespace, in which short names of services are looked up.
    pub namespace: String,
    /// `file:line` of the destination.
    pub place: String,
    /// Which paths it takes; none is every one.
    pub paths: Vec<PathMatch>,
    /// Where they go.
    pub destination: RouteDestination,
}

/// Why a request has no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// Nobody routes the host.
    #[error("no VirtualService has the host {0}")]
    Host(String),
    /// The host is routed, the path is not.
    #[error("no route of host {host} takes the path {path}")]
    Path {
        /// The host.
        host: String,
        /// The path, without query.
        path: String,
    },
}

impl Routes {
    /// The routes of `workload` as an edge proxy: of the Gateways that select it and the VirtualServices that name these.
    /// The second value tells what is not in force.
    #[must_use]
    pub fn build(resources: &Resources, workload: &Workload) -> (Self, Vec<Finding>) {
        let gateways = Gateways::of(resources, workload);
        let mut ports: BTreeMap<u16, PortBuilder> = BTreeMap::new();
        for gateway in &gateways.all {
            gateway.servers.iter().for_each(|server| {
                ports.entry(server.port).or_default().add_gateway(&gateway.meta);
            });
        }
        let mut findings = Vec::new();
        let mut services: Vec<_> = resources.virtual_services.iter().collect();
        services.sort_by_key(|service| service.meta.age());
        for service in services {
            for number in gateways.named_by(service) {
                if !gateways.bind(number, service, &mut ports) {
                    findings.extend(gateways.all.get(number).map(|gateway| unbound(service, &gateway.meta)));
                }
            }
        }
        let built = ports.into_iter().map(|(number, port)| (number, port.build())).collect();
        (Self(Arc::new(built)), findings)
    }

    /// The ports to listen on, in order.
    pub fn ports(&self) -> impl Iterator<Item = u16> + use<'_> {
        self.0.keys().copied()
    }

    /// The Gateways that ask for a port, `namespace/name`.
    #[must_use]
    pub fn gateways(&self, port: u16) -> &[String] {
        self.0.get(&port).map(|port| port.gateways.as_slice()).unwrap_or_default()
    }

    /// Every route with its port and the host that leads to it, in the order of ports and hosts.
    #[must_use]
    pub fn all(&self) -> Vec<(u16, HostPattern, Arc<Route>)> {
        let mut all = Vec::new();
        for (number, port) in self.0.iter() {
            let exact = port.exact.iter().map(|(host, routes)| (HostPattern::Exact(host.clone()), routes));
            let below =
                port.below.iter().map(|(suffix, routes)| (HostPattern::Below(suffix.clone()), routes));
            let mut hosts: Vec<_> = exact.chain(below).chain([(HostPattern::Any, &port.any)]).collect();
            hosts.sort_by_key(|(host, _)| (*host == HostPattern::Any, host.to_string()));
            for (host, of_host) in hosts {
                all.extend(of_host.routes.iter().map(|route| (*number, host.clone(), Arc::clone(route))));
            }
        }
        all
    }

    /// Where a request goes that came to `port`.
    ///
    /// # Errors
    /// [`NoRoute`].
    pub fn route(&self, port: u16, host: &Host, path: &Normalized) -> Result<&Arc<Route>, NoRoute> {
        let of_host = self
            .0
            .get(&port)
            .and_then(|port| port.of_host(host.name()))
            .ok_or_else(|| NoRoute::Host(host.name().to_owned()))?;
        of_host
            .first(path.path())
            .ok_or_else(|| NoRoute::Path { host: host.name().to_owned(), path: path.path().to_owned() })
    }
}

impl Port {
    fn of_host(&self, host: &str) -> Option<&OfHost> {
        let suffixes = host.match_indices('.').filter_map(|(dot, _)| host.get(dot..));
        let found = self
            .exact
            .get(host)
            .or_else(|| suffixes.into_iter().find_map(|suffix| self.below.get(suffix)))
            .unwrap_or(&self.any);
        (!found.routes.is_empty()).then_some(found)
    }
}

impl OfHost {
    fn new(routes: Vec<Arc<Route>>) -> Self {
        let mut by_path = PatternsBuilder::<Option<usize>>::default();
        for (number, route) in routes.iter().enumerate() {
            let whatever = route.paths.is_empty().then_some(TextKey::Any);
            for key in route.paths.iter().map(PathMatch::key).chain(whatever) {
                by_path.entry(key).get_or_insert(number);
            }
        }
        Self { routes, by_path: by_path.build() }
    }

    /// The first route that takes a path.
    fn first(&self, path: &str) -> Option<&Arc<Route>> {
        let number = self.by_path.matching(path.as_bytes()).flatten().min()?;
        self.routes.get(*number)
    }
}

/// One port of the edge before all routes are known.
#[derive(Debug, Default)]
struct PortBuilder {
    gateways: Vec<String>,
    known_gateways: HashSet<String>,
    routes: HashMap<HostPattern, Vec<Arc<Route>>>,
}

impl PortBuilder {
    fn add_gateway(&mut self, gateway: &Meta) {
        let name = gateway.full_name();
        if self.known_gateways.insert(name.clone()) {
            self.gateways.push(name);
        }
    }

    fn build(self) -> Port {
        let mut port = Port { gateways: self.gateways, ..Port::default() };
        for (host, routes) in self.routes {
            let of_host = OfHost::new(routes);
            match host {
                HostPattern::Exact(host) => drop(port.exact.insert(host, of_host)),
                HostPattern::Below(suffix) => drop(port.below.insert(suffix, of_host)),
                HostPattern::Any => port.any = of_host,
            }
        }
        port
    }
}

impl Route {
    /// What the registry is asked for.
    #[must_use]
    pub fn target(&self) -> RouteTarget {
        let RouteDestination { host, port, subset } = self.destination.clone();
        RouteTarget { host, namespace: self.namespace.clone(), port, subset }
    }
}

/// The Gateways that select the edge proxy.
struct Gateways<'r> {
    /// The oldest first.
    all: Vec<&'r Gateway>,
    /// Their places, by namespace and name.
    by_name: HashMap<(&'r str, &'r str), Vec<usize>>,
    /// The hosts of each server of each.
    hosts: Vec<Vec<(u16, hosts::ServerHosts)>>,
}

impl<'r> Gateways<'r> {
    fn of(resources: &'r Resources, workload: &Workload) -> Self {
        let selects = |gateway: &&Gateway| gateway.selector.matches(&workload.labels);
        let mut all: Vec<_> = resources.gateways.iter().filter(selects).collect();
        all.sort_by_key(|gateway| gateway.meta.age());
        let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
        for (number, Gateway { meta, .. }) in all.iter().enumerate() {
            by_name.entry((meta.namespace.as_str(), meta.name.as_str())).or_default().push(number);
        }
        let hosts_of = |gateway: &&Gateway| {
            let servers = gateway.servers.iter();
            servers
                .map(|server| (server.port, hosts::ServerHosts::new(server, &gateway.meta.namespace)))
                .collect()
        };
        Self { hosts: all.iter().map(hosts_of).collect(), all, by_name }
    }

    /// Those that a service names and that see it, in order.
    fn named_by(&self, service: &VirtualService) -> Vec<usize> {
        let sees = |namespace: &str| service.export_to.reaches(namespace, &service.meta.namespace);
        let names = service.gateways.iter().filter(|(namespace, _)| sees(namespace));
        let found =
            names.filter_map(|(namespace, name)| self.by_name.get(&(namespace.as_str(), name.as_str())));
        let mut numbers: Vec<usize> = found.flatten().copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Adds the routes of a service to the ports of a gateway that take its hosts; whether there is one.
    fn bind(&self, gateway: usize, service: &VirtualService, ports: &mut BTreeMap<u16, PortBuilder>) -> bool {
        let mut bound = false;
        let routes: Vec<_> = service.routes.iter().map(|route| Arc::new(named(service, route))).collect();
        for (number, hosts) in self.hosts.get(gateway).into_iter().flatten() {
            let Entry::Occupied(mut port) = ports.entry(*number) else { continue };
            for host in hosts.shared_with(service) {
                bound = true;
                port.get_mut().routes.entry(host).or_default().extend(routes.iter().cloned());
            }
        }
        bound
    }
}

fn named(service: &VirtualService, route: &HttpRoute) -> Route {
    Route {
        virtual_service: service.meta.full_name(),
        namespace: service.meta.namespace.clone(),
        place: route.place.clone(),
        paths: route.paths.clone(),
        destination: route.destination.clone(),
    }
}

fn unbound(service: &VirtualService, gateway: &Meta) -> Finding {
    let message = format!(
        "VirtualService {} names Gateway {} ({}), of which no server takes any of its hosts: its routes are not in force \
         there",
        service.meta.full_name(),
        gateway.full_name(),
        gateway.place,
    );
    Finding::new(Code::GatewayUnknown, &service.meta.place, message)
}

#[cfg(test)]
mod tests;
