//! Files that are either the old ones or the new ones, whole, whenever the process or the machine dies; and whose
//! mode is what was asked for, whatever the umask.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, fchown, lchown};
use std::path::{Path, PathBuf};

/// Read and write for the owner alone: keys, tokens, the CA's own records.
pub(crate) const PRIVATE_FILE: u32 = 0o600;
/// Everyone may read: the trust bundle.
pub(crate) const PUBLIC_FILE: u32 = 0o644;
/// A folder that its owner alone may enter.
pub(crate) const PRIVATE_FOLDER: u32 = 0o700;

/// A file operation that failed: what was tried, on which path, and what the system answered.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}", path = path.display())]
pub(crate) struct FileError {
    pub(crate) action: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl FileError {
    pub(crate) fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| FileError { action, path: path.to_owned(), source }
    }
}

/// Who shall own a file that the CA writes for somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: Option<u32>,
}

/// Writes the whole file under a temporary name beside `path`, syncs it, renames it over `path` and syncs the folder.
///
/// A leftover of a killed process has the same temporary name and is removed first, so none piles up.
pub(crate) fn write_atomic(
    path: &Path,
    contents: &[u8],
    mode: u32,
    owner: Option<Owner>,
) -> Result<(), FileError> {
    replace(path, contents, mode, owner).map_err(FileError::new("write", path))
}

/// As [`write_atomic`], but a file that is as it shall be stays: a full disk does not stop a restart.
pub(crate) fn write_changed(path: &Path, contents: &[u8], mode: u32) -> Result<(), FileError> {
    let as_written = fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o7777 == mode);
    if as_written && fs::read(path).is_ok_and(|found| found == contents) {
        return Ok(());
    }
    write_atomic(path, contents, mode, None)
}

fn replace(path: &Path, contents: &[u8], mode: u32, owner: Option<Owner>) -> io::Result<()> {
    let folder = parent_of(path);
    let prefix = format!(".{}", name_of(path)?);
    match fs::remove_file(folder.join(format!("{prefix}.tmp"))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".tmp")
        .rand_bytes(0)
        .permissions(Permissions::from_mode(PRIVATE_FILE))
        .tempfile_in(folder)?;
    file.write_all(contents)?;
    finish(file.as_file(), mode, owner)?;
    file.persist(path)?;
    sync_folder(folder)
}

/// Gives the open file its mode and owner and waits until it is on the disk.
fn finish(file: &File, mode: u32, owner: Option<Owner>) -> io::Result<()> {
    if let Some(owner) = owner {
        fchown(file, Some(owner.uid), owner.gid)?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Makes a folder that holds exactly these private files, all of it or nothing: it is filled under a temporary name
/// and renamed when every byte is on the disk.
pub(crate) fn create_folder_atomic(
    path: &Path,
    files: &[(&str, &[u8])],
    owner: Option<Owner>,
) -> Result<(), FileError> {
    fill_folder(path, files, owner).map_err(FileError::new("create", path))
}

fn fill_folder(path: &Path, files: &[(&str, &[u8])], owner: Option<Owner>) -> io::Result<()> {
    let parent = parent_of(path);
    let temporary = parent.join(format!(".{}.tmp", name_of(path)?));
    if temporary.exists() {
        fs::remove_dir_all(&temporary)?;
    }
    create_private(&temporary)?;
    for (name, contents) in files {
        replace(&temporary.join(name), contents, PRIVATE_FILE, owner)?;
    }
    if let Some(owner) = owner {
        lchown(&temporary, Some(owner.uid), owner.gid)?;
    }
    fs::rename(&temporary, path)?;
    sync_folder(parent)
}

/// Makes the folder with mode 0700, and the folders above it with the usual mode, where they are absent.
pub(crate) fn ensure_private_folder(path: &Path, owner: Option<Owner>) -> Result<(), FileError> {
    let make = || -> io::Result<()> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(parent_of(path))?;
        create_private(path)?;
        if let Some(owner) = owner {
            lchown(path, Some(owner.uid), owner.gid)?;
        }
        sync_folder(parent_of(path))
    };
    make().map_err(FileError::new("create", path))
}

fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(PRIVATE_FOLDER).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(PRIVATE_FOLDER))
}

/// Gives a file or folder another name, and waits until both folders know.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to)
        .and_then(|()| sync_folder(parent_of(to)))
        .and_then(|()| sync_folder(parent_of(from)))
        .map_err(FileError::new("rename", from))
}

/// Waits until the names in the folder are on the disk.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The folder a path is in; `.` for a bare name.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn name_of(path: &Path) -> io::Result<&str> {
    path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a file name of plain text")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn req_36_a_written_file_is_whole_and_has_the_mode_that_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        write_atomic(&path, b"old", PUBLIC_FILE, None).unwrap();
        write_atomic(&path, b"new", PRIVATE_FILE, None).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode_of(&path), PRIVATE_FILE);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left behind");
    }

    #[test]
    fn a_file_that_is_as_it_shall_be_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle");
        let inode = |contents: &[u8]| {
            write_changed(&path, contents, PUBLIC_FILE).unwrap();
            assert_eq!((fs::read(&path).unwrap().as_slice(), mode_of(&path)), (contents, PUBLIC_FILE));
            fs::metadata(&path).unwrap().ino()
        };
        let first = inode(b"one");
        assert_eq!(inode(b"one"), first);
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        inode(b"one");
        inode(b"two");
    }

    #[test]
    fn the_leftover_of_a_killed_process_does_not_stop_the_next_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(folder.path().join(".secret.tmp"), b"half").unwrap();
        write_atomic(&path, b"whole", PRIVATE_FILE, None).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_symbolic_link_in_the_place_of_a_file_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, b"untouched").unwrap();
        for name in ["secret", ".secret.tmp"] {
            std::os::unix::fs::symlink(&victim, folder.path().join(name)).unwrap();
        }
        write_atomic(&folder.path().join("secret"), b"token", PRIVATE_FILE, None).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
        assert!(fs::symlink_metadata(folder.path().join("secret")).unwrap().is_file());
    }

    #[test]
    fn a_folder_appears_with_all_its_files_and_sweeps_a_half_made_one() {
        let parent = tempfile::tempdir().unwrap();
        let half = parent.path().join(".pair.tmp");
        fs::create_dir(&half).unwrap();
        fs::write(half.join("key.pem"), b"half").unwrap();
        let path = parent.path().join("pair");
        create_folder_atomic(&path, &[("key.pem", b"key"), ("certificate.pem", b"certificate")], None)
            .unwrap();
        assert_eq!(fs::read(path.join("key.pem")).unwrap(), b"key");
        assert_eq!(mode_of(&path.join("key.pem")), PRIVATE_FILE);
        assert_eq!(mode_of(&path), PRIVATE_FOLDER);
        assert!(!half.exists());
    }

    #[test]
    fn an_owner_is_given_the_file_and_the_folder_made_for_it() {
        if !rustix::process::geteuid().is_root() {
            return; // only root may give files away
        }
        let parent = tempfile::tempdir().unwrap();
        let owner = Some(Owner { uid: 1337, gid: Some(1338) });
        let folder = parent.path().join("a/b");
        ensure_private_folder(&folder, owner).unwrap();
        let path = folder.join("token");
        write_atomic(&path, b"token", PRIVATE_FILE, owner).unwrap();
        for path in [&folder, &path] {
            let metadata = fs::metadata(path).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (1337, 1338), "{}", path.display());
        }
        assert_eq!(fs::metadata(parent.path().join("a")).unwrap().uid(), 0);
    }

    #[test]
    fn an_error_names_the_path() {
        let error = write_atomic(Path::new("/nowhere/at/all"), b"", PRIVATE_FILE, None).unwrap_err();
        assert!(error.to_string().starts_with("cannot write /nowhere/at/all: "), "{error}");
    }
}
