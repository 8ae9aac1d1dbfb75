//! `pillion describe`: what the mesh resources mean for one workload, and why.

use std::process::ExitCode;

use clap::Args;
use pillion_mesh::describe::{Description, describe};

use crate::output::Format;
use crate::source::{Answering, Fault, Source};

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    source: Source,
}

/// Exit codes: 0 described, 1 the proxy does not answer, 2 wrong arguments.
pub(crate) fn run(options: &Options) -> ExitCode {
    match description(&options.source) {
        Ok(description) => {
            options.format.print(&description, &description);
            ExitCode::SUCCESS
        }
        Err(fault) => fault.tell("pillion describe"),
    }
}

fn description(source: &Source) -> Result<Description, Fault> {
    match source.answering()? {
        Answering::Proxy(admin) => admin.get("/describe"),
        Answering::Files(files) => Ok(describe(&files.snapshot, &files.workload, &files.ports)),
    }
}
