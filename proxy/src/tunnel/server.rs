//! The door for tunnels of peers: who comes must prove an identity, and each stream that it opens is a connection of its own, to
//! be judged and served as if it had come by itself (`inbound`).

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::SystemTime;

use h2::server::{self, SendResponse};
use h2::{RecvStream, SendStream};
use hyper::body::Bytes;
use hyper::{Request, Response, StatusCode};
use pillion_mesh::policy::mode::Mode;
use pillion_mesh::reason::Reason;
use pillion_mesh::tunnel::{ALPN, status, target};
use pillion_mesh::wire::{Direction, TlsRecord, TunnelRecord, rfc3339};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{
    FAREWELL, FRAME, HEAD, REMEMBERED, SEND_BUFFER, STREAM_WINDOW, TAKEN_BACK, TUNNEL_WINDOW, TunnelStream,
    silent,
};
use crate::app::Shared;
use crate::connections::Connection;
use crate::inbound;
use crate::net::original_dst::canonical;
use crate::net::relay::{End, Rest};
use crate::outbound::refuse;
use crate::tls::{self, Door, Handshake, TlsStream, usable};

/// What all streams of a tunnel have in common.
#[derive(Debug)]
struct Tunnel {
    id: u64,
    client: SocketAddr,
    /// The address at which it came in.
    here: SocketAddr,
    /// Of the credentials that it was taken with.
    generation: u64,
    handshake: Handshake,
    streams: AtomicUsize,
    /// A stream has ended.
    changed: Notify,
}

/// The socket of a tunnel, and HTTP/2 on it.
type Http2 = server::Connection<TlsStream<TcpStream>, Bytes>;

/// Serves one accepted tunnel until its end. Its own record tells of a handshake that failed; of one that is finished, those of
/// its streams do.
pub(crate) async fn serve(stream: TcpStream, connection: Connection, shared: &Arc<Shared>) {
    let client = connection.client();
    let here = stream.local_addr().map_or(client, canonical);
    connection.note(|record| record.original_destination = Some(here));
    let limit = shared.settings.limits.handshake_timeout;
    let begun = tokio::select! {
        begun = timeout(limit, Box::pin(begin(stream, here, shared))) => begun.unwrap_or_else(|_elapsed| {
            Err(refuse(Reason::HandshakeTimeout, format!("not finished within {limit:?}")))
        }),
        () = shared.drain.quitted() => Err(End { reason: Reason::Drained, detail: None }),
    };
    let (http2, generation, handshake) = match begun {
        Ok(begun) => begun,
        Err(end) => return connection.end(end),
    };
    connection.becomes_tunnel();
    let id = shared.tunnels.next_id();
    let (streams, changed) = (AtomicUsize::new(0), Notify::new());
    let tunnel = Arc::new(Tunnel { id, client, here, generation, handshake, streams, changed });
    debug!("tunnel {id} of {} stands, from {client}", tunnel.handshake.peer);
    shared.telemetry.tunnel_opened(Direction::Inbound);
    Box::pin(until_end(http2, &tunnel, shared)).await;
    shared.telemetry.tunnel_closed(Direction::Inbound);
}

/// Finishes both handshakes; with the generation of the credentials that were shown.
async fn begin(stream: TcpStream, here: SocketAddr, shared: &Shared) -> Result<(Http2, u64, Handshake), End> {
    let credentials = shared.credentials.borrow().clone();
    let credentials = usable(credentials, &shared.clock).map_err(|because| {
        refuse(Reason::NoCertificate, format!("clients of the mesh cannot be served: {because}"))
    })?;
    let door = Door { port: here.port(), mode: Mode::Strict };
    let (stream, handshake) = tls::server::accept_tunnel(stream, Arc::default(), &credentials, door).await?;
    let generation = credentials.generation();
    drop(credentials); // sessions must not outlive a change of them
    if stream.connection().alpn_protocol() != Some(ALPN) {
        let detail = "the client does not offer to speak HTTP/2 (ALPN h2)".to_owned();
        return Err(refuse(Reason::HandshakeFailed, detail));
    }
    let streams = u32::try_from(shared.settings.tunnels.max_streams).unwrap_or(u32::MAX);
    let http2 = server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(TUNNEL_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEAD)
        .max_concurrent_streams(streams)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(REMEMBERED)
        .max_pending_accept_reset_streams(TAKEN_BACK)
        .handshake(stream)
        .await
        .map_err(|error| refuse(Reason::RequestMalformed, format!("no HTTP/2 in the tunnel: {error}")))?;
    Ok((http2, generation, handshake))
}

/// Takes streams until the client closes the tunnel, does not answer any more or has been idle for long, or the proxy
/// stops. Where our credentials are others now, or the client's certificate has ended, it is asked for a new tunnel, and the
/// streams of this one go on.
async fn until_end(mut http2: Http2, tunnel: &Arc<Tunnel>, shared: &Arc<Shared>) {
    let mut silent = std::pin::pin!(silent(http2.ping_pong()));
    let mut outdated = std::pin::pin!(outdated(tunnel, shared));
    // The client's own limit comes first.
    let idle = shared.settings.tunnels.idle_timeout.saturating_mul(2);
    let mut closing = false;
    loop {
        let is_empty = tunnel.streams.load(Ordering::Relaxed) == 0;
        tokio::select! {
            asked = http2.accept() => match asked {
                Some(Ok((request, reply))) => take(request, reply, tunnel, shared),
                Some(Err(error)) => {
                    debug!("tunnel {} broke: {error}", tunnel.id);
                    return;
                }
                None => return,
            },
            () = tunnel.changed.notified() => {}
            () = sleep(idle), if is_empty && !closing => {
                closing = true;
                http2.graceful_shutdown();
            }
            () = outdated.as_mut(), if !closing => {
                closing = true;
                http2.graceful_shutdown();
            }
            because = silent.as_mut() => {
                debug!("tunnel {} is given up: {because}", tunnel.id);
                return;
            }
            () = shared.drain.quitted() => {
                // Those who serve its streams say why they end.
                let _ = timeout(FAREWELL, poll_fn(|cx| {
                    if tunnel.streams.load(Ordering::Relaxed) == 0 { Poll::Ready(()) } else { http2.poll_closed(cx).map(drop) }
                })).await;
                return;
            }
        }
    }
}

/// Ends when the tunnel is to take no more streams.
async fn outdated(tunnel: &Tunnel, shared: &Shared) {
    let mut credentials = shared.credentials.clone();
    let others = async {
        let is_other = |current: &Option<Arc<tls::Credentials>>| {
            current.as_ref().is_some_and(|current| current.generation() != tunnel.generation)
        };
        if credentials.wait_for(is_other).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let left = tunnel.ends().duration_since(shared.clock.now()).unwrap_or_default() / shared.clock.factor();
    tokio::select! {
        () = others => {}
        () = sleep(left) => {}
        () = shared.drain.started() => {}
    }
}

impl Tunnel {
    /// The end of the client's certificate.
    fn ends(&self) -> SystemTime {
        self.handshake.record.peer_not_after
    }

    /// Whether the client would be let in by its certificate now too.
    ///
    /// # Errors
    /// Why not, for the record.
    fn still_holds(&self, shared: &Shared) -> Result<(), End> {
        let current = shared.credentials.borrow().clone();
        if let Some(current) = current.filter(|current| current.generation() != self.generation) {
            self.handshake.proof.still_holds(&current)?;
        }
        if shared.clock.now() <= self.ends() {
            return Ok(());
        }
        let until = rfc3339::print(self.ends());
        Err(refuse(
            Reason::CertificateExpired,
            format!("the certificate that the tunnel's client has proved ended at {until}"),
        ))
    }

    fn left(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
        self.changed.notify_one();
    }
}

/// Begins to serve a stream. A client may open and take back streams faster than they end here: those over twice the limit are
/// not served.
fn take(
    request: Request<RecvStream>,
    mut reply: SendResponse<Bytes>,
    tunnel: &Arc<Tunnel>,
    shared: &Arc<Shared>,
) {
    let most = shared.settings.tunnels.max_streams.saturating_mul(2);
    if tunnel.streams.load(Ordering::Relaxed) >= most {
        reply.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
        return;
    }
    let shared_by = tunnel.streams.fetch_add(1, Ordering::Relaxed) + 1;
    let place = Place(tunnel.clone());
    shared.tasks.spawn(one(request, reply, place, shared_by, shared.clone()));
}

/// A stream's place in the count of its tunnel.
struct Place(Arc<Tunnel>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.left();
    }
}

/// Serves one stream, as one connection.
async fn one(
    request: Request<RecvStream>,
    reply: SendResponse<Bytes>,
    place: Place,
    shared_by: usize,
    shared: Arc<Shared>,
) {
    let tunnel = &place.0;
    let mut connection =
        Connection::begin(&shared.connections, &shared.telemetry, Direction::Inbound, tunnel.client);
    connection.note(|record| {
        record.tls = Some(TlsRecord::clone(&tunnel.handshake.record));
        record.tunnel = Some(tunnel.record(reply.stream_id().as_u32(), shared_by));
    });
    let reply = Arc::new(Reply::new(reply));
    let Ok(_permit) = shared.slots.clone().try_acquire_owned() else {
        let detail = format!("limits.maxConnections is {}", shared.settings.limits.max_connections);
        return reply.refuse(connection, refuse(Reason::TooManyConnections, detail));
    };
    let end = tokio::select! {
        end = async {
            match Box::pin(judged(request, &reply, tunnel, &mut connection, &shared)).await {
                Ok(rest) => rest.await,
                Err(end) => end,
            }
        } => end,
        () = reply.taken_back() => End { reason: Reason::ClientReset, detail: None },
        () = shared.drain.quitted() => End { reason: Reason::Drained, detail: None },
    };
    reply.refuse(connection, end);
}

/// What it asks for, and then an inbound connection until it is let in.
async fn judged<'c>(
    request: Request<RecvStream>,
    reply: &Arc<Reply>,
    tunnel: &Tunnel,
    connection: &'c mut Connection,
    shared: &'c Arc<Shared>,
) -> Result<Rest<'c>, End> {
    let authority = request.uri().authority().map(hyper::http::uri::Authority::as_str);
    let target = match target(request.method().as_str(), authority) {
        Ok(target) => target,
        Err(detail) => return Err(refuse(Reason::RequestMalformed, detail)),
    };
    if target.ip() != tunnel.here.ip() {
        connection.note(|record| record.original_destination = Some(target));
        let detail = format!("the tunnel came in at {}, and asks for {target}", tunnel.here.ip());
        return Err(refuse(Reason::AddressNotOurs, detail));
    }
    tunnel.still_holds(shared)?;
    let client = TunnelStream::asked(request.into_body(), reply.clone());
    inbound::serve_tunnelled(client, target, &tunnel.handshake, connection, shared).await
}

impl Tunnel {
    fn record(&self, stream: u32, shared_by: usize) -> TunnelRecord {
        TunnelRecord {
            id: self.id,
            stream,
            new: stream == 1,
            shared_by: u32::try_from(shared_by).unwrap_or(u32::MAX),
            door: self.here,
        }
    }
}

/// The answer to a stream, which is given once.
pub(super) struct Reply {
    waiting: Mutex<Option<SendResponse<Bytes>>>,
    given: AtomicBool,
}

impl Reply {
    fn new(reply: SendResponse<Bytes>) -> Self {
        Self { waiting: Mutex::new(Some(reply)), given: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<SendResponse<Bytes>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the client in; none where it is gone.
    pub(super) fn let_in(&self) -> Option<SendStream<Bytes>> {
        self.given.store(true, Ordering::Relaxed);
        self.lock().take()?.send_response(Response::new(()), false).ok()
    }

    /// Ends the connection; the client is told by a status where it was not let in.
    fn refuse(&self, connection: Connection, end: End) {
        if let Some(mut waiting) = self.lock().take() {
            let mut response = Response::new(());
            *response.status_mut() =
                StatusCode::from_u16(status(end.reason)).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            let _ = waiting.send_response(response, true); // it may be gone
        }
        connection.end(end);
    }

    /// Ends when the client takes the stream back before it was answered.
    async fn taken_back(&self) {
        poll_fn(|cx| {
            if self.given.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            match &mut *self.lock() {
                Some(waiting) => waiting.poll_reset(cx).map(drop),
                None => Poll::Pending,
            }
        })
        .await;
    }
}
