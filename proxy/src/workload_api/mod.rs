//! The SPIFFE Workload API on a Unix socket: an app that speaks SPIFFE by itself gets the identity that its sidecar has,
//! with the key and the bundles, and gets them again whenever they change (SPIFFE Workload API 3 to 5).
//!
//! Who may open the socket may have the identity: the rights of the socket and of its folder are the one test of a caller
//! (SPIFFE Workload Endpoint 5). Leaves where the identity comes from to `identity`, which is a client of the same API
//! where another agent gives it.

mod authority;
mod messages;
mod sender;
mod server;
mod socket;

#[cfg(test)]
mod tests;

pub(crate) use messages::Given;
pub(crate) use sender::Sender;
pub(crate) use server::serve;
pub(crate) use socket::{Socket, SocketError};

/// What tonic makes of `proto/workload.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, unused_qualifications)]
pub(crate) mod proto {
    tonic::include_proto!("_");
}

/// The key and value without which a call is refused: a caller that can be made to send a request for somebody else, as
/// by a URL, cannot be made to send this (SPIFFE Workload Endpoint 6.1).
pub(crate) const SECURITY_HEADER: (&str, &str) = ("workload.spiffe.io", "true");
