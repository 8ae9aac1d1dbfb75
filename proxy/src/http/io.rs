//! The socket as hyper sees it: counts bytes, notes what breaks, closes cleanly only where hyper ends the connection in
//! order, and tells when the head of a request takes too long.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use pillion_mesh::reason::Reason;
use pillion_mesh::wire::How;

use super::sender::{Connected, ServerIo};
use crate::connections::{Connection, Notes};
use crate::net::dial::OwnDial;
use crate::net::moved::Side;
use crate::net::relay::{End, end_of};
use crate::net::{Ground, Leg};

/// What an HTTP/2 client sends first (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client's socket under hyper.
pub(super) struct HttpIo<S> {
    inner: S,
    side: Side,
    state: Arc<IoState>,
    counts: Option<Notes>,
    _closing: Option<Closing>,
}

/// What happens when a socket is closed; a tunnel takes it over.
struct Closing {
    told: Option<Arc<Notify>>,
    record: Option<Connection>,
    state: Arc<IoState>,
    _own: Option<OwnDial>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(told) = &self.told {
            told.notify_one();
        }
        if let Some(record) = self.record.take() {
            let completed = || End { reason: Reason::Completed, detail: None };
            record.end(self.state.fault().unwrap_or_else(completed));
        }
    }
}

/// What the socket has seen, shared with who serves the connection.
#[derive(Debug, Default)]
pub(super) struct IoState {
    seen: Mutex<Seen>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Seen {
    /// Why the socket broke.
    fault: Option<End>,
    /// How many bytes were read, as far as the preface goes, and whether they are its beginning.
    preface: Option<usize>,
    /// Requests that were handed out and not yet answered whole.
    under_way: usize,
    /// When the head that is being read began.
    head_since: Option<Instant>,
    end_reason: Option<Reason>,
}

impl<S> HttpIo<S> {
    /// The client's side of a connection, whose bytes are counted in `counts`.
    pub(super) fn of_client(inner: S, state: Arc<IoState>, counts: Notes) -> Self {
        Self { inner, side: Side::Client, state, counts: Some(counts), _closing: None }
    }
}

impl HttpIo<ServerIo> {
    /// The side that requests are passed on to.
    pub(super) fn of_server(connected: Connected, state: Arc<IoState>) -> Self {
        let Connected { stream, own, closed, record } = connected;
        let counts = record.as_ref().map(Connection::notes);
        let closing = Closing { told: closed, record, state: state.clone(), _own: own };
        Self { inner: stream, side: Side::Server, state, counts, _closing: Some(closing) }
    }
}

impl IoState {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the socket broke, if it did.
    pub(super) fn fault(&self) -> Option<End> {
        self.seen().fault.take()
    }

    /// A changed policy no longer allows the connection.
    pub(super) fn cut(&self, because: String) {
        self.seen().fault = Some(End { reason: Reason::PolicyChanged, detail: Some(because) });
    }

    /// The connection ends for this reason, and with it every request on it.
    pub(super) fn ends(&self, reason: Reason) {
        self.seen().end_reason = Some(reason);
    }

    /// Why requests end that their connection takes along.
    pub(super) fn end_reason(&self) -> Reason {
        self.seen().end_reason.unwrap_or(Reason::ClientReset)
    }

    /// A request's head is whole.
    pub(super) fn request_begun(&self) {
        let mut seen = self.seen();
        seen.under_way += 1;
        seen.head_since = None;
    }

    /// A request is answered.
    pub(super) fn request_ended(&self) {
        let mut seen = self.seen();
        seen.under_way = seen.under_way.saturating_sub(1);
    }

    /// Ends when the head of a request has taken longer than `limit`; a connection without any may be idle for ever.
    pub(super) async fn slow_head(&self, limit: Duration) -> Duration {
        loop {
            let since = self.seen().head_since;
            match since {
                None => self.changed.notified().await,
                Some(begun) => {
                    sleep_until(begun + limit).await;
                    if self.seen().head_since == Some(begun) {
                        return limit;
                    }
                }
            }
        }
    }

    /// Bytes came. Those that come while no request is under way begin a head. HTTP/2 mixes frames of all kinds: of it
    /// only the preface is waited for.
    fn read(&self, bytes: &[u8]) {
        let mut seen = self.seen();
        let before = seen.preface.unwrap_or(0);
        if before < PREFACE.len() {
            let rest = PREFACE.get(before..).unwrap_or_default();
            let is_preface = rest.iter().zip(bytes).all(|(expected, byte)| expected == byte);
            // What does not begin so will never be asked again.
            seen.preface = Some(if is_preface { before + bytes.len() } else { usize::MAX });
        }
        let is_http2 = seen.preface.is_some_and(|read| (PREFACE.len()..usize::MAX).contains(&read));
        if is_http2 {
            seen.head_since = None;
        } else if seen.under_way == 0 && seen.head_since.is_none() {
            seen.head_since = Some(Instant::now());
            self.changed.notify_one();
        }
    }

    fn broke(&self, side: Side, error: &io::Error, reading: bool) {
        self.seen().fault.get_or_insert_with(|| end_of(side, error, reading));
    }
}

impl<S: AsyncRead + Leg + Unpin> AsyncRead for HttpIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        match &polled {
            Poll::Ready(Ok(())) => {
                let bytes = buffer.filled().get(before..).unwrap_or_default();
                self.count(self.side, bytes);
                if bytes.is_empty() && buffer.remaining() > 0 {
                    self.ended(self.side, self.inner.ends_by());
                }
                if self.side == Side::Client && !bytes.is_empty() {
                    self.state.read(bytes);
                }
            }
            Poll::Ready(Err(error)) => self.state.broke(self.side, error, true),
            Poll::Pending => {}
        }
        polled
    }
}

impl<S: AsyncWrite + Leg + Unpin> AsyncWrite for HttpIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.wrote(&polled, &[io::IoSlice::new(bytes)]);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.wrote(&polled, slices);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    /// hyper shuts down where all that was begun is finished.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended(self.side.other(), How::Fin);
        self.inner.close_cleanly();
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S> HttpIo<S> {
    /// Counts bytes that came from a side, and so go to the other.
    fn count(&self, from: Side, bytes: &[u8]) {
        if let Some(counts) = &self.counts {
            counts.moved().came_from(from, bytes);
        }
    }

    /// A side ends its direction; who shuts a socket down does it for the other.
    fn ended(&self, side: Side, how: How) {
        if let Some(counts) = &self.counts {
            counts.moved().ended(side, how);
        }
    }

    /// So much of `slices` was written.
    fn wrote(&self, polled: &Poll<io::Result<usize>>, slices: &[io::IoSlice<'_>]) {
        match polled {
            Poll::Ready(Ok(count)) => {
                let mut left = *count;
                for slice in slices {
                    let written = slice.get(..left).unwrap_or(slice);
                    left -= written.len();
                    self.count(self.side.other(), written);
                }
            }
            Poll::Ready(Err(error)) => self.state.broke(self.side, error, false),
            Poll::Pending => {}
        }
    }
}

impl<S: Leg> Leg for HttpIo<S> {
    fn ground(&self) -> Ground<'_> {
        self.inner.ground()
    }

    fn ends_by(&self) -> How {
        self.inner.ends_by()
    }
}
