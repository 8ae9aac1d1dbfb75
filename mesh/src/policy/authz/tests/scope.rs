//! Which policies apply, and how they decide together.

use rstest::rstest;

use super::ask::{allows, ask, policies, policy};
use crate::policy::authz::{Grant, ShadowResult};

const WEB: &str = "cluster.local/ns/foo/sa/web";

fn meta(namespace: &str, name: &str, selector: &str, action: &str, rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{selector: {{matchLabels: {{{selector}}}}}, action: {action}, rules: {rules}}}\n---\n"
    )
}

/// Unlike PeerAuthentication, a selector in the root namespace picks workloads everywhere.
#[rstest]
#[case::own_namespace("foo", "", "foo/me", true)]
#[case::another_namespace("bar", "", "foo/me", false)]
#[case::root_namespace("istio-system", "", "foo/me", true)]
#[case::own_label("foo", "app: me", "foo/me app=me version=v1", true)]
#[case::another_label("foo", "app: me", "foo/me app=you", false)]
#[case::label_missing("foo", "app: me", "foo/me", false)]
#[case::one_label_of_two("foo", "app: me, version: v2", "foo/me app=me version=v1", false)]
#[case::root_with_label("istio-system", "app: me", "foo/me app=me", true)]
#[case::root_with_another_label("istio-system", "app: me", "foo/me app=you", false)]
#[case::another_namespace_with_label("bar", "app: me", "foo/me app=me", false)]
#[case::in_the_root_namespace("istio-system", "", "istio-system/me", true)]
#[case::own_policy_in_another("foo", "", "istio-system/me", false)]
fn a_policy_applies(
    #[case] namespace: &str,
    #[case] selector: &str,
    #[case] workload: &str,
    #[case] expected: bool,
) {
    let policies = policies(&meta(namespace, "p", selector, "DENY", "[{}]"), workload, &[]);
    assert_eq!(!allows(&policies, WEB), expected);
    assert_eq!(policies.is_empty(), !expected);
}

/// The order of the proto: DENY, then ALLOW if there is any.
#[rstest]
#[case::nothing(&[], true)]
#[case::allow_nothing(&["ALLOW []"], false)]
#[case::allow_all(&["ALLOW [{}]"], true)]
#[case::allow_match(&["ALLOW [{from: [{source: {namespaces: [foo]}}]}]"], true)]
#[case::allow_another(&["ALLOW [{from: [{source: {namespaces: [bar]}}]}]"], false)]
#[case::one_allow_of_two(&["ALLOW []", "ALLOW [{}]"], true)]
#[case::deny_another(&["DENY [{from: [{source: {namespaces: [bar]}}]}]"], true)]
#[case::deny_match(&["DENY [{from: [{source: {namespaces: [foo]}}]}]"], false)]
#[case::deny_goes_over_allow(&["ALLOW [{}]", "DENY [{}]"], false)]
#[case::deny_another_and_allow_nothing(&["ALLOW []", "DENY [{from: [{source: {namespaces: [bar]}}]}]"], false)]
#[case::audit(&["AUDIT [{}]"], true)]
#[case::audit_is_no_allow(&["AUDIT [{}]", "ALLOW []"], false)]
fn policies_decide_together(#[case] specs: &[&str], #[case] expected: bool) {
    let text: String = specs
        .iter()
        .enumerate()
        .map(|(number, spec)| {
            let (action, rules) = spec.split_once(' ').unwrap();
            meta("foo", &format!("p{number}"), "", action, rules)
        })
        .collect();
    assert_eq!(allows(&policies(&text, "foo/me", &[]), WEB), expected);
}

#[test]
fn the_reason_names_the_rule() {
    let text = [
        meta("istio-system", "all", "", "DENY", "[{from: [{source: {namespaces: [bar]}}]}]"),
        meta(
            "foo",
            "web",
            "",
            "ALLOW",
            "[{from: [{source: {namespaces: [x]}}]}, {from: [{source: {namespaces: [foo]}}]}]",
        ),
        meta("foo", "mark", "", "AUDIT", "[{}]"),
    ]
    .concat();
    let policies = policies(&text, "foo/me", &[]);
    let decide = |line: &str| policies.authorize(&ask(line).unwrap().facts());
    let verdict = decide(WEB);
    let permit = verdict.outcome.unwrap();
    assert!(matches!(permit.because(), Grant::Rule(rule) if rule.as_str() == "ns[foo]-policy[web]-rule[1]"));
    assert_eq!(verdict.audited.unwrap().as_str(), "ns[foo]-policy[mark]-rule[0]");

    let denial = decide("cluster.local/ns/bar/sa/web").outcome.unwrap_err();
    assert_eq!(denial.to_string(), "ns[istio-system]-policy[all]-rule[0] matches");
    let denial = decide("plaintext").outcome.unwrap_err();
    assert_eq!(
        denial.to_string(),
        "no ALLOW rule matches: ns[foo]-policy[web]-rule[0]: from[0].source.namespaces: expected `x`, seen no identity \
         (plaintext); ns[foo]-policy[web]-rule[1]: from[0].source.namespaces: expected `foo`, seen no identity \
         (plaintext)"
    );
    assert_eq!(
        serde_json::to_value(&denial).unwrap()["noAllowRule"]["considered"][0]["miss"]["field"],
        "from[0].source.namespaces"
    );
}

/// A dry run is told and changes nothing.
#[rstest]
#[case("ALLOW []", Some(false), None)]
#[case("ALLOW [{}]", Some(true), None)]
#[case("DENY [{}]", None, Some(false))]
#[case("DENY [{from: [{source: {namespaces: [bar]}}]}]", None, Some(true))]
fn a_dry_run_is_only_told(#[case] spec: &str, #[case] allow: Option<bool>, #[case] deny: Option<bool>) {
    let (action, rules) = spec.split_once(' ').unwrap();
    let text = policy(action, rules).replace("{name:", "{annotations: {istio.io/dry-run: \"true\"}, name:");
    let policies = policies(&text, "foo/me", &[]);
    assert!(allows(&policies, WEB));
    let shadow = policies.authorize(&ask(WEB).unwrap().facts()).shadow;
    let allowed = |result: &Option<ShadowResult>| result.as_ref().map(|result| result.allowed);
    assert_eq!((allowed(&shadow.allow), allowed(&shadow.deny)), (allow, deny));
}
