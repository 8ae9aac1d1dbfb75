//! Istio's HTTP metrics: requests by who asked whom, with status and duration. The labels are those of [`super::edges`] and
//! four more; how many sets of them there are has a limit.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use pillion_mesh::wire::RequestRecord;
use pillion_mesh::workload::Workload;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::histogram::Histogram;

use super::edges::{Edge, Labels, MAX_EDGES, Own};

/// Istio's buckets of `istio_request_duration_milliseconds`.
const MILLISECONDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// The last status that gRPC knows; those beyond count as UNKNOWN (2), as its clients take them.
const LAST_GRPC_STATUS: u32 = 16;

/// The counters of all requests of one workload.
#[derive(Debug)]
pub(super) struct Requests {
    own: Own,
    counts: RwLock<HashMap<Key, Arc<Counts>>>,
}

/// What tells requests apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    edge: Edge,
    is_grpc: bool,
    /// 0 where there was no answer, as Envoy has it.
    code: u16,
    grpc_status: Option<u32>,
}

#[derive(Debug)]
struct Counts {
    total: AtomicU64,
    duration: Histogram,
}

impl Requests {
    pub(super) fn new(workload: &Workload) -> Self {
        Self { own: Own::new(workload), counts: RwLock::default() }
    }

    /// A request has ended.
    pub(super) fn ended(&self, record: &RequestRecord) {
        let key = Key {
            edge: Edge::of_request(record),
            is_grpc: record.is_grpc,
            code: record.status.unwrap_or(0),
            grpc_status: record.grpc_status.map(|status| if status > LAST_GRPC_STATUS { 2 } else { status }),
        };
        let known = self.counts.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let counts = known.unwrap_or_else(|| self.enter(key));
        counts.total.fetch_add(1, Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss)] // a request of 285 years
        counts.duration.observe(record.duration_micros as f64 / 1_000.0);
    }

    fn enter(&self, key: Key) -> Arc<Counts> {
        let mut counts = self.counts.write().unwrap_or_else(PoisonError::into_inner);
        let full = counts.len() >= MAX_EDGES && !counts.contains_key(&key);
        let key = if full { key.merged() } else { key };
        let new = || Arc::new(Counts { total: AtomicU64::new(0), duration: Histogram::new(MILLISECONDS) });
        counts.entry(key).or_insert_with(new).clone()
    }
}

impl Key {
    /// The key that stands for all that find no place of their own. There are few of these.
    fn merged(self) -> Self {
        Self { edge: self.edge.merged(), code: self.code / 100 * 100, ..self }
    }

    fn labels<'a>(&'a self, own: &'a Own) -> Labels<'a> {
        let mut labels = self.edge.labels(own, if self.is_grpc { "grpc" } else { "http" });
        labels.push(("response_code", self.code.to_string().into()));
        let grpc_status = self.grpc_status.map(|status| status.to_string()).unwrap_or_default();
        labels.push(("grpc_response_status", grpc_status.into()));
        labels
    }
}

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner).clone();
        let counter = ConstCounter::new(0_u64);
        let mut total =
            encoder.encode_descriptor("istio_requests", "HTTP requests", None, counter.metric_type())?;
        for (key, counts) in &counts {
            let value = counts.total.load(Ordering::Relaxed);
            ConstCounter::new(value).encode(total.encode_family(&key.labels(&self.own))?)?;
        }
        let mut duration = encoder.encode_descriptor(
            "istio_request_duration_milliseconds",
            "HTTP requests, from their head to the end of the answer",
            None,
            Histogram::new(MILLISECONDS).metric_type(),
        )?;
        for (key, counts) in &counts {
            counts.duration.encode(duration.encode_family(&key.labels(&self.own))?)?;
        }
        Ok(())
    }
}
