//! Files of the mesh folder to a snapshot: at start, and again whenever they change. A fault leaves the last good
//! snapshot in force.
//!
//! The files are looked at often and read seldom: `signature` tells by their names and times whether they may have
//! changed. What they say counts once two reads agree; that it differs from what was applied before is told by its hash.

pub(crate) mod signature;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest::{self, SHA256};
use pillion_mesh::finding::{Finding, Severity};
use pillion_mesh::policy::Snapshot;
use pillion_mesh::yaml::YamlError;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::folder::{FolderError, Texts};
use crate::live::Publisher;
use crate::settings::Settings;
use crate::telemetry::Telemetry;
use signature::Signature;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// A look that takes long is followed by a rest so many times as long: thousands of files shall not keep a core busy.
const REST: u32 = 20;
/// The longest rest.
const MAX_INTERVAL: Duration = Duration::from_secs(5);
/// A change is taken once two reads this far apart agree: an editor may be in the middle of writing. Longer than the
/// tick of the kernel's clock: what is written after the second read has another time than what was written before the
/// first, so that [`Signature`] tells it.
const SETTLE: Duration = Duration::from_millis(100);
/// How often two reads are compared before the last is taken as it is.
const READS: usize = 10;

/// Why the resources cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReloadError {
    #[error("{0} (setting mesh)")]
    Folder(#[from] FolderError),
    #[error("the mesh folder was not read: the thread that was to read it has failed")]
    Thread,
    #[error(transparent)]
    Resource(#[from] YamlError),
}

/// What was applied last, by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Applied([u8; 32]);

/// Reads and resolves the mesh folder once.
///
/// # Errors
/// With file, line and cure; see [`ReloadError`].
pub(crate) fn load(settings: &Settings) -> Result<(Snapshot, Applied), ReloadError> {
    let texts = settings.mesh.as_deref().map_or_else(|| Ok(Texts::default()), read);
    let applied = Applied::of(&texts);
    Ok((build(&texts?, settings)?, applied))
}

/// Watches the mesh folder until stopped. `applied` is what is in force; the first look tells whether the files say
/// something else by now.
pub(crate) async fn run(
    settings: Arc<Settings>,
    mut applied: Applied,
    publisher: Publisher,
    telemetry: Arc<Telemetry>,
    stop: CancellationToken,
) {
    let Some(path) = settings.mesh.clone() else { return };
    let mut seen = None;
    loop {
        let started = Instant::now();
        let signature = aside(&path, Signature::of).await;
        let taken = started.elapsed();
        if signature.is_none() || signature != seen {
            let look = settled(&path).await;
            seen = look.signature;
            if look.applied != applied {
                applied = look.applied;
                apply(look.texts, &settings, &publisher, &telemetry).await;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep((taken * REST).clamp(INTERVAL, MAX_INTERVAL)) => {}
        }
    }
}

/// The files as they were read at one time.
#[derive(Debug)]
struct Look {
    /// Taken before the texts: what is written meanwhile makes the next one differ.
    signature: Option<Signature>,
    texts: Result<Texts, ReloadError>,
    applied: Applied,
}

/// Reads until two reads agree, a few times at most.
async fn settled(path: &Path) -> Look {
    let mut before = None;
    for _ in 0..READS {
        let look = look(path).await;
        let now = (look.signature.clone(), look.applied);
        if before.as_ref() == Some(&now) {
            return look;
        }
        before = Some(now);
        tokio::time::sleep(SETTLE).await;
    }
    look(path).await
}

async fn look(path: &Path) -> Look {
    let look = |path: &Path| {
        let signature = Signature::of(path);
        let texts = read(path);
        (signature, Applied::of(&texts), texts)
    };
    match aside(path, look).await {
        Some((signature, applied, texts)) => Look { signature: Some(signature), texts, applied },
        None => {
            let texts = Err(ReloadError::Thread);
            Look { signature: None, applied: Applied::of(&texts), texts }
        }
    }
}

/// Works on a thread that may wait for a slow disk; connections are served meanwhile. `None` is a panic there.
async fn aside<T: Send + 'static>(path: &Path, work: impl FnOnce(&Path) -> T + Send + 'static) -> Option<T> {
    let path = path.to_owned();
    spawn_blocking(move || work(&path)).await.ok()
}

/// Resolves and puts in force on a thread of its own: for thousands of resources it takes its time.
async fn apply(
    texts: Result<Texts, ReloadError>,
    settings: &Arc<Settings>,
    publisher: &Publisher,
    telemetry: &Arc<Telemetry>,
) {
    let (settings, publisher, telemetry) = (settings.clone(), publisher.clone(), telemetry.clone());
    let applied = spawn_blocking(move || match texts.and_then(|texts| build(&texts, &settings)) {
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
    });
    if let Err(fault) = applied.await {
        error!(%fault, "mesh resources changed and could not be applied; the last good ones stay in force");
    }
}

impl Applied {
    fn of(texts: &Result<Texts, ReloadError>) -> Self {
        let mut hash = digest::Context::new(&SHA256);
        let mut part = |bytes: &[u8]| {
            hash.update(&bytes.len().to_le_bytes());
            hash.update(bytes);
        };
        match texts {
            Ok(Texts { files, skipped }) => {
                for (path, text) in files {
                    part(path.as_os_str().as_encoded_bytes());
                    part(text.as_bytes());
                }
                part(b"skipped");
                skipped.iter().for_each(|path| part(path.as_os_str().as_encoded_bytes()));
            }
            Err(fault) => {
                part(b"fault");
                part(fault.to_string().as_bytes());
            }
        }
        let mut applied = Self([0; 32]);
        applied.0.iter_mut().zip(hash.finish().as_ref()).for_each(|(to, from)| *to = *from);
        applied
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

fn read(path: &Path) -> Result<Texts, ReloadError> {
    Ok(Texts::read(path)?)
}

#[cfg(test)]
mod tests;
