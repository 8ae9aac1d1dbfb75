//! Cases that a person reads: `tests/asked/NAME.yaml` is a mesh folder in one file, with what is asked of it in its
//! comments; `NAME.expected` holds the answers. `UPDATE_GOLDEN=1` writes them anew.
//!
//! ```text
//! # describe: NAMESPACE/SERVICE-ACCOUNT NAME=VALUE…
//! # table: NAMESPACE/SERVICE-ACCOUNT NAME=VALUE…
//! # ask: NAMESPACE/SERVICE-ACCOUNT NAME=VALUE… ? from=… port=… …
//! # matrix
//! ```

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fmt::{Debug, Display, Write};
use std::path::Path;

use pillion_mesh::ask::{Question, ask, matrix, table};
use pillion_mesh::describe::describe;
use pillion_mesh::known::known_workloads;
use pillion_mesh::policy::Snapshot;
use pillion_mesh::resource::Resources;
use pillion_mesh::workload::{MeshConfig, Workload};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn workload(text: &str) -> Workload {
    let mut words = text.split(' ');
    let (namespace, account) = words.next().unwrap().split_once('/').unwrap();
    let label =
        |word: &str| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
    Workload {
        name: account.to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: namespace.to_owned(),
        service_account: account.to_owned(),
        labels: words.map(label).collect(),
    }
}

/// As it is printed, once it has gone over the wire.
fn told<T: Serialize + DeserializeOwned + PartialEq + Debug + Display>(answer: &T) -> String {
    let over_the_wire: T = serde_json::from_str(&serde_json::to_string(answer).unwrap()).unwrap();
    assert_eq!(over_the_wire, *answer);
    over_the_wire.to_string()
}

fn answer(resources: &Resources, question: &str) -> String {
    let config = MeshConfig::default();
    let (kind, rest) = question.split_once(": ").unwrap_or((question, ""));
    let of = |workload: &Workload| Snapshot::build(resources, workload, &config);
    match kind {
        "describe" => {
            let workload = workload(rest);
            told(&describe(&of(&workload), &workload, &BTreeSet::new()))
        }
        "table" => {
            let workload = workload(rest);
            told(&table(&of(&workload), &workload))
        }
        "ask" => {
            let (who, parts) = rest.split_once(" ? ").unwrap();
            let workload = workload(who);
            let question = Question::parse(parts.split(' ').filter_map(|part| part.split_once('='))).unwrap();
            told(&ask(&of(&workload), &workload, &question))
        }
        "matrix" => told(&matrix(resources, &known_workloads(resources, &[], &config))),
        other => panic!("{other}"),
    }
}

#[test]
fn each_question_is_answered_as_expected() {
    const KINDS: [&str; 4] = ["describe: ", "table: ", "ask: ", "matrix"];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/asked");
    let mut questions = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut resources = Resources::default();
        resources.read("mesh.yaml", &text).unwrap();
        let comments = text.lines().filter_map(|line| line.strip_prefix("# "));
        let mut seen = String::new();
        for question in comments.filter(|line| KINDS.iter().any(|kind| line.starts_with(kind))) {
            writeln!(seen, "# {question}\n{}\n", answer(&resources, question)).unwrap();
            questions += 1;
        }
        let expected = path.with_extension("expected");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&expected, &seen).unwrap();
        }
        let expected = std::fs::read_to_string(&expected).unwrap_or_default();
        snapbox::assert_data_eq!(seen, snapbox::Data::text(expected).raw());
    }
    assert!(questions >= 15, "only {questions} questions");
}
