//! The first bytes each way that pass a socket under TLS, behind its handshake, as they are on the wire: ciphertext.
//!
//! It costs every connection that speaks TLS about 150 bytes and one copy of what is kept; nothing is copied of what comes
//! behind. Where the handshake ends is known to `tls`, which fills it.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use pillion_mesh::wire::How;

/// Bytes that are kept of each direction.
pub(crate) const KEPT: usize = 64;

/// What was seen under one TLS stream.
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

    /// Bytes were read; says whether more of them are wanted.
    pub(crate) fn read(&self, bytes: &[u8]) -> bool {
        self.kept().read.keep(bytes)
    }

    /// Bytes were written; says whether more of them are wanted.
    pub(crate) fn wrote(&self, bytes: &[u8]) -> bool {
        self.kept().written.keep(bytes)
    }

    /// The peer goes away in the middle of the handshake.
    pub(crate) fn broken_off(&self, how: How) {
        _ = self.broke_off.set(how);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_each_way_are_kept_and_no_others() {
        let tap = Tap::default();
        assert!(tap.read(&[7; 50]) && tap.wrote(b"ab") && tap.wrote(b"cd"));
        assert!(!tap.read(&[8; 50]), "more is wanted");
        assert!(!tap.read(&[9; 50]));
        assert_eq!(tap.first_bytes(), ([[7; 50].as_slice(), &[8; KEPT - 50]].concat(), b"abcd".to_vec()));
    }

    #[test]
    fn a_tap_costs_little() {
        assert!(size_of::<Tap>() <= 160, "{}", size_of::<Tap>());
    }
}
