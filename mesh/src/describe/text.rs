//! A description as text, in the order of `istioctl x describe`.

use std::fmt::{self, Display, Formatter};

use super::{
    Description, DestinationDescription, ModeDescription, PortDescription, RouteDescription,
    WorkloadDescription,
};
use crate::policy::authz::PolicyDescription;

impl Display for Description {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.workload)?;
        section(f, "Ports", &self.ports, "")?;
        write!(f, "\n   every other port: {}\n      {}", self.other_ports.mode, self.other_ports)?;
        section(f, "PeerAuthentication", &self.peer_authentications, "none applies")?;
        section(f, "AuthorizationPolicy", &self.authorization_policies, "none applies")?;
        let others = if self.others_allowed { "allowed" } else { "denied" };
        write!(f, "\n   everybody else: {others}")?;
        section(f, "Destinations", &self.destinations, "no ServiceEntry is visible")?;
        if !self.routes.is_empty() {
            section(f, "Routes", &self.routes, "")?;
        }
        section(f, "Findings", &[] as &[&str], if self.findings.is_empty() { "none" } else { "" })?;
        for finding in &self.findings {
            write!(f, "\n   {} {} ({})\n      {finding}", finding.severity, finding.code, finding.place)?;
        }
        Ok(())
    }
}

/// A heading and what stands under it; `nothing` where that is nothing.
fn section<T: Display>(f: &mut Formatter<'_>, heading: &str, of: &[T], nothing: &str) -> fmt::Result {
    write!(f, "\n\n{heading}:")?;
    if of.is_empty() && !nothing.is_empty() {
        write!(f, "\n   {nothing}")?;
    }
    of.iter().try_for_each(|one| write!(f, "\n   {one}"))
}

impl Display for WorkloadDescription {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Workload: {}/{}", self.namespace, self.name)?;
        match &self.identity {
            Some(identity) => write!(f, "\n   identity {identity}")?,
            None => write!(f, "\n   identity unknown: nobody says its service account")?,
        }
        let labels: Vec<String> = self.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        write!(f, "\n   labels {}", if labels.is_empty() { "none".to_owned() } else { labels.join(", ") })
    }
}

/// Why, and what a dry run would make of it.
impl Display for ModeDescription {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "by {}", self.because)?;
        match &self.shadow {
            Some(shadow) => write!(f, "\n      in dry run: {} by {}", shadow.mode, shadow.because),
            None => Ok(()),
        }
    }
}

impl Display for PortDescription {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { port, service, protocol, mode, reads_http, reads_http_because } = self;
        let service = service.as_ref().map(|service| format!(", service {service}")).unwrap_or_default();
        write!(f, "{port}: {} ({protocol}{service})\n      {mode}", mode.mode)?;
        let read = if *reads_http { "read as HTTP" } else { "not read as HTTP" };
        write!(f, "\n      {read}, since {reads_http_because}")
    }
}

impl Display for PolicyDescription {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, place, scope, action, dry_run, rules } = self;
        let dry_run = if *dry_run { ", dry run" } else { "" };
        write!(f, "{action} {name} ({scope}{dry_run}; {place})")?;
        if rules.is_empty() {
            write!(f, "\n      no rules: matches nothing")?;
        }
        rules.iter().enumerate().try_for_each(|(number, rule)| write!(f, "\n      rule[{number}] {rule}"))
    }
}

impl Display for DestinationDescription {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { host, port, protocol, endpoint, tls, sni, expects, because, .. } = self;
        write!(f, "{host}:{port} ({protocol}) at {endpoint}: {tls}\n      {because}")?;
        if let Some(sni) = sni {
            write!(f, "\n      server name {sni}")?;
        }
        if !expects.is_empty() {
            write!(f, "\n      expects {}", expects.join(" or "))?;
        }
        Ok(())
    }
}

impl Display for RouteDescription {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { port, host, paths, destination, virtual_service, place, gateways } = self;
        let paths = if paths.is_empty() { "every path".to_owned() } else { paths.join(" or ") };
        let gateways = gateways.join(", ");
        write!(
            f,
            "port {port}, host {host}, {paths}: {destination}\n      VirtualService {virtual_service} ({place}), Gateway {gateways}"
        )
    }
}
