//! What `pillion completion` prints and `pillion man` writes, as shells and `man` take it.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rstest::rstest;

const PILLION: &str = env!("CARGO_BIN_EXE_pillion");

fn pillion(arguments: &[&str]) -> String {
    let output = Command::new(PILLION).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Commands, flags of a command, values of a flag; of the tools that read their arguments themselves too.
#[rstest]
#[case::commands("pillion d", "describe")]
#[case::below("pillion authz ", "check")]
#[case::flags("pillion run --keep", "--keep-sidecar")]
#[case::values("pillion describe -o ", "yaml")]
#[case::shells("pillion completion f", "fish")]
#[case::sidecar("pillion proxy --config", "--config")]
#[case::ca("pillion ca tok", "token")]
#[case::rules("pillion iptables ap", "apply")]
fn bash_completes(#[case] typed: &str, #[case] offered: &str) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("script"), pillion(&["completion", "bash"])).unwrap();
    let words: Vec<&str> = typed.split(' ').collect();
    let [last, before] = [1, 2].map(|back| words[words.len() - back]);
    let session = format!(
        ". ./script; COMP_WORDS=({}); COMP_CWORD={}; _pillion pillion '{last}' '{before}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
        words.len() - 1,
    );
    let output = Command::new("bash").args(["-c", &session]).current_dir(folder.path()).output().unwrap();
    let reply = String::from_utf8(output.stdout).unwrap();
    assert!(
        reply.lines().any(|line| line == offered),
        "{typed:?}: {reply:?} {:?}",
        String::from_utf8(output.stderr)
    );
}

#[rstest]
#[case("bash", "complete -F _pillion")]
#[case("zsh", "#compdef pillion\n")]
#[case("fish", "complete -c pillion")]
fn each_shell_has_a_script_that_it_can_read(#[case] shell: &str, #[case] holds: &str) {
    let script = pillion(&["completion", shell]);
    assert!(script.contains(holds) && script.contains("keep-sidecar"), "{shell}");
    assert!(!script.contains("check-lab"), "{shell} offers what is hidden");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &script).unwrap();
    match Command::new(shell).arg("-n").arg(file.path()).output() {
        Ok(judged) => assert!(judged.status.success() && judged.stderr.is_empty(), "{judged:?}"),
        Err(_) => eprintln!("NOT READ: there is no {shell} here"),
    }
}

#[test]
fn man_has_a_page_for_each_command_and_can_show_it() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("share/man1");
    pillion(&["man", &pages.display().to_string()]);
    for (page, holds) in [
        ("pillion.1", "pillion-describe(1)"),
        ("pillion-run.1", "--keep-sidecar"),
        ("pillion-authz-check.1", "--from"),
        ("pillion-proxy.1", "--config"),
        ("pillion-ca-root-status.1", "--config"),
        ("pillion-iptables-explain.1", "pillion-iptables-explain"),
    ] {
        let shown = show(&pages.join(page));
        assert!(shown.is_none_or(|shown| shown.contains(holds)), "{page} does not show {holds}");
    }
    assert!(!pages.join("pillion-check-lab.1").exists(), "it is nobody's command");
}

/// As a terminal shows it, without any complaint; `None` where there is no `man`.
fn show(page: &Path) -> Option<String> {
    assert!(page.exists(), "{}", page.display());
    let mut man = Command::new("man");
    man.args(["--warnings", "-E", "UTF-8", "-l"]).arg(page).env("MANWIDTH", "200").stdin(Stdio::null());
    let Ok(output) = man.output() else {
        eprintln!("NOT SHOWN: there is no man here");
        return None;
    };
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    // A terminal has bold letters as letter, backspace, letter; hyphens of options are hyphens.
    Some(text.split('\u{8}').map(str::to_owned).collect())
}

#[test]
fn pages_that_cannot_be_written_are_an_error_with_the_folder() {
    let output = Command::new(PILLION).args(["man", "/proc/nowhere"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/proc/nowhere: "));
}
