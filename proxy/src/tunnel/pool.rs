//! Our own tunnels: a pool for each pair of identities and each endpoint. One tunnel of a pool is opened at a time, and whoever
//! needs it waits; the next one is opened ahead.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::{Method, Request};
use pillion_mesh::reason::Reason;
use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::tunnel::{Load, choose, refusal};
use pillion_mesh::wire::{TlsRecord, TunnelRecord};
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::TunnelStream;
use super::client::{Tunnel, open};
use crate::app::Shared;
use crate::connections::Connection;
use crate::net::relay::End;
use crate::outbound::refuse;
use crate::tls::{Credentials, Proof};

/// All pools of this proxy.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    pools: Mutex<HashMap<Key, Arc<Pool>>>,
    last_id: AtomicU64,
}

/// Who shares tunnels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Ours.
    local: SpiffeId,
    /// One of which the peer has proved.
    identities: Arc<[SpiffeId]>,
    /// Where it takes tunnels.
    door: SocketAddr,
}

/// The tunnels to one peer.
#[derive(Debug)]
pub(super) struct Pool {
    key: Key,
    /// Those that take connections, the oldest first.
    tunnels: Mutex<Vec<Arc<Tunnel>>>,
    /// Held by who opens one, with what became of it the last time.
    opening: Arc<tokio::sync::Mutex<LastTry>>,
}

/// What came of opening a tunnel, where it failed.
#[derive(Debug, Default)]
struct LastTry(Option<(Instant, Reason, Option<String>)>);

/// A connection's place in a tunnel, given back when dropped.
pub(crate) struct Place {
    tunnel: Arc<Tunnel>,
    /// Connections in it, this one among them.
    shared_by: usize,
    /// Whether the tunnel was opened for it.
    new: bool,
}

/// A connection that the peer has taken in a tunnel.
pub(crate) struct Entered {
    pub(crate) stream: TunnelStream,
    /// The tunnel's handshake.
    pub(crate) tls: TlsRecord,
    pub(crate) record: TunnelRecord,
    /// The address that the tunnel was dialled from.
    pub(crate) local: SocketAddr,
    pub(crate) peer: (SpiffeId, Proof),
}

impl Place {
    /// Whether the tunnel's peer did not answer any more.
    pub(super) fn is_silent(&self) -> bool {
        self.tunnel.is_silent()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.tunnel.left();
    }
}

/// Why a connection was not taken.
enum Refused {
    /// By the peer.
    ByPeer(End),
    /// The tunnel broke, or the peer takes no more connections in it.
    Broken(End),
}

impl Pools {
    /// The number of the next tunnel, out or in.
    pub(super) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Brings a connection to `target` to the door of a peer that proves one of `identities`: by a tunnel that stands, or a
    /// new one. Where the peer refuses it, its record has the tunnel all the same.
    ///
    /// # Errors
    /// With the reason for the record.
    pub(crate) async fn enter(
        &self,
        (door, identities): (SocketAddr, &Arc<[SpiffeId]>),
        target: SocketAddr,
        credentials: &Arc<Credentials>,
        connection: &Connection,
        shared: &Arc<Shared>,
    ) -> Result<Entered, End> {
        let mut credentials = credentials.clone();
        // Once more where a tunnel that stood before was closed just now, or our certificate was renewed: nothing of the
        // connection was sent.
        loop {
            let local = credentials.svid.id.clone();
            let pool = self.pool(Key { local, identities: Arc::clone(identities), door });
            let place = pool.place(&credentials, shared).await?;
            let (tunnel, new) = (place.tunnel.clone(), place.new);
            match ask(place, target, connection, shared).await {
                Ok(entered) => return Ok(entered),
                Err(Refused::ByPeer(end)) => return Err(end),
                Err(Refused::Broken(end)) => {
                    pool.forget(&tunnel);
                    let current = shared.credentials.borrow().clone();
                    match current.filter(|current| current.generation() > credentials.generation()) {
                        Some(renewed) => credentials = renewed,
                        None if new => return Err(end),
                        None => {}
                    }
                }
            }
        }
    }

    fn pool(&self, key: Key) -> Arc<Pool> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&key) {
            return pool.clone();
        }
        // A new peer: those that nobody has a tunnel to any more go.
        pools.retain(|_, pool| Arc::strong_count(pool) > 1 || !pool.tunnels().is_empty());
        pools.entry(key.clone()).or_insert_with(|| Arc::new(Pool::new(key))).clone()
    }
}

impl Pool {
    fn new(key: Key) -> Self {
        Self { key, tunnels: Mutex::default(), opening: Arc::default() }
    }

    pub(super) fn door(&self) -> SocketAddr {
        self.key.door
    }

    pub(super) fn identities(&self) -> Arc<[SpiffeId]> {
        Arc::clone(&self.key.identities)
    }

    fn tunnels(&self) -> MutexGuard<'_, Vec<Arc<Tunnel>>> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tunnel takes no more connections.
    pub(super) fn forget(&self, tunnel: &Tunnel) {
        self.tunnels().retain(|known| known.id != tunnel.id);
        tunnel.retire();
    }

    /// Takes the tunnel out where nobody is in it; says whether.
    pub(super) fn retire_empty(&self, tunnel: &Tunnel) -> bool {
        let mut tunnels = self.tunnels();
        if tunnel.streams() > 0 {
            return false;
        }
        tunnels.retain(|known| known.id != tunnel.id);
        tunnel.retire();
        true
    }

    /// A place in a tunnel that stands, or in a new one.
    async fn place(
        self: &Arc<Self>,
        credentials: &Arc<Credentials>,
        shared: &Arc<Shared>,
    ) -> Result<Place, End> {
        if let Some(place) = self.take(credentials, shared)? {
            return Ok(place);
        }
        let since = Instant::now();
        // Whoever holds it has a deadline for the dial and for the handshake; and where it fails, it fails for all who wait.
        let mut opening = self.opening.lock().await;
        if let Some(place) = self.take(credentials, shared)? {
            return Ok(place);
        }
        if let LastTry(Some((at, reason, detail))) = &*opening
            && *at >= since
        {
            return Err(End { reason: *reason, detail: detail.clone() });
        }
        match self.open(credentials, shared).await {
            Ok(tunnel) => {
                let shared_by = tunnel.entered();
                self.tunnels().push(tunnel.clone());
                Ok(Place { tunnel, shared_by, new: true })
            }
            Err(end) => {
                *opening = LastTry(Some((Instant::now(), end.reason, end.detail.clone())));
                Err(end)
            }
        }
    }

    async fn open(
        self: &Arc<Self>,
        credentials: &Credentials,
        shared: &Arc<Shared>,
    ) -> Result<Arc<Tunnel>, End> {
        let id = shared.tunnels.next_id();
        Box::pin(open(self, id, credentials, shared)).await
    }

    /// A place in a tunnel that stands and was made by these credentials; none where all are full. Opens another ahead where
    /// that is due.
    ///
    /// # Errors
    /// Where there may be no more tunnels.
    fn take(
        self: &Arc<Self>,
        credentials: &Arc<Credentials>,
        shared: &Arc<Shared>,
    ) -> Result<Option<Place>, End> {
        let now = credentials.now();
        let serves = |tunnel: &Arc<Tunnel>| {
            let serves =
                !tunnel.is_retired() && tunnel.generation >= credentials.generation() && now < tunnel.until;
            if !serves {
                tunnel.retire();
            }
            serves
        };
        let mut tunnels = self.tunnels();
        tunnels.retain(serves);
        let loads: Vec<Load> = tunnels.iter().map(|tunnel| tunnel.load()).collect();
        let most = shared.settings.tunnels.max_tunnels;
        let choice = choose(&loads, most);
        let Some(tunnel) = choice.take.and_then(|place| tunnels.get(place)).cloned() else {
            if choice.begin {
                return Ok(None);
            }
            let detail = format!("there are {most} tunnels to {}, as many as there may be", self.door());
            return Err(refuse(Reason::TunnelsFull, detail));
        };
        let shared_by = tunnel.entered();
        drop(tunnels);
        if choice.begin {
            self.open_ahead(credentials, shared);
        }
        Ok(Some(Place { tunnel, shared_by, new: false }))
    }

    /// Opens another tunnel for those who come next, unless somebody opens one now.
    fn open_ahead(self: &Arc<Self>, credentials: &Arc<Credentials>, shared: &Arc<Shared>) {
        let Ok(opening) = self.opening.clone().try_lock_owned() else { return };
        let id = shared.tunnels.next_id();
        let (pool, credentials, task) = (self.clone(), credentials.clone(), shared.clone());
        shared.tasks.spawn(async move {
            tokio::select! {
                opened = open(&pool, id, &credentials, &task) => match opened {
                    Ok(tunnel) => pool.tunnels().push(tunnel),
                    // Whoever needs one is told.
                    Err(end) => debug!("no tunnel ahead to {}: {}", pool.door(), end.reason),
                },
                () = task.drain.started() => {}
            }
            drop(opening);
        });
    }
}

/// Asks the peer to take a connection to `target`.
async fn ask(
    place: Place,
    target: SocketAddr,
    connection: &Connection,
    shared: &Shared,
) -> Result<Entered, Refused> {
    let tunnel = place.tunnel.clone();
    let limit = shared.settings.limits.connect_timeout;
    let asked = timeout(limit, send(&tunnel, target)).await.map_err(|_elapsed| {
        let detail = format!("{} did not answer within {limit:?} whether it takes {target}", tunnel.door);
        Refused::ByPeer(refuse(Reason::ConnectTimeout, detail))
    })?;
    let (response, sending, stream) = asked?;
    let record = TunnelRecord {
        id: tunnel.id,
        stream,
        new: place.new,
        shared_by: u32::try_from(place.shared_by).unwrap_or(u32::MAX),
        door: tunnel.door,
    };
    if let Some((reason, detail)) = refusal(response.status().as_u16()) {
        connection.note(|noted| {
            (noted.tls, noted.tunnel) = (Some(tunnel.handshake.clone()), Some(record));
            noted.dialled_from = Some(tunnel.local);
        });
        return Err(Refused::ByPeer(refuse(reason, detail)));
    }
    Ok(Entered {
        stream: TunnelStream::taken(response.into_body(), sending, place),
        tls: tunnel.handshake.clone(),
        record,
        local: tunnel.local,
        peer: (tunnel.peer.clone(), tunnel.proof.clone()),
    })
}

type Answer = (hyper::Response<h2::RecvStream>, h2::SendStream<hyper::body::Bytes>, u32);

async fn send(tunnel: &Tunnel, target: SocketAddr) -> Result<Answer, Refused> {
    let failed = |error: &h2::Error| Refused::Broken(tunnel.broken(error));
    let closed =
        || Refused::Broken(refuse(Reason::TunnelFailed, format!("the tunnel to {} is closed", tunnel.door)));
    let sender = tunnel.sender().ok_or_else(closed)?;
    let mut sender = sender.ready().await.map_err(|error| failed(&error))?;
    let request = Request::builder().method(Method::CONNECT).uri(target.to_string()).body(());
    let request = request.map_err(|error| {
        Refused::ByPeer(refuse(Reason::Internal, format!("no request for {target}: {error}")))
    })?;
    let (response, sending) = sender.send_request(request, false).map_err(|error| failed(&error))?;
    let stream = sending.stream_id().as_u32();
    let response = response.await.map_err(|error| {
        if error.is_reset() && error.reason() != Some(h2::Reason::REFUSED_STREAM) {
            let detail = format!("the peer's proxy has reset it: {error}");
            return Refused::ByPeer(refuse(Reason::TunnelRefused, detail));
        }
        failed(&error)
    })?;
    Ok((response, sending, stream))
}

/// Leaves out the tunnel's certificates.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("tunnel", &self.tunnel.id).finish_non_exhaustive()
    }
}
