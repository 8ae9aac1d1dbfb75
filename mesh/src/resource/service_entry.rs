//! `ServiceEntry` (networking.istio.io): a service that outbound traffic may go to.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::export_to::{ExportTo, check_export_to};
use super::host::is_host_or_wildcard;
use super::meta::is_dns_label;
use super::port_number::PortNumber;
use super::{Meta, WorkloadEntry, workload_entry};
use crate::spiffe::SpiffeId;
use crate::workload::{Labels, Selector};
use crate::yaml::{At, Document, YamlError, expected_one_of, quoted};

/// One checked `ServiceEntry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Name, namespace, place.
    pub meta: Meta,
    /// `spec.hosts`, lower-case; at least one.
    pub hosts: Vec<String>,
    /// `spec.addresses`: virtual addresses.
    pub addresses: Vec<IpNet>,
    /// `spec.ports`; numbers and names are unique.
    pub ports: Vec<Port>,
    /// `spec.location`.
    pub location: Location,
    /// `spec.resolution`.
    pub resolution: Resolution,
    /// `spec.endpoints`.
    pub endpoints: Vec<WorkloadEntry>,
    /// `spec.workloadSelector`: endpoints are the `WorkloadEntry` resources of the same namespace that match.
    pub workload_selector: Option<Selector>,
    /// `spec.subjectAltNames`: identities that may serve besides the endpoints' service accounts.
    pub subject_alt_names: Vec<SpiffeId>,
    /// `spec.exportTo`: the namespaces that see the service.
    pub export_to: ExportTo,
}

impl ServiceEntry {
    /// Whether workloads of `namespace` see the service.
    #[must_use]
    pub fn is_visible_in(&self, namespace: &str) -> bool {
        self.export_to.reaches(namespace, &self.meta.namespace)
    }
}

/// One `spec.ports` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The service's port, which clients dial.
    pub number: u16,
    /// Its name; `endpoints[].ports` refers to it.
    pub name: String,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The port the workload listens on, where it differs.
    pub target_port: Option<u16>,
}

impl Port {
    /// The port that a workload of the service listens on: by the endpoint's `ports`, else `targetPort`, else the
    /// service's own.
    #[must_use]
    pub fn at(&self, endpoint: &WorkloadEntry) -> u16 {
        endpoint.ports.get(&self.name).copied().unwrap_or_else(|| self.target())
    }

    /// `targetPort`, else the service's own.
    #[must_use]
    pub fn target(&self) -> u16 {
        self.target_port.unwrap_or(self.number)
    }
}

/// What is declared to be spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// `HTTP`, `GRPC-WEB`: HTTP/1.1, or what the client speaks.
    Http,
    /// `HTTP2`, `GRPC`.
    Http2,
    /// `TLS`, `HTTPS`: the app's own TLS.
    Tls,
    /// `TCP`, `MONGO`, `MYSQL`, `REDIS`: bytes.
    Tcp,
    /// Nothing.
    Undeclared,
}

impl Protocol {
    /// Whether requests can be read.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Protocol::Http | Protocol::Http2)
    }

    /// Whether anything is declared.
    #[must_use]
    pub fn is_declared(self) -> bool {
        self != Protocol::Undeclared
    }

    /// As a ServiceEntry has it; `undeclared` where it says nothing.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http => "HTTP",
            Protocol::Http2 => "HTTP2",
            Protocol::Tls => "TLS",
            Protocol::Tcp => "TCP",
            Protocol::Undeclared => "undeclared",
        }
    }
}

/// Istio's `location`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    /// Outside the mesh: never auto mTLS. What an absent `location` means.
    #[default]
    MeshExternal,
    /// Part of the mesh.
    MeshInternal,
}

/// Istio's `resolution`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Forwarded to the address that the client dialled. What an absent `resolution` means.
    None,
    /// The endpoints' addresses are IP addresses.
    Static,
    /// The endpoints' addresses, or the host where there are none, are looked up in DNS (`DNS` and
    /// `DNS_ROUND_ROBIN`).
    Dns,
}

/// `spec` as written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    hosts: At<Vec<At<String>>>,
    #[serde(default)]
    addresses: Vec<At<String>>,
    ports: At<Vec<WrittenPort>>,
    #[serde(default)]
    location: Location,
    resolution: Option<At<WrittenResolution>>,
    endpoints: Option<At<Vec<At<workload_entry::Spec>>>>,
    workload_selector: Option<At<WorkloadSelector>>,
    #[serde(default)]
    export_to: Vec<At<String>>,
    #[serde(default)]
    subject_alt_names: Vec<SpiffeId>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPort {
    number: At<PortNumber>,
    name: At<String>,
    protocol: Option<At<String>>,
    target_port: Option<PortNumber>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum WrittenResolution {
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

/// In this group it has `labels` where the security group has `matchLabels`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WorkloadSelector {
    #[serde(default)]
    labels: Labels,
}

/// Istio's validation, with refusals where a silent meaning would mislead.
pub(super) fn check(document: &Document<'_>, meta: Meta, spec: At<Spec>) -> Result<ServiceEntry, YamlError> {
    let spec = spec.value;
    check_sources(document, &spec)?;
    let ports = check_ports(document, &spec.ports)?;
    let endpoints = spec.endpoints.map(|endpoints| endpoints.value).unwrap_or_default();
    let by_account = spec.subject_alt_names.is_empty();
    let is_static = matches!(&spec.resolution, Some(at) if at.value == WrittenResolution::Static);
    let endpoints = endpoints
        .into_iter()
        .map(|endpoint| check_endpoint(document, &meta, &ports, is_static, by_account, endpoint))
        .collect::<Result<_, _>>()?;
    Ok(ServiceEntry {
        hosts: check_hosts(document, &spec.hosts)?,
        addresses: spec.addresses.iter().map(|at| check_address(document, at)).collect::<Result<_, _>>()?,
        ports,
        location: spec.location,
        resolution: check_resolution(document, spec.resolution.as_ref())?,
        endpoints,
        workload_selector: spec
            .workload_selector
            .map(|selector| Selector { match_labels: selector.value.labels }),
        subject_alt_names: spec.subject_alt_names,
        export_to: check_export_to(document, spec.export_to)?,
        meta,
    })
}

/// Where addresses come from must fit the resolution.
fn check_sources(document: &Document<'_>, spec: &Spec) -> Result<(), YamlError> {
    let endpoints = spec.endpoints.as_ref().filter(|endpoints| !endpoints.value.is_empty());
    let selector = spec.workload_selector.as_ref();
    if let (Some(_), Some(selector)) = (endpoints, selector) {
        let message = "endpoints come from `endpoints` or from `workloadSelector`, not from both";
        return Err(document.error(selector, message));
    }
    match spec.resolution.as_ref().map_or(WrittenResolution::None, |resolution| resolution.value) {
        WrittenResolution::None => {
            const HINT: &str =
                "resolution NONE goes where the client dialled; say `resolution: STATIC` or `DNS`";
            match (endpoints, selector) {
                (Some(endpoints), _) => {
                    Err(document.error(endpoints, format!("endpoints without a use: {HINT}")))
                }
                (_, Some(selector)) => {
                    Err(document.error(selector, format!("a selector without a use: {HINT}")))
                }
                _ => Ok(()),
            }
        }
        WrittenResolution::Dns | WrittenResolution::DnsRoundRobin => check_dns(document, spec, endpoints),
        WrittenResolution::Static | WrittenResolution::DynamicDns => Ok(()),
    }
}

fn check_dns(
    document: &Document<'_>,
    spec: &Spec,
    endpoints: Option<&At<Vec<At<workload_entry::Spec>>>>,
) -> Result<(), YamlError> {
    if let Some(range) = spec.addresses.iter().find(|address| address.value.contains('/')) {
        return Err(document.error(range, "a range of addresses needs resolution NONE or STATIC"));
    }
    let is_round_robin = matches!(&spec.resolution, Some(at) if at.value == WrittenResolution::DnsRoundRobin);
    if let Some(endpoints) = endpoints.filter(|endpoints| is_round_robin && endpoints.value.len() > 1) {
        return Err(
            document.error(endpoints, "DNS_ROUND_ROBIN has one endpoint at most; say `resolution: DNS`")
        );
    }
    let wildcard = spec.hosts.value.iter().find(|host| host.value.starts_with('*'));
    match wildcard.filter(|_| endpoints.is_none() && spec.workload_selector.is_none()) {
        Some(wildcard) => {
            let message =
                format!("{} cannot be looked up in DNS; write the names out", quoted(&wildcard.value));
            Err(document.error(wildcard, message))
        }
        None => Ok(()),
    }
}

fn check_hosts(document: &Document<'_>, hosts: &At<Vec<At<String>>>) -> Result<Vec<String>, YamlError> {
    if hosts.value.is_empty() {
        return Err(document.error(hosts, "hosts is empty; a service has at least one name"));
    }
    let check = |host: &At<String>| {
        if is_host_or_wildcard(&host.value) {
            return Ok(host.value.to_ascii_lowercase());
        }
        let message = format!(
            "expected a host name, or one behind `*.`, seen {}; IP addresses stand in `addresses` or `endpoints`",
            quoted(&host.value)
        );
        Err(document.error(host, message))
    };
    hosts.value.iter().map(check).collect()
}

fn check_address(document: &Document<'_>, address: &At<String>) -> Result<IpNet, YamlError> {
    let single = address.value.parse::<IpAddr>().map(|ip| IpNet::from(ip.to_canonical()));
    single.or_else(|_| address.value.parse::<IpNet>().map(|net| net.trunc())).map_err(|_| {
        let seen = quoted(&address.value);
        document
            .error(address, format!("expected an IP address or a range such as `10.1.0.0/16`, seen {seen}"))
    })
}

fn check_ports(document: &Document<'_>, ports: &At<Vec<WrittenPort>>) -> Result<Vec<Port>, YamlError> {
    if ports.value.is_empty() {
        return Err(
            document.error(ports, "ports is empty; without a port no connection belongs to the service")
        );
    }
    let (mut numbers, mut names) = (HashSet::new(), HashSet::new());
    let mut checked = Vec::with_capacity(ports.value.len());
    for WrittenPort { number, name, protocol, target_port } in &ports.value {
        if !numbers.insert(number.value) {
            return Err(document.error(number, format!("port {} stands twice; keep one", number.value.0)));
        }
        let seen = quoted(&name.value);
        if !is_dns_label(&name.value) {
            return Err(
                document.error(name, format!("a port's name is made of a-z, 0-9 and `-`, seen {seen}"))
            );
        }
        if !names.insert(&name.value) {
            return Err(document.error(name, format!("port name {seen} stands twice; each port has its own")));
        }
        let protocol = protocol.as_ref().map(|protocol| check_protocol(document, protocol)).transpose()?;
        checked.push(Port {
            number: number.value.0,
            name: name.value.clone(),
            protocol: protocol.unwrap_or(Protocol::Undeclared),
            target_port: target_port.map(|port| port.0),
        });
    }
    Ok(checked)
}

fn check_protocol(document: &Document<'_>, protocol: &At<String>) -> Result<Protocol, YamlError> {
    const KNOWN: [&str; 10] =
        ["HTTP", "HTTP2", "GRPC", "GRPC-WEB", "TCP", "TLS", "HTTPS", "MONGO", "MYSQL", "REDIS"];
    match protocol.value.to_ascii_uppercase().as_str() {
        "HTTP" | "GRPC-WEB" => Ok(Protocol::Http),
        "HTTP2" | "GRPC" => Ok(Protocol::Http2),
        "TLS" | "HTTPS" => Ok(Protocol::Tls),
        "TCP" | "MONGO" | "MYSQL" | "REDIS" => Ok(Protocol::Tcp),
        "UDP" => {
            Err(document
                .error(protocol, "UDP bypasses the sidecar and cannot be described; leave the port out"))
        }
        _ => {
            let expected = expected_one_of(&protocol.value, &KNOWN);
            Err(document.error(protocol, format!("unknown protocol {}{expected}", quoted(&protocol.value))))
        }
    }
}

fn check_resolution(
    document: &Document<'_>,
    resolution: Option<&At<WrittenResolution>>,
) -> Result<Resolution, YamlError> {
    let Some(resolution) = resolution else { return Ok(Resolution::None) };
    match resolution.value {
        WrittenResolution::None => Ok(Resolution::None),
        WrittenResolution::Static => Ok(Resolution::Static),
        WrittenResolution::Dns | WrittenResolution::DnsRoundRobin => Ok(Resolution::Dns),
        WrittenResolution::DynamicDns => Err(document.error(
            resolution,
            "DYNAMIC_DNS is not supported: a connection does not say which name behind the wildcard it means; \
             write the names out with `resolution: DNS`",
        )),
    }
}

/// `by_account`: no subjectAltNames name who may serve, so that the endpoint must.
fn check_endpoint(
    document: &Document<'_>,
    meta: &Meta,
    ports: &[Port],
    is_static: bool,
    by_account: bool,
    endpoint: At<workload_entry::Spec>,
) -> Result<WorkloadEntry, YamlError> {
    let unknown = endpoint.value.ports.iter().find(|(name, _)| ports.iter().all(|port| port.name != **name));
    if let Some((name, number)) = unknown {
        let known: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
        let message = format!("the service has no port {}{}", quoted(name), expected_one_of(name, &known));
        return Err(document.error(number, message));
    }
    let place = endpoint.place();
    let address = endpoint.value.address.clone();
    let entry = workload_entry::check(document, meta.clone(), endpoint, Labels::new())?;
    if is_static && entry.ip().is_none() {
        let seen = quoted(&address.value);
        let message =
            format!("resolution STATIC needs an IP address, seen {seen}; say `resolution: DNS` for names");
        return Err(document.error(&address, message));
    }
    if by_account && entry.has_sidecar() && entry.service_account.is_none() {
        return Err(document.error(
            &place,
            "an endpoint with a sidecar needs `serviceAccount`, or the ServiceEntry `subjectAltNames`: \
             without either no identity may serve the host",
        ));
    }
    Ok(entry)
}
