//! The decisions: what a port accepts, what is done with first bytes, how a destination is dialled.

pub mod admit;
pub mod dial;
pub mod mode;
mod snapshot;

pub use snapshot::{Finding, OwnPort, Snapshot};
