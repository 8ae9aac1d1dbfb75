//! Keeps the first bytes each way that pass a socket behind its handshake, as they are on the wire.
//!
//! The bytes are ciphertext: this lies under TLS. It costs every connection that speaks TLS about 150 bytes and one copy of
//! what is kept; nothing is copied of what comes behind.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use pillion_mesh::wire::How;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Ground, Leg};

/// Bytes that are kept of each direction.
pub(crate) const KEPT: usize = 64;

/// Of a record's header (RFC 8446 5.1): type, version, length.
const RECORD_HEADER: usize = 5;

/// What a socket's [`Tapped`] has seen.
#[derive(Debug, Default)]
pub(crate) struct Tap {
    kept: Mutex<Kept>,
    broke_off: OnceLock<How>,
}

/// The first bytes each way.
#[derive(Debug, Default)]
struct Kept {
    read: First,
    written: First,
}

#[derive(Debug)]
struct First {
    bytes: [u8; KEPT],
    length: u8,
}

impl Tap {
    /// The first bytes that were read behind the handshake, and those that were written.
    pub(crate) fn first_bytes(&self) -> (Vec<u8>, Vec<u8>) {
        let kept = self.kept();
        (kept.read.get().to_vec(), kept.written.get().to_vec())
    }

    /// How the peer went away in the middle of the handshake, if it did.
    pub(crate) fn broke_off(&self) -> Option<How> {
        self.broke_off.get().copied()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for First {
    fn default() -> Self {
        Self { bytes: [0; KEPT], length: 0 }
    }
}

impl First {
    fn get(&self) -> &[u8] {
        self.bytes.get(..self.length.into()).unwrap_or_default()
    }

    /// Says whether there is room for more.
    fn keep(&mut self, bytes: &[u8]) -> bool {
        let room = self.bytes.get_mut(self.length.into()..).unwrap_or_default();
        for (place, byte) in room.iter_mut().zip(bytes) {
            *place = *byte;
            self.length += 1;
        }
        usize::from(self.length) < KEPT
    }
}

/// A socket under TLS that keeps the first bytes behind the handshake in a [`Tap`].
#[derive(Debug)]
pub(crate) struct Tapped<S> {
    inner: S,
    tap: Arc<Tap>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Handshake {
        /// Of which side, and what it reads by.
        reading: Reading,
        shut: bool,
    },
    /// Whether bytes are still wanted, of those that are read and of those that are written.
    Open { read: bool, written: bool },
}

#[derive(Debug)]
enum Reading {
    /// As much as there is, until we have written something.
    UntilWeAnswer,
    /// As much as there is.
    All,
    /// Record by record.
    Records(Box<Records>),
}

/// The record that is read, or was read last.
#[derive(Debug, Default)]
struct Records {
    /// Its first bytes, header included.
    begins: First,
    /// Of its body, once the header is read.
    left: usize,
}

impl Records {
    /// What may be read without coming to another record.
    fn most(&self) -> usize {
        if self.is_whole() { RECORD_HEADER } else { self.of_header().unwrap_or(self.left) }
    }

    /// What the header lacks; none where it is whole.
    fn of_header(&self) -> Option<usize> {
        RECORD_HEADER.checked_sub(self.begins.get().len()).filter(|missing| *missing > 0)
    }

    /// Whether the next byte is of another record.
    fn is_whole(&self) -> bool {
        self.of_header().is_none() && self.left == 0
    }

    /// Takes at most [`Self::most`] bytes.
    fn took(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.is_whole() {
            *self = Self::default();
        }
        let in_header = self.of_header().is_some();
        self.begins.keep(bytes);
        if !in_header {
            self.left = self.left.saturating_sub(bytes.len());
        } else if let [_, _, _, high, low] = *self.begins.get() {
            self.left = u16::from_be_bytes([high, low]).into();
        }
    }
}

impl<S> Tapped<S> {
    /// Of a handshake that we answer. A client may send data right behind the last record of its handshake, and TLS may read
    /// it at once: from our first answer on it is read record by record, so that the record at which it stops is known.
    pub(crate) fn server(inner: S, tap: Arc<Tap>) -> Self {
        Self { inner, tap, phase: Phase::Handshake { reading: Reading::UntilWeAnswer, shut: false } }
    }

    /// Of a handshake that we begin, and finish by what we send: what the server sends comes behind that.
    pub(crate) fn client(inner: S, tap: Arc<Tap>) -> Self {
        Self { inner, tap, phase: Phase::Handshake { reading: Reading::All, shut: false } }
    }

    /// The handshake is finished: what passes from now on is kept. `stopped_behind` says whether TLS has read one record
    /// more than the handshake has.
    pub(crate) fn handshake_is_over(&mut self, stopped_behind: bool) {
        let mut wanted = true;
        if let Phase::Handshake { reading: Reading::Records(records), .. } = &self.phase
            && (stopped_behind || !records.is_whole())
        {
            wanted = self.tap.kept().read.keep(records.begins.get());
        }
        self.phase = Phase::Open { read: wanted, written: true };
    }

    /// The peer goes away.
    fn gone(&self, how: How) {
        if let Phase::Handshake { shut: false, .. } = self.phase {
            _ = self.tap.broke_off.set(how);
        }
    }

    fn wrote(&mut self, bytes: &[u8]) {
        match &mut self.phase {
            Phase::Open { written, .. } if *written => *written = self.tap.kept().written.keep(bytes),
            Phase::Handshake { reading: reading @ Reading::UntilWeAnswer, .. } => {
                // Nothing is read yet of the next record: of no header there is one to come.
                *reading = Reading::Records(Box::default());
            }
            _ => {}
        }
    }
}

impl<S: AsyncRead + Unpin> Tapped<S> {
    /// Reads no further than to the end of a record.
    fn poll_read_record(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        most: usize,
    ) -> Poll<io::Result<()>> {
        let most = most.min(buffer.remaining());
        let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(most));
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut piece))?;
        let bytes = piece.filled();
        if let Phase::Handshake { reading: Reading::Records(records), .. } = &mut self.phase {
            records.took(bytes);
        }
        let count = bytes.len();
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tapped<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = match &self.phase {
            Phase::Handshake { reading: Reading::Records(records), .. } => {
                let most = records.most();
                self.poll_read_record(cx, buffer, most)
            }
            _ => Pin::new(&mut self.inner).poll_read(cx, buffer),
        };
        match &polled {
            Poll::Ready(Ok(())) => {
                let bytes = buffer.filled().get(before..).unwrap_or_default();
                if bytes.is_empty() && buffer.remaining() > 0 {
                    self.gone(How::Fin);
                }
                if let Self { phase: Phase::Open { read, .. }, tap, .. } = &mut *self
                    && *read
                {
                    *read = tap.kept().read.keep(bytes);
                }
            }
            Poll::Ready(Err(error)) if is_reset(error) => self.gone(How::Reset),
            _ => {}
        }
        polled
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tapped<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.wrote(bytes.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, slices))?;
        let mut left = count;
        for slice in slices {
            let written = slice.get(..left).unwrap_or(slice);
            left -= written.len();
            self.wrote(written);
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Phase::Handshake { shut, .. } = &mut self.phase {
            *shut = true;
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: Leg> Leg for Tapped<S> {
    fn ground(&self) -> Ground<'_> {
        self.inner.ground()
    }

    fn ends_by(&self) -> How {
        self.inner.ends_by()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind, 3, 3], u16::try_from(body.len()).unwrap().to_be_bytes().as_slice(), body].concat()
    }

    fn server() -> (DuplexStream, Tapped<DuplexStream>, Arc<Tap>) {
        let ((peer, ours), tap) = (duplex(64 * 1024), Arc::new(Tap::default()));
        (peer, Tapped::server(ours, tap.clone()), tap)
    }

    #[tokio::test]
    async fn the_first_bytes_behind_the_handshake_are_kept_and_no_others() {
        let (mut peer, mut socket, tap) = server();
        peer.write_all(b"hello").await.unwrap();
        socket.read_exact(&mut [0; 5]).await.unwrap();
        socket.write_all(b"server hello").await.unwrap();
        assert_eq!(tap.first_bytes(), (vec![], vec![]));
        socket.handshake_is_over(false);
        peer.write_all(&[7; 50]).await.unwrap();
        socket.read_exact(&mut [0; 50]).await.unwrap();
        peer.write_all(&[8; 50]).await.unwrap();
        socket.read_exact(&mut [0; 50]).await.unwrap();
        let slices = [IoSlice::new(b"ab"), IoSlice::new(b"cd")];
        assert_eq!(socket.write_vectored(&slices).await.unwrap(), 4);
        let (read, written) = tap.first_bytes();
        assert_eq!(read, [[7; 50].as_slice(), &[8; KEPT - 50]].concat());
        // A pipe in memory takes the first slice alone where it is not vectored.
        assert_eq!(written, b"abcd");
    }

    /// Of TLS 1.3 nothing on the wire tells where the handshake ends: its last records look like data.
    #[rstest]
    #[case::not_at_all(0, false)]
    #[case::its_header(3, false)]
    #[case::some_of_it(7, false)]
    #[case::all_of_it(11, true)]
    #[tokio::test]
    async fn a_record_of_data_that_was_read_along_with_the_handshake_is_kept(
        #[case] read: usize,
        #[case] stopped_behind: bool,
    ) {
        let (mut peer, mut socket, tap) = server();
        peer.write_all(b"hello").await.unwrap();
        socket.read_exact(&mut [0; 5]).await.unwrap();
        socket.write_all(b"server hello").await.unwrap();
        let (finished, data) = (record(23, &[1; 40]), record(23, b"sealed"));
        peer.write_all(&[finished.clone(), data.clone()].concat()).await.unwrap();
        socket.read_exact(&mut vec![0; finished.len() + read]).await.unwrap();
        socket.handshake_is_over(stopped_behind);
        socket.read_exact(&mut vec![0; data.len() - read]).await.unwrap();
        assert_eq!(tap.first_bytes().0, data);
    }

    #[tokio::test]
    async fn once_we_have_answered_no_read_goes_beyond_a_record() {
        let (mut peer, mut socket, _tap) = server();
        socket.write_all(b"server hello").await.unwrap();
        peer.write_all(&[record(20, &[1]), record(23, &[2; 90]), record(23, &[3; 9])].concat())
            .await
            .unwrap();
        let mut counts = Vec::new();
        for _ in 0..6 {
            counts.push(socket.read(&mut [0; 4096]).await.unwrap());
        }
        assert_eq!(counts, [5, 1, 5, 90, 5, 9]);
    }

    #[tokio::test]
    async fn who_goes_away_in_the_handshake_is_told_from_who_goes_when_we_have_closed() {
        let (peer, mut socket, tap) = server();
        drop(peer);
        assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(tap.broke_off(), Some(How::Fin));
        let (peer, mut socket, tap) = server();
        socket.shutdown().await.unwrap();
        drop(peer);
        assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(tap.broke_off(), None);
    }

    #[test]
    fn a_tap_costs_little() {
        assert!(size_of::<Tap>() <= 160, "{}", size_of::<Tap>());
    }

    proptest! {
        /// Whatever a peer sends, and however it is read, nothing is lost, doubled or reordered.
        #[test]
        fn the_reader_gets_what_was_sent(
            bytes in prop::collection::vec(any::<u8>(), 0..2_000),
            step in 1usize..300,
            over_after in 0usize..20,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(async {
                let (mut peer, mut socket, _tap) = server();
                socket.write_all(b"server hello").await.unwrap();
                peer.write_all(&bytes).await.unwrap();
                drop(peer);
                let (mut all, mut buffer, mut reads) = (Vec::new(), vec![0; step], 0);
                loop {
                    let count = socket.read(&mut buffer).await.unwrap();
                    if count == 0 {
                        return all;
                    }
                    all.extend_from_slice(&buffer[..count]);
                    reads += 1;
                    if reads == over_after {
                        socket.handshake_is_over(false);
                    }
                }
            });
            prop_assert_eq!(read, bytes);
        }
    }
}
