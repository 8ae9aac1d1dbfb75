//! The rules in real kernels: in network namespaces that the tests make and remove, with both back ends.
//!
//! They need root and the usual tools; where those are missing the tests say so and pass, but not in CI (`CI=true`).

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod host;
mod rules;
mod traffic;
