//! Names that nobody has and that are a letter or two off a name that somebody has.

use std::collections::BTreeSet;

use super::Found;
use crate::finding::{Code, Finding};
use crate::known::Known;
use crate::resource::{
    AuthorizationPolicy, Condition, Meta, Operation, Pattern, Resources, ServiceAccount, Source,
};
use crate::spiffe::SpiffeId;
use crate::workload::MeshConfig;

/// Under this many letters a name has no near ones.
const SHORT: usize = 4;
/// From this many letters on two may differ.
const LONG: usize = 6;

/// The name of the known ones that was probably meant by one that is not known. A version or a number is never meant to
/// be another.
pub(super) fn nearest<'n>(seen: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let mut near = Vec::new();
    for name in known {
        if name == seen {
            return None;
        }
        near.extend(distance(seen, name).map(|distance| (distance, name)));
    }
    near.into_iter().min().map(|(_, name)| name)
}

/// How many letters differ, if few enough do.
fn distance(seen: &str, name: &str) -> Option<usize> {
    let without_digits = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    if without_digits(seen) == without_digits(name) {
        return None;
    }
    let letters = seen.chars().count().min(name.chars().count());
    let few = if letters < SHORT { 0 } else { 1 + usize::from(letters >= LONG) };
    let distance = strsim::osa_distance(seen, name);
    (distance <= few).then_some(distance)
}

/// Like [`nearest`] for names of several parts: all but one part must be the same.
fn nearest_of_parts<'n>(
    seen: &str,
    known: impl IntoIterator<Item = &'n str>,
    separator: char,
) -> Option<&'n str> {
    let parts: Vec<&str> = seen.split(separator).collect();
    let mut near = Vec::new();
    for name in known {
        if name == seen {
            return None;
        }
        let others: Vec<&str> = name.split(separator).collect();
        let differing: Vec<_> = parts.iter().zip(&others).filter(|(one, other)| one != other).collect();
        if let ([(one, other)], true) = (differing.as_slice(), parts.len() == others.len()) {
            near.extend(distance(one, other).map(|distance| (distance, name)));
        }
    }
    near.into_iter().min().map(|(_, name)| name)
}

/// Who and what is known.
#[derive(Default)]
struct Names<'n> {
    namespaces: BTreeSet<&'n str>,
    principals: BTreeSet<String>,
    /// `namespace/service account`.
    accounts: BTreeSet<String>,
    hosts: BTreeSet<&'n str>,
}

pub(super) fn find(resources: &Resources, known: &[Known], config: &MeshConfig, found: &mut Found) {
    let names = Names::of(resources, known, config);
    let policies = resources.peer_authentications.iter().map(|policy| ("PeerAuthentication", &policy.meta));
    let policies = policies
        .chain(resources.authorization_policies.iter().map(|policy| ("AuthorizationPolicy", &policy.meta)));
    let rules = resources.destination_rules.iter().map(|rule| ("DestinationRule", &rule.meta));
    for (kind, meta) in policies.chain(rules) {
        found.all_of(names.of_namespace(kind, meta));
    }
    for policy in &resources.authorization_policies {
        names.within(policy, found);
    }
}

impl<'n> Names<'n> {
    fn of(resources: &'n Resources, known: &'n [Known], config: &'n MeshConfig) -> Self {
        let mut names = Self::default();
        let named = resources.service_entries.iter().flat_map(|entry| &entry.subject_alt_names);
        let ids: Vec<SpiffeId> = known.iter().filter_map(Known::identity).chain(named.cloned()).collect();
        names.principals = ids.iter().map(|id| id.principal().to_owned()).collect();
        let account = |id: &SpiffeId| Some(format!("{}/{}", id.namespace()?, id.service_account()?));
        names.accounts = ids.iter().filter_map(account).collect();
        names.namespaces = known.iter().map(|known| known.workload.namespace.as_str()).collect();
        names.namespaces.insert(&config.root_namespace);
        let named = resources.service_entries.iter().flat_map(|entry| &entry.subject_alt_names);
        names.namespaces.extend(named.filter_map(SpiffeId::namespace));
        names.namespaces.extend(resources.service_entries.iter().map(|entry| entry.meta.namespace.as_str()));
        names.namespaces.extend(resources.gateways.iter().map(|gateway| gateway.meta.namespace.as_str()));
        names.hosts =
            resources.service_entries.iter().flat_map(|entry| &entry.hosts).map(String::as_str).collect();
        names
    }

    fn of_namespace(&self, kind: &str, meta: &Meta) -> Option<Finding> {
        let near = nearest(&meta.namespace, self.namespaces.iter().copied())?;
        let message = format!(
            "{kind} {} is of namespace {}, in which nobody is known",
            meta.full_name(),
            meta.namespace
        );
        Some(near_miss(meta, &message, near))
    }

    /// The names within a policy's rules.
    fn within(&self, policy: &AuthorizationPolicy, found: &mut Found) {
        for (number, rule) in policy.rules.iter().enumerate() {
            let mut misses = Vec::new();
            rule.from.iter().for_each(|source| self.in_source(source, &mut misses));
            rule.to.iter().for_each(|operation| self.in_operation(operation, &mut misses));
            rule.when.iter().for_each(|condition| self.in_condition(condition, &mut misses));
            for Miss { what, seen, near } in misses {
                let name = policy.meta.full_name();
                let message = format!(
                    "rule[{number}] of AuthorizationPolicy {name} names {what} `{seen}`, which is not known"
                );
                found.add(near_miss(&policy.meta, &message, &near));
            }
        }
    }

    fn in_source(&self, source: &Source, misses: &mut Vec<Miss>) {
        let Source { principals, namespaces, service_accounts, .. } = source;
        self.principals([&principals.values, &principals.not_values], misses);
        self.namespaces([&namespaces.values, &namespaces.not_values], misses);
        self.accounts([&service_accounts.values, &service_accounts.not_values], misses);
    }

    fn in_condition(&self, condition: &Condition, misses: &mut Vec<Miss>) {
        match condition {
            Condition::SourcePrincipal(both) => self.principals([&both.values, &both.not_values], misses),
            Condition::SourceNamespace(both) => self.namespaces([&both.values, &both.not_values], misses),
            Condition::SourceServiceAccount(both) => self.accounts([&both.values, &both.not_values], misses),
            _ => {}
        }
    }

    fn in_operation(&self, operation: &Operation, misses: &mut Vec<Miss>) {
        for host in operation.hosts.values.iter().chain(&operation.hosts.not_values) {
            let Pattern::Exact(host) = host else { continue };
            let name = host.split(':').next().unwrap_or(host);
            if self.hosts.contains(name) {
                continue;
            }
            let near = nearest_of_parts(name, self.hosts.iter().copied(), '.');
            misses.extend(near.map(|near| Miss::new("host", host, near)));
        }
    }

    fn principals(&self, both: [&Vec<Pattern>; 2], misses: &mut Vec<Miss>) {
        for pattern in both.into_iter().flatten() {
            match pattern {
                Pattern::Exact(principal) if self.principals.contains(principal) => {}
                Pattern::Exact(principal) => {
                    let near = nearest_of_parts(principal, self.principals.iter().map(String::as_str), '/');
                    misses.extend(near.map(|near| Miss::new("principal", principal, near)));
                }
                // `cluster.local/ns/foo/*` names a namespace whole.
                Pattern::Prefix(start) => {
                    let segments: Vec<&str> = start.split('/').collect();
                    let [_, "ns", namespace, _, ..] = segments.as_slice() else { continue };
                    let near = nearest(namespace, self.namespaces.iter().copied());
                    misses.extend(near.map(|near| Miss::new("namespace", namespace, near)));
                }
                Pattern::Suffix(_) | Pattern::Present => {}
            }
        }
    }

    fn namespaces(&self, both: [&Vec<Pattern>; 2], misses: &mut Vec<Miss>) {
        for pattern in both.into_iter().flatten() {
            let Pattern::Exact(namespace) = pattern else { continue };
            let near = nearest(namespace, self.namespaces.iter().copied());
            misses.extend(near.map(|near| Miss::new("namespace", namespace, near)));
        }
    }

    fn accounts(&self, both: [&Vec<ServiceAccount>; 2], misses: &mut Vec<Miss>) {
        for account in both.into_iter().flatten() {
            let account = account.to_string();
            if self.accounts.contains(&account) {
                continue;
            }
            let near = nearest_of_parts(&account, self.accounts.iter().map(String::as_str), '/');
            misses.extend(near.map(|near| Miss::new("service account", &account, near)));
        }
    }
}

/// A name that is not known, and one that is.
struct Miss {
    what: &'static str,
    seen: String,
    near: String,
}

impl Miss {
    fn new(what: &'static str, seen: &str, near: &str) -> Self {
        Self { what, seen: seen.to_owned(), near: near.to_owned() }
    }
}

fn near_miss(meta: &Meta, message: &str, near: &str) -> Finding {
    Finding::new(Code::NearMiss, &meta.place, message).with_cure(format!("did you mean {near}?"))
}
