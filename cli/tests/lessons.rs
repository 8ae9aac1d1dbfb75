//! The lessons of examples/lessons: each is played with real processes, and says of itself whether it went as it claims; and
//! the command that leads through them.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pillion_cli::lab::Way;
use rstest::rstest;
use rustix::process::{Pid, Signal, kill_process};

use common::{PILLION, skip};

/// The folders of the lessons, in their order.
fn lessons() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/lessons");
    let mut folders: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

/// Whether lessons can be played here. Under CI a skip is a failure.
fn can_play() -> bool {
    match Way::here() {
        Ok(Way::Root) => true,
        Ok(way) => {
            skip(&format!("the lessons are written for root; possible is: {way}"));
            false
        }
        Err(error) => {
            skip(&error.to_string());
            false
        }
    }
}

/// The output in one, and the exit code.
fn told(output: &Output) -> (String, Option<i32>) {
    let text = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    (text, output.status.code())
}

/// As in `.ci/run`: `PATH` with the binary under test before everything else.
fn path() -> String {
    format!("{}:{}", Path::new(PILLION).parent().unwrap().display(), std::env::var("PATH").unwrap())
}

#[rstest]
fn a_lesson_goes_as_it_says(#[files("../examples/lessons/*/run")] script: PathBuf) {
    if !can_play() {
        return;
    }
    let (text, code) = told(&Command::new(&script).env("PATH", path()).output().unwrap());
    if code == Some(125) && text.contains("needs") {
        return skip(&text);
    }
    assert_eq!(code, Some(0), "{}:\n{text}", script.display());
    assert!(text.contains("All as the lesson says."), "{text}");
}

#[test]
fn an_installed_binary_plays_a_lesson_without_the_repository() {
    if !can_play() {
        return;
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = Command::new(PILLION);
    command.args(["lesson", "run", "1"]).current_dir(elsewhere.path());
    let (text, code) = told(&command.output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("All as the lesson says."), "{text}");
}

/// The claim that fails is a call that the lesson expects to be answered.
#[test]
fn a_lesson_that_does_not_go_as_it_says_fails_at_the_claim() {
    if !can_play() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let copied = Command::new(PILLION).args(["lesson", "copy", "1"]).arg(folder.path()).output().unwrap();
    assert!(copied.status.success(), "{copied:?}");
    let lesson = folder.path().join("01-plaintext");
    let script = fs::read_to_string(lesson.join("run")).unwrap();
    fs::write(lesson.join("run"), script.replace(r#""target":"/login"#, r#""target":"/logout"#)).unwrap();
    let (text, code) = told(&Command::new(lesson.join("run")).env("PATH", path()).output().unwrap());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("× expected: \"target\":\"/logout"), "{text}");
}

#[test]
fn the_list_shows_every_lesson_with_its_title() {
    let (text, code) = told(&Command::new(PILLION).args(["lesson", "list"]).output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    let lines: Vec<&str> =
        text.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit())).collect();
    assert_eq!(lines.len(), lessons().len());
    assert_eq!(lines[0], "01  Plaintext on the wire");
}

#[rstest]
#[case(&["lesson", "run", "99"], 2, "expected a lesson from 01 to 14, got 99")]
#[case(&["lesson", "show", "x"], 2, "pillion lesson list")]
#[case(&["lab", "/nonexistent.yaml"], 2, "/nonexistent.yaml: No such file")]
fn what_is_not_there_is_named(#[case] arguments: &[&str], #[case] code: i32, #[case] words: &str) {
    let (text, seen) = told(&Command::new(PILLION).args(arguments).output().unwrap());
    assert_eq!(seen, Some(code), "{text}");
    assert!(text.contains(words), "{text}");
}

/// Aim, what to look at, commands, experiments, and where it is in the code.
#[test]
fn each_readme_leads_a_learner_and_names_code_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (n, lesson) in lessons().iter().enumerate() {
        let name = lesson.display();
        let text = fs::read_to_string(lesson.join("README.md")).unwrap();
        assert!(text.starts_with(&format!("# Lesson {}: ", n + 1)), "{name}");
        let part = |heading: &str| {
            let rest = text.split(&format!("\n## {heading}\n")).nth(1);
            rest.unwrap_or_else(|| panic!("{name} has no {heading}")).split("\n## ").next().unwrap()
        };
        assert!(part("What to look at").contains("\n- "), "{name}");
        assert!(part("By hand").contains("$ pillion lab lab.yaml\n"), "{name}");
        for number in 1..=3 {
            assert!(
                part("Break it yourself").contains(&format!("\n{number}. ")),
                "{name}: experiment {number}"
            );
        }
        let rows: Vec<&str> =
            part("Where in the code").lines().filter(|line| line.starts_with("| [")).collect();
        assert!(rows.len() >= 3, "{name}");
        for row in rows {
            let [file, function, says] =
                row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>()[..]
            else {
                panic!("{name}: three columns: {row}");
            };
            let file = file.trim_start_matches('[').split(']').next().unwrap();
            let source =
                fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{name}: {file}: {error}"));
            let function = function.trim_matches('`');
            assert!(source.contains(&format!("fn {function}")), "{name}: {file} has no {function}");
            let says = says.trim_matches('`');
            assert!(says == "-" || source.contains(says), "{name}: {file} does not say {says:?}");
        }
    }
}

/// A lab that is told to run `script` by sh.
fn lab(description: &str, script: &str) -> Command {
    let folder = tempfile::tempdir().unwrap().keep();
    let file = folder.join("lab.yaml");
    fs::write(&file, description).unwrap();
    let mut command = Command::new(PILLION);
    command.arg("lab").arg(file).args(["--", "sh", "-c", script]);
    command
}

#[test]
fn a_lab_ends_with_the_status_of_its_command_and_is_gone_then() {
    if !can_play() {
        return;
    }
    let script = "echo lab=$LAB; on a true && on b getent hosts a; exit 7";
    let (text, code) = told(&lab("hosts: [{name: a}, {name: b}]\n", script).output().unwrap());
    assert_eq!(code, Some(7), "{text}");
    assert!(text.contains("10.83.0.2"), "{text}");
    let folder = text.lines().find_map(|line| line.strip_prefix("lab=")).unwrap();
    assert!(!Path::new(folder).exists(), "{folder}");
    assert_eq!(namespaces_of(Path::new(folder)), Vec::<String>::new());
}

/// A supervisor's SIGTERM reaches the command, and the namespaces are gone before the lab has ended.
#[test]
fn a_lab_that_is_told_to_end_takes_everything_down() {
    if !can_play() {
        return;
    }
    let mut command = lab("hosts: [{name: a}]\n", "echo $LAB; exec sleep 100");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut folder = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut folder).unwrap();
    let folder = Path::new(folder.trim());
    assert!(folder.exists());
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!folder.exists());
    assert_eq!(namespaces_of(folder), Vec::<String>::new());
}

/// The network namespaces of the lab with this folder.
fn namespaces_of(folder: &Path) -> Vec<String> {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let prefix = name.rsplit_once('-').unwrap().0.to_owned();
    let names = fs::read_dir("/run/netns").into_iter().flatten();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

#[test]
fn a_sidecar_of_a_lab_is_stopped_and_started_again_by_name() {
    if !can_play() {
        return;
    }
    let script = "
        on web pillion wait --timeout 1s || exit 1
        stop web
        on web pillion wait --timeout 0s && exit 2
        start web && on web pillion wait --timeout 1s || exit 3
        stop -KILL ca; start ca || exit 4
        start legacy; [ $? -eq 2 ] || exit 5
        stop legacy; [ $? -eq 2 ] || exit 6";
    let (text, code) =
        told(&lab("hosts: [{name: web, sidecar: {}}, {name: legacy}]\n", script).output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("legacy has no sidecar in this lab"), "{text}");
}
