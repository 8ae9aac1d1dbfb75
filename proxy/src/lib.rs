//! The sidecar: captures TCP beside a service, terminates and originates mutual TLS between SPIFFE identities, and
//! applies the mesh's policies.
//!
//! The I/O shell. What is decided is decided in `pillion_mesh`; `ARCHITECTURE.md` draws the life of a connection
//! with the names used here.

// What only the Workload API uses stays in place without it.
#![cfg_attr(not(feature = "workload-api"), allow(dead_code, unused_imports))]

mod admin;
mod app;
mod authorize;
pub mod chain;
mod connections;
mod cut;
pub mod dashboard;
mod dns;
mod drain;
mod entry;
mod files;
pub mod folder;
mod gateway;
mod http;
mod identity;
mod inbound;
mod listener;
mod live;
#[doc(hidden)]
pub mod measure;
mod memory;
pub mod names;
mod net;
mod outbound;
mod page;
mod reload;
mod resolver;
mod settings;
pub mod sidecar_file;
mod telemetry;
mod tls;
mod tunnel;
mod workers;
#[cfg(feature = "workload-api")]
mod workload_api;

pub use entry::{agent_main_with, command, main_with};

#[cfg(test)]
mod tests;
