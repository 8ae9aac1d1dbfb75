//! `WorkloadEntry` (networking.istio.io): one endpoint of a service, inline or as a resource of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Meta;
use super::host::is_host;
use super::port_number::PortNumber;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::workload::Labels;
use crate::yaml::{At, Document, YamlError, expected_one_of, quoted};

/// The label by which Istio's injector marks a workload with a sidecar.
pub(crate) const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";

/// The label by which Istio marks a workload that is reached by tunnels (HBONE).
pub(crate) const TUNNEL_LABEL: &str = "networking.istio.io/tunnel";

/// Whether a label of an endpoint is about its sidecar, and none of the workload's own.
pub(crate) fn is_of_sidecar(label: &str) -> bool {
    [TLS_MODE_LABEL, TUNNEL_LABEL].contains(&label)
}

/// One checked `WorkloadEntry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// Name, namespace, place; of the `ServiceEntry` for an inline endpoint.
    pub meta: Meta,
    /// An IP address, or a DNS name where the service's resolution is DNS.
    pub address: String,
    /// Port name to port number, overriding the service's `targetPort`.
    pub ports: BTreeMap<String, u16>,
    /// Labels, among them `security.istio.io/tlsMode: istio` for an endpoint with a sidecar, and
    /// `networking.istio.io/tunnel: http` for one that takes tunnels.
    pub labels: Labels,
    /// The service account of its certificate.
    pub service_account: Option<String>,
}

impl WorkloadEntry {
    /// Whether the endpoint is known to have a sidecar.
    #[must_use]
    pub fn has_sidecar(&self) -> bool {
        self.labels.get(TLS_MODE_LABEL).is_some_and(|mode| mode == "istio") || self.takes_tunnels()
    }

    /// Whether its sidecar is known to take tunnels.
    #[must_use]
    pub fn takes_tunnels(&self) -> bool {
        self.labels.get(TUNNEL_LABEL).is_some_and(|kind| kind == "http")
    }

    /// The address as an IP address, an IPv4 address that is written as IPv6 (`::ffff:…`) as IPv4; `None` for a name.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.parse().ok().map(|address: IpAddr| address.to_canonical())
    }
}

/// `spec` as written, or an element of a `ServiceEntry`'s `endpoints`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) address: At<String>,
    #[serde(default)]
    pub(super) ports: BTreeMap<String, At<PortNumber>>,
    #[serde(default)]
    labels: BTreeMap<String, At<String>>,
    service_account: Option<At<String>>,
    /// There is one network here; the address must be reachable.
    #[serde(rename = "network")]
    _network: Option<IgnoredAny>,
    /// A preference of load balancing, which is out of scope: endpoints take turns.
    #[serde(rename = "locality")]
    _locality: Option<IgnoredAny>,
    /// As `locality`.
    #[serde(rename = "weight")]
    _weight: Option<IgnoredAny>,
}

/// Checks one endpoint. `metadata_labels` go over `spec.labels`, as in Istio.
pub(super) fn check(
    document: &Document<'_>,
    meta: Meta,
    spec: At<Spec>,
    metadata_labels: Labels,
) -> Result<WorkloadEntry, YamlError> {
    let Spec { address, ports, labels, service_account, .. } = spec.value;
    check_address(document, &address)?;
    check_label(document, &labels, TLS_MODE_LABEL, &["istio", "disabled"])?;
    check_label(document, &labels, TUNNEL_LABEL, &["http"])?;
    if let Some(account) = &service_account {
        check_service_account(document, &meta.namespace, account)?;
    }
    let mut labels: Labels = labels.into_iter().map(|(name, value)| (name, value.value)).collect();
    labels.extend(metadata_labels);
    Ok(WorkloadEntry {
        meta,
        address: address.value.to_ascii_lowercase(),
        ports: ports.into_iter().map(|(name, port)| (name, port.value.0)).collect(),
        labels,
        service_account: service_account.map(|account| account.value),
    })
}

fn check_address(document: &Document<'_>, address: &At<String>) -> Result<(), YamlError> {
    if address.value.starts_with("unix:") {
        return Err(
            document.error(address, "Unix sockets are not supported; give an IP address or a DNS name")
        );
    }
    if address.value.parse::<IpAddr>().is_err() && !is_host(&address.value) {
        let seen = quoted(&address.value);
        let hint = if address.value.contains(':') { "; the port stands in `ports`" } else { "" };
        return Err(
            document.error(address, format!("expected an IP address or a DNS name, seen {seen}{hint}"))
        );
    }
    Ok(())
}

/// A mistyped value would mean plaintext, or no tunnel, without a word.
fn check_label(
    document: &Document<'_>,
    labels: &BTreeMap<String, At<String>>,
    name: &str,
    known: &[&str],
) -> Result<(), YamlError> {
    match labels.get(name) {
        Some(value) if !known.contains(&value.value.as_str()) => {
            let expected = expected_one_of(&value.value, known);
            let message = format!("unknown value {} of {name}{expected}", quoted(&value.value));
            Err(document.error(value, message))
        }
        _ => Ok(()),
    }
}

/// With the namespace it must make a SPIFFE ID, whatever the trust domain.
fn check_service_account(
    document: &Document<'_>,
    namespace: &str,
    account: &At<String>,
) -> Result<(), YamlError> {
    let fits = "cluster.local"
        .parse::<TrustDomain>()
        .and_then(|any| SpiffeId::of_service_account(&any, namespace, &account.value));
    fits.map(|_| ()).map_err(|_| {
        let seen = quoted(&account.value);
        document.error(
            account,
            format!("expected the bare name of a service account, such as `backend`, seen {seen}"),
        )
    })
}
