//! From what is written to a policy that can be decided by.
//!
//! Beyond Istio's validation, a value that no request can have is refused: a DENY with it would deny nothing.

use super::value::{self, Values};
use super::written::{self, List, Spec};
use super::{Action, AuthorizationPolicy, Condition, Operation, Rule, Source};
use crate::resource::peer_authentication::check_literal;
use crate::resource::{Meta, Pattern};
use crate::yaml::{At, Document, YamlError, expected_one_of, quoted};

/// Why JWT fields are refused.
const NO_JWT: &str = "pillion reads no JWT (there is no RequestAuthentication), so no request has a principal of its own; \
    use `principals`, `serviceAccounts` or `namespaces`, which the peer's certificate proves";

/// Istio's validation. A spec that is absent allows nothing, as `spec: {}` does.
pub(in crate::resource) fn check(
    document: &Document<'_>,
    meta: Meta,
    dry_run: Option<&At<bool>>,
    spec: Option<At<Spec>>,
) -> Result<AuthorizationPolicy, YamlError> {
    let place = spec.as_ref().map(At::place);
    let spec = spec.map(|spec| spec.value).unwrap_or_default();
    if let Some(target) = spec.target_ref.as_ref().or(spec.target_refs.as_ref()) {
        let message = "targetRef and targetRefs attach a policy to a gateway or a waypoint, which pillion does not have; \
            pick workloads with `selector.matchLabels`";
        return Err(document.error(target, message));
    }
    if let Some(selector) = &spec.selector {
        check_literal(document, selector)?;
    }
    let action = check_action(document, &spec)?;
    if let Some(dry_run) = dry_run.filter(|_| action == Action::Audit) {
        let message =
            "istio.io/dry-run is for ALLOW and DENY; AUDIT changes nothing anyway, leave the annotation out";
        return Err(document.error(dry_run, message));
    }
    let rules = elements(document, spec.rules.as_ref(), "rules", |rule| check_rule(document, &meta, rule))?;
    if let (Some(place), Action::Deny | Action::Audit, []) = (&place, action, rules.as_slice()) {
        let message =
            format!("{action} without rules matches nothing; for every request write `rules: [{{}}]`");
        return Err(document.error(place, message));
    }
    Ok(AuthorizationPolicy {
        meta,
        selector: spec
            .selector
            .map(|selector| selector.value)
            .filter(|selector| !selector.match_labels.is_empty()),
        action,
        rules: rules.into(),
        dry_run: dry_run.is_some_and(|dry_run| dry_run.value),
    })
}

fn check_action(document: &Document<'_>, spec: &Spec) -> Result<Action, YamlError> {
    let written = spec.action.as_ref();
    if let Some(action) = written.filter(|action| action.value == written::Action::Custom) {
        let message = "CUSTOM asks an external authorizer, which pillion does not have; to let nobody in until then, write \
            `action: DENY` with the same rules";
        return Err(document.error(action, message));
    }
    let action = match written.map(|action| action.value) {
        Some(written::Action::Deny) => Action::Deny,
        Some(written::Action::Audit) => Action::Audit,
        Some(written::Action::Allow | written::Action::Custom) | None => Action::Allow,
    };
    match &spec.provider {
        Some(provider) => {
            Err(document
                .error(provider, format!("`provider` belongs to action CUSTOM, the action is {action}")))
        }
        None => Ok(action),
    }
}

/// Checks each element of a list, of which none may be null. A list that is not there has none.
fn elements<T, C>(
    document: &Document<'_>,
    list: Option<&List<T>>,
    name: &str,
    check: impl Fn(&At<T>) -> Result<C, YamlError>,
) -> Result<Vec<C>, YamlError> {
    let Some(list) = list else { return Ok(Vec::new()) };
    let check = |element: &Option<At<T>>| match element {
        Some(element) => check(element),
        None => Err(document.error(list, format!("an element of `{name}` is null; fill it or take it out"))),
    };
    list.value.iter().map(check).collect()
}

/// The same for a list that has an element if it is there at all: without any it would match whatever comes.
fn some_elements<T, C>(
    document: &Document<'_>,
    list: Option<&List<T>>,
    name: &str,
    check: impl Fn(&At<T>) -> Result<C, YamlError>,
) -> Result<Vec<C>, YamlError> {
    if let Some(list) = list.filter(|list| list.value.is_empty()) {
        return Err(
            document.error(list, format!("`{name}` is empty; leave it out if everything shall match"))
        );
    }
    elements(document, list, name, check)
}

fn check_rule(document: &Document<'_>, meta: &Meta, rule: &At<written::Rule>) -> Result<Rule, YamlError> {
    let written::Rule { from, to, when } = &rule.value;
    Ok(Rule {
        from: some_elements(document, from.as_ref(), "from", |from| check_from(document, meta, from))?,
        to: some_elements(document, to.as_ref(), "to", |to| check_to(document, to))?,
        when: elements(document, when.as_ref(), "when", |when| check_condition(document, meta, when))?,
    })
}

fn check_from(document: &Document<'_>, meta: &Meta, from: &At<written::From>) -> Result<Source, YamlError> {
    let Some(source) = &from.value.source else {
        return Err(document.error(from, "expected `source` with at least one field"));
    };
    if let Some(jwt) = source.request_principals.first().or(source.not_request_principals.first()) {
        return Err(document.error(jwt, format!("requestPrincipals and notRequestPrincipals: {NO_JWT}")));
    }
    let values = Values(document);
    let accounts = |accounts| values.service_accounts(meta, accounts);
    let checked = Source {
        principals: values.both(&source.principals, &source.not_principals, value::principal)?,
        namespaces: values.both(&source.namespaces, &source.not_namespaces, value::namespace)?,
        service_accounts: super::Match {
            values: accounts(&source.service_accounts)?,
            not_values: accounts(&source.not_service_accounts)?,
        },
        trust_domains: values.both(&source.trust_domains, &source.not_trust_domains, value::trust_domain)?,
        ip_blocks: values.both(&source.ip_blocks, &source.not_ip_blocks, value::ip_block)?,
        remote_ip_blocks: values.both(
            &source.remote_ip_blocks,
            &source.not_remote_ip_blocks,
            value::ip_block,
        )?,
    };
    if checked == Source::default() {
        return Err(document.error(
            from,
            "`source` has no field with a value; leave `from` out if every source shall match",
        ));
    }
    let names_others = !(checked.principals.is_empty() && checked.namespaces.is_empty());
    if let Some(account) = source.service_accounts.first().or(source.not_service_accounts.first())
        && names_others
    {
        let message = "serviceAccounts stands without principals and namespaces: `<namespace>/<service account>` says both";
        return Err(document.error(account, message));
    }
    Ok(checked)
}

fn check_to(document: &Document<'_>, to: &At<written::To>) -> Result<Operation, YamlError> {
    let Some(operation) = &to.value.operation else {
        return Err(document.error(to, "expected `operation` with at least one field"));
    };
    let values = Values(document);
    let checked = Operation {
        hosts: values.both(&operation.hosts, &operation.not_hosts, value::host)?,
        ports: values.both(&operation.ports, &operation.not_ports, value::port)?,
        methods: values.both(&operation.methods, &operation.not_methods, value::method)?,
        paths: values.both(&operation.paths, &operation.not_paths, value::path)?,
    };
    if checked == Operation::default() {
        return Err(document.error(
            to,
            "`operation` has no field with a value; leave `to` out if every operation shall match",
        ));
    }
    Ok(checked)
}

/// The keys that are known, for a person.
const KEYS: [&str; 10] = [
    "request.headers[…]",
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.serviceAccount",
    "source.trustDomain",
    "source.principal",
    "destination.ip",
    "destination.port",
    "connection.sni",
];

fn check_condition(
    document: &Document<'_>,
    meta: &Meta,
    condition: &At<written::Condition>,
) -> Result<Condition, YamlError> {
    let written::Condition { key, values: written, not_values } = &condition.value;
    if written.is_empty() && not_values.is_empty() {
        let seen = quoted(&key.value);
        return Err(document.error(key, format!("key {seen} needs `values` or `notValues`")));
    }
    let values = Values(document);
    Ok(match key.value.as_str() {
        "source.ip" => Condition::SourceIp(values.both(written, not_values, value::ip_block)?),
        "remote.ip" => Condition::RemoteIp(values.both(written, not_values, value::ip_block)?),
        "source.namespace" => {
            Condition::SourceNamespace(values.both(written, not_values, value::namespace)?)
        }
        "source.serviceAccount" => Condition::SourceServiceAccount(super::Match {
            values: values.service_accounts(meta, written)?,
            not_values: values.service_accounts(meta, not_values)?,
        }),
        "source.trustDomain" => {
            Condition::SourceTrustDomain(values.both(written, not_values, value::trust_domain)?)
        }
        "source.principal" => {
            Condition::SourcePrincipal(values.both(written, not_values, value::principal)?)
        }
        "destination.ip" => Condition::DestinationIp(values.both(written, not_values, value::ip_block)?),
        "destination.port" => Condition::DestinationPort(values.both(written, not_values, value::port)?),
        "connection.sni" => Condition::Sni(values.both(written, not_values, value::sni)?),
        other => match header_name(other).map_err(|fault| document.error(key, fault))? {
            name if name == ":authority" => {
                Condition::Header(name, values.both(written, not_values, value::host)?)
            }
            name if name == ":method" => {
                Condition::Header(name, values.both(written, not_values, value::method)?)
            }
            name => Condition::Header(name, values.both(written, not_values, Pattern::parse)?),
        },
    })
}

/// The name within `request.headers[…]`, in lower case, `host` as `:authority`; or why the key is refused.
fn header_name(key: &str) -> Result<String, String> {
    if key.starts_with("request.auth.") {
        return Err(format!("{}: {NO_JWT}", quoted(key)));
    }
    if key.starts_with("experimental.envoy.filters.") {
        return Err(format!("{} asks for metadata of Envoy's filters, which do not exist here", quoted(key)));
    }
    if key == "destination.namespace" {
        return Err(
            "destination.namespace is not known any more: it is the policy's metadata.namespace".to_owned()
        );
    }
    if key.starts_with("destination.labels") || key == "destination.name" || key == "destination.user" {
        return Err(format!("{} is not known any more: pick workloads with `selector`", quoted(key)));
    }
    let Some(brackets) = key.strip_prefix("request.headers") else {
        return Err(format!("unknown key {}{}", quoted(key), expected_one_of(key, &KEYS)));
    };
    let name = brackets.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or_default();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match name.to_ascii_lowercase().as_str() {
        "host" | ":authority" => Ok(":authority".to_owned()),
        name @ (":method" | ":path") => Ok(name.to_owned()),
        name if !name.is_empty() && name.bytes().all(is_token) => Ok(name.to_owned()),
        _ => Err(format!(
            "expected the name of a header, as `request.headers[User-Agent]`, or `:method`, `:authority` or `:path`, \
             seen {}",
            quoted(key)
        )),
    }
}
