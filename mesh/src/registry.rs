//! Services and their endpoints: what lies behind an address that an app dialled.
//!
//! Names are resolved by the caller and handed in as [`Addresses`]; this file asks no DNS.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::policy::mode::Mode;
use crate::resource::{Location, Protocol};
use crate::spiffe::SpiffeId;

/// What DNS said of each name last.
pub type Addresses = HashMap<String, Vec<IpAddr>>;

/// All services of the mesh folder, indexed for constant-time look-up.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    // private index
}

/// A known service port with the endpoint to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The service's host name (its first).
    pub host: String,
    /// The `ServiceEntry`, `namespace/name`.
    pub service_entry: String,
    /// The service's port.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// In or outside the mesh.
    pub location: Location,
    /// Where to connect; with several endpoints the choice turns with each look-up (`turn`).
    pub endpoint: SocketAddr,
    /// Whether that endpoint is known to have a sidecar.
    pub has_sidecar: bool,
    /// What the endpoint's port accepts by the PeerAuthentications known here.
    pub endpoint_mode: Mode,
    /// The identities that may serve this host.
    pub identities: Vec<SpiffeId>,
}

/// Why a look-up found no endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// No service has this address and port.
    Unknown,
    /// The service is known, but none of its names has an address (its host is named).
    NoEndpoint(String),
}

impl Registry {
    /// By the address that an app dialled: a virtual address and service port, or an endpoint's address with the
    /// service port or the endpoint's own port. A dialled endpoint is kept; behind a virtual address `turn` picks one.
    ///
    /// # Errors
    /// [`Miss`].
    pub fn lookup(&self, _original: SocketAddr, _turn: usize) -> Result<Destination, Miss> {
        todo!()
    }

    /// By host and port, for explicit listeners: the full name, or the name before `.<namespace>.svc.cluster.local`
    /// in the caller's own namespace.
    ///
    /// # Errors
    /// [`Miss`].
    pub fn lookup_host(&self, _host: &str, _port: u16, _turn: usize) -> Result<Destination, Miss> {
        todo!()
    }

    /// The names that the caller shall resolve.
    #[must_use]
    pub fn names_to_resolve(&self) -> &[String] {
        todo!()
    }

    /// Whether a service whose names DNS resolves has this port, so that an unknown address on it may be a fresh one.
    #[must_use]
    pub fn may_be_stale(&self, _port: u16) -> bool {
        todo!()
    }

    /// The same services with fresh addresses.
    #[must_use]
    pub fn with_addresses(&self, _addresses: &Addresses) -> Registry {
        todo!()
    }

    /// All service ports with their endpoints, for `/endpoints`, in file order.
    #[must_use]
    pub fn destinations(&self) -> Vec<Destination> {
        todo!()
    }
}
