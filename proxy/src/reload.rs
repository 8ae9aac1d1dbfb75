//! Files of the mesh folder to a snapshot: at start, and again whenever they change. A fault leaves the last good
//! snapshot in force.

use std::path::Path;
use std::time::{Duration, SystemTime};

use pillion_mesh::finding::{Finding, Severity};
use pillion_mesh::policy::Snapshot;
use pillion_mesh::yaml::YamlError;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::folder::{FolderError, Texts};
use crate::live::Publisher;
use crate::settings::Settings;
use crate::telemetry::Telemetry;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_millis(500);
/// A change is taken once two reads this far apart agree: an editor may be in the middle of writing.
const SETTLE: Duration = Duration::from_millis(100);
/// Why the resources cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReloadError {
    #[error("{0} (setting mesh)")]
    Folder(#[from] FolderError),
    #[error("the mesh folder was not read: {0}")]
    Thread(String),
    #[error(transparent)]
    Resource(#[from] YamlError),
}

/// Reads and resolves the mesh folder once.
///
/// # Errors
/// With file, line and cure; see [`ReloadError`].
pub(crate) fn load(settings: &Settings) -> Result<Snapshot, ReloadError> {
    let texts = settings.mesh.as_deref().map(Texts::read).transpose()?;
    build(&texts.unwrap_or_default(), settings)
}

/// Watches the mesh folder until stopped. The first look applies what it finds, so that no change between the start's
/// load and it is missed.
pub(crate) async fn run(
    settings: &Settings,
    publisher: &Publisher,
    telemetry: &Telemetry,
    stop: CancellationToken,
) {
    let Some(path) = settings.mesh.as_deref() else { return };
    let mut seen: Option<Result<Texts, ReloadError>> = None;
    loop {
        let now = settled(path).await;
        if seen.as_ref() != Some(&now) {
            let first = seen.is_none();
            apply(&now, first, settings, publisher, telemetry);
            seen = Some(now);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Reads until two reads agree, a few times at most.
async fn settled(path: &Path) -> Result<Texts, ReloadError> {
    let mut last = read_aside(path).await;
    for _ in 0..10 {
        tokio::time::sleep(SETTLE).await;
        let now = read_aside(path).await;
        if now == last {
            break;
        }
        last = now;
    }
    last
}

/// Reads on a thread that may wait for a slow disk; connections are served meanwhile.
async fn read_aside(path: &Path) -> Result<Texts, ReloadError> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || Texts::read(&path));
    Ok(read.await.map_err(|fault| ReloadError::Thread(fault.to_string()))??)
}

fn apply(
    texts: &Result<Texts, ReloadError>,
    first: bool,
    settings: &Settings,
    publisher: &Publisher,
    telemetry: &Telemetry,
) {
    match texts.clone().and_then(|texts| build(&texts, settings)) {
        // The first look finds what the start has loaded, as a rule; it is applied all the same, silently.
        Ok(snapshot) if first => publisher.policy(&snapshot, SystemTime::now()),
        Ok(snapshot) => {
            publisher.policy(&snapshot, SystemTime::now());
            telemetry.policy_reloaded(true);
            info!(version = publisher.current().version, "mesh resources changed and are in force");
            report_findings(&snapshot);
        }
        Err(fault) => {
            telemetry.policy_reloaded(false);
            error!(%fault, "mesh resources changed and cannot be used; the last good ones stay in force");
            publisher.failed(fault.to_string());
        }
    }
}

/// Logs what is legal but probably not meant.
pub(crate) fn report_findings(snapshot: &Snapshot) {
    for finding in &snapshot.findings {
        let Finding { code, place, .. } = finding;
        if finding.severity == Severity::Info {
            info!(%code, %place, "{finding}");
        } else {
            warn!(%code, %place, "{finding}");
        }
    }
}

fn build(texts: &Texts, settings: &Settings) -> Result<Snapshot, ReloadError> {
    Ok(Snapshot::build(&texts.resources()?, &settings.workload, &settings.mesh_config))
}
