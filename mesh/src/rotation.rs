//! When to renew a certificate and how long to wait after a failure. Time and jitter are arguments.

use std::time::{Duration, SystemTime};

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
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[rstest]
    #[case::in_the_middle(0.0, 12 * 3600)]
    #[case::earliest(-1.0, 12 * 3600 - 72 * 60)]
    #[case::latest(1.0, 12 * 3600 + 72 * 60)]
    #[case::jitter_out_of_range(99.0, 12 * 3600 + 72 * 60)]
    #[case::jitter_is_no_number(f64::NAN, 12 * 3600)]
    fn a_day_long_certificate_is_renewed_at_half_its_life(#[case] jitter: f64, #[case] after: u64) {
        let renewal = renew_at(at(1_000), at(1_000 + 24 * 3600), jitter);
        let error = renewal.duration_since(at(1_000 + after)).unwrap_or_else(|early| early.duration());
        assert!(error < Duration::from_millis(1), "{renewal:?} is {error:?} off");
    }

    #[test]
    fn a_certificate_that_is_over_is_renewed_at_once() {
        assert_eq!(renew_at(at(1_000), at(1_000), 1.0), at(1_000));
        assert_eq!(renew_at(at(1_000), at(10), -1.0), at(1_000));
    }

    #[rstest]
    #[case(1, 500)]
    #[case(2, 1_000)]
    #[case(3, 2_000)]
    #[case(9, 128_000)]
    #[case(10, 150_000)]
    #[case(33, 150_000)]
    #[case(u32::MAX, 150_000)]
    #[case::never_failed(0, 500)]
    fn the_wait_doubles_up_to_a_cap(#[case] failures: u32, #[case] millis: u64) {
        assert_eq!(backoff(failures, 0.0), Duration::from_millis(millis));
        assert_eq!(backoff(failures, 1.0), Duration::from_millis(millis * 4 / 5));
    }

    proptest! {
        #[test]
        fn a_renewal_lies_in_the_middle_tenth_of_the_life(
            received in 0u64..1 << 40, life in 0u64..1 << 40, jitter in -1.0f64..=1.0,
        ) {
            let renewal = renew_at(at(received), at(received + life), jitter).duration_since(at(received)).unwrap();
            let share = renewal.as_secs_f64() / (life.max(1) as f64);
            prop_assert!(life == 0 || (0.4499..=0.5501).contains(&share), "{}", share);
        }

        #[test]
        fn a_renewal_never_leaves_the_life_whatever_the_jitter(received in 0u64..1 << 40, not_after in 0u64..1 << 40, jitter: f64) {
            let renewal = renew_at(at(received), at(not_after), jitter);
            prop_assert!(renewal >= at(received) && renewal <= at(not_after.max(received)));
        }

        #[test]
        fn a_longer_life_or_more_jitter_never_means_an_earlier_renewal(
            received in 0u64..1 << 40, life in 0u64..1 << 40, more in 0u64..1 << 40,
            jitter in -1.0f64..=1.0, more_jitter in 0.0f64..=1.0,
        ) {
            let renewal = renew_at(at(received), at(received + life), jitter);
            prop_assert!(renew_at(at(received), at(received + life + more), jitter) >= renewal);
            prop_assert!(renew_at(at(received), at(received + life), jitter + more_jitter) >= renewal);
        }

        #[test]
        fn more_failures_never_mean_a_shorter_wait(failures: u32, more in 0u32..100, jitter: f64) {
            prop_assert!(backoff(failures.saturating_add(more), jitter) >= backoff(failures, jitter));
        }

        #[test]
        fn a_wait_is_bounded_whatever_the_jitter(failures: u32, jitter: f64) {
            let wait = backoff(failures, jitter);
            prop_assert!(wait >= Duration::from_millis(400) && wait <= Duration::from_secs(150));
        }
    }
}
