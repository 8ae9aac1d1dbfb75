use std::fs;
use std::os::unix::fs::symlink;

use tokio::time::{sleep, timeout};

use super::*;
use crate::settings::RawSettings;

const PATIENCE: Duration = Duration::from_secs(20);

/// A mesh folder, or file, that is watched.
struct Watched {
    publisher: Publisher,
    stop: CancellationToken,
}

impl Watched {
    fn start(mesh: &Path) -> Self {
        let text = format!(
            "workload: {{serviceAccount: a}}\nidentity: {{files: {{certificate: c, key: k, bundle: b}}}}\nmesh: {}\ninbound: {{capture: \"127.0.0.1:0\"}}\n",
            mesh.display()
        );
        let raw: RawSettings = pillion_mesh::yaml::read("settings.yaml", &text).unwrap();
        let settings = Arc::new(Settings::try_from(raw).unwrap());
        let (snapshot, applied) = load(&settings).unwrap();
        let telemetry = Arc::new(Telemetry::new(&settings.workload));
        let (publisher, _live) = Publisher::new(snapshot, SystemTime::now());
        let stop = CancellationToken::new();
        tokio::spawn(run(settings, applied, publisher.clone(), telemetry, stop.clone()));
        Self { publisher, stop }
    }

    fn because(&self) -> String {
        self.publisher.current().snapshot.modes.for_other_ports().because.clone()
    }

    /// Waits until the policy of this name is in force, or none.
    async fn in_force(&self, name: Option<&str>) {
        let waited = timeout(PATIENCE, async {
            let expected = name.map(|name| format!("PeerAuthentication default/{name} (namespace)"));
            while expected.as_ref().is_some_and(|expected| self.because() != *expected)
                || expected.is_none() && self.because().starts_with("PeerAuthentication")
            {
                sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(waited.await.is_ok(), "{name:?} is not in force, but {}", self.because());
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn policy(name: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}}}\nspec: {{mtls: {{mode: STRICT}}}}\n"
    )
}

#[tokio::test]
async fn what_is_written_added_and_removed_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let watched = Watched::start(folder.path());
    fs::write(&file, policy("one")).unwrap();
    watched.in_force(Some("one")).await;
    fs::write(&file, policy("two")).unwrap();
    watched.in_force(Some("two")).await;
    fs::remove_file(&file).unwrap();
    watched.in_force(None).await;
}

/// As Kubernetes updates a ConfigMap, and as a single file is watched.
#[tokio::test]
async fn a_link_swapped_is_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for version in ["one", "two"] {
        fs::create_dir(at(&format!("..{version}"))).unwrap();
        fs::write(at(&format!("..{version}")).join("a.yaml"), policy(version)).unwrap();
    }
    symlink("..one", at("..data")).unwrap();
    symlink("..data/a.yaml", at("a.yaml")).unwrap();
    let (in_folder, alone) = (Watched::start(folder.path()), Watched::start(&at("a.yaml")));
    symlink("..two", at("..new")).unwrap();
    fs::rename(at("..new"), at("..data")).unwrap();
    in_folder.in_force(Some("two")).await;
    alone.in_force(Some("two")).await;
}

/// The kernel's clock does not tell two writes of one tick apart, and their lengths are equal.
#[tokio::test]
async fn of_writes_at_once_the_last_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let watched = Watched::start(folder.path());
    for round in 10..20 {
        let names = ["x", "y", "z"].map(|name| format!("{name}{round}"));
        for name in &names {
            fs::write(&file, policy(name)).unwrap();
        }
        watched.in_force(Some(&names[2])).await;
    }
}

#[tokio::test]
async fn a_file_written_anew_with_the_same_text_is_no_change() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, policy("one")).unwrap();
    let watched = Watched::start(folder.path());
    fs::write(&file, policy("one")).unwrap();
    sleep(INTERVAL + 2 * SETTLE).await;
    fs::write(&file, policy("two")).unwrap();
    watched.in_force(Some("two")).await;
    assert_eq!(watched.publisher.current().version, 2);
}

#[tokio::test]
async fn a_fault_leaves_the_last_good_policy_and_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, policy("one")).unwrap();
    let watched = Watched::start(folder.path());
    let mut live = watched.publisher.subscribe();
    fs::write(&file, policy("one").replace("STRICT", "STRCT")).unwrap();
    timeout(PATIENCE, live.wait_for(|published| published.last_error.is_some())).await.unwrap().unwrap();
    watched.in_force(Some("one")).await;
    fs::write(&file, policy("two")).unwrap();
    watched.in_force(Some("two")).await;
    assert_eq!(watched.publisher.current().last_error, None);
}

/// A write in the middle of looking, which an editor makes in two, is waited for.
#[tokio::test(start_paused = true)]
async fn what_is_still_being_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, "").unwrap();
    let writing = async {
        sleep(SETTLE / 2).await;
        fs::write(&file, policy("whole")).unwrap();
    };
    let (look, ()) = tokio::join!(settled(folder.path()), writing);
    assert_eq!(look.texts.unwrap().files[&file], policy("whole"));
}
