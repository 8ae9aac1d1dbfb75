//! Istio's resources as files hold them: checked when parsed, so that decisions need not check again.
//!
//! One file per kind. What they mean together is [`crate::policy`]'s and [`crate::registry`]'s.

mod peer_authentication;
mod service_entry;
mod workload_entry;

pub use peer_authentication::{PeerAuthentication, PortMode};
pub use service_entry::{Location, Port, Protocol, Resolution, ServiceEntry};
pub use workload_entry::WorkloadEntry;

use crate::yaml::YamlError;

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
}

/// All resources of a mesh folder, in reading order.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// `PeerAuthentication`.
    pub peer_authentications: Vec<PeerAuthentication>,
    /// `ServiceEntry`.
    pub service_entries: Vec<ServiceEntry>,
    /// `WorkloadEntry`.
    pub workload_entries: Vec<WorkloadEntry>,
}

impl Resources {
    /// Reads every document of one file and adds its resources. Empty documents are skipped.
    ///
    /// # Errors
    /// At the first fault; nothing is added then. An unknown kind, apiVersion, field or value is a fault.
    pub fn read(&mut self, _source_name: &str, _text: &str) -> Result<(), YamlError> {
        todo!()
    }
}
