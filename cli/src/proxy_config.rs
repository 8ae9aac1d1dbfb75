//! `pillion proxy-config`: what a proxy listens on, dials, holds and serves, with istioctl's columns.

use std::fmt::Display;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use pillion_mesh::proxy_config::{Connections, Endpoints, Filter, Listeners, Secrets};
use pillion_mesh::wire::Direction;
use serde::Serialize;

use crate::output::Format;
use crate::source::{ADMIN, Admin, Fault};

/// What helps where the proxy does not answer.
const OTHERWISE: &str = "Another proxy is named by --proxy URL. Without any, pillion describe --folder FOLDER --config PROXY.yaml tells what \
                         the files would make it accept and dial.";

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What it listens on, what each port accepts, and why
    ///
    /// A capture has a row for each port of the app that settings, resources or open connections name, and `Addr: *:*` for
    /// all others. MODE is what a port of the app accepts (STRICT, PERMISSIVE, DISABLE); for a listener that leads to a
    /// service it is how that is dialled, as a DestinationRule would say it.
    ///
    /// Exit codes: 0 told, 1 the proxy does not answer, 2 wrong arguments.
    #[command(visible_alias = "listeners", visible_alias = "l")]
    Listener(Listener),
    /// Which endpoints of services it knows, how each is dialled, and why
    ///
    /// MODE is what the endpoint's port accepts by the PeerAuthentications that the proxy has read, where the endpoint has a
    /// sidecar; TLS is how it is dialled, as a DestinationRule would say it. STATUS is `no address` as long as DNS does not
    /// know the name. pillion does not eject endpoints, so there is no OUTLIER CHECK.
    ///
    /// Exit codes: 0 told, 1 the proxy does not answer, 2 wrong arguments.
    #[command(visible_alias = "endpoints", visible_alias = "ep")]
    Endpoint(Endpoint),
    /// Which certificates it shows and which roots it trusts
    ///
    /// STATUS is WARMING before the first certificate. The serial numbers are hexadecimal.
    ///
    /// Exit codes: 0 told, 1 the proxy does not answer, 2 wrong arguments.
    #[command(visible_alias = "secrets", visible_alias = "s")]
    Secret(Asked),
    /// Its connections, open or over: from where, to whom, and whether each is secured
    ///
    /// LOCAL is the address on the side of the app. REMOTE TARGET is who the other side has proved to be, or the service that
    /// was dialled. STATE is `open`, or the reason of the end; `pillion explain ID` tells the story of one.
    ///
    /// Exit codes: 0 told, 1 the proxy does not answer, 2 wrong arguments.
    #[command(visible_alias = "connections", visible_alias = "c")]
    Connection(Connection),
}

/// Who is asked, and how the answer looks.
#[derive(Debug, Args)]
struct Asked {
    /// The admin API of the proxy that is asked
    #[arg(long, value_name = "URL", default_value = ADMIN, alias = "admin")]
    proxy: String,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
struct Listener {
    /// Only this port: one that is listened on, or one of the app
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Only listeners on this address
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Only one direction
    #[arg(long)]
    direction: Option<Way>,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
struct Endpoint {
    /// Only this port: that of the service, or of the endpoint
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Only endpoints with this address
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Only this service
    #[arg(long, value_name = "HOST[:PORT]")]
    service: Option<String>,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
struct Connection {
    /// Only connections from, to or by way of this port
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Only connections from, to or by way of this address
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Only connections for this service
    #[arg(long, value_name = "HOST[:PORT]")]
    service: Option<String>,
    /// Only one direction
    #[arg(long)]
    direction: Option<Way>,
    /// The open ones; the last that were served and have ended; the refusals of the last hour; or all of these
    #[arg(long, default_value = "open")]
    state: State,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Way {
    Inbound,
    Outbound,
}

impl From<Way> for Direction {
    fn from(way: Way) -> Self {
        match way {
            Way::Inbound => Self::Inbound,
            Way::Outbound => Self::Outbound,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Open,
    Ended,
    Refused,
    All,
}

impl State {
    /// As `/connections` has it.
    fn as_str(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Ended => "ended",
            State::Refused => "refused",
            State::All => "all",
        }
    }
}

/// Exit codes: 0 told, 1 the proxy does not answer, 2 wrong arguments.
pub(crate) fn run(options: &Options) -> ExitCode {
    match &options.command {
        Command::Listener(listener) => listener.tell(),
        Command::Endpoint(endpoint) => endpoint.tell(),
        Command::Secret(asked) => {
            let rows = asked.admin().get::<Secrets>("/certs").map(|page| page.rows());
            asked.print("secret", rows)
        }
        Command::Connection(connection) => connection.tell(),
    }
}

impl Listener {
    fn tell(&self) -> ExitCode {
        let Self { port, address, direction, asked } = self;
        let filter = Filter {
            port: *port,
            address: *address,
            direction: direction.map(Direction::from),
            ..Filter::default()
        };
        let admin = asked.admin();
        let rows = admin.get::<Listeners>("/listeners").and_then(|page| {
            let endpoints: Endpoints = admin.get("/endpoints")?;
            Ok(page.rows(&endpoints, &filter))
        });
        asked.print("listener", rows)
    }
}

impl Endpoint {
    fn tell(&self) -> ExitCode {
        let Self { port, address, service, asked } = self;
        let filter = Filter { port: *port, address: *address, service: service.clone(), ..Filter::default() };
        let endpoints = asked.admin().get::<Endpoints>("/endpoints").map(|page| page.wanted(&filter));
        asked.print("endpoint", endpoints)
    }
}

impl Connection {
    fn tell(&self) -> ExitCode {
        let Self { port, address, service, direction, state, asked } = self;
        let filter = Filter {
            port: *port,
            address: *address,
            service: service.clone(),
            direction: direction.map(Direction::from),
        };
        let page = format!("/connections?state={}", state.as_str());
        let connections = asked.admin().get::<Connections>(&page).map(|page| page.wanted(&filter));
        asked.print("connection", connections)
    }
}

impl Asked {
    fn admin(&self) -> Admin {
        Admin::at(&self.proxy, OTHERWISE)
    }

    /// Prints the table, or the fault for `pillion proxy-config TABLE`.
    fn print(&self, table: &str, told: Result<impl Serialize + Display, Fault>) -> ExitCode {
        match told {
            Ok(told) => {
                self.format.print(&told, &told);
                ExitCode::SUCCESS
            }
            Err(fault) => fault.tell(&format!("pillion proxy-config {table}")),
        }
    }
}
