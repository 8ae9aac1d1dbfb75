//! A connection's place in a tunnel as a stream of bytes, with the ends that a socket has: each direction by itself, and a
//! reset where it was not ended in order.
//!
//! Holds no buffer while nothing passes: what is read is a slice of the tunnel's own buffer, and given back to its window as it
//! is taken.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use h2::{Reason, RecvStream, SendStream};
use hyper::body::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pool::Place;
use super::server::Reply;
use crate::net::{Ground, Leg};

/// Bytes that are handed over at once at most.
const PIECE: usize = 256 * 1024;

/// A connection in a tunnel.
pub(crate) struct TunnelStream {
    receiving: RecvStream,
    sending: Sending,
    /// Come, and not yet taken.
    rest: Bytes,
    ended: bool,
    ending: Ending,
    /// Which it has in one of our own tunnels; given back behind the stream itself.
    place: Option<Place>,
}

enum Sending {
    Open(SendStream<Bytes>),
    /// The client waits to be let in.
    Asked(Arc<Reply>),
    /// It has gone away meanwhile.
    Gone,
}

/// How a place in a tunnel is given back: in order, or by a reset.
#[derive(Debug, Default)]
pub(crate) struct Ending(AtomicBool);

impl Ending {
    /// From now on in order.
    pub(crate) fn set_clean(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_clean(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl TunnelStream {
    /// Of one of our own tunnels, in which the peer has taken the connection.
    pub(super) fn taken(receiving: RecvStream, sending: SendStream<Bytes>, place: Place) -> Self {
        Self::new(receiving, Sending::Open(sending), Some(place))
    }

    /// Of a client that is let in, by `reply`, or not.
    pub(super) fn asked(receiving: RecvStream, reply: Arc<Reply>) -> Self {
        Self::new(receiving, Sending::Asked(reply), None)
    }

    fn new(receiving: RecvStream, sending: Sending, place: Option<Place>) -> Self {
        let (rest, ending) = (Bytes::new(), Ending::default());
        Self { receiving, sending, rest, ended: false, ending, place }
    }

    /// As it is told where a socket broke: silence is told as TCP tells it.
    fn fault(&self, error: h2::Error) -> io::Error {
        if self.place.as_ref().is_some_and(Place::is_silent) {
            return io::ErrorKind::TimedOut.into();
        }
        match error.reason() {
            Some(reason) => io::Error::new(io::ErrorKind::ConnectionReset, format!("{reason}")),
            None => error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        }
    }

    fn sending(&mut self) -> io::Result<&mut SendStream<Bytes>> {
        match &mut self.sending {
            Sending::Open(sending) => Ok(sending),
            Sending::Asked(_) | Sending::Gone => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// The next piece that has come; none at the end. A peer that resets without an error has sent all.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            match ready!(self.receiving.poll_data(cx)) {
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => return Poll::Ready(Ok(Some(piece))),
                None => return Poll::Ready(Ok(None)),
                Some(Err(error)) if error.is_reset() && error.reason() == Some(Reason::NO_ERROR) => {
                    return Poll::Ready(Ok(None));
                }
                Some(Err(error)) => return Poll::Ready(Err(self.fault(error))),
            }
        }
    }

    /// Takes of what has come as much as fits.
    fn take(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(self.rest.get(..count).unwrap_or_default());
        self.rest.advance(count);
        if self.rest.is_empty() {
            self.rest = Bytes::new(); // gives back the buffer that it was a slice of
        }
        // Fails only for more than has come.
        self.receiving.flow_control().release_capacity(count).map_err(io::Error::other)
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            self.take(buffer)?;
            if buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let polled = self.poll_piece(cx);
            // An end, or a fault, is told again.
            let any = buffer.filled().len() > before;
            match polled {
                Poll::Ready(Ok(Some(piece))) => self.rest = piece,
                _ if any => return Poll::Ready(Ok(())),
                Poll::Ready(end) => return Poll::Ready(end.map(drop)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = bytes.get(..PIECE).unwrap_or(bytes);
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let sending = self.sending()?;
        if sending.capacity() == 0 {
            sending.reserve_capacity(bytes.len());
        }
        // Room that was given once is not told again.
        let room = match sending.capacity() {
            0 => ready!(sending.poll_capacity(cx)),
            room => Some(Ok(room)),
        };
        let sent = match room {
            Some(Ok(room)) => {
                let piece = bytes.get(..room).unwrap_or(bytes);
                sending.send_data(Bytes::copy_from_slice(piece), false).map(|()| piece.len())
            }
            Some(Err(error)) => Err(error),
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        Poll::Ready(sent.map_err(|error| self.fault(error)))
    }

    /// The tunnel sends by itself.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let sent = self.sending()?.send_data(Bytes::new(), true);
        self.ended = true;
        Poll::Ready(sent.map_err(|error| self.fault(error)))
    }
}

impl Leg for TunnelStream {
    fn ground(&self) -> Ground<'_> {
        Ground::Tunnel(&self.ending)
    }

    fn let_in(&mut self) {
        if let Sending::Asked(reply) = &self.sending {
            self.sending = reply.let_in().map_or(Sending::Gone, Sending::Open);
        }
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        if let Sending::Open(sending) = &mut self.sending
            && !self.ending.is_clean()
        {
            sending.send_reset(Reason::CONNECT_ERROR); // RFC 9113 8.5
        }
    }
}
