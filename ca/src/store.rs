//! The state folder: which process owns it, the signers' files, the token records.
//!
//! ```text
//! lock                          held by the process that serves; tells since when
//! change                        held by whoever changes the signers, for as long as that takes
//! signers.json                  which signer is which; see `pillion_mesh::signers`
//! signers/<name>/               one folder for each published root, made whole or not at all
//!   certificate.pem
//!   key.pem                     not of an external signer, whose key stays where it is
//!   chain.pem                   of an external signer: what stands above it
//! tokens/<16 hex digits>.json   one record for each token; see `attest::token`
//! ```
//!
//! Every change of the signers is one rename of `signers.json`: a folder that it does not name counts for nothing and is
//! swept, and one that it names has to be there. A kill at any moment leaves either no signer, and then nothing was ever
//! signed, or those that every later start finds. A signer that is damaged or has gone stops the start: a new root would
//! silently cut off every workload.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use pillion_mesh::signers::{Hindrance, RecordError, Signers};
use pillion_mesh::spiffe::TrustDomain;
use pillion_mesh::wire::rfc3339;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use zeroize::Zeroizing;

use crate::attest::token::TokenStore;
use crate::authority::WorkloadTtl;
use crate::external::{External, ExternalError};
use crate::files::{self, FileError, Owner, PRIVATE_FILE, PRIVATE_FOLDER};
use crate::slots::{self, RootPlan, Signer, SignerError, SignerSummary, Slots};

const LOCK: &str = "lock";
const CHANGE: &str = "change";
const RECORD: &str = "signers.json";
const SIGNERS: &str = "signers";
/// Where the only signer was before there was a record of them.
const ONLY: &str = "current";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
const CHAIN: &str = "chain.pem";
const TOKENS: &str = "tokens";

/// How long a process waits for another that changes the signers.
const CHANGE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a start waits for a process that only looks whether somebody serves.
const LOCK_PATIENCE: Duration = Duration::from_millis(300);
/// Pause between two looks at a lock that is taken.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A state folder that cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} is in use by another pillion-ca; give each its own state folder")]
    InUse { path: PathBuf },
    #[error(
        "{path} is held by another pillion-ca for longer than {CHANGE_PATIENCE:?}; is that process stopped or its disk stuck?"
    )]
    Busy { path: PathBuf },
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
    #[error("{path}: {source}; restore it from a backup")]
    Record { path: PathBuf, source: RecordError },
    #[error("{path}: {source}; write trustDomain as it was, or give this CA a state folder of its own")]
    Foreign { path: PathBuf, source: SignerError },
    #[error("{path} holds no root; start `pillion-ca serve` with this state folder first")]
    NeverServed { path: PathBuf },
    #[error(transparent)]
    External(#[from] ExternalError),
    #[error("cannot make a root: {0}")]
    Making(rcgen::Error),
    #[error(transparent)]
    Hindrance(#[from] Hindrance),
}

/// The state folder of a serving CA. No second process can hold it at the same time.
pub(crate) struct State {
    folder: PathBuf,
    /// The kernel lets go of the lock when the process ends, however it ends.
    lock: File,
}

impl State {
    /// Takes the folder for this process, and makes it where it is absent.
    pub(crate) fn open(folder: &Path) -> Result<Self, StateError> {
        files::ensure_private_folder(folder, None)?;
        close_to_others(folder)?;
        let path = folder.join(LOCK);
        let lock = open_lock(&path)?;
        if take_lock(&lock, &path, LOCK_PATIENCE)? {
            Ok(State { folder: folder.to_owned(), lock })
        } else {
            Err(StateError::InUse { path: folder.to_owned() })
        }
    }

    /// Notes for `pillion-ca root` since when this process serves. Without the note they know less; a full disk is no
    /// reason not to serve.
    pub(crate) fn serving_since(&self, now: SystemTime) {
        let mut lock = &self.lock;
        let noted = lock.set_len(0).and_then(|()| lock.write_all(rfc3339::print(now).as_bytes()));
        if let Err(error) = noted {
            tracing::warn!(error = %error, "cannot note since when this CA serves; `pillion-ca root` will ask for --force");
        }
    }

    /// The files of the signers; on the very first start with the external one, or with a new root.
    pub(crate) fn signers(
        &self,
        trust_domain: &TrustDomain,
        plan: RootPlan,
        ttl: WorkloadTtl,
        external: Option<&External>,
        now: SystemTime,
    ) -> Result<SignerFiles, StateError> {
        let files = SignerFiles::of(&self.folder, trust_domain, plan);
        files.begin(self.folder.join(TOKENS).exists(), ttl, external, now)?;
        Ok(files)
    }

    /// The token records; their folder is made on the first call.
    pub(crate) fn tokens(&self) -> Result<TokenStore, StateError> {
        let folder = self.folder.join(TOKENS);
        files::ensure_private_folder(&folder, None)?;
        Ok(TokenStore::new(folder))
    }
}

/// What the state folder holds; nobody else writes there.
pub(crate) fn own_paths(folder: &Path) -> [PathBuf; 6] {
    [LOCK, CHANGE, RECORD, SIGNERS, ONLY, TOKENS].map(|name| folder.join(name))
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

/// The files of the signers of a CA that has served before, for a process beside it.
pub(crate) fn signers_beside(
    folder: &Path,
    trust_domain: &TrustDomain,
    plan: RootPlan,
) -> Result<SignerFiles, StateError> {
    if folder.join(RECORD).exists() || folder.join(SIGNERS).is_dir() {
        Ok(SignerFiles::of(folder, trust_domain, plan))
    } else {
        Err(StateError::NeverServed { path: folder.to_owned() })
    }
}

/// For how long a CA has served with this folder; zero where none does, or where that is not known.
pub(crate) fn serving_beside(folder: &Path, now: SystemTime) -> Duration {
    let since = || -> Option<SystemTime> {
        let mut lock = File::open(folder.join(LOCK)).ok()?;
        if lock.try_lock_shared().is_ok() {
            return None;
        }
        let mut text = String::new();
        Read::by_ref(&mut lock).take(64).read_to_string(&mut text).ok()?;
        let read: StrDeserializer<'_, ValueError> = text.as_str().into_deserializer();
        rfc3339::deserialize(read).ok()
    };
    since().and_then(|since| now.duration_since(since).ok()).unwrap_or_default()
}

/// The signers on the disk. The serving CA and the commands beside it change them one at a time.
pub(crate) struct SignerFiles {
    folder: PathBuf,
    trust_domain: TrustDomain,
    plan: RootPlan,
}

impl SignerFiles {
    fn of(folder: &Path, trust_domain: &TrustDomain, plan: RootPlan) -> Self {
        SignerFiles { folder: folder.to_owned(), trust_domain: trust_domain.clone(), plan }
    }

    /// Sees to it that there is a record. `served` tells that a CA has served with this folder before.
    fn begin(
        &self,
        served: bool,
        ttl: WorkloadTtl,
        external: Option<&External>,
        now: SystemTime,
    ) -> Result<(), StateError> {
        let _change = self.lock()?;
        let signers = self.folder.join(SIGNERS);
        let only = self.folder.join(ONLY);
        if self.folder.join(RECORD).exists() {
            return Ok(());
        }
        // A kill between the making of a signer and its record leaves the first; so does an older pillion, elsewhere.
        let mut found = folders_in(&signers)?;
        if found.is_empty() && only.exists() {
            let signer = load(&only, &self.trust_domain, now)?;
            files::ensure_private_folder(&signers, self.owner()?)?;
            let name = signer.name().to_owned();
            files::rename(&only, &signers.join(&name))?;
            found.push(name);
        }
        let name = match found.as_slice() {
            [] if served => return Err(StateError::Missing { path: signers }),
            [] => match external {
                Some(external) => self.keep(external, now)?.name().to_owned(),
                None => self.make(now)?.name().to_owned(),
            },
            [name] => name.clone(),
            [..] => return Err(StateError::Missing { path: self.folder.join(RECORD) }),
        };
        let signer = self.load(&name, now)?;
        // What a signer of unknown past has granted is not known.
        let longest = if served { ttl.max } else { ttl.default };
        let record = signer.record(now, longest);
        let published = record.not_before.min(now);
        self.write(&Signers::first(pillion_mesh::signers::Signer { published, ..record }))
    }

    /// The record as it is on the disk.
    pub(crate) fn text(&self) -> Result<Vec<u8>, StateError> {
        let path = self.folder.join(RECORD);
        fs::read(&path).map_err(|error| missing_or("read", &path, error))
    }

    /// Which signer is which.
    pub(crate) fn read(&self) -> Result<Signers, StateError> {
        self.parse(&self.text()?)
    }

    fn parse(&self, text: &[u8]) -> Result<Signers, StateError> {
        Signers::from_json(text)
            .map_err(|source| StateError::Record { path: self.folder.join(RECORD), source })
    }

    /// All signers with their keys, of which `external` lends one.
    pub(crate) fn slots(
        &self,
        text: &[u8],
        external: Option<&External>,
        now: SystemTime,
    ) -> Result<Slots, StateError> {
        let signers = self.parse(text)?;
        let mut loaded = BTreeMap::new();
        for recorded in signers.published() {
            let path = || self.path_of(&recorded.name).join(CERTIFICATE);
            let mut signer = match external.filter(|external| external.name() == recorded.name) {
                Some(external) => external
                    .signer(&self.trust_domain, now)
                    .map_err(|source| StateError::Damaged { path: path(), source })?,
                None => self.load(&recorded.name, now)?,
            };
            if signer.name() != recorded.name {
                let source = SignerError::NotRecorded(signer.name().to_owned());
                return Err(StateError::Damaged { path: path(), source });
            }
            if let Some(life) = self.plan.intermediate
                && signer.can_sign()
                && signer.takes_intermediate()
            {
                signer =
                    signer.with_intermediate(&self.trust_domain, life, now).map_err(StateError::Making)?;
            }
            loaded.insert(recorded.name.clone(), signer);
        }
        let missing = || StateError::Missing { path: self.folder.join(SIGNERS) };
        Slots::new(signers, loaded).ok_or_else(missing)
    }

    /// Changes the record, alone among all processes; what `change` refuses is left as it was.
    pub(crate) fn change<E: From<StateError>>(
        &self,
        change: impl FnOnce(&mut Signers) -> Result<(), E>,
    ) -> Result<(), E> {
        let _change = self.lock()?;
        let before = self.read()?;
        let mut signers = before.clone();
        change(&mut signers)?;
        if signers != before {
            self.write(&signers)?;
            self.sweep(&signers);
        }
        Ok(())
    }

    /// Makes a root that nobody knows yet; to be published within a [`Self::change`].
    pub(crate) fn make(&self, now: SystemTime) -> Result<Signer, StateError> {
        let owner = self.owner()?;
        files::ensure_private_folder(&self.folder.join(SIGNERS), owner)?;
        let root = Signer::create(&self.trust_domain, &self.plan, now).map_err(StateError::Making)?;
        let unusable = |source| StateError::Damaged { path: self.folder.join(SIGNERS), source };
        let name = slots::summarize(&root.certificate_pem).map_err(unusable)?.name;
        let pair: [(&str, &[u8]); 2] =
            [(CERTIFICATE, root.certificate_pem.as_bytes()), (KEY, root.key_pem.as_bytes())];
        files::create_folder_atomic(&self.path_of(&name), &pair, owner)?;
        self.load(&name, now)
    }

    /// Keeps what is to be known of an external signer; its key stays where it is.
    pub(crate) fn keep(&self, external: &External, now: SystemTime) -> Result<Signer, StateError> {
        let owner = self.owner()?;
        files::ensure_private_folder(&self.folder.join(SIGNERS), owner)?;
        let path = self.path_of(external.name());
        if path.exists() {
            let chain = path.join(CHAIN);
            if fs::read(&chain).is_ok_and(|kept| kept != external.chain.as_bytes()) {
                files::write_atomic(&chain, external.chain.as_bytes(), PRIVATE_FILE, owner)?;
            }
        } else {
            let pair: [(&str, &[u8]); 2] =
                [(CERTIFICATE, external.certificate.as_bytes()), (CHAIN, external.chain.as_bytes())];
            files::create_folder_atomic(&path, &pair, owner)?;
        }
        self.load(external.name(), now)
    }

    /// The certificate of a signer, read without its key.
    pub(crate) fn summary(&self, name: &str) -> Result<SignerSummary, StateError> {
        let path = self.path_of(name).join(CERTIFICATE);
        let pem = read(&path)?;
        slots::summarize(&pem).map_err(|source| StateError::Damaged { path, source })
    }

    fn load(&self, name: &str, now: SystemTime) -> Result<Signer, StateError> {
        load(&self.path_of(name), &self.trust_domain, now)
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.folder.join(SIGNERS).join(name)
    }

    fn write(&self, signers: &Signers) -> Result<(), StateError> {
        let path = self.folder.join(RECORD);
        Ok(files::write_atomic(&path, signers.to_json().as_bytes(), PRIVATE_FILE, self.owner()?)?)
    }

    /// Deletes the folders that the record does not name: of retired roots, of roots whose making was killed. One that
    /// cannot be deleted now is deleted after the next change.
    fn sweep(&self, signers: &Signers) {
        let folder = self.folder.join(SIGNERS);
        let Ok(entries) = fs::read_dir(&folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if signers.published().all(|signer| *signer.name != *name)
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                tracing::warn!(folder = %entry.path().display(), error = %error, "cannot delete what is left of a retired root");
            }
        }
    }

    fn lock(&self) -> Result<File, StateError> {
        let path = self.folder.join(CHANGE);
        let lock = open_lock(&path)?;
        if let Some(owner) = self.owner()? {
            fchown(&lock, Some(owner.uid), owner.gid).map_err(FileError::new("give away", &path))?;
        }
        if take_lock(&lock, &path, CHANGE_PATIENCE)? { Ok(lock) } else { Err(StateError::Busy { path }) }
    }

    /// Whom the files are for, where root makes them for a CA that is not root: the owner of the folder.
    fn owner(&self) -> Result<Option<Owner>, StateError> {
        let failed = |source| FileError::new("read the owner of", &self.folder)(source);
        let folder = fs::metadata(&self.folder).map_err(failed)?;
        let own = rustix::process::geteuid().as_raw();
        Ok((folder.uid() != own).then(|| Owner { uid: folder.uid(), gid: Some(folder.gid()) }))
    }
}

/// The folders there, but for half-made ones.
fn folders_in(folder: &Path) -> Result<Vec<String>, StateError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::new("list", folder)(error).into()),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(FileError::new("list", folder))?.file_name();
        let name = name.to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    Ok(names)
}

fn open_lock(path: &Path) -> Result<File, StateError> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true).mode(PRIVATE_FILE);
    Ok(options.open(path).map_err(FileError::new("open", path))?)
}

/// Whether the lock was to be had within `patience`.
fn take_lock(lock: &File, path: &Path, patience: Duration) -> Result<bool, StateError> {
    let begin = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if begin.elapsed() < patience => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(source)) => return Err(FileError::new("lock", path)(source).into()),
        }
    }
}

fn load(folder: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Signer, StateError> {
    let (certificate_path, key_path) = (folder.join(CERTIFICATE), folder.join(KEY));
    let certificate = read(&certificate_path)?;
    let chain_path = folder.join(CHAIN);
    if chain_path.exists() {
        let chain = read(&chain_path)?;
        return Signer::external(&certificate, &chain, None, trust_domain, now)
            .map_err(|source| StateError::Damaged { path: folder.to_owned(), source });
    }
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
