//! `pillion wire A B`: the newest connection from A to B as both their sidecars tell it, and, where root listens, as it is on
//! the network.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Args;
use pillion_mesh::check::ConfigDump;
use pillion_mesh::crossing::{Crossing, Said};
use pillion_mesh::duration;
use pillion_mesh::links::{Link, Teller, links};
use pillion_mesh::wire::ConnectionRecord;
use serde::Deserialize;

use crate::output::Format;
use crate::source::{Admin, Fault};
use crate::wiretap::{Segment, Tap};

/// What helps where a proxy does not answer.
const OTHERWISE: &str = "A and B are admin APIs, such as http://web:15000, or the names of workloads whose proxies are named by --proxy URL.";
/// Where the admin API of a host is that is named without a port.
const PORT: u16 = 15000;

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Who calls: the admin API of its proxy, or a workload's name among those of --proxy
    #[arg(value_name = "A")]
    client: String,
    /// Who is called, likewise
    #[arg(value_name = "B")]
    server: String,
    /// The admin API of a proxy that A or B may be the name of; repeat it
    #[arg(long, value_name = "URL")]
    proxy: Vec<String>,
    /// Listen on the network here for so long before the proxies are asked, such as 5s; only as root
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    capture: Option<Duration>,
    #[command(flatten)]
    format: Format,
}

/// One of both, and what its proxy tells.
struct Asked {
    name: String,
    records: Vec<ConnectionRecord>,
}

/// Exit codes: 0 told, 1 there is no such connection, or a proxy does not answer, 2 wrong arguments.
pub(crate) fn run(options: &Options) -> ExitCode {
    match crossing(options) {
        Ok(crossing) => {
            options.format.print(&crossing, &crossing);
            ExitCode::SUCCESS
        }
        Err(fault) => fault.tell("pillion wire"),
    }
}

fn crossing(options: &Options) -> Result<Crossing, Fault> {
    let [client, server] = [&options.client, &options.server].map(|whom| admin(whom, &options.proxy));
    let (client, server) = (client?, server?);
    let heard = options.capture.map_or_else(|| Ok(Vec::new()), listen)?;
    let asked = [ask(&client)?, ask(&server)?];
    let tellers = [0, 1].map(|number: usize| Teller {
        records: asked.get(number).map(|asked| asked.records.as_slice()).unwrap_or_default(),
    });
    let links = links(&tellers);
    // What was heard is what the person wants to see, and of that the newest whose legs were all heard: the last ones may have
    // begun when the listening ended.
    let forth = links.iter().filter(|link| link.client == 0);
    let newest = forth.max_by_key(|link| legs_heard(link, &heard));
    let [of_client, of_server] = &asked;
    match newest {
        Some(link) => Ok(Crossing::of(&of_client.name, &of_server.name, link, &heard)),
        None => Err(Fault::Proxy(unknown(&of_client.name, &of_server.name, !links.is_empty()))),
    }
}

fn unknown(client: &str, server: &str, they_talk_back: bool) -> String {
    let back = if they_talk_back {
        format!(" {server} has called {client}: ask the other way round.")
    } else {
        String::new()
    };
    format!(
        "no connection from {client} to {server} is known to both their proxies.{back}\nSend a request, and ask again: the open \
         connections are known and the last thousand that have ended. A connection is not recognized where something between \
         rewrites its addresses."
    )
}

/// Of how many legs of the connection something was heard.
fn legs_heard(link: &Link<'_>, heard: &[Said]) -> usize {
    let ends = [Some(link.outbound.client), link.outbound.dialled_from, link.inbound.dialled_from];
    let was_heard = |end: &SocketAddr| heard.iter().any(|said| said.from == *end || said.to == *end);
    ends.iter().flatten().filter(|end| was_heard(end)).count()
}

/// The proxy that a person means: an address, a name among those that are asked, or a host with Istio's port.
fn admin(whom: &str, proxies: &[String]) -> Result<Admin, Fault> {
    if whom.contains(':') {
        return Ok(Admin::at(whom, OTHERWISE));
    }
    if proxies.is_empty() {
        return Ok(Admin::at(&format!("{whom}:{PORT}"), OTHERWISE));
    }
    let mut names = Vec::new();
    for url in proxies {
        let admin = Admin::at(url, OTHERWISE);
        let config: ConfigDump = admin.get("/config_dump")?;
        let workload = config.settings.workload;
        if [&workload.name, &workload.service_account].contains(&&whom.to_owned()) {
            return Ok(admin);
        }
        names.push(workload.name);
    }
    Err(Fault::Usage(format!("no proxy of --proxy stands for {whom}; they stand for {}", names.join(", "))))
}

fn ask(admin: &Admin) -> Result<Asked, Fault> {
    #[derive(Deserialize)]
    struct Connections {
        connections: Vec<ConnectionRecord>,
    }
    let config: ConfigDump = admin.get("/config_dump")?;
    let Connections { connections } = admin.get("/connections?state=all")?;
    Ok(Asked { name: config.settings.workload.name, records: connections })
}

/// What is said on the network here for a while.
fn listen(time: Duration) -> Result<Vec<Said>, Fault> {
    let tap = Tap::start(&[], None).map_err(|error| {
        Fault::Usage(format!(
            "--capture: {error}; listening needs root or CAP_NET_RAW in the network namespace of A or B"
        ))
    })?;
    eprintln!("pillion wire: listening for {}; send a request now", duration::print(time));
    thread::sleep(time);
    Ok(tap.segments().into_iter().map(said).collect())
}

fn said(segment: Segment) -> Said {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Said { from: canonical(segment.from), to: canonical(segment.to), bytes: segment.payload }
}
