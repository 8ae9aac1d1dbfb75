//! `pillion bench`: what mutual TLS costs on this machine, taken apart, on the data path, and against other proxies.
//!
//! [`handshake`] and [`parts`] take a handshake apart; [`path`] measures whole chains on the topology of [`rig`]; [`peer`] says
//! what a contestant is; [`load`] are the processes that load and are loaded; [`run`] is one run and its cost by [`cpu`];
//! [`stats`] makes figures of rounds, [`results`] is what comes out, [`verdict`] says the most important of it, [`table`] and
//! [`html`] show it. How it is measured and why is told in docs/explanation/measuring.md.

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
mod verdict;

use std::cell::RefCell;
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use pillion_mesh::duration;

use crate::lab::{LabError, Way, check_interrupt, watch_signals};
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
    /// What to measure, one or several; everything unless it is said
    #[arg(value_enum, value_name = "SUITE")]
    suites: Vec<Suite>,
    /// Shorter runs and fewer connections: minutes instead of half an hour
    #[arg(long)]
    quick: bool,
    /// How often everything is measured; default 5, with --quick 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: Option<u8>,
    /// How often a run is repeated at most while others use the machine; default 2, with --quick 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=10))]
    repeats: Option<u8>,
    /// How long each run is measured, 50ms to 60s; default 2s, with --quick 250ms
    #[arg(long, value_name = "DURATION", value_parser = length)]
    time: Option<Duration>,
    /// Folder for results.json and report.html, made where it is missing
    #[arg(long, value_name = "DIR", default_value = "pillion-bench")]
    out: PathBuf,
    /// Another proxy, described by a file; repeat it
    #[arg(long, value_name = "FILE")]
    peer: Vec<PathBuf>,
    /// Get the proxies that are missing, by apt-get and pip
    #[arg(long)]
    install: bool,
    /// Measure nothing: show the results.json of an earlier run, and write its page again
    #[arg(long, value_name = "FILE", conflicts_with_all = ["suites", "quick", "rounds", "repeats", "time", "peer", "install"])]
    from: Option<PathBuf>,
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
    /// How many idle connections are held, where the machine can hold so many.
    idle: &'static [usize],
    /// How long memory has to stay the same to be noted.
    still: Duration,
}

impl Scale {
    fn of(options: &Options) -> Self {
        let scale = if options.quick {
            Self {
                rounds: 3,
                measure_ms: 250,
                warm_up_ms: 50,
                repeats: 1,
                idle: &[1_000],
                still: Duration::from_millis(700),
            }
        } else {
            Self {
                rounds: 5,
                measure_ms: 2_000,
                warm_up_ms: 300,
                repeats: 2,
                idle: &[5_000, 50_000],
                still: Duration::from_secs(2),
            }
        };
        Self {
            rounds: options.rounds.map_or(scale.rounds, usize::from),
            repeats: options.repeats.map_or(scale.repeats, usize::from),
            measure_ms: options.time.map_or(scale.measure_ms, milliseconds),
            ..scale
        }
    }

    /// Processor time of one round of a part.
    fn part(self) -> Duration {
        Duration::from_millis(self.measure_ms / 10)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Of a run.
fn length(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).map_err(|error| error.to_string())?;
    let legal = (Duration::from_millis(50)..=Duration::from_secs(60)).contains(&time);
    if legal { Ok(time) } else { Err(format!("expected 50ms to 60s, got {text}")) }
}

/// How many idle connections can be held, and what sets that limit.
struct Most {
    held: usize,
    why: String,
}

impl Most {
    /// `files` is what one process may open.
    fn here(files: u64) -> Self {
        /// What a process opens beside connections.
        const OTHERS: u64 = 500;
        /// Of one connection: six sockets in the kernel, two sidecars, the app and the load generator.
        const KIBIBYTES: u64 = 160;
        let by_files = files.saturating_sub(OTHERS) / 2;
        let by_memory = results::available_kibibytes() / KIBIBYTES;
        let why = if by_files <= by_memory {
            format!(
                "a process may open {files} files here (ulimit -Hn), and a sidecar needs two for each connection"
            )
        } else {
            format!("there is memory for no more, at some {KIBIBYTES} KiB for all that one connection passes")
        };
        Self { held: usize::try_from(by_files.min(by_memory)).unwrap_or(usize::MAX), why }
    }

    /// Of those wanted the ones that can be, and in place of the first that cannot be the most that can.
    fn of(&self, wanted: &[usize]) -> Vec<usize> {
        let most = self.held / 100 * 100;
        let mut counts: Vec<usize> = wanted.iter().map(|count| *count.min(&most)).collect();
        counts.dedup();
        counts.retain(|count| *count > 0);
        counts
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
    let results = match &options.from {
        Some(file) => earlier(file),
        None => watch_signals().and_then(|()| measure(options)),
    };
    match results {
        Ok(results) => {
            let written = write(&options.out, &results);
            let mut text = table::whole(&results);
            if written.is_ok() {
                let folder = options.out.display();
                text.push_str(&format!("\nwrote {folder}/results.json and {folder}/report.html\n"));
            }
            // Whoever stops reading has the files.
            let _ = std::io::stdout().write_all(text.as_bytes());
            written.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
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

/// What an earlier run has written.
fn earlier(file: &Path) -> Result<Results, LabError> {
    const LONGEST: u64 = 16 * 1024 * 1024;
    let place = file.display();
    let length = fs::metadata(file).map_err(LabError::io(format!("read {place}")))?.len();
    if length > LONGEST {
        return Err(LabError::Failed(format!("{place}: expected at most {LONGEST} bytes, got {length}")));
    }
    let text = fs::read_to_string(file).map_err(LabError::io(format!("read {place}")))?;
    let results: Results = serde_json::from_str(&text).map_err(|error| {
        LabError::Failed(format!("{place}: expected a results.json of pillion bench, got: {error}"))
    })?;
    if results.schema != SCHEMA {
        return Err(LabError::Failed(format!("{place}: expected schema {SCHEMA}, got {}", results.schema)));
    }
    Ok(results)
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
    let most = Most::here(load::raise_file_limit());
    let scale = Scale::of(options);
    let progress = Progress::new();
    let mut noise = Noise::default();
    let (mut sections, mut contestants, mut absent) = (Vec::new(), Vec::new(), Vec::new());
    let mut warnings = warnings();
    let on_the_path = wants(options, Suite::Path) || wants(options, Suite::Compare);
    // Before anything takes time, for a file may be wrong.
    let peers = if on_the_path { peers(options, &executable, &progress, &mut absent)? } else { Vec::new() };
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
                let idle = most.of(scale.idle);
                if let Some(wanted) = scale.idle.last().filter(|wanted| **wanted > most.held) {
                    let held = idle.last().copied().unwrap_or_default();
                    warnings
                        .push(format!("{held} idle connections were held instead of {wanted}: {}", most.why));
                }
                let wanted = Wanted { handshakes: compare, wide: true, idle };
                let found = path::measure(&executable, &peers, &wanted, scale, &progress, &mut noise)?;
                contestants = found.seats;
                absent.extend(found.absent);
                // What people come for stands first.
                sections.splice(0..0, found.sections);
            }
            Err(error) if options.suites.is_empty() => {
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
    options.suites.is_empty() || options.suites.contains(&suite)
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
fn peers(
    options: &Options,
    executable: &Path,
    progress: &Progress,
    absent: &mut Vec<Absent>,
) -> Result<Vec<Found>, LabError> {
    let mut peers = Peer::known()?;
    if !wants(options, Suite::Compare) {
        peers.retain(|peer| peer.kind != Kind::Peer);
    }
    if !wants(options, Suite::Path) {
        peers.retain(|peer| peer.kind != Kind::Pillion || peer.outbound.is_some());
    }
    for file in &options.peer {
        let peer = Peer::from_file(file)?;
        if peers.iter().any(|other| other.name == peer.name) {
            return Err(LabError::Failed(format!(
                "{}: name: expected one that no other contestant has, got {:?}",
                file.display(),
                peer.name
            )));
        }
        peers.push(peer);
    }
    let mut found = Vec::new();
    let doing = if options.install { "getting proxies that are missing" } else { "looking for proxies" };
    for peer in peers {
        progress.step(&format!("{doing}: {}", peer.title));
        check_interrupt()?;
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
            let relay = |name: &str| section.cell(name).and_then(|cell| cell.median(figure));
            let (two_sided, one_sided) = (relay("relay"), relay("relay-inbound"));
            for cell in &mut section.cells {
                // One sidecar is compared with one relay.
                let floor = known.unwrap_or(if is_one_sided(cell) { one_sided } else { two_sided });
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

/// Whether its client has no proxy.
fn is_one_sided(cell: &Cell) -> bool {
    !["cpuOutbound", "nsPerByteOutbound"].iter().any(|figure| cell.figures.contains_key(*figure))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

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
        for name in ["relay", "pillion"] {
            let cell = sections[1].cells.iter_mut().find(|cell| cell.contestant == name).unwrap();
            cell.figure("cpuOutbound", vec![1.0]);
        }
        relate_to_floors(&mut sections);
        let multiple = |section: &str, name: &str| {
            let section = sections.iter().find(|known| known.id == section).unwrap();
            (section.cell(name).unwrap().median("ofFloor").unwrap() * 100.0).round()
        };
        assert!((multiple("inbound-full", "pillion") - 150.0).abs() < 0.1);
        assert!((multiple("connection", "pillion") - 150.0).abs() < 0.1);
        assert!((multiple("connection", "pillion-disable") - 120.0).abs() < 0.1);
    }

    #[rstest]
    #[case::enough(60_000, &[5_000, 50_000])]
    #[case::for_some(9_750, &[5_000, 9_700])]
    #[case::for_few(1_234, &[1_200])]
    #[case::for_none(12, &[])]
    fn as_many_idle_connections_are_held_as_the_machine_allows(
        #[case] held: usize,
        #[case] counts: &[usize],
    ) {
        assert_eq!(Most { held, why: String::new() }.of(&[5_000, 50_000]), counts);
    }

    #[rstest]
    #[case("250ms", true)]
    #[case("60s", true)]
    #[case("49ms", false)]
    #[case("61s", false)]
    #[case("2", false)]
    fn a_run_is_neither_too_short_nor_too_long(#[case] text: &str, #[case] legal: bool) {
        assert_eq!(length(text).is_ok(), legal);
    }
}
