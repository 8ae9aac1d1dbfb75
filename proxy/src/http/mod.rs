//! The HTTP leg: serves connections whose port is declared as HTTP, or whose policies ask for what only HTTP has. Each
//! request is read in its one spelling, authorized, and passed on by [`Upstream`]; whatever can be understood in more than
//! one way is refused.
//!
//! Parsing, framing and HTTP/2 are hyper's. Messages are framed anew towards the other side, so what hyper reads is what
//! the other side reads. HTTP/1.1 stays HTTP/1.1 and HTTP/2 stays HTTP/2. Ports that are not read as HTTP never come here.

mod asked;
mod body;
mod exchange;
mod headers;
mod io;
mod record;
mod sender;
mod tasks;
mod tunnel;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pillion_mesh::policy::authz::Permit;
use pillion_mesh::reason::Reason;
use pillion_mesh::wire::{How, Parties};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::app::Shared;
use crate::authorize::Known;
use crate::connections::{Connection, Notes};
use crate::net::Leg;
use crate::net::moved::Side;
use crate::net::relay::End;
pub(crate) use asked::Asked;
pub(crate) use body::RequestBody;
pub(crate) use exchange::readdress;
use io::{HttpIo, IoState};
pub(crate) use sender::{Connected, Sender, ServerIo, Unanswered};
pub(crate) use tasks::Tasks;

/// Requests under way at the same time on one HTTP/2 connection (RFC 9113 6.5.2).
const MAX_STREAMS: u32 = 100;
/// Bytes of one HTTP/2 stream, and of all streams of a connection together, that are taken before they are passed on.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Bytes of one HTTP/2 stream that wait to be sent.
const SEND_BUFFER: usize = 64 * 1024;
/// Header lines of a message; as many as Envoy takes.
const MAX_HEADERS: usize = 100;

/// Where permitted requests go.
pub(crate) trait Upstream: Send + Sync + 'static {
    /// Whether it is the edge of the mesh, which tells the other side whom it took the request from.
    const IS_EDGE: bool;

    /// Finds the way and passes the request on. Only who holds a permit may: the authorizer alone makes one.
    fn pass_on(
        &self,
        permit: &Permit,
        asked: &Asked,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Passed, Failure>> + Send;

    /// The service that a request is for, `host:port`, as far as it is known.
    fn service_of(&self, asked: &Asked) -> Option<String>;

    /// Ends when the connection that requests are passed on by was closed by the other side, and the client's is to be
    /// closed as well, as it would be without us.
    fn closed(&self) -> impl Future<Output = ()> + Send;

    /// The tasks that live as long as the client's connection.
    fn tasks(&self) -> &Tasks;
}

/// A request that was passed on, with the head of its answer.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) response: Response<Incoming>,
    /// The address that it was passed on to.
    pub(crate) upstream: SocketAddr,
    /// Who has proved what on the way there; none in plaintext.
    pub(crate) server: Option<Parties>,
}

/// Why a request was not answered by the other side.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
}

/// What is known of the connection that requests come on.
struct Downstream<U> {
    shared: Arc<Shared>,
    notes: Notes,
    known: Known,
    upstream: U,
    tasks: Tasks,
    state: Arc<IoState>,
    tunnel: tunnel::Slot,
}

/// Serves one connection until its end: until the client or the other side closes it, `cut` says why it must end, or the
/// proxy drains.
pub(crate) async fn serve<S, U>(
    stream: S,
    connection: &Connection,
    known: Known,
    upstream: U,
    shared: Arc<Shared>,
    cut: impl Future<Output = String>,
) -> End
where
    S: AsyncRead + AsyncWrite + Leg + Unpin + Send + 'static,
    U: Upstream,
{
    let notes = connection.notes();
    let state = Arc::new(IoState::default());
    let downstream = Arc::new(Downstream {
        shared,
        notes: notes.clone(),
        known,
        tasks: upstream.tasks().clone(),
        upstream,
        state: state.clone(),
        tunnel: tunnel::Slot::default(),
    });
    until_end(HttpIo::of_client(stream, state, notes), &downstream, cut).await
}

/// Ends what the connection began, however it ends.
struct Ending<'d, U>(&'d Downstream<U>);

impl<U> Drop for Ending<'_, U> {
    fn drop(&mut self) {
        if self.0.shared.drain.is_quitting() {
            self.0.state.ends(Reason::Drained);
        }
        self.0.tasks.end();
        // It knows the connection, which knows it.
        drop(self.0.tunnel.take());
    }
}

async fn until_end<S, U>(
    stream: HttpIo<S>,
    downstream: &Arc<Downstream<U>>,
    cut: impl Future<Output = String>,
) -> End
where
    S: AsyncRead + AsyncWrite + Leg + Unpin + Send + 'static,
    U: Upstream,
{
    let ends_by = stream.ends_by();
    let builder = builder(downstream);
    let handler = service_fn(|request: Request<Incoming>| exchange::answer(downstream.clone(), request));
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), handler));
    let mut cut = pin!(cut);
    let limits = &downstream.shared.settings.limits;
    let _ending = Ending(downstream); // before the connection, and the requests on it, are dropped
    let mut closing = false;
    let served = loop {
        tokio::select! {
            served = connection.as_mut() => break served,
            () = downstream.upstream.closed(), if !closing => {
                closing = true;
                downstream.notes.moved().ended(Side::Server, How::Fin);
                connection.as_mut().graceful_shutdown();
            }
            () = downstream.shared.drain.started(), if !closing => {
                closing = true;
                downstream.notes.moved().ends_here(ends_by);
                connection.as_mut().graceful_shutdown();
            }
            because = cut.as_mut() => {
                return downstream.ends(End { reason: Reason::PolicyChanged, detail: Some(because) });
            }
            waited = downstream.state.slow_head(limits.request_head_timeout) => {
                return downstream.ends(End { reason: Reason::RequestTimeout, detail: Some(slow(waited)) });
            }
        }
    };
    let fault = downstream.state.fault();
    let end = match served {
        Ok(()) => match downstream.tunnel.take() {
            Some(tunnel) => tokio::select! {
                end = tunnel.run::<S>() => end,
                because = cut => End { reason: Reason::PolicyChanged, detail: Some(because) },
            },
            None => fault.unwrap_or(End { reason: Reason::Completed, detail: None }),
        },
        Err(error) => fault.unwrap_or_else(|| end_of(&*error)),
    };
    downstream.ends(end)
}

impl<U> Downstream<U> {
    /// The requests that are under way end with the connection.
    fn ends(&self, end: End) -> End {
        self.state.ends(end.reason);
        end
    }
}

fn slow(waited: Duration) -> String {
    format!("its head was not whole {waited:?} after it began (limits.requestHeadTimeout)")
}

fn builder<U>(downstream: &Downstream<U>) -> auto::Builder<Tasks> {
    let limits = &downstream.shared.settings.limits;
    let mut builder = auto::Builder::new(downstream.tasks.clone());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Also runs between requests, where it would close connections that clients keep for the next one.
        .header_read_timeout(None)
        .auto_date_header(false)
        .preserve_header_case(true)
        .half_close(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(limits.request_head_size);
    builder
        .http2()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.request_head_size).unwrap_or(u32::MAX));
    builder
}

/// The end of a connection that hyper gave up while both sockets were well.
fn end_of(error: &(dyn std::error::Error + 'static)) -> End {
    let (mut reason, mut words) = (Reason::Internal, error.to_string());
    let mut source = Some(error);
    while let Some(fault) = source {
        if let Some(fault) = fault.downcast_ref::<hyper::Error>() {
            reason = match fault {
                fault if fault.is_incomplete_message() || fault.is_canceled() => Reason::ClientReset,
                fault if fault.is_parse() => Reason::RequestMalformed,
                // A body that could not be read from the other side.
                fault if fault.is_user() => Reason::ServerReset,
                // What HTTP/2 forbids.
                _ => Reason::RequestMalformed,
            };
        }
        source = fault.source();
        if let Some(deeper) = source {
            words = deeper.to_string();
        }
    }
    End { reason, detail: Some(words) }
}
