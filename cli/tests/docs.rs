//! What the documentation shows is true: its configuration files pass `--check`, its resources load, its links lead
//! somewhere, and each security requirement that it lists has a test.
// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::console::Console;
use pillion_mesh::resource::Resources;
use rstest::rstest;

const PAGES: [&str; 21] = [
    "README.md",
    "docs/explanation/complaints.md",
    "docs/explanation/measuring.md",
    "docs/how-to/bench.md",
    "docs/how-to/certificates.md",
    "docs/how-to/compose.md",
    "docs/how-to/explain.md",
    "docs/how-to/gateway.md",
    "docs/how-to/jobs.md",
    "docs/how-to/machines.md",
    "docs/how-to/outside.md",
    "docs/how-to/policies.md",
    "docs/how-to/roots.md",
    "docs/how-to/spiffe.md",
    "docs/reference/ca.md",
    "docs/reference/metrics.md",
    "docs/reference/settings.md",
    "examples/compose/README.md",
    "examples/labs/strict/README.md",
    "examples/monitoring/README.md",
    "examples/zero-trust/README.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The fenced `yaml` blocks of a page.
fn yaml_blocks(text: &str) -> Vec<String> {
    text.split("```yaml\n").skip(1).filter_map(|rest| Some(rest.split_once("\n```")?.0.to_owned())).collect()
}

/// Every command of the page runs, one after the other, and prints what stands below it. `UPDATE_GOLDEN=1` writes the page
/// anew.
#[rstest]
#[case("docs/how-to/jobs.md")]
#[case("docs/how-to/policies.md")]
fn the_page_shows_what_its_commands_print(#[case] name: &str) {
    let written = page(name);
    let console = Console::new();
    let mut blocks = written.split("```console\n");
    let mut seen = blocks.next().unwrap().to_owned();
    for block in blocks {
        let (session, rest) = block.split_once("```").unwrap();
        // What follows a command is enough to tell commands apart; exit codes are the text's to tell.
        let lines = console.replay(session).replace("\n\n$ ", "\n$ ");
        let lines: String = lines.split_inclusive('\n').filter(|line| !line.starts_with("? ")).collect();
        seen += &format!("```console\n{lines}```{rest}");
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(root().join(name), &seen).unwrap();
        return;
    }
    snapbox::assert_data_eq!(seen, snapbox::Data::text(written).raw());
}

#[test]
fn every_yaml_block_of_the_documentation_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let mut checked = 0;
    for name in PAGES {
        for block in yaml_blocks(&page(name)) {
            checked += 1;
            if block.starts_with("services:\n") {
                assert_is_compose(name, &block);
                continue;
            }
            if block.contains("inbound:\n  command:") {
                // A proxy for `pillion bench`, which a test of its own reads.
                continue;
            }
            if block.contains("kind: ") {
                Resources::default().read(name, &block).unwrap_or_else(|error| panic!("{error}\n{block}"));
                continue;
            }
            let program: &[&str] = match &block {
                block if block.starts_with("# agent.yaml\n") => &["ca", "agent"],
                block if block.contains("registrations") => &["ca", "serve"],
                _ => &["proxy"],
            };
            // The page's mesh folder is not on this machine; an empty one stands in for it.
            let block = block.replace("/etc/pillion/mesh", &folder.path().display().to_string());
            let file = folder.path().join("settings.conf");
            fs::write(&file, &block).unwrap();
            let output = Command::new(env!("CARGO_BIN_EXE_pillion"))
                .args(program)
                .args(["--check", "--config"])
                .arg(&file)
                .output()
                .unwrap();
            assert!(output.status.success(), "{name}:\n{block}\n{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    assert!(checked >= 6, "only {checked} blocks were found");
}

/// Part of a compose file, whose other services are said to be as elsewhere: docker-compose judges it where it is installed,
/// and pillion its own arguments.
fn assert_is_compose(page: &str, block: &str) {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = "version: '3.9'\nservices: {report-net: {image: net}, report-proxy: {image: proxy}}\n";
    for (name, text) in [("compose.yaml", elsewhere), ("part.yaml", &format!("version: '3.9'\n{block}"))] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let mut judge = Command::new("docker-compose");
    judge.current_dir(folder.path()).args(["-f", "compose.yaml", "-f", "part.yaml", "config", "-q"]);
    match judge.output() {
        Ok(output) => assert!(output.status.success(), "{page}:\n{block}\n{output:?}"),
        Err(error) => eprintln!("SKIPPED, docker-compose: {error}"),
    }
    for command in block.split("[pillion, ").skip(1).filter_map(|rest| rest.split(']').next()) {
        let words = command.split(", ").take_while(|word| *word != "--");
        let output = Command::new(env!("CARGO_BIN_EXE_pillion")).args(words).arg("--help").output().unwrap();
        assert!(output.status.success(), "{page}: pillion {command}: {output:?}");
    }
}

#[test]
fn every_relative_link_leads_to_a_file() {
    let pages =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/README.md", "docs/explanation/envoy.md"]
            .into_iter()
            .chain(PAGES);
    for name in pages {
        let folder = root().join(name).parent().unwrap().to_owned();
        for link in page(name).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                assert!(folder.join(target).exists(), "{name} links to {link}, which is not there");
            }
        }
    }
}

/// The steps that README shows are the demo's.
#[test]
fn the_readme_shows_the_steps_of_the_demo() {
    let mut sources = String::new();
    gather(&root().join("cli/src/demo"), &mut sources);
    let readme = page("README.md");
    let shown = readme.split("```text\n").nth(1).unwrap().split("\n```").next().unwrap();
    let steps: Vec<_> = shown
        .lines()
        .filter_map(|line| line.split_once("  "))
        .filter(|(number, _)| number.parse::<u8>().is_ok())
        .map(|(_, title)| title)
        .collect();
    assert_eq!(steps.len(), 7);
    for title in steps {
        assert!(sources.contains(title), "the demo has no step {title:?}");
    }
}

#[test]
fn every_security_requirement_has_a_test_that_names_it() {
    let mut sources = String::new();
    for folder in ["mesh", "proxy", "ca", "iptables", "cli"] {
        gather(&root().join(folder), &mut sources);
    }
    let listed: Vec<u32> = page("docs/reference/security.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(listed, (1..=40).collect::<Vec<_>>());
    for number in listed {
        assert!(sources.contains(&format!("req_{number:02}_")), "no test names requirement {number}");
    }
}

/// Every complaint of the page has tests behind it, and they exist.
#[test]
fn every_complaint_has_tests_that_are_there() {
    let mut sources = String::new();
    for folder in ["mesh", "proxy", "ca", "iptables", "cli"] {
        gather(&root().join(folder), &mut sources);
    }
    let page = page("docs/explanation/complaints.md");
    let mut numbers = Vec::new();
    for row in page.lines() {
        let cells: Vec<_> = row.split(" | ").collect();
        let Some(number) = cells[0].strip_prefix("| ").and_then(|number| number.parse::<u32>().ok()) else {
            continue;
        };
        numbers.push(number);
        let tests: Vec<_> = cells.last().unwrap().split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "complaint {number} names no test");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}(")), "complaint {number}: there is no test {test}");
        }
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=25).collect::<Vec<_>>());
}

fn gather(folder: &Path, sources: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}
