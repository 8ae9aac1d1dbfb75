//! The rules of the mesh as pure functions: facts in, decision with its reason out.
//!
//! This crate opens no socket and no file, reads no clock and no environment, and throws no dice: time and jitter are
//! arguments. Its `Cargo.toml` is the fence. The sidecar, the certificate authority, the command-line tool and the
//! lessons call the same functions, so an explanation cannot drift from the behaviour.

pub mod analyze;
pub mod ask;
pub mod check;
pub mod client_hello;
pub mod closed;
pub mod crossing;
pub mod describe;
pub mod duration;
pub mod edges;
pub mod explain;
pub mod exposition;
pub mod finding;
pub mod inject;
pub mod jwt;
pub mod known;
pub mod legs;
pub mod links;
mod matching;
pub mod migration;
pub mod plaintext;
pub mod policy;
pub mod proxy_config;
pub mod rate;
pub mod reason;
pub mod registry;
pub mod resource;
pub mod rotation;
pub mod signers;
pub mod spiffe;
pub mod svid;
pub mod time_scale;
pub mod top;
pub mod tunnel;
pub mod wire;
pub mod words;
pub mod workload;
pub mod yaml;
