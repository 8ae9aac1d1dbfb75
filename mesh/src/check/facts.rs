//! What a check goes by: pages of admin APIs as they are read, and what was seen beside them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer};

use crate::finding::Finding;
use crate::spiffe::TrustDomain;
use crate::wire::{ConnectionRecord, rfc3339};
use crate::workload::{Labels, Workload};

/// A proxy that was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its admin API, as the person wrote it.
    pub url: String,
    /// What it says, or why it says nothing.
    pub facts: Result<Box<Facts>, String>,
}

/// What a proxy says of itself.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `/config_dump`.
    pub config: ConfigDump,
    /// `/ready`.
    pub readiness: Readiness,
    /// `/certs`.
    pub certs: Certs,
    /// Our own clock when it was asked for its certificates.
    pub asked_at: SystemTime,
    /// `/connections?state=all`.
    pub connections: Vec<ConnectionRecord>,
    /// What `pillion-iptables show` prints in its network namespace; none where we do not stand there, or may not ask.
    pub rules: Option<String>,
    /// What was heard on its network; none where we could not listen.
    pub captured: Option<Captured>,
}

/// `/config_dump`, as far as it is looked at.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigDump {
    /// Of the proxy.
    pub version: String,
    /// Settings in force.
    pub settings: Settings,
    /// The mesh folder.
    pub policy: Policy,
}

/// Settings in force.
#[derive(Debug, Clone, Deserialize)]
pub struct Settings {
    /// Who it stands for.
    pub workload: WorkloadSettings,
    /// Its inbound side.
    pub inbound: Side,
    /// Its outbound side.
    pub outbound: Side,
}

/// Who a proxy stands for.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSettings {
    /// What logs call it.
    pub name: String,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
}

/// One side of a proxy.
#[derive(Debug, Clone, Deserialize)]
pub struct Side {
    /// Where captured connections come, if they do.
    pub capture: Option<SocketAddr>,
}

/// The mesh folder as the proxy has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// When what is in force was read.
    pub loaded: String,
    /// Why what is there now is not in force.
    pub last_error: Option<String>,
    /// What is probably not meant.
    pub findings: Vec<Finding>,
}

/// `/ready`.
#[derive(Debug, Clone, Deserialize)]
pub struct Readiness {
    /// Whether connections are served.
    pub ready: bool,
    /// Why.
    pub because: String,
}

/// `/certs`, as far as it is looked at.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certs {
    /// The proxy's clock.
    #[serde(with = "rfc3339")]
    pub now: SystemTime,
    /// Its SPIFFE ID.
    pub identity: Option<String>,
    /// Whether its certificate is valid.
    pub valid: bool,
    /// What it shows to peers, leaf first.
    pub chain: Vec<Certificate>,
    /// By trust domain.
    pub bundles: BTreeMap<String, Vec<Bundle>>,
    /// Tries to get a certificate.
    pub renewals: Renewals,
}

/// A certificate of a chain.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Who signed it.
    pub issuer: String,
    /// By which key.
    pub authority_key_id: Option<String>,
    /// From when it is valid.
    #[serde(with = "rfc3339")]
    pub not_before: SystemTime,
    /// Until when.
    #[serde(with = "rfc3339")]
    pub not_after: SystemTime,
}

/// A root of a bundle.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    /// Its name.
    pub subject: String,
    /// Its key.
    pub subject_key_id: Option<String>,
    /// Until when it is valid.
    #[serde(with = "rfc3339")]
    pub not_after: SystemTime,
    /// Whether it is valid now.
    pub valid: bool,
}

/// Tries to get a certificate.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Renewals {
    /// Why the newest failed.
    pub last_error: Option<String>,
    /// When the next is due.
    #[serde(default, deserialize_with = "time_or_none")]
    pub next: Option<SystemTime>,
}

/// What was heard on a network for a while.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Captured {
    /// What was said between two addresses.
    pub streams: Vec<Stream>,
}

/// What was said between two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// One of them.
    pub one: SocketAddr,
    /// The other.
    pub other: SocketAddr,
    /// Bytes of TLS records.
    pub tls: u64,
    /// Bytes of anything else.
    pub plaintext: u64,
}

impl Facts {
    /// The workload, for rooms that ask for one. Its labels are not known.
    pub(super) fn workload(&self) -> Workload {
        let WorkloadSettings { name, trust_domain, namespace, service_account } =
            self.config.settings.workload.clone();
        Workload { name, trust_domain, namespace, service_account, labels: Labels::new() }
    }

    /// What people call it.
    pub(super) fn name(&self) -> &str {
        &self.config.settings.workload.name
    }
}

fn time_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.and_then(|text| rfc3339::parse(&text).ok()))
}
