//! Watching the file of revocation lists.

use std::fs;

use pillion_testkit::authority::after;
use pillion_testkit::{Paths, TestCa};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::DropGuard;

use super::*;

/// Long enough for any change to be seen and, if it is bad, reported.
const SETTLE: Duration = Duration::from_secs(5);

struct Watching {
    root: TestCa,
    identity: Identity,
    folder: TempDir,
    _stop: DropGuard,
}

/// An identity of files, and peers judged by `crl.pem`, which is not there yet.
fn watching() -> Watching {
    let (root, folder) = (TestCa::root("root"), TempDir::new().unwrap());
    let Paths { certificate, key, bundle } = root.issue(ID).write(folder.path(), &root.bundle_pem());
    let cancel = CancellationToken::new();
    let identity = spawn(
        id().into(),
        Source::Files(FileSource { certificate, key, bundle }),
        Some(folder.path().join("crl.pem")),
        TlsSettings::default(),
        virtual_clock(),
        None,
        cancel.clone(),
    );
    Watching { root, identity, folder, _stop: cancel.drop_guard() }
}

impl Watching {
    fn write(&self, text: &str) {
        fs::write(self.folder.path().join("crl.pem"), text).unwrap();
    }

    fn list(&self, revoked: &[&CertificateDer<'_>]) -> String {
        self.root.revocation_list(revoked, after(Duration::from_secs(3600)))
    }

    /// The lists of the credentials in use.
    fn in_force(&self) -> Option<String> {
        let current = self.identity.credentials.borrow().clone()?;
        current.revoked().0.as_ref().map(|lists| lists.describe())
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_judged_before_there_are_lists() {
    let watching = watching();
    sleep(SETTLE).await;
    assert!(watching.identity.credentials.borrow().is_none(), "there were credentials without lists");
    let status = watching.identity.status();
    assert!(status.fault().is_some_and(|fault| fault.contains("crl.pem")), "{status:?}");
    watching.write(&watching.list(&[]));
    credentials_until(&watching.identity, 1).await;
    assert_eq!(watching.in_force().as_deref(), Some("1 revocation list"));
    assert_eq!(watching.identity.status().fault(), None);
}

#[tokio::test(start_paused = true)]
async fn a_new_list_comes_into_force_and_a_broken_one_does_not() {
    let watching = watching();
    watching.write(&watching.list(&[]));
    let first = credentials_until(&watching.identity, 1).await;
    watching.write(&(watching.list(&[]) + &watching.list(&[])));
    let second = credentials_until(&watching.identity, 2).await;
    assert_eq!(watching.in_force().as_deref(), Some("2 revocation lists"));
    assert_eq!(first.svid, second.svid);
    watching.write("-----BEGIN X509 CRL-----\nnonsense");
    sleep(SETTLE).await;
    assert_eq!(watching.in_force().as_deref(), Some("2 revocation lists"));
    assert!(watching.identity.status().lists_error.is_some());
    fs::remove_file(watching.folder.path().join("crl.pem")).unwrap();
    sleep(SETTLE).await;
    assert_eq!(watching.in_force().as_deref(), Some("2 revocation lists"));
}

#[tokio::test(start_paused = true)]
async fn renewed_credentials_are_judged_by_the_lists_in_force() {
    let watching = watching();
    watching.write(&watching.list(&[]));
    credentials_until(&watching.identity, 1).await;
    let _paths = watching.root.issue(ID).write(watching.folder.path(), &watching.root.bundle_pem());
    credentials_until(&watching.identity, 2).await;
    assert_eq!(watching.in_force().as_deref(), Some("1 revocation list"));
}
