use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::resource::{Meta, Resources};
use crate::workload::Selector;

const ROOT: &str = "istio-system";

fn read(text: &str) -> Vec<PeerAuthentication> {
    let mut resources = Resources::default();
    resources.read("mesh.yaml", text).unwrap();
    resources.peer_authentications
}

/// A policy in one line: namespace, name, rest of the spec.
fn policy(namespace: &str, name: &str, spec: &str) -> String {
    let head = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n";
    format!("---\n{head}metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n")
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Resolved for the workload `app=backend` of namespace `foo`.
fn resolve(policies: &[String]) -> (Modes, Vec<Finding>) {
    Modes::resolve(&read(&policies.concat()), ROOT, "foo", &labels(&[("app", "backend")]))
}

/// The same in dry run.
fn trial(namespace: &str, name: &str, spec: &str) -> String {
    let annotated = format!("{namespace}, annotations: {{istio.io/dry-run: 'true'}}");
    policy(&annotated, name, spec)
}

#[rstest]
#[case::of_the_namespace(&[trial("foo", "default", "{mtls: {mode: STRICT}}")], Mode::Permissive, Some(Mode::Strict))]
#[case::in_the_place_of_the_one_of_its_scope(
    &[policy("foo", "now", "{mtls: {mode: PERMISSIVE}}"), trial("foo", "default", "{mtls: {mode: STRICT}}")],
    Mode::Permissive, Some(Mode::Strict)
)]
#[case::a_narrower_one_in_force_goes_over_it(
    &[policy("foo", "now", "{mtls: {mode: PERMISSIVE}}"), trial(ROOT, "default", "{mtls: {mode: STRICT}}")],
    Mode::Permissive, Some(Mode::Permissive)
)]
#[case::of_a_port(
    &[trial("foo", "w", "{selector: {matchLabels: {app: backend}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}}")],
    Mode::Permissive, Some(Mode::Disable)
)]
#[case::for_somebody_else(
    &[trial("foo", "w", "{selector: {matchLabels: {app: other}}, mtls: {mode: STRICT}}")],
    Mode::Permissive, None
)]
#[case::there_is_none(&[policy("foo", "default", "{mtls: {mode: STRICT}}")], Mode::Strict, None)]
fn a_dry_run_changes_nothing_and_casts_its_shadow(
    #[case] policies: &[String],
    #[case] in_force: Mode,
    #[case] shadow: Option<Mode>,
) {
    let (modes, findings) = resolve(policies);
    assert_eq!(findings, []);
    assert_eq!(modes.for_port(8080).mode, in_force);
    assert_eq!(modes.shadow_for_port(8080).map(|decision| decision.mode), shadow);
    let policies = read(&policies.concat());
    let of_endpoint = ByScope::new(&policies, ROOT).winners("foo", &labels(&[("app", "backend")]));
    assert_eq!(of_endpoint.mode(8080), in_force, "clients go by what is in force");
}

#[test]
fn the_trace_tells_a_dry_run_last() {
    let policies = [trial("foo", "soon", "{mtls: {mode: STRICT}}"), policy("foo", "now", "{}")].concat();
    let trace = Modes::trace(&read(&policies), ROOT, "foo", &labels(&[]));
    let told: Vec<_> = trace.iter().map(|policy| (policy.name.as_str(), policy.outcome)).collect();
    assert_eq!(told, [("foo/now", Outcome::Inherits), ("foo/soon", Outcome::DryRun)]);
}

fn mode_of_port(policies: &[String], port: u16) -> (Mode, String) {
    let (modes, findings) = resolve(policies);
    assert_eq!(findings, []);
    let PortDecision { mode, because } = modes.for_port(port).clone();
    (mode, because)
}

#[rstest]
#[case::no_policy(&[], Mode::Permissive, "the default: no PeerAuthentication applies")]
#[case::mesh(
    &[policy(ROOT, "default", "{mtls: {mode: STRICT}}")],
    Mode::Strict, "PeerAuthentication istio-system/default (mesh)"
)]
#[case::namespace_over_mesh(
    &[policy(ROOT, "default", "{mtls: {mode: STRICT}}"), policy("foo", "default", "{mtls: {mode: DISABLE}}")],
    Mode::Disable, "PeerAuthentication foo/default (namespace)"
)]
#[case::workload_over_namespace(
    &[
        policy("foo", "backend", "{selector: {matchLabels: {app: backend}}, mtls: {mode: PERMISSIVE}}"),
        policy("foo", "default", "{mtls: {mode: STRICT}}"),
    ],
    Mode::Permissive, "PeerAuthentication foo/backend (workload)"
)]
#[case::port_over_workload(
    &[policy("foo", "backend", "{selector: {matchLabels: {app: backend}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}}")],
    Mode::Disable, "PeerAuthentication foo/backend (portLevelMtls 8080)"
)]
#[case::another_port(
    &[policy("foo", "backend", "{selector: {matchLabels: {app: backend}}, mtls: {mode: STRICT}, portLevelMtls: {9090: {mode: DISABLE}}}")],
    Mode::Strict, "PeerAuthentication foo/backend (workload)"
)]
#[case::empty_selector_is_namespace_scope(
    &[policy("foo", "default", "{selector: {}, mtls: {mode: STRICT}}")],
    Mode::Strict, "PeerAuthentication foo/default (namespace)"
)]
#[case::another_namespace(
    &[policy("bar", "default", "{mtls: {mode: STRICT}}")],
    Mode::Permissive, "the default: no PeerAuthentication applies"
)]
#[case::another_workload(
    &[policy("foo", "web", "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}")],
    Mode::Permissive, "the default: no PeerAuthentication applies"
)]
#[case::unset_namespace_inherits_from_the_mesh(
    &[policy(ROOT, "default", "{mtls: {mode: STRICT}}"), policy("foo", "default", "{mtls: {mode: UNSET}}")],
    Mode::Strict, "PeerAuthentication istio-system/default (mesh), which foo/default (namespace) inherits by UNSET"
)]
#[case::unset_workload_inherits_from_the_namespace(
    &[
        policy("foo", "default", "{mtls: {mode: STRICT}}"),
        policy("foo", "backend", "{selector: {matchLabels: {app: backend}}}"),
    ],
    Mode::Strict, "PeerAuthentication foo/default (namespace), which foo/backend (workload) inherits by UNSET"
)]
#[case::unset_port_inherits_from_the_workload(
    &[
        policy(ROOT, "default", "{mtls: {mode: DISABLE}}"),
        policy("foo", "backend", "{selector: {matchLabels: {app: backend}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {}}}"),
    ],
    Mode::Strict, "PeerAuthentication foo/backend (workload), which foo/backend (portLevelMtls 8080) inherits by UNSET"
)]
#[case::unset_all_the_way(
    &[policy("foo", "default", "{}")],
    Mode::Permissive, "the default: no PeerAuthentication applies, which foo/default (namespace) inherits by UNSET"
)]
fn port_8080_is(#[case] policies: &[String], #[case] mode: Mode, #[case] because: &str) {
    assert_eq!(mode_of_port(policies, 8080), (mode, because.to_owned()));
}

#[test]
fn the_loser_of_a_scope_is_named_with_the_winner() {
    let (modes, findings) = resolve(&[
        policy("foo", "strict", "{mtls: {mode: STRICT}}"),
        policy("foo", "open", "{mtls: {mode: DISABLE}}"),
    ]);
    assert_eq!(modes.for_port(8080).mode, Mode::Strict);
    let message = "PeerAuthentication foo/open is ignored: foo/strict (mesh.yaml:2) has the same scope (namespace) and \
                   comes first";
    assert_eq!(findings, [Finding::new(Code::PolicyIgnored, "mesh.yaml:7", message)]);
}

#[test]
fn the_ports_of_a_loser_are_not_merged() {
    let selector = "selector: {matchLabels: {app: backend}}";
    let (modes, findings) = resolve(&[
        policy("foo", "first", &format!("{{{selector}, mtls: {{mode: STRICT}}}}")),
        policy("foo", "second", &format!("{{{selector}, portLevelMtls: {{8080: {{mode: DISABLE}}}}}}")),
    ]);
    assert_eq!(modes.for_port(8080).mode, Mode::Strict);
    assert_eq!(modes.ports().count(), 0);
    assert_eq!(findings.len(), 1);
}

/// Istio's own test has the case: `ignore non-emptypb selector in root namespace`.
#[rstest]
#[case::of_another_namespace("foo")]
#[case::of_the_root_namespace(ROOT)]
fn a_policy_with_a_selector_in_the_root_namespace_applies_to_no_workload(#[case] namespace: &str) {
    let policies =
        read(&policy(ROOT, "backend", "{selector: {matchLabels: {app: backend}}, mtls: {mode: STRICT}}"));
    let (modes, findings) = Modes::resolve(&policies, ROOT, namespace, &labels(&[("app", "backend")]));
    assert_eq!(modes.for_port(8080).mode, Mode::Permissive);
    assert_eq!(findings.len(), 1);
    assert!(findings[0].message.contains("istio-system/backend applies to no workload"), "{findings:?}");
}

#[rstest]
#[case::the_older(&[("young", Some(20)), ("old", Some(10))], "old")]
#[case::one_with_a_time_before_one_without(&[("timeless", None), ("old", Some(10))], "old")]
#[case::the_first_of_those_without(&[("z", None), ("a", None)], "z")]
#[case::the_first_by_name_of_one_second(&[("z", Some(10)), ("a", Some(10))], "a")]
fn of_one_scope_wins(#[case] policies: &[(&str, Option<i64>)], #[case] winner: &str) {
    let at = |seconds: &i64| format!("creationTimestamp: \"1970-01-01T00:00:{seconds}Z\", ");
    let text = policies.iter().map(|(name, created)| {
        policy("foo", name, "{mtls: {mode: STRICT}}")
            .replace("{name", &format!("{{{}name", created.as_ref().map(at).unwrap_or_default()))
    });
    let (modes, findings) = resolve(&text.collect::<Vec<_>>());
    assert_eq!(modes.for_port(1).because, format!("PeerAuthentication foo/{winner} (namespace)"));
    assert_eq!(findings.len(), policies.len() - 1);
}

/// Requirement 39: a namespace or label is never a pattern.
#[rstest]
#[case::dot("f.o", "backend")]
#[case::case_of_letters("foo", "Backend")]
#[case::prefix("fo", "backend")]
fn req_39_policies_are_matched_literally(#[case] namespace: &str, #[case] app: &str) {
    let policy = PeerAuthentication {
        meta: Meta {
            name: "x".to_owned(),
            namespace: namespace.to_owned(),
            created: None,
            place: "mesh.yaml:1".to_owned(),
            position: 0,
        },
        selector: Some(Selector { match_labels: labels(&[("app", app)]) }),
        mode: Some(Mode::Strict),
        ports: BTreeMap::new(),
        reason: None,
        dry_run: false,
    };
    let (modes, _) = Modes::resolve(&[policy], ROOT, "foo", &labels(&[("app", "backend")]));
    assert_eq!(modes.for_other_ports().mode, Mode::Permissive);
}

/// The rules of resolution once more, written from their text, one question at a time and without care for cost.
mod naive {
    use super::*;

    pub(super) fn mode(policies: &[PeerAuthentication], namespace: &str, labels: &Labels, port: u16) -> Mode {
        let workload = (namespace != ROOT).then(|| {
            oldest(policies, |p| {
                p.meta.namespace == namespace && selects(p) && p.selector.as_ref().unwrap().matches(labels)
            })
        });
        let of_namespace =
            (namespace != ROOT).then(|| oldest(policies, |p| p.meta.namespace == namespace && !selects(p)));
        let of_mesh = oldest(policies, |p| p.meta.namespace == ROOT && !selects(p));

        if let Some(workload) = workload.flatten() {
            if let Some(Some(mode)) = workload.ports.get(&port) {
                return *mode;
            }
            if let Some(mode) = workload.mode {
                return mode;
            }
        }
        if let Some(mode) = of_namespace.flatten().and_then(|policy| policy.mode) {
            return mode;
        }
        if let Some(mode) = of_mesh.and_then(|policy| policy.mode) {
            return mode;
        }
        Mode::Permissive
    }

    pub(super) fn scope(policy: &PeerAuthentication, namespace: &str, labels: &Labels) -> Option<Scope> {
        let in_own = policy.meta.namespace == namespace;
        match &policy.selector {
            None if policy.meta.namespace == ROOT => Some(Scope::Mesh),
            None if in_own => Some(Scope::Namespace),
            Some(selector) if in_own && namespace != ROOT && selector.matches(labels) => {
                Some(Scope::Workload)
            }
            _ => None,
        }
    }

    fn selects(policy: &PeerAuthentication) -> bool {
        policy.selector.is_some()
    }

    fn oldest(
        policies: &[PeerAuthentication],
        applies: impl Fn(&PeerAuthentication) -> bool,
    ) -> Option<&PeerAuthentication> {
        let mut best: Option<&PeerAuthentication> = None;
        for policy in policies.iter().filter(|policy| applies(policy)) {
            let wins = match (best, best.and_then(|best| best.meta.created), policy.meta.created) {
                (None, ..) | (Some(_), None, Some(_)) => true,
                (Some(_), _, None) => false,
                (Some(best), Some(old), Some(new)) => {
                    new < old || new == old && policy.meta.name < best.meta.name
                }
            };
            if wins {
                best = Some(policy);
            }
        }
        best
    }
}

fn any_mode() -> impl Strategy<Value = Option<Mode>> {
    prop::option::of(prop::sample::select(vec![Mode::Strict, Mode::Permissive, Mode::Disable]))
}

fn any_policies() -> impl Strategy<Value = Vec<PeerAuthentication>> {
    let namespace = prop::sample::select(vec![ROOT, "foo", "bar"]);
    let selector = prop::sample::select(vec![
        None,
        Some(vec![("app", "backend")]),
        Some(vec![("app", "web")]),
        Some(vec![("app", "backend"), ("version", "v1")]),
    ]);
    let ports = prop::collection::btree_map(prop::sample::select(vec![80u16, 8080]), any_mode(), 0..3);
    let policy = (namespace, selector, any_mode(), ports, prop::option::of(0i64..3), "[ab]");
    prop::collection::vec(policy, 0..8).prop_map(|policies| {
        let numbered = policies.into_iter().enumerate();
        numbered
            .map(|(position, (namespace, selector, mode, ports, created, name))| PeerAuthentication {
                meta: Meta {
                    name,
                    namespace: namespace.to_owned(),
                    created,
                    place: format!("mesh.yaml:{position}"),
                    position,
                },
                ports,
                selector: selector.map(|pairs| Selector { match_labels: labels(&pairs) }),
                mode,
                reason: None,
                dry_run: false,
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn resolution_agrees_with_a_naive_model(
        policies in any_policies(),
        namespace in prop::sample::select(vec![ROOT, "foo", "bar", "baz"]),
        version in prop::sample::select(vec!["v1", "v2"]),
    ) {
        let labels = labels(&[("app", "backend"), ("version", version)]);
        let (modes, _) = Modes::resolve(&policies, ROOT, namespace, &labels);
        for port in [80, 8080, 9090] {
            let expected = naive::mode(&policies, namespace, &labels, port);
            prop_assert_eq!(modes.for_port(port).mode, expected, "port {}", port);
            let of_endpoint = ByScope::new(&policies, ROOT).winners(namespace, &labels).mode(port);
            prop_assert_eq!(of_endpoint, expected, "port {}", port);
        }
    }

    /// Every policy that applies to the workload either decides in its scope or is reported.
    #[test]
    fn each_loser_is_reported_once(policies in any_policies()) {
        let labels = labels(&[("app", "backend"), ("version", "v1")]);
        let (_, findings) = Modes::resolve(&policies, ROOT, "foo", &labels);
        let in_scope = |scope| policies.iter().filter(|policy| naive::scope(policy, "foo", &labels) == Some(scope)).count();
        let losers: usize = [Scope::Mesh, Scope::Namespace, Scope::Workload].map(|scope| in_scope(scope).saturating_sub(1)).iter().sum();
        let ignored = findings.iter().filter(|finding| finding.message.contains(" is ignored: ")).count();
        prop_assert_eq!(ignored, losers);
    }
}
