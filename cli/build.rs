//! Puts the lessons of `examples/lessons` into the binary: a table of folders with their files.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let variable = |name| env::var_os(name).map(PathBuf::from).ok_or(io::ErrorKind::NotFound);
    let lessons = variable("CARGO_MANIFEST_DIR")?.join("../examples/lessons");
    println!("cargo:rerun-if-changed={}", lessons.display());
    let mut table = String::from("&[\n");
    for folder in entries(&lessons)?.iter().filter(|path| path.is_dir()) {
        println!("cargo:rerun-if-changed={}", folder.display());
        let mut files = Vec::new();
        gather(folder, folder, &mut files)?;
        add(&mut table, &name_of(folder), &files);
    }
    let shared: Vec<_> = entries(&lessons)?
        .into_iter()
        .filter(|path| path.is_file())
        .map(|path| (name_of(&path), path))
        .collect();
    add(&mut table, "", &shared);
    table.push_str("]\n");
    fs::write(variable("OUT_DIR")?.join("lessons.rs"), table)
}

/// One folder with its files; writing to a String cannot fail.
fn add(table: &mut String, folder: &str, files: &[(String, PathBuf)]) {
    let _ = writeln!(table, "    ({folder:?}, &[");
    for (name, path) in files {
        let _ = writeln!(table, "        ({name:?}, include_str!({:?})),", path.display().to_string());
    }
    let _ = writeln!(table, "    ]),");
}

/// All files below a folder, by their paths in it.
fn gather(top: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for path in entries(folder)? {
        println!("cargo:rerun-if-changed={}", path.display());
        if path.is_dir() {
            gather(top, &path, files)?;
        } else if let Ok(name) = path.strip_prefix(top) {
            files.push((name.display().to_string(), path.clone()));
        }
    }
    Ok(())
}

/// In the order of their names.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
