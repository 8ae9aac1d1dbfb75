//! `AuthorizationPolicy` (security.istio.io): who may do what, checked as Istio's validation does and where a value
//! could never match. What the policies decide together is [`crate::policy::authz`]'s.

mod check;
mod value;
mod written;

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Meta, Pattern};
use crate::policy::path::Template;
use crate::workload::Selector;

pub(super) use check::check;
pub(super) use written::Spec;

/// One checked `AuthorizationPolicy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Name, namespace, place.
    pub meta: Meta,
    /// `spec.selector`; absent or empty means every workload of the namespace, or of the mesh in the root namespace.
    pub selector: Option<Selector>,
    /// `spec.action`.
    pub action: Action,
    /// `spec.rules`; the policy matches when one of them does, and never where there are none.
    pub rules: Arc<[Rule]>,
    /// Annotation `istio.io/dry-run`: what the policy would do is only told.
    pub dry_run: bool,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// It is allowed; where an ALLOW policy applies, what none of them matches is denied.
    #[default]
    Allow,
    /// It is denied, whatever ALLOW policies say.
    Deny,
    /// It is marked in the log; nothing else changes.
    Audit,
}

/// Matches when one source, one operation and all conditions do. An empty list matches whatever comes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// `from`: one of these.
    pub from: Vec<Source>,
    /// `to`: one of these.
    pub to: Vec<Operation>,
    /// `when`: all of these.
    pub when: Vec<Condition>,
}

/// One field's values and those of its `not…` twin. Matches when one value does, or there are none, and no `not` value
/// does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match<T> {
    /// One of these must match, if there are any.
    pub values: Vec<T>,
    /// None of these may match.
    pub not_values: Vec<T>,
}

/// `from[].source`: matches when all fields do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// `principals`: SPIFFE IDs without their scheme.
    pub principals: Match<Pattern>,
    /// `namespaces`.
    pub namespaces: Match<Pattern>,
    /// `serviceAccounts`.
    pub service_accounts: Match<ServiceAccount>,
    /// `trustDomains`.
    pub trust_domains: Match<Pattern>,
    /// `ipBlocks`: the address that the connection comes from.
    pub ip_blocks: Match<IpNet>,
    /// `remoteIpBlocks`: the address of the original client.
    pub remote_ip_blocks: Match<IpNet>,
}

/// `to[].operation`: matches when all fields do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Operation {
    /// `hosts`, in lower case.
    pub hosts: Match<Pattern>,
    /// `ports`, of the workload.
    pub ports: Match<u16>,
    /// `methods`.
    pub methods: Match<Pattern>,
    /// `paths`, in the form that [`crate::policy::path`] gives to the paths of requests.
    pub paths: Match<PathPattern>,
}

/// `when[]`: a key and its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// `request.headers[…]`, the name in lower case.
    Header(String, Match<Pattern>),
    /// `source.ip`.
    SourceIp(Match<IpNet>),
    /// `remote.ip`.
    RemoteIp(Match<IpNet>),
    /// `source.namespace`.
    SourceNamespace(Match<Pattern>),
    /// `source.serviceAccount`.
    SourceServiceAccount(Match<ServiceAccount>),
    /// `source.trustDomain`.
    SourceTrustDomain(Match<Pattern>),
    /// `source.principal`.
    SourcePrincipal(Match<Pattern>),
    /// `destination.ip`.
    DestinationIp(Match<IpNet>),
    /// `destination.port`.
    DestinationPort(Match<u16>),
    /// `connection.sni`, in lower case.
    Sni(Match<Pattern>),
}

/// A service account with its namespace, the policy's own where none is written. Compared literally.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A value of `paths`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    /// Exact, prefix, suffix or presence.
    Text(Pattern),
    /// With `{*}` or `{**}`.
    Template(Template),
}

impl<T> Match<T> {
    /// Whether the field says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.not_values.is_empty()
    }
}

/// Says nothing.
impl<T> Default for Match<T> {
    fn default() -> Self {
        Self { values: Vec::new(), not_values: Vec::new() }
    }
}

impl Operation {
    /// Whether it has fields that only an HTTP request can answer.
    #[must_use]
    pub fn needs_http(&self) -> bool {
        !(self.hosts.is_empty() && self.methods.is_empty() && self.paths.is_empty())
    }
}

impl Condition {
    /// Whether only an HTTP request can answer it.
    #[must_use]
    pub fn needs_http(&self) -> bool {
        matches!(self, Self::Header(..))
    }
}

impl Rule {
    /// Whether it has fields that only an HTTP request can answer.
    #[must_use]
    pub fn needs_http(&self) -> bool {
        self.to.iter().any(Operation::needs_http) || self.when.iter().any(Condition::needs_http)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
        })
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(pattern) => pattern.fmt(f),
            Self::Template(template) => template.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
