//! `pillion bench`: what mutual TLS costs on this machine, taken apart, on the data path, and against other proxies.
//!
//! [`handshake`] and [`parts`] take a handshake apart; [`path`] measures whole chains on the topology of [`rig`]; [`peer`] says
//! what a contestant is; [`load`] are the processes that load and are loaded; [`run`] is one run and its cost by [`cpu`];
//! [`stats`] makes figures of rounds, [`results`] is what comes out, [`table`] and [`html`] show it. How it is measured and why
//! is told in docs/explanation/measuring.md.

mod cpu;
mod handshake;
mod html;
mod identity;
pub(crate) mod load;
mod parts;
mod path;
mod peer;
mod results;
mod rig;
mod run;
mod stats;
mod table;

use std::cell::RefCell;
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::lab::{LabError, Way, watch_signals};
use path::Wanted;
use peer::{Found, Kind, Peer};
use results::{Absent, Cell, Method, Program, Results, SCHEMA, Section};
use run::Noise;
use stats::{NOISY, Spread};

/// As a shell reports a process that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// What to measure, and how thoroughly.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to measure; everything unless it is said
    #[arg(value_enum)]
    suite: Option<Suite>,
    /// Shorter runs and fewer connections: minutes instead of half an hour
    #[arg(long)]
    quick: bool,
    /// How often everything is measured; default 5, with --quick 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: Option<u8>,
    /// Folder for results.json and report.html, made where it is missing
    #[arg(long, value_name = "DIR", default_value = "pillion-bench")]
    out: PathBuf,
    /// Another proxy, described by a file; repeat it
    #[arg(long, value_name = "FILE")]
    peer: Vec<PathBuf>,
    /// Get the proxies that are missing, by apt-get and pip
    #[arg(long)]
    install: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// A handshake, taken apart: keys, versions, groups, chains, resumed and not
    Handshake,
    /// The chain app - sidecar - sidecar - app, against no proxy and against floors
    Path,
    /// The same chain and the inbound handshake, against other proxies
    Compare,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    rounds: usize,
    measure_ms: u64,
    warm_up_ms: u64,
    /// How often a noisy round is repeated at most.
    repeats: usize,
    /// How many idle connections are held.
    idle: &'static [usize],
    /// The most that the limit of open files allows; each takes two of a proxy's.
    most_held: usize,
}

impl Scale {
    fn of(options: &Options, files: u64) -> Self {
        /// What a process opens beside connections.
        const OTHERS: u64 = 500;
        let most_held = usize::try_from(files.saturating_sub(OTHERS) / 2).unwrap_or(usize::MAX);
        let scale = if options.quick {
            Self { rounds: 3, measure_ms: 250, warm_up_ms: 50, repeats: 1, idle: &[1_000], most_held }
        } else {
            Self {
                rounds: 5,
                measure_ms: 2_000,
                warm_up_ms: 300,
                repeats: 2,
                idle: &[5_000, 50_000],
                most_held,
            }
        };
        Self { rounds: options.rounds.map_or(scale.rounds, usize::from), ..scale }
    }

    /// Processor time of one round of a part.
    fn part(self) -> Duration {
        Duration::from_millis(self.measure_ms / 10)
    }
}

/// Says on stderr what is done: on a terminal in one line, else when a new chapter begins.
#[derive(Debug)]
pub(crate) struct Progress {
    begun: Instant,
    terminal: bool,
    chapter: RefCell<String>,
}

impl Progress {
    fn new() -> Self {
        Self { begun: Instant::now(), terminal: std::io::stderr().is_terminal(), chapter: RefCell::default() }
    }

    fn step(&self, what: &str) {
        const WIDTH: usize = 78;
        let chapter = what.split(':').next().unwrap_or(what);
        let seconds = self.begun.elapsed().as_secs();
        // Nothing can be done where even stderr is gone.
        if self.terminal {
            let line: String = format!("[{seconds:>4} s] {what}").chars().take(WIDTH).collect();
            let _ = write!(std::io::stderr(), "\r{line:WIDTH$}");
        } else if *self.chapter.borrow() != chapter {
            let _ = writeln!(std::io::stderr(), "[{seconds:>4} s] {chapter}");
        }
        chapter.clone_into(&mut self.chapter.borrow_mut());
    }

    fn end(&self) {
        if self.terminal {
            let _ = writeln!(std::io::stderr());
        }
    }
}

/// Exit codes: 0 measured, 1 it could not be, 130 after a signal.
pub(crate) fn run(options: &Options) -> ExitCode {
    match watch_signals().and_then(|()| measure(options)) {
        Ok(results) => {
            print!("{}", table::whole(&results));
            match write(&options.out, &results) {
                Ok(()) => {
                    let folder = options.out.display();
                    println!("\nwrote {folder}/results.json and {folder}/report.html");
                    ExitCode::SUCCESS
                }
                Err(error) => failed(&error),
            }
        }
        Err(LabError::Interrupted) => {
            eprintln!("\npillion bench: stopped; everything was taken down");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &LabError) -> ExitCode {
    eprintln!("\npillion bench: {error}");
    ExitCode::FAILURE
}

fn write(folder: &Path, results: &Results) -> Result<(), LabError> {
    let json = serde_json::to_string_pretty(results)
        .map_err(|error| LabError::Failed(format!("the results cannot be written: {error}")))?;
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(folder.join("results.json"), json + "\n"))
        .and_then(|()| fs::write(folder.join("report.html"), html::page(results)))
        .map_err(LabError::io(format!("write to {}", folder.display())))
}

fn measure(options: &Options) -> Result<Results, LabError> {
    let executable = std::env::current_exe().map_err(LabError::io("find the own executable"))?;
    // The proxies inherit it.
    let files = load::raise_file_limit();
    let scale = Scale::of(options, files);
    let progress = Progress::new();
    let mut noise = Noise::default();
    let (mut sections, mut contestants, mut absent) = (Vec::new(), Vec::new(), Vec::new());
    let mut warnings = warnings();
    let on_the_path = wants(options, Suite::Path) || wants(options, Suite::Compare);
    // Before anything takes time, for a file may be wrong.
    let peers = if on_the_path { peers(options, &executable, &mut absent)? } else { Vec::new() };
    let way = Way::here();
    if wants(options, Suite::Handshake) {
        let way = way.as_ref().map_or(Way::Loopback, |way| *way);
        if way == Way::Loopback {
            warnings.push(
                "without root, client and server of the handshakes share one network, on loopback".to_owned(),
            );
        }
        sections.push(handshake::measure(&executable, way, scale, &progress, &mut noise)?);
    }
    sections.push(parts::measure(scale, &progress)?);
    if on_the_path {
        match root(way) {
            Ok(()) => {
                let compare = wants(options, Suite::Compare);
                for count in scale.idle.iter().filter(|count| **count > scale.most_held) {
                    warnings.push(format!(
                        "{count} idle connections were left out: a process may open {files} files here (ulimit -n)"
                    ));
                }
                let wanted = Wanted { handshakes: compare, wide: true };
                let found = path::measure(&executable, &peers, wanted, scale, &progress, &mut noise)?;
                contestants = found.seats;
                absent.extend(found.absent);
                // What people come for stands first.
                sections.splice(0..0, found.sections);
            }
            Err(error) if options.suite.is_none() => {
                warnings.push(format!("left out, all but the handshakes: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    progress.end();
    relate_to_floors(&mut sections);
    warnings.extend(noisy(&noise));
    Ok(Results {
        schema: SCHEMA,
        program: Program {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            optimised: !cfg!(debug_assertions),
        },
        machine: results::machine(),
        method: Method {
            quick: options.quick,
            rounds: scale.rounds,
            measure_ms: scale.measure_ms,
            warm_up_ms: scale.warm_up_ms,
            noise_limit: NOISY,
            repeats: scale.repeats,
            used_by_others: Spread::of(noise.shares),
            repeated: noise.repeated,
            noisy: noise.noisy,
            seconds: progress.begun.elapsed().as_secs_f64(),
        },
        contestants,
        absent,
        sections,
        warnings,
    })
}

fn wants(options: &Options, suite: Suite) -> bool {
    options.suite.is_none_or(|wanted| wanted == suite)
}

/// Real interception with proxies of every kind needs a user of their own.
fn root(way: Result<Way, LabError>) -> Result<(), LabError> {
    match way {
        Ok(Way::Root) => Ok(()),
        Ok(way) => Err(LabError::Impossible(format!(
            "the proxies need a user of their own, which only root has; possible is: {way}; `sudo pillion bench`"
        ))),
        Err(error) => Err(error),
    }
}

/// Who takes part, as far as they are here.
fn peers(options: &Options, executable: &Path, absent: &mut Vec<Absent>) -> Result<Vec<Found>, LabError> {
    let mut peers = Peer::known()?;
    if !wants(options, Suite::Compare) {
        peers.retain(|peer| peer.kind != Kind::Peer);
    }
    if !wants(options, Suite::Path) {
        peers.retain(|peer| peer.kind != Kind::Pillion || peer.outbound.is_some());
    }
    for file in &options.peer {
        peers.push(Peer::from_file(file)?);
    }
    let mut found = Vec::new();
    for peer in peers {
        match peer.find(executable, options.install) {
            Ok(peer) => found.push(peer),
            Err(why) => absent.push(Absent { name: peer.name, title: peer.title, why }),
        }
    }
    Ok(found)
}

/// What is known before anything is measured.
fn warnings() -> Vec<String> {
    let mut warnings = Vec::new();
    if cfg!(debug_assertions) {
        warnings.push(
            "this pillion was built without optimisation: its figures say nothing; build it with --release"
                .to_owned(),
        );
    }
    warnings
}

fn noisy(noise: &Noise) -> Option<String> {
    (noise.noisy > 0).then(|| {
        format!(
            "the machine was not quiet: in {} of {} rounds others used more than {:.0} % of it",
            noise.noisy,
            noise.shares.len(),
            NOISY * 100.0
        )
    })
}

/// Each processor time as a multiple of the least that is possible: of the plain relay on the path; of the TLS library's own
/// handshake and a relay of one side at the inbound sidecar.
fn relate_to_floors(sections: &mut [Section]) {
    let median = |section: &str, contestant: &str, figure: &str| {
        sections.iter().find(|known| known.id == section)?.cell(contestant)?.median(figure)
    };
    let relay = median("connection", "relay-inbound", "cpuProxies");
    let handshake = |part: &str| Some(median("parts", part, "cpuServer")? + relay?);
    let floors = [
        ("inbound-full", handshake("tls-full")),
        ("inbound-resumed", handshake("tls-resumed")),
        ("inbound-full-rsa-2048", handshake("tls-full-rsa-2048")),
    ];
    for section in sections {
        for figure in ["cpuProxies", "nsPerByteProxies"] {
            let known = floors.iter().find(|(id, _)| *id == section.id).map(|(_, floor)| *floor);
            let floor = known.unwrap_or_else(|| section.cell("relay").and_then(|cell| cell.median(figure)));
            let one_sided = section.cell("relay-inbound").and_then(|cell| cell.median(figure));
            for cell in &mut section.cells {
                // One sidecar is compared with one relay.
                let floor = if is_one_sided(cell) { one_sided } else { floor };
                if let (Some(spent), Some(floor)) = (cell.median(figure), floor.filter(|floor| *floor > 0.0))
                {
                    cell.figure("ofFloor", vec![spent / floor]);
                }
            }
        }
        if let Some(direct) = section.cell("direct").and_then(|cell| cell.median("p50")) {
            for cell in section.cells.iter_mut().filter(|cell| cell.contestant != "direct") {
                if let Some(p50) = cell.median("p50") {
                    cell.figure("addedP50", vec![p50 - direct]);
                }
            }
        }
    }
}

fn is_one_sided(cell: &Cell) -> bool {
    let proxies = cell.figures.contains_key("cpuProxies") || cell.figures.contains_key("nsPerByteProxies");
    proxies && ["relay-inbound", "pillion-permissive", "pillion-disable"].contains(&cell.contestant.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(id: &str, cells: &[(&str, &'static str, f64)]) -> Section {
        let cells = cells.iter().map(|(name, figure, value)| {
            let mut cell = Cell::new(name, name);
            cell.figure(figure, vec![*value]);
            cell
        });
        Section { id: id.to_owned(), title: String::new(), text: String::new(), cells: cells.collect() }
    }

    #[test]
    fn each_processor_time_is_told_as_a_multiple_of_its_floor() {
        let path = [("relay", 30.0), ("pillion", 45.0), ("relay-inbound", 10.0), ("pillion-disable", 12.0)];
        let mut sections = [
            section("inbound-full", &[("pillion", "cpuProxies", 225.0)]),
            section("connection", &path.map(|(name, spent)| (name, "cpuProxies", spent))),
            section("parts", &[("tls-full", "cpuServer", 140.0)]),
        ];
        relate_to_floors(&mut sections);
        let multiple = |section: &str, name: &str| {
            let section = sections.iter().find(|known| known.id == section).unwrap();
            (section.cell(name).unwrap().median("ofFloor").unwrap() * 100.0).round()
        };
        assert!((multiple("inbound-full", "pillion") - 150.0).abs() < 0.1);
        assert!((multiple("connection", "pillion") - 150.0).abs() < 0.1);
        assert!((multiple("connection", "pillion-disable") - 120.0).abs() < 0.1);
    }
}
