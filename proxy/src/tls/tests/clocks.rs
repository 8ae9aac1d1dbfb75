//! Clocks that differ: each side says what it saw, and by which clock.

use pillion_testkit::authority::valid_between;
use pillion_testkit::tls::{TLS12, server_of_versions};
use rstest::rstest;

use super::*;
use crate::tls::failure::Role;

/// A certificate of an hour, from two hours ago to one hour ago, or the other way round.
fn of_another_hour(ca: &TestCa, id: &str, begins_in_hours: i64) -> Held {
    let hour = Duration::from_secs(3600);
    let now = SystemTime::now();
    let begin = if begins_in_hours < 0 { now - 2 * hour } else { now + hour };
    ca.issue_with(id, |leaf| valid_between(leaf, begin, begin + hour))
}

fn off_by_hours(hours: i64) -> Clock {
    let span = Duration::from_secs(hours.unsigned_abs() * 3600);
    Clock::of(move || if hours < 0 { SystemTime::now() - span } else { SystemTime::now() + span })
}

#[rstest]
#[case::expired(-1, Reason::CertificateExpired, "expired at 20")]
#[case::not_yet_valid(1, Reason::CertificateNotYetValid, "is valid from 20")]
#[tokio::test]
async fn a_peer_of_another_hour_is_refused_by_our_clock_which_is_told(
    #[case] hour: i64,
    #[case] reason: Reason,
    #[case] seen: &str,
) {
    let ca = TestCa::root_with("root", |root| {
        valid_between(root, SystemTime::now() - days(1), SystemTime::now() + days(1));
    });
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    let client = pillion_testkit::tls::client(&ca, Some(&of_another_hour(&ca, CLIENT, hour)));
    let (accepted, _) = serve(client, &ours).await;
    let error = accepted.unwrap_err();
    assert_eq!(error.reason, reason);
    for part in [CLIENT, seen, "our clock says 20"] {
        assert!(error.detail.contains(part), "{part} is missing in: {error}");
    }
}

/// Our clock is an hour and a half behind, and so our certificate still valid for us. In TLS 1.2 we hear of it in the
/// handshake.
#[tokio::test]
async fn a_peer_that_finds_our_certificate_expired_is_answered_with_its_dates_and_our_clock() {
    let ca = TestCa::root_with("root", |root| {
        valid_between(root, SystemTime::now() - days(1), SystemTime::now() + days(1));
    });
    let held = of_another_hour(&ca, CLIENT, -1);
    let ours = Credentials::new(
        held.chain.clone(),
        &held.key,
        bundle(&ca),
        TlsSettings::default(),
        &off_by_hours(-1),
        1,
    )
    .unwrap();
    let lasting = |leaf: &mut rcgen::CertificateParams| {
        valid_between(leaf, SystemTime::now() - days(1), SystemTime::now() + days(1));
    };
    let server = server_of_versions(&ca, &ca.issue_with(SERVER, lasting), TLS12);
    let error = dial(&ours, server, &[id(SERVER)]).await.0.unwrap_err();
    assert_eq!(error.reason, Reason::PeerRefused);
    for part in [
        "certificate_expired: by its clock our certificate is not valid now; it is valid from 20",
        " until 20",
        "and our clock says 20",
        "compare both clocks",
    ] {
        assert!(error.detail.contains(part), "{part} is missing in: {error}");
    }
}

#[rstest]
#[case::valid(0, None)]
#[case::set_back(-3, Some("is not valid before 20"))]
#[case::set_forward(3, Some("has expired at 20"))]
fn credentials_that_cannot_be_shown_say_why_and_by_which_clock(
    #[case] hours: i64,
    #[case] seen: Option<&str>,
) {
    let ca = TestCa::root("root");
    let clock = off_by_hours(hours);
    let ours = Arc::new(credentials_at(&ca.issue(SERVER), bundle(&ca), &clock));
    let said = usable(Some(ours), &clock).err();
    assert_eq!(said.is_some(), seen.is_some(), "{said:?}");
    if let (Some(said), Some(seen)) = (said, seen) {
        assert!(said.contains(seen) && said.contains("our clock says 20"), "{said}");
    }
}

/// Also where the same chain was accepted, and remembered, a moment before; in the second of its end some still accept it.
#[test]
fn a_chain_that_was_accepted_is_refused_once_it_has_ended() {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs());
    let peer = ca.issue_with(CLIENT, |leaf| {
        valid_between(leaf, now - Duration::from_secs(60), now + Duration::from_secs(8));
    });
    let judge = |millis: u64| {
        let (leaf, intermediates) = peer.chain.split_first().unwrap();
        let at = now + Duration::from_millis(millis);
        ours.verifier
            .verify(leaf, intermediates, at, Role::Client)
            .map(drop)
            .map_err(|refusal| refusal.reason)
    };
    for millis in [0, 1, 7_999, 8_000, 8_500, 8_999] {
        assert_eq!(judge(millis), Ok(()), "{millis} ms");
    }
    for millis in [9_000, 9_001, 60_000] {
        assert_eq!(judge(millis), Err(Reason::CertificateExpired), "{millis} ms");
    }
}
