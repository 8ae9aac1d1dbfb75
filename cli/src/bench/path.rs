//! `path` and `compare`: the whole chain app - sidecar - sidecar - app, and the handshake at the inbound sidecar, for all
//! contestants in turns.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::identity::Key;
use super::load::job::{Order, Shape, Tls, Work};
use super::load::{EXCHANGED, HOLDING};
use super::peer::{Found, Kind};
use super::results::{Cell, Section};
use super::rig::{Memory, Rig, Seat, last_line};
use super::run::{Noise, Slot, Target, cell, slot, start};
use super::{Progress, Scale};
use crate::lab::{LabError, wait_until};

/// How many connections are opened and closed at once by the handshake runs.
const WORKERS: usize = 16;

/// Bytes of a small message.
const SMALL: usize = 64;

/// Messages a second of the run at a fixed rate, and over how many connections.
const RATE: (u32, usize) = (1_000, 16);

/// How long idle connections may take to be opened, and to have traffic.
const OPENING: Duration = Duration::from_secs(300);

/// Bytes that go to the app and back on each idle connection, to see what a sidecar keeps of them.
const TRAFFIC: usize = 64 * 1024;

/// How long memory may take to settle, and what it may change meanwhile.
const SETTLING: Duration = Duration::from_secs(20);
const RIPPLE: u64 = 256 * 1024;

/// All questions by their ids; `idle` stands for any number of idle connections.
pub(crate) const QUESTIONS: [&str; 14] = [
    "inbound-full",
    "inbound-resumed",
    "inbound-full-rsa-2048",
    "connection",
    "round-trip-1",
    "round-trip-32",
    "round-trip-1000",
    "fixed-rate",
    "bulk-to-app-1",
    "bulk-to-app-8",
    "bulk-from-app-1",
    "bulk-from-app-8",
    "memory-start",
    "idle",
];

/// One question that all contestants are asked.
struct Operation {
    id: String,
    title: String,
    text: &'static str,
    work: Work,
    /// TLS is the load generator's, and the server's sidecar alone is measured.
    inbound_only: bool,
}

/// What took part, and what came of it.
pub(crate) struct Answers {
    pub(crate) seats: Vec<super::results::Contestant>,
    pub(crate) absent: Vec<super::results::Absent>,
    pub(crate) sections: Vec<Section>,
}

/// Which operations are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The handshake at the inbound sidecar.
    pub(crate) handshakes: bool,
    /// 1,000 connections, and 8 connections in bulk: the width of the data path.
    pub(crate) wide: bool,
    /// How many idle connections are held, one number after the other.
    pub(crate) idle: Vec<usize>,
}

/// Measures everything; contestants that cannot run are told, not failed.
pub(crate) fn measure(
    executable: &Path,
    peers: &[Found],
    wanted: &Wanted,
    scale: Scale,
    progress: &Progress,
    noise: &mut Noise,
) -> Result<Answers, LabError> {
    let rig =
        Rig::build(executable, peers, Key::P256, true, &|who| progress.step(&format!("starting {who}")))?;
    // First, for memory of runs before would be used again.
    let mut memory = vec![memory_at_start(&rig)];
    for count in &wanted.idle {
        memory.push(idle(&rig, *count, scale, progress)?);
    }
    let operations = operations(&rig, wanted, Key::P256);
    let mut sections = ask(&rig, &operations, scale, progress, noise)?;
    sections.extend(memory);
    let seats = rig.seats.iter().map(|seat| super::results::Contestant {
        name: seat.name.clone(),
        title: seat.title.clone(),
        kind: seat.kind,
        version: seat.version.clone(),
        cannot: seat.cannot.clone(),
    });
    let absent = rig.absent.iter().cloned();
    let found = Answers {
        seats: seats.collect(),
        absent: absent.map(|(name, title, why)| super::results::Absent { name, title, why }).collect(),
        sections,
    };
    drop(rig);
    if !wanted.handshakes {
        return Ok(found);
    }
    // The same handshake with RSA keys, in a rig of its own: all proxies have other certificates.
    let terminate = |found: &&Found| {
        let peer = &found.peer;
        matches!(peer.kind, Kind::Pillion | Kind::Peer)
            && peer.outbound.is_some()
            && peer.is_asked("inbound-full-rsa-2048")
    };
    let peers: Vec<Found> = peers.iter().filter(terminate).cloned().collect();
    let rig = Rig::build(executable, &peers, Key::Rsa2048, false, &|who| {
        progress.step(&format!("starting {who} with RSA keys"));
    })?;
    let operations: Vec<_> = operations_of_handshakes(&rig, Key::Rsa2048)
        .into_iter()
        .filter(|operation| !is_resumed(&operation.work))
        .collect();
    let mut found = found;
    let rsa = ask(&rig, &operations, scale, progress, noise)?;
    let place = found.sections.iter().take_while(|section| section.id.starts_with("inbound")).count();
    found.sections.splice(place..place, rsa);
    Ok(found)
}

fn is_resumed(work: &Work) -> bool {
    matches!(work, Work::Connect { tls: Some(tls), .. } if tls.resumed)
}

fn operations_of_handshakes(rig: &Rig, key: Key) -> Vec<Operation> {
    let handshake = |resumed: bool| {
        let kind = if resumed { "resumed" } else { "full" };
        let tls = Tls { shape: Shape::USUAL, mutual: true, resumed, files: rig.client_files.clone() };
        let suffix = if key == Key::P256 { String::new() } else { "-rsa-2048".to_owned() };
        Operation {
            id: format!("inbound-{kind}{suffix}"),
            title: format!("Handshake at the inbound sidecar, {kind}, {}", key.name()),
            text: "A client with TLS of its own connects through the server's interception rules, both sides verify each \
                   other, one byte goes to the app and back, both ends close. TLS 1.3, X25519, AES-128-GCM; 16 at once. \
                   The time is that of the server's sidecar.",
            work: Work::Connect { workers: WORKERS, tls: Some(tls) },
            inbound_only: true,
        }
    };
    vec![handshake(false), handshake(true)]
}

fn operations(rig: &Rig, wanted: &Wanted, key: Key) -> Vec<Operation> {
    let mut all = if wanted.handshakes { operations_of_handshakes(rig, key) } else { Vec::new() };
    all.push(Operation {
        id: "connection".to_owned(),
        title: "New connection through both sidecars".to_owned(),
        text: "The client app connects, sends one byte, has it back and closes; 16 at once. The sidecars do with each other \
               what they are configured for: resumed sessions, where they resume.",
        work: Work::Connect { workers: WORKERS, tls: None },
        inbound_only: false,
    });
    for connections in [1, 32].into_iter().chain(wanted.wide.then_some(1_000)) {
        all.push(Operation {
            id: format!("round-trip-{connections}"),
            title: format!(
                "Round trip of 64 bytes, {connections} connection{}",
                if connections == 1 { "" } else { "s" }
            ),
            text: "A message and its echo, one after the other on each connection, as fast as it goes.",
            work: Work::RoundTrip { connections, size: SMALL },
            inbound_only: false,
        });
    }
    let (rate, connections) = RATE;
    all.push(Operation {
        id: "fixed-rate".to_owned(),
        title: format!("Latency at {rate} messages a second over {connections} connections"),
        text: "64 bytes and their echo. Each latency begins when the message was due, so that a stall is seen by all that it \
               delays (no coordinated omission). `late` in the JSON is how late the load generator itself was.",
        work: Work::FixedRate { connections, size: SMALL, rate },
        inbound_only: false,
    });
    for from_app in [false, true] {
        for connections in std::iter::once(1).chain(wanted.wide.then_some(8)) {
            let way = if from_app { "from the app" } else { "to the app" };
            all.push(Operation {
                id: format!("bulk-{}-{connections}", if from_app { "from-app" } else { "to-app" }),
                title: format!(
                    "Bulk {way}, {connections} connection{}",
                    if connections == 1 { "" } else { "s" }
                ),
                text: "As many bytes as it goes; the bytes are those that arrived at the other app.",
                work: Work::Bulk { connections, from_app },
                inbound_only: false,
            });
        }
    }
    all
}

fn connections(work: &Work) -> usize {
    match work {
        Work::Connect { workers, .. } => *workers,
        Work::RoundTrip { connections, .. }
        | Work::FixedRate { connections, .. }
        | Work::Bulk { connections, .. }
        | Work::Hold { connections, .. } => *connections,
    }
}

impl Operation {
    /// Whether this contestant can be asked it.
    fn suits(&self, seat: &Seat) -> bool {
        let fits = seat.most.is_none_or(|most| connections(&self.work) <= most);
        fits && seat.is_asked(&self.id) && (!self.inbound_only || seat.speaks_tls())
    }

    fn target<'a>(&self, seat: &'a Seat) -> Target<'a> {
        let counted = |role: &str| !(self.inbound_only && role == "outbound");
        Target {
            node: &seat.client,
            past_the_rules: self.inbound_only,
            processes: seat
                .processes()
                .filter(|(role, _)| counted(role))
                .map(|(role, process)| (role, process.id()))
                .collect(),
        }
    }

    fn order(&self, seat: &Seat, scale: Scale) -> Order {
        Order {
            target: seat.target,
            measure_ms: scale.measure_ms,
            warm_up_ms: scale.warm_up_ms,
            work: self.work.clone(),
            flag: seat.flag.clone(),
        }
    }
}

/// Round by round all operations, in each all contestants, who begin another each time.
fn ask(
    rig: &Rig,
    operations: &[Operation],
    scale: Scale,
    progress: &Progress,
    noise: &mut Noise,
) -> Result<Vec<Section>, LabError> {
    let mut slots: BTreeMap<(usize, usize), Result<Vec<Slot>, String>> = BTreeMap::new();
    for round in 0..scale.rounds {
        for (number, operation) in operations.iter().enumerate() {
            for turn in 0..rig.seats.len() {
                let place = (turn + round) % rig.seats.len();
                let Some(seat) = rig.seats.get(place).filter(|seat| operation.suits(seat)) else { continue };
                let entry = slots.entry((number, place)).or_insert_with(|| Ok(Vec::new()));
                let Ok(taken) = entry else { continue };
                progress.step(&format!(
                    "round {} of {}: {}, {}",
                    round + 1,
                    scale.rounds,
                    operation.title,
                    seat.title
                ));
                match slot(&operation.target(seat), &operation.order(seat, scale), scale, noise) {
                    Ok(one) => taken.push(one),
                    Err(LabError::Interrupted) => return Err(LabError::Interrupted),
                    Err(error) => *entry = Err(last_line(&error)),
                }
            }
        }
    }
    let section = |(number, operation): (usize, &Operation)| {
        let cells = rig.seats.iter().enumerate().filter_map(|(place, seat)| {
            Some(match slots.get(&(number, place))? {
                Ok(slots) => cell(&seat.name, &seat.title, slots, &operation.work),
                Err(why) => {
                    let mut cell = Cell::new(&seat.name, &seat.title);
                    cell.note(format!("not measured: {why}"));
                    cell
                }
            })
        });
        Section {
            id: operation.id.clone(),
            title: operation.title.clone(),
            text: operation.text.to_owned(),
            cells: cells.collect(),
        }
    };
    Ok(operations.iter().enumerate().map(section).collect())
}

fn memory_at_start(rig: &Rig) -> Section {
    let cells = rig.seats.iter().filter(|seat| has_memory(seat, "memory-start")).map(|seat| {
        let mut cell = Cell::new(&seat.name, &seat.title);
        let start = seat.start_memory.above(Memory::NOTHING, mebibytes);
        fill(&mut cell, ["memoryOutbound", "memoryInbound"], start);
        cell
    });
    Section {
        id: "memory-start".to_owned(),
        title: "Memory at start".to_owned(),
        text: "Resident memory of each proxy when the first connection has gone through; of all its processes together, pages that \
               they share counted in each."
            .to_owned(),
        cells: cells.collect(),
    }
}

fn has_memory(seat: &Seat, question: &str) -> bool {
    !matches!(seat.kind, Kind::Direct | Kind::Floor) && seat.is_asked(question)
}

/// Opens connections through each contestant, holds them, has traffic on them, closes them.
fn idle(rig: &Rig, count: usize, scale: Scale, progress: &Progress) -> Result<Section, LabError> {
    let mut cells = Vec::new();
    for seat in rig.seats.iter().filter(|seat| has_memory(seat, "idle")) {
        let mut cell = Cell::new(&seat.name, &seat.title);
        if seat.most.is_some_and(|most| most < count) {
            cell.note("not asked for so many connections");
            cells.push(cell);
            continue;
        }
        progress.step(&format!("{count} idle connections, {}", seat.title));
        match hold(seat, count, scale.still) {
            Ok(held) => {
                let count = u64::try_from(count).unwrap_or(u64::MAX);
                let each = |now: Memory| {
                    now.above(seat.start_memory, |bytes| super::cpu::ratio(bytes, 1024 * count))
                };
                let kept = held.closed.above(seat.start_memory, mebibytes);
                fill(&mut cell, ["perConnectionOutbound", "perConnectionInbound"], each(held.idle));
                fill(&mut cell, ["trafficOutbound", "trafficInbound"], each(held.after_traffic));
                fill(&mut cell, ["keptOutbound", "keptInbound"], kept);
            }
            Err(LabError::Interrupted) => return Err(LabError::Interrupted),
            Err(error) => {
                cell.note(format!("not measured: {}", last_line(&error)));
            }
        }
        cells.push(cell);
    }
    Ok(Section {
        id: format!("idle-{count}"),
        title: format!("Memory of {count} idle connections"),
        text: "On each one byte has gone to the app and back, and nothing since. Resident memory, less what it was at start, for each \
               connection; the same again when 64 KiB have gone to the app and back on each; `kept` is what is still more when all \
               are closed. Measured before all other runs."
            .to_owned(),
        cells,
    })
}

/// Memory with all connections held, when each of them has had traffic, and when all are closed.
struct Held {
    idle: Memory,
    after_traffic: Memory,
    closed: Memory,
}

fn hold(seat: &Seat, count: usize, still: Duration) -> Result<Held, LabError> {
    let target = Target { node: &seat.client, past_the_rules: false, processes: Vec::new() };
    let order = Order {
        target: seat.target,
        measure_ms: 0,
        warm_up_ms: 0,
        work: Work::Hold { connections: count, traffic: TRAFFIC },
        flag: seat.flag.clone(),
    };
    let holder = start(&target, &order)?;
    holder.wait_for_line(OPENING, HOLDING)?;
    let idle = settled(seat, still);
    let flag = &seat.flag;
    fs::write(flag, "").map_err(LabError::io(format!("write {}", flag.display())))?;
    let exchanged = holder.wait_for_line(OPENING, EXCHANGED);
    let _ = fs::remove_file(flag);
    exchanged?;
    let after_traffic = settled(seat, still);
    drop(holder);
    Ok(Held { idle, after_traffic, closed: settled(seat, still) })
}

/// Memory when it has not changed for a while, or when that lasts too long.
fn settled(seat: &Seat, still: Duration) -> Memory {
    let (mut last, mut since) = (seat.memory(), Instant::now());
    let settled = wait_until(SETTLING, "memory to settle", || {
        let now = seat.memory();
        if now.differs(last, RIPPLE) {
            (last, since) = (now, Instant::now());
        }
        Ok((since.elapsed() >= still).then_some(now))
    });
    settled.unwrap_or(last)
}

/// Outbound first.
fn fill(cell: &mut Cell, [outbound, inbound]: [&'static str; 2], figures: [Option<f64>; 2]) {
    let [of_outbound, of_inbound] = figures;
    cell.figure(outbound, of_outbound.into_iter().collect());
    cell.figure(inbound, of_inbound.into_iter().collect());
}

fn mebibytes(bytes: u64) -> f64 {
    super::cpu::ratio(bytes, 1024 * 1024)
}
