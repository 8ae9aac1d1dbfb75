//! AuthorizationPolicy: who may do what, and why not.
//!
//! [`Policies`] are those that apply to one workload, compiled once. A decision is [`Policies::authorize`], told rule by
//! rule by [`Policies::explain`]; both go through the same evaluation. The order is Istio's: what a DENY rule matches is
//! denied; without ALLOW policies the rest is allowed; else what an ALLOW rule matches is allowed, and nothing more.
//!
//! What a TCP connection says nothing of (host, method, path, headers) is treated as Envoy does: an ALLOW rule that asks
//! for it never matches, and a DENY or AUDIT rule is read without it, so that it matches more. On ports for which
//! [`Policies::needs_http`] the proxy reads HTTP and asks for each request instead.

mod aliases;
mod describe;
mod explain;
mod fact;
mod facts;
mod index;
mod matcher;
mod ports;
mod rule;
mod verdict;

pub use describe::{ConditionDescription, Fields, PolicyDescription, RuleDescription};
pub use explain::{Explanation, PolicyExplanation, RuleExplanation};
pub use facts::{Facts, Headers, HttpFacts};
pub use verdict::{Considered, Denial, Grant, Miss, Permit, RuleName, Shadow, ShadowResult, Verdict};

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::mode::{Mode, Modes, PortDecision};
use crate::finding::{Code, Finding};
use crate::resource::{self, Action, AuthorizationPolicy};
use crate::spiffe::TrustDomain;
use crate::workload::Workload;
use aliases::TrustDomains;
use explain::Asked;
use index::Index;
use ports::PortSet;
use rule::Rule;

/// The policies of one workload. Without any, everything is permitted. A clone costs nothing.
#[derive(Debug, Clone, Default)]
pub struct Policies(Arc<Sets>);

/// The policies by what they do.
#[derive(Debug, Default)]
struct Sets {
    deny: Set,
    allow: Set,
    audit: Set,
    shadow_deny: Set,
    shadow_allow: Set,
    /// Of the policies in force.
    http_ports: PortSet,
}

/// Policies of one action; one of their rules is enough.
#[derive(Debug, Default)]
struct Set {
    policies: Vec<Policy>,
    /// Of all policies, in their order.
    rules: Vec<Rule>,
    /// How many policies have no rules.
    without_rules: usize,
    index: Index,
}

/// A policy as explanations tell it.
#[derive(Debug)]
struct Policy {
    name: String,
    place: String,
    scope: Scope,
    action: Action,
    dry_run: bool,
    /// As they are written; as many of the set's rules are its own.
    rules: Arc<[resource::Rule]>,
}

/// How far a policy reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Every workload of the mesh.
    Mesh,
    /// Every workload of its namespace.
    Namespace,
    /// The workloads that its selector picks: of its namespace, or of any from the root namespace.
    Workload,
}

impl Scope {
    /// The scope in which a policy applies to a workload, if it does. Unlike with PeerAuthentication, a selector in the
    /// root namespace picks workloads of every namespace.
    fn of(policy: &AuthorizationPolicy, root_namespace: &str, workload: &Workload) -> Option<Self> {
        let in_root = policy.meta.namespace == root_namespace;
        let in_own = policy.meta.namespace == workload.namespace;
        match &policy.selector {
            None if in_root => Some(Self::Mesh),
            None if in_own => Some(Self::Namespace),
            Some(selector) if (in_root || in_own) && selector.matches(&workload.labels) => {
                Some(Self::Workload)
            }
            _ => None,
        }
    }
}

impl Policies {
    /// Picks and compiles the policies that apply to `workload`. In principals its trust domain, those of
    /// `trust_domain_aliases` and `cluster.local` stand for each other, as in Istio.
    #[must_use]
    pub fn build(
        policies: &[AuthorizationPolicy],
        root_namespace: &str,
        workload: &Workload,
        trust_domain_aliases: &[TrustDomain],
    ) -> Self {
        let trust_domains = TrustDomains::new(&workload.trust_domain, trust_domain_aliases);
        let mut sets = Sets::default();
        for policy in policies {
            if let Some(scope) = Scope::of(policy, root_namespace, workload) {
                sets.of(policy).add(policy, scope, &trust_domains);
            }
        }
        sets.all_mut().into_iter().for_each(|set| set.index = Index::build(&set.rules));
        let Sets { deny, allow, audit, http_ports, .. } = &mut sets;
        [deny, allow, audit]
            .into_iter()
            .flat_map(|set| &set.rules)
            .for_each(|rule| http_ports.add(&rule.http_ports()));
        Self(Arc::new(sets))
    }

    /// Decides. The cost does not grow with the policies of other workloads, and hardly with rules that are about other
    /// identities, addresses, ports, hosts, methods, paths or headers: such are not looked at.
    #[must_use]
    pub fn authorize(&self, facts: &Facts<'_>) -> Verdict {
        self.decide(facts, &mut Asked::ToDecide)
    }

    /// Decides as [`Self::authorize`] does, and tells of every rule whether it matched or which field failed.
    #[must_use]
    pub fn explain(&self, facts: &Facts<'_>) -> Explanation {
        let mut policies = Vec::new();
        let verdict = self.decide(facts, &mut Asked::ToExplain(&mut policies));
        Explanation { verdict, policies }
    }

    /// Whether a policy in force has HTTP fields for a port of the workload, so that HTTP must be read there. A dry run
    /// changes nothing, this neither.
    #[must_use]
    pub fn needs_http(&self, port: u16) -> bool {
        self.0.http_ports.contains(port)
    }

    /// Rules that ask for what only HTTP has on `ports`, on which connections are not read as HTTP, and what becomes of
    /// them there: an ALLOW rule never matches, a DENY rule loses these fields and denies more (as in Envoy).
    pub(crate) fn http_fields_on(&self, ports: &[u16]) -> Vec<Finding> {
        let Sets { deny, allow, audit, shadow_deny, shadow_allow, .. } = &*self.0;
        let effects = [
            (deny, Code::DenyDeniesMore, "they are left out there, so it denies more"),
            (shadow_deny, Code::DenyDeniesMore, "they are left out there, so it would deny more"),
            (allow, Code::AllowNeverMatches, "it never matches there"),
            (shadow_allow, Code::AllowNeverMatches, "it never matches there"),
            (audit, Code::AuditMarksMore, "they are left out there, so it marks more"),
        ];
        let mut findings = Vec::new();
        for (set, code, effect) in effects {
            for (policy, rules) in set.by_policy() {
                findings.extend(rules.iter().filter_map(|rule| {
                    let asks = rule.http_ports();
                    let on: Vec<_> =
                        ports.iter().filter(|port| asks.contains(**port)).map(ToString::to_string).collect();
                    let fields: Vec<_> = rule.http_clauses().map(|clause| clause.field).collect();
                    let message = format!(
                        "{} asks for {}, which connections to port {} do not have, since it is declared as no HTTP: \
                         {effect}",
                        rule.name(),
                        fields.join(", "),
                        on.join(", "),
                    );
                    (!on.is_empty()).then(|| Finding::new(code, &policy.place, message))
                }));
            }
        }
        findings
    }

    /// DENY rules that ask who the peer is on a port that lets in peers who do not say: such a peer matches none.
    pub(crate) fn escaped_by_plaintext(&self, modes: &Modes) -> Vec<Finding> {
        let is_open = |decision: &PortDecision| decision.mode != Mode::Strict;
        // Where another rule denies whoever has no identity, nobody escapes.
        let mut nameless = PortSet::default();
        for rule in self.0.deny.rules.iter().filter(|rule| rule.matches_all_the_nameless()) {
            nameless.add(&rule.ports());
        }
        let lets_in = |port: &u16| is_open(modes.for_port(*port)) && !nameless.contains(*port);
        let others_let_in = is_open(modes.for_other_ports()) && !nameless.has_others();
        let own = modes.ports().map(|(port, _)| port);
        let known: HashSet<u16> = own.chain(nameless.excluded()).filter(lets_in).collect();
        let escapes = |rule: &Rule| {
            let ports = rule.ports();
            let some = ports.named().any(|port| lets_in(&port)) || ports.has_others_among(&known);
            rule.asks_who() && (some || ports.has_others() && others_let_in)
        };
        let mut findings = Vec::new();
        for (policy, rules) in self.0.deny.by_policy() {
            findings.extend(rules.iter().filter(|rule| escapes(rule)).map(|rule| {
                let message = format!(
                    "{} denies by identity, also on a port that is not STRICT: whoever comes in plaintext has no \
                     identity and is not denied",
                    rule.name()
                );
                Finding::new(Code::PlaintextEscapesDeny, &policy.place, message)
            }));
        }
        findings
    }

    /// Why nobody can be let in on any of `ports`, whoever asks for whatever; `None` where somebody may be.
    pub(crate) fn let_nobody_in(&self, ports: &[OpenPort]) -> Option<String> {
        let Sets { deny, allow, .. } = &*self.0;
        if let Some(rule) = deny.rules.iter().find(|rule| rule.matches_everything()) {
            return Some(format!("{} denies everything", rule.name()));
        }
        let can_match = |rule: &Rule| {
            ports.iter().any(|port| port.is_open_to(rule) && rule.ports().contains(port.number))
        };
        if allow.policies.is_empty() || ports.is_empty() || allow.rules.iter().any(can_match) {
            return None;
        }
        let dead = |(policy, rules): (&Policy, &[Rule])| {
            let why =
                if rules.is_empty() { "has no rules" } else { "has none for its ports as they are declared" };
            format!("{} {why}", policy.name)
        };
        Some(format!(
            "no ALLOW rule can match: {}",
            allow.by_policy().map(dead).collect::<Vec<_>>().join(", ")
        ))
    }

    /// What becomes of whoever no rule is about: allowed where no ALLOW policy applies.
    #[must_use]
    pub fn allow_others(&self) -> bool {
        self.0.allow.policies.is_empty()
    }

    /// Whether no policy applies.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.all().into_iter().all(|set| set.policies.is_empty())
    }

    fn decide(&self, facts: &Facts<'_>, asked: &mut Asked<'_>) -> Verdict {
        let Sets { deny, allow, audit, shadow_deny, shadow_allow, .. } = &*self.0;
        let audited = audit.first_match(facts, asked);
        let denied = deny.first_match(facts, asked);
        let allowed =
            if denied.is_none() || asked.to_explain() { allow.first_match(facts, asked) } else { None };
        let outcome = match (denied, allowed) {
            (Some(rule), _) => Err(Denial::Rule(rule.name())),
            (None, _) if allow.policies.is_empty() => Ok(Permit::new(Grant::NoAllowPolicy)),
            (None, Some(rule)) => Ok(Permit::new(Grant::Rule(rule.name()))),
            (None, None) => Err(allow.no_match(facts)),
        };
        let shadow = Shadow {
            deny: shadow_deny.shadow(facts, asked, Action::Deny),
            allow: shadow_allow.shadow(facts, asked, Action::Allow),
        };
        Verdict { outcome, audited: audited.map(Rule::name), shadow }
    }
}

impl Sets {
    fn of(&mut self, policy: &AuthorizationPolicy) -> &mut Set {
        match (policy.action, policy.dry_run) {
            (Action::Deny, false) => &mut self.deny,
            (Action::Deny, true) => &mut self.shadow_deny,
            (Action::Allow, false) => &mut self.allow,
            (Action::Allow, true) => &mut self.shadow_allow,
            (Action::Audit, _) => &mut self.audit,
        }
    }

    fn all_mut(&mut self) -> [&mut Set; 5] {
        let Self { deny, allow, audit, shadow_deny, shadow_allow, .. } = self;
        [deny, allow, audit, shadow_deny, shadow_allow]
    }

    fn all(&self) -> [&Set; 5] {
        let Self { deny, allow, audit, shadow_deny, shadow_allow, .. } = self;
        [deny, allow, audit, shadow_deny, shadow_allow]
    }
}

impl Set {
    fn add(&mut self, policy: &AuthorizationPolicy, scope: Scope, trust_domains: &TrustDomains) {
        self.policies.push(Policy {
            name: policy.meta.full_name(),
            place: policy.meta.place.clone(),
            scope,
            action: policy.action,
            dry_run: policy.dry_run,
            rules: Arc::clone(&policy.rules),
        });
        for (number, rule) in policy.rules.iter().enumerate() {
            self.rules.push(Rule::compile(policy, number, rule, trust_domains));
        }
        self.without_rules += usize::from(policy.rules.is_empty());
    }

    /// The first rule that matches.
    fn first_match(&self, facts: &Facts<'_>, asked: &mut Asked<'_>) -> Option<&Rule> {
        match asked {
            Asked::ToDecide => self.index.first_match(&self.rules, facts),
            Asked::ToExplain(told) => {
                let mut first = None;
                for (policy, rules) in self.by_policy() {
                    told.push(PolicyExplanation::of(policy, rules, facts));
                    first = first.or_else(|| rules.iter().find(|rule| rule.evaluate(facts).is_ok()));
                }
                first
            }
        }
    }

    fn by_policy(&self) -> impl Iterator<Item = (&Policy, &[Rule])> {
        let mut rest = self.rules.as_slice();
        self.policies.iter().map(move |policy| {
            let (own, others) = rest.split_at_checked(policy.rules.len()).unwrap_or((rest, &[]));
            rest = others;
            (policy, own)
        })
    }

    /// What a dry run of the set would decide, had it no other policies beside it.
    fn shadow(&self, facts: &Facts<'_>, asked: &mut Asked<'_>, action: Action) -> Option<ShadowResult> {
        if self.policies.is_empty() {
            return None;
        }
        let rule = self.first_match(facts, asked).map(Rule::name);
        Some(ShadowResult { allowed: rule.is_some() == (action == Action::Allow), rule })
    }

    /// Of a set that matched nothing: on what its first rules failed.
    fn no_match(&self, facts: &Facts<'_>) -> Denial {
        /// Of more, the message would not be read.
        const CONSIDERED: usize = 8;
        let mut considered = Vec::new();
        for (policy, rules) in self.by_policy() {
            let space = CONSIDERED - considered.len();
            if space == 0 {
                break;
            }
            considered.extend(Considered::of(policy, rules, facts).take(space));
        }
        let all = self.rules.len() + self.without_rules;
        Denial::NoAllowRule { more: all - considered.len(), considered }
    }
}

/// A port by which somebody might come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenPort {
    /// Its number.
    pub(crate) number: u16,
    /// Whether HTTP is read there.
    pub(crate) reads_http: bool,
    /// What it accepts.
    pub(crate) mode: Mode,
}

impl OpenPort {
    /// Whether what an ALLOW rule asks for can be known there.
    fn is_open_to(self, rule: &Rule) -> bool {
        let can_know_what = self.reads_http || rule.http_clauses().next().is_none();
        let can_know_who = self.mode != Mode::Disable || !rule.asks_who();
        can_know_what && can_know_who
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mesh => "mesh",
            Self::Namespace => "namespace",
            Self::Workload => "workload",
        })
    }
}

#[cfg(test)]
mod tests;
