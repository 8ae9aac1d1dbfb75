//! One run of the load generator with what it cost whom, and rounds of runs: interleaved over all that are compared, the noisy
//! ones repeated.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use super::Scale;
use super::cpu::{Machine, Reading, ratio};
use super::load::READY;
use super::load::job::{Order, Outcome, Work};
use super::results::Cell;
use super::stats::{Latency, NOISY, Verdict, judge, microseconds};
use crate::lab::{LabError, Node, Process};

/// How long the load generator may take to open its connections.
const OPENING: Duration = Duration::from_secs(60);

/// How long the load generator may take beside its warm-up and the measured time.
const PATIENCE: Duration = Duration::from_secs(60);

/// The share of its threads' time that a load generator may use before it is suspected to be what limits a rate.
const BUSY: f64 = 0.9;

/// What one run found.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) outcome: Outcome,
    /// Processor time in nanoseconds, by role.
    pub(crate) spent: BTreeMap<&'static str, u64>,
    /// Whether all of that is known to the nanosecond.
    pub(crate) exact: bool,
    /// The share of the machine that others used.
    pub(crate) others: f64,
}

/// Who is loaded, and whose time is counted.
pub(crate) struct Target<'a> {
    /// Where the load generator runs.
    pub(crate) node: &'a Node,
    /// As the proxies' user, whom the rules do not capture.
    pub(crate) past_the_rules: bool,
    /// Processes by role.
    pub(crate) processes: Vec<(&'static str, u32)>,
}

/// How many rounds counted that were noisy, and how many were repeated.
#[derive(Debug, Default)]
pub(crate) struct Noise {
    /// Shares of the rounds that count.
    pub(crate) shares: Vec<f64>,
    pub(crate) repeated: usize,
    pub(crate) noisy: usize,
}

/// Runs the load generator once, or again where others disturb it.
pub(crate) fn slot(
    target: &Target<'_>,
    order: &Order,
    scale: Scale,
    noise: &mut Noise,
) -> Result<Slot, LabError> {
    let (mut attempts, mut shares) = (Vec::new(), Vec::new());
    loop {
        let attempt = once(target, order)?;
        shares.push(attempt.others);
        attempts.push(attempt);
        match judge(&shares, scale.repeats) {
            Verdict::Again => noise.repeated += 1,
            Verdict::Take(index) if index < attempts.len() => {
                let taken = attempts.swap_remove(index);
                noise.noisy += usize::from(taken.others > NOISY);
                noise.shares.push(taken.others);
                return Ok(taken);
            }
            Verdict::Take(_) => return Err(LabError::Failed("no attempt was made".to_owned())),
        }
    }
}

fn once(target: &Target<'_>, order: &Order) -> Result<Slot, LabError> {
    let read = || target.processes.iter().map(|(role, id)| (*role, Reading::of(&[*id]))).collect::<Vec<_>>();
    let load = start(target, order)?;
    load.wait_for(OPENING, "the load generator to open its connections", |load| {
        load.output().contains(READY).then_some(())
    })?;
    let (machine, before) = (Machine::now(), read());
    let flag = &order.flag;
    fs::write(flag, "").map_err(LabError::io(format!("write {}", flag.display())))?;
    let told = load.wait_for(
        order.warm_up() + order.measured_time() + PATIENCE,
        "the load generator to be done",
        |load| load.output().lines().rev().find_map(|line| serde_json::from_str::<Outcome>(line).ok()),
    );
    let (after, others) = (read(), Machine::now().used_by_others_since(&machine));
    let _ = fs::remove_file(flag);
    let outcome = told?;
    load.wait(PATIENCE)?;
    let _ = fs::remove_file(load.log());
    if outcome.operations == 0 {
        let why = outcome.failure.unwrap_or_else(|| "it had no time for even one".to_owned());
        return Err(LabError::Failed(format!("no operation succeeded: {why}")));
    }
    let (mut spent, mut exact) = (BTreeMap::new(), true);
    for ((role, earlier), (_, later)) in before.iter().zip(&after) {
        let time = later.since(earlier);
        exact &= time.exact;
        spent.insert(*role, time.nanoseconds);
    }
    Ok(Slot { outcome, spent, exact, others })
}

/// Starts the load generator, whose log is its own.
pub(crate) fn start(target: &Target<'_>, order: &Order) -> Result<Process, LabError> {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let order = serde_json::to_string(order)
        .map_err(|error| LabError::Failed(format!("an order cannot be written: {error}")))?;
    let args = ["bench-part", "drive", &order];
    let command = if target.past_the_rules {
        target.node.command_as_proxy(&args, false)
    } else {
        target.node.pillion(&args)
    };
    target.node.start_command(&format!("load-{number}"), command)
}

/// A cell of all rounds of one contestant. `bulk` figures are by byte, others by operation.
pub(crate) fn cell(contestant: &str, title: &str, slots: &[Slot], work: &Work) -> Cell {
    let mut cell = Cell::new(contestant, title);
    let by_byte = matches!(work, Work::Bulk { .. });
    let each = |of: &dyn Fn(&Slot) -> Option<f64>| {
        slots.iter().map(of).collect::<Option<Vec<f64>>>().unwrap_or_default()
    };
    let spent = |slot: &Slot, role: &str| {
        let nanoseconds = ratio(*slot.spent.get(role)?, slot.outcome.operations);
        Some(if by_byte { nanoseconds } else { nanoseconds / 1_000.0 })
    };
    let both = |slot: &Slot| {
        let inbound = spent(slot, "inbound")?;
        Some(inbound + spent(slot, "outbound").unwrap_or_default())
    };
    let names = if by_byte {
        ["nsPerByteProxies", "nsPerByteOutbound", "nsPerByteInbound"]
    } else {
        ["cpuProxies", "cpuOutbound", "cpuInbound"]
    };
    let [proxies, outbound, inbound] = names;
    cell.figure(proxies, each(&both));
    if slots.iter().all(|slot| slot.spent.contains_key("outbound")) {
        cell.figure(outbound, each(&|slot| spent(slot, "outbound")));
        cell.figure(inbound, each(&|slot| spent(slot, "inbound")));
    }
    if slots.iter().all(|slot| slot.spent.contains_key("server")) {
        cell.figure("cpuServer", each(&|slot| spent(slot, "server")));
        cell.figure(
            "cpuClient",
            each(&|slot| Some(ratio(slot.outcome.own_cpu, slot.outcome.operations) / 1_000.0)),
        );
    }
    match work {
        Work::Bulk { .. } => {
            cell.figure(
                "throughput",
                each(&|slot| Some(ratio(slot.outcome.operations, 1) * 8.0 / slot.outcome.seconds / 1e9)),
            );
        }
        Work::FixedRate { .. } => {}
        Work::Connect { .. } | Work::RoundTrip { .. } | Work::Hold { .. } => {
            cell.figure(
                "rate",
                each(&|slot| Some(ratio(slot.outcome.measured, 1) / slot.outcome.measured_seconds)),
            );
        }
    }
    if matches!(work, Work::Connect { tls: Some(_), .. }) {
        cell.figure("bytesSent", each(&|slot| Some(ratio(slot.outcome.sent, slot.outcome.operations))));
        cell.figure(
            "bytesReceived",
            each(&|slot| Some(ratio(slot.outcome.received, slot.outcome.operations))),
        );
    }
    latencies(&mut cell, slots);
    notes(&mut cell, slots, work);
    cell
}

/// Of all rounds together, by step; the median of each round is a figure, so that its spread is seen.
fn latencies(cell: &mut Cell, slots: &[Slot]) {
    let steps: std::collections::BTreeSet<&String> =
        slots.iter().flat_map(|slot| slot.outcome.latencies.keys()).collect();
    for step in steps {
        let runs = slots.iter().filter_map(|slot| slot.outcome.latencies.get(step)).flatten();
        if let Some(latency) = Latency::of(runs) {
            cell.latency.insert(step.clone(), latency);
        }
    }
    let main = if cell.latency.contains_key("handshake") { "handshake" } else { "whole" };
    let medians = slots.iter().filter_map(|slot| Some(Latency::of(slot.outcome.latencies.get(main)?)?.p50));
    cell.figure("p50", medians.collect());
}

fn notes(cell: &mut Cell, slots: &[Slot], work: &Work) {
    if slots.iter().any(|slot| !slot.exact) {
        cell.note(
            "threads or processes ended meanwhile: its processor time is known to 10 ms of each run only",
        );
    }
    let failures: u64 = slots.iter().map(|slot| slot.outcome.failures).sum();
    if failures > 0 {
        let why = slots.iter().find_map(|slot| slot.outcome.failure.clone()).unwrap_or_default();
        cell.note(format!("{failures} operations failed: {why}"));
    }
    if let Work::Connect { tls: Some(tls), .. } = work {
        let resumed: u64 = slots.iter().map(|slot| slot.outcome.resumed).sum();
        let all: u64 = slots.iter().map(|slot| slot.outcome.operations).sum();
        let share = ratio(resumed, all);
        if tls.resumed && share < 0.95 {
            cell.note(format!("only {:.0} % of its handshakes were resumed", share * 100.0));
        }
        if !tls.resumed && resumed > 0 {
            cell.note("some of its handshakes were resumed");
        }
    }
    let limited = slots.iter().any(|slot| {
        let threads = slot.outcome.threads.min(std::thread::available_parallelism().map_or(1, usize::from));
        let most = slot.outcome.seconds * 1e6 * ratio(u64::try_from(threads).unwrap_or(1), 1);
        microseconds(slot.outcome.own_cpu) > BUSY * most
    });
    if limited && !matches!(work, Work::FixedRate { .. }) {
        cell.note("the load generator was busy throughout: the rate is a lower bound");
    }
}
