//! The CA's counters under Istio's names, so that its dashboards and alerts work unchanged.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// What the monitoring port answers with.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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
    registry: Registry,
}

impl Metrics {
    /// `root_not_after` is the end of the root's validity.
    pub(crate) fn new(root_not_after: SystemTime) -> Self {
        let mut registry = Registry::with_prefix("citadel_server");
        let mut count = |name: &str, help: &str| {
            let count = Count::default();
            registry.register(name, help, count.clone());
            count
        };
        let csr = count("csr_count", "The number of CSRs received by the CA");
        let authentication_failure =
            count("authentication_failure_count", "The number of authentication failures");
        let csr_parsing_error = count("csr_parsing_err_count", "The number of errors in CSRs");
        let csr_sign_error = count("csr_sign_err_count", "The number of errors when signing CSRs");
        let success = count("success_cert_issuance_count", "The number of certificates issued");
        registry.register(
            "root_cert_expiry_timestamp",
            "The end of the root certificate's validity in seconds since 1970",
            ConstGauge::new(unix_seconds(root_not_after)),
        );
        Metrics { csr, authentication_failure, csr_parsing_error, csr_sign_error, success, registry }
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
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_names_are_those_of_istio_without_a_suffix() {
        let metrics = Metrics::new(SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000));
        metrics.csr.increment();
        metrics.csr.increment();
        metrics.success.increment();
        let text = metrics.encode();
        for line in [
            "citadel_server_csr_count 2",
            "citadel_server_authentication_failure_count 0",
            "citadel_server_csr_parsing_err_count 0",
            "citadel_server_csr_sign_err_count 0",
            "citadel_server_success_cert_issuance_count 1",
            "citadel_server_root_cert_expiry_timestamp 2000000000.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line:?} is not in:\n{text}");
        }
    }
}
