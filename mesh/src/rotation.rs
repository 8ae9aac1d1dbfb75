//! When to renew a certificate and how long to wait after a failure. Time and jitter are arguments.

use std::time::{Duration, SystemTime};

/// When to ask for the next certificate: half of the validity that was left when it arrived, moved by `jitter`.
///
/// `jitter` is a number from -1.0 to 1.0; 1.0 moves the point by a twentieth of the life. A certificate that has
/// already passed the point is renewed at once.
#[must_use]
pub fn renew_at(_received: SystemTime, _not_after: SystemTime, _jitter: f64) -> SystemTime {
    todo!()
}

/// How long to wait before the next try after `failures` failures in a row (1 or more): 0.5 s, doubling, at most
/// 150 s, then less up to a fifth by `jitter` (0.0 to 1.0).
#[must_use]
pub fn backoff(_failures: u32, _jitter: f64) -> Duration {
    todo!()
}
