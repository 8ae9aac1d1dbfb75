//! What istiod makes of AuthorizationPolicies for an Envoy sidecar (`pilot/pkg/security/authz`): one RBAC filter for AUDIT,
//! one for DENY, one for ALLOW, dry runs as their shadow rules.
//!
//! On TCP a field that only HTTP has drops a rule of ALLOW, and is left out of a rule of DENY or AUDIT.

use serde_json::{Map, Value, json};

use super::policy::{Action, Field, Policy, Rule};

/// Which filter chain the rules are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chain {
    Http,
    Tcp,
}

/// The RBAC filters of a workload, in their order.
pub(super) fn rbac_filters(policies: &[Policy], chain: Chain) -> Vec<Value> {
    [Action::Audit, Action::Deny, Action::Allow]
        .into_iter()
        .filter_map(|action| {
            let of_action: Vec<&Policy> =
                policies.iter().filter(|policy| policy.applies() && policy.action == action).collect();
            (!of_action.is_empty()).then(|| filter(&of_action, action, chain))
        })
        .collect()
}

fn filter(policies: &[&Policy], action: Action, chain: Chain) -> Value {
    let name = match chain {
        Chain::Http => "http",
        Chain::Tcp => "network",
    };
    let mut config = json!({
        "@type": format!("type.googleapis.com/envoy.extensions.filters.{name}.rbac.v3.RBAC"),
    });
    if chain == Chain::Tcp {
        config["stat_prefix"] = "tcp.".into();
    }
    for (key, dry_run) in [("rules", false), ("shadow_rules", true)] {
        let some: Vec<&Policy> =
            policies.iter().copied().filter(|policy| policy.dry_run == dry_run).collect();
        if !some.is_empty() {
            config[key] = rbac(&some, action, chain);
        }
    }
    json!({"name": format!("envoy.filters.{name}.rbac"), "typed_config": config})
}

fn rbac(policies: &[&Policy], action: Action, chain: Chain) -> Value {
    let word = match action {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
        Action::Audit => "LOG",
    };
    let mut rules = Map::new();
    for policy in policies {
        let name = |number| format!("ns[{}]-policy[{}]-rule[{number}]", policy.namespace, policy.name);
        if policy.rules.is_empty() {
            let never = json!({
                "permissions": [{"not_rule": {"any": true}}],
                "principals": [{"not_id": {"any": true}}],
            });
            rules.insert(name(0), never);
        }
        for (number, rule) in policy.rules.iter().enumerate() {
            if let Ok(rule) = rule_of(rule, policy, chain) {
                rules.insert(name(number), rule);
            }
        }
    }
    json!({"action": word, "policies": rules})
}

/// A rule of ALLOW asks for what only HTTP has, and is for TCP.
struct HttpOnly;

/// Conditions are part of each alternative: those of the peer of each source, the others of each operation.
fn rule_of(rule: &Rule, policy: &Policy, chain: Chain) -> Result<Value, HttpOnly> {
    let (of_peer, of_target): (Vec<&Field>, Vec<&Field>) =
        rule.when.iter().partition(|field| is_about_the_peer(field.name));
    let alternatives = |written: &'_ [Vec<Field>], base: &[&Field], words: &Words| {
        let written: Vec<Vec<&Field>> = if written.is_empty() {
            vec![base.to_vec()]
        } else {
            written.iter().map(|fields| fields.iter().chain(base.iter().copied()).collect()).collect()
        };
        let all = |fields: &Vec<&Field>| all_of(fields, policy, chain, words);
        written.iter().map(all).collect::<Result<Vec<Value>, HttpOnly>>()
    };
    Ok(json!({
        "permissions": alternatives(&rule.to, &of_target, &PERMISSION)?,
        "principals": alternatives(&rule.from, &of_peer, &PRINCIPAL)?,
    }))
}

fn is_about_the_peer(key: &str) -> bool {
    key.starts_with("source.") || key.starts_with("remote.") || key.starts_with("request.headers")
}

/// What the parts of a permission or of a principal are called.
struct Words {
    and: &'static str,
    or: &'static str,
    not: &'static str,
    list: &'static str,
}

const PERMISSION: Words = Words { and: "and_rules", or: "or_rules", not: "not_rule", list: "rules" };
const PRINCIPAL: Words = Words { and: "and_ids", or: "or_ids", not: "not_id", list: "ids" };

fn all_of(fields: &[&Field], policy: &Policy, chain: Chain, words: &Words) -> Result<Value, HttpOnly> {
    let mut all = Vec::new();
    for field in fields {
        if chain == Chain::Tcp && is_http_only(field.name) {
            if policy.action == Action::Allow {
                return Err(HttpOnly);
            }
            continue;
        }
        let any = |values: &[String]| {
            let any: Vec<Value> = values.iter().map(|value| matcher(field.name, value, policy)).collect();
            json!({ words.or: { words.list: any } })
        };
        if !field.values.is_empty() {
            all.push(any(&field.values));
        }
        if !field.not_values.is_empty() {
            all.push(json!({ words.not: any(&field.not_values) }));
        }
    }
    if all.is_empty() {
        all.push(json!({"any": true}));
    }
    Ok(json!({ words.and: { words.list: all } }))
}

fn is_http_only(name: &str) -> bool {
    ["hosts", "methods", "paths"].contains(&name) || name.starts_with("request.headers")
}

/// What one value of a field matches.
fn matcher(name: &str, value: &str, policy: &Policy) -> Value {
    match name {
        "principals" | "source.principal" => authenticated(&text_behind("spiffe://", value)),
        "namespaces" | "source.namespace" => {
            let parts: Vec<String> = value.split('*').map(literal).collect();
            authenticated(&regex(&format!(".*/ns/{}/.*", parts.join(".*"))))
        }
        "serviceAccounts" | "source.serviceAccount" => {
            let (namespace, account) = value.split_once('/').unwrap_or((policy.namespace, value));
            let (namespace, account) = (literal(namespace), literal(account));
            authenticated(&regex(&format!("spiffe://.+/ns/{namespace}/(.+/|)sa/{account}(/.+)?")))
        }
        "trustDomains" | "source.trustDomain" => authenticated(&trust_domain(value)),
        "ipBlocks" | "source.ip" => json!({"direct_remote_ip": range(value)}),
        "remoteIpBlocks" | "remote.ip" => json!({"remote_ip": range(value)}),
        "destination.ip" => json!({"destination_ip": range(value)}),
        "ports" | "destination.port" => json!({"destination_port": value.parse::<u16>().unwrap()}),
        "connection.sni" => json!({"requested_server_name": text_behind("", value)}),
        "hosts" => header(":authority", value, true),
        "methods" => header(":method", value, false),
        "paths" if value.contains("{*}") || value.contains("{**}") => json!({"uri_template": {
            "name": "uri-template",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                "path_template": value.replace("{**}", "**").replace("{*}", "*"),
            },
        }}),
        "paths" => json!({"url_path": {"path": text_behind("", value)}}),
        _ => {
            let name = name.strip_prefix("request.headers[").and_then(|name| name.strip_suffix(']'));
            header(name.unwrap_or_else(|| panic!("no such field: {value}")), value, false)
        }
    }
}

fn authenticated(name: &Value) -> Value {
    json!({"authenticated": {"principal_name": name}})
}

/// Presence is any text but none.
fn text_behind(prefix: &str, value: &str) -> Value {
    if value == "*" {
        regex(".+")
    } else if let Some(end) = value.strip_prefix('*') {
        if prefix.is_empty() { json!({"suffix": end}) } else { regex(&format!("{prefix}.*{}", literal(end))) }
    } else if let Some(start) = value.strip_suffix('*') {
        json!({"prefix": format!("{prefix}{start}")})
    } else {
        json!({"exact": format!("{prefix}{value}")})
    }
}

fn trust_domain(value: &str) -> Value {
    match value.split_once('*') {
        Some(("", "")) => json!({"prefix": "spiffe://"}),
        Some((start, end)) => regex(&format!("spiffe://{}[^/]*{}/.*", literal(start), literal(end))),
        None => json!({"prefix": format!("spiffe://{value}/")}),
    }
}

fn header(name: &str, value: &str, ignore_case: bool) -> Value {
    if value == "*" {
        return json!({"header": {"name": name, "present_match": true}});
    }
    let mut text = text_behind("", value);
    if ignore_case {
        text["ignore_case"] = true.into();
    }
    json!({"header": {"name": name, "string_match": text}})
}

fn regex(text: &str) -> Value {
    json!({"safe_regex": {"regex": text}})
}

fn literal(text: &str) -> String {
    let escape = |c: char| (!c.is_alphanumeric() && c != '_').then_some('\\');
    text.chars().flat_map(|c| escape(c).into_iter().chain([c])).collect()
}

fn range(value: &str) -> Value {
    let (address, length) = value.split_once('/').unwrap_or((value, "32"));
    json!({"address_prefix": address, "prefix_len": length.parse::<u8>().unwrap()})
}
