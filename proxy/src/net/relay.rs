//! Copies bytes both ways between two legs until both directions have ended or one of them broke.
//!
//! Each direction closes on its own (half-close). An idle connection holds no buffer: bytes are read into the worker
//! thread's scratch space and written from there; only what the other side does not take at once is kept, and
//! nothing more is read meanwhile (backpressure). Once a direction between two sockets without TLS has filled that space, its
//! bytes do not come to us any more (`splice`).

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pillion_mesh::reason::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Leg;
use super::moved::{Moved, Side};
use super::splice::{self, Broken, Pipe, Turn};
use crate::{memory, tls};

/// One read at most; sixteen TLS records of the largest size. The fewer calls, the fewer wake-ups of the other side.
const SCRATCH: usize = 256 * 1024;

/// Reads before the task lets others run, so that a flood on one connection starves nobody.
const TURNS: usize = 4;

thread_local! {
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// How the relay ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) reason: Reason,
    pub(crate) detail: Option<String>,
}

/// What is left of a connection that is let in: bytes pass, until the end. It stands apart from what came before, whose room
/// is given back by then.
pub(crate) type Rest<'c> = Pin<Box<dyn Future<Output = End> + Send + 'c>>;

/// Relays until the end. After [`Reason::Completed`] both legs close cleanly when dropped; after any other reason
/// they are reset, so that neither side takes a cut stream for a whole one.
pub(crate) async fn relay<C, S>(client: &mut C, server: &mut S, moved: &Moved) -> End
where
    C: AsyncRead + AsyncWrite + Leg + Unpin,
    S: AsyncRead + AsyncWrite + Leg + Unpin,
{
    let (mut up, mut down) = (Pump::from(Side::Client), Pump::from(Side::Server));
    let end = poll_fn(|cx| {
        let up = up.poll(cx, client, server, moved).map_err(|fault| fault.seen_from(Side::Client));
        if let Poll::Ready(Err(end)) = up {
            return Poll::Ready(end);
        }
        let down = down.poll(cx, server, client, moved).map_err(|fault| fault.seen_from(Side::Server));
        match (up, down) {
            (_, Poll::Ready(Err(end))) => Poll::Ready(end),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                Poll::Ready(End { reason: Reason::Completed, detail: None })
            }
            _ => Poll::Pending,
        }
    })
    .await;
    if end.reason == Reason::Completed {
        client.close_cleanly();
        server.close_cleanly();
    }
    end
}

/// One direction.
#[derive(Debug)]
struct Pump {
    from: Side,
    /// Read but not yet taken by the writer: `kept[given..]`.
    kept: Vec<u8>,
    given: usize,
    unflushed: bool,
    passing: Passing,
    ended: bool,
    done: bool,
}

/// How bytes go from one side to the other.
#[derive(Debug)]
enum Passing {
    /// They are read and written, so far.
    Copied,
    /// By the kernel; with the pipe in which some are, if so.
    Spliced(Option<Pipe>),
    /// Read and written, for the kernel does not do it.
    OnlyCopied,
}

/// Which end of a direction broke.
enum Fault {
    Reading(io::Error),
    Writing(io::Error),
}

impl Pump {
    fn from(side: Side) -> Self {
        Self {
            from: side,
            kept: Vec::new(),
            given: 0,
            unflushed: false,
            passing: Passing::Copied,
            ended: false,
            done: false,
        }
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        moved: &Moved,
    ) -> Poll<Result<(), Fault>>
    where
        R: AsyncRead + Leg + Unpin,
        W: AsyncWrite + Leg + Unpin,
    {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..TURNS {
            ready!(self.write_kept(cx, writer))?;
            if self.ended {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Fault::Writing)?;
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            if let Passing::Spliced(pipe) = &mut self.passing
                && let (Some(from), Some(to)) = (reader.bare(), writer.bare())
            {
                let came = |count| {
                    memory::stirs();
                    moved.came_unseen_from(self.from, count);
                };
                match ready!(splice::poll_turn(pipe, cx, from, to, came)).map_err(Fault::from)? {
                    Turn::Passed => {}
                    Turn::Ended => {
                        self.ended = true;
                        moved.ended(self.from, reader.ends_by());
                    }
                    Turn::NoPipe => self.passing = Passing::Copied,
                    Turn::Unable => self.passing = Passing::OnlyCopied,
                }
                continue;
            }
            match self.read_and_write(cx, reader, writer, moved) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(Fault::Writing)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read, and one write of what it brought; the rest is kept.
    fn read_and_write<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        moved: &Moved,
    ) -> Poll<Result<(), Fault>>
    where
        R: AsyncRead + Leg + Unpin,
        W: AsyncWrite + Leg + Unpin,
    {
        SPACE.with_borrow_mut(|space| {
            let mut buffer = ReadBuf::new(space);
            ready!(Pin::new(&mut *reader).poll_read(cx, &mut buffer)).map_err(Fault::Reading)?;
            let read = buffer.filled();
            if read.is_empty() {
                self.ended = true;
                moved.ended(self.from, reader.ends_by());
                return Poll::Ready(Ok(()));
            }
            memory::stirs();
            moved.came_from(self.from, read);
            self.unflushed = true;
            if read.len() == SCRATCH
                && matches!(self.passing, Passing::Copied)
                && reader.bare().is_some()
                && writer.bare().is_some()
            {
                self.passing = Passing::Spliced(None);
            }
            let written = match Pin::new(&mut *writer).poll_write(cx, read) {
                Poll::Ready(result) => result.map_err(Fault::Writing)?,
                Poll::Pending => 0,
            };
            self.kept.extend_from_slice(read.get(written..).unwrap_or_default());
            Poll::Ready(Ok(()))
        })
    }

    fn write_kept<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<Result<(), Fault>> {
        loop {
            let rest = self.kept.get(self.given..).unwrap_or_default();
            if rest.is_empty() {
                if self.given > 0 {
                    (self.kept, self.given) = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(()));
            }
            let written = ready!(Pin::new(&mut *writer).poll_write(cx, rest)).map_err(Fault::Writing)?;
            if written == 0 {
                return Poll::Ready(Err(Fault::Writing(io::ErrorKind::WriteZero.into())));
            }
            self.given += written;
        }
    }
}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Reading(error) => Fault::Reading(error),
            Broken::Writing(error) => Fault::Writing(error),
        }
    }
}

impl Side {
    fn name(self) -> &'static str {
        if self == Side::Client { "client" } else { "server" }
    }

    fn reset(self) -> Reason {
        if self == Side::Client { Reason::ClientReset } else { Reason::ServerReset }
    }

    fn lost(self) -> Reason {
        if self == Side::Client { Reason::ClientLost } else { Reason::ServerLost }
    }
}

impl Fault {
    /// The end of the connection, where this direction reads from `reader`.
    fn seen_from(self, reader: Side) -> End {
        let (side, error, reading) = match self {
            Fault::Reading(error) => (reader, error, true),
            Fault::Writing(error) => (reader.other(), error, false),
        };
        end_of(side, &error, reading)
    }
}

/// The end of a connection of which one side broke, while it was read from or written to.
pub(crate) fn end_of(side: Side, error: &io::Error, reading: bool) -> End {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let (reason, detail) = match (error.kind(), tls) {
        (io::ErrorKind::UnexpectedEof, _) if reading => {
            (Reason::TlsTruncated, Some(format!("the {} ended without close_notify", side.name())))
        }
        (_, Some(rustls::Error::AlertReceived(alert))) => {
            (Reason::PeerRefused, Some(format!("the {} sent the alert {}", side.name(), tls::told(*alert))))
        }
        (_, Some(fault)) => {
            (Reason::TlsBroken, Some(format!("the {}'s TLS stream broke: {fault}", side.name())))
        }
        (io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe, None) => (side.reset(), None),
        (io::ErrorKind::TimedOut, None) => (side.lost(), None),
        (_, None) => (side.reset(), Some(format!("{}: {error}", side.name()))),
    };
    End { reason, detail }
}

#[cfg(test)]
mod tests;
