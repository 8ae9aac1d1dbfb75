//! The person's tool `pillion`: the demo, and in one file everything that a mesh runs.
//!
//! [`main_with`] is the binary. [`lab`] makes meshes of real processes for the demo and for end-to-end tests,
//! [`wiretap`] listens in on them, [`http`] asks plain HTTP questions.

mod analyze;
mod authz;
mod bench;
mod capture;
mod check;
mod commands;
mod dashboard;
mod demo;
mod describe;
mod edges;
mod explain;
pub mod http;
mod inject;
mod job;
pub mod lab;
mod lesson;
mod manual;
mod migrate;
mod output;
mod playground;
mod probe;
mod proxy_config;
mod sidecar;
mod source;
mod svid;
mod top;
mod wait;
mod wire;
pub mod wiretap;

pub use commands::main_with;
