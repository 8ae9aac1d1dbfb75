//! A mesh of any size as its operator would write it, for `benches/policies.rs`: `cargo bench -p pillion-benches`. What a
//! handshake costs is measured by `benches/handshakes.rs`, which needs nothing of this.

// Nothing here is read from outside.
#![allow(clippy::unwrap_used, clippy::panic)]

pub mod mesh;
