//! Which DestinationRule a client follows for a host.
//!
//! As in Istio: a rule of the client's own namespace, else one of the service's, else one of the root namespace; within a
//! namespace the one for the host itself, else the one for the longest wildcard. An explicit rule always wins over auto
//! mTLS.

use std::collections::HashMap;
use std::sync::Arc;

use crate::finding::{Code, Finding};
use crate::resource::{ClientTls, DestinationRule, Meta};
use crate::workload::{Selector, Workload};

/// The rule that applies to a service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedRule {
    /// `namespace/name`.
    pub name: String,
    /// `file:line`.
    pub place: String,
    /// Its TLS for the port, or for the subset that is meant; `None` leaves it to auto mTLS.
    pub tls: Option<ClientTls>,
}

/// A rule's subset for a service port.
#[derive(Debug, Clone)]
pub(super) struct AppliedSubset {
    pub(super) selector: Selector,
    pub(super) rule: Arc<AppliedRule>,
}

/// The rules that one client sees.
#[derive(Debug, Default)]
pub(super) struct Rules<'r> {
    by_namespace: HashMap<&'r str, Hosts<'r>>,
    client_namespace: &'r str,
    root_namespace: &'r str,
}

/// The rules of one namespace by what their host is.
#[derive(Debug, Default)]
struct Hosts<'r> {
    exact: HashMap<String, &'r DestinationRule>,
    /// By the suffix behind `*`; empty is `*` itself.
    wildcards: HashMap<&'r str, &'r DestinationRule>,
}

impl<'r> Rules<'r> {
    /// The rules that `client` follows, and which of them lost against another for the same host.
    pub(super) fn of(
        rules: &'r [DestinationRule],
        client: &'r Workload,
        root_namespace: &'r str,
    ) -> (Self, Vec<Finding>) {
        let mut all =
            Self { by_namespace: HashMap::new(), client_namespace: &client.namespace, root_namespace };
        let mut findings = Vec::new();
        let mut in_order: Vec<_> = rules.iter().filter(|rule| is_for(rule, client)).collect();
        in_order.sort_by_key(|rule| rule.meta.age());
        for rule in in_order {
            findings.extend(doubts(rule));
            let hosts = all.by_namespace.entry(rule.meta.namespace.as_str()).or_default();
            if let Some(winner) = hosts.add(rule) {
                findings.push(lost(winner, &rule.meta));
            }
        }
        (all, findings)
    }

    /// The rule for a service of namespace `namespace` that is known by `hosts`.
    pub(super) fn find(&self, hosts: &[String], namespace: &str) -> Option<&'r DestinationRule> {
        let mut seen = Vec::with_capacity(3);
        for of in [self.client_namespace, namespace, self.root_namespace] {
            if seen.contains(&of) {
                continue;
            }
            seen.push(of);
            let found =
                self.by_namespace.get(of).and_then(|rules| hosts.iter().find_map(|host| rules.find(host)));
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

impl<'r> Hosts<'r> {
    /// The rule that has the host already, if one has.
    fn add(&mut self, rule: &'r DestinationRule) -> Option<&'r Meta> {
        let winner = match rule.host.strip_prefix('*') {
            Some(suffix) => *self.wildcards.entry(suffix).or_insert(rule),
            None => *self.exact.entry(full_name(&rule.host, &rule.meta.namespace)).or_insert(rule),
        };
        // A service of a compose file is often known by its bare name.
        if !rule.host.contains(['.', '*']) {
            self.exact.entry(rule.host.clone()).or_insert(rule);
        }
        (!std::ptr::eq(winner, rule)).then_some(&winner.meta)
    }

    fn find(&self, host: &str) -> Option<&'r DestinationRule> {
        let host_behind_star = host.strip_prefix('*');
        let exact = || self.exact.get(host).copied();
        let suffixes = || {
            let text = host_behind_star.unwrap_or(host);
            // A service `*.b.example` is among those of `*.b.example` and `*.example`; `b.example` of the latter alone.
            let own = host_behind_star.map(|_| 0);
            own.into_iter()
                .chain(text.match_indices('.').map(|(at, _)| at).filter(|at| *at > 0))
                .filter_map(|at| text.get(at..))
                .chain([""])
        };
        exact().or_else(|| suffixes().find_map(|suffix| self.wildcards.get(suffix).copied()))
    }
}

/// The rule as it applies to one port of a service.
pub(super) fn apply(rule: &DestinationRule, port: u16) -> (Arc<AppliedRule>, HashMap<String, AppliedSubset>) {
    let applied = |tls: Option<&ClientTls>| {
        Arc::new(AppliedRule {
            name: rule.meta.full_name(),
            place: rule.meta.place.clone(),
            tls: tls.cloned(),
        })
    };
    let subset = |subset: &crate::resource::Subset| {
        let rule = applied(rule.tls(port, Some(subset)));
        let selector = Selector { match_labels: subset.labels.clone() };
        (subset.name.clone(), AppliedSubset { selector, rule })
    };
    (applied(rule.tls(port, None)), rule.subsets.iter().map(subset).collect())
}

/// Whether the rule is for this client: it sees it, and the selector, which picks clients of the rule's own namespace,
/// picks it.
fn is_for(rule: &DestinationRule, client: &Workload) -> bool {
    let own = rule.meta.namespace == client.namespace;
    match &rule.workload_selector {
        Some(selector) => own && selector.matches(&client.labels),
        None => own || rule.export_to.reaches(&client.namespace, &rule.meta.namespace),
    }
}

fn full_name(host: &str, namespace: &str) -> String {
    if host.contains('.') { host.to_owned() } else { format!("{host}.{namespace}.svc.cluster.local") }
}

/// What is legal in a rule but probably not meant.
fn doubts(rule: &DestinationRule) -> Vec<Finding> {
    let name = rule.meta.full_name();
    let mut findings: Vec<Finding> = rule
        .not_applied
        .iter()
        .map(|(field, place)| {
            let message = format!("{field} of DestinationRule {name} is read and has no effect");
            Finding::new(Code::NotApplied, place, message)
        })
        .collect();
    let policies = [&rule.traffic_policy].into_iter();
    let policies = policies.chain(rule.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref()));
    let settings = policies.flat_map(|policy| policy.tls.iter().chain(policy.ports.values().flatten()));
    for tls in settings {
        let ClientTls::Originate(how) = tls else { continue };
        if how.insecure_skip_verify {
            let message = format!("DestinationRule {name} believes whoever answers for {}", rule.host);
            findings.push(Finding::new(Code::VerificationSkipped, &rule.meta.place, message));
        } else if rule.host.starts_with('*') && how.sni.is_none() && how.subject_alt_names.is_empty() {
            let message = format!(
                "DestinationRule {name} asks for {} to {}, and names no server to expect: where the service's host is a \
                 wildcard too, connections are refused",
                tls.mode(),
                rule.host
            );
            findings.push(Finding::new(Code::NoServerName, &rule.meta.place, message));
        }
    }
    findings
}

fn lost(winner: &Meta, loser: &Meta) -> Finding {
    let message = format!(
        "DestinationRule {} is ignored: {} ({}) is for the same host and comes first",
        loser.full_name(),
        winner.full_name(),
        winner.place,
    );
    Finding::new(Code::RuleIgnored, &loser.place, message)
}
