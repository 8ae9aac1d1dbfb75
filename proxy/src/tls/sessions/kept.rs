//! The client's side: the tickets that servers gave us, and by what they were believed.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::SystemTime;

use pillion_mesh::spiffe::SpiffeId;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::{CommonState, NamedGroup};
use tracing::debug;

use super::{Proved, lock};
use crate::tls::bounded::Bounded;
use crate::tls::failure::Role;
use crate::tls::verify::PeerVerifier;
use crate::tls::{Clock, HandshakeError};

/// Servers whose tickets are kept; the oldest make room.
const SERVERS: usize = 256;
/// Tickets for one server: as many connections may begin at once. Some 2 KiB each.
const TICKETS: usize = 4;

/// All tickets for one set of credentials.
pub(in crate::tls) struct Kept(Mutex<Bounded<(SocketAddr, String), Arc<Server>>>);

/// A server: an address and an SNI, and who may serve there.
struct Server {
    /// rustls resumes only with the verifier that the session began with.
    verifier: Arc<PeerVerifier>,
    tickets: Mutex<VecDeque<Ticket>>,
}

struct Ticket {
    state: Tls13ClientSessionValue,
    proved: Proved,
}

/// Takes a ticket for one connection, and keeps those that it gets.
pub(in crate::tls) struct Keeper {
    /// Not held: connections outlive credentials, and tickets must not.
    server: Weak<Server>,
    verifier: Arc<PeerVerifier>,
    clock: Clock,
    /// The end of our own certificate.
    ends: SystemTime,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// The session that is resumed, if the server takes it.
    judged: Option<Proved>,
    /// By what the server is believed, once the handshake is finished; tickets come after it.
    proved: Option<Proved>,
}

impl Default for Kept {
    fn default() -> Self {
        Self(Mutex::new(Bounded::new(SERVERS)))
    }
}

impl Kept {
    /// For a connection to a server that must prove one of `wanted`; `verifier` makes one that asks for it.
    pub(in crate::tls) fn keeper(
        &self,
        to: (SocketAddr, &str),
        wanted: &Arc<[SpiffeId]>,
        verifier: impl FnOnce() -> PeerVerifier,
        clock: Clock,
        ends: SystemTime,
    ) -> Keeper {
        let key = (to.0, to.1.to_owned());
        let mut servers = lock(&self.0);
        let known = servers.get(&key).filter(|server| server.verifier.wants(wanted)).cloned();
        let server = known.unwrap_or_else(|| {
            let server = Arc::new(Server { verifier: Arc::new(verifier()), tickets: Mutex::default() });
            servers.insert(key, Arc::clone(&server));
            server
        });
        Keeper {
            server: Arc::downgrade(&server),
            verifier: Arc::clone(&server.verifier),
            clock,
            ends,
            seen: Mutex::default(),
        }
    }
}

impl Keeper {
    /// The verifier for this connection.
    pub(in crate::tls) fn verifier(&self) -> Arc<PeerVerifier> {
        Arc::clone(&self.verifier)
    }

    /// Remembers by what the server of a finished handshake is believed.
    ///
    /// # Errors
    /// `Internal` where a session was resumed that nobody has judged.
    pub(in crate::tls) fn finished(&self, connection: &CommonState) -> Result<(), HandshakeError> {
        let mut seen = lock(&self.seen);
        seen.proved = Some(Proved::of(
            connection,
            seen.judged.take(),
            self.clock.now(),
            (&self.verifier, Role::Server),
        )?);
        Ok(())
    }
}

impl ClientSessionStore for Keeper {
    fn take_tls13_ticket(&self, _server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let server = self.server.upgrade()?;
        let now = self.clock.now();
        loop {
            let Ticket { state, proved } = lock(&server.tickets).pop_back()?;
            let holds = if now <= self.ends {
                proved.holds(&self.verifier, now, Role::Server)
            } else {
                Err("our own certificate has expired".to_owned())
            };
            match holds {
                Ok(()) => {
                    lock(&self.seen).judged = Some(proved);
                    return Some(state);
                }
                Err(because) => debug!("a session with a server is not resumed: {because}"),
            }
        }
    }

    fn insert_tls13_ticket(&self, _server_name: ServerName<'static>, state: Tls13ClientSessionValue) {
        let Some(proved) = lock(&self.seen).proved.clone() else { return };
        let Some(server) = self.server.upgrade() else { return };
        let mut tickets = lock(&server.tickets);
        while tickets.len() >= TICKETS {
            tickets.pop_front();
        }
        tickets.push_back(Ticket { state, proved });
    }

    /// Nobody asks: the groups are offered in our own order.
    fn set_kx_hint(&self, _server_name: ServerName<'static>, _group: NamedGroup) {}

    fn kx_hint(&self, _server_name: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    /// TLS 1.2 would resume without a new key exchange, so it does not.
    fn set_tls12_session(&self, _server_name: ServerName<'static>, _state: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _server_name: &ServerName<'static>) {}
}

/// Shows no ticket.
impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}
