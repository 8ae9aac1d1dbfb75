//! `pillion wait`: until the sidecar here is ready.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use pillion_mesh::duration;

use crate::sidecar::Sidecar;

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long to wait; as Istio's `pilot-agent wait`
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    timeout: Duration,
    #[command(flatten)]
    sidecar: Sidecar,
}

/// Exit codes: 0 ready, 1 not in time.
pub(crate) fn run(options: &Options) -> ExitCode {
    let tell = |what: &str| {
        for line in what.lines() {
            eprintln!("pillion wait: {line}");
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(&format!("cannot wait: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(options.sidecar.ready(options.timeout, tell)) {
        Ok(because) => {
            println!("ready: {because}");
            ExitCode::SUCCESS
        }
        Err(late) => {
            tell(&late.to_string());
            ExitCode::FAILURE
        }
    }
}
