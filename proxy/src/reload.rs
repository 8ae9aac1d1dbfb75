//! Files of the mesh folder to a snapshot: at start, and again whenever they change. A fault leaves the last good
//! snapshot in force.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pillion_mesh::finding::{Finding, Severity};
use pillion_mesh::policy::Snapshot;
use pillion_mesh::resource::Resources;
use pillion_mesh::yaml::YamlError;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::live::Publisher;
use crate::settings::Settings;
use crate::telemetry::Telemetry;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_millis(500);
/// A change is taken once two reads this far apart agree: an editor may be in the middle of writing.
const SETTLE: Duration = Duration::from_millis(100);
/// Files beyond this many bytes together are refused.
const MAX_BYTES: u64 = 64 << 20;

/// What the mesh folder holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Texts {
    /// The texts of all resource files, by name.
    files: BTreeMap<PathBuf, String>,
    /// Other files, which are not read.
    skipped: Vec<PathBuf>,
}

/// Why the resources cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReloadError {
    #[error("{}: {fault}; expected a readable file or folder of YAML resources (setting mesh)", path.display())]
    Unreadable { path: PathBuf, fault: String },
    #[error("{}: more than {MAX_BYTES} bytes of resources", path.display())]
    TooLarge { path: PathBuf },
    #[error(transparent)]
    Resource(#[from] YamlError),
}

/// Reads and resolves the mesh folder once.
///
/// # Errors
/// With file, line and cure; see [`ReloadError`].
pub(crate) fn load(settings: &Settings) -> Result<Snapshot, ReloadError> {
    build(&read(settings.mesh.as_deref())?, settings)
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
    let read = tokio::task::spawn_blocking(move || read(Some(&path)));
    read.await.unwrap_or_else(|fault| {
        Err(ReloadError::Unreadable { path: PathBuf::new(), fault: fault.to_string() })
    })
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
    let mut resources = Resources::default();
    for (path, text) in &texts.files {
        resources.read(&path.display().to_string(), text)?;
    }
    resources.skipped = texts.skipped.iter().map(|path| path.display().to_string()).collect();
    Ok(Snapshot::build(&resources, &settings.workload, &settings.mesh_config))
}

/// All `.yaml`, `.yml` and `.json` files of a folder, without subfolders and hidden names; or one file.
fn read(path: Option<&Path>) -> Result<Texts, ReloadError> {
    let Some(path) = path else { return Ok(Texts::default()) };
    let unreadable = |path: &Path, fault: &io::Error| ReloadError::Unreadable {
        path: path.into(),
        fault: fault.to_string(),
    };
    let (files, skipped) = match fs::metadata(path) {
        Ok(found) if found.is_dir() => files_of(path).map_err(|fault| unreadable(path, &fault))?,
        Ok(_) => (vec![path.to_owned()], Vec::new()),
        Err(fault) => return Err(unreadable(path, &fault)),
    };
    let mut left = MAX_BYTES;
    let mut texts = Texts { skipped, ..Texts::default() };
    for file in files {
        let text = read_text(&file, left).map_err(|fault| unreadable(&file, &fault))?;
        let size = text.len() as u64;
        left = left.checked_sub(size).ok_or_else(|| ReloadError::TooLarge { path: path.into() })?;
        texts.files.insert(file, text);
    }
    Ok(texts)
}

/// At most one byte more than `limit`. A pipe or a device would be waited for, or never end.
fn read_text(file: &Path, limit: u64) -> io::Result<String> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    fs::File::open(file)?.take(limit.saturating_add(1)).read_to_string(&mut text)?;
    Ok(text)
}

/// The resource files of a folder, and the others; neither hidden ones nor subfolders.
fn files_of(folder: &Path) -> io::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut others) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| {
            let name = name.to_string_lossy();
            name.starts_with('.') || name.ends_with('~') // an editor's copy
        });
        let known = path.extension().is_some_and(|extension| {
            ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
        });
        if hidden || path.is_dir() {
            continue;
        }
        if known { files.push(path) } else { others.push(path) }
    }
    others.sort();
    Ok((files, others))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: STRICT}}\n";

    #[test]
    fn a_folder_is_read_without_hidden_files_subfolders_and_other_endings() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.YML", ".hidden.yaml", "b.yaml~", "notes.txt", "c.json"] {
            fs::write(folder.path().join(name), STRICT).unwrap();
        }
        fs::create_dir(folder.path().join("sub.yaml")).unwrap();
        let texts = read(Some(folder.path())).unwrap();
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(texts.files.keys().map(name).collect::<Vec<_>>(), ["a.YML", "b.yaml", "c.json"]);
        assert_eq!(texts.skipped.iter().map(name).collect::<Vec<_>>(), ["notes.txt"]);
    }

    #[test]
    fn a_missing_folder_is_a_fault_and_not_an_empty_mesh() {
        let fault = read(Some(Path::new("/nonexistent/mesh"))).unwrap_err();
        assert!(fault.to_string().contains("/nonexistent/mesh"), "{fault}");
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("endless.yaml")).unwrap();
        let fault = read(Some(folder.path())).unwrap_err();
        assert!(fault.to_string().contains("endless.yaml: it is no regular file"), "{fault}");
    }

    #[test]
    fn no_mesh_setting_means_no_policies() {
        assert_eq!(read(None).unwrap(), Texts::default());
    }
}
