//! One tunnel of our own: how it is opened, driven and closed.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread::{self, ThreadId};
use std::time::SystemTime;

use h2::client::{self, Connection, SendRequest};
use hyper::body::Bytes;
use pillion_mesh::reason::Reason;
use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::tunnel::{ALPN, Load};
use pillion_mesh::wire::TlsRecord;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::noted::{Fault, Noted};
use super::pool::Pool;
use super::{FAREWELL, FRAME, HEAD, REMEMBERED, SEND_BUFFER, STREAM_WINDOW, TUNNEL_WINDOW, silent};
use crate::app::Shared;
use crate::net::dial::{self, OwnDial};
use crate::net::relay::End;
use crate::outbound::{dial_fault, refuse};
use crate::tls::{self, Credentials, Proof, TlsStream};

/// A tunnel that stands, or has stood.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) id: u64,
    pub(super) door: SocketAddr,
    /// The address that it was dialled from.
    pub(super) local: SocketAddr,
    /// Of the credentials that it was made with.
    pub(super) generation: u64,
    /// When the first of both certificates ends.
    pub(super) until: SystemTime,
    pub(super) handshake: TlsRecord,
    pub(super) peer: SpiffeId,
    pub(super) proof: Proof,
    /// The thread that drives it.
    thread: ThreadId,
    /// None once it is closed.
    sender: Mutex<Option<SendRequest<Bytes>>>,
    streams: AtomicUsize,
    /// Streams that both sides allow.
    limit: AtomicUsize,
    /// Takes no more connections.
    retired: AtomicBool,
    silent: AtomicBool,
    fault: Fault,
    /// It has become empty, or was retired.
    changed: Notify,
}

impl Tunnel {
    pub(super) fn load(&self) -> Load {
        let near = self.thread == thread::current().id();
        Load { streams: self.streams(), limit: self.limit.load(Ordering::Relaxed), near }
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// One connection more; says how many there are now. Asked under the pool's lock alone.
    pub(super) fn entered(&self) -> usize {
        self.streams.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// One connection less.
    pub(super) fn left(&self) {
        if self.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.changed.notify_one();
        }
    }

    /// Takes no more connections; those in it go on.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Whether its peer did not answer any more.
    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// The end of a connection that it broke under.
    pub(super) fn broken(&self, error: &h2::Error) -> End {
        broken(self.door, &self.fault, error)
    }

    /// What begins streams; none where it is closed.
    pub(super) fn sender(&self) -> Option<SendRequest<Bytes>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<SendRequest<Bytes>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dials `door` and opens a tunnel to a peer that must prove one of `identities`. It is driven by a task of its own.
///
/// # Errors
/// With the reason for the record.
pub(super) async fn open(
    pool: &Arc<Pool>,
    id: u64,
    credentials: &Credentials,
    shared: &Arc<Shared>,
) -> Result<Arc<Tunnel>, End> {
    let door = pool.door();
    let (socket, own) = dial::connect_remembered(door, &shared.dial_options(), &shared.own_dials)
        .await
        .map_err(|error| dial_fault(&error, door, Reason::DestinationUnreachable))?;
    let limit = shared.settings.limits.handshake_timeout;
    let fault = Fault::default();
    let done = timeout(limit, Box::pin(begin(pool, socket, credentials, shared, &fault))).await;
    let (connection, sender, handshake) = done.map_err(|_elapsed| {
        refuse(Reason::HandshakeTimeout, format!("{door} did not finish within {limit:?}"))
    })??;
    let until = handshake.record.peer_not_after.min(credentials.svid.not_after);
    let tunnel = Arc::new(Tunnel {
        id,
        door,
        local: own.local(),
        generation: credentials.generation(),
        until,
        peer: handshake.peer,
        proof: handshake.proof,
        handshake: handshake.record,
        thread: thread::current().id(),
        sender: Mutex::new(Some(sender)),
        streams: AtomicUsize::new(0),
        limit: AtomicUsize::new(shared.settings.tunnels.max_streams),
        retired: AtomicBool::new(false),
        silent: AtomicBool::new(false),
        fault,
        changed: Notify::new(),
    });
    debug!("tunnel {id} to {door} stands, with {}", tunnel.peer);
    shared.tasks.spawn(drive(connection, tunnel.clone(), pool.clone(), shared.clone(), own));
    Ok(tunnel)
}

type Socket = Noted<TlsStream<TcpStream>>;

async fn begin(
    pool: &Pool,
    socket: TcpStream,
    credentials: &Credentials,
    shared: &Shared,
    fault: &Fault,
) -> Result<(Connection<Socket, Bytes>, SendRequest<Bytes>, tls::Handshake), End> {
    let door = pool.door();
    let (stream, handshake) =
        tls::client::connect_tunnel(socket, Arc::default(), credentials, door, pool.identities()).await?;
    if stream.connection().alpn_protocol() != Some(ALPN) {
        let detail = format!("{door} does not agree to speak HTTP/2 (ALPN h2)");
        return Err(refuse(Reason::TunnelFailed, detail));
    }
    let begun = client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(TUNNEL_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(shared.settings.tunnels.max_streams)
        .max_concurrent_reset_streams(REMEMBERED)
        .enable_push(false)
        .handshake(Noted::new(stream, fault.clone()))
        .await;
    let (sender, connection) = begun.map_err(|error| broken(door, fault, &error))?;
    Ok((connection, sender, handshake))
}

/// The end of a connection whose tunnel broke before the peer had taken it. In TLS 1.3 a peer that refuses our certificate says
/// so when the tunnel stands already.
fn broken(door: SocketAddr, fault: &Fault, error: &h2::Error) -> End {
    match fault.end() {
        Some(end) if end.reason == Reason::PeerRefused => end,
        Some(End { reason, detail }) => {
            let detail = detail.unwrap_or_else(|| reason.sentence().to_owned());
            refuse(Reason::TunnelFailed, format!("the tunnel to {door} broke: {detail}"))
        }
        None => refuse(Reason::TunnelFailed, format!("the tunnel to {door} broke: {error}")),
    }
}

/// Why a tunnel ends.
enum Over {
    /// Nobody needs it any more.
    Unneeded,
    /// The peer has closed it, or it broke.
    Closed,
    Silent(String),
    Quitted,
}

/// Drives a tunnel to its end.
async fn drive(
    mut connection: Connection<Socket, Bytes>,
    tunnel: Arc<Tunnel>,
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    _own: OwnDial,
) {
    shared.telemetry.tunnel_opened(pillion_mesh::wire::Direction::Outbound);
    let pings = connection.ping_pong();
    let over = tokio::select! {
        result = driven(&mut connection, &tunnel, &shared) => {
            debug!("tunnel {} to {} was closed: {result:?}", tunnel.id, tunnel.door);
            Over::Closed
        }
        because = silent(pings) => Over::Silent(because),
        () = unneeded(&tunnel, &pool, &shared) => Over::Unneeded,
        () = shared.drain.quitted() => Over::Quitted,
    };
    pool.forget(&tunnel);
    match over {
        Over::Closed => {}
        Over::Silent(because) => {
            debug!("tunnel {} to {} is given up: {because}", tunnel.id, tunnel.door);
            tunnel.silent.store(true, Ordering::Relaxed);
        }
        Over::Unneeded => say_goodbye(&mut connection, &tunnel).await,
        Over::Quitted => {
            // Those who have a place in it say why they end.
            let _ = timeout(FAREWELL, empty(&tunnel)).await;
        }
    }
    shared.telemetry.tunnel_closed(pillion_mesh::wire::Direction::Outbound);
}

/// Without anybody to begin a stream, h2 ends the connection in order.
async fn say_goodbye(connection: &mut Connection<Socket, Bytes>, tunnel: &Tunnel) {
    drop(tunnel.lock().take());
    let _ = timeout(FAREWELL, connection).await;
}

/// Moves frames until the connection ends, and takes note of what the peer allows.
async fn driven(
    connection: &mut Connection<Socket, Bytes>,
    tunnel: &Tunnel,
    shared: &Shared,
) -> Result<(), h2::Error> {
    let most = shared.settings.tunnels.max_streams;
    poll_fn(|cx| {
        let polled = std::pin::Pin::new(&mut *connection).poll(cx);
        if polled.is_pending() {
            tunnel.limit.store(most.min(connection.max_concurrent_send_streams()), Ordering::Relaxed);
        }
        match polled {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Ends when nobody is in the tunnel, and nobody will be: it was idle for long, or takes no more connections since our
/// credentials are others now, one of both certificates has ended, or the proxy stops.
async fn unneeded(tunnel: &Tunnel, pool: &Pool, shared: &Shared) {
    let mut credentials = shared.credentials.clone();
    credentials.mark_changed();
    let idle = shared.settings.tunnels.idle_timeout;
    let mut known = true;
    loop {
        let (is_empty, is_retired) = (tunnel.streams() == 0, tunnel.is_retired());
        if is_empty && is_retired {
            return;
        }
        tokio::select! {
            () = tunnel.changed.notified() => {}
            () = sleep(idle), if is_empty => {
                if pool.retire_empty(tunnel) {
                    return;
                }
            }
            () = shared.drain.started(), if !is_retired => tunnel.retire(),
            changed = credentials.changed(), if known && !is_retired => {
                known = changed.is_ok();
                let current = credentials.borrow_and_update().as_ref().map(|current| current.generation());
                if current != Some(tunnel.generation) {
                    tunnel.retire();
                }
            }
        }
    }
}

async fn empty(tunnel: &Tunnel) {
    while tunnel.streams() > 0 {
        tunnel.changed.notified().await;
    }
}
