//! What a client of a Unix socket calls its server (`:authority`), in characters that HTTP/2 takes.
//!
//! The libraries that are made of gRPC's C core (Python, C++, Ruby and others) send the path of the socket there,
//! `run%2Fpillion%2Fworkload.sock`. `%` may not stand in an authority (RFC 3986 3.2.2), and h2 ends such a call with
//! PROTOCOL_ERROR before anybody can look at it. So each `%` there becomes `-` on its way in. Nothing else changes, no
//! length does, and nobody reads the name: a socket has one server. As the C core does, only names and values that are
//! not compressed are looked at.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client sends first (RFC 9113 3.4).
const PREFACE: usize = 24;
/// The head of a frame: length, type, flags, stream (RFC 9113 4.1).
const HEAD: usize = 9;
/// The longest frame that a server takes which says nothing else (RFC 9113 4.2).
const LONGEST: usize = 16 * 1024;
/// The type of the frame that begins a request, and its flags (RFC 9113 6.2).
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;

/// A connection of a client, as seen by its server.
pub(super) struct Named<S> {
    stream: S,
    frames: Frames,
}

impl<S> Named<S> {
    pub(super) fn new(stream: S) -> Named<S> {
        Named { stream, frames: Frames::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Named<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.frames.give(into) || into.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [0; 4096];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                self.frames.end();
                self.frames.give(into);
                return Poll::Ready(Ok(()));
            }
            self.frames.take(read.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Named<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The bytes of a client, cut into frames. Holds at most one frame and one read.
struct Frames {
    /// What has come and is not yet given on.
    held: Vec<u8>,
    /// How many bytes at the front of it may be given on.
    seen: usize,
    /// How many bytes that are still to come need no look.
    passing: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Frames { held: Vec::new(), seen: 0, passing: PREFACE }
    }
}

impl Frames {
    fn take(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        loop {
            let unseen = self.held.get_mut(self.seen..).unwrap_or_default();
            let passed = self.passing.min(unseen.len());
            (self.seen, self.passing) = (self.seen + passed, self.passing - passed);
            let Some((head, behind)) =
                unseen.get_mut(passed..).and_then(|rest| rest.split_at_mut_checked(HEAD))
            else {
                return;
            };
            let &mut [a, b, c, kind, flags, ..] = head else { return };
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if kind == HEADERS && length <= LONGEST {
                let Some(payload) = behind.get_mut(..length) else { return };
                if let Some(block) = fields(payload, flags) {
                    rename(block);
                }
            }
            self.passing = HEAD + length;
        }
    }

    /// Nothing follows: what is held is given on as it is.
    fn end(&mut self) {
        self.seen = self.held.len();
    }

    /// Whether something was given.
    fn give(&mut self, into: &mut ReadBuf<'_>) -> bool {
        let count = self.seen.min(into.remaining());
        into.put_slice(self.held.get(..count).unwrap_or_default());
        self.held.drain(..count);
        self.seen -= count;
        count > 0
    }
}

/// The fields in a HEADERS frame, without padding and priority.
fn fields(payload: &mut [u8], flags: u8) -> Option<&mut [u8]> {
    let (padding, payload) = if flags & PADDED == 0 {
        (0, payload)
    } else {
        let (padding, payload) = payload.split_first_mut()?;
        (usize::from(*padding), payload)
    };
    let payload = if flags & PRIORITY == 0 { payload } else { payload.get_mut(5..)? };
    let end = payload.len().checked_sub(padding)?;
    payload.get_mut(..end)
}

/// Looks through a block of fields (RFC 7541 6) for `:authority`, as far as it can be read.
fn rename(mut block: &mut [u8]) -> Option<()> {
    /// Of `:authority` (RFC 7541 Appendix A).
    const INDEX: usize = 1;
    loop {
        let first = *block.first()?;
        // A whole field from the table, or the table's size.
        if first & 0x80 != 0 || first & 0xe0 == 0x20 {
            let prefix = if first & 0x80 == 0 { 5 } else { 7 };
            block = number(block, prefix)?.1;
            continue;
        }
        let (index, rest) = number(block, if first & 0x40 == 0 { 4 } else { 6 })?;
        let (is_authority, rest) = if index == 0 {
            let (name, rest) = text(rest)?;
            (name.is_some_and(|name| name == b":authority"), rest)
        } else {
            (index == INDEX, rest)
        };
        let (value, rest) = text(rest)?;
        if let Some(value) = value.filter(|_| is_authority) {
            value.iter_mut().filter(|byte| **byte == b'%').for_each(|byte| *byte = b'-');
        }
        block = rest;
    }
}

/// An integer in the lower `prefix` bits of the first byte, and on (RFC 7541 5.1), with what is behind it.
fn number(bytes: &mut [u8], prefix: u32) -> Option<(usize, &mut [u8])> {
    let most = (1_usize << prefix) - 1;
    let (first, mut rest) = bytes.split_first_mut()?;
    let mut value = usize::from(*first) & most;
    if value < most {
        return Some((value, rest));
    }
    for shift in [0, 7, 14] {
        let (next, behind) = rest.split_first_mut()?;
        value += (usize::from(*next) & 0x7f) << shift;
        rest = behind;
        if *next & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

/// A string (RFC 7541 5.2), none where it is compressed, with what is behind it.
fn text(bytes: &mut [u8]) -> Option<(Option<&mut [u8]>, &mut [u8])> {
    let compressed = *bytes.first()? & 0x80 != 0;
    let (length, rest) = number(bytes, 7)?;
    let (text, rest) = rest.split_at_mut_checked(length)?;
    Some(((!compressed).then_some(text), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// A field that is to be remembered, its name in letters, as the C core sends it.
    fn literal(name: &str, value: &str) -> Vec<u8> {
        let length = |text: &str| u8::try_from(text.len()).unwrap();
        [&[0x40, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
    }

    /// What comes out, when it comes in pieces of this size.
    fn through(bytes: &[u8], piece: usize) -> Vec<u8> {
        let (mut frames, mut out) = (Frames::default(), Vec::new());
        let mut give = |frames: &mut Frames| {
            let mut buffer = [0; 7];
            loop {
                let mut into = ReadBuf::new(&mut buffer);
                if !frames.give(&mut into) {
                    return;
                }
                out.extend_from_slice(into.filled());
            }
        };
        for piece in bytes.chunks(piece) {
            frames.take(piece);
            give(&mut frames);
        }
        frames.end();
        give(&mut frames);
        out
    }

    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frames.concat()].concat()
    }

    /// The fields of a call of the C core.
    fn call(authority: &str) -> Vec<u8> {
        [
            vec![0x3f, 0xe1, 0x1f], // the table's size
            literal(":path", "/a%2Fb"),
            literal(":authority", authority),
            vec![0x83, 0x86], // POST, http
            literal("te", "trailers"),
            vec![0xbe],                                          // from the table
            [&[0x00, 2], b"%:".as_slice(), &[1], b"%"].concat(), // not to be remembered
        ]
        .concat()
    }

    #[rstest]
    #[case::plain(0, vec![], 0)]
    #[case::padded(PADDED, vec![3], 3)]
    #[case::with_priority(PRIORITY, vec![0, 0, 0, 0, 16], 0)]
    #[case::both(PADDED | PRIORITY, vec![2, 0, 0, 0, 0, 16], 2)]
    fn a_percent_sign_in_the_authority_becomes_a_dash(
        #[case] flags: u8,
        #[case] before: Vec<u8>,
        #[case] padding: usize,
        #[values(1, 2, 8, 9, 10, 1000)] piece: usize,
    ) {
        let framed = |authority: &str| {
            let payload = [before.clone(), call(authority), vec![b'%'; padding]].concat();
            connection(&[
                frame(4, 0, b"%%%%%%"),
                frame(HEADERS, flags, &payload),
                frame(0, 0, b":authority%"),
            ])
        };
        let seen = through(&framed("run%2Fa%2Fapi.sock"), piece);
        assert_eq!(seen, framed("run-2Fa-2Fapi.sock"));
    }

    #[test]
    fn a_name_by_its_number_is_known_too() {
        let block = |authority: &str| {
            [&[0x41, u8::try_from(authority.len()).unwrap()], authority.as_bytes()].concat()
        };
        let seen = through(&connection(&[frame(HEADERS, 4, &block("a%2F"))]), 5);
        assert_eq!(seen, connection(&[frame(HEADERS, 4, &block("a-2F"))]));
    }

    #[test]
    fn a_good_authority_stays() {
        let bytes = connection(&[frame(HEADERS, 4, &call("localhost:443"))]);
        assert_eq!(through(&bytes, 11), bytes);
    }

    #[test]
    fn a_frame_that_is_too_long_passes_unseen() {
        let bytes = connection(&[frame(HEADERS, 4, &[call("a%2F"), vec![0x82; LONGEST]].concat())]);
        assert_eq!(through(&bytes, 4096), bytes);
    }

    proptest! {
        /// Whatever a client sends: as many bytes come out, none but `%` is another, and pieces do not matter.
        #[test]
        fn nothing_is_lost_and_nothing_else_changes(
            payloads in prop::collection::vec((0..3_u8, any::<u8>(), prop::collection::vec(any::<u8>(), 0..60)), 0..6),
            rest in prop::collection::vec(any::<u8>(), 0..40),
            piece in 1..50_usize,
        ) {
            let frames: Vec<_> = payloads.iter().map(|(kind, flags, payload)| frame(*kind, *flags, payload)).collect();
            let bytes = [connection(&frames), rest].concat();
            let seen = through(&bytes, piece);
            prop_assert_eq!(&seen, &through(&bytes, bytes.len()));
            prop_assert_eq!(seen.len(), bytes.len());
            for (was, is) in bytes.iter().zip(&seen) {
                prop_assert!(was == is || (*was, *is) == (b'%', b'-'));
            }
        }

        #[test]
        fn any_bytes_after_the_preface_pass(rest in prop::collection::vec(any::<u8>(), 0..200), piece in 1..50_usize) {
            let bytes = [connection(&[]), rest].concat();
            prop_assert_eq!(through(&bytes, piece).len(), bytes.len());
        }
    }
}
