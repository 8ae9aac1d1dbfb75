//! The rules for when to renew and how long to wait, and the requester that follows them.

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

const HOUR: Duration = Duration::from_secs(3_600);

/// `seconds` after the start, by both clocks.
fn moment(seconds: u64) -> Moment {
    Moment { wall: at(1_000_000 + seconds), steady: Duration::from_secs(seconds) }
}

/// An hour long, from the start on.
fn held() -> Held {
    Held { not_before: moment(0).wall, not_after: moment(3_600).wall, vouched: true }
}

/// One whose certificate arrived at the start, the half of whose life is over after 30 minutes.
fn settled() -> Requester {
    let mut requester = Requester::new(1);
    assert_eq!(requester.next(moment(0), None), Act::Renew(Evidence::Token));
    requester.notice(moment(0));
    requester.renewed(moment(0), held().not_after, 0.0, 0.0);
    requester
}

/// Keeps the bundle fresh until `seconds`.
fn refreshed_at(requester: &mut Requester, seconds: u64) {
    requester.notice(moment(seconds));
    requester.refreshed(moment(seconds), true, 0.0);
}

#[test]
fn who_has_a_certificate_sleeps_until_the_bundle_or_the_renewal_is_due() {
    let mut requester = settled();
    assert_eq!(requester.next(moment(0), Some(&held())), Act::Sleep(REFRESH));
    assert_eq!(requester.next(moment(60), Some(&held())), Act::RefreshBundle);
    refreshed_at(&mut requester, 1_790);
    assert_eq!(requester.next(moment(1_790), Some(&held())), Act::Sleep(Duration::from_secs(10)));
    assert_eq!(requester.next(moment(1_800), Some(&held())), Act::Renew(Evidence::Certificate));
}

#[test]
fn a_clock_that_was_set_back_does_not_put_the_renewal_off() {
    let mut requester = settled();
    refreshed_at(&mut requester, 1_799);
    let back = Moment { wall: moment(1_800).wall - HOUR / 4, ..moment(1_800) };
    assert_eq!(requester.notice(back), Some(Jump::Back(HOUR / 4)));
    assert_eq!(requester.next(back, Some(&held())), Act::Renew(Evidence::Certificate));
}

#[rstest]
#[case::past_the_renewal(2_000, Evidence::Certificate)]
#[case::past_the_end(3_700, Evidence::Token)]
fn a_clock_that_was_set_forward_brings_the_renewal(#[case] wall: u64, #[case] evidence: Evidence) {
    let mut requester = settled();
    let forward = Moment { wall: moment(wall).wall, ..moment(10) };
    assert_eq!(requester.notice(forward), Some(Jump::Forward(Duration::from_secs(wall - 10))));
    assert_eq!(requester.next(forward, Some(&held())), Act::Renew(evidence));
}

#[test]
fn a_clock_set_back_before_the_certificate_begins_brings_the_token() {
    let requester = settled();
    let back = Moment { wall: moment(0).wall - HOUR, ..moment(10) };
    assert_eq!(requester.next(back, Some(&held())), Act::Renew(Evidence::Token));
}

#[test]
fn clocks_that_agree_are_not_spoken_of() {
    let mut requester = settled();
    for (seconds, off) in [(60, 0), (120, 20), (180, 0)] {
        let now = Moment { wall: moment(seconds + off).wall, ..moment(seconds) };
        assert_eq!(requester.notice(now), None);
    }
}

#[test]
fn while_renewals_fail_a_clock_that_was_set_brings_the_next_try_at_once() {
    let mut requester = settled();
    for _ in 0..12 {
        requester.failed(moment(1_800), Some(&held()), 0.0);
    }
    requester.refresh_failed(moment(1_800), 0.0);
    assert_eq!(requester.next(moment(1_801), Some(&held())), Act::Sleep(Duration::from_secs(59)));
    requester.notice(moment(1_801));
    let set = Moment { wall: moment(2_801).wall, ..moment(1_802) };
    requester.notice(set);
    assert_eq!(requester.next(set, Some(&held())), Act::Sleep(LEAST_WAIT));
}

#[test]
fn a_certificate_that_is_not_valid_yet_by_our_clock_is_an_outage() {
    let before = Moment { wall: held().not_before - HOUR, ..moment(60) };
    assert_eq!(settled().failed(before, Some(&held()), 0.0).urgency, Urgency::Outage);
}

#[rstest]
#[case::half_left(1_800, Urgency::Calm)]
#[case::a_fifth_left(2_880, Urgency::Calm)]
#[case::less(2_881, Urgency::Near)]
#[case::nothing(3_600, Urgency::Outage)]
fn a_failure_gets_louder_as_the_end_nears(#[case] seconds: u64, #[case] urgency: Urgency) {
    let setback = settled().failed(moment(seconds), Some(&held()), 0.0);
    assert_eq!(setback.urgency, urgency);
    assert_eq!(setback.left, Duration::from_secs(3_600 - seconds));
    assert_eq!(setback.next, moment(seconds).wall + setback.wait);
}

#[test]
fn a_certificate_that_the_bundle_does_not_vouch_for_is_replaced_at_once_and_missed_like_none() {
    let mut requester = settled();
    let held = Held { vouched: false, ..held() };
    assert!(!requester.refreshed(moment(60), false, 0.0));
    assert_eq!(requester.next(moment(60), Some(&held)), Act::Renew(Evidence::Certificate));
    let mut setback = requester.failed(moment(60), Some(&held), 0.0);
    assert_eq!(setback.urgency, Urgency::Outage);
    for _ in 0..20 {
        setback = requester.failed(moment(60), Some(&held), 0.0);
    }
    assert_eq!(setback.wait, Duration::from_secs(16));
    requester.refreshed(moment(61), false, 0.0);
    assert!(matches!(requester.next(moment(61), Some(&held)), Act::Sleep(_)), "the back-off is passed by");
}

#[test]
fn a_short_lived_certificate_is_not_slept_away() {
    let wait = |life: u64, failures: u32| {
        let held = Held { not_before: moment(0).wall, not_after: moment(life).wall, vouched: true };
        let mut requester = settled();
        (0..failures).map(|_| requester.failed(moment(0), Some(&held), 0.0).wait).last().unwrap()
    };
    let seconds = Duration::from_secs;
    assert_eq!(wait(8, 9), seconds(2));
    assert_eq!(wait(1, 9), LEAST_WAIT);
    assert_eq!(wait(3_600, 1), backoff(1, 0.0));
    assert_eq!(wait(3_600, 99), seconds(150));
}

#[test]
fn without_a_valid_certificate_the_ca_is_asked_at_least_every_16_seconds() {
    let over = Held { not_before: at(0), not_after: at(1), vouched: true };
    for held in [None, Some(&over)] {
        let mut requester = Requester::new(1);
        assert_eq!(requester.failed(moment(0), held, 0.0).wait, backoff(1, 0.0));
        let last = (0..99).map(|_| requester.failed(moment(0), held, 0.0).wait).last();
        assert_eq!(last, Some(Duration::from_secs(16)));
    }
}

#[test]
fn a_bundle_that_fails_is_spoken_of_once_until_it_is_had_again() {
    let mut requester = settled();
    assert!(requester.refresh_failed(moment(60), 0.0));
    assert!(!requester.refresh_failed(moment(120), 0.0));
    assert!(requester.refreshed(moment(180), true, 0.0));
    assert!(!requester.refreshed(moment(240), true, 0.0));
}

#[test]
fn in_hurried_time_waits_are_the_worlds_and_lives_are_not() {
    let mut requester = Requester::new(2_880);
    let (start, day) = (at(1_000_000), 24 * HOUR);
    let now = Moment { wall: start, steady: Duration::ZERO };
    let held = Held { not_before: start, not_after: start + day, vouched: true };
    assert_eq!(requester.renewed(now, held.not_after, 0.0, 0.0), start + day / 2);
    assert_eq!(requester.next(now, Some(&held)), Act::Sleep(LEAST_WAIT));
    let later = Moment { wall: start + day / 2, steady: Duration::from_secs(15) };
    assert_eq!(requester.next(later, Some(&held)), Act::Renew(Evidence::Certificate));
    let setback = requester.failed(later, Some(&held), 0.0);
    assert_eq!((setback.wait, setback.next), (LEAST_WAIT, later.wall + HOUR * 2 / 5));
    let last = (0..20).map(|_| requester.failed(later, Some(&held), 0.0).wait).last();
    assert_eq!(last, Some(Duration::from_millis(3_750)), "a quarter of the 15 s that are left in the world");
}

proptest! {
    /// However the clock is set and whatever fails, it never spins and never sleeps over a renewal.
    #[test]
    fn it_neither_spins_nor_oversleeps(
        life in 10u64..200_000,
        steps in prop::collection::vec((0u32..3, -4_000i64..4_000, 0.0f64..1.0), 1..60),
    ) {
        let mut requester = Requester::new(1);
        let mut held: Option<Held> = None;
        let (mut steady, mut offset) = (Duration::ZERO, 0i64);
        let mut acts_without_sleep = 0;
        for (what, set, jitter) in steps {
            if what == 2 {
                offset += set;
            }
            let wall = at((10_000_000 + offset + i64::try_from(steady.as_secs()).unwrap()).unsigned_abs());
            let now = Moment { wall, steady };
            requester.notice(now);
            match requester.next(now, held.as_ref()) {
                Act::Sleep(wait) => {
                    prop_assert!(!wait.is_zero() && wait <= REFRESH, "{:?}", wait);
                    if let Some(held) = held.filter(|held| held.is_valid_at(wall)) && requester_is_calm(&requester) {
                        prop_assert!(wall + wait < held.not_after || wait <= LEAST_WAIT, "slept over the end");
                    }
                    steady += wait;
                    acts_without_sleep = 0;
                }
                Act::Renew(_) if what == 0 => {
                    requester.failed(now, held.as_ref(), jitter);
                    acts_without_sleep += 1;
                }
                Act::Renew(_) => {
                    let not_after = wall + Duration::from_secs(life);
                    requester.renewed(now, not_after, jitter, jitter);
                    held = Some(Held { not_before: wall, not_after, vouched: true });
                    acts_without_sleep += 1;
                }
                Act::RefreshBundle => {
                    if what == 0 { requester.refresh_failed(now, jitter); } else { requester.refreshed(now, true, jitter); }
                    acts_without_sleep += 1;
                }
            }
            prop_assert!(acts_without_sleep <= 3, "it spins");
        }
    }
}

/// Whether nothing has failed.
fn requester_is_calm(requester: &Requester) -> bool {
    format!("{requester:?}").contains("failures: 0")
}
