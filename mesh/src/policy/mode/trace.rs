//! How the modes of a workload were reached: every PeerAuthentication that was considered, and what became of it.
//!
//! Told when somebody asks; a decision does not need it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ByScope, Mode, Modes, Scope, why_lost};
use crate::resource::{PeerAuthentication, PortMode};
use crate::workload::Labels;

/// A PeerAuthentication that is for a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsideredPolicy {
    /// `namespace/name`.
    pub name: String,
    /// `file:line`.
    pub place: String,
    /// Why it is for the workload.
    pub scope: Scope,
    /// Its `mtls.mode`; none is UNSET.
    pub mode: Option<Mode>,
    /// Its `portLevelMtls`; none is UNSET.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<u16, PortMode>,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, in words.
    pub because: String,
    /// Its `pillion.io/reason`: why it lets plaintext in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The mode of some ports is its own.
    Decides,
    /// It applies, and a narrower policy says otherwise for every port.
    Overridden,
    /// It applies, and sets no mode.
    Inherits,
    /// Another of the same scope applies instead.
    Ignored,
    /// It is in dry run: what it would do is only told.
    DryRun,
}

impl Modes {
    /// The policies that [`Modes::resolve`] considers, the widest scope first and of one scope the one that applies
    /// first; those in dry run come last.
    #[must_use]
    pub fn trace(
        policies: &[PeerAuthentication],
        root_namespace: &str,
        namespace: &str,
        labels: &Labels,
    ) -> Vec<ConsideredPolicy> {
        let by_scope = ByScope::new(policies, root_namespace);
        let of_scope = |scope| by_scope.candidates(scope, namespace, labels);
        let candidates: Vec<_> = Scope::ALL.map(|scope| (scope, of_scope(scope))).into();
        let mut considered = Vec::new();
        for (number, (scope, of_scope)) in candidates.iter().enumerate() {
            let Some((winner, losers)) = of_scope.split_first() else { continue };
            let narrower = candidates.iter().skip(number + 1);
            let over = narrower.filter_map(|(_, others)| others.first()).find(|other| other.mode.is_some());
            considered.push(applied(winner, *scope, over.copied()));
            let ignored = |loser: &&PeerAuthentication| {
                described(loser, *scope, Outcome::Ignored, why_lost(*scope, winner))
            };
            considered.extend(losers.iter().map(ignored));
        }
        let trials = ByScope::in_dry_run(policies, root_namespace);
        for scope in Scope::ALL {
            let of_scope = trials.candidates(scope, namespace, labels);
            let Some((winner, losers)) = of_scope.split_first() else { continue };
            let because = "it changes nothing, and what it would refuse is told".to_owned();
            considered.push(described(winner, scope, Outcome::DryRun, because));
            let ignored = |loser: &&PeerAuthentication| {
                described(loser, scope, Outcome::Ignored, why_lost(scope, winner))
            };
            considered.extend(losers.iter().map(ignored));
        }
        considered
    }
}

/// The policy that applies in its scope; `over` is one of a narrower scope that sets a mode.
fn applied(policy: &PeerAuthentication, scope: Scope, over: Option<&PeerAuthentication>) -> ConsideredPolicy {
    let ports: Vec<String> =
        policy.ports.iter().filter(|(_, mode)| mode.is_some()).map(|(port, _)| port.to_string()).collect();
    let (outcome, because) = match (policy.mode, over) {
        (Some(_), None) => (Outcome::Decides, "no narrower policy sets a mode".to_owned()),
        (None, _) if !ports.is_empty() => {
            (Outcome::Decides, format!("it sets the mode of port {} alone", ports.join(", ")))
        }
        (Some(_), Some(over)) => {
            (Outcome::Overridden, format!("{} is for less and sets a mode", over.meta.full_name()))
        }
        (None, _) => (Outcome::Inherits, "it is UNSET and keeps what the wider scope says".to_owned()),
    };
    described(policy, scope, outcome, because)
}

fn described(
    policy: &PeerAuthentication,
    scope: Scope,
    outcome: Outcome,
    because: String,
) -> ConsideredPolicy {
    ConsideredPolicy {
        name: policy.meta.full_name(),
        place: policy.meta.place.clone(),
        scope,
        mode: policy.mode,
        ports: policy.ports.clone(),
        outcome,
        because,
        reason: policy.reason.clone(),
    }
}

/// One line: what it says, what became of it, why.
impl fmt::Display for ConsideredPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, place, scope, mode, ports, outcome, because, reason } = self;
        let word = |mode: &Option<Mode>| mode.map_or("UNSET".to_owned(), |mode| mode.to_string());
        write!(f, "{name} ({scope}; {place}): {}", word(mode))?;
        for (port, mode) in ports {
            write!(f, ", {port} {}", word(mode))?;
        }
        write!(f, "; {outcome}: {because}")?;
        match reason {
            Some(reason) => write!(f, "; reason: {reason}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Decides => "decides",
            Self::Overridden => "overridden",
            Self::Inherits => "inherits",
            Self::Ignored => "ignored",
            Self::DryRun => "dry run",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resource::Resources;

    const ROOT: &str = "istio-system";

    fn trace(policies: &[(&str, &str, &str)]) -> (Modes, Vec<ConsideredPolicy>) {
        let mut resources = Resources::default();
        for (namespace, name, spec) in policies {
            let text = format!(
                "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                 metadata: {{name: {name}, namespace: {namespace}, annotations: {{pillion.io/reason: \" why\\n \"}}}}\nspec: {spec}\n"
            );
            resources.read(&format!("{name}.yaml"), &text).unwrap();
        }
        let labels = [("app".to_owned(), "web".to_owned())].into();
        let policies = &resources.peer_authentications;
        (Modes::resolve(policies, ROOT, "foo", &labels).0, Modes::trace(policies, ROOT, "foo", &labels))
    }

    #[test]
    fn every_policy_at_every_scope_is_told_with_what_became_of_it() {
        let (_, trace) = trace(&[
            (ROOT, "mesh", "{mtls: {mode: STRICT}}"),
            ("foo", "all", "{}"),
            ("foo", "late", "{mtls: {mode: DISABLE}}"),
            ("foo", "web", "{selector: {matchLabels: {app: web}}, portLevelMtls: {9090: {mode: DISABLE}}}"),
            ("foo", "other", "{selector: {matchLabels: {app: other}}, mtls: {mode: DISABLE}}"),
            ("bar", "all", "{mtls: {mode: DISABLE}}"),
        ]);
        let told: Vec<String> = trace.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "istio-system/mesh (mesh; mesh.yaml:1): STRICT; decides: no narrower policy sets a mode; reason: why",
                "foo/all (namespace; all.yaml:1): UNSET; inherits: it is UNSET and keeps what the wider scope says; reason: why",
                "foo/late (namespace; late.yaml:1): DISABLE; ignored: foo/all (all.yaml:1) has the same scope (namespace) \
                 and comes first; reason: why",
                "foo/web (workload; web.yaml:1): UNSET, 9090 DISABLE; decides: it sets the mode of port 9090 alone; reason: why",
            ]
        );
    }

    #[test]
    fn a_narrower_policy_that_sets_a_mode_goes_over_the_wider() {
        let (_, trace) =
            trace(&[(ROOT, "mesh", "{mtls: {mode: STRICT}}"), ("foo", "all", "{mtls: {mode: PERMISSIVE}}")]);
        assert_eq!(
            trace.iter().map(|policy| policy.outcome).collect::<Vec<_>>(),
            [Outcome::Overridden, Outcome::Decides]
        );
        assert_eq!(trace[0].because, "foo/all is for less and sets a mode");
    }

    proptest! {
        /// Who decides by the trace is who decides by the resolution.
        #[test]
        fn trace_and_resolution_name_the_same_policies(
            policies in prop::collection::vec((
                prop::sample::select(vec![ROOT, "foo"]),
                prop::sample::select(vec!["{}", "{mtls: {mode: STRICT}}", "{mtls: {mode: DISABLE}}",
                    "{selector: {matchLabels: {app: web}}}",
                    "{selector: {matchLabels: {app: web}}, mtls: {mode: PERMISSIVE}}",
                    "{selector: {matchLabels: {app: web}}, portLevelMtls: {80: {mode: STRICT}, 81: {}}}"]),
            ), 0..6),
        ) {
            let names: Vec<String> = (0..policies.len()).map(|number| format!("p{number}")).collect();
            let named: Vec<_> =
                policies.iter().zip(&names).map(|((namespace, spec), name)| (*namespace, name.as_str(), *spec)).collect();
            let (modes, trace) = trace(&named);
            let deciding = |because: &str| {
                trace.iter().find(|policy| because.starts_with(&format!("PeerAuthentication {} (", policy.name)))
            };
            for port in [80, 81, 82] {
                let because = &modes.for_port(port).because;
                match deciding(because) {
                    Some(policy) => prop_assert_eq!(policy.outcome, Outcome::Decides, "{}", because),
                    None => prop_assert!(because.starts_with("the default"), "{}", because),
                }
            }
        }
    }
}
