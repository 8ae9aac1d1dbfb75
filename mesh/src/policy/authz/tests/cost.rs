//! What a decision costs where there are many policies: counted in rules that are looked at, not in time.

use std::fmt::Write;

use super::ask::{ask, policies, workload};
use crate::policy::authz::Policies;
use crate::resource::Resources;

const MANY: usize = 10_000;

fn many(spec: impl Fn(usize) -> String) -> Resources {
    let mut resources = Resources::default();
    for chunk in 0..MANY / 100 {
        let mut text = String::new();
        for number in chunk * 100..chunk * 100 + 100 {
            write!(
                text,
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                 metadata: {{name: p{number}, namespace: foo}}\nspec: {}\n---\n",
                spec(number)
            )
            .unwrap();
        }
        resources.read("many.yaml", &text).unwrap();
    }
    assert_eq!(resources.authorization_policies.len(), MANY);
    resources
}

fn looked_at(policies: &Policies, line: &str) -> usize {
    let ask = ask(line).unwrap();
    policies.0.all().into_iter().map(|set| set.index.candidates(&ask.facts())).sum()
}

#[test]
fn policies_of_other_workloads_cost_nothing() {
    let resources =
        many(|number| format!("{{selector: {{matchLabels: {{app: a{number}}}}}, rules: [{{}}]}}"));
    let policies =
        Policies::build(&resources.authorization_policies, "istio-system", &workload("foo/me app=a7"), &[]);
    assert_eq!(policies.0.allow.rules.len(), 1);
    assert_eq!(looked_at(&policies, "plaintext"), 1);
}

#[test]
fn rules_about_other_identities_and_ports_cost_nothing() {
    let resources = many(|number| {
        let rule = match number % 4 {
            0 => format!("{{from: [{{source: {{principals: [cluster.local/ns/foo/sa/a{number}]}}}}]}}"),
            1 => format!("{{from: [{{source: {{namespaces: [n{number}]}}}}]}}"),
            2 => format!("{{from: [{{source: {{serviceAccounts: [n{number}/a]}}}}]}}"),
            _ => format!("{{to: [{{operation: {{ports: ['{}']}}}}]}}", 20_000 + number),
        };
        format!("{{rules: [{rule}]}}")
    });
    let policies =
        Policies::build(&resources.authorization_policies, "istio-system", &workload("foo/me"), &[]);
    for (line, rules, rule) in [
        ("cluster.local/ns/foo/sa/a4000", 1, Some("ns[foo]-policy[p4000]-rule[0]")),
        ("cluster.local/ns/n4001/sa/x", 1, Some("ns[foo]-policy[p4001]-rule[0]")),
        ("cluster.local/ns/n4002/sa/a", 1, Some("ns[foo]-policy[p4002]-rule[0]")),
        ("plaintext to=24003", 1, Some("ns[foo]-policy[p4003]-rule[0]")),
        ("cluster.local/ns/bar/sa/web", 0, None),
        ("plaintext", 0, None),
    ] {
        assert_eq!(looked_at(&policies, line), rules, "{line}");
        let ask = ask(line).unwrap();
        let outcome = policies.authorize(&ask.facts()).outcome;
        let because = outcome.map(|permit| permit.because().to_string()).ok();
        assert_eq!(because, rule.map(|rule| format!("{rule} matches")), "{line}");
    }
}

/// Of several rules that match, the first is named, under whatever key it stands.
#[test]
fn the_first_of_several_matching_rules_is_named() {
    let text = "[{to: [{operation: {ports: ['8080']}}]}, {from: [{source: {namespaces: [foo]}}]}, {}, \
                {from: [{source: {principals: [cluster.local/ns/foo/sa/web]}}]}]";
    for (line, rule) in
        [("cluster.local/ns/foo/sa/web", 0), ("cluster.local/ns/foo/sa/web to=80", 1), ("plaintext to=80", 2)]
    {
        let policies = policies(&super::ask::policy("ALLOW", text), "foo/me", &[]);
        let permit = policies.authorize(&ask(line).unwrap().facts()).outcome.unwrap();
        assert_eq!(
            permit.because().to_string(),
            format!("ns[foo]-policy[allow]-rule[{rule}] matches"),
            "{line}"
        );
    }
}
