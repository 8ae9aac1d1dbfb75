//! Where an edge proxy sends a request: `Gateway` and `VirtualService` to a service, by port, host and path.
//!
//! As in Istio the host chooses first, the whole name before the longest wildcard, and then the routes of that host in
//! their order; a host whose routes do not match is not looked for under another name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::path::Normalized;
use super::request::Host;
use crate::finding::{Code, Finding};
use crate::registry::RouteTarget;
use crate::resource::{
    Gateway, HostPattern, HttpRoute, Meta, PathMatch, Resources, RouteDestination, Server, VirtualService,
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
    exact: HashMap<String, Vec<Arc<Route>>>,
    /// By the suffix with its dot.
    below: HashMap<String, Vec<Arc<Route>>>,
    any: Vec<Arc<Route>>,
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
        let mut ports: BTreeMap<u16, Port> = BTreeMap::new();
        let mut findings = Vec::new();
        let mut gateways: Vec<_> =
            resources.gateways.iter().filter(|gateway| gateway.selector.matches(&workload.labels)).collect();
        gateways.sort_by_key(|gateway| gateway.meta.age());
        for gateway in &gateways {
            for server in &gateway.servers {
                let port = ports.entry(server.port).or_default();
                let name = gateway.meta.full_name();
                if !port.gateways.contains(&name) {
                    port.gateways.push(name);
                }
            }
        }
        let mut services: Vec<_> = resources.virtual_services.iter().collect();
        services.sort_by_key(|service| service.meta.age());
        for service in services {
            for gateway in gateways.iter().filter(|gateway| names(service, gateway)) {
                if !bind(service, gateway, &mut ports) {
                    findings.push(unbound(service, &gateway.meta));
                }
            }
        }
        (Self(Arc::new(ports)), findings)
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
            for (host, routes) in hosts {
                all.extend(routes.iter().map(|route| (*number, host.clone(), Arc::clone(route))));
            }
        }
        all
    }

    /// Where a request goes that came to `port`.
    ///
    /// # Errors
    /// [`NoRoute`].
    pub fn route(&self, port: u16, host: &Host, path: &Normalized) -> Result<&Arc<Route>, NoRoute> {
        let routes = self
            .0
            .get(&port)
            .and_then(|port| port.routes(host.name()))
            .ok_or_else(|| NoRoute::Host(host.name().to_owned()))?;
        routes
            .iter()
            .find(|route| route.takes(path.path()))
            .ok_or_else(|| NoRoute::Path { host: host.name().to_owned(), path: path.path().to_owned() })
    }
}

impl Port {
    fn routes(&self, host: &str) -> Option<&[Arc<Route>]> {
        let suffixes = host.match_indices('.').filter_map(|(dot, _)| host.get(dot..));
        let found = self
            .exact
            .get(host)
            .or_else(|| suffixes.into_iter().find_map(|suffix| self.below.get(suffix)))
            .unwrap_or(&self.any);
        (!found.is_empty()).then_some(found.as_slice())
    }

    fn add(&mut self, host: HostPattern, route: Arc<Route>) {
        let routes = match host {
            HostPattern::Exact(host) => self.exact.entry(host).or_default(),
            HostPattern::Below(suffix) => self.below.entry(suffix).or_default(),
            HostPattern::Any => &mut self.any,
        };
        routes.push(route);
    }
}

impl Route {
    /// What the registry is asked for.
    #[must_use]
    pub fn target(&self) -> RouteTarget {
        let RouteDestination { host, port, subset } = self.destination.clone();
        RouteTarget { host, namespace: self.namespace.clone(), port, subset }
    }

    fn takes(&self, path: &str) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|wanted| wanted.matches(path))
    }
}

fn names(service: &VirtualService, gateway: &Gateway) -> bool {
    let Meta { namespace, name, .. } = &gateway.meta;
    service.export_to.reaches(namespace, &service.meta.namespace)
        && service.gateways.iter().any(|(of, called)| of == namespace && called == name)
}

/// Adds the routes of a service to the ports of a gateway that take its hosts; whether there is one.
fn bind(service: &VirtualService, gateway: &Gateway, ports: &mut BTreeMap<u16, Port>) -> bool {
    let mut bound = false;
    let routes: Vec<_> = service.routes.iter().map(|route| Arc::new(named(service, route))).collect();
    for server in &gateway.servers {
        for host in shared_hosts(service, gateway, server) {
            bound = true;
            let port = ports.entry(server.port).or_default();
            routes.iter().for_each(|route| port.add(host.clone(), Arc::clone(route)));
        }
    }
    bound
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

/// The hosts that both a service and a server of a gateway take, each once.
fn shared_hosts(service: &VirtualService, gateway: &Gateway, server: &Server) -> Vec<HostPattern> {
    let mut shared = Vec::new();
    for of in &server.hosts {
        let namespace = match of.namespace.as_deref() {
            Some(".") => Some(gateway.meta.namespace.as_str()),
            other => other,
        };
        if namespace.is_some_and(|namespace| namespace != service.meta.namespace) {
            continue;
        }
        for host in service.hosts.iter().filter_map(|host| host.intersection(&of.host)) {
            if !shared.contains(&host) {
                shared.push(host);
            }
        }
    }
    shared
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
