//! What has moved between the two sides of a connection: how many bytes, when the first, and which side ended first.
//! Readable while it moves.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use pillion_mesh::wire::{By, Closed, How};

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
    pub(crate) fn since(begun: Instant) -> Self {
        Self { begun, to_server: Way::default(), to_client: Way::default(), first_end: OnceLock::new() }
    }

    /// Bytes came from this side, and so go to the other.
    pub(crate) fn came_from(&self, side: Side, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let way = if side == Side::Client { &self.to_server } else { &self.to_client };
        if way.bytes.fetch_add(bytes as u64, Ordering::Relaxed) == 0 {
            _ = way.first.set(self.micros());
        }
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
    use super::*;

    #[test]
    fn the_first_byte_each_way_has_a_time_and_the_first_end_counts() {
        let moved = Moved::since(Instant::now());
        moved.came_from(Side::Client, 0);
        assert_eq!((moved.asked(), moved.answered(), moved.first_end()), (None, None, None));
        moved.came_from(Side::Client, 3);
        let asked = moved.asked();
        assert!(asked.is_some() && moved.answered().is_none());
        moved.came_from(Side::Client, 4);
        moved.came_from(Side::Server, 5);
        assert_eq!((moved.to_server(), moved.to_client(), moved.asked()), (7, 5, asked));
        assert!(moved.answered() >= asked);
        moved.ended(Side::Server, How::CloseNotify);
        moved.ended(Side::Client, How::Fin);
        moved.ends_here(How::Fin);
        assert_eq!(moved.first_end(), Some(Closed { by: By::Server, how: How::CloseNotify }));
    }
}
