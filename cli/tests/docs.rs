//! What the documentation shows is true: its commands run, or are such as there are; its configuration files pass `--check`,
//! its resources load, its links lead somewhere, the book has every page, and what lists of tests name is there.
// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::console::Console;
use pillion_mesh::resource::Resources;
use rstest::rstest;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every page that a person may read, by its path in the repository.
fn pages() -> Vec<String> {
    let mut pages = Vec::new();
    for folder in ["docs", "examples", "fuzz"] {
        gather(&root().join(folder), "md", &mut |path, _| pages.push(path.to_owned()));
    }
    pages.extend(
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name)),
    );
    pages.sort();
    pages.iter().map(|path| path.strip_prefix(root()).unwrap().display().to_string()).collect()
}

/// The fenced blocks of a page in a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| Some(rest.split_once("\n```")?.0.to_owned())).collect()
}

/// Every command of the page runs, one after the other, and prints what stands below it. `UPDATE_GOLDEN=1` writes the page
/// anew.
#[rstest]
#[case("docs/how-to/inject.md")]
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

/// The tutorial's commands, typed one after the other into one shell in a network of its own, print what it shows, but for
/// words with digits in them: times, ports, serials. What they leave running ends with the shell.
#[test]
fn the_first_steps_go_as_they_are_shown() {
    let name = "docs/tutorials/first-steps.md";
    let written = page(name);
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("examples"), folder.path().join("examples")).unwrap();
    let typed: Vec<String> = blocks(&written, "console").iter().flat_map(|block| commands(block)).collect();
    let script: String =
        typed.iter().map(|command| format!("{{ {command}\n}} 2>&1\nprintf '{NEXT}'\n")).collect();
    let Some(told) = in_a_network_of_its_own(folder.path(), &script) else { return };
    let mut told = told.split(NEXT);

    let mut seen = String::new();
    let mut parts = written.split("```console\n");
    seen += parts.next().unwrap();
    for part in parts {
        let (session, rest) = part.split_once("```").unwrap();
        let lines: String = commands(session)
            .iter()
            .map(|command| format!("$ {command}\n{}", told.next().unwrap_or_default()))
            .collect();
        // What differs in numbers only stays as it was written.
        let shown = if loosely(&lines) == loosely(session) { session } else { &lines };
        seen += &format!("```console\n{shown}```{rest}");
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(root().join(name), &seen).unwrap();
        return;
    }
    snapbox::assert_data_eq!(seen, snapbox::Data::text(written).raw());
}

/// A line that no command prints.
const NEXT: &str = "==== next ====\n";

fn loosely(text: &str) -> String {
    let word = |word: &str| {
        if word.contains(|c: char| c.is_ascii_digit()) { "#".to_owned() } else { word.to_owned() }
    };
    text.lines().map(|line| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ") + "\n").collect()
}

/// What a script prints; `None` where this machine lets nobody make namespaces.
fn in_a_network_of_its_own(folder: &Path, script: &str) -> Option<String> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let script = format!("ip link set lo up || exit 99\n{script}");
    let mut command = Command::new("timeout");
    command.args(["60", "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args((!is_root).then_some("--map-root-user")).args(["sh", "-c", &script]);
    let pillion = Path::new(env!("CARGO_BIN_EXE_pillion")).parent().unwrap().display().to_string();
    let path = format!("{pillion}:{}", std::env::var("PATH").unwrap());
    let output = command.current_dir(folder).env("PATH", path).output().unwrap();
    if output.stdout.is_empty() && !is_root {
        eprintln!("SKIPPED: no namespaces here: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// mdBook builds it, where `PILLION_TEST_MDBOOK` names it.
#[test]
fn the_book_is_built_and_every_link_in_it_leads_somewhere() {
    let Some(mdbook) = std::env::var_os("PILLION_TEST_MDBOOK") else {
        return common::skip("PILLION_TEST_MDBOOK names no mdbook");
    };
    let book = tempfile::tempdir().unwrap();
    let output = Command::new(mdbook)
        .current_dir(root())
        .args(["build", "--dest-dir"])
        .arg(book.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let (mut followed, mut faults) = (0, Vec::new());
    gather(book.path(), "html", &mut |page, text| {
        // Other pages' texts once more, seen from other places.
        if page.ends_with("print.html") || page.ends_with("404.html") || page.ends_with("toc.html") {
            return;
        }
        let text = text.split("<main>").nth(1).unwrap();
        for link in text.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let target = link.split('#').next().unwrap();
            followed += 1;
            if !target.contains("://") && !page.parent().unwrap().join(target).exists() {
                faults.push(format!("{}: {link}", page.display()));
            }
        }
    });
    assert!(followed > 200, "only {followed} links");
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn every_yaml_block_of_the_documentation_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let mut checked = 0;
    for name in &pages() {
        for block in blocks(&page(name), "yaml") {
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
                block if block.starts_with("hosts:\n") => &["lab"],
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
                .arg("--check")
                .args((program != ["lab"]).then_some("--config"))
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
        Err(error) => common::skip(&format!("docker-compose: {error}")),
    }
    for command in block.split("[pillion, ").skip(1).filter_map(|rest| rest.split(']').next()) {
        let words = command.split(", ").take_while(|word| *word != "--");
        let output = Command::new(env!("CARGO_BIN_EXE_pillion")).args(words).arg("--help").output().unwrap();
        assert!(output.status.success(), "{page}: pillion {command}: {output:?}");
    }
}

#[test]
fn every_relative_link_leads_to_a_file() {
    for name in &pages() {
        let folder = root().join(name).parent().unwrap().to_owned();
        for link in links(&page(name)) {
            let target = link.split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                assert!(folder.join(target).exists(), "{name} links to {link}, which is not there");
            }
        }
    }
}

/// Where the links of a text lead that stand in no block.
fn links(text: &str) -> Vec<String> {
    let outside = text.split("```").step_by(2).collect::<Vec<_>>().join("\n");
    outside.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// Headings are linked to by what the book and GitHub make of them.
#[test]
fn every_link_to_a_heading_leads_to_one() {
    for name in &pages() {
        let folder = root().join(name).parent().unwrap().to_owned();
        for link in links(&page(name)) {
            let Some((file, anchor)) = link.split_once('#').filter(|(file, _)| !file.contains("://")) else {
                continue;
            };
            let file = if file.is_empty() { root().join(name) } else { folder.join(file) };
            if file.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let there = fs::read_to_string(file).unwrap();
            let headings: Vec<_> =
                there.lines().filter(|line| line.starts_with('#')).map(anchor_of).collect();
            assert!(
                headings.iter().any(|heading| heading == anchor),
                "{name} links to {link}; there are {headings:?}"
            );
        }
    }
}

fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// `docs/SUMMARY.md` is the table of contents of the book, in the four kinds.
#[test]
fn every_page_is_in_the_book_once() {
    let summary = page("docs/SUMMARY.md");
    let mut listed: Vec<String> = links(&summary).iter().map(|link| format!("docs/{link}")).collect();
    listed.sort();
    let there = pages().into_iter().filter(|name| name.starts_with("docs/") && name != "docs/SUMMARY.md");
    assert_eq!(listed, there.collect::<Vec<_>>());
    for (kind, folder) in [
        ("Tutorials", "tutorials"),
        ("How to", "how-to"),
        ("Reference", "reference"),
        ("Explanation", "explanation"),
    ] {
        let part = summary.split("\n# ").find(|part| part.starts_with(kind)).unwrap();
        let astray = links(part).into_iter().find(|link| !link.starts_with(folder));
        assert_eq!(astray, None, "under {kind}");
    }
}

/// Programs of others that pages ask a reader to call, and the words `start` and `stop` of a lab's shell.
const OF_OTHERS: &[&str] = &[
    "apt-get",
    "awk",
    "bash",
    "cargo",
    "cat",
    "chromium",
    "cp",
    "curl",
    "cut",
    "date",
    "diff",
    "dig",
    "docker",
    "docker-compose",
    "echo",
    "env",
    "export",
    "firefox",
    "for",
    "getent",
    "git",
    "grep",
    "head",
    "id",
    "ip",
    "iptables",
    "journalctl",
    "jq",
    "kill",
    "kubectl",
    "ls",
    "mdbook",
    "mkdir",
    "mv",
    "nc",
    "node",
    "npm",
    "openssl",
    "ping",
    "printf",
    "promtool",
    "python3",
    "rm",
    "sed",
    "seq",
    "setpriv",
    "sh",
    "sleep",
    "sort",
    "ss",
    "ssh",
    "start",
    "stop",
    "systemctl",
    "tail",
    "tcpdump",
    "tee",
    "test",
    "touch",
    "tshark",
    "watch",
    "wc",
    "wireshark",
    "xargs",
];

/// Every command of ours that any page shows is one that our command line takes. Those of the pages above run as well.
#[test]
fn every_command_of_the_documentation_is_one_that_there_is() {
    let (mut taken, mut faults) = (0, Vec::new());
    for name in &pages() {
        let text = page(name);
        for line in
            blocks(&text, "console").iter().chain(&blocks(&text, "text")).flat_map(|block| commands(block))
        {
            for command in simple_commands(&line) {
                match judge(&command) {
                    Ok(is_ours) => taken += usize::from(is_ours),
                    Err(fault) => faults.push(format!("{name}: {line}\n{fault}")),
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(taken >= 30, "only {taken} commands of ours were found");
}

/// The commands of a block: behind `$ `, with the lines that go on behind a backslash.
fn commands(block: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in block.lines() {
        match line.trim_start().strip_prefix("$ ") {
            Some(command) => commands.push(command.to_owned()),
            None if goes_on => *commands.last_mut().unwrap() += line,
            None => continue,
        }
        let last = commands.last_mut().unwrap();
        goes_on = last.ends_with('\\');
        *last = last.trim_end_matches('\\').to_owned();
    }
    commands
}

/// The words of each simple command of a line of shell, without assignments and redirections.
fn simple_commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let (mut word, mut quote, mut in_word) = (String::new(), None, false);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => (quote, in_word) = (Some(c), true),
            (None, '#') if !in_word => break,
            (None, ' ' | '|' | ';' | '&' | '(' | ')') => {
                let is_descriptor = c == '&' && word.ends_with('>');
                if is_descriptor {
                    word.push(c);
                    continue;
                }
                if in_word {
                    commands.last_mut().unwrap().push(std::mem::take(&mut word));
                }
                in_word = false;
                if c != ' ' {
                    commands.push(Vec::new());
                }
            }
            (None, c) => {
                word.push(c);
                in_word = true;
            }
        }
    }
    if in_word {
        commands.last_mut().unwrap().push(word);
    }
    let is_assignment = |word: &String| {
        word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    let is_redirection =
        |word: &String| word.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(['<', '>']);
    commands
        .into_iter()
        .map(|words| {
            let words = words.into_iter().skip_while(is_assignment);
            // `do` and `then` stand before a command.
            let words = words.skip_while(|word| {
                matches!(word.as_str(), "do" | "then" | "until" | "while" | "{" | "}" | "done" | "fi")
            });
            words.take_while(|word| !is_redirection(word)).collect()
        })
        .filter(|words: &Vec<String>| !words.is_empty())
        .collect()
}

/// Whether it is one of ours, which is then one that is taken.
fn judge(words: &[String]) -> Result<bool, String> {
    let words = match words {
        // In the shell of a lab: on HOST COMMAND.
        [on, _, rest @ ..] if on == "on" => rest,
        [docker, compose, exec, rest @ ..] if [docker, compose, exec] == ["docker", "compose", "exec"] => {
            let at = rest.iter().position(|word| is_ours(word));
            at.map_or(words, |at| &rest[at..])
        }
        [sudo, rest @ ..] if sudo == "sudo" => rest,
        words => words,
    };
    let Some((program, arguments)) = words.split_first() else { return Ok(false) };
    if program == "cargo" && arguments.iter().any(|word| word == "pillion") {
        let at =
            arguments.iter().position(|word| word == "--").ok_or("expected -- behind cargo's arguments")?;
        return takes("pillion", &arguments[at + 1..]);
    }
    if is_ours(program) {
        return takes(program, arguments);
    }
    if OF_OTHERS.contains(&program.as_str()) || program.contains('/') {
        return Ok(false);
    }
    Err(format!("`{program}` is no command of ours; if it is another's, write it into OF_OTHERS"))
}

fn is_ours(word: &str) -> bool {
    matches!(word, "pillion" | "pillion-proxy" | "pillion-ca" | "pillion-iptables")
}

/// A command line is read up to `--help`, so what stands before it is judged and nothing is done.
fn takes(program: &str, arguments: &[String]) -> Result<bool, String> {
    let folder = tempfile::tempdir().unwrap();
    let called = folder.path().join(program);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pillion"), &called).unwrap();
    let arguments = arguments.iter().take_while(|word| *word != "--");
    let output = Command::new(called).args(arguments).arg("--help").output().unwrap();
    if output.status.success() { Ok(true) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// The steps that README shows are the demo's.
#[test]
fn the_readme_shows_the_steps_of_the_demo() {
    let mut sources = String::new();
    gather(&root().join("cli/src/demo"), "rs", &mut |_, text| sources.push_str(&text));
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
        gather(&root().join(folder), "rs", &mut |_, text| sources.push_str(&text));
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
        gather(&root().join(folder), "rs", &mut |_, text| sources.push_str(&text));
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

/// Hands on every file of a kind below a folder.
fn gather(folder: &Path, extension: &str, take: &mut impl FnMut(&Path, String)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            gather(&path, extension, take);
        } else if path.extension().is_some_and(|there| there == extension) {
            take(&path, fs::read_to_string(&path).unwrap());
        }
    }
}
