//! The admission table: mode, declared protocol and first bytes to what is done with the connection.
//!
//! The oracle is Istio's sidecar (`peer_authentication_simulation_test.go`).

use super::mode::Mode;
use crate::reason::Reason;
use crate::resource::Protocol;

/// What was seen before the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Observed {
    /// A ClientHello with the mesh's ALPN mark.
    MeshTls,
    /// A ClientHello without it: the app's own TLS.
    OtherTls,
    /// Bytes that are no ClientHello.
    Plaintext,
    /// Nothing before the deadline, or an end at once.
    Silent,
}

/// What is done with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admission {
    /// Terminate mutual TLS; a client without a certificate fails there.
    Terminate,
    /// Forward the bytes as they are.
    Forward,
    /// Refuse with a reset.
    Refuse(Reason),
}

/// Looks the decision up. For DISABLE nothing is observed and this is not called: see [`needs_sniff`].
#[must_use]
pub fn admit(_mode: Mode, _protocol: Protocol, _observed: Observed) -> Admission {
    todo!()
}

/// Whether the mode asks for a look at the first bytes. DISABLE does not: a server-first protocol works there.
#[must_use]
pub fn needs_sniff(mode: Mode) -> bool {
    mode != Mode::Disable
}
