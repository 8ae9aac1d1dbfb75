//! Plaintext in bulk goes from socket to socket within the kernel (splice(2)), by way of a pipe: half of what it costs to copy
//! it out and in again.
//!
//! A pipe is held only while bytes are in it or about to be: a thread keeps a few for the next ones. Leaves to `relay` when a
//! direction is in bulk, and what follows from an end or a fault.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe holds where the kernel lets it grow so far, and what is moved at once.
const CAPACITY: usize = 256 * 1024;
/// Pipes that a thread keeps at most.
const SPARE: usize = 8;
/// Pipes of a thread at most, two descriptors each: connections that do not read must not use up what others are accepted by.
const MOST: usize = 512;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
    /// Those that there are, kept or in use. A connection stays on its thread, and so does its pipe.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// A way through the kernel. One that still holds bytes is not used again for others: dropped, it is closed.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
    _place: Place,
}

/// A pipe's place in the count of them.
#[derive(Debug)]
struct Place(());

impl Place {
    fn take() -> Option<Self> {
        let count = COUNT.get();
        (count < MOST).then(|| {
            COUNT.set(count + 1);
            Self(())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        COUNT.set(COUNT.get().saturating_sub(1));
    }
}

/// What became of one turn.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Bytes have come, and all of them went on.
    Passed,
    /// The reader has ended.
    Ended,
    /// No pipe can be had now. Nothing was lost.
    NoPipe,
    /// The kernel does not do it for these sockets. Nothing was lost.
    Unable,
}

/// Which side broke.
#[derive(Debug)]
pub(crate) enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

impl Pipe {
    /// None where there are too many, or no descriptors are left.
    fn new() -> Option<Self> {
        let place = Place::take()?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Of a user who has many it may stay smaller.
        let _ = fcntl_setpipe_size(&write, CAPACITY);
        Some(Self { read, write, held: 0, _place: place })
    }

    fn take() -> Option<Self> {
        PIPES.with_borrow_mut(Vec::pop).or_else(Self::new)
    }

    fn give_back(self) {
        PIPES.with_borrow_mut(|pipes| {
            if pipes.len() < SPARE {
                pipes.push(self);
            }
        });
    }
}

/// Moves once from `reader` to `writer`: as much as there is and as the pipe takes. `came` is told how much.
pub(crate) fn poll_turn(
    held: &mut Option<Pipe>,
    cx: &mut Context<'_>,
    reader: &TcpStream,
    writer: &TcpStream,
    came: impl FnOnce(usize),
) -> Poll<Result<Turn, Broken>> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    let Some(mut pipe) = held.take().or_else(Pipe::take) else { return Poll::Ready(Ok(Turn::NoPipe)) };
    // Only into an empty one: of a full one the kernel says the same as of a reader that has nothing.
    while pipe.held == 0 {
        let into = || Ok(splice(reader, None, &pipe.write, None, CAPACITY, flags)?);
        match reader.try_io(Interest::READABLE, into) {
            Ok(0) => {
                pipe.give_back();
                return Poll::Ready(Ok(Turn::Ended));
            }
            Ok(count) => {
                pipe.held = count;
                came(count);
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => match reader.poll_read_ready(cx) {
                Poll::Ready(polled) => polled.map_err(Broken::Reading)?,
                Poll::Pending => {
                    pipe.give_back();
                    return Poll::Pending;
                }
            },
            Err(error) if is_unable(&error) => return Poll::Ready(Ok(Turn::Unable)),
            Err(error) => return Poll::Ready(Err(Broken::Reading(error))),
        }
    }
    let pipe = held.insert(pipe);
    while pipe.held > 0 {
        let out = || Ok(splice(&pipe.read, None, writer, None, pipe.held, flags)?);
        match writer.try_io(Interest::WRITABLE, out) {
            Ok(0) => return Poll::Ready(Err(Broken::Writing(io::ErrorKind::WriteZero.into()))),
            Ok(count) => pipe.held -= count.min(pipe.held),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready!(writer.poll_write_ready(cx)).map_err(Broken::Writing)?;
            }
            Err(error) => return Poll::Ready(Err(Broken::Writing(error))),
        }
    }
    Poll::Ready(Ok(Turn::Passed))
}

fn is_unable(error: &io::Error) -> bool {
    [Errno::INVAL, Errno::NOSYS].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    fn spare() -> usize {
        PIPES.with_borrow(Vec::len)
    }

    #[tokio::test]
    async fn bytes_pass_until_the_end_and_an_idle_direction_holds_no_pipe() {
        let ((mut from, reader), (writer, mut to)) = (pair().await, pair().await);
        let (mut held, count) = (None, Cell::new(0));
        let mut turn = |cx: &mut Context<'_>| {
            poll_turn(&mut held, cx, &reader, &writer, |came| count.set(count.get() + came))
        };
        let idle = poll_fn(|cx| Poll::Ready(turn(cx).is_pending())).await;
        assert_eq!((idle, spare()), (true, 1));
        from.write_all(b"some bytes").await.unwrap();
        let passed = timeout(LONG, poll_fn(&mut turn)).await.unwrap().unwrap();
        assert!(matches!(passed, Turn::Passed), "{passed:?}");
        let mut got = [0; 10];
        to.read_exact(&mut got).await.unwrap();
        assert_eq!((&got, count.get()), (b"some bytes", 10));
        from.shutdown().await.unwrap();
        let ended = timeout(LONG, poll_fn(&mut turn)).await.unwrap().unwrap();
        assert!(matches!(ended, Turn::Ended), "{ended:?}");
        assert!(held.is_none() && spare() == 1, "{held:?}");
    }

    #[tokio::test]
    async fn a_pipe_with_bytes_waits_for_the_writer_and_is_not_given_to_others() {
        let ((mut from, reader), (writer, _to)) = (pair().await, pair().await);
        let stuffed = tokio::spawn(async move {
            let _ = from.write_all(&vec![7; 64 * 1024 * 1024]).await;
        });
        let mut held = None;
        let stuck = async {
            loop {
                let turn = poll_fn(|cx| Poll::Ready(poll_turn(&mut held, cx, &reader, &writer, drop))).await;
                if turn.is_pending() && held.is_some() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, stuck).await.unwrap();
        assert_eq!(spare(), 0);
        assert!(held.is_some_and(|pipe| pipe.held > 0));
        stuffed.abort();
    }

    #[tokio::test]
    async fn there_are_only_so_many_pipes_and_one_more_when_one_is_gone() {
        let ((_from, reader), (writer, _to)) = (pair().await, pair().await);
        let mut places: Vec<Place> = std::iter::from_fn(Place::take).take(MOST + 1).collect();
        assert_eq!(places.len(), MOST);
        let turn = poll_fn(|cx| Poll::Ready(poll_turn(&mut None, cx, &reader, &writer, drop))).await;
        assert!(matches!(turn, Poll::Ready(Ok(Turn::NoPipe))), "{turn:?}");
        places.truncate(1);
        let turn = poll_fn(|cx| Poll::Ready(poll_turn(&mut None, cx, &reader, &writer, drop))).await;
        assert!(turn.is_pending(), "{turn:?}");
    }

    #[tokio::test]
    async fn the_side_that_broke_is_told() {
        let ((mut from, reader), (writer, to)) = (pair().await, pair().await);
        to.set_zero_linger().unwrap();
        drop(to);
        let mut held = None;
        let broken = async {
            loop {
                from.write_all(b"x").await.unwrap();
                if let Err(broken) = poll_fn(|cx| poll_turn(&mut held, cx, &reader, &writer, drop)).await {
                    return broken;
                }
            }
        };
        let broken = timeout(LONG, broken).await.unwrap();
        assert!(matches!(broken, Broken::Writing(_)), "{broken:?}");
        from.set_zero_linger().unwrap();
        drop(from);
        let broken = timeout(LONG, poll_fn(|cx| poll_turn(&mut None, cx, &reader, &writer, drop)));
        let broken = broken.await.unwrap().unwrap_err();
        assert!(matches!(broken, Broken::Reading(_)), "{broken:?}");
    }
}
