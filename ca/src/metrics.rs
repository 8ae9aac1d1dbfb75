//! The CA's counters under Istio's names, so that its dashboards and alerts work unchanged, and under our own what those
//! cannot tell: why a request was refused, and by which door it came.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::SystemTime;

use pillion_mesh::signers::Signers;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counts since the start of the process.
pub(crate) struct Metrics {
    /// CSRs that arrived.
    pub(crate) csr: Count,
    /// CSRs and handshakes whose evidence was refused.
    pub(crate) authentication_failure: Count,
    /// CSRs that are malformed, badly signed or of an unsupported key.
    pub(crate) csr_parsing_error: Count,
    /// CSRs that the CA failed to sign.
    pub(crate) csr_sign_error: Count,
    /// Certificates issued.
    pub(crate) success: Count,
    /// The end of the current root's validity, in seconds since 1970.
    root_expiry: Gauge<f64, AtomicU64>,
    own: Own,
    registry: Registry,
}

/// The metrics under our own prefix.
#[derive(Default)]
struct Own {
    requests: Family<RequestLabels, Counter>,
    faults: Family<FaultLabels, Gauge>,
    /// The end of the validity of each published root.
    roots: Family<RootLabels, Gauge<f64, AtomicU64>>,
}

/// What became of a CSR. Every value is one of a fixed list, so their number is bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    door: &'static str,
    evidence: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    fault: &'static str,
}

/// Tells published roots apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RootLabels {
    /// Its name in the record of the signers.
    root: String,
    /// `current`, `next` or `old`.
    stage: &'static str,
}

impl Metrics {
    /// All at zero; which roots there are, [`Self::show_roots`] tells.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let own = Own::registered(registry.sub_registry_with_prefix("pillion_ca"));
        let istio = registry.sub_registry_with_prefix("citadel_server");
        let mut count = |name: &str, help: &str| {
            let count = Count::default();
            istio.register(name, help, count.clone());
            count
        };
        let csr = count("csr_count", "The number of CSRs received by the CA");
        let authentication_failure =
            count("authentication_failure_count", "The number of authentication failures");
        let csr_parsing_error = count("csr_parsing_err_count", "The number of errors in CSRs");
        let csr_sign_error = count("csr_sign_err_count", "The number of errors when signing CSRs");
        let success = count("success_cert_issuance_count", "The number of certificates issued");
        let root_expiry = Gauge::<f64, AtomicU64>::default();
        istio.register(
            "root_cert_expiry_timestamp",
            "The end of the root certificate's validity in seconds since 1970",
            root_expiry.clone(),
        );
        Metrics {
            csr,
            authentication_failure,
            csr_parsing_error,
            csr_sign_error,
            success,
            root_expiry,
            own,
            registry,
        }
    }

    /// Shows these roots and no others.
    pub(crate) fn show_roots(&self, signers: &Signers) {
        self.root_expiry.set(unix_seconds(signers.current().not_after));
        self.own.roots.clear();
        for signer in signers.published() {
            let labels = RootLabels { root: signer.name.clone(), stage: signer.stage().as_str() };
            self.own.roots.get_or_create(&labels).set(unix_seconds(signer.not_after));
        }
    }

    /// Counts a request that is over. `result` is `issued` or the id of a refusal.
    pub(crate) fn request(&self, door: &'static str, evidence: &'static str, result: &'static str) {
        self.own.requests.get_or_create(&RequestLabels { door, evidence, result }).inc();
    }

    /// Shows that this fault is on.
    pub(crate) fn fault(&self, fault: &'static str) {
        self.own.faults.get_or_create(&FaultLabels { fault }).set(1);
    }

    /// OpenMetrics text.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        match text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(std::fmt::Error) => String::new(), // a String takes every write
        }
    }
}

impl Own {
    fn registered(registry: &mut Registry) -> Self {
        let own = Own::default();
        registry.register(
            "requests",
            "The number of CSRs by door, evidence and result",
            own.requests.clone(),
        );
        registry.register("fault", "The faults that are on by --fault", own.faults.clone());
        registry.register(
            "root_expiry_timestamp_seconds",
            "The end of the validity of each published root, in seconds since 1970",
            own.roots.clone(),
        );
        own
    }
}

fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A number that only rises, shown under its very name: OpenMetrics counters must end in `_total`, Istio's do not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Count(Arc<AtomicI64>);

impl Count {
    pub(crate) fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl EncodeMetric for Count {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.encode_gauge(&self.0.load(Ordering::Relaxed))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Unknown
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use pillion_mesh::exposition::Format;
    use pillion_mesh::signers::Signer;
    use pillion_testkit::page::{hold_section, metrics_table};

    use super::*;

    /// A CA with a second root, that has issued a certificate, and has a fault.
    fn busy() -> Metrics {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let root =
            |name: &str, end| Signer::new(name.repeat(16), (at(0), at(end)), at(1), Duration::from_secs(1));
        let metrics = Metrics::new();
        let mut signers = Signers::first(root("a", 2_000_000_000));
        metrics.show_roots(&signers);
        signers.prepare(root("b", 2_100_000_000)).unwrap();
        metrics.show_roots(&signers);
        metrics.csr.increment();
        metrics.csr.increment();
        metrics.success.increment();
        metrics.request("https", "token", "issued");
        metrics.fault("slow");
        metrics
    }

    #[test]
    fn the_reference_page_tells_every_metric_of_the_ca() {
        let text = Format::Plain.render(busy().encode());
        let (source, _tests) = include_str!("metrics.rs").split_once("#[cfg(test)]").unwrap();
        for help in source.split('"').filter(|text| text.starts_with("The ")) {
            assert!(text.contains(help), "{help:?} has no sample here; let busy() make one");
        }
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/metrics.md");
        hold_section(&page, "CA", &metrics_table(&text, ("", &[])));
    }

    #[test]
    fn the_names_are_those_of_istio_without_a_suffix_and_our_own_with_a_prefix() {
        let text = busy().encode();
        for line in [
            "citadel_server_csr_count 2",
            "citadel_server_authentication_failure_count 0",
            "citadel_server_csr_parsing_err_count 0",
            "citadel_server_csr_sign_err_count 0",
            "citadel_server_success_cert_issuance_count 1",
            "citadel_server_root_cert_expiry_timestamp 2000000000.0",
            "pillion_ca_root_expiry_timestamp_seconds{root=\"aaaaaaaaaaaaaaaa\",stage=\"current\"} 2000000000.0",
            "pillion_ca_root_expiry_timestamp_seconds{root=\"bbbbbbbbbbbbbbbb\",stage=\"next\"} 2100000000.0",
            "pillion_ca_requests_total{door=\"https\",evidence=\"token\",result=\"issued\"} 1",
            "pillion_ca_fault{fault=\"slow\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line:?} is not in:\n{text}");
        }
    }
}
