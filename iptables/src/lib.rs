//! pillion-iptables: installs, shows, explains and removes the rules that bring a workload's TCP connections to its
//! sidecar.
//!
//! What is wished for (`arguments`, checked by `capture`) becomes rules as typed values, each with a sentence that says
//! why it is there (`plan`); rules become text (`render`) that `apply` gives to `iptables-restore`, or words (`explain`).
//! All decisions are pure; programs are run in `backend`, `command` and `routes`.

mod apply;
mod arguments;
mod backend;
mod capture;
mod command;
mod explain;
mod plan;
mod render;
mod routes;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::apply::ApplyError;
use crate::arguments::{Apply, Arguments, CaptureFlags, Clean, Command, Explain};
use crate::capture::{Capture, Selection, WishError};
use crate::explain::{Packet, Walk};
use crate::plan::{Family, Plan};

/// Runs `pillion-iptables` with these arguments, the program's name first.
///
/// Exit codes: 0 done, 1 failed (nothing is left half done), 2 wrong arguments.
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are "errors" too, with code 0. Nobody is left to be told that printing failed.
            let _ = error.print();
            return if error.exit_code() == 0 { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Wish(error)) => {
            warn(&format!("error: {error}"));
            ExitCode::from(2)
        }
        Err(Error::Apply(error)) => {
            warn(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The command line's definition, for completion scripts and manual pages.
pub fn command() -> clap::Command {
    Arguments::command()
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Wish(#[from] WishError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Apply(flags) => apply(&flags),
        Command::Clean(flags) => clean(&flags),
        Command::Show(_) => apply::show().map_err(Error::Apply),
        Command::Explain(flags) => explain(&flags),
    }
}

fn apply(flags: &Apply) -> Result<(), Error> {
    let capture = checked(&flags.capture)?;
    if flags.host.dry_run {
        say(apply::apply_in_words(&capture, &apply::families(flags.ipv6)).trim_end());
        return Ok(());
    }
    apply::apply(&capture, flags.ipv6, flags.host.backend).map_err(Error::Apply)
}

fn clean(flags: &Clean) -> Result<(), Error> {
    if flags.host.dry_run {
        say(apply::clean_in_words(flags.host.backend)?.trim_end());
        return Ok(());
    }
    apply::clean(flags.host.backend).map_err(Error::Apply)
}

fn explain(flags: &Explain) -> Result<(), Error> {
    let capture = checked(&flags.capture)?;
    match Packet::from_flags(&flags.packet) {
        Some(packet) => {
            let walk = Walk::new(&Plan::new(&capture, packet.family()), &packet, flags.passed_over);
            let json = || serde_json::to_string_pretty(&walk).unwrap_or_default();
            say(&if flags.json { json() } else { walk.to_string().trim_end().to_owned() });
        }
        None => {
            for family in [Family::V4, Family::V6] {
                say(&explain::all_rules(&Plan::new(&capture, family)));
            }
        }
    }
    Ok(())
}

fn checked(flags: &CaptureFlags) -> Result<Capture, WishError> {
    let capture = Capture::check(flags)?;
    if capture.outbound == Selection::All && !capture.outbound_ports.is_empty() {
        warn(
            "note: all destinations are captured, so --outbound-ports adds nothing; for these ports only, give -i ''",
        );
    }
    Ok(capture)
}

/// Prints a line for the person. Where nobody reads it any more, there is nobody to be told.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints a line that must not be lost among the output.
fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
