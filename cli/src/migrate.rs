//! `pillion migrate status`: whether ports can be switched to STRICT, by what the proxies that are asked have counted.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use pillion_mesh::duration;
use pillion_mesh::migration::{Judged, Watched};
use pillion_proxy::names;
use serde::Serialize;

use crate::output::Format;
use crate::source::{ADMIN, Admin, Fault};

/// What helps where a proxy does not answer.
const OTHERWISE: &str = "Others are named by --proxy URL, as often as needed; each tells of the ports of its own workload, since it began.";

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// By workload and port: who comes by mutual TLS and who without, and whether STRICT would cut somebody off
    ///
    /// Exit codes: 0 every port is STRICT or safe to switch, 1 one is not or nothing is known of it, or a proxy does not
    /// answer, 2 wrong arguments.
    Status(Status),
}

#[derive(Debug, Args)]
struct Status {
    /// The admin API of a proxy that is asked; repeat it
    #[arg(long, value_name = "URL", default_value = ADMIN)]
    proxy: Vec<String>,
    /// Judge by what was seen within so long, such as 30m: those who have got a sidecar since no longer count [default: all
    /// since the proxy began]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    since: Option<Duration>,
    #[command(flatten)]
    format: Format,
}

/// The answer for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    safe: bool,
    workloads: Vec<Judged>,
}

impl Display for Answer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let told: Vec<String> = self.workloads.iter().map(Judged::to_string).collect();
        f.write_str(&told.join("\n\n"))
    }
}

/// Exit codes: 0 every port is STRICT or safe to switch, 1 one is not or nothing is known of it, or a proxy does not answer.
pub(crate) fn run(options: &Options) -> ExitCode {
    let What::Status(options) = &options.what;
    let ask = |url: &String| Admin::at(url, OTHERWISE).get("/migration");
    let answers: Vec<Result<Watched, Fault>> = options.proxy.iter().map(ask).collect();
    let (watched, faults): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    let mut watched: Vec<Watched> = watched.into_iter().flatten().collect();
    let mut code = ExitCode::SUCCESS;
    if !watched.is_empty() {
        add_names(&mut watched);
        let workloads: Vec<Judged> =
            watched.into_iter().map(|watched| watched.judged(options.since)).collect();
        let answer = Answer { safe: workloads.iter().all(Judged::is_safe), workloads };
        options.format.print(&answer, &answer);
        if !answer.safe {
            code = ExitCode::FAILURE;
        }
    }
    let tell = |_, fault: Fault| fault.tell("pillion migrate status");
    faults.into_iter().filter_map(Result::err).fold(code, tell)
}

/// What DNS calls those whom the mesh does not know.
fn add_names(watched: &mut [Watched]) {
    let peers = || watched.iter().flat_map(|watched| &watched.ports).flat_map(|port| &port.peers);
    let unknown: BTreeSet<IpAddr> =
        peers().filter(|peer| peer.names.is_empty()).map(|peer| peer.address).collect();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    let found = runtime.block_on(names::of(unknown));
    let ports = watched.iter_mut().flat_map(|watched| &mut watched.ports);
    for peer in ports.flat_map(|port| &mut port.peers).filter(|peer| peer.names.is_empty()) {
        peer.names.extend(found.get(&peer.address).cloned());
    }
}
