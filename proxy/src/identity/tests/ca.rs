//! Obtaining and renewing from a CA.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use pillion_mesh::time_scale::TimeScale;
use pillion_testkit::TestCa;
use rstest::rstest;
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::DropGuard;

use super::fake_ca::{Behaviour, FakeCa, TOKEN};
use super::*;
use crate::identity::rotate::Rotation;

const HOUR: Duration = Duration::from_secs(3600);

/// A proxy's identity with its CA and its files. Stops when dropped.
struct Mesh {
    ca: Arc<FakeCa>,
    identity: Identity,
    clock: Clock,
    folder: TempDir,
    _stop: DropGuard,
}

/// A CA that behaves like this from the start, whose certificates last an hour.
fn mesh(behaviour: Behaviour) -> Mesh {
    mesh_with(behaviour, KeyType::EcdsaP256, |_folder| {})
}

fn mesh_with(behaviour: Behaviour, key_type: KeyType, prepare: impl FnOnce(&TempDir)) -> Mesh {
    mesh_by(virtual_clock(), behaviour, key_type, prepare)
}

/// A mesh whose hour passes in half a minute.
fn hurried_mesh(behaviour: Behaviour) -> Mesh {
    let scale = TimeScale::new(SystemTime::now(), 120).unwrap();
    mesh_by(virtual_clock().hurried(scale), behaviour, KeyType::EcdsaP256, |_folder| {})
}

fn mesh_by(clock: Clock, behaviour: Behaviour, key_type: KeyType, prepare: impl FnOnce(&TempDir)) -> Mesh {
    let ca = FakeCa::new(clock.clone(), HOUR);
    mesh_of(ca, clock, behaviour, key_type, prepare)
}

fn mesh_of(
    ca: Arc<FakeCa>,
    clock: Clock,
    behaviour: Behaviour,
    key_type: KeyType,
    prepare: impl FnOnce(&TempDir),
) -> Mesh {
    ca.behave(behaviour);
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
    fs::write(folder.path().join("bundle.pem"), ca.root().bundle_pem()).unwrap();
    prepare(&folder);
    let source = CaSource {
        host: "ca".to_owned(),
        port: 15012,
        token_file: folder.path().join("token"),
        bundle_file: folder.path().join("bundle.pem"),
        key_type,
        ttl: HOUR,
    };
    let (publisher, identity) = Publisher::new();
    let rotation =
        Rotation::new(id().into(), source, ca.dial(), TlsSettings::default(), clock.clone(), publisher);
    let cancel = CancellationToken::new();
    tokio::spawn(cancel.clone().run_until_cancelled_owned(rotation.run()));
    Mesh { ca, identity, clock, folder, _stop: cancel.drop_guard() }
}

impl Mesh {
    fn is_valid(&self) -> bool {
        self.identity
            .credentials
            .borrow()
            .as_ref()
            .is_some_and(|current| current.is_valid_at(self.clock.now()))
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_certificate_comes_for_the_token() {
    let mesh = mesh(Behaviour::Good);
    let credentials = credentials_until(&mesh.identity, 1).await;
    assert_eq!(credentials.svid.id, id());
    assert!(mesh.is_valid());
    let seen = mesh.ca.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].token.as_deref(), &seen[0].shown), (Some(TOKEN), &None));
    assert_eq!(seen[0].query.as_deref(), Some("ttl=3600s"));
    let status = status_until(&mesh.identity, |status| status.next_attempt.is_some()).await;
    assert_eq!((status.succeeded, status.failed, status.last_error), (1, 0, None));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_at_half_its_life_by_itself_and_with_a_new_key() {
    let mesh = mesh(Behaviour::Good);
    let first = credentials_until(&mesh.identity, 1).await;
    let begin = mesh.clock.now();
    let second = credentials_until(&mesh.identity, 2).await;
    let after = mesh.clock.now().duration_since(begin).unwrap();
    assert!((HOUR.mul_f64(0.44)..HOUR.mul_f64(0.56)).contains(&after), "renewed after {after:?}");
    assert_ne!(first.svid.serial, second.svid.serial);
    let seen = mesh.ca.seen();
    assert_eq!(seen[1].token, None, "the token was sent again");
    assert_eq!(seen[1].shown.as_ref(), first.chain.first());
    assert_ne!(seen[0].key, seen[1].key, "the key was used again");
}

#[tokio::test(start_paused = true)]
async fn hurried_time_renews_at_half_the_hurried_life() {
    let mesh = hurried_mesh(Behaviour::Good);
    credentials_until(&mesh.identity, 1).await;
    let begin = Instant::now();
    credentials_until(&mesh.identity, 2).await;
    let after = begin.elapsed();
    assert!((Duration::from_secs(13)..Duration::from_secs(17)).contains(&after), "renewed after {after:?}");
}

/// The CA's clock stays right. A proxy whose clock is behind cannot verify the CA, and says so; when the clock is right
/// again it does not wait for the end of its back-off.
#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_back_and_right_again_costs_no_more_than_it_has_to() {
    let behind = Arc::new(AtomicU64::new(0));
    let (right, set) = (virtual_clock(), Arc::clone(&behind));
    let proxys = right.clone();
    let proxys = Clock::of(move || proxys.now() - Duration::from_secs(set.load(Ordering::Relaxed)));
    let ca = FakeCa::new(right, HOUR);
    let mesh = mesh_of(ca, proxys, Behaviour::Good, KeyType::EcdsaP256, |_folder| {});
    credentials_until(&mesh.identity, 1).await;
    sleep(HOUR / 4).await;
    behind.store(3_600, Ordering::Relaxed);
    sleep(HOUR / 2).await;
    let status = mesh.identity.status();
    assert!(status.failed > 3 && status.last_error.is_some(), "{status:?}");
    assert_eq!(mesh.ca.seen().len(), 1, "it got past a CA that is not valid by its clock");
    behind.store(0, Ordering::Relaxed);
    let begin = Instant::now();
    credentials_until(&mesh.identity, 2).await;
    assert!(begin.elapsed() < Duration::from_secs(61), "renewed after {:?}", begin.elapsed());
    assert!(mesh.is_valid());
}

/// What the network takes is not hurried.
#[tokio::test(start_paused = true)]
async fn hurried_time_asks_a_ca_that_is_down_no_more_often() {
    let (hurried, unhurried) = (hurried_mesh(Behaviour::Down), mesh(Behaviour::Down));
    sleep(Duration::from_secs(60)).await;
    let (hurried, dialled) = (hurried.ca.dialled(), unhurried.ca.dialled());
    assert!(hurried.abs_diff(dialled) <= 2, "{hurried} times, and {dialled} times in the world's time");
}

#[rstest]
#[case::by_an_answer(Behaviour::RefusesCertificate)]
#[case::by_an_alert(Behaviour::RefusesCertificateByAlert)]
#[tokio::test(start_paused = true)]
async fn a_certificate_that_the_ca_refuses_is_replaced_by_the_token(#[case] behaviour: Behaviour) {
    let mesh = mesh(behaviour);
    credentials_until(&mesh.identity, 1).await;
    credentials_until(&mesh.identity, 2).await;
    let seen = mesh.ca.seen();
    let last = seen.last().unwrap();
    assert_eq!((last.token.as_deref(), &last.shown), (Some(TOKEN), &None));
    assert_eq!(mesh.identity.status().failed, 0);
}

#[rstest]
#[case(Behaviour::Down, "ca:15012: it cannot be reached")]
#[case(Behaviour::Silent, "did not answer within 10 s")]
#[case(Behaviour::Garbage, "expected a PEM chain")]
#[case(Behaviour::Endless, "longer than 65536 bytes")]
#[case(
    Behaviour::WrongIdentity,
    "expected a certificate of spiffe://cluster.local/ns/default/sa/backend; it is one of spiffe://cluster.local/ns/default/sa/mallory"
)]
#[case(Behaviour::WrongKey, "the private key is not the one")]
#[case(Behaviour::NotYetValid, "compare both clocks")]
#[case(Behaviour::AlreadyExpired, "compare both clocks")]
#[case(Behaviour::OtherRoot, "does not verify by its own bundle")]
#[case(Behaviour::RefusesAll, "answered 401 Unauthorized: the evidence is not known here; its log says why")]
#[case(Behaviour::NoBundle, "its bundle: expected one or more PEM certificates")]
#[case(Behaviour::Impostor, "its server certificate was refused")]
#[case(Behaviour::OtherName, "or give it this one (its dnsNames)")]
#[case(Behaviour::ForgesLogLines, r"no\n2026-11-20 INFO all is well\u{1b}[2J")]
#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_used_is_named_and_asked_for_again(
    #[case] behaviour: Behaviour,
    #[case] text: &str,
) {
    let mesh = mesh(behaviour);
    let error = status_until(&mesh.identity, |status| status.failed == 2).await.last_error.unwrap();
    assert!(error.contains(text), "{error}");
    assert!(!error.contains(TOKEN) && !error.contains('\n'), "{error}");
    assert!(mesh.identity.credentials.borrow().is_none());
    mesh.ca.behave(Behaviour::Good);
    credentials_until(&mesh.identity, 1).await;
    assert_eq!(mesh.identity.status().last_error, None);
}

/// An impostor must not get the token.
#[rstest]
#[case(Behaviour::Impostor)]
#[case(Behaviour::OtherName)]
#[tokio::test(start_paused = true)]
async fn the_token_goes_to_no_server_but_the_ca(#[case] behaviour: Behaviour) {
    let mesh = mesh(behaviour);
    status_until(&mesh.identity, |status| status.failed == 3).await;
    assert!(mesh.ca.seen().is_empty());
    assert_eq!(mesh.ca.dialled(), 3);
}

#[tokio::test(start_paused = true)]
async fn while_the_ca_is_down_the_certificate_stays_and_attempts_back_off() {
    let mesh = mesh(Behaviour::Good);
    let first = credentials_until(&mesh.identity, 1).await;
    mesh.ca.behave(Behaviour::Down);
    sleep(HOUR * 9 / 10).await;
    let status = mesh.identity.status();
    assert!(mesh.is_valid() && status.failed >= 5, "{status:?}");
    assert_eq!(mesh.identity.credentials.borrow().as_ref().unwrap().svid, first.svid);
    assert!(status.failed < 30, "{} attempts in less than half an hour", status.failed);
    mesh.ca.behave(Behaviour::Good);
    let second = credentials_until(&mesh.identity, 2).await;
    assert!(mesh.is_valid());
    assert_eq!(mesh.ca.seen().last().unwrap().shown.as_ref(), first.chain.first());
    assert_ne!(first.svid.serial, second.svid.serial);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_longer_than_the_certificate_the_token_brings_a_new_one() {
    let mesh = mesh(Behaviour::Good);
    credentials_until(&mesh.identity, 1).await;
    mesh.ca.behave(Behaviour::Down);
    sleep(2 * HOUR).await;
    assert!(!mesh.is_valid());
    mesh.ca.behave(Behaviour::Good);
    credentials_until(&mesh.identity, 2).await;
    assert!(mesh.is_valid());
    assert_eq!(mesh.ca.failed_handshakes(), 0, "the expired certificate was shown before the token");
    let seen = mesh.ca.seen();
    assert_eq!((seen[1].token.as_deref(), &seen[1].shown), (Some(TOKEN), &None));
}

#[tokio::test(start_paused = true)]
async fn token_and_bundle_files_may_come_late_and_are_read_anew() {
    let mesh = mesh_with(Behaviour::Good, KeyType::EcdsaP256, |folder| {
        fs::remove_file(folder.path().join("bundle.pem")).unwrap();
        fs::write(folder.path().join("token"), "").unwrap();
    });
    let error = status_until(&mesh.identity, |status| status.failed == 2).await.last_error.unwrap();
    assert!(error.contains("the bundle file") && error.contains("the CA writes it"), "{error}");
    fs::write(mesh.folder.path().join("bundle.pem"), mesh.ca.root().bundle_pem()).unwrap();
    let error = status_until(&mesh.identity, |status| status.failed == 4).await.last_error.unwrap();
    assert!(error.contains("the token file") && error.contains("it is empty"), "{error}");
    fs::write(mesh.folder.path().join("token"), "an old token").unwrap();
    let error = status_until(&mesh.identity, |status| status.failed == 6).await.last_error.unwrap();
    assert!(error.contains("401"), "{error}");
    fs::write(mesh.folder.path().join("token"), TOKEN).unwrap();
    credentials_until(&mesh.identity, 1).await;
}

#[tokio::test(start_paused = true)]
async fn req_16_a_new_root_is_known_within_a_minute_without_a_renewal() {
    let mesh = mesh(Behaviour::Good);
    let first = credentials_until(&mesh.identity, 1).await;
    let next_root = TestCa::root("next root");
    mesh.ca.publish(mesh.ca.root().bundle_pem() + &next_root.bundle_pem());
    sleep(Duration::from_secs(61)).await;
    let second = credentials_until(&mesh.identity, 2).await;
    assert_eq!(first.svid, second.svid);
    assert_eq!(second.bundles().roots(&trust_domain()).map(<[_]>::len), Some(2));
    assert_eq!(mesh.ca.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_the_own_root_is_withdrawn_the_certificate_is_replaced_at_once() {
    let mesh = mesh(Behaviour::Good);
    credentials_until(&mesh.identity, 1).await;
    let next = TestCa::root("next root");
    // First both are published, then the new one signs, then the old one is gone.
    mesh.ca.publish(mesh.ca.root().bundle_pem() + &next.bundle_pem());
    credentials_until(&mesh.identity, 2).await;
    mesh.ca.publish(next.bundle_pem());
    mesh.ca.sign_with(next);
    let begin = mesh.clock.now();
    let last = credentials_until(&mesh.identity, 4).await;
    let after = mesh.clock.now().duration_since(begin).unwrap();
    assert!(after < Duration::from_secs(62), "replaced only after {after:?}");
    assert_eq!(mesh.ca.seen().len(), 2);
    assert!(last.check_own_chain().is_ok());
}

/// A root that was withdrawn is not believed again because a file still names it.
#[tokio::test(start_paused = true)]
async fn the_bundle_file_is_the_first_trust_only() {
    let mesh = mesh(Behaviour::Good);
    credentials_until(&mesh.identity, 1).await;
    let stranger = TestCa::root("stranger");
    fs::write(mesh.folder.path().join("bundle.pem"), stranger.bundle_pem()).unwrap();
    mesh.ca.sign_with(stranger);
    sleep(2 * HOUR).await;
    let error = mesh.identity.status().last_error.unwrap();
    assert!(error.contains("its server certificate was refused"), "{error}");
    assert_eq!(mesh.ca.seen().len(), 1);
}

#[rstest]
#[case(KeyType::EcdsaP256, "1.2.840.10045.3.1.7", 256)]
#[case(KeyType::EcdsaP384, "1.3.132.0.34", 384)]
#[case(KeyType::Ed25519, "", 0)]
#[case(KeyType::Rsa2048, "", 2048)]
#[case(KeyType::Rsa4096, "", 4096)]
#[tokio::test(start_paused = true)]
async fn every_key_type_is_made_and_certified(
    #[case] key_type: KeyType,
    #[case] curve: &str,
    #[case] bits: usize,
) {
    let mesh = mesh_with(Behaviour::Good, key_type, |_| {});
    let credentials = credentials_until(&mesh.identity, 1).await;
    let (seen_curve, seen_bits) = key_of(&credentials.chain[0]);
    assert_eq!((seen_curve.as_str(), seen_bits), (curve, bits));
}

/// The curve's OID and the size in bits, of the kinds that have them.
fn key_of(leaf: &CertificateDer<'_>) -> (String, usize) {
    use x509_parser::prelude::FromDer;
    let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(leaf).unwrap();
    let key = leaf.public_key();
    let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|oid| oid.to_string());
    match key.parsed().unwrap() {
        x509_parser::public_key::PublicKey::RSA(rsa) => (String::new(), rsa.key_size()),
        x509_parser::public_key::PublicKey::EC(point) => (curve.unwrap_or_default(), point.key_size()),
        _ => (curve.unwrap_or_default(), 0),
    }
}
