//! The decision against a second, naive model: the text of Istio's `authorization_policy.proto` and, for TCP, of Envoy's
//! behaviour, word for word and without any thought of cost.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::ask::{allows, ask, policies};
use crate::policy::authz::rule;

/// A policy as it is written.
#[derive(Debug, Clone)]
struct Policy {
    namespace: &'static str,
    label: Option<&'static str>,
    action: &'static str,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    from: Vec<Fields>,
    to: Vec<Fields>,
    when: Vec<Field>,
}

type Fields = Vec<Field>;

/// A field, or the key of a condition, with its values and those of its `not` twin.
#[derive(Debug, Clone)]
struct Field {
    name: &'static str,
    values: Vec<&'static str>,
    not_values: Vec<&'static str>,
}

/// A connection or request as it is asked for.
#[derive(Debug, Clone)]
struct Asked {
    peer: Option<[&'static str; 3]>,
    source: &'static str,
    remote: &'static str,
    port: &'static str,
    sni: Option<&'static str>,
    http: Option<[&'static str; 3]>,
    header: Option<&'static str>,
}

impl Asked {
    fn line(&self) -> String {
        let peer = self.peer.map_or("plaintext".to_owned(), |[trust_domain, namespace, account]| {
            format!("{trust_domain}/ns/{namespace}/sa/{account}")
        });
        let sni = self.sni.map(|sni| format!(" sni={sni}")).unwrap_or_default();
        let http =
            self.http.map(|[method, host, path]| format!(" {method} {host}{path}")).unwrap_or_default();
        let header = self.header.map(|value| format!(" x-team:{value}")).unwrap_or_default();
        format!("{peer} from={} remote={} to={}{sni}{http}{header}", self.source, self.remote, self.port)
    }

    /// What a field is compared with: `None` where it is not there.
    fn fact(&self, field: &str) -> Option<String> {
        let [trust_domain, namespace, account] = self.peer.map(|parts| parts.map(Some)).unwrap_or([None; 3]);
        match field {
            "principals" | "source.principal" => {
                Some(format!("{}/ns/{}/sa/{}", trust_domain?, namespace?, account?))
            }
            "namespaces" | "source.namespace" => Some(namespace?.to_owned()),
            "serviceAccounts" | "source.serviceAccount" => Some(format!("{}/{}", namespace?, account?)),
            "trustDomains" | "source.trustDomain" => Some(trust_domain?.to_owned()),
            "ipBlocks" | "source.ip" => Some(self.source.to_owned()),
            "remoteIpBlocks" | "remote.ip" => Some(self.remote.to_owned()),
            "ports" | "destination.port" => Some(self.port.to_owned()),
            "connection.sni" => Some(self.sni?.to_owned()),
            "methods" => Some(self.http?[0].to_owned()),
            "hosts" => Some(self.http?[1].to_owned()),
            "paths" => Some(self.http?[2].to_owned()),
            "request.headers[x-team]" => Some(self.header?.to_owned()),
            other => panic!("{other}"),
        }
    }
}

fn asks_for_http(field: &Field) -> bool {
    ["methods", "hosts", "paths", "request.headers[x-team]"].contains(&field.name)
}

/// "Any string field in the rule supports Exact, Prefix, Suffix and Presence match"; addresses are single or CIDR, here
/// of whole bytes; "`<serviceaccount>` may also be used to use the same namespace as the AuthorizationPolicy".
fn value_matches(field: &str, value: &str, fact: &str, namespace: &str) -> bool {
    if let Some(range) = value.strip_suffix(".0.0/16") {
        return fact.starts_with(&format!("{range}."));
    }
    if field.to_lowercase().contains("serviceaccount") {
        return if value.contains('/') { value == fact } else { format!("{namespace}/{value}") == fact };
    }
    if let Some(start) = value.strip_suffix("{*}") {
        return fact.strip_prefix(start).is_some_and(|rest| !rest.is_empty() && !rest.contains('/'));
    }
    if value == "*" {
        !fact.is_empty()
    } else if let Some(end) = value.strip_prefix('*') {
        fact.ends_with(end)
    } else if let Some(start) = value.strip_suffix('*') {
        fact.starts_with(start)
    } else {
        fact == value
    }
}

fn field_matches(field: &Field, asked: &Asked, namespace: &str) -> bool {
    if asks_for_http(field) && asked.http.is_none() {
        return true;
    }
    let fact = asked.fact(field.name);
    let one_of = |values: &[&str]| {
        values
            .iter()
            .any(|value| fact.as_ref().is_some_and(|fact| value_matches(field.name, value, fact, namespace)))
    };
    (field.values.is_empty() || one_of(&field.values)) && !one_of(&field.not_values)
}

/// "A match occurs when at least one source, one operation and all conditions matches the request. An empty rule is
/// always matched." "Fields in the source are ANDed together." "If not set, any source is allowed."
fn rule_matches(rule: &Rule, policy: &Policy, asked: &Asked) -> bool {
    let all = |fields: &Fields| fields.iter().all(|field| field_matches(field, asked, policy.namespace));
    let every_field = || rule.from.iter().chain(&rule.to).flatten().chain(&rule.when);
    if policy.action == "ALLOW" && asked.http.is_none() && every_field().any(asks_for_http) {
        return false;
    }
    (rule.from.is_empty() || rule.from.iter().any(all))
        && (rule.to.is_empty() || rule.to.iter().any(all))
        && all(&rule.when)
}

/// "1. If there are any DENY policies that match the request, deny the request. 2. If there are no ALLOW policies for
/// the workload, allow the request. 3. If any of the ALLOW policies match the request, allow the request. 4. Deny the
/// request."
fn model(policies: &[Policy], asked: &Asked) -> bool {
    let applies = |policy: &&Policy| {
        ["istio-system", "a"].contains(&policy.namespace) && policy.label.is_none_or(|label| label == "me")
    };
    let with =
        |action: &'static str| policies.iter().filter(applies).filter(move |policy| policy.action == action);
    let matches = |policy: &Policy| policy.rules.iter().any(|rule| rule_matches(rule, policy, asked));
    if with("DENY").any(matches) {
        return false;
    }
    with("ALLOW").next().is_none() || with("ALLOW").any(matches)
}

fn written(policies: &[Policy]) -> String {
    let policy = |(number, policy): (usize, &Policy)| {
        let rules: Vec<Value> = policy
            .rules
            .iter()
            .map(|rule| {
                let list = |key: &str, alternatives: &[Fields]| -> Vec<Value> {
                    alternatives.iter().map(|fields| json!({ key: fields_written(fields) })).collect()
                };
                let conditions = rule.when.iter().map(
                    |field| json!({"key": field.name, "values": field.values, "notValues": field.not_values}),
                );
                let mut written = Map::new();
                for (key, list) in [("from", list("source", &rule.from)), ("to", list("operation", &rule.to))]
                {
                    if !list.is_empty() {
                        written.insert(key.to_owned(), list.into());
                    }
                }
                written.insert("when".to_owned(), conditions.collect());
                written.into()
            })
            .collect();
        let labels = policy.label.map(|label| json!({"app": label})).unwrap_or(json!({}));
        json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": format!("p{number}"), "namespace": policy.namespace},
            "spec": {"selector": {"matchLabels": labels}, "action": policy.action, "rules": rules},
        })
        .to_string()
    };
    policies.iter().enumerate().map(policy).collect::<Vec<_>>().join("\n---\n")
}

fn fields_written(fields: &Fields) -> Value {
    let mut written = Map::new();
    for Field { name, values, not_values } in fields {
        let not = format!("not{}{}", name[..1].to_uppercase(), &name[1..]);
        written.insert((*name).to_owned(), json!(values));
        written.insert(not, json!(not_values));
    }
    written.into()
}

const PRINCIPALS: &[&str] =
    &["cluster.local/ns/a/sa/x", "cluster.local/ns/b/sa/y", "other.example/ns/a/*", "*/sa/x", "*"];
const NAMESPACES: &[&str] = &["a", "b", "a*", "*b", "*"];
const ACCOUNTS: &[&str] = &["x", "a/x", "b/y", "y"];
const TRUST_DOMAINS: &[&str] = &["cluster.local", "other.example", "*.local", "other.*", "*"];
const BLOCKS: &[&str] = &["10.1.0.1", "10.2.0.1", "10.1.0.0/16", "10.2.0.0/16"];
const PORTS: &[&str] = &["80", "81"];
const METHODS: &[&str] = &["GET", "POST", "P*", "*T", "*"];
const HOSTS: &[&str] = &["api.a", "api.b", "*.a", "api.*", "*"];
const PATHS: &[&str] = &["/a", "/a/b", "/a/*", "*/b", "/a*", "/a/{*}", "*"];
const TEAMS: &[&str] = &["red", "r*", "*d", "blue", "*"];
const SNIS: &[&str] = &["api.a", "*.b", "api.*", "*"];

fn field(name: &'static str, known: &'static [&'static str]) -> impl Strategy<Value = Field> {
    let some = |count| prop::collection::vec(prop::sample::select(known), count);
    let both = prop_oneof![
        3 => (some(1..3), Just(Vec::new())),
        1 => (some(0..3), some(1..2)),
    ];
    both.prop_map(move |(values, not_values)| Field { name, values, not_values })
}

/// Some of the fields, at least one.
fn some_of(fields: Vec<BoxedStrategy<Field>>) -> impl Strategy<Value = Fields> {
    let last = fields.len() - 1;
    (prop::collection::btree_set(0..=last, 1..=2), fields)
        .prop_map(|(chosen, fields)| chosen.into_iter().map(|number| fields[number].clone()).collect())
}

fn rule() -> impl Strategy<Value = Rule> {
    let by_name = vec![
        field("principals", PRINCIPALS).boxed(),
        field("namespaces", NAMESPACES).boxed(),
        field("trustDomains", TRUST_DOMAINS).boxed(),
        field("ipBlocks", BLOCKS).boxed(),
        field("remoteIpBlocks", BLOCKS).boxed(),
    ];
    let by_account = vec![
        field("serviceAccounts", ACCOUNTS).boxed(),
        field("trustDomains", TRUST_DOMAINS).boxed(),
        field("ipBlocks", BLOCKS).boxed(),
    ];
    let operation = vec![
        field("ports", PORTS).boxed(),
        field("ports", PORTS).boxed(),
        field("methods", METHODS).boxed(),
        field("hosts", HOSTS).boxed(),
        field("paths", PATHS).boxed(),
    ];
    let condition = prop_oneof![
        field("source.principal", PRINCIPALS),
        field("source.namespace", NAMESPACES),
        field("source.serviceAccount", ACCOUNTS),
        field("source.trustDomain", TRUST_DOMAINS),
        field("source.ip", BLOCKS),
        field("remote.ip", BLOCKS),
        field("destination.port", PORTS),
        field("connection.sni", SNIS),
        field("request.headers[x-team]", TEAMS),
    ];
    let source = prop_oneof![2 => some_of(by_name), 1 => some_of(by_account)];
    let one_port = |fields: &Fields| fields.iter().filter(|field| field.name == "ports").count() < 2;
    (
        prop::collection::vec(source, 0..3),
        prop::collection::vec(some_of(operation).prop_filter("one field twice", one_port), 0..3),
        prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(condition, 1..3)],
    )
        .prop_map(|(from, to, when)| Rule { from, to, when })
}

fn policy() -> impl Strategy<Value = Policy> {
    (
        prop::sample::select(vec!["a", "a", "b", "istio-system"]),
        prop::sample::select(vec![None, None, Some("me"), Some("you")]),
        prop::sample::select(vec!["ALLOW", "ALLOW", "DENY", "AUDIT"]),
        prop::collection::vec(rule(), 0..4),
    )
        .prop_filter("rules are needed", |(_, _, action, rules)| *action == "ALLOW" || !rules.is_empty())
        .prop_map(|(namespace, label, action, rules)| Policy { namespace, label, action, rules })
}

fn asked() -> impl Strategy<Value = Asked> {
    let select = prop::sample::select::<&'static str>;
    let peer = (
        select(vec!["cluster.local", "other.example"]),
        select(vec!["a", "b", "ab"]),
        select(vec!["x", "y"]),
    );
    let http = (
        select(vec!["GET", "POST", "PUT"]),
        select(vec!["api.a", "api.b", "www.a"]),
        select(vec!["/", "/a", "/a/b", "/a/b/c", "/b"]),
    );
    (
        prop::option::weighted(
            0.8,
            peer.prop_map(|(trust_domain, namespace, account)| [trust_domain, namespace, account]),
        ),
        select(vec!["10.1.0.1", "10.1.0.2", "10.2.0.1"]),
        select(vec!["10.1.0.1", "10.1.0.2", "10.2.0.1"]),
        select(vec!["80", "81"]),
        prop::option::of(select(vec!["api.a", "api.b"])),
        prop::option::weighted(0.7, http.prop_map(|(method, host, path)| [method, host, path])),
        prop::option::of(select(vec!["red", "blue"])),
    )
        .prop_map(|(peer, source, remote, port, sni, http, header)| Asked {
            header: header.filter(|_| http.is_some()),
            peer,
            source,
            remote,
            port,
            sni,
            http,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn decisions_are_those_of_the_text(
        written_policies in prop::collection::vec(policy(), 0..6),
        asks in prop::collection::vec(asked(), 1..8),
    ) {
        let text = written(&written_policies);
        let compiled = policies(&text, "a/me app=me", &[]);
        for asked in asks {
            let line = asked.line();
            prop_assert_eq!(allows(&compiled, &line), model(&written_policies, &asked), "{}\n{}", line, text);
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// What is looked up is what trying every rule in its order finds.
    #[test]
    fn the_index_agrees_with_trying_every_rule(
        written_policies in prop::collection::vec(policy(), 0..12),
        asks in prop::collection::vec(asked(), 1..8),
    ) {
        let compiled = policies(&written(&written_policies), "a/me app=me", &[]);
        for asked in asks {
            let line = asked.line();
            let ask = ask(&line).unwrap();
            let facts = ask.facts();
            for set in compiled.0.all() {
                let tried = set.rules.iter().find(|rule| rule.evaluate(&facts).is_ok()).map(rule::Rule::name);
                prop_assert_eq!(set.index.first_match(&set.rules, &facts).map(rule::Rule::name), tried, "{}", line);
            }
        }
    }
}
