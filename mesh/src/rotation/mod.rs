//! When a workload asks for its next certificate and for the trust bundle, and how loud it gets when it does not get them.
//! Time and jitter are arguments; what is asked, and of whom, is the caller's.

mod requester;

use std::time::{Duration, SystemTime};

pub use requester::{
    Act, Evidence, Held, Jump, LEAST_WAIT, Moment, REFRESH, Requester, Setback, Urgency, jump,
};

/// When to ask for the next certificate: half of the validity that was left when it arrived, moved by `jitter`.
///
/// `jitter` is a number from -1.0 to 1.0; 1.0 moves the point by a twentieth of the life. Numbers beyond are cut to
/// that. The answer lies between `received` and `not_after`; a certificate that was over when it arrived is renewed at
/// once.
#[must_use]
pub fn renew_at(received: SystemTime, not_after: SystemTime, jitter: f64) -> SystemTime {
    let life = not_after.duration_since(received).unwrap_or_default();
    let share = 0.5 + 0.05 * within(jitter, -1.0, 1.0);
    received.checked_add(life.mul_f64(share)).unwrap_or(received)
}

/// The wait after the first failure.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(150);

/// How long to wait before the next try after `failures` failures in a row (1 or more): 0.5 s, doubling, at most
/// 150 s, then less up to a fifth by `jitter` (0.0 to 1.0; numbers beyond are cut to that).
#[must_use]
pub fn backoff(failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1);
    let wait = 2u32
        .checked_pow(doublings)
        .map_or(LONGEST_WAIT, |times| FIRST_WAIT.saturating_mul(times).min(LONGEST_WAIT));
    wait.mul_f64(1.0 - 0.2 * within(jitter, 0.0, 1.0))
}

/// `value` cut to the range; no number at all counts as 0.
fn within(value: f64, least: f64, most: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(least, most) }
}

#[cfg(test)]
mod tests;
