//! A connection that requests are passed on by, to the app or to another sidecar.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use pillion_mesh::reason::Reason;
use pillion_mesh::wire::How;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::body::RequestBody;
use super::io::{HttpIo, IoState};
use super::tasks::Tasks;
use super::{CONNECTION_WINDOW, Failure, MAX_HEADERS, SEND_BUFFER, STREAM_WINDOW};
use crate::connections::Connection;
use crate::net::dial::OwnDial;
use crate::net::{Ground, Leg};

/// Any socket, with TLS over it or without.
pub(crate) type ServerIo = Box<dyn Socket>;

/// What hyper needs of a socket, and we to close it.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Leg + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Leg + Unpin + Send> Socket for S {}

impl Leg for ServerIo {
    fn ground(&self) -> Ground<'_> {
        self.as_ref().ground()
    }

    fn ends_by(&self) -> How {
        self.as_ref().ends_by()
    }
}

/// A dialled connection before HTTP is spoken on it.
pub(crate) struct Connected {
    /// The socket.
    pub(crate) stream: ServerIo,
    /// Keeps it among our own dials, where it was dialled by itself.
    pub(crate) own: Option<OwnDial>,
    /// Told when the connection is closed; not where it becomes a tunnel.
    pub(crate) closed: Option<Arc<Notify>>,
    /// Its record, where it has one of its own.
    pub(crate) record: Option<Connection>,
}

/// Sends requests one after the other (HTTP/1), or many at once (HTTP/2).
#[derive(Debug)]
pub(crate) enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

/// A request that was not answered; whole again where nothing of it was sent.
pub(crate) struct Unanswered {
    pub(crate) failure: Failure,
    pub(crate) unsent: Option<Request<RequestBody>>,
}

impl Sender {
    /// Begins to speak `version` on a connection, of which messages have heads of at most `head_size` bytes. The
    /// connection lives as long as `tasks`, and not after `cut` says why.
    ///
    /// # Errors
    /// Where HTTP/2 is not begun.
    pub(crate) async fn over(
        connected: Connected,
        version: Version,
        head_size: usize,
        tasks: &Tasks,
        cut: impl Future<Output = String> + Send + 'static,
    ) -> Result<Sender, Failure> {
        let state = Arc::new(IoState::default());
        let io = TokioIo::new(HttpIo::of_server(connected, state.clone()));
        if version == Version::HTTP_2 {
            let handshake = http2::Builder::new(tasks.clone())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(SEND_BUFFER)
                .max_header_list_size(u32::try_from(head_size).unwrap_or(u32::MAX))
                .handshake(io);
            let (sender, connection) = handshake.await.map_err(|error| failure(&error))?;
            tasks.spawn(until_cut(connection, cut, state));
            return Ok(Sender::Http2(sender));
        }
        let handshake = http1::Builder::new()
            .preserve_header_case(true)
            .max_headers(MAX_HEADERS)
            .max_buf_size(head_size)
            .handshake(io);
        let (sender, connection) = handshake.await.map_err(|error| failure(&error))?;
        tasks.spawn(until_cut(connection.with_upgrades(), cut, state));
        Ok(Sender::Http1(sender))
    }

    /// Whether requests can still be sent.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    /// Whether a request can be sent at once.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Sender::Http1(sender) => sender.is_ready(),
            Sender::Http2(sender) => sender.is_ready(),
        }
    }

    /// Waits until a request can be sent, that is until the answer before is done (HTTP/1). An error shows when sending.
    pub(crate) async fn ready(&mut self) {
        let _ = match self {
            Sender::Http1(sender) => sender.ready().await,
            Sender::Http2(sender) => sender.ready().await,
        };
    }

    /// Begins to send. The answer is waited for without the sender, so that others may send by HTTP/2 meanwhile.
    pub(crate) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, Box<Unanswered>>> + Send + use<> {
        enum Sending<A, B> {
            Http1(A),
            Http2(B),
        }
        let sending = match self {
            Sender::Http1(sender) => Sending::Http1(sender.try_send_request(request)),
            Sender::Http2(sender) => Sending::Http2(sender.try_send_request(request)),
        };
        async move {
            let sent = match sending {
                Sending::Http1(sending) => sending.await,
                Sending::Http2(sending) => sending.await,
            };
            sent.map_err(|mut fault| {
                let unsent = fault.take_message();
                Box::new(Unanswered { failure: failure(fault.error()), unsent })
            })
        }
    }
}

/// Drives a connection to its end. Cut, it is reset.
async fn until_cut(
    connection: impl Future<Output = hyper::Result<()>>,
    cut: impl Future<Output = String>,
    state: Arc<IoState>,
) {
    tokio::select! {
        // What broke, the socket has noted.
        _ = connection => {}
        because = cut => state.cut(because),
    }
}

/// Why the other side did not answer.
fn failure(error: &hyper::Error) -> Failure {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(deeper) = source {
        words = format!("{words}: {deeper}");
        source = deeper.source();
    }
    // Of our making is only a body that the client did not finish.
    let reason = if error.is_user() { Reason::ClientReset } else { Reason::ServerReset };
    Failure { reason, detail: words }
}
