//! Which DestinationRule a client follows for a host.
//!
//! As in Istio: a rule of the client's own namespace, else one of the service's, else one of the root namespace; within a
//! namespace the one for the host itself, else the one for the longest wildcard. For a client of the root namespace, an
//! edge proxy as a rule, the service's namespace comes first: what stands in the root namespace is meant for all. An
//! explicit rule always wins over auto mTLS.

use std::collections::HashMap;
use std::sync::Arc;

use crate::finding::{Code, Finding};
use crate::matching::labels::Selectors;
use crate::resource::{ClientTls, DestinationRule, Meta};
use crate::workload::{Labels, Workload};

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

/// A rule as it applies to one port of the services that follow it.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) rule: Arc<AppliedRule>,
    /// The rule for each of its subsets, by the subset's name, with the subset's number.
    pub(super) subsets: HashMap<String, (usize, Arc<AppliedRule>)>,
}

/// The rules that one client sees. They are known by their numbers, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Rules<'r> {
    all: Vec<&'r DestinationRule>,
    by_namespace: HashMap<&'r str, Hosts<'r>>,
    client_namespace: &'r str,
    root_namespace: &'r str,
    /// What was asked for already, by rule and port: one rule may be for many services.
    applied: HashMap<(usize, u16), Arc<Applied>>,
    /// The selectors of a rule's subsets, by rule.
    subsets: HashMap<usize, Selectors<'r>>,
}

/// The rules of one namespace by what their host is.
#[derive(Debug, Default)]
struct Hosts<'r> {
    exact: HashMap<String, usize>,
    /// By the suffix behind `*`; empty is `*` itself.
    wildcards: HashMap<&'r str, usize>,
}

impl<'r> Rules<'r> {
    /// The rules that `client` follows, and which of them lost against another for the same host.
    pub(super) fn of(
        rules: &'r [DestinationRule],
        client: &'r Workload,
        root_namespace: &'r str,
    ) -> (Self, Vec<Finding>) {
        let mut all = Self { client_namespace: &client.namespace, root_namespace, ..Self::default() };
        let mut findings = Vec::new();
        all.all.extend(rules.iter().filter(|rule| is_for(rule, client)));
        all.all.sort_by_key(|rule| rule.meta.age());
        for (number, rule) in all.all.iter().enumerate() {
            findings.extend(doubts(rule));
            let hosts = all.by_namespace.entry(rule.meta.namespace.as_str()).or_default();
            let winner = all.all.get(hosts.add(number, rule));
            if let Some(winner) = winner.filter(|winner| !std::ptr::eq(**winner, *rule)) {
                findings.push(lost(&winner.meta, &rule.meta));
            }
        }
        (all, findings)
    }

    /// The rule for a host of a service of namespace `namespace`.
    pub(super) fn find(&self, host: &str, namespace: &str) -> Option<usize> {
        let own = Some(self.client_namespace).filter(|own| *own != self.root_namespace);
        let namespaces = own.into_iter().chain([namespace, self.root_namespace]);
        namespaces.into_iter().find_map(|of| self.by_namespace.get(of)?.find(host))
    }

    /// A rule as it applies to a port.
    pub(super) fn applied(&mut self, number: usize, port: u16) -> Option<Arc<Applied>> {
        let rule = *self.all.get(number)?;
        Some(Arc::clone(self.applied.entry((number, port)).or_insert_with(|| Arc::new(apply(rule, port)))))
    }

    /// The numbers of the rule's subsets that `labels` belong to, in their order.
    pub(super) fn subsets_of(&mut self, number: usize, labels: &Labels) -> Vec<usize> {
        let Some(rule) = self.all.get(number) else { return Vec::new() };
        let wanted = || Selectors::new(rule.subsets.iter().map(|subset| &subset.labels));
        self.subsets.entry(number).or_insert_with(wanted).picking(labels)
    }
}

impl<'r> Hosts<'r> {
    /// The rule that has the host now: this one, or the one that had it already.
    fn add(&mut self, number: usize, rule: &'r DestinationRule) -> usize {
        // A service of a compose file is often known by its bare name.
        if !rule.host.contains(['.', '*']) {
            self.exact.entry(rule.host.clone()).or_insert(number);
        }
        match rule.host.strip_prefix('*') {
            Some(suffix) => *self.wildcards.entry(suffix).or_insert(number),
            None => *self.exact.entry(full_name(&rule.host, &rule.meta.namespace)).or_insert(number),
        }
    }

    fn find(&self, host: &str) -> Option<usize> {
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

fn apply(rule: &DestinationRule, port: u16) -> Applied {
    let applied = |tls: Option<&ClientTls>| {
        Arc::new(AppliedRule {
            name: rule.meta.full_name(),
            place: rule.meta.place.clone(),
            tls: tls.cloned(),
        })
    };
    let subsets = rule.subsets.iter().enumerate();
    Applied {
        rule: applied(rule.tls(port, None)),
        subsets: subsets
            .map(|(number, subset)| (subset.name.clone(), (number, applied(rule.tls(port, Some(subset))))))
            .collect(),
    }
}

/// Whether the rule is for this client: it sees it, and the selector, which picks clients of the rule's own namespace,
/// picks it.
fn is_for(rule: &DestinationRule, client: &Workload) -> bool {
    match &rule.workload_selector {
        Some(selector) => rule.meta.namespace == client.namespace && selector.matches(&client.labels),
        None => rule.export_to.reaches(&client.namespace, &rule.meta.namespace),
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
