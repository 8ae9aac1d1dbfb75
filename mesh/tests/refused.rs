//! What the resource reader refuses, and in which words. Each file of `tests/refused/` has the expected error as its
//! first line, so that a person reads both together; `UPDATE_GOLDEN=1` writes the lines anew.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use pillion_mesh::resource::Resources;

#[test]
fn each_fault_is_refused_in_the_words_of_its_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refused");
    let mut differing = Vec::new();
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut resources = Resources::default();
        let error = resources.read(&name, &text).expect_err(&format!("{name} is read without a fault"));
        assert!(resources.peer_authentications.is_empty(), "{name}: something was added before the fault");

        let (first, rest) = text.split_once('\n').unwrap();
        let expected = format!("# {error}");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, format!("{expected}\n{rest}")).unwrap();
        } else if first != expected {
            differing.push(format!("{name}\n  expected {first}\n  seen     {expected}"));
        }
        files += 1;
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    assert!(files > 50, "only {files} files in {}", folder.display());
}
