//! Holds `docs/reference/reasons.md` equal to the list in the code. `UPDATE_GOLDEN=1` writes it anew.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Write;
use std::path::Path;

use pillion_mesh::reason::{Kind, Reason};

const INTRODUCTION: &str = "\
# Reasons

Every connection ends with one reason. Its id is stable, and it is the same in the access log, in the label `reason` of
`pillion_connections_refused_total`, in the admin API and in the command-line tool.

<!-- Written by mesh/tests/reasons_page.rs from mesh/src/reason.rs: change it there. -->

| kind | what it means for the connection |
|---|---|
";

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for kind in Kind::ALL {
        writeln!(page, "| {} | {} |", kind.id(), kind.sentence()).unwrap();
    }
    page.push_str("\n| id | kind | what happened | what helps |\n|---|---|---|---|\n");
    for reason in Reason::ALL {
        let (id, kind) = (reason.id(), reason.kind().id());
        writeln!(page, "| [{id}](#{id}) | {kind} | {} | {} |", reason.sentence(), cure(*reason)).unwrap();
    }
    for reason in Reason::ALL {
        let (id, kind) = (reason.id(), reason.kind().id());
        write!(page, "\n### {id}\n\n{} ({kind})\n\n{}\n", reason.sentence(), cure(*reason)).unwrap();
    }
    page
}

fn cure(reason: Reason) -> &'static str {
    match reason.cure() {
        "" => "Nothing is wrong.",
        cure => cure,
    }
}

#[test]
fn the_reference_page_says_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/reasons.md");
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
    for reason in Reason::ALL {
        assert!(!reason.sentence().contains(['|', '\n']) && !reason.cure().contains(['|', '\n']), "{reason}");
    }
}
