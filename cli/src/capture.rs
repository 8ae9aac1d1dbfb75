//! `pillion capture`: has a proxy keep the first plaintext of new connections for a while, where its settings allow it.

use std::fmt::{self, Display, Formatter};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use pillion_mesh::duration;
use serde::{Deserialize, Serialize};

use crate::output::Format;
use crate::source::{ADMIN, Admin, Fault};

/// What helps where the proxy does not answer.
const OTHERWISE: &str = "Without it, tcpdump as root in the app's network namespace shows what passes on loopback between app and proxy.";

/// The command's arguments.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("how").required(true)))]
pub(crate) struct Options {
    /// How long, at most 10m
    #[arg(long = "for", value_name = "DURATION", group = "how", value_parser = period)]
    period: Option<Duration>,
    /// Stop it; what was kept stays with its connections
    #[arg(long, group = "how")]
    stop: bool,
    /// The admin API of the proxy that is asked
    #[arg(long, value_name = "URL", default_value = ADMIN, alias = "proxy")]
    admin: String,
    #[command(flatten)]
    format: Format,
}

fn period(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

/// What the proxy answers.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    capture: Option<On>,
}

/// While it is on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct On {
    until: String,
    connections_left: u32,
    bytes_each_way: usize,
}

impl Display for Answer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.capture {
            None => f.write_str("no plaintext is kept of new connections"),
            Some(On { until, connections_left, bytes_each_way }) => write!(
                f,
                "until {until} the first {bytes_each_way} bytes each way of up to {connections_left} new connections are kept in \
                 plaintext;\npillion explain 10.0.0.7 shows them with the newest connection of that client, and --stop ends it"
            ),
        }
    }
}

/// Exit codes: 0 done, 1 the proxy does not answer or its settings forbid it, 2 wrong arguments.
pub(crate) fn run(options: &Options) -> ExitCode {
    match switch(options) {
        Ok(answer) => {
            options.format.print(&answer, &answer);
            ExitCode::SUCCESS
        }
        Err(fault) => fault.tell("pillion capture"),
    }
}

fn switch(options: &Options) -> Result<Answer, Fault> {
    let period = options.period.map_or_else(|| "0".to_owned(), duration::print);
    Admin::at(&options.admin, OTHERWISE).press(&format!("/capture?for={period}"))
}
