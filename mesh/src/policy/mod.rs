//! The decisions: what a port accepts, what is done with first bytes, who may do what, how a destination is dialled.

pub mod admit;
pub mod authz;
pub mod dial;
pub mod mode;
pub mod path;
pub mod request;
pub mod route;
mod snapshot;

pub(crate) use snapshot::of_the_folder;
pub use snapshot::{OwnPort, Reading, Snapshot};
