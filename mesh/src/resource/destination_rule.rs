//! `DestinationRule` (networking.istio.io): with which TLS a destination is dialled.
//!
//! Of its traffic policy pillion applies `tls`. What shapes load (`loadBalancer`, `connectionPool`, `outlierDetection`)
//! is read, not applied and reported; what would change the bytes on the wire (`tunnel`, `proxyProtocol`) is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Meta;
use super::export_to::{ExportTo, check_export_to};
use super::host::{hint, is_host, is_host_or_wildcard};
use super::meta::is_dns_label;
use super::peer_authentication::check_literal;
use super::port_number::PortSelector;
use crate::workload::{Labels, Selector};
use crate::yaml::{At, Document, YamlError, expected_one_of, quoted};

/// One checked `DestinationRule`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationRule {
    /// Name, namespace, place.
    pub meta: Meta,
    /// `spec.host`, lower-case: a name, one behind `*.`, or `*`. A short name is one of the rule's namespace.
    pub host: String,
    /// `spec.trafficPolicy`.
    pub traffic_policy: TrafficPolicy,
    /// `spec.subsets`; their names are unique.
    pub subsets: Vec<Subset>,
    /// `spec.exportTo`: the namespaces of the clients that the rule is for.
    pub export_to: ExportTo,
    /// `spec.workloadSelector`: the clients of the rule's own namespace that it is for; absent is all that see it.
    pub workload_selector: Option<Selector>,
    /// The fields that are read and not applied, as `trafficPolicy.loadBalancer`, each with its `file:line`.
    pub not_applied: Vec<(String, String)>,
}

/// The TLS of a destination, and of single ports of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrafficPolicy {
    /// `tls`; absent leaves it to auto mTLS.
    pub tls: Option<ClientTls>,
    /// `portLevelSettings[].tls` by the service's port. A port that stands here takes nothing from above: without `tls`
    /// of its own it is left to auto mTLS.
    pub ports: BTreeMap<u16, Option<ClientTls>>,
}

/// One `spec.subsets` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    /// Its name, which routes refer to and which stands in the SNI.
    pub name: String,
    /// The labels of its endpoints.
    pub labels: Labels,
    /// What it says over the rule's own; absent is the rule's.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// With which TLS to dial (`tls.mode`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientTls {
    /// `DISABLE`: none.
    Disable,
    /// `ISTIO_MUTUAL`: mutual TLS with the workload's own certificate of the mesh.
    IstioMutual,
    /// `SIMPLE` and, with a certificate to show, `MUTUAL`: TLS as any client of the web speaks it.
    Originate(Arc<Origination>),
}

/// How to speak TLS to a server outside the mesh. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origination {
    /// `sni`; absent is the host.
    pub sni: Option<String>,
    /// `subjectAltNames`: the server must prove one of them, a DNS name or a URI; none is the name that SNI asks for.
    pub subject_alt_names: Vec<String>,
    /// `caCertificates`: PEM file of the roots; absent are the system's.
    pub ca_certificates: Option<String>,
    /// `caCrl`: PEM file of certificate revocation lists.
    pub ca_crl: Option<String>,
    /// `insecureSkipVerify`: whoever answers is believed.
    pub insecure_skip_verify: bool,
    /// `clientCertificate` and `privateKey` of MUTUAL.
    pub client: Option<ClientFiles>,
}

/// PEM files of what a client shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientFiles {
    /// The certificate, leaf first.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Origination {
    /// `SIMPLE` or `MUTUAL`.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        if self.client.is_some() { "MUTUAL" } else { "SIMPLE" }
    }
}

impl ClientTls {
    /// The mode as it is written.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        match self {
            ClientTls::Disable => "DISABLE",
            ClientTls::IstioMutual => "ISTIO_MUTUAL",
            ClientTls::Originate(origination) => origination.mode(),
        }
    }
}

impl TrafficPolicy {
    /// The TLS for a port of the service; `None` leaves it to auto mTLS.
    #[must_use]
    pub fn tls(&self, port: u16) -> Option<&ClientTls> {
        match self.ports.get(&port) {
            Some(own) => own.as_ref(),
            None => self.tls.as_ref(),
        }
    }
}

impl DestinationRule {
    /// The TLS for a port of the service, for one of its subsets where one is meant.
    #[must_use]
    pub fn tls<'r>(&'r self, port: u16, subset: Option<&'r Subset>) -> Option<&'r ClientTls> {
        let own = subset.and_then(|subset| subset.traffic_policy.as_ref());
        match own {
            Some(own) if own.ports.contains_key(&port) || own.tls.is_some() => own.tls(port),
            _ => self.traffic_policy.tls(port),
        }
    }
}

/// `spec` as written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    host: At<String>,
    traffic_policy: Option<WrittenPolicy>,
    #[serde(default)]
    subsets: Vec<WrittenSubset>,
    #[serde(default)]
    export_to: Vec<At<String>>,
    workload_selector: Option<At<Selector>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPolicy {
    load_balancer: Option<At<IgnoredAny>>,
    connection_pool: Option<At<IgnoredAny>>,
    outlier_detection: Option<At<IgnoredAny>>,
    retry_budget: Option<At<IgnoredAny>>,
    tls: Option<At<WrittenTls>>,
    #[serde(default)]
    port_level_settings: Vec<At<WrittenPort>>,
    tunnel: Option<At<IgnoredAny>>,
    proxy_protocol: Option<At<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPort {
    port: PortSelector,
    load_balancer: Option<At<IgnoredAny>>,
    connection_pool: Option<At<IgnoredAny>>,
    outlier_detection: Option<At<IgnoredAny>>,
    tls: Option<At<WrittenTls>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenSubset {
    name: At<String>,
    #[serde(default)]
    labels: Labels,
    traffic_policy: Option<WrittenPolicy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenTls {
    mode: Option<At<String>>,
    client_certificate: Option<At<String>>,
    private_key: Option<At<String>>,
    ca_certificates: Option<At<String>>,
    credential_name: Option<At<String>>,
    #[serde(default)]
    subject_alt_names: Vec<At<String>>,
    sni: Option<At<String>>,
    insecure_skip_verify: Option<At<bool>>,
    ca_crl: Option<At<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

/// Istio's validation, with refusals where a field would be passed over without a word.
pub(super) fn check(
    document: &Document<'_>,
    meta: Meta,
    spec: At<Spec>,
) -> Result<DestinationRule, YamlError> {
    let Spec { host, traffic_policy, subsets, export_to, workload_selector } = spec.value;
    if let Some(selector) = &workload_selector {
        check_literal(document, selector)?;
    }
    let mut not_applied = Vec::new();
    let traffic_policy = traffic_policy
        .map(|policy| check_policy(document, "trafficPolicy", policy, &mut not_applied))
        .transpose()?
        .unwrap_or_default();
    Ok(DestinationRule {
        host: check_host(document, &host)?,
        traffic_policy,
        subsets: check_subsets(document, subsets, &mut not_applied)?,
        export_to: check_export_to(document, export_to)?,
        workload_selector: workload_selector
            .map(|selector| selector.value)
            .filter(|selector| !selector.match_labels.is_empty()),
        not_applied,
        meta,
    })
}

fn check_host(document: &Document<'_>, host: &At<String>) -> Result<String, YamlError> {
    if host.value == "*" || is_host_or_wildcard(&host.value) {
        return Ok(host.value.to_ascii_lowercase());
    }
    let seen = quoted(&host.value);
    Err(document.error(
        host,
        format!("expected the name of a service, one behind `*.`, or `*`, seen {seen}{}", hint(&host.value)),
    ))
}

fn check_subsets(
    document: &Document<'_>,
    written: Vec<WrittenSubset>,
    not_applied: &mut Vec<(String, String)>,
) -> Result<Vec<Subset>, YamlError> {
    let mut subsets: Vec<Subset> = Vec::with_capacity(written.len());
    for WrittenSubset { name, labels, traffic_policy } in written {
        let seen = quoted(&name.value);
        if !is_dns_label(&name.value) {
            let message = format!("a subset's name is made of a-z, 0-9 and `-`, seen {seen}");
            return Err(document.error(&name, message));
        }
        if subsets.iter().any(|known| known.name == name.value) {
            return Err(document.error(&name, format!("subset {seen} stands twice; keep one")));
        }
        let path = format!("subsets[{}].trafficPolicy", subsets.len());
        let traffic_policy =
            traffic_policy.map(|policy| check_policy(document, &path, policy, not_applied)).transpose()?;
        subsets.push(Subset { name: name.value, labels, traffic_policy });
    }
    Ok(subsets)
}

fn check_policy(
    document: &Document<'_>,
    path: &str,
    policy: WrittenPolicy,
    not_applied: &mut Vec<(String, String)>,
) -> Result<TrafficPolicy, YamlError> {
    for (name, field) in [("tunnel", &policy.tunnel), ("proxyProtocol", &policy.proxy_protocol)] {
        if let Some(field) = field {
            return Err(document.error(
                field,
                format!("`{name}` changes what goes over the wire and is not supported; take it out"),
            ));
        }
    }
    let mut note = |path: String, field: &Option<At<IgnoredAny>>| {
        if let Some(field) = field {
            not_applied.push((path, document.place(field)));
        }
    };
    for (name, field) in [
        ("loadBalancer", &policy.load_balancer),
        ("connectionPool", &policy.connection_pool),
        ("outlierDetection", &policy.outlier_detection),
        ("retryBudget", &policy.retry_budget),
    ] {
        note(format!("{path}.{name}"), field);
    }
    let mut ports = BTreeMap::new();
    for (number, settings) in policy.port_level_settings.into_iter().enumerate() {
        let place = settings.place();
        let WrittenPort { port, load_balancer, connection_pool, outlier_detection, tls } = settings.value;
        for (name, field) in [
            ("loadBalancer", &load_balancer),
            ("connectionPool", &connection_pool),
            ("outlierDetection", &outlier_detection),
        ] {
            note(format!("{path}.portLevelSettings[{number}].{name}"), field);
        }
        let tls = tls.map(|tls| check_tls(document, tls)).transpose()?;
        if ports.insert(port.number.0, tls).is_some() {
            return Err(document.error(&place, format!("port {} stands twice; keep one", port.number.0)));
        }
    }
    Ok(TrafficPolicy { tls: policy.tls.map(|tls| check_tls(document, tls)).transpose()?, ports })
}

fn check_tls(document: &Document<'_>, tls: At<WrittenTls>) -> Result<ClientTls, YamlError> {
    let place = tls.place();
    let mode = check_mode(document, &tls)?;
    let WrittenTls { credential_name, insecure_skip_verify, .. } = &tls.value;
    if let Some(name) = credential_name {
        return Err(document.error(
            name,
            "credentialName is a Secret of Kubernetes, which there is none of here; name files by clientCertificate, \
             privateKey and caCertificates",
        ));
    }
    if let Some((name, place)) = fields(document, &tls.value)?.into_iter().find(|(name, _)| !fits(mode, name))
    {
        return Err(document.error(&place, misfit(mode, name)));
    }
    if let Some(skip) = insecure_skip_verify.as_ref().filter(|skip| skip.value) {
        let verified = [
            !tls.value.subject_alt_names.is_empty(),
            tls.value.ca_certificates.is_some(),
            tls.value.ca_crl.is_some(),
        ];
        if verified.contains(&true) {
            let message = "insecureSkipVerify believes whoever answers, so that caCertificates, caCrl and subjectAltNames \
                would mean nothing beside it; take it out, or them";
            return Err(document.error(skip, message));
        }
    }
    match mode {
        Mode::Disable => Ok(ClientTls::Disable),
        Mode::IstioMutual => Ok(ClientTls::IstioMutual),
        Mode::Simple => Ok(ClientTls::Originate(Arc::new(origination(tls.value, None)))),
        Mode::Mutual => {
            let WrittenTls { client_certificate, private_key, .. } = &tls.value;
            let (Some(certificate), Some(key)) = (client_certificate, private_key) else {
                let message = "MUTUAL shows a certificate: name its files by clientCertificate and privateKey; for the mesh's \
                    own certificate say ISTIO_MUTUAL";
                return Err(document.error(&place, message));
            };
            let client = ClientFiles { certificate: certificate.value.clone(), key: key.value.clone() };
            Ok(ClientTls::Originate(Arc::new(origination(tls.value, Some(client)))))
        }
    }
}

/// Istio takes the absence of a mode for DISABLE; who writes `tls` means some TLS.
fn check_mode(document: &Document<'_>, tls: &At<WrittenTls>) -> Result<Mode, YamlError> {
    const KNOWN: [&str; 4] = ["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"];
    let Some(mode) = &tls.value.mode else {
        let message = format!("`tls` without `mode`{}", expected_one_of("", &KNOWN));
        return Err(document.error(tls, message));
    };
    match mode.value.as_str() {
        "DISABLE" => Ok(Mode::Disable),
        "SIMPLE" => Ok(Mode::Simple),
        "MUTUAL" => Ok(Mode::Mutual),
        "ISTIO_MUTUAL" => Ok(Mode::IstioMutual),
        "STRICT" | "PERMISSIVE" => {
            let message = format!(
                "{} is what a server accepts and stands in a PeerAuthentication; how clients connect is one of {}",
                quoted(&mode.value),
                KNOWN.map(|known| format!("`{known}`")).join(", ")
            );
            Err(document.error(mode, message))
        }
        other => {
            let message = format!("unknown value {}{}", quoted(other), expected_one_of(other, &KNOWN));
            Err(document.error(mode, message))
        }
    }
}

fn origination(tls: WrittenTls, client: Option<ClientFiles>) -> Origination {
    Origination {
        sni: tls.sni.map(|sni| sni.value.to_ascii_lowercase()),
        subject_alt_names: tls.subject_alt_names.into_iter().map(|name| name.value).collect(),
        ca_certificates: tls.ca_certificates.map(|path| path.value),
        ca_crl: tls.ca_crl.map(|path| path.value),
        insecure_skip_verify: tls.insecure_skip_verify.is_some_and(|skip| skip.value),
        client,
    }
}

/// The fields that are written, each with its place; paths and names among them are checked.
fn fields(document: &Document<'_>, tls: &WrittenTls) -> Result<Vec<(&'static str, At<()>)>, YamlError> {
    let mut fields = Vec::new();
    for (name, path) in [
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
        ("caCrl", &tls.ca_crl),
    ] {
        let Some(path) = path else { continue };
        if !path.value.starts_with('/') {
            let seen = quoted(&path.value);
            return Err(
                document.error(path, format!("`{name}` is the absolute path of a PEM file, seen {seen}"))
            );
        }
        fields.push((name, path.place()));
    }
    if let Some(sni) = &tls.sni {
        if !is_host(&sni.value) {
            let message = format!("`sni` is one DNS name, without `*`, seen {}", quoted(&sni.value));
            return Err(document.error(sni, message));
        }
        fields.push(("sni", sni.place()));
    }
    for name in &tls.subject_alt_names {
        check_subject_alt_name(document, name)?;
        fields.push(("subjectAltNames", name.place()));
    }
    if let Some(skip) = &tls.insecure_skip_verify {
        fields.push(("insecureSkipVerify", skip.place()));
    }
    Ok(fields)
}

/// Compared whole: a DNS name, or a URI such as a SPIFFE ID.
fn check_subject_alt_name(document: &Document<'_>, name: &At<String>) -> Result<(), YamlError> {
    let is_uri = name.value.split_once("://").is_some_and(|(scheme, rest)| {
        !rest.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    });
    let is_address = name.value.parse::<std::net::IpAddr>().is_ok();
    if is_uri || is_address || is_host(&name.value) {
        return Ok(());
    }
    Err(document.error(
        name,
        format!(
            "expected a DNS name, an IP address or a URI as the server's certificate has it, whole and without `*`, seen {}",
            quoted(&name.value)
        ),
    ))
}

fn fits(mode: Mode, field: &str) -> bool {
    match mode {
        Mode::Disable | Mode::IstioMutual => false,
        Mode::Simple => !matches!(field, "clientCertificate" | "privateKey"),
        Mode::Mutual => true,
    }
}

fn misfit(mode: Mode, field: &str) -> String {
    match mode {
        Mode::Disable => format!("DISABLE speaks no TLS, so that `{field}` would mean nothing; take it out"),
        Mode::IstioMutual => format!(
            "ISTIO_MUTUAL takes all that it needs from the mesh, so that `{field}` would mean nothing; take it out, or say \
             MUTUAL"
        ),
        Mode::Simple | Mode::Mutual => {
            format!("SIMPLE shows no certificate, so that `{field}` would mean nothing; say MUTUAL")
        }
    }
}
