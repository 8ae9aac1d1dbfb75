//! `ServiceEntry` (networking.istio.io): a service that outbound traffic may go to.

use ipnet::IpNet;

use super::{Meta, WorkloadEntry};
use crate::spiffe::SpiffeId;
use crate::workload::Selector;

/// One checked `ServiceEntry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Name, namespace, place.
    pub meta: Meta,
    /// `spec.hosts`, lower-case; at least one.
    pub hosts: Vec<String>,
    /// `spec.addresses`: virtual addresses.
    pub addresses: Vec<IpNet>,
    /// `spec.ports`; numbers and names are unique.
    pub ports: Vec<Port>,
    /// `spec.location`.
    pub location: Location,
    /// `spec.resolution`.
    pub resolution: Resolution,
    /// `spec.endpoints`.
    pub endpoints: Vec<WorkloadEntry>,
    /// `spec.workloadSelector`: endpoints are the `WorkloadEntry` resources of the same namespace that match.
    pub workload_selector: Option<Selector>,
    /// `spec.subjectAltNames`: identities that may serve besides the endpoints' service accounts.
    pub subject_alt_names: Vec<SpiffeId>,
}

/// One `spec.ports` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The service's port, which clients dial.
    pub number: u16,
    /// Its name; `endpoints[].ports` refers to it.
    pub name: String,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The port the workload listens on, where it differs.
    pub target_port: Option<u16>,
}

/// What is spoken on a port, as far as admission needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `HTTP`, `HTTP2`, `GRPC`.
    Http,
    /// `TCP`, `TLS`, `HTTPS`, `MONGO` or nothing declared: bytes.
    Tcp,
}

/// Istio's `location`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// Outside the mesh: never auto mTLS.
    MeshExternal,
    /// Part of the mesh.
    MeshInternal,
}

/// Istio's `resolution`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Forwarded to the address that the client dialled.
    None,
    /// The endpoints' addresses are IP addresses.
    Static,
    /// The endpoints' addresses, or the host where there are none, are looked up in DNS.
    Dns,
}
