//! The switch by which a person has plaintext kept: off, or on until a moment and for some connections more.
//!
//! What is kept of a connection is its first bytes each way, see [`super::moved`]. Whether anybody may switch it on is the
//! admin API's to say.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that are kept of each direction of a connection.
pub(crate) const KEPT: usize = 256;
/// Connections of which they are kept, before it has to be switched on again.
pub(crate) const CONNECTIONS: u32 = 500;
/// The longest that it is on, likewise.
pub(crate) const LONGEST: Duration = Duration::from_secs(600);

/// Off, unless somebody switches it on.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    /// Whether to look at the rest; so that nothing is locked where it is off.
    maybe_on: AtomicBool,
    on: Mutex<Option<On>>,
}

/// While it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct On {
    pub(crate) until: Instant,
    /// Connections that may still be kept.
    pub(crate) left: u32,
}

impl Capture {
    /// Switches it on from `now` on, for a period of at most [`LONGEST`].
    pub(crate) fn begin(&self, now: Instant, period: Duration) {
        let mut on = self.lock();
        *on = Some(On { until: now + period.min(LONGEST), left: CONNECTIONS });
        self.maybe_on.store(true, Ordering::Release);
    }

    /// Switches it off.
    pub(crate) fn stop(&self) {
        let mut on = self.lock();
        *on = None;
        self.maybe_on.store(false, Ordering::Release);
    }

    /// How long and for how many connections it is on; none where it is off.
    pub(crate) fn state(&self, now: Instant) -> Option<On> {
        if !self.maybe_on.load(Ordering::Acquire) {
            return None;
        }
        let mut on = self.lock();
        *on = on.filter(|on| now < on.until);
        self.maybe_on.store(on.is_some(), Ordering::Release);
        *on
    }

    /// Whether one more connection is kept from `now` on.
    pub(super) fn takes_one(&self, now: Instant) -> bool {
        let mut on = self.lock();
        match on.as_mut() {
            Some(on) if now < on.until && on.left > 0 => {
                on.left -= 1;
                true
            }
            _ => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<On>> {
        self.on.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_off_until_it_is_switched_on_and_goes_off_by_itself() {
        let (capture, now) = (Capture::default(), Instant::now());
        assert!(!capture.takes_one(now));
        capture.begin(now, Duration::from_secs(60));
        let (just, over) = (now + Duration::from_millis(59_999), now + Duration::from_secs(60));
        assert!(capture.takes_one(now) && capture.takes_one(just));
        assert_eq!(capture.state(just).map(|on| on.left), Some(CONNECTIONS - 2));
        assert!(!capture.takes_one(over));
        assert_eq!(capture.state(over), None);
        capture.begin(over, Duration::from_secs(60));
        assert!(capture.takes_one(over));
        capture.stop();
        assert!(!capture.takes_one(over));
    }

    #[test]
    fn it_is_bounded_in_time_and_in_connections() {
        let (capture, now) = (Capture::default(), Instant::now());
        capture.begin(now, Duration::from_secs(1 << 40));
        assert_eq!(capture.state(now + LONGEST), None);
        capture.begin(now, LONGEST);
        for _ in 0..CONNECTIONS {
            assert!(capture.takes_one(now));
        }
        assert!(!capture.takes_one(now));
        assert_eq!(capture.state(now).map(|on| on.left), Some(0));
    }
}
