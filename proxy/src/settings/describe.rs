//! The settings in force, in the shape of the file: for the log at start and for `/config_dump`. No secret is among
//! them; of tokens and keys only the paths are known here.

use std::path::Path;

use pillion_mesh::spiffe::{SpiffeId, TrustDomain};
use pillion_mesh::wire::rfc3339;
use serde_json::{Map, Value, json};

use super::value::{HttpsOrigin, HttpsUrl, MinVersion, Period, SocketMode, UnixSocket};
use super::{InterceptionMode, LogFormat, PolicyChange, Settings, TrafficPolicy};
use crate::identity::{BundleSource, Endpoint, EndpointTrust, KeyType, Source};
use crate::tls::KeyLogFile;

impl Settings {
    /// All settings, defaults filled in, as the file would say them.
    pub(crate) fn to_json(&self) -> Value {
        let duration = |duration| Period(duration).to_string();
        json!({
            "workload": {
                "name": self.workload.name,
                "trustDomain": self.workload.trust_domain.as_str(),
                "namespace": self.workload.namespace,
                "serviceAccount": self.workload.service_account,
                "labels": self.workload.labels,
            },
            "rootNamespace": self.mesh_config.root_namespace,
            "trustDomainAliases": self.mesh_config.trust_domain_aliases.iter()
                .map(TrustDomain::as_str)
                .collect::<Vec<_>>(),
            "identity": identity(&self.identity, self.crl.as_deref()),
            "workloadApi": self.workload_api.as_ref().map(|api| json!({
                "socket": api.socket,
                "mode": SocketMode(api.mode).to_string(),
            })),
            "federation": self.federation.iter()
                .map(|federated| json!({
                    "trustDomain": federated.trust_domain.as_str(),
                    "bundle": bundle(&federated.bundle),
                }))
                .collect::<Vec<_>>(),
            "mesh": self.mesh,
            "policyChange": match self.policy_change {
                PolicyChange::Close => "close",
                PolicyChange::Keep => "keep",
            },
            "inbound": {
                "capture": self.inbound.capture,
                "tunnel": self.inbound.tunnel,
                "trafficPolicy": match self.inbound.traffic_policy {
                    TrafficPolicy::Passthrough => "PASSTHROUGH",
                    TrafficPolicy::Localhost => "LOCALHOST",
                },
                "trustedProxies": self.inbound.trusted_proxies.iter().map(SpiffeId::as_str).collect::<Vec<_>>(),
                "listeners": self.inbound.listeners.iter()
                    .map(|listener| json!({ "address": listener.address, "forward": listener.forward }))
                    .collect::<Vec<_>>(),
            },
            "outbound": {
                "capture": self.outbound.capture,
                "trafficPolicy": self.mesh_config.outbound_policy,
                "listeners": self.outbound.listeners.iter()
                    .map(|listener| json!({
                        "address": listener.address,
                        "destination": format!("{}:{}", listener.host, listener.port),
                    }))
                    .collect::<Vec<_>>(),
            },
            "gateway": self.gateway.as_ref().map(|gateway| json!({
                "address": gateway.address,
                "ports": gateway.ports,
            })),
            "interception": {
                "mode": match self.interception.mode {
                    InterceptionMode::Redirect => "REDIRECT",
                    InterceptionMode::Tproxy => "TPROXY",
                },
                "mark": self.interception.mark,
            },
            "admin": { "address": self.admin, "capture": self.capture_allowed },
            "readiness": { "address": self.readiness, "failBefore": self.fail_before.map(duration) },
            "metrics": { "address": self.metrics },
            "tls": {
                "minVersion": MinVersion(self.tls.min_version).to_string(),
                "cipherSuites": texts(self.tls.ciphers.suites()),
                "ecdhCurves": texts(self.tls.ciphers.groups()),
                "resumption": self.tls.resumption,
                "keyLogFile": self.tls.key_log.map(KeyLogFile::path),
            },
            "detection": { "timeout": duration(self.detection_timeout) },
            "drain": { "timeout": duration(self.drain_timeout) },
            "limits": {
                "maxConnections": self.limits.max_connections,
                "handshakeTimeout": duration(self.limits.handshake_timeout),
                "helloSize": self.limits.hello_size,
                "requestHeadSize": self.limits.request_head_size,
                "requestHeadTimeout": duration(self.limits.request_head_timeout),
                "connectTimeout": duration(self.limits.connect_timeout),
                "keepalive": {
                    "time": duration(self.limits.keepalive.time),
                    "interval": duration(self.limits.keepalive.interval),
                    "retries": self.limits.keepalive.retries,
                },
            },
            "tunnels": {
                "maxStreams": self.tunnels.max_streams,
                "maxTunnels": self.tunnels.max_tunnels,
                "idleTimeout": duration(self.tunnels.idle_timeout),
            },
            "dns": { "refresh": duration(self.dns_refresh) },
            "log": { "format": match self.log_format { LogFormat::Text => "text", LogFormat::Json => "json" } },
            "time": self.hurry.map(|hurry| json!({
                "scale": hurry.scale.factor(),
                "origin": hurry.origin.map(rfc3339::print),
            })),
        })
    }

    /// The same as aligned lines, `inbound.capture  0.0.0.0:15006`; what is off is left out.
    pub(crate) fn to_lines(&self) -> Vec<String> {
        let mut pairs = Vec::new();
        flatten(String::new(), &self.to_json(), &mut pairs);
        let width = pairs.iter().map(|(path, _)| path.len()).max().unwrap_or(0);
        pairs.into_iter().map(|(path, value)| format!("{path:width$}  {value}")).collect()
    }
}

fn texts(list: &[impl ToString]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// With the revocation lists, wherever it comes from.
fn identity(source: &Source, crl: Option<&Path>) -> Value {
    let mut identity = source_of(source);
    if let (Value::Object(fields), Some(crl)) = (&mut identity, crl) {
        fields.insert("crl".to_owned(), json!(crl));
    }
    identity
}

fn source_of(source: &Source) -> Value {
    match source {
        Source::Ca(ca) => json!({ "ca": {
            "address": HttpsOrigin { host: ca.host.clone(), port: ca.port }.to_string(),
            "tokenFile": ca.token_file,
            "bundleFile": ca.bundle_file,
            "keyType": match ca.key_type {
                KeyType::EcdsaP256 => "ecdsa-p256",
                KeyType::EcdsaP384 => "ecdsa-p384",
                KeyType::Rsa2048 => "rsa-2048",
                KeyType::Rsa4096 => "rsa-4096",
                KeyType::Ed25519 => "ed25519",
            },
            "ttl": Period(ca.ttl).to_string(),
        }}),
        Source::Files(files) => json!({ "files": {
            "certificate": files.certificate,
            "key": files.key,
            "bundle": files.bundle,
        }}),
        Source::WorkloadApi(socket) => json!({ "workloadApi": UnixSocket(socket.clone()).to_string() }),
    }
}

fn bundle(source: &BundleSource) -> Value {
    match source {
        BundleSource::File(file) => json!({ "file": file }),
        BundleSource::Endpoint(Endpoint { host, port, path, trust }) => {
            let url = HttpsUrl { host: host.clone(), port: *port, path: path.clone() }.to_string();
            match trust {
                EndpointTrust::Web { ca_file } => {
                    json!({ "endpoint": url, "profile": "https_web", "caFile": ca_file })
                }
                EndpointTrust::Spiffe { id, first } => json!({
                    "endpoint": url,
                    "profile": "https_spiffe",
                    "endpointSpiffeId": id.as_str(),
                    "file": first,
                }),
            }
        }
    }
}

fn flatten(path: String, value: &Value, pairs: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(fields) => flatten_fields(&path, fields, pairs),
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                flatten(format!("{path}[{n}]"), item, pairs);
            }
        }
        Value::String(text) => pairs.push((path, text.clone())),
        Value::Bool(_) | Value::Number(_) => pairs.push((path, value.to_string())),
    }
}

fn flatten_fields(path: &str, fields: &Map<String, Value>, pairs: &mut Vec<(String, String)>) {
    for (name, value) in fields {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        flatten(path, value, pairs);
    }
}
