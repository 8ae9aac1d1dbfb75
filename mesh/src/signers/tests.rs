//! A root's way from next to old, what must not happen on it, and the record.

use proptest::prelude::*;
use rstest::rstest;

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);
const SKEW: Duration = Duration::from_secs(300);
const POLICY: Policy = Policy { publish_ahead: HOUR, skew: SKEW, settle: Duration::from_secs(900) };

fn at(days: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + 20_000 * DAY + days * DAY
}

fn root(number: u32, days: u32) -> Signer {
    let begin = at(days);
    Signer::new(format!("{number:016x}"), (begin, begin + 100 * DAY), begin, DAY)
}

/// A CA that has served for a week.
fn facts(now: SystemTime) -> Facts {
    Facts { now, serving: 7 * DAY }
}

/// A current root of 100 days, made on day 0.
fn young() -> Signers {
    Signers::first(root(1, 0))
}

/// Whose next root was published on day 70.
fn prepared() -> Signers {
    let mut signers = young();
    signers.prepare(root(2, 70)).unwrap();
    signers
}

/// Whose second root signs since day 80.
fn activated() -> Signers {
    let mut signers = prepared();
    signers.activate(at(80)).unwrap();
    signers
}

#[test]
fn the_next_root_is_prepared_so_early_that_everybody_knows_it_when_a_fifth_of_the_life_is_left() {
    let signers = young();
    let prepare_at = at(80) - DAY - SKEW;
    match signers.step(&facts(at(1)), &POLICY) {
        Step::Wait { until, why } => {
            assert_eq!((until, why.as_str()), (prepare_at, "the next root is prepared"));
        }
        step => panic!("{step:?}"),
    }
    let step = signers.step(&facts(prepare_at), &POLICY);
    assert!(matches!(&step, Step::Prepare { why } if why.contains("is to be replaced at")), "{step:?}");
}

#[test]
fn a_prepared_root_signs_when_it_is_time_and_not_before() {
    let signers = prepared();
    assert!(matches!(signers.step(&facts(at(75)), &POLICY), Step::Wait { until, .. } if until == at(80)));
    assert!(matches!(signers.step(&facts(at(80)), &POLICY), Step::Activate { .. }));
}

#[test]
fn a_root_that_was_prepared_long_ahead_signs_when_a_fifth_of_its_own_life_is_over() {
    let mut signers = young();
    signers.prepare(root(2, 10)).unwrap();
    assert!(matches!(signers.step(&facts(at(11)), &POLICY), Step::Wait { until, .. } if until == at(30)));
    assert!(matches!(signers.step(&facts(at(30)), &POLICY), Step::Activate { .. }));
}

#[test]
fn an_old_root_goes_when_nothing_that_it_signed_is_valid() {
    let signers = activated();
    let over = at(81) + SKEW;
    assert!(matches!(signers.step(&facts(at(80)), &POLICY), Step::Wait { until, .. } if until == over));
    let step = signers.step(&facts(over), &POLICY);
    assert!(matches!(&step, Step::Retire { name, .. } if name.ends_with('1')), "{step:?}");
}

#[test]
fn the_longest_life_ever_granted_counts_and_not_the_usual_one() {
    let mut signers = prepared();
    assert!(signers.grant(9 * DAY));
    assert!(!signers.grant(DAY), "a shorter life changes nothing");
    assert!(signers.can_activate(&facts(at(78)), &POLICY).is_err());
    signers.can_activate(&facts(at(80)), &POLICY).unwrap();
    signers.activate(at(80)).unwrap();
    let name = signers.old()[0].name.clone();
    assert!(signers.can_retire(&name, &facts(at(88)), &POLICY).is_err());
    signers.can_retire(&name, &facts(at(90)), &POLICY).unwrap();
    assert_eq!(signers.current().longest, 9 * DAY, "the next one will grant it, too");
}

#[test]
fn what_a_root_signed_ends_with_the_root() {
    let mut signers = prepared();
    signers.grant(90 * DAY);
    signers.activate(at(80)).unwrap();
    let name = signers.old()[0].name.clone();
    signers.can_retire(&name, &facts(at(100) + SKEW), &POLICY).unwrap();
}

#[rstest]
#[case::no_next(&young(), at(80), 7 * DAY, Some("there is no next root"), false)]
#[case::too_short(&prepared(), at(70) + HOUR, 7 * DAY, Some("would refuse its certificates until"), true)]
#[case::clock_set_back(&prepared(), at(69), 7 * DAY, Some("is this clock right?"), false)]
#[case::just_back(&prepared(), at(90), HOUR / 60, Some("has served for 1m only"), true)]
#[case::no_ca(&prepared(), at(90), Duration::ZERO, Some("has served for 0"), true)]
#[case::good(&prepared(), at(72), 7 * DAY, None, false)]
fn who_activates_hears_whom_it_would_cut_off(
    #[case] signers: &Signers,
    #[case] now: SystemTime,
    #[case] serving: Duration,
    #[case] expected: Option<&str>,
    #[case] can_be_forced: bool,
) {
    match (signers.can_activate(&Facts { now, serving }, &POLICY), expected) {
        (Ok(()), None) => {}
        (Err(hindrance), Some(expected)) => {
            assert!(hindrance.to_string().contains(expected), "{hindrance}");
            assert_eq!(hindrance.can_be_forced(), can_be_forced);
        }
        (seen, expected) => panic!("expected {expected:?}; seen {seen:?}"),
    }
}

#[rstest]
#[case::in_use("0000000000000001", at(80) + HOUR, 7 * DAY, Some("would be refused everywhere"), true)]
#[case::just_back("0000000000000001", at(90), HOUR / 60, Some("have not asked for the new bundle"), true)]
#[case::current("0000000000000002", at(90), 7 * DAY, Some("only old ones can be retired"), false)]
#[case::good("0000000000000001", at(90), 7 * DAY, None, false)]
fn who_retires_hears_whom_it_would_cut_off(
    #[case] name: &str,
    #[case] now: SystemTime,
    #[case] serving: Duration,
    #[case] expected: Option<&str>,
    #[case] can_be_forced: bool,
) {
    match (activated().can_retire(name, &Facts { now, serving }, &POLICY), expected) {
        (Ok(()), None) => {}
        (Err(hindrance), Some(expected)) => {
            assert!(hindrance.to_string().contains(expected), "{hindrance}");
            assert_eq!(hindrance.can_be_forced(), can_be_forced);
        }
        (seen, expected) => panic!("expected {expected:?}; seen {seen:?}"),
    }
}

#[test]
fn by_age_nothing_happens_while_those_who_waited_for_the_ca_have_not_asked() {
    let just_back = Facts { now: at(90), serving: Duration::from_secs(10) };
    for signers in [prepared(), activated()] {
        let step = signers.step(&just_back, &POLICY);
        assert!(matches!(step, Step::Wait { until, .. } if until <= at(90) + POLICY.settle), "{step:?}");
    }
}

#[test]
fn a_root_that_ends_is_replaced_though_its_successor_is_young() {
    let mut signers = young();
    signers.prepare(Signer::new("2".repeat(16), (at(99), at(199)), at(99), DAY)).unwrap();
    let early = Facts { now: at(99) + HOUR, serving: HOUR };
    assert!(matches!(signers.step(&early, &POLICY), Step::Wait { .. }));
    let late = Facts { now: at(100) - SKEW, serving: DAY };
    let step = signers.step(&late, &POLICY);
    assert!(matches!(&step, Step::Activate { why } if why.contains("though the next root")), "{step:?}");
}

#[test]
fn each_change_of_the_published_set_counts() {
    let mut signers = young();
    assert_eq!(signers.sequence(), 1);
    signers.prepare(root(2, 70)).unwrap();
    assert_eq!(signers.sequence(), 2);
    signers.activate(at(80)).unwrap();
    assert_eq!(signers.sequence(), 2, "the same roots are published");
    signers.retire("0000000000000001").unwrap();
    assert_eq!(signers.sequence(), 3);
    assert_eq!(signers.published().count(), 1);
}

#[test]
fn a_next_root_that_has_signed_nothing_can_be_dropped() {
    let mut signers = prepared();
    signers.drop_next();
    assert_eq!((signers.next(), signers.sequence()), (None, 3));
    signers.drop_next();
    assert_eq!(signers.sequence(), 3);
}

#[test]
fn a_second_next_root_and_a_ninth_root_are_refused() {
    let mut signers = prepared();
    assert!(signers.prepare(root(3, 71)).unwrap_err().to_string().contains("there is a next root already"));
    for number in 3..=8 {
        signers.activate(at(80)).unwrap();
        signers.prepare(root(number, 80)).unwrap();
    }
    signers.activate(at(80)).unwrap();
    assert_eq!(signers.published().count(), MOST);
    assert_eq!(signers.prepare(root(9, 80)), Err(Hindrance::TooMany));
}

#[test]
fn who_has_not_asked_for_long_knows_the_oldest_root() {
    for signers in [young(), prepared(), activated()] {
        assert!(signers.longest_known(at(80), DAY).name.ends_with('1'));
    }
}

/// Found by the year of a mesh (`tests/life.rs`): a CA that was away while its old root ended.
#[test]
fn a_root_that_ends_signs_no_server_certificate() {
    assert!(activated().longest_known(at(99), DAY).name.ends_with('1'));
    assert!(activated().longest_known(at(99) + HOUR, DAY).name.ends_with('2'));
}

#[test]
fn the_record_is_read_as_it_was_written() {
    for signers in [young(), prepared(), activated()] {
        assert_eq!(Signers::from_json(signers.to_json().as_bytes()).unwrap(), signers);
    }
}

#[test]
fn req_35_a_record_cut_anywhere_is_refused() {
    let whole = activated().to_json();
    for length in 0..whole.len() {
        assert!(Signers::from_json(&whole.as_bytes()[..length]).is_err(), "cut to {length} bytes");
    }
}

#[rstest]
#[case(r#"{"version":2,"sequence":1,"signers":[]}"#, "reads version 1")]
#[case(r#"{"version":1,"sequence":1,"signers":[]}"#, "no current root")]
#[case(r#"{"version":1,"sequence":1,"signers":[],"more":1}"#, "unknown field")]
#[case("[]", "in JSON")]
fn a_record_that_makes_no_sense_is_refused(#[case] text: &str, #[case] expected: &str) {
    let error = Signers::from_json(format!("{text}\n").as_bytes()).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[rstest]
#[case("0000000000000002", "0000000000000001", "a root twice")]
#[case("0000000000000002", "../../../../etc/", "16 hexadecimal digits")]
#[case("\"longest\": \"1d\"", "\"longest\": \"soon\"", "is not a duration")]
fn a_record_that_was_tampered_with_is_refused(#[case] from: &str, #[case] to: &str, #[case] expected: &str) {
    let text = prepared().to_json().replace(from, to);
    let error = Signers::from_json(text.as_bytes()).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

proptest! {
    /// Whatever lives are granted and however often the CA is away, a CA that follows its steps lets no root sign that a
    /// holder of a valid certificate may not know, withdraws none whose certificates are valid, and never stops signing.
    #[test]
    fn who_follows_the_steps_cuts_nobody_off(
        lives in prop::collection::vec(1u32..=240, 1..40),
        away in prop::collection::vec(0u32..=48, 1..40),
    ) {
        let hours = |count: u32| count * HOUR;
        let mut signers = Signers::first(root(1, 0));
        // (root, end) of all that is valid, and since when each root is published.
        let mut issued: Vec<(String, SystemTime)> = Vec::new();
        let (mut now, mut number, mut turn) = (at(0), 1u32, 0usize);
        let mut since = now;
        while now < at(400) {
            now += hours(6);
            turn += 1;
            if turn % 20 == 0 {
                now += hours(away[turn / 20 % away.len()]);
                since = now;
            }
            let facts = Facts { now, serving: now.duration_since(since).unwrap() };
            issued.retain(|(_, end)| *end > now);
            match signers.step(&facts, &POLICY) {
                Step::Prepare { .. } => {
                    number += 1;
                    let name = format!("{number:016x}");
                    signers.prepare(Signer::new(name, (now, now + 100 * DAY), now, DAY)).unwrap();
                }
                Step::Activate { .. } => {
                    // Who holds a valid certificate got it less than its life ago.
                    let next = signers.next().unwrap();
                    prop_assert!(next.published + signers.current().longest <= now);
                    signers.activate(now).unwrap();
                }
                Step::Retire { name, .. } => {
                    prop_assert!(issued.iter().all(|(root, _)| *root != name), "{name} is in use");
                    signers.retire(&name).unwrap();
                }
                Step::Wait { until, .. } => prop_assert!(until > now),
            }
            let current = signers.current();
            prop_assert!(current.not_after > now, "the current root is over");
            let life = hours(lives[turn % lives.len()]);
            let end = (now + life).min(current.not_after);
            signers.grant(life);
            issued.push((signers.current().name.clone(), end));
        }
        prop_assert!(number >= 4, "only {number} roots in 400 days");
    }
}
