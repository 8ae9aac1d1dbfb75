//! Holds `docs/reference/findings.md` equal to the list in the code. `UPDATE_GOLDEN=1` writes it anew.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Write;
use std::path::Path;

use pillion_mesh::finding::{Code, Severity};

const INTRODUCTION: &str = "\
# Findings

What is legal in the mesh folder and probably not meant. `pillion analyze` lists it for a whole folder; a sidecar tells
what concerns its own workload in its log, with each load, and in `/config_dump`. What is not legal at all is an error
with file, line and column, and the last good resources stay in force.

<!-- Written by mesh/tests/findings_page.rs from mesh/src/finding.rs: change it there. -->

| severity | what it means |
|---|---|
";

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for severity in Severity::ALL {
        writeln!(page, "| {severity} | {} |", severity.sentence()).unwrap();
    }
    page.push_str("\n| code | severity | what is so | what helps |\n|---|---|---|---|\n");
    for code in Code::ALL {
        writeln!(page, "| [{code}](#{code}) | {} | {} | {} |", code.severity(), code.sentence(), cure(*code))
            .unwrap();
    }
    for code in Code::ALL {
        write!(page, "\n### {code}\n\n{} ({})\n\n{}\n", code.sentence(), code.severity(), cure(*code))
            .unwrap();
    }
    page
}

/// As a sentence of its own.
fn cure(code: Code) -> String {
    let mut letters = code.cure().chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", letters.as_str())
}

#[test]
fn the_reference_page_says_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/findings.md");
    let page = page();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    snapbox::assert_data_eq!(written, snapbox::Data::text(page).raw());
}

#[test]
fn no_sentence_breaks_the_table() {
    for code in Code::ALL {
        assert!(!code.sentence().contains(['|', '\n']) && !code.cure().contains(['|', '\n']), "{code}");
    }
}
