//! The real binary on loopback: what callers get, what bounds them, and what is left after a kill.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod api;
mod bounds;
mod command_line;
mod disk;
mod faults;
#[cfg(feature = "grpc")]
mod grpc;
mod hostile;
mod jwt;
mod rotation;
mod state;
mod support;
