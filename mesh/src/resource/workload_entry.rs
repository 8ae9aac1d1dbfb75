//! `WorkloadEntry` (networking.istio.io): one endpoint of a service, inline or as a resource of its own.

use std::collections::BTreeMap;

use super::Meta;
use crate::workload::Labels;

/// One checked `WorkloadEntry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// Name, namespace, place; of the `ServiceEntry` for an inline endpoint.
    pub meta: Meta,
    /// An IP address, or a DNS name where the service's resolution is DNS.
    pub address: String,
    /// Port name to port number, overriding the service's `targetPort`.
    pub ports: BTreeMap<String, u16>,
    /// Labels, among them `security.istio.io/tlsMode: istio` for an endpoint with a sidecar.
    pub labels: Labels,
    /// The service account of its certificate.
    pub service_account: Option<String>,
}

impl WorkloadEntry {
    /// Whether the endpoint is known to have a sidecar.
    #[must_use]
    pub fn has_sidecar(&self) -> bool {
        self.labels.get("security.istio.io/tlsMode").is_some_and(|mode| mode == "istio")
    }
}
