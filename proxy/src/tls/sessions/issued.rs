//! The server's side: the tickets that were given, and what they lead to.

use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::SystemTime;

use pillion_mesh::policy::mode::Mode;
use rustls::server::ProducesTickets;
use rustls::{CommonState, ProtocolVersion};
use tracing::debug;
use zeroize::Zeroizing;

use super::{LIFE, Proved, lock};
use crate::tls::bounded::Bounded;
use crate::tls::failure::Role;
use crate::tls::verify::PeerVerifier;
use crate::tls::{Clock, HandshakeError, provider};

/// Sessions that are remembered at the same time, of some 2 KiB each; the oldest make room.
const SESSIONS: usize = 2048;
/// Tickets of one hello that lead to a session and are looked at; a peer with one connection needs one.
const TRIES: u8 = 4;

/// What a ticket is good for: the app's port, and what that port accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Door {
    /// The port that policies speak of.
    pub(crate) port: u16,
    /// Its mode.
    pub(crate) mode: Mode,
}

/// A ticket: says nothing by itself.
type Number = [u8; 32];

/// All sessions of one set of credentials.
pub(in crate::tls) struct Issued(Mutex<Bounded<Number, Session>>);

struct Session {
    door: Door,
    proved: Proved,
    /// rustls' own, secrets among it.
    state: Zeroizing<Vec<u8>>,
}

/// Gives the tickets of one connection, and finds the session that it resumes.
pub(in crate::tls) struct Issuer {
    /// Not held: connections outlive credentials, and sessions must not.
    issued: Weak<Issued>,
    door: Door,
    verifier: PeerVerifier,
    clock: Clock,
    /// The end of our own certificate.
    ends: SystemTime,
    seen: Mutex<Seen>,
}

/// What happened in the handshake so far.
#[derive(Default)]
struct Seen {
    tries: u8,
    /// The session that is resumed, if rustls takes it.
    judged: Option<Proved>,
    /// Given, but good for nothing before the handshake is finished.
    given: Option<(Number, Zeroizing<Vec<u8>>)>,
}

impl Default for Issued {
    fn default() -> Self {
        Self(Mutex::new(Bounded::new(SESSIONS)))
    }
}

impl Issued {
    #[cfg(test)]
    pub(in crate::tls) fn tickets(&self) -> Vec<Vec<u8>> {
        lock(&self.0).keys().map(|number| number.to_vec()).collect()
    }

    /// What belongs to a ticket, which is used up by this.
    fn take(&self, number: &Number, door: Door) -> Option<Session> {
        let mut sessions = lock(&self.0);
        sessions.get(number).filter(|session| session.door == door)?;
        sessions.remove(number)
    }
}

impl Issuer {
    pub(in crate::tls) fn new(
        issued: &Arc<Issued>,
        door: Door,
        verifier: PeerVerifier,
        clock: Clock,
        ends: SystemTime,
    ) -> Self {
        Self { issued: Arc::downgrade(issued), door, verifier, clock, ends, seen: Mutex::default() }
    }

    /// Makes the tickets of a finished handshake good. TLS 1.2 would resume without a new key exchange, so it does not.
    ///
    /// # Errors
    /// `Internal` where a session was resumed that nobody has judged.
    pub(in crate::tls) fn finished(&self, connection: &CommonState) -> Result<(), HandshakeError> {
        let Seen { judged, given, .. } = std::mem::take(&mut *lock(&self.seen));
        let proved = Proved::of(connection, judged, self.clock.now(), (&self.verifier, Role::Client))?;
        if connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
            && let (Some(issued), Some((number, state))) = (self.issued.upgrade(), given)
        {
            lock(&issued.0).insert(number, Session { door: self.door, proved, state });
        }
        Ok(())
    }
}

impl ProducesTickets for Issuer {
    fn enabled(&self) -> bool {
        true
    }

    /// A hint to the client: in seconds, at most what [`LIFE`] and our own certificate leave.
    fn lifetime(&self) -> u32 {
        let left = self.ends.duration_since(self.clock.now()).unwrap_or_default();
        u32::try_from(left.min(LIFE).as_secs()).unwrap_or_default()
    }

    fn encrypt(&self, state: &[u8]) -> Option<Vec<u8>> {
        self.issued.upgrade()?;
        let mut number = Number::default();
        provider().secure_random.fill(&mut number).ok()?;
        lock(&self.seen).given = Some((number, Zeroizing::new(state.to_vec())));
        Some(number.to_vec())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let number = Number::try_from(ticket).ok()?;
        let mut seen = lock(&self.seen);
        if seen.tries >= TRIES {
            return None;
        }
        let Session { proved, state, .. } = self.issued.upgrade()?.take(&number, self.door)?;
        seen.tries += 1;
        let now = self.clock.now();
        let holds = if now <= self.ends {
            proved.holds(&self.verifier, now, Role::Client)
        } else {
            Err("our own certificate has expired".to_owned())
        };
        match holds {
            Ok(()) => {
                seen.judged = Some(proved);
                Some(state.to_vec())
            }
            Err(because) => {
                debug!("a client's session is not resumed: {because}");
                None
            }
        }
    }
}

/// Shows no session.
impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("door", &self.door).finish_non_exhaustive()
    }
}
