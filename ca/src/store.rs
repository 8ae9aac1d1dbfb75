//! The state folder: which process owns it, the signer's files, the token records.
//!
//! ```text
//! lock                          held by the process that serves
//! current/certificate.pem       the signer, made whole or not at all
//! current/key.pem
//! tokens/<16 hex digits>.json   one record for each token; see `attest::token`
//! ```
//!
//! A kill at any moment leaves either no signer, and then nothing was ever signed, or the signer that every later start
//! finds. A signer that is damaged or has gone stops the start: a new root would silently cut off every workload.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pillion_mesh::spiffe::TrustDomain;
use zeroize::Zeroizing;

use crate::attest::token::TokenStore;
use crate::files::{self, FileError, PRIVATE_FILE, PRIVATE_FOLDER};
use crate::slots::{self, Signer, SignerError, SignerSummary};

const LOCK: &str = "lock";
const CURRENT: &str = "current";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
const TOKENS: &str = "tokens";

/// A state folder that cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} is in use by another pillion-ca; give each its own state folder")]
    InUse { path: PathBuf },
    #[error(
        "{path} may be entered by others (mode {mode:04o}) and is not empty; if it is this CA's state, run: chmod 700 {path}"
    )]
    OpenFolder { path: PathBuf, mode: u32 },
    #[error("{path} may be read by others (mode {mode:04o}); if nobody did, run: chmod 600 {path}")]
    OpenKey { path: PathBuf, mode: u32 },
    #[error(
        "{path} is missing, though this CA has served before; restore it from a backup, or delete the whole state folder to start anew with another root, which every workload must then learn"
    )]
    Missing { path: PathBuf },
    #[error("{path}: {source}; restore it from a backup")]
    Damaged { path: PathBuf, source: SignerError },
    #[error("{path}: {source}; write trustDomain as it was, or give this CA a state folder of its own")]
    Foreign { path: PathBuf, source: SignerError },
    #[error("{path} holds no root; start `pillion-ca serve` with this state folder first")]
    NeverServed { path: PathBuf },
    #[error("cannot make a root: {0}")]
    Making(rcgen::Error),
}

/// The state folder of a serving CA. No second process can hold it at the same time.
pub(crate) struct State {
    folder: PathBuf,
    /// The kernel lets go of the lock when the process ends, however it ends.
    _lock: File,
}

impl State {
    /// Takes the folder for this process, and makes it where it is absent.
    pub(crate) fn open(folder: &Path) -> Result<Self, StateError> {
        files::ensure_private_folder(folder, None)?;
        close_to_others(folder)?;
        let path = folder.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(PRIVATE_FILE)
            .open(&path)
            .map_err(FileError::new("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(State { folder: folder.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse { path: folder.to_owned() }),
            Err(TryLockError::Error(source)) => Err(FileError { action: "lock", path, source }.into()),
        }
    }

    /// The signer of earlier starts; on the very first start a new root.
    pub(crate) fn signer(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Signer, StateError> {
        let current = self.folder.join(CURRENT);
        if !current.exists() {
            // The folder of tokens is made after the signer, so its presence tells of a signer that has gone.
            if self.folder.join(TOKENS).exists() {
                return Err(StateError::Missing { path: current });
            }
            let root = Signer::create(trust_domain, now).map_err(StateError::Making)?;
            let pair: [(&str, &[u8]); 2] =
                [(CERTIFICATE, root.certificate_pem.as_bytes()), (KEY, root.key_pem.as_bytes())];
            files::create_folder_atomic(&current, &pair)?;
        }
        load_signer(&current, trust_domain)
    }

    /// The token records; their folder is made on the first call.
    pub(crate) fn tokens(&self) -> Result<TokenStore, StateError> {
        let folder = self.folder.join(TOKENS);
        files::ensure_private_folder(&folder, None)?;
        Ok(TokenStore::new(folder))
    }
}

/// What the state folder holds; nobody else writes there.
pub(crate) fn own_paths(folder: &Path) -> [PathBuf; 3] {
    [LOCK, CURRENT, TOKENS].map(|name| folder.join(name))
}

/// The token records of a CA that has served before, for a process beside it.
pub(crate) fn tokens_beside(folder: &Path) -> Result<TokenStore, StateError> {
    let tokens = folder.join(TOKENS);
    if tokens.is_dir() {
        Ok(TokenStore::new(tokens))
    } else {
        Err(StateError::NeverServed { path: folder.to_owned() })
    }
}

/// The current signing certificate, without its key, for a process beside the CA.
pub(crate) fn summary_beside(folder: &Path) -> Result<SignerSummary, StateError> {
    let current = folder.join(CURRENT);
    if !current.is_dir() {
        return Err(StateError::NeverServed { path: folder.to_owned() });
    }
    let path = current.join(CERTIFICATE);
    let pem = read(&path)?;
    slots::summarize(&pem).map_err(|source| StateError::Damaged { path, source })
}

fn load_signer(folder: &Path, trust_domain: &TrustDomain) -> Result<Signer, StateError> {
    let (certificate_path, key_path) = (folder.join(CERTIFICATE), folder.join(KEY));
    let certificate = read(&certificate_path)?;
    let key = read_key(&key_path)?;
    Signer::load(&certificate, &key, trust_domain).map_err(|source| match source {
        SignerError::Key(_) => StateError::Damaged { path: key_path, source },
        SignerError::NotAPair => StateError::Damaged { path: folder.to_owned(), source },
        SignerError::OtherTrustDomain { .. } => StateError::Foreign { path: certificate_path, source },
        source => StateError::Damaged { path: certificate_path, source },
    })
}

fn read_key(path: &Path) -> Result<Zeroizing<String>, StateError> {
    let mode = mode_of(path).map_err(|error| missing_or("read", path, error))?;
    if mode & 0o077 != 0 {
        return Err(StateError::OpenKey { path: path.to_owned(), mode });
    }
    read(path)
}

/// Reads text; bytes that are no UTF-8 become U+FFFD, which no PEM holds, so that damage is reported as damage.
fn read(path: &Path) -> Result<Zeroizing<String>, StateError> {
    let bytes = fs::read(path).map(Zeroizing::new).map_err(|error| missing_or("read", path, error))?;
    Ok(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))
}

fn missing_or(action: &'static str, path: &Path, error: io::Error) -> StateError {
    match error.kind() {
        io::ErrorKind::NotFound => StateError::Missing { path: path.to_owned() },
        _ => FileError::new(action, path)(error).into(),
    }
}

/// An empty folder, such as a fresh volume, is closed to others; one with contents may be somebody else's.
fn close_to_others(folder: &Path) -> Result<(), StateError> {
    let mode = mode_of(folder).map_err(FileError::new("read the mode of", folder))?;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let mut entries = fs::read_dir(folder).map_err(FileError::new("list", folder))?;
    if entries.next().is_some() {
        return Err(StateError::OpenFolder { path: folder.to_owned(), mode });
    }
    let closed = Permissions::from_mode(PRIVATE_FOLDER);
    Ok(fs::set_permissions(folder, closed).map_err(FileError::new("close to others", folder))?)
}

fn mode_of(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o7777)
}

#[cfg(test)]
mod tests;
