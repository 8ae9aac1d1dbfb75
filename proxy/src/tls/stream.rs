//! A TLS stream over any transport, made for bytes that pass through: many records are read by one call and written by one,
//! and an idle stream holds no buffer.
//!
//! The protocol is rustls' (its unbuffered interface, which leaves all buffers to us). Here is what carries bytes to it and
//! from it:
//!
//! - Ciphertext is read into scratch space of the thread and decrypted there; only part of a record is kept for the next read.
//! - Plaintext is encrypted into scratch space; only what the transport does not take at once is kept, and nothing more is
//!   encrypted before that is gone (backpressure).
//! - `close_notify` goes along with the FIN: that spares a packet.
//! - The first ciphertext each way behind the handshake is kept in a [`Tap`].
//!
//! Leaves to `server` and `client` what a handshake has to prove, and to `failure` what an error means.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread::LocalKey;

use pillion_mesh::wire::How;
use rustix::net::{SendFlags, send};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, InvalidMessage, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::net::tap::Tap;
use crate::net::{Ground, Leg};

/// Ciphertext of one read, and plaintext of one write: sixteen records of the largest size.
const BATCH: usize = 16 * RECORD;
/// Plaintext of the largest record (RFC 8446 5.1).
const RECORD: usize = 16 * 1024;
/// What a record has beside its plaintext, at most (RFC 8446 5.2).
const OVERHEAD: usize = 5 + 256;
/// Slices that are written together at most.
const SLICES: usize = 8;
/// Ciphertext that is kept at most because a message in it is not whole; handshake messages go over several records.
const MOST_KEPT: usize = 64 * 1024;
/// Ciphertext that waits for its turn and goes out together with the next data.
const GOES_ALONG: usize = 4 * 1024;

/// Ciphertext that waits to be sent, at most.
#[cfg(test)]
pub(super) const MOST_HELD: usize = 2 * WRITE_SPACE;

const READ_SPACE: usize = MOST_KEPT + BATCH + 16 * OVERHEAD;
const WRITE_SPACE: usize = GOES_ALONG + BATCH + (16 + 2 * SLICES) * OVERHEAD;

thread_local! {
    static READING: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
    static WRITING: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
    static GATHERING: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Lends the thread's scratch space. A stream within a stream, which finds it lent, has its own for that time.
fn with_space<T>(
    space: &'static LocalKey<Cell<Option<Box<[u8]>>>>,
    size: usize,
    work: impl FnOnce(&mut [u8]) -> T,
) -> T {
    let mut lent = space.take().unwrap_or_else(|| vec![0; size].into_boxed_slice());
    let done = work(&mut lent);
    space.set(Some(lent));
    done
}

/// A TLS connection over `S`. Reading ends with the peer's `close_notify`; an end of the transport without it is the error
/// `UnexpectedEof`. A fault of the protocol is an error of kind `InvalidData` around a [`rustls::Error`].
#[derive(Debug)]
pub(crate) struct TlsStream<S> {
    transport: S,
    session: Session,
    /// Ciphertext that was read: part of a record.
    incoming: Vec<u8>,
    /// Ciphertext that was made: `outgoing[sent..]` is not sent.
    outgoing: Vec<u8>,
    sent: usize,
    /// Plaintext for which the reader had no room: `plain[given..]`.
    plain: Vec<u8>,
    given: usize,
    tap: Arc<Tap>,
    phase: Phase,
    /// Whether the peer has sent its `close_notify`, and we ours.
    peer_closed: bool,
    closed: bool,
    /// Whether the protocol was broken.
    failed: bool,
}

enum Session {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// Shows no secret.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Session::Client(_) => "Client",
            Session::Server(_) => "Server",
        })
    }
}

#[derive(Debug)]
enum Phase {
    Handshake,
    /// Whether the tap still wants bytes, of those that are read and of those that are written.
    Open {
        read: bool,
        written: bool,
    },
}

/// What became of a look at the ciphertext that is there.
#[derive(Debug, Default)]
struct TakenIn {
    /// Bytes that are done with.
    used: usize,
    /// Where the first record of data begins.
    data_at: Option<usize>,
}

enum Step {
    Again,
    PeerClosed,
    Wait,
}

impl<S> TlsStream<S> {
    /// The client's side, before its handshake.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub(super) fn client(
        transport: S,
        tap: Arc<Tap>,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, (io::Error, S)> {
        match UnbufferedClientConnection::new(config, name) {
            Ok(session) => Ok(Self::new(transport, tap, Session::Client(Box::new(session)), Vec::new())),
            Err(error) => Err((io::Error::new(io::ErrorKind::InvalidData, error), transport)),
        }
    }

    /// The server's side, before its handshake; `incoming` was read from the transport already.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub(super) fn server(
        transport: S,
        tap: Arc<Tap>,
        config: Arc<ServerConfig>,
        incoming: Vec<u8>,
    ) -> Result<Self, (io::Error, S)> {
        match UnbufferedServerConnection::new(config) {
            Ok(session) => Ok(Self::new(transport, tap, Session::Server(Box::new(session)), incoming)),
            Err(error) => Err((io::Error::new(io::ErrorKind::InvalidData, error), transport)),
        }
    }

    fn new(transport: S, tap: Arc<Tap>, session: Session, incoming: Vec<u8>) -> Self {
        Self {
            transport,
            session,
            incoming,
            outgoing: Vec::new(),
            sent: 0,
            plain: Vec::new(),
            given: 0,
            tap,
            phase: Phase::Handshake,
            peer_closed: false,
            closed: false,
            failed: false,
        }
    }

    /// What was negotiated.
    pub(crate) fn connection(&self) -> &CommonState {
        match &self.session {
            Session::Client(session) => session,
            Session::Server(session) => session,
        }
    }

    /// Bytes of buffers that it holds.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.incoming.capacity() + self.outgoing.capacity() + self.plain.capacity()
    }

    /// What lay under it, for what is left to say after a failure.
    pub(super) fn into_transport(self) -> S {
        self.transport
    }

    /// Looks at all of `cipher`, which is decrypted in place. Plaintext goes to `sink`, answers to `outgoing`.
    fn take_in(
        &mut self,
        cipher: &mut [u8],
        sink: &mut impl FnMut(&[u8]),
    ) -> (TakenIn, Result<(), rustls::Error>) {
        let mut taken = TakenIn::default();
        loop {
            let rest = cipher.get_mut(taken.used..).unwrap_or_default();
            let mut came = false;
            let mut sink = |plain: &[u8]| {
                came = true;
                sink(plain);
            };
            let (discard, step) = match &mut self.session {
                Session::Client(session) => {
                    step(session.process_tls_records(rest), &mut self.outgoing, &mut sink)
                }
                Session::Server(session) => {
                    step(session.process_tls_records(rest), &mut self.outgoing, &mut sink)
                }
            };
            if came && taken.data_at.is_none() {
                // It stops at the first record of data, which is the last that is done with.
                let done = rest.get(..discard).unwrap_or_default();
                taken.data_at = Some(taken.used + last_record(done));
            }
            taken.used += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Ok(Step::Wait) => return (taken, Ok(())),
                Err(error) => return (taken, Err(error)),
            }
        }
    }

    /// After a fault: the alert that tells the peer, where rustls has one. From then on rustls is not asked again, for it
    /// would look at the same ciphertext once more. `rest` is what is not done with.
    fn fail(&mut self, error: rustls::Error, rest: &mut [u8]) -> io::Error {
        let mut nothing = |_: &[u8]| {};
        while self.connection().wants_write() {
            let (_, step) = match &mut self.session {
                Session::Client(session) => {
                    step(session.process_tls_records(rest), &mut self.outgoing, &mut nothing)
                }
                Session::Server(session) => {
                    step(session.process_tls_records(rest), &mut self.outgoing, &mut nothing)
                }
            };
            if step.is_err() {
                break;
            }
        }
        self.failed = true;
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    /// Encrypts `data`, which is at most [`BATCH`] long, into `space`, behind what rustls has to say before. Without data it
    /// says `close_notify`.
    fn seal(&mut self, data: Option<&[u8]>, space: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        loop {
            let free = space.get_mut(length..).unwrap_or_default();
            let mut said = Vec::new();
            let sealed = match &mut self.session {
                Session::Client(session) => {
                    seal(session.process_tls_records(&mut self.incoming), data, free, &mut said)
                }
                Session::Server(session) => {
                    seal(session.process_tls_records(&mut self.incoming), data, free, &mut said)
                }
            };
            let Sealed { discard, written, step } = sealed.inspect_err(|_| self.failed = true)?;
            self.incoming.drain(..discard.min(self.incoming.len()));
            length += written;
            self.plain.append(&mut said);
            match step {
                SealStep::Done => return Ok(length),
                SealStep::Again => {}
                SealStep::PeerClosed => self.peer_closed = true,
                SealStep::Not => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    fn too_large(&mut self) -> io::Error {
        self.failed = true;
        let error = rustls::Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge);
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    fn unsent(&self) -> &[u8] {
        self.outgoing.get(self.sent..).unwrap_or_default()
    }

    /// Ciphertext was sent.
    fn note_written(&mut self, bytes: &[u8]) {
        if let Phase::Open { written, .. } = &mut self.phase
            && *written
        {
            *written = self.tap.wrote(bytes);
        }
    }

    fn gone(&self, how: How) {
        if matches!(self.phase, Phase::Handshake) && !self.closed {
            self.tap.broken_off(how);
        }
    }
}

/// Where the last of whole records begins.
fn last_record(records: &[u8]) -> usize {
    let (mut at, mut last) = (0, 0);
    while let Some([_, _, _, high, low]) = records.get(at..at + 5) {
        last = at;
        at += 5 + usize::from(u16::from_be_bytes([*high, *low]));
    }
    last
}

/// One step of rustls over what was read.
fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Vec<u8>,
    sink: &mut impl FnMut(&[u8]),
) -> (usize, Result<Step, rustls::Error>) {
    let UnbufferedStatus { mut discard, state, .. } = status;
    let step = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    sink(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Step::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let before = outgoing.len();
            let mut room = 0;
            loop {
                outgoing.resize(before + room, 0);
                match data.encode(outgoing.get_mut(before..).unwrap_or_default()) {
                    Ok(length) => {
                        outgoing.truncate(before + length);
                        break Ok(Step::Again);
                    }
                    Err(EncodeError::InsufficientSize(error)) if error.required_size > room => {
                        room = error.required_size;
                    }
                    Err(error) => {
                        outgoing.truncate(before);
                        break Err(rustls::Error::General(error.to_string()));
                    }
                }
            }
        }
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            sent.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        // Early data is never accepted, and there is no other state.
        Ok(_) => Ok(Step::Wait),
        Err(error) => Err(error),
    };
    (discard, step)
}

struct Sealed {
    discard: usize,
    written: usize,
    step: SealStep,
}

enum SealStep {
    Done,
    Again,
    PeerClosed,
    Not,
}

/// One step of rustls towards data that goes out.
fn seal<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    data: Option<&[u8]>,
    space: &mut [u8],
    plain: &mut Vec<u8>,
) -> io::Result<Sealed> {
    let UnbufferedStatus { mut discard, state, .. } = status;
    let state = state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let (written, step) = match state {
        ConnectionState::WriteTraffic(mut traffic) => {
            let written = match data {
                Some(data) => traffic.encrypt(data, space),
                None => traffic.queue_close_notify(space),
            };
            match written {
                Ok(written) => (written, SealStep::Done),
                Err(EncryptError::EncryptExhausted) => (0, SealStep::Not),
                Err(error) => return Err(io::Error::other(error.to_string())),
            }
        }
        ConnectionState::EncodeTlsData(mut message) => {
            (message.encode(space).map_err(|error| io::Error::other(error.to_string()))?, SealStep::Again)
        }
        ConnectionState::TransmitTlsData(sent) => {
            sent.done();
            (0, SealStep::Again)
        }
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                discard += record.discard;
                plain.extend_from_slice(record.payload);
            }
            (0, SealStep::Again)
        }
        ConnectionState::PeerClosed => (0, SealStep::PeerClosed),
        _ => (0, SealStep::Not),
    };
    Ok(Sealed { discard, written, step })
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Finishes the handshake.
    ///
    /// # Errors
    /// Those of the stream. The peer is told by an alert as far as the transport takes it at once.
    pub(super) async fn handshake(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_handshake(cx)).await
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut cipher = mem::take(&mut self.incoming);
            // What is behind the handshake is kept as it came; it is decrypted in place.
            let came = cipher.clone();
            let mut plain = mem::take(&mut self.plain);
            let (taken, done) = self.take_in(&mut cipher, &mut |bytes| plain.extend_from_slice(bytes));
            self.plain = plain;
            if let Err(error) = done {
                let error = self.fail(error, cipher.get_mut(taken.used..).unwrap_or_default());
                // The alert is lost where the transport does not take it at once.
                let _ = self.poll_send(cx);
                return Poll::Ready(Err(error));
            }
            cipher.drain(..taken.used.min(cipher.len()));
            // The room of a hello is not kept for the life of the connection.
            self.incoming = if cipher.is_empty() { Vec::new() } else { cipher };
            if !self.connection().is_handshaking() {
                // A ticket too: Envoy resumes nothing where it comes together with data.
                ready!(self.poll_send(cx))?;
                let behind = came.get(taken.data_at.unwrap_or(taken.used)..).unwrap_or_default();
                let read = self.tap.read(behind);
                self.phase = Phase::Open { read, written: true };
                return Poll::Ready(Ok(()));
            }
            if self.peer_closed {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            ready!(self.poll_send(cx))?;
            if self.incoming.len() > MOST_KEPT {
                return Poll::Ready(Err(self.too_large()));
            }
            ready!(self.poll_more(cx))?;
        }
    }

    /// Reads more ciphertext for the handshake.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_space(&READING, READ_SPACE, |space| {
            let mut buffer = ReadBuf::new(space.get_mut(..BATCH).unwrap_or_default());
            let polled = ready!(Pin::new(&mut self.transport).poll_read(cx, &mut buffer));
            polled.inspect_err(|error| self.note_reset(error))?;
            if buffer.filled().is_empty() {
                self.gone(How::Fin);
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.incoming.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(()))
        })
    }

    fn note_reset(&self, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) {
            self.gone(How::Reset);
        }
    }

    /// Sends what was made.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent().is_empty() {
            let rest = self.outgoing.get(self.sent..).unwrap_or_default();
            let count = ready!(Pin::new(&mut self.transport).poll_write(cx, rest))
                .inspect_err(|error| self.note_reset(error))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let sent = self.sent;
            self.sent += count;
            if matches!(self.phase, Phase::Open { written: true, .. }) {
                let bytes = self.outgoing.get(sent..self.sent).unwrap_or_default().to_vec();
                self.note_written(&bytes);
            }
        }
        if self.sent > 0 {
            (self.outgoing, self.sent) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    /// Gives what the reader had no room for.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let rest = self.plain.get(self.given..).unwrap_or_default();
        if rest.is_empty() {
            return false;
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(rest.get(..count).unwrap_or_default());
        self.given += count;
        if self.given == self.plain.len() {
            (self.plain, self.given) = (Vec::new(), 0);
        }
        true
    }

    /// Reads ciphertext once and decrypts it into `buffer`. Says whether the transport has ended.
    fn poll_decrypt(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        with_space(&READING, READ_SPACE, |space| {
            let kept = self.incoming.len();
            if let Some(place) = space.get_mut(..kept) {
                place.copy_from_slice(&self.incoming);
            }
            // What the reader has no room for would be copied twice.
            let wanted = buffer.remaining().clamp(RECORD, BATCH);
            let room = (wanted + (wanted / RECORD) * OVERHEAD).saturating_sub(kept).max(RECORD);
            let room = space.get_mut(kept..kept + room).unwrap_or_default();
            let mut read = ReadBuf::new(room);
            ready!(Pin::new(&mut self.transport).poll_read(cx, &mut read))?;
            let came = read.filled();
            if came.is_empty() {
                return Poll::Ready(Ok(true));
            }
            if let Phase::Open { read: wanted, .. } = &mut self.phase
                && *wanted
            {
                *wanted = self.tap.read(came);
            }
            let length = kept + came.len();
            let cipher = space.get_mut(..length).unwrap_or_default();
            let mut plain = mem::take(&mut self.plain);
            let (taken, done) = self.take_in(cipher, &mut |bytes| {
                let (fits, rest) = bytes.split_at(bytes.len().min(buffer.remaining()));
                buffer.put_slice(fits);
                plain.extend_from_slice(rest);
            });
            self.plain = plain;
            if let Err(error) = done {
                let error = self.fail(error, cipher.get_mut(taken.used..).unwrap_or_default());
                let _ = self.poll_send(cx);
                return Poll::Ready(Err(error));
            }
            let rest = cipher.get(taken.used..).unwrap_or_default();
            if rest.len() > MOST_KEPT {
                return Poll::Ready(Err(self.too_large()));
            }
            // Nothing is kept for longer than it is needed.
            self.incoming = if rest.is_empty() { Vec::new() } else { rest.to_vec() };
            Poll::Ready(Ok(false))
        })
    }
}

impl<S: Leg> TlsStream<S> {
    /// Hands over what is not sent so that it goes into the packet of the FIN that follows at once. What is not taken is sent
    /// as always.
    fn send_with_the_end(&mut self) {
        let Ground::Tcp(socket) = self.transport.ground() else { return };
        if self.unsent().is_empty() {
            return;
        }
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        let sent = socket.try_io(Interest::WRITABLE, || Ok(send(socket, self.unsent(), flags)?));
        if let Ok(count) = sent {
            let bytes = self.unsent().get(..count).unwrap_or_default().to_vec();
            self.sent += count;
            self.note_written(&bytes);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Encrypts as much of `slices` as makes a batch, each into records of its own, and writes it at once.
    fn poll_encrypt(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.unsent().len() > GOES_ALONG {
            ready!(self.poll_send(cx))?;
        }
        with_space(&WRITING, WRITE_SPACE, |space| {
            let mut length = self.unsent().len();
            if let Some(place) = space.get_mut(..length) {
                place.copy_from_slice(self.unsent());
            }
            (self.outgoing, self.sent) = (Vec::new(), 0);
            let mut taken = 0;
            for slice in slices.iter().filter(|slice| !slice.is_empty()).take(SLICES) {
                let data = slice.get(..BATCH - taken).unwrap_or(slice);
                if data.is_empty() {
                    break;
                }
                length += self.seal(Some(data), space.get_mut(length..).unwrap_or_default())?;
                taken += data.len();
            }
            let cipher = space.get(..length).unwrap_or_default();
            let count = match Pin::new(&mut self.transport).poll_write(cx, cipher) {
                Poll::Ready(count) => count?,
                Poll::Pending => 0,
            };
            let (sent, rest) = cipher.split_at(count.min(length));
            self.note_written(sent);
            self.outgoing.extend_from_slice(rest);
            Poll::Ready(Ok(taken))
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let before = buffer.filled().len();
        if stream.give(buffer) || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // Answers that the peer causes and does not read must not pile up.
        if stream.unsent().len() > GOES_ALONG {
            ready!(stream.poll_send(cx))?;
        }
        if stream.failed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        while !stream.peer_closed {
            if ready!(stream.poll_decrypt(cx, buffer))? {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if buffer.filled().len() > before {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Leg + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_encrypt(cx, &[IoSlice::new(data)])
    }

    /// A short frame of HTTP/2 becomes one record, head and body; a long one is not copied for that.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        if slices.len() < 2 || slices.iter().map(|slice| slice.len()).sum::<usize>() > RECORD {
            return stream.poll_encrypt(cx, slices);
        }
        with_space(&GATHERING, RECORD, |space| {
            let mut gathered = ReadBuf::new(space);
            slices.iter().for_each(|slice| gathered.put_slice(slice));
            stream.poll_encrypt(cx, &[IoSlice::new(gathered.filled())])
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        ready!(stream.poll_send(cx))?;
        Pin::new(&mut stream.transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if !stream.closed {
            stream.closed = true;
            let mut space = [0; 2 * OVERHEAD];
            // Without a finished handshake there is no close_notify to send.
            if matches!(stream.phase, Phase::Open { .. })
                && let Ok(length) = stream.seal(None, &mut space)
            {
                stream.outgoing.extend_from_slice(space.get(..length).unwrap_or_default());
            }
        }
        stream.send_with_the_end();
        ready!(stream.poll_send(cx))?;
        Pin::new(&mut stream.transport).poll_shutdown(cx)
    }
}

impl<S: Leg> Leg for TlsStream<S> {
    fn ground(&self) -> Ground<'_> {
        self.transport.ground()
    }

    fn ends_by(&self) -> How {
        How::CloseNotify
    }
}
