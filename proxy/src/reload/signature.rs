//! Whether files may have changed, told without reading them.
//!
//! A file counts by what it is, not by its name alone: links are followed, so that a new target tells, as when Kubernetes
//! swaps the folder behind a ConfigMap's links; and a file that is renamed over another, or mounted, has another number.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::folder::Named;

/// The names, numbers, lengths and times of a folder's files, or of one file. Two that are equal say that nothing was
/// written between, but what the kernel's clock cannot tell apart: two writes within one of its ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signature {
    /// Which folder it is, and its files in the order of their names.
    Folder(Stamp, Vec<(PathBuf, Of)>),
    File(Stamp),
    /// It cannot be looked at.
    Fault(io::ErrorKind),
}

/// What counts of one file of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Of {
    /// It is read.
    Resources(Result<Stamp, io::ErrorKind>),
    /// It is not read: its name alone.
    Other,
}

/// What changes with each write or replacement of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Signature {
    pub(crate) fn of(path: &Path) -> Self {
        let signature = fs::metadata(path).and_then(|found| {
            let stamp = Stamp::of(&found);
            if found.is_dir() {
                Ok(Self::Folder(stamp.of_folder(), files_of(path)?))
            } else {
                Ok(Self::File(stamp))
            }
        });
        signature.unwrap_or_else(|fault| Self::Fault(fault.kind()))
    }
}

fn files_of(folder: &Path) -> io::Result<Vec<(PathBuf, Of)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match Named::by(path.file_name().unwrap_or_default()) {
            Named::Hidden => {}
            Named::Other => files.push((path, Of::Other)),
            Named::Resources => {
                let stamp = fs::metadata(&path).map(|found| Stamp::of(&found));
                files.push((path, Of::Resources(stamp.map_err(|fault| fault.kind()))));
            }
        }
    }
    files.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(files)
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Which folder it is. Its times tell of files that are not looked at too.
    fn of_folder(self) -> Self {
        Self { length: 0, modified: (0, 0), changed: (0, 0), ..self }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::thread::sleep;
    use std::time::Duration;

    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;

    /// A folder with two files, one behind a link into a hidden folder as Kubernetes has it.
    fn folder() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("..one")).unwrap();
        fs::create_dir(at("..two")).unwrap();
        for version in ["..one", "..two"] {
            fs::write(at(version).join("linked.yaml"), "a: 1").unwrap();
        }
        symlink("..one", at("..data")).unwrap();
        symlink("..data/linked.yaml", at("linked.yaml")).unwrap();
        fs::write(at("plain.yaml"), "a: 1").unwrap();
        fs::write(at("notes.txt"), "").unwrap();
        sleep(Duration::from_millis(30)); // longer than the kernel's tick
        folder
    }

    #[rstest]
    #[case::a_file_written_to(|at: &Path| fs::write(at.join("plain.yaml"), "b: 2").unwrap())]
    #[case::a_file_more(|at: &Path| fs::write(at.join("more.yaml"), "").unwrap())]
    #[case::a_file_less(|at: &Path| fs::remove_file(at.join("plain.yaml")).unwrap())]
    #[case::another_name(|at: &Path| fs::rename(at.join("plain.yaml"), at.join("other.yaml")).unwrap())]
    #[case::a_note_more(|at: &Path| fs::write(at.join("more.txt"), "").unwrap())]
    #[case::a_file_renamed_over_another(|at: &Path| {
        fs::write(at.join(".new"), "a: 1").unwrap();
        fs::rename(at.join(".new"), at.join("plain.yaml")).unwrap();
    })]
    #[case::a_link_swapped(|at: &Path| {
        symlink("..two", at.join("..new")).unwrap();
        fs::rename(at.join("..new"), at.join("..data")).unwrap();
    })]
    #[case::a_link_that_leads_nowhere(|at: &Path| fs::remove_file(at.join("..data")).unwrap())]
    #[case::the_folder_gone(|at: &Path| fs::remove_dir_all(at).unwrap())]
    #[case::the_folder_replaced(|at: &Path| {
        let (old, new) = (at.with_extension("old"), at.with_extension("new"));
        fs::create_dir(&new).unwrap();
        fs::rename(at, &old).unwrap();
        fs::rename(new, at).unwrap();
        fs::remove_dir_all(old).unwrap();
    })]
    fn a_change_is_told_by(#[case] change: fn(&Path)) {
        let folder = folder();
        let before = Signature::of(folder.path());
        assert_eq!(Signature::of(folder.path()), before, "it differs without a change");
        change(folder.path());
        assert_ne!(Signature::of(folder.path()), before);
    }

    #[rstest]
    #[case::what_a_note_says(|at: &Path| fs::write(at.join("notes.txt"), "more").unwrap())]
    #[case::a_hidden_file(|at: &Path| fs::write(at.join(".swap"), "more").unwrap())]
    #[case::an_editors_copy(|at: &Path| fs::write(at.join("plain.yaml~"), "more").unwrap())]
    fn no_change_is(#[case] change: fn(&Path)) {
        let folder = folder();
        let before = Signature::of(folder.path());
        change(folder.path());
        assert_eq!(Signature::of(folder.path()), before);
    }

    #[test]
    fn one_file_is_told_by_itself() {
        let folder = folder();
        let file = folder.path().join("plain.yaml");
        let before = Signature::of(&file);
        fs::write(folder.path().join("more.yaml"), "").unwrap();
        assert_eq!(Signature::of(&file), before);
        fs::write(&file, "b: 2").unwrap();
        assert_ne!(Signature::of(&file), before);
    }
}
