//! What a decision costs where there are many policies: counted in rules that are looked at, not in time.

use std::fmt::Write;

use rstest::rstest;

use super::ask::{ask, policies, workload};
use crate::policy::authz::Policies;
use crate::resource::Resources;

const MANY: usize = 10_000;

fn many(count: usize, spec: impl Fn(usize) -> String) -> Resources {
    let mut resources = Resources::default();
    for chunk in 0..count / 100 {
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
    assert_eq!(resources.authorization_policies.len(), count);
    resources
}

fn looked_at(policies: &Policies, line: &str) -> usize {
    let ask = ask(line).unwrap();
    policies.0.all().into_iter().map(|set| set.index.candidates(&ask.facts())).sum()
}

#[test]
fn policies_of_other_workloads_cost_nothing() {
    let resources =
        many(MANY, |number| format!("{{selector: {{matchLabels: {{app: a{number}}}}}, rules: [{{}}]}}"));
    let policies =
        Policies::build(&resources.authorization_policies, "istio-system", &workload("foo/me app=a7"), &[]);
    assert_eq!(policies.0.allow.rules.len(), 1);
    assert_eq!(looked_at(&policies, "plaintext"), 1);
}

#[test]
fn rules_about_other_identities_and_ports_cost_nothing() {
    let resources = many(MANY, |number| {
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

/// Rules that differ in one field: one is looked at where it matches, none where none does. `#` stands for the
/// number of the rule, and `@` for it as part of an address.
#[rstest]
#[case::ip_blocks(
    "{from: [{source: {ipBlocks: [10.@.0/24]}}]}",
    "plaintext from=10.@.7",
    "plaintext from=11.0.0.1"
)]
#[case::remote_ip_blocks(
    "{from: [{source: {remoteIpBlocks: [10.@.7]}}]}",
    "plaintext remote=10.@.7",
    "plaintext remote=11.0.0.1"
)]
#[case::prefixes_of_principals(
    "{from: [{source: {principals: ['cluster.local/ns/n#-/*']}}]}",
    "cluster.local/ns/n#-/sa/x",
    "cluster.local/ns/n/sa/x"
)]
#[case::suffixes_of_principals(
    "{from: [{source: {principals: ['*/sa/x#']}}]}",
    "a.example/ns/foo/sa/x#",
    "a.example/ns/foo/sa/x"
)]
#[case::prefixes_of_namespaces(
    "{from: [{source: {namespaces: ['n#-*']}}]}",
    "cluster.local/ns/n#-a/sa/x",
    "cluster.local/ns/n/sa/x"
)]
#[case::trust_domains(
    "{from: [{source: {trustDomains: [t#.example]}}]}",
    "t#.example/ns/a/sa/x",
    "example/ns/a/sa/x"
)]
#[case::one_caller_and_many_paths(
    "{from: [{source: {principals: [cluster.local/ns/foo/sa/web]}}], to: [{operation: {methods: [GET], paths: [/p#]}}]}",
    "cluster.local/ns/foo/sa/web GET api/p#",
    "cluster.local/ns/foo/sa/web GET api/p"
)]
#[case::prefixes_of_paths(
    "{to: [{operation: {paths: ['/p#/*']}}]}",
    "plaintext GET api/p#/a/b",
    "plaintext GET api/p#"
)]
#[case::suffixes_of_paths(
    "{to: [{operation: {paths: ['*/p#.html']}}]}",
    "plaintext GET api/a/p#.html",
    "plaintext GET api/a/p.html"
)]
#[case::templates(
    "{to: [{operation: {paths: ['/p#/{*}/x']}}]}",
    "plaintext GET api/p#/a/x",
    "plaintext GET api/p/a/x"
)]
#[case::hosts(
    "{to: [{operation: {hosts: [h#.example]}}]}",
    "plaintext GET h#.example:80/",
    "plaintext GET example/"
)]
#[case::wildcard_hosts(
    "{to: [{operation: {hosts: ['*.h#.example']}}]}",
    "plaintext GET a.h#.example/",
    "plaintext GET example/"
)]
#[case::headers(
    "{when: [{key: 'request.headers[x-team]', values: [t#]}]}",
    "plaintext GET api/ x-team:t#",
    "plaintext GET api/ x-team:t"
)]
#[case::server_names(
    "{when: [{key: connection.sni, values: ['*.s#.example']}]}",
    "plaintext sni=a.s#.example",
    "plaintext"
)]
#[case::http_on_tcp("{to: [{operation: {paths: [/p#]}}]}", "plaintext GET api/p#", "plaintext")]
fn rules_that_differ_in_one_field_are_not_looked_at(
    #[case] rule: &str,
    #[case] matching: &str,
    #[case] other: &str,
) {
    const RULES: usize = 2_000;
    let of = |text: &str, number: usize| {
        text.replace('#', &number.to_string()).replace('@', &format!("{}.{}", number / 256, number % 256))
    };
    let resources = many(RULES, |number| format!("{{rules: [{}]}}", of(rule, number)));
    let policies =
        Policies::build(&resources.authorization_policies, "istio-system", &workload("foo/me"), &[]);
    for number in [0, 1, 1_177, RULES - 1] {
        let line = of(matching, number);
        let looked_at = looked_at(&policies, &line);
        assert!((1..=4).contains(&looked_at), "{line}: {looked_at} rules are looked at");
        let permit = policies.authorize(&ask(&line).unwrap().facts()).outcome.unwrap();
        let expected = format!("ns[foo]-policy[p{number}]-rule[0] matches");
        assert_eq!(permit.because().to_string(), expected, "{line}");
    }
    assert_eq!(looked_at(&policies, &of(other, 1_177)), 0);
    assert!(policies.authorize(&ask(&of(other, 1_177)).unwrap().facts()).outcome.is_err());
}

/// A rule of many values costs no more than one of few.
#[test]
fn the_values_of_one_rule_are_not_tried_one_by_one() {
    let values = |value: &dyn Fn(usize) -> String| (0..MANY).map(value).collect::<Vec<_>>().join(", ");
    let rule = format!(
        "[{{from: [{{source: {{principals: [{}]}}}}], to: [{{operation: {{paths: [{}], ports: [{}]}}}}]}}]",
        values(&|number| format!("'cluster.local/ns/n{number}/*'")),
        values(&|number| format!("'/p{number}/{{*}}'")),
        values(&|number| format!("'{}'", number + 1)),
    );
    let policies = policies(&super::ask::policy("ALLOW", &rule), "foo/me", &[]);
    for (line, allowed) in [
        ("cluster.local/ns/n4711/sa/x to=80 GET api/p17/a", true),
        ("cluster.local/ns/n4711/sa/x to=80 GET api/p17/a/b", false),
        ("cluster.local/ns/n/sa/x to=80 GET api/p17/a", false),
        ("cluster.local/ns/n4711/sa/x to=20000 GET api/p17/a", false),
    ] {
        assert_eq!(super::ask::allows(&policies, line), allowed, "{line}");
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
