//! `pillion run`: a command that ends, beside a sidecar that would not: it begins when the sidecar is ready, and the sidecar
//! ends when it has.
//!
//! As process 1 of a container it is what an init is: it passes signals on, and takes in orphans.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Args;
use pillion_mesh::duration;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpgrp, kill_process, wait};
use rustix::termios::tcgetpgrp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::sidecar::Sidecar;

/// Of a program that runs another one: it failed itself (as of `docker run`, `env` and `timeout`).
const NOT_BEGUN: u8 = 125;
/// The command cannot be started, as in a shell.
const NOT_EXECUTABLE: u8 = 126;
/// The command is not found, as in a shell.
const NOT_FOUND: u8 = 127;
/// Added to the number of the signal that ended the command, as in a shell.
const SIGNALLED: i32 = 128;

/// What the command is told. The others are the kernel's or the terminal's to send.
const PASSED_ON: [Signal; 6] =
    [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];
/// What a terminal sends to all processes in its foreground.
const OF_KEYS: [Signal; 2] = [Signal::INT, Signal::QUIT];
/// Signals that came and were not dealt with yet; more of them wait.
const SIGNALS: usize = 16;

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long the sidecar may take to be ready; as Istio's `pilot-agent wait`
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    timeout: Duration,
    /// How long to wait for the end of the sidecar; its own drain.timeout cuts connections before
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    drain_timeout: Duration,
    /// Leave the sidecar as it is: it has other commands to serve, or this one is going to be tried again
    #[arg(long)]
    keep_sidecar: bool,
    #[command(flatten)]
    sidecar: Sidecar,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Exit codes: the command's; 125, 126 and 127 where it has not run.
pub(crate) fn run(options: &Options) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ExitCode::from(not_begun(&error)),
    };
    let code = runtime.block_on(job(options));
    // A question that is under way has nobody left to answer to.
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn job(options: &Options) -> u8 {
    // Before anything is waited for, so that no signal is lost between the steps.
    let (mut signals, mut children) = match watch() {
        Ok(watched) => watched,
        Err(error) => return not_begun(&error),
    };
    let mut waited = false;
    let tell_once = |what: &str| {
        waited = true;
        tell(what);
    };
    tokio::select! {
        ready = options.sidecar.ready(options.timeout, tell_once) => match ready {
            Ok(because) if waited => tell(&format!("the sidecar is ready: {because}")),
            Ok(_) => {}
            Err(late) => return not_begun(&late),
        },
        signal = next(&mut signals) => return code_of(SIGNALLED + signal.as_raw()),
    }
    let code = match start(&options.command) {
        Ok(command) => until_ended(command, &mut signals, &mut children).await,
        Err(code) => code,
    };
    if !options.keep_sidecar {
        drain(options, &mut signals).await;
    }
    code
}

/// Starts the command; the exit code where that fails.
fn start(command: &[OsString]) -> Result<Pid, u8> {
    let (program, arguments) = command.split_first().ok_or(NOT_BEGUN)?;
    // Its end is learned by `reap`, with that of all other children.
    let started = Command::new(program).args(arguments).spawn();
    match started {
        Ok(child) => Ok(Pid::from_child(&child)),
        Err(error) => {
            let (code, cure) = match error.kind() {
                ErrorKind::NotFound => (NOT_FOUND, "; is it in this image, and in PATH?"),
                _ => (NOT_EXECUTABLE, ""),
            };
            tell(&format!("cannot start {}: {error}{cure}", program.display()));
            Err(code)
        }
    }
}

/// Passes signals on until the command has ended; its exit code.
async fn until_ended(
    command: Pid,
    signals: &mut mpsc::Receiver<Signal>,
    children: &mut tokio::signal::unix::Signal,
) -> u8 {
    loop {
        if let Some(status) = reap(command) {
            return exit_code(status);
        }
        tokio::select! {
            _ = children.recv() => {}
            signal = next(signals) => pass_on(signal, command),
        }
    }
}

/// Takes in every child that has ended, orphans of the command too; how the command ended, if it has.
fn reap(command: Pid) -> Option<WaitStatus> {
    let mut ended = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((child, status))) if child == command => ended = Some(status),
            Ok(Some(_orphan)) => {}
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return ended,
        }
    }
}

fn exit_code(status: WaitStatus) -> u8 {
    let signalled = status.terminating_signal().map(|signal| SIGNALLED + signal);
    code_of(status.exit_status().or(signalled).unwrap_or_default())
}

fn code_of(status: i32) -> u8 {
    u8::try_from(status).unwrap_or(u8::MAX)
}

fn pass_on(signal: Signal, command: Pid) {
    if OF_KEYS.contains(&signal) && in_foreground() {
        return;
    }
    // It may be gone already.
    let _ = kill_process(command, signal);
}

/// Whether keys of a terminal go to this process, and so to the command by themselves: a second signal would say something
/// else.
fn in_foreground() -> bool {
    File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp()))
}

/// Drains the sidecar and waits for its end. The command's exit code stands, whatever happens here.
async fn drain(options: &Options, signals: &mut mpsc::Receiver<Signal>) {
    let drained = async {
        match options.sidecar.drain().await {
            Ok(0) => tell("the command has ended, and so does the sidecar"),
            Ok(open) => tell(&format!(
                "the command has ended; the sidecar ends when its connections have, {open} of them open"
            )),
            Err(fault) => {
                tell(&format!("the sidecar could not be told to end: {fault}; it goes on, if it runs"));
                return;
            }
        }
        if timeout(options.drain_timeout, options.sidecar.ended()).await.is_err() {
            let after = duration::print(options.drain_timeout);
            tell(&format!(
                "the sidecar has not ended after {after} (--drain-timeout); it still drains, for its own drain.timeout"
            ));
        }
    };
    tokio::select! {
        () = drained => {}
        signal = next(signals) => {
            tell(&format!("signal {}: the end of the sidecar is not waited for", signal.as_raw()));
        }
    }
}

/// Signals that are for the command, and those that a child has ended.
fn watch() -> io::Result<(mpsc::Receiver<Signal>, tokio::signal::unix::Signal)> {
    let (sender, receiver) = mpsc::channel(SIGNALS);
    for passed_on in PASSED_ON {
        let mut stream = signal(SignalKind::from_raw(passed_on.as_raw()))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() && sender.send(passed_on).await.is_ok() {}
        });
    }
    Ok((receiver, signal(SignalKind::child())?))
}

/// The tasks that send live as long as the runtime.
async fn next(signals: &mut mpsc::Receiver<Signal>) -> Signal {
    match signals.recv().await {
        Some(signal) => signal,
        None => std::future::pending().await,
    }
}

fn not_begun(fault: &dyn Display) -> u8 {
    tell(&format!("{fault}\nthe command was not started"));
    NOT_BEGUN
}

fn tell(what: &str) {
    for line in what.lines() {
        eprintln!("pillion run: {line}");
    }
}
