//! Says when something about dates wants attention that no renewal will mend: our clock was set, our certificate is not valid
//! yet, a root of our trust domain nears its end. Each is said once, and once that it is over.
//!
//! Leaves an end of validity that nears to `rotate` and `files`, who know what stands in the way of a renewal.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use pillion_mesh::duration;
use pillion_mesh::wire::rfc3339;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::tls::{Clock, LiveCredentials, Root};

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);
/// What a clock may be off between two looks: time servers move it by less.
const STEP: Duration = Duration::from_secs(5);
/// Which part of a root's life its end is near in.
const NEAR: u32 = 10;

/// Never ends.
pub(super) async fn run(credentials: LiveCredentials, clock: Clock) {
    let mut last = (clock.world(), Instant::now());
    let mut not_yet_valid = false;
    let mut roots = Roots::default();
    loop {
        sleep(LOOK).await;
        let looked = (clock.world(), Instant::now());
        if let Some(set) = Set::between(last.0, looked.0, looked.1 - last.1) {
            warn!("{set}, and says {}: certificates are judged by it", rfc3339::print(looked.0));
        }
        last = looked;
        let Some(current) = credentials.borrow().clone() else { continue };
        let now = clock.now();
        let early = now < current.svid.not_before;
        if early && !not_yet_valid {
            let fault = current.unusable_at(now).unwrap_or_default();
            error!("mesh connections are refused: {fault}");
        } else if not_yet_valid && current.is_valid_at(now) {
            info!("the certificate of {} is valid again; mesh connections are served", current.svid.id);
        }
        not_yet_valid = early;
        let own = current.bundles().roots(&current.svid.id.trust_domain()).unwrap_or_default();
        for (stage, said) in roots.look(own, now) {
            match stage {
                Stage::Near => warn!("{said}"),
                Stage::Ended => error!("{said}"),
            }
        }
    }
}

/// That a clock was set.
#[derive(Debug, PartialEq, Eq)]
enum Set {
    Forward(Duration),
    Back(Duration),
}

impl Set {
    /// Whether the world's clock went from one time to another in a span that is not between them.
    fn between(before: SystemTime, after: SystemTime, passed: Duration) -> Option<Set> {
        let expected = before.checked_add(passed)?;
        match after.duration_since(expected) {
            Ok(ahead) => (ahead > STEP).then_some(Set::Forward(ahead)),
            Err(behind) => (behind.duration() > STEP).then_some(Set::Back(behind.duration())),
        }
    }
}

impl std::fmt::Display for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let span = |span: &Duration| duration::print(Duration::from_secs(span.as_secs()));
        match self {
            Set::Forward(by) => write!(f, "our clock was set forward by {}, or this machine slept", span(by)),
            Set::Back(by) => write!(f, "our clock was set back by {}", span(by)),
        }
    }
}

/// How near the end of a root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Near,
    Ended,
}

/// What was said of which root, by its serial number.
#[derive(Default)]
struct Roots(BTreeMap<String, Stage>);

impl Roots {
    /// What is new.
    fn look(&mut self, roots: &[Root], now: SystemTime) -> Vec<(Stage, String)> {
        self.0.retain(|serial, _| roots.iter().any(|root| root.serial == *serial));
        let mut said = Vec::new();
        for root in roots {
            let stage = stage(root.not_before, root.not_after, now);
            if stage == self.0.get(&root.serial).copied() {
                continue;
            }
            match stage {
                None => _ = self.0.remove(&root.serial),
                Some(stage) => {
                    self.0.insert(root.serial.clone(), stage);
                    said.push((stage, words(root, stage, now)));
                }
            }
        }
        said
    }
}

fn stage(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> Option<Stage> {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    if now > not_after {
        Some(Stage::Ended)
    } else if now + life / NEAR > not_after {
        Some(Stage::Near)
    } else {
        None
    }
}

fn words(root: &Root, stage: Stage, now: SystemTime) -> String {
    let (subject, until, now) = (&root.subject, rfc3339::print(root.not_after), rfc3339::print(now));
    match stage {
        Stage::Near => format!(
            "the root {subject} of our trust domain ends at {until}: what it signed ends with it; its CA has to publish the next \
             one and sign by that before"
        ),
        Stage::Ended => format!(
            "the root {subject} of our trust domain EXPIRED at {until}, our clock says {now}: whoever leads to it is refused"
        ),
    }
}

#[cfg(test)]
mod tests {
    use pillion_testkit::TestCa;
    use pillion_testkit::authority::valid_between;
    use rstest::rstest;

    use super::*;
    use crate::tls::Bundles;

    const HOUR: Duration = Duration::from_secs(3600);

    #[rstest]
    #[case::as_time_passes(1, 0, None)]
    #[case::by_a_time_server(1, 4, None)]
    #[case::forward(1, 3_600, Some("our clock was set forward by 1h, or this machine slept"))]
    #[case::back(1, -3_600, Some("our clock was set back by 1h"))]
    #[case::back_by_what_it_took(1, -9, Some("our clock was set back by 9s"))]
    fn a_clock_that_was_set_is_told(#[case] passed: u64, #[case] step: i64, #[case] told: Option<&str>) {
        let (before, passed) = (SystemTime::now(), Duration::from_secs(passed));
        let span = Duration::from_secs(step.unsigned_abs());
        let after = if step < 0 { before + passed - span } else { before + passed + span };
        assert_eq!(Set::between(before, after, passed).map(|set| set.to_string()).as_deref(), told);
    }

    #[test]
    fn the_end_of_a_root_is_told_once_when_it_is_near_and_once_when_it_came() {
        let begin = SystemTime::now() - HOUR;
        let ca = TestCa::root_with("root", |root| valid_between(root, begin, begin + 10 * HOUR));
        let domain = "cluster.local".parse().unwrap();
        let bundle = Bundles::from_pem(&domain, ca.bundle_pem().as_bytes()).unwrap();
        let own = bundle.roots(&domain).unwrap();
        let mut roots = Roots::default();
        let mut said = Vec::new();
        for minutes in [60, 530, 545, 590, 610, 620] {
            let new = roots.look(own, begin + Duration::from_secs(minutes * 60));
            said.extend(new.into_iter().map(|(stage, words)| (minutes, stage, words)));
        }
        let stages: Vec<_> = said.iter().map(|(minutes, stage, _)| (*minutes, *stage)).collect();
        assert_eq!(stages, [(545, Stage::Near), (610, Stage::Ended)], "{said:?}");
        assert!(said[0].2.contains("CN=root of our trust domain ends at 20"), "{}", said[0].2);
        assert!(said[1].2.contains("our clock says 20"), "{}", said[1].2);
        assert_eq!(roots.look(&[], begin), []);
    }
}
