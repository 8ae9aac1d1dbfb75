//! Policies and rules as a person reads them: the fields as they are written, and in words.
//!
//! Nothing is decided here; a rule says the same in words whoever asks.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Policies, Policy, Scope, Sets};
use crate::resource::{Action, Condition, Match, Operation, Rule, Source};

/// Values that a sentence names; of more it says how many.
const NAMED: usize = 6;

/// A policy that applies to a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDescription {
    /// `namespace/name`.
    pub name: String,
    /// `file:line`.
    pub place: String,
    /// Why it applies.
    pub scope: Scope,
    /// What it does.
    pub action: Action,
    /// Whether it only tells.
    pub dry_run: bool,
    /// Its rules in order; a policy without rules matches nothing.
    pub rules: Vec<RuleDescription>,
}

/// Fields of a source or an operation with their values, by the names that they have in the file.
pub type Fields = BTreeMap<String, Vec<String>>;

/// A rule as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleDescription {
    /// The sources, of which one must match; none is anyone.
    pub from: Vec<Fields>,
    /// The operations, of which one must match; none is anything.
    pub to: Vec<Fields>,
    /// The conditions, of which all must match.
    pub when: Vec<ConditionDescription>,
}

/// A condition as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionDescription {
    /// What is compared.
    pub key: String,
    /// One of these must match, if there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// None of these may match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_values: Vec<String>,
}

impl Policies {
    /// Every policy that applies: AUDIT, DENY, ALLOW, then those in dry run, as [`Policies::explain`] has them.
    #[must_use]
    pub fn describe(&self) -> Vec<PolicyDescription> {
        let Sets { deny, allow, audit, shadow_deny, shadow_allow, .. } = &*self.0;
        let sets = [audit, deny, allow, shadow_deny, shadow_allow].into_iter();
        sets.flat_map(|set| &set.policies).map(PolicyDescription::of).collect()
    }
}

impl PolicyDescription {
    fn of(policy: &Policy) -> Self {
        Self {
            name: policy.name.clone(),
            place: policy.place.clone(),
            scope: policy.scope,
            action: policy.action,
            dry_run: policy.dry_run,
            rules: policy.rules.iter().map(RuleDescription::of).collect(),
        }
    }
}

impl RuleDescription {
    pub(crate) fn of(rule: &Rule) -> Self {
        Self {
            from: rule.from.iter().map(source).collect(),
            to: rule.to.iter().map(operation).collect(),
            when: rule.when.iter().map(condition).collect(),
        }
    }

    /// Who it is about: `anyone`, `namespace a or b`.
    #[must_use]
    pub fn who(&self) -> String {
        if self.from.is_empty() { "anyone".to_owned() } else { alternatives(&self.from, source_in_words) }
    }

    /// What it is about: `anything`, `GET or POST /api/*, port 8080`.
    #[must_use]
    pub fn what(&self) -> String {
        if self.to.is_empty() { "anything".to_owned() } else { alternatives(&self.to, operation_in_words) }
    }

    /// Under which conditions; empty where there are none.
    #[must_use]
    pub fn when(&self) -> String {
        self.when.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
    }

    /// What it comes to in a policy of `action`, to stand alone or with others in a sentence.
    pub(crate) fn in_a_sentence(&self, action: Action) -> String {
        let (who, what) = (self.who(), self.what());
        let when = if self.when.is_empty() { String::new() } else { format!(" when {}", self.when()) };
        match action {
            Action::Allow => format!("{who} is allowed {what}{when}"),
            Action::Deny => format!("{who} is denied {what}{when}"),
            Action::Audit => format!("{who} is marked for {what}{when}"),
        }
    }
}

/// `who: what, when …`.
impl fmt::Display for RuleDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.who(), self.what())?;
        if self.when.is_empty() { Ok(()) } else { write!(f, ", when {}", self.when()) }
    }
}

/// `key is a or b, and not c`.
impl fmt::Display for ConditionDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, values, not_values } = self;
        match (values.is_empty(), not_values.is_empty()) {
            (false, true) => write!(f, "{key} is {}", either(values)),
            (true, false) => write!(f, "{key} is not {}", either(not_values)),
            _ => write!(f, "{key} is {} and not {}", either(values), either(not_values)),
        }
    }
}

/// One alternative after the other.
fn alternatives(of: &[Fields], in_words: fn(&Fields) -> String) -> String {
    of.iter().map(in_words).collect::<Vec<_>>().join("; or ")
}

fn source_in_words(fields: &Fields) -> String {
    const WORDS: [(&str, &str, &str); 6] = [
        ("principals", "notPrincipals", ""),
        ("namespaces", "notNamespaces", "namespace "),
        ("serviceAccounts", "notServiceAccounts", "service account "),
        ("trustDomains", "notTrustDomains", "trust domain "),
        ("ipBlocks", "notIpBlocks", "address "),
        ("remoteIpBlocks", "notRemoteIpBlocks", "client address "),
    ];
    let is_anybody = |name: &str| fields.get(name).is_some_and(|values| *values == ["*"]);
    let mut parts = Vec::new();
    for (name, _, word) in WORDS {
        match fields.get(name) {
            Some(_) if name == "principals" && is_anybody(name) => {
                parts.push("anyone with an identity".to_owned());
            }
            Some(values) => parts.push(format!("{word}{}", either(values))),
            None => {}
        }
    }
    for (_, not_name, word) in WORDS {
        let Some(values) = fields.get(not_name) else { continue };
        let who = if not_name == "notPrincipals" && is_anybody(not_name) {
            "anyone without an identity".to_owned()
        } else if parts.is_empty() {
            format!("anyone but {word}{}", either(values))
        } else {
            format!("not {word}{}", either(values))
        };
        parts.push(who);
    }
    parts.join(" and ")
}

fn operation_in_words(fields: &Fields) -> String {
    const WORDS: [(&str, &str, &str, &str); 4] = [
        ("methods", "notMethods", "", "any method but "),
        ("paths", "notPaths", "", "any path but "),
        ("hosts", "notHosts", "host ", "any host but "),
        ("ports", "notPorts", "port ", "any port but "),
    ];
    let part = |name: &str, word: &str| fields.get(name).map(|values| format!("{word}{}", either(values)));
    let mut words = String::new();
    for (name, not_name, word, not_word) in WORDS {
        for part in [part(name, word), part(not_name, not_word)].into_iter().flatten() {
            // `GET /a` is how a request is written; everything else is counted up.
            let between = match (words.is_empty(), name, fields.contains_key("methods")) {
                (true, ..) => "",
                (false, "paths", true) => " ",
                (false, ..) => ", ",
            };
            words = format!("{words}{between}{part}");
        }
    }
    words
}

/// `a, b or c`.
fn either(values: &[String]) -> String {
    let more = values.len().saturating_sub(NAMED);
    let named: Vec<&str> = values.iter().take(NAMED).map(String::as_str).collect();
    match named.as_slice() {
        _ if more > 0 => format!("{} or {more} more", named.join(", ")),
        [but_last @ .., last] if !but_last.is_empty() => format!("{} or {last}", but_last.join(", ")),
        _ => named.concat(),
    }
}

fn source(source: &Source) -> Fields {
    let Source { principals, namespaces, service_accounts, trust_domains, ip_blocks, remote_ip_blocks } =
        source;
    let mut fields = Fields::new();
    add(&mut fields, ["principals", "notPrincipals"], principals);
    add(&mut fields, ["namespaces", "notNamespaces"], namespaces);
    add(&mut fields, ["serviceAccounts", "notServiceAccounts"], service_accounts);
    add(&mut fields, ["trustDomains", "notTrustDomains"], trust_domains);
    add(&mut fields, ["ipBlocks", "notIpBlocks"], ip_blocks);
    add(&mut fields, ["remoteIpBlocks", "notRemoteIpBlocks"], remote_ip_blocks);
    fields
}

fn operation(operation: &Operation) -> Fields {
    let Operation { hosts, ports, methods, paths } = operation;
    let mut fields = Fields::new();
    add(&mut fields, ["hosts", "notHosts"], hosts);
    add(&mut fields, ["ports", "notPorts"], ports);
    add(&mut fields, ["methods", "notMethods"], methods);
    add(&mut fields, ["paths", "notPaths"], paths);
    fields
}

fn add<T: ToString>(fields: &mut Fields, names: [&str; 2], both: &Match<T>) {
    for (name, values) in names.into_iter().zip([&both.values, &both.not_values]) {
        if !values.is_empty() {
            fields.insert(name.to_owned(), texts(values));
        }
    }
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn condition(condition: &Condition) -> ConditionDescription {
    fn described<T: ToString>(key: &str, both: &Match<T>) -> ConditionDescription {
        ConditionDescription {
            key: key.to_owned(),
            values: texts(&both.values),
            not_values: texts(&both.not_values),
        }
    }
    match condition {
        Condition::Header(name, both) => described(&format!("request.headers[{name}]"), both),
        Condition::SourceIp(both) => described("source.ip", both),
        Condition::RemoteIp(both) => described("remote.ip", both),
        Condition::SourceNamespace(both) => described("source.namespace", both),
        Condition::SourceServiceAccount(both) => described("source.serviceAccount", both),
        Condition::SourceTrustDomain(both) => described("source.trustDomain", both),
        Condition::SourcePrincipal(both) => described("source.principal", both),
        Condition::DestinationIp(both) => described("destination.ip", both),
        Condition::DestinationPort(both) => described("destination.port", both),
        Condition::Sni(both) => described("connection.sni", both),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::resource::Resources;

    fn rule(text: &str) -> RuleDescription {
        let mut resources = Resources::default();
        let policy = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: foo}}\nspec: {{rules: [{text}]}}\n"
        );
        resources.read("p.yaml", &policy).unwrap();
        RuleDescription::of(&resources.authorization_policies[0].rules[0])
    }

    #[rstest]
    #[case("{}", "anyone: anything")]
    #[case(
        "{from: [{source: {principals: [cluster.local/ns/foo/sa/web]}}], to: [{operation: {methods: [GET, PUT], paths: [/a, /b/*]}}]}",
        "cluster.local/ns/foo/sa/web: GET or PUT /a or /b/*"
    )]
    #[case("{from: [{source: {principals: ['*']}}]}", "anyone with an identity: anything")]
    #[case("{from: [{source: {notPrincipals: ['*']}}]}", "anyone without an identity: anything")]
    #[case(
        "{from: [{source: {notNamespaces: [a, b]}}, {source: {serviceAccounts: [web]}}]}",
        "anyone but namespace a or b; or service account foo/web: anything"
    )]
    #[case(
        "{from: [{source: {namespaces: [a], notIpBlocks: [10.0.0.0/8]}}]}",
        "namespace a and not address 10.0.0.0/8: anything"
    )]
    #[case(
        "{to: [{operation: {paths: [/a], notMethods: [PUT], hosts: [x], ports: ['80']}}, {operation: {ports: ['81', '82', '83']}}]}",
        "anyone: any method but PUT, /a, host x, port 80; or port 81, 82 or 83"
    )]
    #[case(
        "{when: [{key: 'request.headers[X-Team]', values: [a, b], notValues: [c]}, {key: source.ip, notValues: [10.0.0.1]}]}",
        "anyone: anything, when request.headers[x-team] is a or b and not c and source.ip is not 10.0.0.1/32"
    )]
    fn a_rule_in_words_says(#[case] text: &str, #[case] words: &str) {
        assert_eq!(rule(text).to_string(), words);
    }

    #[test]
    fn of_many_values_the_first_are_named() {
        let many: Vec<String> = (1..=9).map(|number| number.to_string()).collect();
        assert_eq!(either(&many), "1, 2, 3, 4, 5, 6 or 3 more");
    }

    #[test]
    fn the_fields_keep_the_names_of_the_file() {
        let json = serde_json::to_value(rule(
            "{from: [{source: {notNamespaces: [a]}}], to: [{operation: {ports: ['80']}}], when: [{key: source.ip, values: [10.0.0.1]}]}",
        ));
        assert_eq!(
            json.unwrap(),
            serde_json::json!({
                "from": [{"notNamespaces": ["a"]}],
                "to": [{"ports": ["80"]}],
                "when": [{"key": "source.ip", "values": ["10.0.0.1/32"]}],
            })
        );
    }
}
