//! TLS 1.3 sessions that a peer resumes instead of proving its key and its certificate again.
//!
//! rustls asks no verifier when a session is resumed, on neither side. So a ticket is only a number for what this process
//! remembers of a session, and leads to it
//!
//! - once,
//! - at the door where it was given (port and mode, or address and SNI),
//! - under the same credentials: a change of certificate, bundles or revocation lists forgets all of them,
//! - within [`LIFE`] of the peer's last proof of its key, and
//! - if the chain that it proved then would be accepted now, by the same judgement as in a full handshake.
//!
//! Whatever fails there is a full handshake, in which the verifier decides and says why. So nothing here refuses anybody.
//! Leaves to `credentials` which sessions are remembered together, and AuthorizationPolicies to whom they concern: they are
//! asked for each connection, resumed or not.

mod issued;
mod kept;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use pillion_mesh::reason::Reason;
use rustls::pki_types::CertificateDer;
use rustls::{CommonState, HandshakeKind};

use super::HandshakeError;
use super::failure::Role;
use super::verify::PeerVerifier;
pub(crate) use issued::Door;
pub(super) use issued::{Issued, Issuer};
pub(super) use kept::{Keeper, Kept};

/// How long after a peer has proved its key its sessions may be resumed (RFC 8446 4.6.1 asks for such a limit).
const LIFE: Duration = Duration::from_secs(60 * 60);

/// What a peer has proved in a full handshake.
#[derive(Clone, PartialEq, Eq)]
struct Proved {
    /// Leaf first.
    chain: Arc<[CertificateDer<'static>]>,
    at: SystemTime,
}

impl Proved {
    /// Whether the peer would be let in by its certificate now too, and has not proved it too long ago.
    ///
    /// # Errors
    /// Why not.
    fn holds(&self, verifier: &PeerVerifier, now: SystemTime, peer: Role) -> Result<(), String> {
        match now.duration_since(self.at) {
            Ok(since) if since <= LIFE => {}
            Ok(_longer) => return Err(format!("its key was proved more than {LIFE:?} ago")),
            Err(_before) => return Err("our clock was set back since".to_owned()),
        }
        let (leaf, intermediates) = self.chain.split_first().ok_or("it has no chain")?;
        verifier.verify(leaf, intermediates, now, peer).map(drop).map_err(|refusal| refusal.detail)
    }

    /// What a finished handshake has proved: now, or, where the session was resumed, when it was proved by `judged`.
    ///
    /// # Errors
    /// `Internal` where a session was resumed that nobody has judged.
    fn of(
        connection: &CommonState,
        judged: Option<Proved>,
        now: SystemTime,
        (verifier, peer): (&PeerVerifier, Role),
    ) -> Result<Proved, HandshakeError> {
        let chain = connection.peer_certificates().unwrap_or_default();
        if connection.handshake_kind() != Some(HandshakeKind::Resumed) {
            // The one that is remembered, so that there is one for all sessions of a peer.
            let holder = verifier.holder(chain, peer).ok();
            let chain = holder.map_or_else(|| chain.into(), |holder| holder.chain.clone());
            return Ok(Proved { chain, at: now });
        }
        judged.filter(|judged| *judged.chain == *chain).ok_or_else(|| HandshakeError {
            reason: Reason::Internal,
            detail: "a session was resumed whose certificate was not judged again".to_owned(),
        })
    }
}

/// Leaves the chain out, which is thousands of bytes.
impl fmt::Debug for Proved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proved").field("at", &self.at).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
