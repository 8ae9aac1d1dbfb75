//! What a run has found: the shape of `results.json`, from which table and page are made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::peer::Kind;
use super::stats::{Latency, Spread};

/// Grows when the shape changes in a way that breaks readers.
pub(crate) const SCHEMA: u32 = 1;

/// A whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Results {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// Which pillion measured.
    pub(crate) program: Program,
    /// On what.
    pub(crate) machine: Machine,
    /// How.
    pub(crate) method: Method,
    /// Who took part.
    pub(crate) contestants: Vec<Contestant>,
    /// Who was asked for and is not here, with the reason.
    pub(crate) absent: Vec<Absent>,
    /// What was measured, in the order of the report.
    pub(crate) sections: Vec<Section>,
    /// What a reader must know before believing a figure.
    pub(crate) warnings: Vec<String>,
}

/// The pillion that measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Program {
    pub(crate) version: String,
    /// Built with optimisation, as it is used.
    pub(crate) optimised: bool,
}

/// A machine, named by what it is and not by what it is called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    pub(crate) architecture: String,
}

/// How it was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Method {
    /// Shorter runs and fewer connections.
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    /// Of each run, in milliseconds, without its warm-up.
    pub(crate) measure_ms: u64,
    pub(crate) warm_up_ms: u64,
    /// The share of the machine that others may use before a round is repeated.
    pub(crate) noise_limit: f64,
    /// How often one round is repeated at most.
    pub(crate) repeats: usize,
    /// The share that others used in the rounds that count.
    pub(crate) used_by_others: Option<Spread>,
    /// Rounds that were measured again.
    pub(crate) repeated: usize,
    /// Rounds that count though others used more than the limit.
    pub(crate) noisy: usize,
    /// Of the whole run.
    pub(crate) seconds: f64,
}

/// One that took part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contestant {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) kind: Kind,
    pub(crate) version: String,
    /// What it cannot do as the others do.
    pub(crate) cannot: Vec<String>,
}

/// One that did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Absent {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) why: String,
}

/// One question, and what each contestant answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Section {
    /// Stays the same from run to run: `inbound-full`, `round-trip-32`.
    pub(crate) id: String,
    /// For people.
    pub(crate) title: String,
    /// How it was measured, in a sentence or two.
    pub(crate) text: String,
    pub(crate) cells: Vec<Cell>,
}

/// What one contestant did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// A contestant's name, or that of a variation.
    pub(crate) contestant: String,
    /// For people.
    pub(crate) title: String,
    /// By name; [`FIGURES`] has their units.
    pub(crate) figures: BTreeMap<String, Spread>,
    /// By step: `whole`, `connect`, `handshake`, `late`.
    pub(crate) latency: BTreeMap<String, Latency>,
    /// What a reader must know of this cell.
    pub(crate) notes: Vec<String>,
}

/// A kind of figure: its name, its unit, the head of its column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) head: &'static str,
}

const fn figure(name: &'static str, unit: &'static str, head: &'static str) -> Figure {
    Figure { name, unit, head }
}

/// All kinds, in the order of columns.
pub(crate) const FIGURES: [Figure; 26] = [
    figure("cpuProxies", "µs", "CPU proxies"),
    figure("cpuOutbound", "µs", "outbound"),
    figure("cpuInbound", "µs", "inbound"),
    figure("cpuServer", "µs", "CPU server"),
    figure("cpuClient", "µs", "CPU client"),
    figure("cpuBoth", "µs", "CPU both"),
    figure("nsPerByteProxies", "ns/B", "CPU proxies"),
    figure("nsPerByteOutbound", "ns/B", "outbound"),
    figure("nsPerByteInbound", "ns/B", "inbound"),
    figure("ofFloor", "×", "of the floor"),
    figure("rate", "/s", "rate"),
    figure("throughput", "Gbit/s", "throughput"),
    figure("p50", "µs", "p50"),
    figure("addedP50", "µs", "added p50"),
    figure("bytesSent", "B", "sent"),
    figure("bytesReceived", "B", "received"),
    figure("memoryOutbound", "MiB", "outbound"),
    figure("memoryInbound", "MiB", "inbound"),
    figure("perConnectionOutbound", "KiB", "outbound"),
    figure("perConnectionInbound", "KiB", "inbound"),
    figure("trafficOutbound", "KiB", "outbound after 64 KiB"),
    figure("trafficInbound", "KiB", "inbound after 64 KiB"),
    figure("keptOutbound", "MiB", "kept outbound"),
    figure("keptInbound", "MiB", "kept inbound"),
    figure("cpuNanoseconds", "ns", "CPU"),
    figure("gigabytes", "GB/s", "speed"),
];

impl Section {
    /// The figures that at least one cell has, in order.
    pub(crate) fn figures(&self) -> impl Iterator<Item = Figure> + use<'_> {
        FIGURES
            .into_iter()
            .filter(|figure| self.cells.iter().any(|cell| cell.figures.contains_key(figure.name)))
    }

    /// The cell of a contestant.
    pub(crate) fn cell(&self, contestant: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.contestant == contestant)
    }
}

impl Cell {
    /// Of a contestant, still without figures.
    pub(crate) fn new(contestant: &str, title: &str) -> Self {
        Self { contestant: contestant.to_owned(), title: title.to_owned(), ..Self::default() }
    }

    /// Adds a figure, where the rounds have one.
    pub(crate) fn figure(&mut self, name: &'static str, rounds: Vec<f64>) {
        if let Some(spread) = Spread::of(rounds) {
            self.figures.insert(name.to_owned(), spread);
        }
    }

    /// The median of a figure.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        self.figures.get(name).map(|spread| spread.median)
    }

    /// Adds a note once.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// Memory that processes may still take, in KiB.
pub(crate) fn available_kibibytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// This machine.
pub(crate) fn machine() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let memory = value(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let memory: u64 = memory.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    Machine {
        processor: value(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_mib: memory / 1024,
        // What comes after the numbers is whoever built it.
        kernel: format!("Linux {}", kernel.trim().split('-').next().unwrap_or_default()),
        architecture: std::env::consts::ARCH.to_owned(),
    }
}
