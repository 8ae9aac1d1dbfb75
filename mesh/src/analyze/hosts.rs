//! Names that lead nowhere: a DestinationRule's host, a VirtualService's Gateway.

use std::collections::HashSet;

use super::Found;
use super::names::nearest;
use crate::finding::{Code, Finding};
use crate::resource::{DestinationRule, Gateway, Resources, ServiceEntry, VirtualService};

pub(super) fn find(resources: &Resources, found: &mut Found) {
    let hosts: HashSet<&str> =
        resources.service_entries.iter().flat_map(|entry| &entry.hosts).map(String::as_str).collect();
    for rule in resources.destination_rules.iter().filter(|rule| !is_for_some(rule, &hosts)) {
        found.add(of_nothing(rule, &resources.service_entries));
    }
    for routes in &resources.virtual_services {
        for gateway in &routes.gateways {
            found.all_of(without_gateway(routes, gateway, &resources.gateways));
        }
        for route in &routes.routes {
            if !found.has(Code::RouteUnknown, &route.place) {
                continue;
            }
            if let Some(near) = nearest(&route.destination.host, hosts.iter().copied()) {
                found.cure(Code::RouteUnknown, &route.place, &format!("did you mean {near}?"));
            }
        }
    }
}

fn of_nothing(rule: &DestinationRule, entries: &[ServiceEntry]) -> Finding {
    let name = rule.meta.full_name();
    let message = format!(
        "DestinationRule {name} is for {}, which no ServiceEntry has: it applies to nothing",
        rule.host
    );
    let finding = Finding::new(Code::HostUnknown, &rule.meta.place, message);
    // A service of a compose file is known by its bare name, and the rule calls it as a cluster would.
    let bare = |entry: &&ServiceEntry| {
        rule.host.strip_suffix(&format!(".{}.svc.cluster.local", entry.meta.namespace))
    };
    let known_as = entries.iter().find_map(|entry| {
        let bare = bare(&entry)?;
        entry.hosts.iter().find(|host| *host == bare)
    });
    let hosts = || entries.iter().flat_map(|entry| &entry.hosts).map(String::as_str);
    match known_as.map(String::as_str).or_else(|| nearest(&rule.host, hosts())) {
        Some(near) => finding.with_cure(format!("did you mean {near}?")),
        None => finding,
    }
}

/// As the registry looks for the rule of a service. One for every host is for whatever comes.
fn is_for_some(rule: &DestinationRule, hosts: &HashSet<&str>) -> bool {
    match rule.host.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => hosts.iter().any(|host| host.ends_with(suffix)),
        None if rule.host.contains('.') => hosts.contains(rule.host.as_str()),
        None => {
            let full = format!("{}.{}.svc.cluster.local", rule.host, rule.meta.namespace);
            hosts.contains(rule.host.as_str()) || hosts.contains(full.as_str())
        }
    }
}

fn without_gateway(
    routes: &VirtualService,
    (namespace, name): &(String, String),
    gateways: &[Gateway],
) -> Option<Finding> {
    if gateways.iter().any(|gateway| gateway.meta.namespace == *namespace && gateway.meta.name == *name) {
        return None;
    }
    let message = format!(
        "VirtualService {} names Gateway {namespace}/{name}, which does not exist: its routes are not in force there",
        routes.meta.full_name()
    );
    let finding = Finding::new(Code::GatewayUnknown, &routes.meta.place, message);
    let elsewhere = gateways.iter().find(|gateway| gateway.meta.name == *name);
    let in_namespace = gateways.iter().filter(|gateway| gateway.meta.namespace == *namespace);
    let near = nearest(name, in_namespace.map(|gateway| gateway.meta.name.as_str()));
    Some(match (elsewhere, near) {
        (Some(gateway), _) => finding.with_cure(format!("did you mean {}?", gateway.meta.full_name())),
        (None, Some(near)) => finding.with_cure(format!("did you mean {near}?")),
        (None, None) => finding,
    })
}
