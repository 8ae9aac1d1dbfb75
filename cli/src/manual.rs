//! `pillion completion`, `pillion man` and the reference page: scripts for shells and pages for people, made of the command
//! line as it is.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;

/// Arguments of `pillion completion`.
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// The shell
    shell: Shell,
}

/// Arguments of `pillion man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Folder for the pages, made where it is missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Prints what the shell reads. Exit code 0.
pub(crate) fn completion(options: &Completion, pillion: &Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut whole(pillion), "pillion", &mut script);
    // A reader that has seen enough may have closed the pipe.
    let _ = io::stdout().write_all(&script);
    ExitCode::SUCCESS
}

/// Writes a page for each command. Exit codes: 0 written, 1 the folder cannot be written to.
pub(crate) fn man(options: &Man, pillion: &Command) -> ExitCode {
    let folder = options.folder.display();
    match write(&options.folder, pillion) {
        Ok(()) => {
            println!("wrote a page for each command; read them by: man -l {folder}/pillion.1");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("pillion man: {folder}: {error}; name a folder that can be written to");
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path, pillion: &Command) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(whole(pillion), folder)
}

/// `docs/reference/commands.md`: the help of every command that is the person's own.
#[cfg(test)]
pub(crate) fn reference(mut pillion: Command) -> String {
    pillion.build();
    let mut page = String::from(
        "# Commands\n\nWhat `--help` of each says, written by a test (`UPDATE_GOLDEN=1`). `pillion-proxy` is described in\n\
         [settings.md](settings.md), `pillion-ca` in [ca.md](ca.md).\n",
    );
    add_help(&mut pillion, &mut page);
    page
}

/// The help of a command and of those below it.
#[cfg(test)]
fn add_help(command: &mut Command, page: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    // What cannot be seen cannot be reviewed.
    let help: String = help.lines().flat_map(|line| [line.trim_end(), "\n"]).collect();
    *page += &format!("\n## {name}\n\n```text\n{}\n```\n", help.trim());
    let parts = command.get_subcommands_mut();
    for part in parts.filter(|part| !part.is_hide_set() && part.get_name() != "help" && !reads_itself(part)) {
        add_help(part, page);
    }
}

/// Whether another tool reads the arguments.
#[cfg(test)]
fn reads_itself(part: &Command) -> bool {
    part.is_disable_help_flag_set()
}

/// The command line as a person uses it: without what is hidden, and with the tools that read their arguments themselves.
fn whole(pillion: &Command) -> Command {
    let parts =
        pillion.get_subcommands().filter(|part| !part.is_hide_set()).map(|part| match part.get_name() {
            "proxy" => part_of_pillion(pillion_proxy::command(), part),
            "ca" => part_of_pillion(pillion_ca::command(), part),
            "iptables" => part_of_pillion(pillion_iptables::command(), part),
            _ => part.clone(),
        });
    Command::new("pillion")
        .version(env!("CARGO_PKG_VERSION"))
        .about(pillion.get_about().cloned().unwrap_or_default())
        .long_about(pillion.get_long_about().cloned().unwrap_or_default())
        .subcommand_required(true)
        .subcommands(parts)
}

/// A tool by the name that it has as a part of pillion.
fn part_of_pillion(tool: Command, part: &Command) -> Command {
    tool.name(part.get_name().to_owned())
}
