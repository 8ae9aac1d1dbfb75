//! PeerAuthentication to the mode of each port, and why: mesh, then namespace, then workload, then port
//! (Istio's `ComposePeerAuthentication`).

mod trace;

pub use trace::{ConsideredPolicy, Outcome};

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::finding::{Code, Finding};
use crate::matching::labels::Selectors;
use crate::resource::PeerAuthentication;
use crate::workload::Labels;

/// What an inbound port accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    /// Only mesh mTLS.
    Strict,
    /// Mesh mTLS, plaintext and the app's own TLS.
    Permissive,
    /// Whatever comes goes to the app unseen.
    Disable,
}

/// A mode with the policy that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortDecision {
    /// What the port accepts.
    pub mode: Mode,
    /// In words, to follow "by": `PeerAuthentication default/strict (namespace)`, or
    /// `the default: no PeerAuthentication applies`.
    pub because: String,
}

/// The resolved modes of one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modes {
    in_force: Resolved,
    /// What they would be with the policies in dry run, where any of these is for the workload.
    shadow: Option<Resolved>,
}

/// What the policies of the three scopes make of each other.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Resolved {
    default: PortDecision,
    ports: BTreeMap<u16, PortDecision>,
}

impl Modes {
    /// Resolves the policies for a workload of `namespace` with `labels`. The second value names the policies that
    /// lost against another of the same scope.
    ///
    /// Of several policies of one scope the oldest by `creationTimestamp` applies whole, as in Istio; those of one
    /// second in the order of their names. A file rarely has the timestamp: policies with one come before those
    /// without, and among those without the first in reading order applies.
    ///
    /// A policy in dry run is not in force. In [`Modes::shadow_for_port`] it stands in the place of the one of its scope,
    /// as if it had replaced that.
    #[must_use]
    pub fn resolve<'r>(
        policies: &'r [PeerAuthentication],
        root_namespace: &'r str,
        namespace: &str,
        labels: &Labels,
    ) -> (Self, Vec<Finding>) {
        let mut findings = ineffective(policies, root_namespace);
        let mut winners = |by_scope: &ByScope<'r>| {
            Scope::ALL.map(|scope| {
                let candidates = by_scope.candidates(scope, namespace, labels);
                let (winner, losers) = candidates.split_first()?;
                findings.extend(losers.iter().map(|loser| lost(scope, winner, loser)));
                Some(*winner)
            })
        };
        let in_force = winners(&ByScope::new(policies, root_namespace));
        let in_dry_run = winners(&ByScope::in_dry_run(policies, root_namespace));
        let shadow = in_dry_run.iter().any(Option::is_some).then(|| {
            let [mesh, namespace, workload] = in_dry_run;
            let [mesh_now, namespace_now, workload_now] = in_force;
            Resolved::of([mesh.or(mesh_now), namespace.or(namespace_now), workload.or(workload_now)])
        });
        (Self { in_force: Resolved::of(in_force), shadow }, findings)
    }

    /// The decision for a port of the workload (not of the service).
    #[must_use]
    pub fn for_port(&self, port: u16) -> &PortDecision {
        self.in_force.for_port(port)
    }

    /// The decision for every port that has none of its own.
    #[must_use]
    pub fn for_other_ports(&self) -> &PortDecision {
        &self.in_force.default
    }

    /// The ports with a decision of their own, in order.
    pub fn ports(&self) -> impl Iterator<Item = (u16, &PortDecision)> {
        self.in_force.ports.iter().map(|(port, decision)| (*port, decision))
    }

    /// What the decision for a port would be with the policies in dry run; `None` where none of these is for the workload.
    #[must_use]
    pub fn shadow_for_port(&self, port: u16) -> Option<&PortDecision> {
        self.shadow.as_ref().map(|shadow| shadow.for_port(port))
    }

    /// The same for every port that has no decision of its own.
    #[must_use]
    pub fn shadow_for_other_ports(&self) -> Option<&PortDecision> {
        self.shadow.as_ref().map(|shadow| &shadow.default)
    }

    /// The ports that would have a decision of their own, in order.
    pub fn shadow_ports(&self) -> impl Iterator<Item = u16> {
        self.shadow.iter().flat_map(|shadow| shadow.ports.keys().copied())
    }
}

impl Resolved {
    /// From the policies that apply, in the order of [`Scope::ALL`].
    fn of(winners: [Option<&PeerAuthentication>; 3]) -> Self {
        let mut default = PortDecision {
            mode: Mode::Permissive,
            because: "the default: no PeerAuthentication applies".to_owned(),
        };
        let mut ports = BTreeMap::new();
        for (scope, winner) in Scope::ALL.into_iter().zip(winners) {
            let Some(winner) = winner else { continue };
            default = inherit(&default, winner.mode, &format!("{} ({scope})", winner.meta.full_name()));
            if scope == Scope::Workload {
                ports = port_decisions(winner, &default);
            }
        }
        Self { default, ports }
    }

    fn for_port(&self, port: u16) -> &PortDecision {
        self.ports.get(&port).unwrap_or(&self.default)
    }
}

/// How far a policy reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Every workload of the mesh.
    Mesh,
    /// Every workload of its namespace.
    Namespace,
    /// The workloads of its namespace that its selector picks.
    Workload,
}

impl Scope {
    /// The widest first: what a narrower one says goes over it.
    const ALL: [Scope; 3] = [Scope::Mesh, Scope::Namespace, Scope::Workload];
}

/// The policies by the workloads that they reach, so that those of one of many workloads are found among many.
#[derive(Debug)]
pub(crate) struct ByScope<'r> {
    root_namespace: &'r str,
    namespaces: HashMap<&'r str, OfNamespace<'r>>,
}

/// The policies of one namespace, each list the oldest first.
#[derive(Debug, Default)]
struct OfNamespace<'r> {
    for_all: Vec<&'r PeerAuthentication>,
    for_some: Vec<&'r PeerAuthentication>,
    /// Of `for_some`.
    selectors: Selectors<'r>,
}

/// The policy that applies in each scope.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Winners<'r> {
    mesh: Option<&'r PeerAuthentication>,
    namespace: Option<&'r PeerAuthentication>,
    workload: Option<&'r PeerAuthentication>,
}

impl<'r> ByScope<'r> {
    /// Those in force.
    pub(crate) fn new(policies: &'r [PeerAuthentication], root_namespace: &'r str) -> Self {
        Self::of(policies.iter().filter(|policy| !policy.dry_run), root_namespace)
    }

    /// Those in dry run.
    fn in_dry_run(policies: &'r [PeerAuthentication], root_namespace: &'r str) -> Self {
        Self::of(policies.iter().filter(|policy| policy.dry_run), root_namespace)
    }

    fn of(policies: impl Iterator<Item = &'r PeerAuthentication>, root_namespace: &'r str) -> Self {
        let mut namespaces: HashMap<&str, OfNamespace<'_>> = HashMap::new();
        let mut by_age: Vec<&PeerAuthentication> = policies.collect();
        by_age.sort_by_key(|policy| policy.meta.age());
        for policy in by_age {
            let of_namespace = namespaces.entry(policy.meta.namespace.as_str()).or_default();
            let list = if policy.selector.is_none() {
                &mut of_namespace.for_all
            } else {
                &mut of_namespace.for_some
            };
            list.push(policy);
        }
        for of_namespace in namespaces.values_mut() {
            let wanted = of_namespace.for_some.iter().filter_map(|policy| policy.selector.as_ref());
            of_namespace.selectors = Selectors::new(wanted.map(|selector| &selector.match_labels));
        }
        Self { root_namespace, namespaces }
    }

    /// The policies that apply to a workload, without a word on those that lost.
    pub(crate) fn winners(&self, namespace: &str, labels: &Labels) -> Winners<'r> {
        let of_namespace = self.below_root(namespace);
        Winners {
            mesh: self.for_all(self.root_namespace).first().copied(),
            namespace: of_namespace.and_then(|of| of.for_all.first().copied()),
            workload: of_namespace
                .and_then(|of| of.for_some.get(of.selectors.first_picking(labels)?).copied()),
        }
    }

    /// The policies of one scope that are for a workload, the oldest first.
    fn candidates(&self, scope: Scope, namespace: &str, labels: &Labels) -> Vec<&'r PeerAuthentication> {
        let of_namespace = self.below_root(namespace);
        match scope {
            Scope::Mesh => self.for_all(self.root_namespace).to_vec(),
            Scope::Namespace => of_namespace.map(|of| of.for_all.clone()).unwrap_or_default(),
            Scope::Workload => {
                let Some(of) = of_namespace else { return Vec::new() };
                let picking = of.selectors.picking(labels).into_iter();
                picking.filter_map(|number| of.for_some.get(number).copied()).collect()
            }
        }
    }

    fn for_all(&self, namespace: &str) -> &[&'r PeerAuthentication] {
        self.namespaces.get(namespace).map(|of| of.for_all.as_slice()).unwrap_or_default()
    }

    /// The policies of a namespace that are not the mesh's. One of the root namespace with a selector applies nowhere.
    fn below_root(&self, namespace: &str) -> Option<&OfNamespace<'r>> {
        (namespace != self.root_namespace).then(|| self.namespaces.get(namespace)).flatten()
    }
}

impl Winners<'_> {
    /// What a port of the workload accepts: [`Modes::for_port`] without the reason.
    pub(crate) fn mode(&self, port: u16) -> Mode {
        let of_port = self.workload.and_then(|policy| policy.ports.get(&port).copied().flatten());
        let scopes = [self.workload, self.namespace, self.mesh].into_iter().flatten();
        of_port.or_else(|| scopes.into_iter().find_map(|policy| policy.mode)).unwrap_or(Mode::Permissive)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Mesh => "mesh",
            Scope::Namespace => "namespace",
            Scope::Workload => "workload",
        })
    }
}

/// A mode goes over the parent's; UNSET keeps it and says so.
fn inherit(parent: &PortDecision, mode: Option<Mode>, whose: &str) -> PortDecision {
    match mode {
        Some(mode) => PortDecision { mode, because: format!("PeerAuthentication {whose}") },
        None => PortDecision {
            mode: parent.mode,
            because: format!("{}, which {whose} inherits by UNSET", parent.because),
        },
    }
}

fn port_decisions(policy: &PeerAuthentication, workload: &PortDecision) -> BTreeMap<u16, PortDecision> {
    let name = policy.meta.full_name();
    let decide = |(port, mode): (&u16, &Option<Mode>)| {
        (*port, inherit(workload, *mode, &format!("{name} (portLevelMtls {port})")))
    };
    policy.ports.iter().map(decide).collect()
}

fn lost(scope: Scope, winner: &PeerAuthentication, loser: &PeerAuthentication) -> Finding {
    let message =
        format!("PeerAuthentication {} is ignored: {}", loser.meta.full_name(), why_lost(scope, winner));
    Finding::new(Code::PolicyIgnored, &loser.meta.place, message)
}

fn why_lost(scope: Scope, winner: &PeerAuthentication) -> String {
    let winner = &winner.meta;
    let how = if winner.created.is_some() { "is older" } else { "comes first" };
    format!("{} ({}) has the same scope ({scope}) and {how}", winner.full_name(), winner.place)
}

fn ineffective(policies: &[PeerAuthentication], root_namespace: &str) -> Vec<Finding> {
    policies
        .iter()
        .filter(|policy| policy.selector.is_some() && policy.meta.namespace == root_namespace)
        .map(|policy| {
            let message = format!(
                "PeerAuthentication {} applies to no workload: in the root namespace only one without a selector does",
                policy.meta.full_name(),
            );
            Finding::new(Code::AppliesNowhere, &policy.meta.place, message)
        })
        .collect()
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Strict => "STRICT",
            Mode::Permissive => "PERMISSIVE",
            Mode::Disable => "DISABLE",
        })
    }
}

#[cfg(test)]
mod tests;
