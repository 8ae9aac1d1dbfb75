//! The mesh folder: which files of it are read, within which bounds, and what they hold.
//!
//! The proxy reads it strictly, so that a file that is no good takes nothing out of force; `pillion analyze` reads what
//! it can and tells of the rest.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pillion_mesh::resource::{Resources, Unread};
use pillion_mesh::yaml::YamlError;

use crate::files::read_bounded;

/// Files beyond this many bytes together are refused.
const MAX_BYTES: u64 = 64 << 20;

/// The texts of a mesh folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Texts {
    /// The texts of all resource files, by name.
    pub(crate) files: BTreeMap<PathBuf, String>,
    /// Other files, which are not read.
    pub(crate) skipped: Vec<PathBuf>,
}

/// What a mesh folder holds, as far as it can be read.
#[derive(Debug, Clone, Default)]
pub struct Folder {
    /// The resources; files that are no good are among them as unread.
    pub resources: Resources,
    /// How many files were looked into.
    pub files: usize,
}

/// Why a mesh folder cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FolderError {
    /// A file or the folder cannot be read.
    #[error("{}: {fault}; expected a readable file or folder of YAML resources", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        fault: String,
    },
    /// All files together are larger than the limit.
    #[error("{}: more than {MAX_BYTES} bytes of resources", path.display())]
    TooLarge {
        /// The folder.
        path: PathBuf,
    },
}

impl FolderError {
    fn unreadable(path: &Path, fault: &io::Error) -> Self {
        Self::Unreadable { path: path.into(), fault: fault.to_string() }
    }
}

impl Texts {
    /// All `.yaml`, `.yml` and `.json` files of a folder, without subfolders and hidden names; or one file.
    ///
    /// # Errors
    /// At the first file that cannot be read.
    pub(crate) fn read(path: &Path) -> Result<Self, FolderError> {
        let mut files = BTreeMap::new();
        let skipped = each(path, |file, text| {
            let text = text.map_err(|fault| FolderError::unreadable(&file, &fault))?;
            files.insert(file, text);
            Ok(())
        })?;
        Ok(Self { files, skipped })
    }

    /// The resources of all files.
    ///
    /// # Errors
    /// At the first fault, with its place.
    pub(crate) fn resources(&self) -> Result<Resources, YamlError> {
        let mut resources = Resources { skipped: named(&self.skipped), ..Resources::default() };
        for (path, text) in &self.files {
            resources.read(&path.display().to_string(), text)?;
        }
        Ok(resources)
    }
}

impl Folder {
    /// Reads a folder or a file, the same files as the proxy, and goes on behind each that is no good.
    ///
    /// # Errors
    /// When there is no such folder or file, or it is larger than the limit.
    pub fn read(path: &Path) -> Result<Self, FolderError> {
        let mut files = BTreeMap::new();
        let skipped = each(path, |file, text| {
            files.insert(file, text);
            Ok(())
        })?;
        let mut resources = Resources { skipped: named(&skipped), ..Resources::default() };
        for (path, text) in &files {
            let place = path.display().to_string();
            let fault = match text {
                Ok(text) => resources.read(&place, text).err().map(Unread::from),
                Err(fault) => Some(Unread { place, message: format!("it cannot be read: {fault}") }),
            };
            resources.unread.extend(fault);
        }
        Ok(Self { resources, files: files.len() })
    }
}

fn named(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.display().to_string()).collect()
}

/// Hands over the text of each resource file, or why there is none, until `take` fails; the other files come back.
fn each(
    path: &Path,
    mut take: impl FnMut(PathBuf, io::Result<String>) -> Result<(), FolderError>,
) -> Result<Vec<PathBuf>, FolderError> {
    let (files, skipped) = match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            files_of(path).map_err(|fault| FolderError::unreadable(path, &fault))?
        }
        Ok(_) => (vec![path.to_owned()], Vec::new()),
        Err(fault) => return Err(FolderError::unreadable(path, &fault)),
    };
    let mut left = MAX_BYTES;
    for file in files {
        let text = read_text(&file, left);
        if text.as_ref().is_err_and(|fault| fault.kind() == io::ErrorKind::FileTooLarge) {
            return Err(FolderError::TooLarge { path: path.into() });
        }
        left = left.saturating_sub(text.as_ref().map_or(0, |text| text.len() as u64));
        take(file, text)?;
    }
    Ok(skipped)
}

fn read_text(file: &Path, limit: u64) -> io::Result<String> {
    let bytes = read_bounded(file, limit)?.to_vec();
    String::from_utf8(bytes).map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))
}

/// The resource files of a folder, and the others; neither hidden ones nor subfolders.
fn files_of(folder: &Path) -> io::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut others) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let named = Named::by(path.file_name().unwrap_or_default());
        if named == Named::Hidden || path.is_dir() {
            continue;
        }
        if named == Named::Resources { files.push(path) } else { others.push(path) }
    }
    others.sort();
    Ok((files, others))
}

/// What a file of a mesh folder is by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// It is read.
    Resources,
    /// It is not read, and that is told.
    Other,
    /// It is not read without a word.
    Hidden,
}

impl Named {
    pub(crate) fn by(name: &OsStr) -> Self {
        let text = name.to_string_lossy();
        let extension = Path::new(name).extension();
        // `~` ends an editor's copy.
        if text.is_empty() || text.starts_with('.') || text.ends_with('~') {
            Self::Hidden
        } else if extension.is_some_and(|extension| {
            ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
        }) {
            Self::Resources
        } else {
            Self::Other
        }
    }
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
        let texts = Texts::read(folder.path()).unwrap();
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(texts.files.keys().map(name).collect::<Vec<_>>(), ["a.YML", "b.yaml", "c.json"]);
        assert_eq!(texts.skipped.iter().map(name).collect::<Vec<_>>(), ["notes.txt"]);
        let read = Folder::read(folder.path()).unwrap();
        assert_eq!((read.files, read.resources.peer_authentications.len()), (3, 3));
        assert_eq!(read.resources.skipped, texts.resources().unwrap().skipped);
    }

    #[test]
    fn a_missing_folder_is_a_fault_and_not_an_empty_mesh() {
        let missing = Path::new("/nonexistent/mesh");
        let fault = Texts::read(missing).unwrap_err();
        assert!(fault.to_string().contains("/nonexistent/mesh"), "{fault}");
        assert_eq!(Folder::read(missing).unwrap_err(), fault);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("endless.yaml")).unwrap();
        let fault = Texts::read(folder.path()).unwrap_err();
        assert!(fault.to_string().contains("endless.yaml: it is no regular file"), "{fault}");
    }

    #[test]
    fn a_file_that_is_no_good_takes_nothing_from_the_others_where_reading_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), STRICT.replace("STRICT", "DISABLED")).unwrap();
        fs::write(folder.path().join("b.yaml"), [0xff, 0xfe]).unwrap();
        fs::write(folder.path().join("c.yaml"), STRICT).unwrap();
        assert!(Texts::read(folder.path()).is_err());
        let Resources { peer_authentications, unread, .. } = Folder::read(folder.path()).unwrap().resources;
        assert_eq!(peer_authentications.len(), 1);
        let places: Vec<String> =
            unread.iter().map(|file| file.place.replace(&folder.path().display().to_string(), "")).collect();
        assert_eq!(places, ["/a.yaml:4:21", "/b.yaml"]);
        assert!(unread[0].message.contains("did you mean `DISABLE`?"), "{unread:?}");
        assert!(unread[1].message.starts_with("it cannot be read: "), "{unread:?}");
    }
}
