//! The person's tool `pillion`: the demo, and in one file everything that a mesh runs.
//!
//! [`main_with`] is the binary. [`lab`] makes meshes of real processes for the demo and for end-to-end tests,
//! [`wiretap`] listens in on them, [`http`] asks plain HTTP questions.

mod analyze;
mod authz;
mod bench;
mod commands;
mod demo;
mod describe;
mod edges;
mod explain;
pub mod http;
mod job;
pub mod lab;
mod manual;
mod output;
mod probe;
mod sidecar;
mod source;
mod svid;
mod wait;
pub mod wiretap;

pub use commands::main_with;
