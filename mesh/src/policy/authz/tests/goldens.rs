//! Cases that a person reads: `tests/authz/cases/NAME.yaml` holds policies, and in its comments the workload and what is
//! asked; `NAME.expected` holds the explanations. `UPDATE_GOLDEN=1` writes them anew.

use std::fmt::Write;
use std::path::Path;

use super::ask::{ask, policies};
use crate::resource::Resources;

#[test]
fn each_case_is_explained_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/authz/cases");
    let mut cases = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let seen = explained(&std::fs::read_to_string(&path).unwrap());
        let expected = path.with_extension("expected");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&expected, &seen).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&expected).unwrap(), seen, "{}", path.display());
        cases += 1;
    }
    assert!(cases >= 8, "only {cases} cases in {}", folder.display());
}

fn explained(text: &str) -> String {
    assert!(Resources::default().read("case.yaml", text).is_ok());
    let said = |what: &str| text.lines().filter_map(move |line| line.strip_prefix(what)).collect::<Vec<_>>();
    let aliases: Vec<&str> = said("# aliases: ").into_iter().flat_map(|line| line.split(' ')).collect();
    let policies = policies(text, said("# workload: ")[0], &aliases);
    let mut explained = String::new();
    for line in said("# ask: ") {
        writeln!(explained, "? {line}").unwrap();
        match ask(line) {
            Ok(ask) => {
                let explanation = policies.explain(&ask.facts());
                assert_eq!(explanation.verdict, policies.authorize(&ask.facts()), "{line}");
                writeln!(explained, "{explanation}\n").unwrap();
            }
            Err(refused) => writeln!(explained, "refused: {refused}\n").unwrap(),
        }
    }
    explained
}
