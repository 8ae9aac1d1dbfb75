//! What the workers of a load generator count together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use super::job::{Order, Outcome};

/// Latencies are told apart from a tenth of a microsecond to a minute, to three digits.
const LOWEST: u64 = 100;
const HIGHEST: u64 = 60_000_000_000;

/// Failures after which a worker gives up: a run that cannot work ends soon.
pub(super) const PATIENCE: u64 = 50;

/// Counters and latencies of one run.
#[derive(Debug)]
pub(super) struct Tally {
    begun: Instant,
    measure_from: Instant,
    end: Instant,
    pub(super) operations: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) resumed: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    measured: AtomicU64,
    failure: Mutex<Option<String>>,
    latencies: Mutex<BTreeMap<&'static str, Histogram<u64>>>,
}

impl Tally {
    /// The run begins now.
    pub(super) fn new(order: &Order) -> Self {
        let begun = Instant::now();
        let measure_from = begun + order.warm_up();
        Self {
            begun,
            measure_from,
            end: measure_from + order.measured_time(),
            operations: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            measured: AtomicU64::new(0),
            failure: Mutex::new(None),
            latencies: Mutex::new(BTreeMap::new()),
        }
    }

    /// When the last operation may begin.
    pub(super) fn end(&self) -> Instant {
        self.end
    }

    /// Whether another operation may begin.
    pub(super) fn goes_on(&self) -> bool {
        Instant::now() < self.end && self.failures.load(Ordering::Relaxed) < PATIENCE
    }

    /// An operation that began at `begun` is done; `steps` are its latencies, by name.
    pub(super) fn done(&self, begun: Instant, steps: &[(&'static str, Duration)]) {
        self.operations.fetch_add(1, Ordering::Relaxed);
        if begun < self.measure_from {
            return;
        }
        self.measured.fetch_add(1, Ordering::Relaxed);
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, time) in steps {
            let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(HIGHEST);
            if let Some(histogram) = histogram(&mut latencies, name) {
                histogram.saturating_record(nanoseconds.max(LOWEST));
            }
        }
    }

    /// One failed.
    pub(super) fn failed(&self, error: &std::io::Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| error.to_string());
    }

    /// The run is over.
    pub(super) fn finish(self, threads: usize) -> Outcome {
        let now = Instant::now();
        let latencies = self.latencies.into_inner().unwrap_or_else(PoisonError::into_inner);
        let told = |histogram: &Histogram<u64>| {
            histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
        };
        Outcome {
            operations: self.operations.into_inner(),
            seconds: (now - self.begun).as_secs_f64(),
            measured: self.measured.into_inner(),
            measured_seconds: now.saturating_duration_since(self.measure_from).as_secs_f64(),
            failures: self.failures.into_inner(),
            failure: self.failure.into_inner().unwrap_or_else(PoisonError::into_inner),
            resumed: self.resumed.into_inner(),
            sent: self.sent.into_inner(),
            received: self.received.into_inner(),
            own_cpu: own_cpu(),
            threads,
            latencies: latencies.iter().map(|(name, all)| ((*name).to_owned(), told(all))).collect(),
        }
    }
}

fn histogram<'a>(
    all: &'a mut BTreeMap<&'static str, Histogram<u64>>,
    name: &'static str,
) -> Option<&'a mut Histogram<u64>> {
    if !all.contains_key(name) {
        // Refused for senseless bounds only.
        all.insert(name, Histogram::new_with_bounds(LOWEST, HIGHEST, 3).ok()?);
    }
    all.get_mut(name)
}

/// Processor time of this process so far, in nanoseconds.
fn own_cpu() -> u64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    let [seconds, nanoseconds] =
        [now.tv_sec, now.tv_nsec].map(|part| u64::try_from(part).unwrap_or_default());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
