//! The keeper over a state folder, by the clock of this machine.

use std::path::Path;
use std::time::SystemTime;

use rstest::rstest;

use super::*;
use crate::store::State;
use crate::testing::{DAY, HOUR, ROOT, TTL, trust_domain};

const POLICY: Policy = Policy { publish_ahead: DAY, skew: HOUR, settle: HOUR };

/// A state folder whose CA began at `begun` and has been away since.
fn since(begun: SystemTime) -> (tempfile::TempDir, State, SignerFiles) {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(folder.path()).unwrap();
    let files = state.signers(&trust_domain(), ROOT, TTL, None, begun).unwrap();
    (folder, state, files)
}

fn keeper(files: SignerFiles, automatic: bool, bundle_file: Option<&Path>) -> Keeper {
    let bundle_file = bundle_file.map(Path::to_owned);
    let plan = Plan {
        policy: POLICY,
        automatic,
        usual_life: DAY,
        bundle_file,
        trust_domain: trust_domain(),
        external: None,
    };
    Keeper::new(files, None, plan, Clock::SYSTEM).unwrap()
}

#[test]
fn a_ca_that_was_away_when_its_root_ended_begins_with_another() {
    let now = SystemTime::now();
    let (_folder, _state, files) = since(now - ROOT.life - DAY);
    let keeper = keeper(files, true, None);
    assert!(keeper.live().get().current().not_after() < now);
    keeper.catch_up();
    let slots = keeper.live().get();
    assert!(slots.current().not_after() > now);
    assert_eq!(slots.longest_known(now, DAY).name(), slots.current().name());
}

#[rstest]
#[case::automatic(true, 2)]
#[case::by_hand(false, 1)]
fn a_root_of_which_a_fifth_is_left_gets_a_successor_by_age_where_that_is_wanted(
    #[case] automatic: bool,
    #[case] published: usize,
) {
    let (_folder, _state, files) = since(SystemTime::now() - ROOT.life * 4 / 5);
    let keeper = keeper(files, automatic, None);
    keeper.look();
    keeper.look();
    assert_eq!(keeper.live().get().roots().count(), published);
}

#[test]
fn a_bundle_that_cannot_be_written_is_written_later_and_missed_once() {
    let (folder, _state, files) = since(SystemTime::now());
    let bundle = folder.path().join("run/bundle.pem");
    std::fs::write(folder.path().join("run"), "in the way").unwrap();
    let keeper = keeper(files, true, Some(&bundle));
    keeper.look();
    assert!(keeper.seen().complaint.as_deref().unwrap().contains("run"));
    std::fs::remove_file(folder.path().join("run")).unwrap();
    keeper.look();
    assert_eq!(keeper.seen().complaint, None);
    assert_eq!(std::fs::read_to_string(bundle).unwrap(), keeper.live().get().bundle_pem());
}

#[test]
fn a_next_root_that_cannot_be_made_now_changes_nothing_and_is_made_later() {
    let (folder, _state, files) = since(SystemTime::now() - ROOT.life * 4 / 5);
    let keeper = keeper(files, true, None);
    let before = keeper.live().get();
    let (signers, away) = (folder.path().join("signers"), folder.path().join("away"));
    std::fs::rename(&signers, &away).unwrap();
    std::fs::write(&signers, "in the way").unwrap();
    keeper.look();
    assert!(keeper.seen().complaint.is_some());
    assert!(Arc::ptr_eq(&before, &keeper.live().get()), "the signers in force stay");
    std::fs::remove_file(&signers).unwrap();
    std::fs::rename(&away, &signers).unwrap();
    keeper.look();
    assert_eq!((keeper.live().get().roots().count(), &keeper.seen().complaint), (2, &None));
}

#[test]
fn after_the_clock_was_set_roots_are_not_replaced_at_once() {
    let (_folder, _state, files) = since(SystemTime::now());
    let keeper = keeper(files, true, None);
    let mut seen = keeper.seen();
    let later = |wall: SystemTime, hours: u32| Moment { wall, steady: hours * HOUR };
    let begun = seen.serving.last.wall;
    keeper.notice(&mut seen.serving, later(begun + 2 * HOUR, 2));
    assert_eq!(seen.serving.since, Duration::ZERO, "the clocks agree");
    keeper.notice(&mut seen.serving, later(begun + 4 * HOUR, 3));
    assert_eq!(seen.serving.since, 3 * HOUR);
    keeper.notice(&mut seen.serving, later(begun + 4 * HOUR, 4));
    assert_eq!(seen.serving.since, 4 * HOUR);
}
