//! What has moved between the two sides of a connection: how many bytes, when the first, which side ended first, and while
//! a person wants so the first bytes themselves. Readable while it moves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use pillion_mesh::wire::{By, Closed, FirstPassed, How};
use tracing::debug;

use super::capture::{Capture, KEPT};
use crate::telemetry::log::STEP;

/// Which end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    pub(crate) fn other(self) -> Side {
        if self == Side::Client { Side::Server } else { Side::Client }
    }

    fn by(self) -> By {
        if self == Side::Client { By::Client } else { By::Server }
    }
}

/// Application bytes, handshakes aside.
#[derive(Debug)]
pub(crate) struct Moved {
    begun: Instant,
    to_server: Way,
    to_client: Way,
    first_end: OnceLock<Closed>,
    capture: Arc<Capture>,
    captured: Mutex<Option<Box<FirstPassed>>>,
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    bytes: AtomicU64,
    /// When the first came, in microseconds since the beginning.
    first: OnceLock<u64>,
}

impl Moved {
    /// Nothing yet, of a connection that was accepted at `begun`.
    pub(crate) fn since(begun: Instant, capture: Arc<Capture>) -> Self {
        Self {
            begun,
            to_server: Way::default(),
            to_client: Way::default(),
            first_end: OnceLock::new(),
            capture,
            captured: Mutex::default(),
        }
    }

    /// Bytes came from this side, and so go to the other.
    pub(crate) fn came_from(&self, side: Side, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let way = if side == Side::Client { &self.to_server } else { &self.to_client };
        let before = way.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if before < KEPT as u64 {
            self.first_came(side, way, before, bytes);
        }
    }

    /// So many bytes more came from this side, of a direction that has begun long ago.
    pub(crate) fn came_unseen_from(&self, side: Side, count: usize) {
        let way = if side == Side::Client { &self.to_server } else { &self.to_client };
        way.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// The beginning of a direction. It is kept from its first byte on or not at all.
    fn first_came(&self, side: Side, way: &Way, before: u64, bytes: &[u8]) {
        if before == 0 {
            _ = way.first.set(self.micros());
            match side {
                Side::Client => debug!(target: STEP, "the first bytes of the request are here"),
                Side::Server => debug!(target: STEP, "the first bytes of the answer are here"),
            }
        }
        let now = Instant::now();
        if self.capture.state(now).is_none() {
            return;
        }
        let mut captured = self.captured.lock().unwrap_or_else(PoisonError::into_inner);
        if captured.is_none() && before == 0 && self.capture.takes_one(now) {
            *captured = Some(Box::default());
        }
        let Some(captured) = captured.as_mut() else { return };
        let kept = if side == Side::Client { &mut captured.to_server } else { &mut captured.to_client };
        if kept.len() as u64 == before {
            let room = KEPT.saturating_sub(kept.len());
            kept.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        }
    }

    /// The first bytes, where they were kept.
    pub(crate) fn captured(&self) -> Option<FirstPassed> {
        let captured = self.captured.lock().unwrap_or_else(PoisonError::into_inner);
        captured.as_deref().cloned()
    }

    /// This side sends no more, as it was seen to say; the first that is told counts.
    pub(crate) fn ended(&self, side: Side, how: How) {
        self.ends(side.by(), how);
    }

    /// We begin to end it in order, unless a side has.
    pub(crate) fn ends_here(&self, how: How) {
        self.ends(By::Proxy, how);
    }

    fn ends(&self, by: By, how: How) {
        _ = self.first_end.set(Closed { by, how });
    }

    /// Since the accept, in microseconds.
    pub(crate) fn micros(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Bytes to the server so far.
    pub(crate) fn to_server(&self) -> u64 {
        self.to_server.bytes.load(Ordering::Relaxed)
    }

    /// Bytes to the client so far.
    pub(crate) fn to_client(&self) -> u64 {
        self.to_client.bytes.load(Ordering::Relaxed)
    }

    /// When the first byte for the server came, in microseconds after the accept.
    pub(crate) fn asked(&self) -> Option<u64> {
        self.to_server.first.get().copied()
    }

    /// When the first byte for the client came, likewise.
    pub(crate) fn answered(&self) -> Option<u64> {
        self.to_client.first.get().copied()
    }

    /// Who ended in order first, and how.
    pub(crate) fn first_end(&self) -> Option<Closed> {
        self.first_end.get().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_byte_each_way_has_a_time_and_the_first_end_counts() {
        let moved = Moved::since(Instant::now(), Arc::default());
        moved.came_from(Side::Client, b"");
        assert_eq!((moved.asked(), moved.answered(), moved.first_end()), (None, None, None));
        moved.came_from(Side::Client, b"abc");
        let asked = moved.asked();
        assert!(asked.is_some() && moved.answered().is_none());
        moved.came_from(Side::Client, b"defg");
        moved.came_from(Side::Server, b"12345");
        assert_eq!((moved.to_server(), moved.to_client(), moved.asked()), (7, 5, asked));
        assert!(moved.answered() >= asked);
        moved.ended(Side::Server, How::CloseNotify);
        moved.ended(Side::Client, How::Fin);
        moved.ends_here(How::Fin);
        assert_eq!(moved.first_end(), Some(Closed { by: By::Server, how: How::CloseNotify }));
        assert_eq!(moved.captured(), None);
    }

    fn capturing() -> (Arc<Capture>, Moved) {
        let capture = Arc::new(Capture::default());
        let moved = Moved::since(Instant::now(), capture.clone());
        (capture, moved)
    }

    #[test]
    fn the_first_bytes_are_kept_while_a_person_wants_so() {
        let (capture, moved) = capturing();
        capture.begin(Instant::now(), Duration::from_secs(60));
        moved.came_from(Side::Client, b"GET /");
        moved.came_from(Side::Client, b" HTTP/1.1");
        moved.came_from(Side::Server, &[b'x'; 200]);
        moved.came_from(Side::Server, &[b'y'; 200]);
        moved.came_from(Side::Server, &[b'z'; 200]);
        let FirstPassed { to_server, to_client } = moved.captured().unwrap();
        assert_eq!(to_server, b"GET / HTTP/1.1");
        assert_eq!(to_client, [[b'x'; 200].as_slice(), &[b'y'; KEPT - 200]].concat());
    }

    #[test]
    fn a_direction_that_has_begun_before_is_not_kept() {
        let (capture, moved) = capturing();
        moved.came_from(Side::Client, b"before");
        capture.begin(Instant::now(), Duration::from_secs(60));
        moved.came_from(Side::Client, b" and after");
        assert_eq!(moved.captured(), None);
        moved.came_from(Side::Server, b"answer");
        capture.stop();
        moved.came_from(Side::Server, b" that goes on");
        let kept = FirstPassed { to_server: Vec::new(), to_client: b"answer".to_vec() };
        assert_eq!(moved.captured(), Some(kept));
    }
}
