//! Cases that a person reads: `tests/analyze/NAME.yaml` is a mesh folder in one file, with the sidecars whose settings are
//! at hand in its comments (`# sidecar: namespace/service-account name=value`), files that are not read (`# skipped: name`)
//! and the beginning of another file (`# ---- another file`); `NAME.expected` is what is found in it. `UPDATE_GOLDEN=1`
//! writes them anew.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use pillion_mesh::analyze::analyze;
use pillion_mesh::finding::{Code, Finding};
use pillion_mesh::known::Sidecar;
use pillion_mesh::resource::Resources;
use pillion_mesh::workload::{MeshConfig, Workload};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/analyze");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|ext| ext == "yaml")).collect();
    cases.sort();
    cases
}

/// `# sidecar: namespace/account label=value…`, or `# edge: …` for one that stands beside no app.
fn sidecar(line: &str) -> Option<Sidecar> {
    let (accepts, line) = line
        .strip_prefix("# sidecar: ")
        .map(|line| (true, line))
        .or_else(|| Some((false, line.strip_prefix("# edge: ")?)))?;
    let mut words = line.split(' ');
    let (namespace, account) = words.next().unwrap().split_once('/').unwrap();
    let label =
        |word: &str| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
    let workload = Workload {
        name: account.to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: namespace.to_owned(),
        service_account: account.to_owned(),
        labels: words.map(label).collect(),
    };
    Some(Sidecar { workload, config: MeshConfig::default(), place: format!("{account}.conf"), accepts })
}

fn found(text: &str) -> Vec<Finding> {
    let sidecars: Vec<Sidecar> = text.lines().filter_map(sidecar).collect();
    let skipped = text.lines().filter_map(|line| line.strip_prefix("# skipped: ")).map(str::to_owned);
    let mut resources = Resources { skipped: skipped.collect(), ..Resources::default() };
    for (number, part) in text.split("# ---- another file\n").enumerate() {
        let name = if number == 0 { "mesh.yaml".to_owned() } else { format!("mesh-{}.yaml", number + 1) };
        if let Err(fault) = resources.read(&name, part) {
            resources.unread.push(fault.into());
        }
    }
    analyze(&resources, &sidecars, &MeshConfig::default())
}

fn in_words(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "nothing\n".to_owned();
    }
    let mut words = String::new();
    for Finding { code, severity, place, message, cure, workloads } in findings {
        let whose =
            if workloads.is_empty() { String::new() } else { format!(" for {}", workloads.join(", ")) };
        writeln!(words, "{severity} {code} {place}{whose}\n  {message}\n  cure: {cure}").unwrap();
    }
    words
}

#[test]
fn each_case_has_exactly_the_findings_that_it_should() {
    let cases = cases();
    for path in &cases {
        let seen = in_words(&found(&std::fs::read_to_string(path).unwrap()));
        let expected = path.with_extension("expected");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&expected, &seen).unwrap();
        }
        let expected = std::fs::read_to_string(&expected).unwrap_or_default();
        snapbox::assert_data_eq!(seen, snapbox::Data::text(expected).raw());
    }
    assert!(cases.len() >= 25, "only {} cases", cases.len());
}

/// A code that no case shows is one that nobody has seen work.
#[test]
fn every_code_is_found_in_some_case() {
    let seen: BTreeSet<Code> = cases()
        .iter()
        .flat_map(|path| found(&std::fs::read_to_string(path).unwrap()))
        .map(|finding| finding.code)
        .collect();
    // Of settings, not of resources: `pillion analyze` finds it itself.
    let of_folder = |code: &&Code| **code != Code::SecretsWritten;
    let unseen: Vec<&Code> = Code::ALL.iter().filter(of_folder).filter(|code| !seen.contains(code)).collect();
    assert!(unseen.is_empty(), "no case shows {unseen:?}");
}
