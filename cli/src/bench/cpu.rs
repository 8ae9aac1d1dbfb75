//! Processor time and memory, as the kernel counts them for each process, and the share of the machine that others used.
//!
//! Of a process with threads that stay, the time is known to the nanosecond (`/proc/PID/task/*/schedstat`). Where a thread or
//! a process ended meanwhile, it is taken from `/proc/PID/stat`, which keeps the time of ended threads and counts in ticks of
//! usually 10 ms; so that a figure of many operations is good all the same, the run is long against a tick.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Processor time of some process trees at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// By process and thread, in nanoseconds.
    threads: BTreeMap<(u32, u32), u64>,
    /// How many processes.
    processes: u64,
    /// Of all processes, those that ended and were waited for too, in nanoseconds, rounded down to ticks.
    ticked: u64,
}

/// Processor time between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spent {
    /// In nanoseconds.
    pub(crate) nanoseconds: u64,
    /// Known to the nanosecond; else to a tick.
    pub(crate) exact: bool,
}

impl Reading {
    /// Of the processes below `roots`, these included.
    pub(crate) fn of(roots: &[u32]) -> Self {
        let mut reading = Self::default();
        for process in below(roots) {
            reading.processes += 1;
            let folder = Path::new("/proc").join(process.to_string());
            reading.ticked += stat(process).map_or(0, |stat| stat.ticks()) * tick();
            for task in fs::read_dir(folder.join("task")).into_iter().flatten().flatten() {
                let thread = task.file_name().to_str().and_then(|name| name.parse().ok());
                let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                if let (Some(thread), Some(time)) = (thread, schedstat(&text)) {
                    reading.threads.insert((process, thread), time);
                }
            }
        }
        reading
    }

    /// Since an earlier reading of the same trees.
    pub(crate) fn since(&self, earlier: &Reading) -> Spent {
        let total = |reading: &Reading| reading.threads.values().sum::<u64>();
        let (counted, ticked) =
            (total(self).saturating_sub(total(earlier)), self.ticked.saturating_sub(earlier.ticked));
        let stayed = earlier.threads.keys().all(|thread| self.threads.contains_key(thread));
        // What ticks show beyond their coarseness was spent by threads that came and went between both readings.
        let unseen = ticked > counted + 2 * tick() * self.processes.max(1);
        if stayed && !unseen {
            Spent { nanoseconds: counted, exact: true }
        } else {
            Spent { nanoseconds: ticked, exact: false }
        }
    }
}

/// What the whole machine and our own processes used, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Ticks of all cores together.
    total: u64,
    /// Those in which something ran, or another virtual machine had the core.
    busy: u64,
    /// Those of this process and all below it.
    ours: u64,
}

impl Machine {
    /// Now.
    pub(crate) fn now() -> Self {
        let (total, busy) =
            fs::read_to_string("/proc/stat").ok().and_then(|text| machine(&text)).unwrap_or_default();
        let own = below(&[std::process::id()]);
        let ours = own.iter().filter_map(|process| stat(*process)).map(Stat::ticks).sum();
        Self { total, busy, ours }
    }

    /// The share of the machine, 0 to 1, that others have used since then.
    pub(crate) fn used_by_others_since(&self, earlier: &Machine) -> f64 {
        let [total, busy, ours] =
            [(self.total, earlier.total), (self.busy, earlier.busy), (self.ours, earlier.ours)]
                .map(|(now, then)| now.saturating_sub(then));
        ratio(busy.saturating_sub(ours), total)
    }
}

/// Resident memory of some process trees, in bytes.
pub(crate) fn memory(roots: &[u32]) -> u64 {
    let resident = |process: &u32| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    below(roots).iter().filter_map(resident).sum::<u64>() * 1024
}

/// Of two counts.
#[expect(clippy::cast_precision_loss, reason = "a ratio is for people")]
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// `/proc/PID/stat`, as far as it is needed (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// utime, stime, cutime, cstime.
    ticks: [u64; 4],
}

impl Stat {
    fn ticks(self) -> u64 {
        self.ticks.iter().sum()
    }

    fn read(text: &str) -> Option<Self> {
        // The name before may hold anything, a parenthesis too.
        let mut rest = text.rsplit_once(')')?.1.split_whitespace();
        let parent = rest.nth(1)?.parse().ok()?;
        let mut ticks = rest.skip(9).map(|field| field.parse().ok());
        let ticks = [ticks.next()??, ticks.next()??, ticks.next()??, ticks.next()??];
        Some(Self { parent, ticks })
    }
}

fn stat(process: u32) -> Option<Stat> {
    Stat::read(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// Those processes and all below them.
fn below(roots: &[u32]) -> BTreeSet<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<(u32, u32)> = all
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|process| Some((process, stat(process)?.parent)))
        .collect();
    descendants(roots, &parents)
}

fn descendants(roots: &[u32], parents: &[(u32, u32)]) -> BTreeSet<u32> {
    let mut found: BTreeSet<u32> = roots.iter().copied().collect();
    loop {
        let before = found.len();
        for (process, parent) in parents {
            if found.contains(parent) {
                found.insert(*process);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// The first number: nanoseconds on a core.
fn schedstat(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Of the first line of `/proc/stat` (user, nice, system, idle, iowait, irq, softirq, steal): all, and those not idle.
fn machine(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, idle, wait, irq, softirq, steal] = fields.try_into().ok()?;
    let busy = user + nice + system + irq + softirq + steal;
    Some((busy + idle + wait, busy))
}

/// Nanoseconds of a tick.
fn tick() -> u64 {
    1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 100 0 0 0 11 12 13 14 20 0 1 0 300 1000 10";
        assert_eq!(Stat::read(text), Some(Stat { parent: 7, ticks: [11, 12, 13, 14] }));
        assert_eq!(Stat::read("42 (a) S"), None);
    }

    #[test]
    fn of_the_machine_all_but_idle_and_waiting_is_busy() {
        let text = "cpu  10 1 20 500 30 2 3 4 0 0\ncpu0 1 1\n";
        assert_eq!(machine(text), Some((570, 40)));
        assert_eq!(machine("cpu  10 x"), None);
    }

    #[test]
    fn a_tree_has_all_descendants() {
        let parents = [(5, 4), (4, 3), (3, 1), (9, 1), (6, 5)];
        assert_eq!(descendants(&[4], &parents), [4, 5, 6].into());
        assert_eq!(descendants(&[3, 9], &parents), [3, 4, 5, 6, 9].into());
    }

    #[test]
    fn time_is_exact_while_no_thread_has_ended_and_ticked_otherwise() {
        let reading = |threads: &[(u32, u64)], ticked| Reading {
            threads: threads.iter().map(|(thread, time)| ((1, *thread), *time)).collect(),
            processes: 1,
            ticked,
        };
        let before = reading(&[(1, 100), (2, 200)], 10_000_000);
        let more = reading(&[(1, 150), (2, 260), (3, 7)], 20_000_000);
        assert_eq!(more.since(&before), Spent { nanoseconds: 117, exact: true });
        let one_ended = reading(&[(1, 150), (3, 7)], 30_000_000);
        assert_eq!(one_ended.since(&before), Spent { nanoseconds: 20_000_000, exact: false });
        let came_and_went = reading(&[(1, 150), (2, 260)], 510_000_000);
        assert_eq!(came_and_went.since(&before), Spent { nanoseconds: 500_000_000, exact: false });
    }

    #[test]
    fn what_is_not_ours_is_the_others() {
        let then = Machine { total: 100, busy: 50, ours: 20 };
        let now = Machine { total: 300, busy: 200, ours: 120 };
        assert!((now.used_by_others_since(&then) - 0.25).abs() < 1e-9);
        assert!(then.used_by_others_since(&then).abs() < 1e-9, "no time has passed");
    }

    /// The kernel's files are what the readers expect.
    #[test]
    fn this_process_has_time_and_memory() {
        let own = [std::process::id()];
        let before = Reading::of(&own);
        let begun = std::time::Instant::now();
        while Reading::of(&own).since(&before).nanoseconds == 0 {
            assert!(begun.elapsed().as_secs() < 10, "no time was counted");
        }
        assert!(memory(&own) > 1 << 20);
        assert!(Machine::now().total > 0);
    }
}
