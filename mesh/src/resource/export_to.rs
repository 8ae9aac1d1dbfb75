//! `exportTo`: the namespaces that see a resource.

use super::meta::is_dns_label;
use crate::yaml::{At, Document, YamlError, quoted};

/// Namespaces by name; `*` is every one, `.` its own, `~` none. Empty is `*`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportTo(Vec<String>);

impl ExportTo {
    /// Whether workloads of `namespace` see a resource of namespace `own`.
    #[must_use]
    pub fn reaches(&self, namespace: &str, own: &str) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|to| match to.as_str() {
                "*" => true,
                "." => namespace == own,
                name => namespace == name,
            })
    }
}

pub(super) fn check_export_to(
    document: &Document<'_>,
    written: Vec<At<String>>,
) -> Result<ExportTo, YamlError> {
    let check = |to: At<String>| {
        if matches!(to.value.as_str(), "*" | "." | "~") || is_dns_label(&to.value) {
            return Ok(to.value);
        }
        Err(document.error(&to, format!("expected a namespace, `.`, `*` or `~`, seen {}", quoted(&to.value))))
    };
    Ok(ExportTo(written.into_iter().map(check).collect::<Result<_, _>>()?))
}
