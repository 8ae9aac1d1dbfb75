//! `pillion wait` and `pillion run`: when a job begins, what reaches it, how it and its sidecar end.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use pillion_cli::lab::{Sidecar, wait_until};
use rstest::rstest;
use rustix::process::{Pid, Signal, kill_process};

use common::{CLIENT_ID, Interception, PILLION, PORT, SOON, Stage, exchange, skip};

/// An admin API that says what a test has it say, and keeps what it is asked.
struct FakeSidecar {
    admin: String,
    shared: Arc<Shared>,
}

struct Shared {
    /// Why it is not ready; empty when it is.
    missing: Mutex<String>,
    /// Whether it ends when it is drained.
    ends: bool,
    asked: Mutex<Vec<String>>,
}

impl FakeSidecar {
    fn ready() -> Self {
        Self::start("", true)
    }

    fn start(missing: &str, ends: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = format!("http://{}", listener.local_addr().unwrap());
        let shared =
            Arc::new(Shared { missing: Mutex::new(missing.to_owned()), ends, asked: Mutex::default() });
        let serving = Arc::clone(&shared);
        thread::spawn(move || while serving.serve_one(&listener) {});
        Self { admin, shared }
    }

    fn lacks(&self, missing: &str) {
        missing.clone_into(&mut self.shared.missing.lock().unwrap());
    }

    fn was_drained(&self) -> bool {
        self.shared.asked.lock().unwrap().iter().any(|line| line == "POST /drain HTTP/1.0")
    }
}

impl Shared {
    /// Whether it goes on.
    fn serve_one(&self, listener: &TcpListener) -> bool {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).unwrap();
        let request = String::from_utf8_lossy(&request[..length]);
        let line = request.lines().next().unwrap_or_default().to_owned();
        let mut missing = self.missing.lock().unwrap();
        let (status, body) = match line.as_str() {
            "GET /ready HTTP/1.0" if missing.is_empty() => {
                (200, r#"{"ready":true,"because":"it is"}"#.to_owned())
            }
            "GET /ready HTTP/1.0" => (503, format!(r#"{{"ready":false,"because":"{missing}"}}"#)),
            "POST /drain HTTP/1.0" => {
                "draining".clone_into(&mut missing);
                (200, r#"{"draining":true,"openConnections":2}"#.to_owned())
            }
            other => panic!("asked {other}"),
        };
        write!(stream, "HTTP/1.1 {status} -\r\n\r\n{body}").unwrap();
        let ended = self.ends && line.starts_with("POST");
        self.asked.lock().unwrap().push(line);
        !ended
    }
}

fn pillion_run(sidecar: &FakeSidecar, options: &[&str], command: &[&str]) -> Command {
    let mut pillion = Command::new(PILLION);
    pillion.args(["run", "--admin", &sidecar.admin]).args(options).arg("--").args(command);
    pillion
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Its end, which must be near.
fn end(mut child: Child) -> Output {
    wait_until(SOON, "the end of pillion", || Ok(child.try_wait().unwrap()))
        .inspect_err(|_| child.kill().unwrap())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A port of this machine where nobody listens.
fn nobody() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

#[test]
fn waiting_tells_each_thing_that_is_missing_once_and_ends_when_nothing_is() {
    let sidecar = FakeSidecar::start("there is no certificate yet", true);
    let mut command = Command::new(PILLION);
    command.args(["wait", "--admin", &sidecar.admin]);
    let waiting = start(command);
    let asked = |least: usize| {
        let asked = || sidecar.shared.asked.lock().unwrap().len();
        wait_until(SOON, "questions", || Ok((asked() >= least).then_some(asked()))).unwrap()
    };
    let so_far = asked(3);
    sidecar.lacks("the CA says no");
    asked(so_far + 3);
    sidecar.lacks("");
    let output = end(waiting);
    assert_eq!(output.status.code(), Some(0));
    let at = &sidecar.admin;
    assert_eq!(
        stderr(&output),
        format!(
            "pillion wait: waiting for the sidecar at {at}: there is no certificate yet\n\
             pillion wait: waiting for the sidecar at {at}: the CA says no\n"
        )
    );
    assert_eq!(output.stdout, b"ready: it is\n");
}

#[test]
fn a_wait_that_was_in_vain_says_for_what() {
    let sidecar = FakeSidecar::start("there is no certificate yet", true);
    for (admin, cause) in [(sidecar.admin.clone(), "no certificate yet"), (nobody(), "Connection refused")] {
        let output =
            Command::new(PILLION).args(["wait", "--timeout", "300ms", "--admin", &admin]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let last = stderr(&output);
        let last = last.split_once(&format!("{admin} was not ready after 300ms: ")).unwrap().1;
        assert!(last.contains(cause) && last.lines().count() == 2, "{last}");
    }
}

#[rstest]
#[case::done("exit 0", 0)]
#[case::failed("exit 7", 7)]
#[case::crashed("kill -9 $$", 137)]
fn the_exit_code_is_the_commands_and_the_sidecar_ends(#[case] script: &str, #[case] code: i32) {
    let sidecar = FakeSidecar::ready();
    let output = end(start(pillion_run(&sidecar, &[], &["sh", "-c", &format!("echo out; {script}")])));
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(output.stdout, b"out\n", "stdout is the command's alone");
    assert!(sidecar.was_drained());
}

#[rstest]
#[case::missing("/nowhere/at-all", 127, "is it in this image")]
#[case::no_program("/etc/passwd", 126, "Permission denied")]
fn a_command_that_cannot_be_started_is_named_and_the_sidecar_ends(
    #[case] program: &str,
    #[case] code: i32,
    #[case] cause: &str,
) {
    let sidecar = FakeSidecar::ready();
    let output = end(start(pillion_run(&sidecar, &[], &[program])));
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(stderr(&output).contains(program) && stderr(&output).contains(cause), "{output:?}");
    assert!(sidecar.was_drained());
}

#[test]
fn without_a_sidecar_in_time_the_command_does_not_run() {
    let sidecar = FakeSidecar::start("there is no certificate yet", true);
    let command = ["sh", "-c", "echo ran"];
    let output = end(start(pillion_run(&sidecar, &["--timeout", "200ms"], &command)));
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("no certificate yet") && output.stdout.is_empty(), "{output:?}");
    assert!(!sidecar.was_drained(), "whoever tries the job again needs its sidecar");
}

#[test]
fn options_behind_the_command_are_the_commands() {
    let sidecar = FakeSidecar::ready();
    let mut command = Command::new(PILLION);
    command.args(["run", "--admin", &sidecar.admin, "echo", "--timeout", "-n", "--", "x"]);
    let output = end(start(command));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "--timeout -n -- x\n");
}

#[test]
fn a_sidecar_that_is_kept_is_not_drained() {
    let sidecar = FakeSidecar::ready();
    let output = end(start(pillion_run(&sidecar, &["--keep-sidecar"], &["true"])));
    assert_eq!(output.status.code(), Some(0));
    assert!(!sidecar.was_drained());
}

/// The command's work is done; nothing that its sidecar does changes that.
#[test]
fn a_sidecar_that_does_not_end_is_given_up_in_time_with_the_commands_exit_code() {
    let sidecar = FakeSidecar::start("", false);
    let output = end(start(pillion_run(&sidecar, &["--drain-timeout", "300ms"], &["sh", "-c", "exit 3"])));
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("has not ended after 300ms"), "{output:?}");
}

#[rstest]
#[case(Signal::HUP, "HUP")]
#[case(Signal::INT, "INT")]
#[case(Signal::QUIT, "QUIT")]
#[case(Signal::TERM, "TERM")]
#[case(Signal::USR1, "USR1")]
#[case(Signal::USR2, "USR2")]
fn signals_are_passed_on(#[case] signal: Signal, #[case] name: &str) {
    let sidecar = FakeSidecar::ready();
    let script = format!("trap 'exit 9' {name}; echo trapped; while :; do sleep 0.05; done");
    let mut job = start(pillion_run(&sidecar, &[], &["sh", "-c", &script]));
    read_line(&mut job, "trapped");
    send(&job, signal);
    let output = end(job);
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    assert!(sidecar.was_drained());
}

fn read_line(job: &mut Child, expected: &str) {
    let mut line = vec![0; expected.len() + 1];
    job.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(String::from_utf8(line).unwrap().trim(), expected);
}

#[test]
fn a_signal_ends_the_wait_and_the_command_does_not_run() {
    let sidecar = FakeSidecar::start("there is no certificate yet", true);
    let job = start(pillion_run(&sidecar, &[], &["sh", "-c", "echo ran"]));
    wait_until(SOON, "a question", || Ok((!sidecar.shared.asked.lock().unwrap().is_empty()).then_some(())))
        .unwrap();
    send(&job, Signal::TERM);
    let output = end(job);
    assert_eq!(output.status.code(), Some(128 + 15), "{output:?}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_signal_ends_the_wait_for_the_sidecars_end() {
    let sidecar = FakeSidecar::start("", false);
    let job = start(pillion_run(&sidecar, &["--drain-timeout", "1h"], &["sh", "-c", "exit 4"]));
    wait_until(SOON, "the drain", || Ok(sidecar.was_drained().then_some(()))).unwrap();
    send(&job, Signal::TERM);
    assert_eq!(end(job).status.code(), Some(4));
}

/// The terminal sends its keys' signals to all in its foreground, `pillion run` and its command; a command that left the
/// foreground is to hear nothing, as beside a shell.
#[rstest]
#[case::in_foreground("sh", 300, "n=1")]
#[case::in_a_session_of_its_own("setsid sh", 10, "n=0")]
fn a_key_of_the_terminal_is_the_terminals_to_pass_on(
    #[case] shell: &str,
    #[case] patience: u32,
    #[case] heard: &str,
) {
    let sidecar = FakeSidecar::ready();
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("job");
    // `wait` ends with a signal at once, so that a second one is not mistaken for the first.
    let text = format!(
        "n=0; trap 'n=$((n+1))' INT; echo trapped; i=0
while [ $n = 0 ] && [ $((i+=1)) -le {patience} ]; do sleep 0.05 & wait $!; done
sleep 0.3 & wait $!; echo n=$n"
    );
    fs::write(&script, text).unwrap();
    let typed = format!("{PILLION} run --admin {} -- {shell} {}", sidecar.admin, script.display());
    let mut terminal = Command::new("script");
    terminal.args(["-qefc", &typed, "/dev/null"]).stdin(Stdio::piped());
    let mut terminal = start(terminal);
    read_line(&mut terminal, "trapped");
    const CTRL_C: &[u8] = b"\x03";
    let mut keys = terminal.stdin.take().unwrap();
    keys.write_all(CTRL_C).unwrap();
    let output = end(terminal);
    drop(keys);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains(heard), "{shown}");
}

/// Nobody else does in a container.
#[test]
fn process_1_takes_in_orphans() {
    let sidecar = FakeSidecar::ready();
    let script = "(sleep 0 & echo $! >orphan); while [ -e /proc/$(cat orphan) ]; do sleep 0.05; done; exit 5";
    let folder = tempfile::tempdir().unwrap();
    let mut job = Command::new("unshare");
    job.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).current_dir(folder.path());
    if !Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "true"])
        .status()
        .is_ok_and(|it| it.success())
    {
        return skip("it needs root for a process namespace");
    }
    job.args([PILLION, "run", "--admin", &sidecar.admin, "--", "sh", "-c", script]);
    assert_eq!(end(start(job)).status.code(), Some(5));
}

/// It is started before its sidecar; a call that was made then would be reset, or go as plaintext.
#[test]
fn a_job_begins_with_its_sidecar_calls_by_mtls_and_takes_it_along() {
    let Some(stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let _app = stage.app("backend", [0, 0, 0, 0].into());
    let server = Interception::Redirect.sidecar("server").start(&stage.server, &stage.ca).unwrap();
    server.wait_for_mode(SOON, PORT, "STRICT").unwrap();

    let script = format!("{PILLION} probe http://server:{PORT}/ && exit 7");
    let job = stage.client.start_pillion("job", &["run", "--", "sh", "-c", &script]).unwrap();
    job.wait_for_line(SOON, "waiting for the sidecar").unwrap();
    let sidecar = Sidecar::new("client").start_unready(&stage.client, &stage.ca).unwrap();

    assert_eq!(job.wait(SOON).unwrap().code(), Some(7), "{}", job.output());
    let ended = sidecar.process().unwrap().wait(SOON).unwrap();
    assert_eq!(ended.code(), Some(0), "a supervisor must not take it for a failure");
    let record = server.wait_for_record(SOON, |record| record.tls.is_some()).unwrap();
    assert_eq!(record.tls.unwrap().peer, CLIENT_ID);
}

/// The last bytes of a job may still be in its sidecar, and other processes of the workload may not be done.
#[test]
fn connections_that_are_open_when_the_command_ends_may_finish() {
    let Some(stage) = Stage::new() else { return };
    let _app = stage.app("echo", [0, 0, 0, 0].into());
    let (sidecar, _server) = stage.sidecars(Interception::Redirect);
    let open = stage.client.dial(SocketAddr::new(stage.server.v4(), PORT)).unwrap();
    sidecar
        .wait_for_page(SOON, "/connections", "the connection", |page| {
            page["connections"].as_array().is_some_and(|open| !open.is_empty())
        })
        .unwrap();
    let job = stage.client.start_pillion("job", &["run", "true"]).unwrap();
    job.wait_for_line(SOON, "1 of them open").unwrap();
    assert_eq!(exchange(&open, b"the last bytes").unwrap(), b"the last bytes");
    drop(open);
    assert_eq!(job.wait(SOON).unwrap().code(), Some(0), "{}", job.output());
    assert_eq!(sidecar.process().unwrap().wait(SOON).unwrap().code(), Some(0));
}
