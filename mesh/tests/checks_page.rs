//! Holds `docs/reference/checks.md` equal to the list in the code. `UPDATE_GOLDEN=1` writes it anew.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashSet;
use std::fmt::Write;
use std::path::Path;

use pillion_mesh::check::Kind;

const INTRODUCTION: &str = "\
# Checks

What `pillion check` looks at, in the order of its report. Its hints lead here; the ids are those of `-o json`.
`√` is as it should be, `‼` worth a look or not to be told from where it was asked, `×` a fault: then the exit code is 1.
[Whether the mesh is as it should be](../how-to/check.md) shows it at work.

<!-- Written by mesh/tests/checks_page.rs from mesh/src/check/mod.rs: change it there. -->

| id | under | what is so where it passes |
|---|---|---|
";

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for kind in Kind::ALL {
        writeln!(page, "| [{kind}](#{kind}) | {} | {} |", kind.group().as_str(), kind.sentence()).unwrap();
    }
    for kind in Kind::ALL {
        write!(page, "\n### {kind}\n\n{}\n\n{}\n", kind.sentence(), kind.cure()).unwrap();
    }
    page
}

#[test]
fn the_reference_page_says_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/checks.md");
    let page = page();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    snapbox::assert_data_eq!(written, snapbox::Data::text(page).raw());
}

#[test]
fn ids_are_unique_and_equal_their_serialized_form() {
    let mut seen = HashSet::new();
    for kind in Kind::ALL {
        assert!(seen.insert(kind.id()), "{kind} stands twice");
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.id());
        assert!(kind.sentence().ends_with('.') && kind.cure().ends_with('.'), "{kind}");
        assert!(!kind.sentence().contains(['|', '\n']), "{kind}");
    }
}
