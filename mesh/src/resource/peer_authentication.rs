//! `PeerAuthentication` (security.istio.io): what inbound ports accept.

use std::collections::BTreeMap;

use super::Meta;
use crate::policy::mode::Mode;
use crate::workload::Selector;

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
}
