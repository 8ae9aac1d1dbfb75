//! The demo as a person runs it: the binary, its exit code, what it leaves behind.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use pillion_cli::lab::{LabError, Way, check_user_namespace, wait_until};
use rstest::rstest;
use rustix::process::{Pid, Signal, kill_process};

const PILLION: &str = env!("CARGO_BIN_EXE_pillion");

/// More than the demo may take on a slow machine.
const WHOLE: Duration = Duration::from_secs(90);

const SOON: Duration = Duration::from_secs(10);

/// A running demo, killed when dropped.
struct Demo {
    child: Child,
    output: BufReader<ChildStdout>,
    read: String,
}

impl Demo {
    fn start(args: &[&str]) -> Self {
        Self::run(Command::new(PILLION).arg("demo").args(args))
    }

    fn run(command: &mut Command) -> Self {
        // The person's own environment is not the mesh's.
        let command = command.env("RUST_LOG", "error").env("PILLION_MESH", "/nowhere");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output, read: String::new() }
    }

    /// Reads up to the line that contains `text`.
    fn read_to(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "no {text:?} in:\n{}", self.read);
            self.read.push_str(&line);
            if line.contains(text) {
                return line;
            }
        }
    }

    fn end(&mut self) -> (ExitStatus, String) {
        self.output.read_to_string(&mut self.read).unwrap();
        let status = wait_until(WHOLE, "the end of the demo", || Ok(self.child.try_wait().unwrap())).unwrap();
        (status, std::mem::take(&mut self.read))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Namespaces and folders by its name.
    fn traces(&self) -> Vec<String> {
        let prefix = format!("pillion-{}-", self.child.id());
        let names = |folder: &str| {
            let entries = fs::read_dir(folder).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        let temporary = std::env::temp_dir();
        let mut traces = [names("/run/netns"), names(temporary.to_str().unwrap())].concat();
        traces.retain(|name| name.starts_with(&prefix));
        traces
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a way can be gone here. Where it cannot the test is skipped, or fails under CI.
fn possible(way: &str) -> bool {
    let possible = match way {
        "root" => Way::here().and_then(|way| match way {
            Way::Root => Ok(()),
            other => Err(LabError::Impossible(other.to_string())),
        }),
        "user-namespace" => check_user_namespace(PILLION.as_ref(), &["check-lab"]),
        _ => Ok(()),
    };
    if let Err(error) = &possible {
        assert!(std::env::var("CI").is_ok_and(|ci| ci == "true"), "{error}");
        eprintln!("SKIPPED: {error}");
    }
    possible.is_ok()
}

#[rstest]
#[case::root("root")]
#[case::user_namespace("user-namespace")]
#[case::loopback("loopback")]
fn the_demo_tells_the_same_story_each_way(#[case] way: &str) {
    if !possible(way) {
        return;
    }
    let mut demo = Demo::start(&["--way", way]);
    let (status, text) = demo.end();
    assert!(status.success(), "{status}\n{text}");
    for told in [
        "7 of 7 as expected",
        "spiffe://cluster.local/ns/default/sa/frontend",
        "spiffe://cluster.local/ns/default/sa/backend",
        "TLSv1.3, X25519MLKEM768",
        "the name is not found in",
        "the name is found in",
        "ECONNRESET",
        "strict_plaintext",
        ": 0 failed",
    ] {
        assert!(text.contains(told), "no {told:?} in:\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "colours where there is no terminal");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "too wide:\n{text}");
    assert_eq!(demo.traces(), [""; 0]);
}

#[test]
fn where_neither_root_nor_a_user_namespace_is_possible_the_demo_says_so_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let unshare = folder.path().join("unshare");
    fs::write(&unshare, "#!/bin/sh\necho 'unshare: Operation not permitted' >&2; exit 1\n").unwrap();
    fs::set_permissions(&unshare, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let mut demo = Demo::run(Command::new(PILLION).arg("demo").env("PATH", path));
    let (status, text) = demo.end();
    assert!(status.success(), "{status}\n{text}");
    assert!(text.contains("Built from loopback") && text.contains("Operation not permitted"), "{text}");
}

#[rstest]
#[case::ctrl_c(Signal::INT)]
#[case::supervisor(Signal::TERM)]
fn a_signal_in_the_middle_takes_everything_down(#[case] signal: Signal) {
    if !possible("root") {
        return;
    }
    let mut demo = Demo::start(&["--way", "root"]);
    demo.read_to("That call, on the wire");
    assert!(!demo.traces().is_empty());
    demo.signal(signal);
    let (status, text) = demo.end();
    assert_eq!(status.code(), Some(130), "{text}");
    assert_eq!(demo.traces(), [""; 0]);
}

#[test]
fn what_differs_from_the_expected_is_a_failure() {
    if !possible("root") {
        return;
    }
    let mut demo = Demo::start(&["--way", "root"]);
    demo.read_to("A client without a sidecar");
    kill_the_backends_sidecar(demo.child.id());
    let (status, text) = demo.end();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("This is not what was expected.") && !text.contains("7 of 7"), "{text}");
    assert_eq!(demo.traces(), [""; 0]);
}

fn kill_the_backends_sidecar(demo: u32) {
    let namespace = format!("pillion-{demo}-0-backend");
    let pids = Command::new("ip").args(["netns", "pids", &namespace]).output().unwrap().stdout;
    let sidecar = String::from_utf8(pids)
        .unwrap()
        .lines()
        .map(|pid| pid.trim().parse::<i32>().unwrap())
        .find(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().contains("\0proxy\0"))
        .unwrap();
    kill_process(Pid::from_raw(sidecar).unwrap(), Signal::KILL).unwrap();
}

#[rstest]
#[case::root("root")]
#[case::user_namespace("user-namespace")]
#[case::loopback("loopback")]
fn a_kept_mesh_stays_until_a_signal(#[case] way: &str) {
    if !possible(way) {
        return;
    }
    // So that the page has to go elsewhere, also when the test runs twice at the same time.
    let _taken = TcpListener::bind("127.0.0.1:8080");
    let mut demo = Demo::start(&["--way", way, "--keep"]);
    demo.read_to("the frontend's page");
    let url = demo.read_to("http://").trim().to_owned();
    let browser = ["--silent", "--max-time", "15", "--header", "Accept: text/html", &url];
    let page = Command::new("curl").args(browser).output().unwrap();
    assert!(String::from_utf8_lossy(&page.stdout).contains("<html"), "{page:?}");
    demo.read_to("call the backend without a sidecar");
    let call = demo.read_to("curl");
    let answer = Command::new("sh").args(["-c", call.trim()]).output().unwrap();
    let answer = String::from_utf8(answer.stdout).unwrap();
    assert!(answer.contains("\"name\":\"backend-"), "{answer}");
    demo.signal(Signal::TERM);
    let (status, text) = demo.end();
    assert!(status.success(), "{status}\n{text}");
    assert_eq!(demo.traces(), [""; 0]);
}

#[rstest]
#[case::user_namespace("user-namespace")]
#[case::loopback("loopback")]
fn what_a_killed_demo_left_running_is_ended_by_the_next(#[case] way: &str) {
    if !possible(way) {
        return;
    }
    let mut killed = Demo::start(&["--way", way, "--keep"]);
    killed.read_to("The mesh stays until Ctrl-C");
    let folder = format!("{}/pillion-{}-", std::env::temp_dir().display(), killed.child.id());
    assert!(!running(&folder).is_empty());
    drop(killed);
    let _next = Demo::start(&["--way", "loopback"]);
    wait_until(SOON, "the end of what the killed demo had started", || {
        Ok(running(&folder).is_empty().then_some(()))
    })
    .unwrap();
}

/// The processes whose executable begins with `path`.
fn running(path: &str) -> Vec<PathBuf> {
    let executables = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let executable = fs::read_link(entry.ok()?.path().join("exe")).ok()?;
        executable.to_str()?.starts_with(path).then_some(executable)
    });
    executables.collect()
}
