//! PeerAuthentication to the mode of each port, and why: mesh, then namespace, then workload, then port
//! (Istio's `ComposePeerAuthentication`).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Finding;
use crate::resource::PeerAuthentication;
use crate::workload::Labels;

/// What an inbound port accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    /// Only mesh mTLS.
    Strict,
    /// Mesh mTLS, plaintext and the app's own TLS.
    Permissive,
    /// Whatever comes goes to the app unseen.
    Disable,
}

/// A mode with the policy that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortDecision {
    /// What the port accepts.
    pub mode: Mode,
    /// In words: `PeerAuthentication default/strict (namespace)`, or `no PeerAuthentication: the default`.
    pub because: String,
}

/// The resolved modes of one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modes {
    default: PortDecision,
    ports: BTreeMap<u16, PortDecision>,
}

impl Modes {
    /// Resolves the policies for a workload of `namespace` with `labels`. The second value names the policies that
    /// lost against another of the same scope.
    #[must_use]
    pub fn resolve(
        _policies: &[PeerAuthentication],
        _root_namespace: &str,
        _namespace: &str,
        _labels: &Labels,
    ) -> (Self, Vec<Finding>) {
        todo!()
    }

    /// The decision for a port of the workload (not of the service).
    #[must_use]
    pub fn for_port(&self, port: u16) -> &PortDecision {
        self.ports.get(&port).unwrap_or(&self.default)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Strict => "STRICT",
            Mode::Permissive => "PERMISSIVE",
            Mode::Disable => "DISABLE",
        })
    }
}
