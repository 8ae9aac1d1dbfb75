//! pillion and peers that are not pillion: Envoy configured as an Istio sidecar is, openssl, curl, a library of SPIFFE. Each verifies
//! the other's identity, and Envoy judges by the same AuthorizationPolicies. Sidecars run as processes of their own, on
//! loopback with explicit listeners.
//!
//! Envoy is found by `PILLION_TEST_ENVOY` or on the PATH, Python's library `spiffe` in the folder `PILLION_TEST_SPIFFE`. A missing program skips its tests with a message, and fails
//! them where the environment says `CI=true`.
// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod envoy;
mod harness;
mod openssl;
mod rbac;
mod resumption;
mod spiffe;
mod tunnels;
