//! `pillion check`: asks the proxies, listens on their network where that can be done, and prints the judgement.

use std::net::IpAddr;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use pillion_mesh::check::{Asked, Captured, Facts, Report, Stream, judge};
use pillion_mesh::duration;
use pillion_mesh::wire::{ConnectionRecord, Direction};
use serde::Deserialize;

use crate::http;
use crate::output::Format;
use crate::source::{ADMIN, Admin, Fault};
use crate::wiretap::{Tap, talks};

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(500);
/// Time for the CA's answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The admin API of a proxy that is asked; repeat it
    #[arg(long, value_name = "URL", default_value = ADMIN)]
    proxy: Vec<String>,
    /// The monitoring port of the CA, such as http://ca:15014
    #[arg(long, value_name = "URL")]
    ca: Option<String>,
    /// How long to ask again while a check fails
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    wait: Duration,
    /// How long to listen on the network of a proxy that is asked on loopback; only as root
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration::parse)]
    listen: Duration,
    /// Do not listen: go by the records of the proxies
    #[arg(long, conflicts_with = "listen")]
    by_records: bool,
    #[command(flatten)]
    format: Format,
}

/// Exit codes: 0 no check failed, 1 one did.
pub(crate) fn run(options: &Options) -> ExitCode {
    let deadline = Instant::now() + options.wait;
    let mut told = false;
    let report = loop {
        let report = round(options);
        if report.is_good() || Instant::now() >= deadline {
            break report;
        }
        if !told {
            let wait = duration::print(options.wait);
            eprintln!("pillion check: something is not as it should be; asking again for up to {wait}");
            told = true;
        }
        thread::sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now())));
    };
    options.format.print(&report, &report);
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Listens, then asks everybody, so that what was heard is in the records.
fn round(options: &Options) -> Report {
    let admins: Vec<Admin> = options.proxy.iter().map(|url| Admin::at(url, "")).collect();
    let may_listen = !options.by_records && admins.iter().any(|admin| is_here(admin.url()));
    let heard = may_listen.then(|| listen(options.listen)).flatten();
    let own: Vec<u16> = admins.iter().map(Admin::url).chain(options.ca.as_deref()).filter_map(port).collect();
    let asked: Vec<Asked> = admins.iter().map(|admin| ask(admin, heard.as_ref(), &own)).collect();
    let ca = options.ca.as_deref().map(ca);
    judge(&asked, env!("CARGO_PKG_VERSION"), ca.as_ref())
}

fn ask(admin: &Admin, heard: Option<&Captured>, own: &[u16]) -> Asked {
    // What helps is told by the check itself.
    let first_line = |fault: Fault| fault.to_string().lines().next().unwrap_or_default().to_owned();
    let facts = facts(admin, heard, own).map(Box::new).map_err(first_line);
    Asked { url: admin.url().to_owned(), facts }
}

fn facts(admin: &Admin, heard: Option<&Captured>, own: &[u16]) -> Result<Facts, Fault> {
    #[derive(Deserialize)]
    struct Connections {
        connections: Vec<ConnectionRecord>,
    }
    let is_here = is_here(admin.url());
    let config = admin.get("/config_dump")?;
    let before = SystemTime::now();
    let certs = admin.get("/certs")?;
    let asked_at = before + before.elapsed().unwrap_or_default() / 2;
    let Connections { mut connections } = admin.get("/connections?state=all")?;
    connections.retain(|record| !is_ours(record, own));
    Ok(Facts {
        config,
        readiness: admin.get_whatever_status("/ready")?,
        certs,
        asked_at,
        connections,
        rules: if is_here { rules() } else { None },
        captured: heard.filter(|_| is_here).cloned(),
    })
}

/// Whether it is a question of ours, which the rules capture as they do everything: to an address that is no service's, at
/// one of the ports that are asked.
fn is_ours(record: &ConnectionRecord, own: &[u16]) -> bool {
    record.direction == Direction::Outbound
        && record.service.is_none()
        && record.original_destination.is_some_and(|address| own.contains(&address.port()))
}

fn port(url: &str) -> Option<u16> {
    authority(url).rsplit_once(':')?.1.parse().ok()
}

fn authority(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default()
}

/// Whether the URL is of loopback: then the proxy stands in the network namespace in which we are.
fn is_here(url: &str) -> bool {
    let authority = authority(url);
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What is said here for a while; none where we may not listen.
fn listen(time: Duration) -> Option<Captured> {
    let tap = Tap::start(&[], None).ok()?;
    thread::sleep(time);
    let stream = |talk: crate::wiretap::Talk| Stream {
        one: talk.one,
        other: talk.other,
        tls: talk.tls,
        plaintext: talk.plaintext,
    };
    Some(Captured { streams: talks(&tap.segments()).into_iter().map(stream).collect() })
}

/// The interception rules here, as `pillion-iptables show` prints them; none where we may not ask.
fn rules() -> Option<String> {
    let output = Command::new(std::env::current_exe().ok()?).args(["iptables", "show"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What the CA says of itself.
fn ca(url: &str) -> Result<String, String> {
    let scheme = if url.contains("://") { "" } else { "http://" };
    let page = format!("{scheme}{}/healthz/ready", url.trim_end_matches('/'));
    let answer =
        http::get(&page, ANSWER).map_err(|error| format!("the CA at {url} does not answer: {error}"))?;
    let said = answer.body.trim().to_owned();
    if answer.is_success() {
        Ok(said)
    } else {
        Err(format!("the CA at {url} answers {}: {said}", answer.status))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("http://127.0.0.1:15000", true)]
    #[case("http://localhost:15000", true)]
    #[case("http://[::1]:15000", true)]
    #[case("http://web:15000", false)]
    #[case("http://10.0.0.7:15000", false)]
    #[case("http://[fd00::7]:15000", false)]
    fn a_proxy_is_here_where_it_is_asked_on_loopback(#[case] url: &str, #[case] expected: bool) {
        assert_eq!(is_here(url), expected);
    }
}
