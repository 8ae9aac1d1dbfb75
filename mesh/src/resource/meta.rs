//! What every resource has around its `spec`: apiVersion, kind, metadata, status.

use serde::Deserialize;
use serde::de::IgnoredAny;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::workload::Labels;
use crate::yaml::{At, Document, YamlError, quoted};

/// Where a resource stands and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`, `default` where absent.
    pub namespace: String,
    /// `metadata.creationTimestamp` as seconds since the epoch; decides between policies of one scope.
    pub created: Option<i64>,
    /// `file:line` of the document's first line.
    pub place: String,
    /// Position among all documents read, in file name order.
    pub position: usize,
}

impl Meta {
    /// `namespace/name`, as istioctl prints it.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Sorts the oldest first, by which one of several of the same scope is chosen: by `creationTimestamp`, those of one
    /// second by their names; those without one come last, in reading order.
    pub(crate) fn age(&self) -> (bool, Option<i64>, Option<(&str, &str)>, usize) {
        let name = self.created.map(|_| (self.name.as_str(), self.namespace.as_str()));
        (self.created.is_none(), self.created, name, self.position)
    }
}

/// A resource around its `spec`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Envelope<Spec> {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    pub(super) metadata: At<Metadata>,
    pub(super) spec: Spec,
    /// What a cluster last saw; nobody writes it by hand.
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

/// `metadata` as written. What a cluster adds (`kubectl get -o yaml`) is taken and not looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Metadata {
    name: At<String>,
    namespace: Option<At<String>>,
    #[serde(default)]
    pub(super) labels: Labels,
    annotations: Option<Annotations>,
    creation_timestamp: Option<At<String>>,
    #[serde(rename = "uid")]
    _uid: Option<IgnoredAny>,
    #[serde(rename = "resourceVersion")]
    _resource_version: Option<IgnoredAny>,
    #[serde(rename = "generation")]
    _generation: Option<IgnoredAny>,
    #[serde(rename = "managedFields")]
    _managed_fields: Option<IgnoredAny>,
    #[serde(rename = "selfLink")]
    _self_link: Option<IgnoredAny>,
    #[serde(rename = "finalizers")]
    _finalizers: Option<IgnoredAny>,
    #[serde(rename = "ownerReferences")]
    _owner_references: Option<IgnoredAny>,
    #[serde(rename = "deletionTimestamp")]
    _deletion_timestamp: Option<IgnoredAny>,
    #[serde(rename = "deletionGracePeriodSeconds")]
    _deletion_grace_period_seconds: Option<IgnoredAny>,
    #[serde(rename = "generateName")]
    _generate_name: Option<IgnoredAny>,
}

/// Annotations are notes for tools; two mean something here.
#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "istio.io/dry-run")]
    dry_run: Option<At<String>>,
    #[serde(rename = "pillion.io/reason")]
    reason: Option<String>,
}

impl At<Metadata> {
    /// `pillion.io/reason` in one line, for the kind whose exceptions need one. Nothing but spaces is none.
    pub(super) fn take_reason(&mut self) -> Option<String> {
        let reason = self.value.annotations.as_mut()?.reason.take()?;
        let words: Vec<&str> = reason.split(|c: char| c.is_whitespace() || c.is_control()).collect();
        let line = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        (!line.is_empty()).then_some(line)
    }

    /// `istio.io/dry-run`, for the kinds that have it; on the others [`Self::check`] refuses it.
    pub(super) fn take_dry_run(&mut self, document: &Document<'_>) -> Result<Option<At<bool>>, YamlError> {
        let Some(written) = self.value.annotations.as_mut().and_then(|all| all.dry_run.take()) else {
            return Ok(None);
        };
        // What Go's ParseBool takes, as Istio does.
        match written.value.as_str() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Some(written.with(true))),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Some(written.with(false))),
            other => {
                let seen = quoted(other);
                Err(document.error(&written, format!("istio.io/dry-run is `true` or `false`, seen {seen}")))
            }
        }
    }

    pub(super) fn check(
        self,
        document: &Document<'_>,
        place: String,
        position: usize,
    ) -> Result<Meta, YamlError> {
        let Metadata { name, namespace, creation_timestamp, annotations, .. } = self.value;
        if let Some(dry_run) = annotations.and_then(|annotations| annotations.dry_run) {
            let message = "istio.io/dry-run is an annotation of policies; this resource would be in force";
            return Err(document.error(&dry_run, message));
        }
        if !is_dns_name(&name.value) {
            return Err(document.error(&name, not_a_name("metadata.name", &name.value)));
        }
        if let Some(namespace) = namespace.as_ref().filter(|namespace| !is_dns_label(&namespace.value)) {
            return Err(document.error(namespace, not_a_name("metadata.namespace", &namespace.value)));
        }
        Ok(Meta {
            name: name.value,
            namespace: namespace.map_or_else(|| "default".to_owned(), |namespace| namespace.value),
            created: creation_timestamp.map(|at| seconds_since_epoch(document, &at)).transpose()?,
            place,
            position,
        })
    }
}

fn not_a_name(field: &str, seen: &str) -> String {
    format!("{field} is made of a-z, 0-9 and `-`, as Kubernetes has it, seen {}", quoted(seen))
}

fn seconds_since_epoch(document: &Document<'_>, at: &At<String>) -> Result<i64, YamlError> {
    OffsetDateTime::parse(&at.value, &Rfc3339).map(OffsetDateTime::unix_timestamp).map_err(|_| {
        let seen = quoted(&at.value);
        document.error(at, format!("expected a time such as `2026-01-31T12:00:00Z` (RFC 3339), seen {seen}"))
    })
}

/// A label of RFC 1123: at most 63 of a-z, 0-9 and `-`, no `-` at either end.
pub(super) fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Labels of RFC 1123 between dots, at most 253 bytes.
pub(super) fn is_dns_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}
