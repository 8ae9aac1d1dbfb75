//! What becomes of an open connection's peer when the trust bundle, or only our own certificate, changes.

use pillion_testkit::authority::valid_between;
use rstest::rstest;
use tokio::sync::watch;

use super::*;
use crate::tls::no_longer_proved;

/// The proof of a client with `held`, as a server with these credentials has it.
async fn proof_of(held: &Held, ours: &Credentials, ca: &TestCa) -> Proof {
    serve(pillion_testkit::tls::client(ca, Some(held)), ours).await.0.unwrap().proof
}

/// What is said at once of a change to `next`; none where the connection goes on.
async fn said(proof: &Proof, before: Credentials, next: Credentials) -> Option<String> {
    let (live, receiver) = watch::channel(Some(Arc::new(before)));
    let waiting = no_longer_proved(Some(proof), &receiver);
    tokio::pin!(waiting);
    for change in [None, Some(next)] {
        if let Some(next) = change {
            live.send_replace(Some(Arc::new(next)));
        }
        tokio::select! {
            biased;
            because = &mut waiting => return Some(because),
            () = std::future::ready(()) => {}
        }
    }
    None
}

#[rstest]
#[case::our_own_renewal(&["old"], true)]
#[case::another_root_besides(&["old", "new"], true)]
#[case::another_root_instead(&["new"], false)]
#[tokio::test]
async fn req_16_a_peer_is_believed_as_long_as_the_bundle_has_its_root(
    #[case] roots: &[&str],
    #[case] stays: bool,
) {
    let (old, new) = (TestCa::root("old"), TestCa::root("new"));
    let ours = || credentials(&old.issue(SERVER), bundle(&old));
    let proof = proof_of(&old.intermediate("between").issue(CLIENT), &ours(), &old).await;
    let pem: String = [&old, &new]
        .iter()
        .filter(|root| roots.contains(&root.name()))
        .map(|root| root.bundle_pem())
        .collect();
    let bundles = Bundles::from_pem(&trust_domain(), pem.as_bytes()).unwrap();
    let next = credentials(&old.issue(SERVER), bundles);
    let because = said(&proof, ours(), next).await;
    assert_eq!(because.is_none(), stays, "{because:?}");
    if let Some(because) = because {
        for part in ["the trust bundle has changed", CLIENT, "we trust CN=new"] {
            assert!(because.contains(part), "{part} is missing in: {because}");
        }
    }
}

#[rstest]
#[case::of_another_peer(false)]
#[case::of_this_one(true)]
#[tokio::test]
async fn a_peer_that_is_revoked_is_believed_no_longer(#[case] its_own: bool) {
    let ca = TestCa::root("root");
    let ours = || credentials(&ca.issue(SERVER), bundle(&ca));
    let (held, other) = (ca.issue(CLIENT), ca.issue(CLIENT));
    let proof = proof_of(&held, &ours(), &ca).await;
    let named = if its_own { &held } else { &other };
    let list = ca.revocation_list(&[&named.chain[0]], SystemTime::now() + days(1));
    let next = ours().with_revoked(revoked::revoked(&list), 2).unwrap();
    let because = said(&proof, ours(), next).await;
    assert_eq!(because.is_some(), its_own, "{because:?}");
    if let Some(because) = because {
        assert!(because.starts_with("the revocation list has changed: "), "{because}");
    }
}

/// What changed between the handshake and the first look counts too.
#[tokio::test]
async fn a_bundle_that_changed_during_the_handshake_is_not_missed() {
    let (old, new) = (TestCa::root("old"), TestCa::root("new"));
    let proof = proof_of(&old.issue(CLIENT), &credentials(&old.issue(SERVER), bundle(&old)), &old).await;
    let already = || credentials(&new.issue(SERVER), bundle(&new));
    assert!(said(&proof, already(), already()).await.is_some());
}

/// Its end was known when it was let in; a bundle that would have let it in then cuts nothing.
#[tokio::test]
async fn a_peer_whose_certificate_has_expired_since_is_judged_as_on_its_last_day() {
    let (old, new) = (TestCa::root("old"), TestCa::root("new"));
    let now = SystemTime::now();
    let held = old.issue_with(CLIENT, |leaf| valid_between(leaf, now - days(1), now + days(1)));
    let ours = |pem: String, clock: Clock| {
        let bundles = Bundles::from_pem(&trust_domain(), pem.as_bytes()).unwrap();
        credentials_at(&old.issue(SERVER), bundles, &clock)
    };
    let proof = proof_of(&held, &ours(old.bundle_pem(), Clock::system()), &old).await;
    let later = || Clock::of(move || now + days(2));
    let wider = ours(old.bundle_pem() + &new.bundle_pem(), later());
    assert_eq!(said(&proof, ours(old.bundle_pem(), later()), wider).await, None);
    let without = ours(new.bundle_pem(), later());
    assert!(said(&proof, ours(old.bundle_pem(), later()), without).await.is_some());
}
