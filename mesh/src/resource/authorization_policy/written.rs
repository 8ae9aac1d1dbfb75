//! `spec` of an `AuthorizationPolicy` as it stands in the file.
//!
//! A null is not a value that was left out: `from:` without anything under it would otherwise mean "whoever".

use serde::de::{Deserialize, Deserializer, IgnoredAny};

use crate::workload::Selector;
use crate::yaml::At;

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::resource) struct Spec {
    pub(super) selector: Option<At<Selector>>,
    pub(super) target_ref: Option<At<IgnoredAny>>,
    pub(super) target_refs: Option<At<IgnoredAny>>,
    pub(super) action: Option<At<Action>>,
    pub(super) provider: Option<At<IgnoredAny>>,
    #[serde(default, deserialize_with = "written")]
    pub(super) rules: Option<List<Rule>>,
}

#[derive(Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Action {
    Allow,
    Deny,
    Audit,
    Custom,
}

/// Elements that must not be null.
pub(super) type List<T> = At<Vec<Option<At<T>>>>;
/// The values of a field. None at all is as if the field were not there.
pub(super) type Values = Vec<At<String>>;

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Rule {
    #[serde(default, deserialize_with = "written")]
    pub(super) from: Option<List<From>>,
    #[serde(default, deserialize_with = "written")]
    pub(super) to: Option<List<To>>,
    #[serde(default, deserialize_with = "written")]
    pub(super) when: Option<List<Condition>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    pub(super) source: Option<Source>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct To {
    pub(super) operation: Option<Operation>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
pub(super) struct Source {
    pub(super) principals: Values,
    pub(super) not_principals: Values,
    pub(super) request_principals: Values,
    pub(super) not_request_principals: Values,
    pub(super) namespaces: Values,
    pub(super) not_namespaces: Values,
    pub(super) service_accounts: Values,
    pub(super) not_service_accounts: Values,
    pub(super) trust_domains: Values,
    pub(super) not_trust_domains: Values,
    pub(super) ip_blocks: Values,
    pub(super) not_ip_blocks: Values,
    pub(super) remote_ip_blocks: Values,
    pub(super) not_remote_ip_blocks: Values,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
pub(super) struct Operation {
    pub(super) hosts: Values,
    pub(super) not_hosts: Values,
    pub(super) ports: Values,
    pub(super) not_ports: Values,
    pub(super) methods: Values,
    pub(super) not_methods: Values,
    pub(super) paths: Values,
    pub(super) not_paths: Values,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Condition {
    pub(super) key: At<String>,
    #[serde(default)]
    pub(super) values: Values,
    #[serde(default)]
    pub(super) not_values: Values,
}

/// `Some` for all that is written, null included.
fn written<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}
