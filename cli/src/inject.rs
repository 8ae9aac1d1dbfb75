//! `pillion inject`: a compose file or Kubernetes manifests with a sidecar for each workload.
//!
//! Which text comes of which is `mesh::inject`'s; here are the files.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use pillion_mesh::inject::{self, Injected, WRITTEN, Wishes};
use pillion_mesh::spiffe::TrustDomain;

use crate::source::Fault;

/// Bytes of a file that is read; more is refused.
const MAX_FILE: u64 = 16 << 20;

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The compose file or manifests; - for stdin
    #[arg(short, long, value_name = "FILE")]
    filename: PathBuf,
    /// Where the result goes; it may be the same file [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Folder for what the result needs beside it (the settings of CA and sidecars, the mesh folder), as seen from the result
    /// [default: pillion for a compose file; nothing is written for manifests]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Take sidecars out again
    #[arg(long)]
    remove: bool,
    /// Kubernetes: the sidecar as a container like others, for clusters before 1.29, in place of an init container that goes on
    #[arg(long)]
    plain_sidecar: bool,
    /// Trust domain of all identities
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// Namespace of compose services, and of manifests that name none
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// Kubernetes: where the CA answers
    #[arg(long, value_name = "URL", default_value = "https://pillion-ca.pillion-system.svc:15012")]
    ca_address: String,
    /// Image of the sidecar
    #[arg(long, value_name = "IMAGE", default_value = "pillion-proxy")]
    proxy_image: String,
    /// Image of the rules
    #[arg(long, value_name = "IMAGE", default_value = "pillion-init")]
    init_image: String,
    /// Image of the CA
    #[arg(long, value_name = "IMAGE", default_value = "pillion-ca")]
    ca_image: String,
}

/// Exit codes: 0 written, 1 a file cannot be written, 2 wrong arguments, or a file that cannot be given sidecars.
pub(crate) fn run(options: &Options) -> ExitCode {
    match injected(options).and_then(|injected| deliver(options, &injected)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => fault.tell("pillion inject"),
    }
}

fn injected(options: &Options) -> Result<Injected, Fault> {
    let Options { filename, trust_domain, namespace, ca_address, .. } = options;
    let (name, text) = read(filename)?;
    let wishes = Wishes {
        proxy_image: options.proxy_image.clone(),
        init_image: options.init_image.clone(),
        ca_image: options.ca_image.clone(),
        trust_domain: trust_domain.clone(),
        namespace: namespace.clone(),
        folder: in_compose(options.out.as_deref().unwrap_or(Path::new(FOLDER)))?,
        ca_address: ca_address.clone(),
        native: !options.plain_sidecar,
        remove: options.remove,
    };
    inject::inject(&name, &text, &wishes).map_err(Fault::usage)
}

/// The folder that is written where none is named.
const FOLDER: &str = "pillion";

/// The name of the file, and its text.
fn read(file: &Path) -> Result<(String, String), Fault> {
    let is_stdin = file == Path::new("-");
    let name = if is_stdin { "stdin".to_owned() } else { file.display().to_string() };
    let mut text = String::new();
    let read = match is_stdin {
        true => io::stdin().take(MAX_FILE + 1).read_to_string(&mut text),
        false => File::open(file).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text)),
    };
    read.map_err(|error| Fault::usage(format!("{name}: {error}")))?;
    if text.len() as u64 > MAX_FILE {
        return Err(Fault::usage(format!("{name}: expected at most {MAX_FILE} bytes")));
    }
    Ok((name, text))
}

/// A folder as a compose file names it: what does not begin with `.` or `/` would be a volume.
fn in_compose(folder: &Path) -> Result<String, Fault> {
    let text = folder.to_str().filter(|text| !text.contains([':', '$', '\n']));
    let text =
        text.ok_or_else(|| Fault::usage("--out: expected a folder whose name has no `:` and no `$`"))?;
    let is_path = text.starts_with(['/', '.']);
    Ok(if is_path { text.to_owned() } else { format!("./{text}") })
}

/// Writes the files and then the result, and tells the notes.
fn deliver(options: &Options, injected: &Injected) -> Result<(), Fault> {
    let folder = match &options.out {
        Some(folder) => Some(folder.as_path()),
        None => injected.needs_files.then_some(Path::new(FOLDER)),
    };
    if let Some(folder) = folder.filter(|_| !injected.files.is_empty()) {
        let folder = beside(options.output.as_deref()).join(folder);
        write_files(&folder, &injected.files)?;
        eprintln!("pillion inject: wrote {} files to {}", injected.files.len(), folder.display());
    }
    for note in injected.notes.iter().cloned().chain(moved(options, injected)) {
        eprintln!("pillion inject: note: {note}");
    }
    match &options.output {
        Some(file) => write(file, &injected.text),
        // A reader that has seen enough may have closed the pipe.
        None => {
            let _ = io::stdout().write_all(injected.text.as_bytes());
            Ok(())
        }
    }
}

/// A compose file in another folder than before looks for what it names there.
fn moved(options: &Options, injected: &Injected) -> Option<String> {
    let Options { filename, output, .. } = options;
    let place = |file: &Path| fs::canonicalize(beside(Some(file))).ok();
    let to = output.as_deref().and_then(place)?;
    let is_elsewhere = injected.needs_files && filename != Path::new("-") && place(filename) != Some(to);
    is_elsewhere.then(|| {
        let from = beside(Some(filename)).display();
        format!(
            "paths in {} begin at its folder, and the result is in another: write it beside, or give docker compose \
             --project-directory {from} and an absolute --out",
            filename.display()
        )
    })
}

/// The folder that paths in the result begin at.
fn beside(output: Option<&Path>) -> &Path {
    output.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes none if one that is there is not ours. Settings of sidecars that are gone go too.
fn write_files(folder: &Path, files: &[(String, String)]) -> Result<(), Fault> {
    for (name, _) in files {
        let path = folder.join(name);
        if path.exists() && !is_ours(&path) {
            return Err(Fault::usage(format!(
                "{}: is there, and was not written by `pillion inject`; move it, or name another folder by --out",
                path.display()
            )));
        }
    }
    for (name, text) in files {
        write(&folder.join(name), text)?;
    }
    for entry in fs::read_dir(folder.join("sidecars")).into_iter().flatten().flatten() {
        let path = entry.path();
        if !files.iter().any(|(name, _)| folder.join(name) == path) && is_ours(&path) {
            fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
        }
    }
    Ok(())
}

fn is_ours(path: &Path) -> bool {
    let mut begin = Vec::new();
    let read = File::open(path).and_then(|file| file.take(WRITTEN.len() as u64).read_to_end(&mut begin));
    read.is_ok() && begin == WRITTEN.as_bytes()
}

/// Appears whole, for everybody to read: sidecars watch the mesh folder, and run as a user of their own.
fn write(path: &Path, text: &str) -> Result<(), Fault> {
    let folder = beside(Some(path));
    let whole = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        let mode = fs::metadata(path).map_or(0o644, |there| there.permissions().mode());
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.persist(path)?;
        Ok(())
    };
    whole().map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &io::Error) -> Fault {
    Fault::Unwritten(format!("{}: {error}; name a place that can be written to", path.display()))
}
