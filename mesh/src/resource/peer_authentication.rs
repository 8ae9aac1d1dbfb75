//! `PeerAuthentication` (security.istio.io): what inbound ports accept.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Meta;
use super::port_number::PortNumber;
use crate::policy::mode::Mode;
use crate::workload::Selector;
use crate::yaml::{At, Document, YamlError, quoted};

/// A mode as written; UNSET or absent inherits.
pub type PortMode = Option<Mode>;

/// One checked `PeerAuthentication`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// Name, namespace, place.
    pub meta: Meta,
    /// `spec.selector`; absent or empty means namespace scope, or mesh scope in the root namespace.
    pub selector: Option<Selector>,
    /// `spec.mtls.mode`.
    pub mode: Option<Mode>,
    /// `spec.portLevelMtls`; only together with a selector.
    pub ports: BTreeMap<u16, PortMode>,
    /// Annotation `pillion.io/reason`: why plaintext is let in, where it is.
    pub reason: Option<String>,
    /// Annotation `istio.io/dry-run`: what the policy would do is only told.
    pub dry_run: bool,
}

/// `spec` as written.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    selector: Option<At<Selector>>,
    mtls: Option<Mtls>,
    port_level_mtls: Option<At<BTreeMap<PortNumber, Mtls>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mtls {
    mode: Option<WrittenMode>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum WrittenMode {
    Unset,
    Disable,
    Permissive,
    Strict,
}

impl Mtls {
    fn mode(&self) -> PortMode {
        match self.mode? {
            WrittenMode::Unset => None,
            WrittenMode::Disable => Some(Mode::Disable),
            WrittenMode::Permissive => Some(Mode::Permissive),
            WrittenMode::Strict => Some(Mode::Strict),
        }
    }
}

/// Istio's validation. A spec that is absent inherits everything, as `spec: {}` does.
pub(super) fn check(
    document: &Document<'_>,
    meta: Meta,
    reason: Option<String>,
    dry_run: bool,
    spec: Option<Spec>,
) -> Result<PeerAuthentication, YamlError> {
    let Spec { selector, mtls, port_level_mtls } = spec.unwrap_or_default();
    if let Some(selector) = &selector {
        check_literal(document, selector)?;
    }
    if let Some(ports) = &port_level_mtls {
        if ports.value.is_empty() {
            return Err(document.error(ports, "portLevelMtls names no port; name one or leave it out"));
        }
        if selector.as_ref().is_none_or(|selector| selector.value.match_labels.is_empty()) {
            return Err(document.error(
                ports,
                "portLevelMtls needs a selector: a policy of a mesh or namespace has no ports; \
                 add `selector.matchLabels`",
            ));
        }
    }
    let ports = port_level_mtls.map(|ports| ports.value).unwrap_or_default();
    Ok(PeerAuthentication {
        meta,
        selector: selector
            .map(|selector| selector.value)
            .filter(|selector| !selector.match_labels.is_empty()),
        mode: mtls.and_then(|mtls| mtls.mode()),
        ports: ports.into_iter().map(|(port, mtls)| (port.0, mtls.mode())).collect(),
        reason,
        dry_run,
    })
}

/// A selector compares literally; who writes a `*` expects otherwise.
pub(super) fn check_literal(document: &Document<'_>, selector: &At<Selector>) -> Result<(), YamlError> {
    for (name, value) in &selector.value.match_labels {
        if name.is_empty() {
            return Err(document.error(selector, "a label of matchLabels has an empty name"));
        }
        if name.contains('*') || value.contains('*') {
            let seen = quoted(&format!("{name}: {value}"));
            return Err(document
                .error(selector, format!("matchLabels compares literally and knows no `*`, seen {seen}")));
        }
    }
    Ok(())
}
