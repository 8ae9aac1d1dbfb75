//! Watching files.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use pillion_testkit::authority::{after, before, valid_between};
use pillion_testkit::{Held, Paths, TestCa};
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::DropGuard;

use super::*;
use crate::identity::files::Watched;

const HOUR: Duration = Duration::from_secs(3600);
/// Long enough for any change to be seen and, if it is bad, reported.
const SETTLE: Duration = Duration::from_secs(5);

struct Folder {
    root: TestCa,
    identity: Identity,
    folder: TempDir,
    _stop: DropGuard,
}

fn watching(held: impl FnOnce(&TestCa) -> Held) -> Folder {
    let (root, folder) = (TestCa::root("root"), TempDir::new().unwrap());
    let Paths { certificate, key, bundle } = held(&root).write(folder.path(), &root.bundle_pem());
    let (publisher, identity) = Publisher::new();
    let source = FileSource { certificate, key, bundle };
    let watched = Watched::new(id().into(), source, TlsSettings::default(), virtual_clock(), publisher);
    let cancel = CancellationToken::new();
    tokio::spawn(cancel.clone().run_until_cancelled_owned(watched.run()));
    Folder { root, identity, folder, _stop: cancel.drop_guard() }
}

impl Folder {
    fn write(&self, held: &Held) {
        let _ = held.write(self.folder.path(), &self.root.bundle_pem());
    }

    fn serial(&self) -> Option<String> {
        self.identity.credentials.borrow().as_ref().map(|current| current.svid.serial.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn files_are_used_and_replaced_by_newer_ones() {
    let folder = watching(|root| root.issue(ID));
    let first = credentials_until(&folder.identity, 1).await;
    folder.write(&folder.root.issue(ID));
    let second = credentials_until(&folder.identity, 2).await;
    assert_ne!(first.svid.serial, second.svid.serial);
    sleep(SETTLE).await;
    let status = folder.identity.status();
    assert_eq!((status.succeeded, status.failed, status.next_attempt), (2, 0, None));
}

#[tokio::test(start_paused = true)]
async fn a_bundle_that_changes_alone_is_taken_too() {
    let folder = watching(|root| root.issue(ID));
    let first = credentials_until(&folder.identity, 1).await;
    let both = folder.root.bundle_pem() + &TestCa::root("next").bundle_pem();
    fs::write(folder.folder.path().join("bundle.pem"), both).unwrap();
    let second = credentials_until(&folder.identity, 2).await;
    assert_eq!(first.svid, second.svid);
    assert_eq!(second.bundles().roots(&trust_domain()).map(<[_]>::len), Some(2));
}

#[tokio::test(start_paused = true)]
async fn files_that_do_not_fit_each_other_for_a_moment_are_not_reported() {
    let folder = watching(|root| root.issue(ID));
    let first = credentials_until(&folder.identity, 1).await;
    let next = folder.root.issue(ID);
    fs::write(folder.folder.path().join("svid.key"), next.key_pem()).unwrap();
    sleep(Duration::from_millis(1100)).await;
    assert_eq!(folder.serial(), Some(first.svid.serial.clone()));
    folder.write(&next);
    credentials_until(&folder.identity, 2).await;
    assert_eq!(folder.identity.status().failed, 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_good_files_stay_and_a_fault_is_reported_once() {
    let folder = watching(|root| root.issue(ID));
    let first = credentials_until(&folder.identity, 1).await;
    fs::write(folder.folder.path().join("svid.key"), folder.root.issue(ID).key_pem()).unwrap();
    sleep(SETTLE).await;
    let status = folder.identity.status();
    assert_eq!(status.failed, 1);
    assert!(status.last_error.unwrap().contains("the private key is not the one"));
    assert_eq!(folder.serial(), Some(first.svid.serial.clone()));
    folder.write(&folder.root.issue(ID));
    credentials_until(&folder.identity, 2).await;
    assert_eq!(folder.identity.status().last_error, None);
}

#[tokio::test(start_paused = true)]
async fn files_that_vanish_and_return_unchanged_are_reported_and_forgiven() {
    let folder = watching(|root| root.issue(ID));
    credentials_until(&folder.identity, 1).await;
    let path = folder.folder.path().join("bundle.pem");
    let bundle = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    sleep(SETTLE).await;
    assert!(folder.identity.status().last_error.unwrap().contains("bundle.pem: No such file"));
    fs::write(&path, bundle).unwrap();
    sleep(SETTLE).await;
    let status = folder.identity.status();
    assert_eq!((status.succeeded, status.failed, status.last_error), (1, 1, None));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_another_workload_is_refused_and_both_are_named() {
    let folder = watching(|root| root.issue("spiffe://cluster.local/ns/default/sa/mallory"));
    let error = status_until(&folder.identity, |status| status.failed == 1).await.last_error.unwrap();
    assert!(error.contains(ID) && error.contains("sa/mallory") && error.contains("svid.pem"), "{error}");
    assert_eq!(folder.serial(), None);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_its_own_bundle_does_not_vouch_for_is_refused() {
    let folder = watching(|_root| TestCa::root("other").issue(ID));
    let error = status_until(&folder.identity, |status| status.failed == 1).await.last_error.unwrap();
    assert!(error.contains("does not verify by its own bundle"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_refused_with_both_clocks() {
    let folder =
        watching(|root| root.issue_with(ID, |params| valid_between(params, before(2 * HOUR), before(HOUR))));
    let error = status_until(&folder.identity, |status| status.failed == 1).await.last_error.unwrap();
    assert!(error.contains("is valid from") && error.contains("our clock says"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_from_the_future_is_used_when_its_time_has_come() {
    let folder =
        watching(|root| root.issue_with(ID, |params| valid_between(params, after(HOUR), after(3 * HOUR))));
    status_until(&folder.identity, |status| status.failed == 1).await;
    sleep(HOUR).await;
    credentials_until(&folder.identity, 1).await;
    assert_eq!(folder.identity.status().failed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_file_without_an_end_is_refused() {
    let folder = watching(|root| root.issue(ID));
    credentials_until(&folder.identity, 1).await;
    fs::write(folder.folder.path().join("bundle.pem"), vec![b'x'; 2 * 1024 * 1024]).unwrap();
    let error = status_until(&folder.identity, |status| status.failed == 1).await.last_error.unwrap();
    assert!(error.contains("longer than 1048576 bytes"), "{error}");
}

#[test]
fn the_test_kit_writes_keys_for_their_owner_only() {
    let folder = TempDir::new().unwrap();
    let paths = TestCa::root("root").issue(ID).write(folder.path(), "");
    assert_eq!(fs::metadata(paths.key).unwrap().permissions().mode() & 0o777, 0o600);
}
