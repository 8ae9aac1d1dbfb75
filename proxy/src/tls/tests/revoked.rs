//! Peers whose certificate, or that of a signer, is on a revocation list.

use pillion_testkit::tls as peers;
use rstest::rstest;
use rustls::AlertDescription;

use super::*;

/// A root, an intermediate, and a peer of it.
struct Signers {
    root: TestCa,
    between: TestCa,
    client: Held,
}

fn signers() -> Signers {
    let root = TestCa::root("root");
    let between = root.intermediate("between");
    let client = between.issue(CLIENT);
    Signers { root, between, client }
}

fn soon() -> SystemTime {
    SystemTime::now() + days(1)
}

fn yesterday() -> SystemTime {
    SystemTime::now() - days(1)
}

pub(super) fn revoked(pem: &str) -> Revoked {
    Revoked(Some(Arc::new(Revocations::read("crl.pem", pem.as_bytes()).unwrap())))
}

impl Signers {
    fn ours(&self, lists: &str) -> Credentials {
        credentials(&self.root.issue(SERVER), bundle(&self.root)).with_revoked(revoked(lists), 2).unwrap()
    }

    async fn refusal(&self, lists: &str) -> Option<(HandshakeError, AlertDescription)> {
        let client = peers::client(&self.root, Some(&self.client));
        let (accepted, seen) = serve(client, &self.ours(lists)).await;
        accepted.err().map(|error| (error, alert_seen(seen)))
    }
}

#[rstest]
#[case::nobody(|s: &Signers| s.between.revocation_list(&[], soon()), false)]
#[case::another_peer(|s: &Signers| s.between.revocation_list(&[&s.between.issue(CLIENT).chain[0]], soon()), false)]
#[case::the_peer(|s: &Signers| s.between.revocation_list(&[&s.client.chain[0]], soon()), true)]
#[case::its_signer(|s: &Signers| s.root.revocation_list(&[s.between.certificate()], soon()), true)]
#[case::the_peer_by_a_list_among_others(
    |s: &Signers| s.root.revocation_list(&[], soon()) + &s.between.revocation_list(&[&s.client.chain[0]], soon()),
    true
)]
#[case::the_peer_by_an_outdated_list(|s: &Signers| s.between.revocation_list(&[&s.client.chain[0]], yesterday()), true)]
#[case::nobody_by_an_outdated_list(|s: &Signers| s.between.revocation_list(&[], yesterday()), false)]
#[case::no_list_by_its_issuers(|_: &Signers| TestCa::root("stranger").revocation_list(&[], soon()), false)]
#[case::the_peer_by_a_namesake_of_its_signer(
    |s: &Signers| TestCa::root("between").revocation_list(&[&s.client.chain[0]], soon()),
    false
)]
#[case::the_peer_by_its_signer_beside_a_namesake(
    |s: &Signers| TestCa::root("between").revocation_list(&[], soon())
        + &s.between.revocation_list(&[&s.client.chain[0]], soon()),
    true
)]
#[tokio::test]
async fn a_peer_is_refused_where_a_list_of_its_issuers_has_it(
    #[case] lists: fn(&Signers) -> String,
    #[case] refused: bool,
) {
    let signers = signers();
    let refusal = signers.refusal(&lists(&signers)).await;
    assert_eq!(refusal.is_some(), refused, "{refusal:?}");
    if let Some((error, alert)) = refusal {
        assert_eq!((error.reason, alert), (Reason::CertificateRevoked, AlertDescription::CertificateRevoked));
        assert!(error.detail.contains(CLIENT) && error.detail.contains("crl.pem"), "{error}");
    }
}

#[tokio::test]
async fn a_revoked_server_is_refused_before_it_sees_our_certificate() {
    let ca = TestCa::root("root");
    let server = ca.issue(SERVER);
    let lists = revoked(&ca.revocation_list(&[&server.chain[0]], soon()));
    let ours = credentials(&ca.issue(CLIENT), bundle(&ca)).with_revoked(lists, 2).unwrap();
    let (dialled, seen) = dial(&ours, peers::server(&ca, &server), &[id(SERVER)]).await;
    assert_eq!(dialled.unwrap_err().reason, Reason::CertificateRevoked);
    assert_eq!(alert_seen(seen), AlertDescription::CertificateRevoked);
}

#[tokio::test]
async fn lists_stay_with_the_credentials_when_the_bundle_changes() {
    let signers = signers();
    let ours = signers.ours(&signers.between.revocation_list(&[&signers.client.chain[0]], soon()));
    let ours = ours.with_bundles(ours.bundles().clone(), 3).unwrap();
    let client = peers::client(&signers.root, Some(&signers.client));
    assert_eq!(serve(client, &ours).await.0.unwrap_err().reason, Reason::CertificateRevoked);
}

#[test]
fn lists_are_taken_whole_or_not_at_all() {
    let list = TestCa::root("root").revocation_list(&[], soon());
    let read = |pem: &str| Revocations::read("crl.pem", pem.as_bytes()).map(|lists| lists.describe());
    assert_eq!(read(&(list.clone() + &list)).unwrap(), "2 revocation lists");
    assert!(read("").unwrap_err().contains("found none"));
    let broken = list.clone() + &list.replace("-----END", "-----EMD");
    assert!(read(&broken).unwrap_err().contains("crl.pem: revocation list 2"));
}
