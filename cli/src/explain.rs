//! `pillion explain`: what became of a connection, step by step, and the cure.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use clap::Args;
use pillion_mesh::explain::Story;

use crate::output::Format;
use crate::source::{ADMIN, Admin, Fault, percent_encoded};

/// What helps where the proxy does not answer: its records end with it.
const OTHERWISE: &str = "A proxy that has ended tells nothing any more: its access log has a line for each connection, with the reason and the cure.";

/// The command's arguments.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true)))]
pub(crate) struct Options {
    /// Its id, or its client's address: 7, 10.0.0.7:4312, or 10.0.0.7 for the newest from there
    #[arg(value_name = "CONNECTION", group = "which")]
    connection: Option<Which>,
    /// The one that was last refused, or on which a request last was
    #[arg(long, group = "which")]
    last_refused: bool,
    /// The admin API of the proxy that is asked
    #[arg(long, value_name = "URL", default_value = ADMIN, alias = "proxy")]
    admin: String,
    #[command(flatten)]
    format: Format,
}

/// A connection as a person names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Id(u64),
    Client(IpAddr),
    Socket(SocketAddr),
}

impl std::str::FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = text.parse().map(Self::Id).ok();
        let client = || text.parse().map(Self::Client).ok();
        let socket = || text.parse().map(Self::Socket).ok();
        id.or_else(client).or_else(socket).ok_or_else(|| {
            "expected the id of a connection, such as 7, or an address, such as 10.0.0.7 or 10.0.0.7:4312"
                .to_owned()
        })
    }
}

/// Exit codes: 0 told, 1 the proxy knows no such connection or does not answer, 2 wrong arguments.
pub(crate) fn run(options: &Options) -> ExitCode {
    match story(options) {
        Ok(story) => {
            options.format.print(&story, &story);
            ExitCode::SUCCESS
        }
        Err(fault) => fault.tell("pillion explain"),
    }
}

fn story(options: &Options) -> Result<Story, Fault> {
    let query = match options.connection {
        Some(Which::Id(id)) => format!("id={id}"),
        Some(Which::Client(client)) => format!("client={}", percent_encoded(&client.to_string())),
        Some(Which::Socket(client)) => format!("client={}", percent_encoded(&client.to_string())),
        None => "last=refused".to_owned(),
    };
    Admin::at(&options.admin, OTHERWISE).get(&format!("/explain?{query}"))
}
