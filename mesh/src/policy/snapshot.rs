//! Everything resolved for one workload, immutable. A connection takes one snapshot and all its decisions come from it.

use super::mode::Modes;
use crate::registry::{Addresses, Registry};
use crate::resource::{Protocol, Resources};
use crate::workload::Workload;

/// Something legal that is probably not meant: a policy that lost, a port that is declared twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `file:line` of the resource.
    pub place: String,
    /// What is so and what it causes.
    pub message: String,
}

/// What the mesh folder means for one workload.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The modes of the workload's ports.
    pub modes: Modes,
    /// Where outbound traffic can go.
    pub registry: Registry,
    /// What is legal but probably not meant.
    pub findings: Vec<Finding>,
}

impl Snapshot {
    /// Resolves all resources for `workload`. Names in the registry have no addresses yet.
    #[must_use]
    pub fn build(_resources: &Resources, _workload: &Workload, _root_namespace: &str) -> Self {
        todo!()
    }

    /// The declared protocol of one of the workload's own ports: of a `ServiceEntry` whose selector, or one of whose
    /// endpoints by namespace, service account and labels, is this workload; otherwise TCP.
    #[must_use]
    pub fn protocol(&self, _port: u16) -> Protocol {
        todo!()
    }

    /// The same with fresh addresses of names.
    #[must_use]
    pub fn with_addresses(&self, _addresses: &Addresses) -> Self {
        todo!()
    }
}
