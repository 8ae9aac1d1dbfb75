//! `pillion edges`: who talks to whom, as the proxies that are asked have seen it.

use std::process::ExitCode;

use clap::Args;
use pillion_mesh::edges::Edges;

use crate::output::Format;
use crate::source::{ADMIN, Admin, Fault};

/// What helps where a proxy does not answer.
const OTHERWISE: &str =
    "Others are named by --proxy URL, as often as needed; each tells of the connections of its own workload.";

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The admin API of a proxy that is asked; repeat it
    #[arg(long, value_name = "URL", default_value = ADMIN, alias = "admin")]
    proxy: Vec<String>,
    #[command(flatten)]
    format: Format,
}

/// Exit codes: 0 told, 1 a proxy does not answer (the others are told all the same), 2 wrong arguments.
pub(crate) fn run(options: &Options) -> ExitCode {
    let ask = |url: &String| Admin::at(url, OTHERWISE).get("/edges");
    let answers: Vec<Result<Edges, Fault>> = options.proxy.iter().map(ask).collect();
    let (seen, faults): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    if !seen.is_empty() {
        let edges = Edges::of_all(seen.into_iter().flatten());
        options.format.print(&edges, &edges);
    }
    let tell = |_, fault: Fault| fault.tell("pillion edges");
    faults.into_iter().filter_map(Result::err).fold(ExitCode::SUCCESS, tell)
}
