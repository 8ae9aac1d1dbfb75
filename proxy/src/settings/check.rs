//! Settings as typed to settings that the proxy can run with: defaults are filled in, and what cannot work is refused
//! with the path of the setting, what was seen and the likely cure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use pillion_mesh::policy::dial::OutboundPolicy;
use pillion_mesh::workload::{MeshConfig, Workload};

use super::raw::{
    CaSection, EndpointProfile, FederatedBundleSection, FederationItem, FilesSection, GatewaySection,
    IdentitySection, InboundSection, InterceptionSection, KeepaliveSection, KeyTypeWord, LimitsSection,
    OutboundSection, RawSettings, TimeSection, TlsSection, TunnelsSection, WorkloadApiSection,
    WorkloadSection,
};
use super::value::{Period, UnixSocket};
use super::{
    Gateway, Hurry, Inbound, InboundListener, Interception, InterceptionMode, Limits, LogFormat, Outbound,
    OutboundListener, OutboundTrafficPolicy, PolicyChange, Program, Settings, TrafficPolicy, Tunnels,
    WorkloadApi,
};
use crate::identity::{
    BundleSource, CaSource, Endpoint, EndpointTrust, Federated, FileSource, KeyType, Source,
};
use crate::net::Keepalive;
use crate::tls::{Ciphers, KeyLogFile, TlsSettings, TlsVersion};

/// One setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub(crate) struct Fault {
    /// Where it stands in the file, `inbound.listeners[0].forward`.
    pub(crate) path: String,
    /// What was seen, what was expected, the likely cure.
    pub(crate) message: String,
}

impl Fault {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// All settings that cannot work; at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

impl fmt::Display for Faults {
    /// One line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if n == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// SO_MARK of the proxy's own sockets where TPROXY rules look for it (Istio's number).
const TPROXY_MARK: u32 = 1337;

/// Linux takes no more unanswered keepalive probes, and no more seconds between them.
const MAX_KEEPALIVE_RETRIES: u32 = 127;
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);

const MAX_HELLO_SIZE: u32 = 64 * 1024;
const MIN_HELLO_SIZE: u32 = 1024;

/// More than any peer allows, and few enough that a tunnel's end hurts not everybody.
const MAX_STREAMS: u32 = 10_000;
const MAX_TUNNELS: u32 = 100_000;

/// A head is read into a buffer that hyper does not make smaller; and it is held whole for each request.
const MIN_HEAD_SIZE: u32 = 8 * 1024;
const MAX_HEAD_SIZE: u32 = 1024 * 1024;

impl TryFrom<RawSettings> for Settings {
    type Error = Faults;

    /// Those of a sidecar.
    fn try_from(raw: RawSettings) -> Result<Self, Faults> {
        raw.check(Program::Proxy)
    }
}

impl RawSettings {
    /// Judges each section by itself, then what only shows between sections. All faults are told at once.
    ///
    /// # Errors
    /// All settings with which the program cannot run.
    pub(crate) fn check(self, program: Program) -> Result<Settings, Faults> {
        let raw = self;
        let mut faults = Vec::new();
        let workload = kept(workload(raw.workload), &mut faults);
        let root_namespace = kept(root_namespace(raw.root_namespace), &mut faults);
        let crl = raw.identity.crl.clone().map(|crl| path("identity.crl", crl)).transpose();
        let crl = kept(crl, &mut faults);
        let tls = kept(tls(raw.tls), &mut faults);
        let identity = kept(identity(raw.identity), &mut faults);
        let workload_api = kept(workload_api(raw.workload_api), &mut faults);
        let federation = kept(federation(raw.federation), &mut faults);
        let mesh = kept(raw.mesh.map(|mesh| path("mesh", mesh)).transpose(), &mut faults);
        let inbound = kept(inbound(raw.inbound), &mut faults);
        let gateway = kept(gateway(raw.gateway), &mut faults);
        let interception = kept(interception(&raw.interception), &mut faults);
        let limits = kept(limits(&raw.limits), &mut faults);
        let tunnels = kept(tunnels(&raw.tunnels), &mut faults);
        let hurry = kept(hurry(&raw.time), &mut faults);
        let (Some(workload), Some(root_namespace), Some(identity), Some(mesh), Some(inbound)) =
            (workload, root_namespace, identity, mesh, inbound)
        else {
            return Err(Faults(faults));
        };
        let (Some(crl), Some(tls), Some(gateway), Some(interception), Some(limits), Some(hurry)) =
            (crl, tls, gateway, interception, limits, hurry)
        else {
            return Err(Faults(faults));
        };
        let (Some(workload_api), Some(federation), Some(tunnels)) = (workload_api, federation, tunnels)
        else {
            return Err(Faults(faults));
        };

        let outbound_policy = match raw.outbound.traffic_policy {
            Some(OutboundTrafficPolicy::RegistryOnly) => OutboundPolicy::RegistryOnly,
            Some(OutboundTrafficPolicy::AllowAny) | None => OutboundPolicy::AllowAny,
        };
        let trust_domain_aliases = raw.trust_domain_aliases;
        let settings = Settings {
            workload,
            mesh_config: MeshConfig { root_namespace, trust_domain_aliases, outbound_policy },
            identity,
            crl,
            workload_api,
            federation,
            mesh,
            inbound,
            outbound: outbound(raw.outbound),
            gateway,
            interception,
            admin: raw.admin.address.map_or(at(Ipv4Addr::LOCALHOST, 15000), |address| address.0),
            capture_allowed: raw.admin.capture.unwrap_or(false),
            readiness: raw.readiness.address.map_or(at(Ipv4Addr::UNSPECIFIED, 15021), |address| address.0),
            fail_before: raw.readiness.fail_before.map(|period| period.0),
            metrics: raw.metrics.address.map_or(at(Ipv4Addr::UNSPECIFIED, 15090), |address| address.0),
            tls,
            detection_timeout: or_seconds(raw.detection.timeout, 5),
            drain_timeout: or_seconds(raw.drain.timeout, 5),
            limits,
            tunnels,
            dns_refresh: or_seconds(raw.dns.refresh, 5),
            policy_change: raw.policy_change.unwrap_or(PolicyChange::Close),
            log_format: raw.log.format.unwrap_or(LogFormat::Text),
            hurry,
        };
        faults.extend(between_sections(&settings));
        faults.extend(match program {
            Program::Proxy => of_proxy(&settings).into_iter().collect(),
            Program::Agent => of_agent(&settings),
        });
        if faults.is_empty() { Ok(settings) } else { Err(Faults(faults)) }
    }
}

fn kept<T>(checked: Result<T, Fault>, faults: &mut Vec<Fault>) -> Option<T> {
    checked.map_err(|fault| faults.push(fault)).ok()
}

fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ip), port)
}

fn or_seconds(period: Option<Period>, default: u64) -> Duration {
    period.map_or(Duration::from_secs(default), |period| period.0)
}

fn path(name: &str, path: PathBuf) -> Result<PathBuf, Fault> {
    if path.as_os_str().is_empty() {
        return Err(Fault::new(name, "is an empty path; name a file, or leave the setting out"));
    }
    Ok(path)
}

fn workload(raw: WorkloadSection) -> Result<Workload, Fault> {
    let Some(service_account) = raw.service_account else {
        return Err(Fault::new(
            "workload.serviceAccount",
            "is missing; name the service account of the certificate, such as backend",
        ));
    };
    let mut labels = raw.labels;
    labels.extend(raw.label_flags.into_iter().map(|label| (label.name, label.value)));
    let trust_domain = match raw.trust_domain {
        Some(trust_domain) => trust_domain,
        None => "cluster.local".parse().map_err(|e| Fault::new("workload.trustDomain", format!("{e}")))?,
    };
    let name = raw.name.or_else(|| labels.get("app").cloned()).unwrap_or_else(|| service_account.clone());
    if name.is_empty() {
        return Err(Fault::new("workload.name", "is empty; name the workload, or leave the setting out"));
    }
    let namespace = raw.namespace.unwrap_or_else(|| "default".to_owned());
    let workload = Workload { name, trust_domain, namespace, service_account, labels };
    workload.id().map_err(|fault| {
        Fault::new("workload", format!("makes no SPIFFE ID: {fault}; mend its namespace or serviceAccount"))
    })?;
    Ok(workload)
}

fn tls(raw: TlsSection) -> Result<TlsSettings, Fault> {
    let key_log = raw.key_log_file.map(|file| path("tls.keyLogFile", file)).transpose()?;
    let min_version = raw.min_version.map_or(TlsVersion::default(), |min| min.0);
    once("tls.cipherSuites", &raw.cipher_suites)?;
    once("tls.ecdhCurves", &raw.ecdh_curves)?;
    let ciphers = Ciphers::of(raw.cipher_suites, raw.ecdh_curves);
    useful(ciphers, min_version)?;
    let resumption = raw.resumption.unwrap_or(true);
    Ok(TlsSettings { min_version, ciphers, resumption, key_log: key_log.map(KeyLogFile::at) })
}

/// Each stands in the list once; the order counts.
fn once<T: PartialEq + fmt::Display>(setting: &str, list: &[T]) -> Result<(), Fault> {
    let twice =
        list.iter().enumerate().find(|(place, name)| list.iter().take(*place).any(|other| other == *name));
    twice.map_or(Ok(()), |(_, name)| Err(Fault::new(setting, format!("names {name} twice; keep one"))))
}

/// Every version that is spoken has something to negotiate, and a choice chooses something.
fn useful(ciphers: Ciphers, min_version: TlsVersion) -> Result<(), Fault> {
    let both = min_version == TlsVersion::Tls12;
    if !ciphers.suites().is_empty() {
        let (of_1_2, of_1_3) =
            (ciphers.has_suite_of(TlsVersion::Tls12), ciphers.has_suite_of(TlsVersion::Tls13));
        if both && !of_1_2 {
            return Err(Fault::new(
                "tls.cipherSuites",
                "names none of TLS 1.2, which is spoken too; name one, such as ECDHE-ECDSA-AES128-GCM-SHA256, or set \
                 tls.minVersion to \"1.3\"",
            ));
        }
        if !both && !of_1_3 {
            return Err(Fault::new(
                "tls.cipherSuites",
                "names none of TLS 1.3, the only version that tls.minVersion allows; name one, such as \
                 TLS_AES_128_GCM_SHA256, or leave the setting out",
            ));
        }
    }
    if both && !ciphers.groups().is_empty() && !ciphers.has_group_of_1_2() {
        return Err(Fault::new(
            "tls.ecdhCurves",
            "names none that TLS 1.2 has, which is spoken too; name one, such as X25519, or set tls.minVersion to \"1.3\"",
        ));
    }
    Ok(())
}

fn root_namespace(raw: Option<String>) -> Result<String, Fault> {
    match raw {
        Some(name) if name.is_empty() => Err(Fault::new(
            "rootNamespace",
            "is empty; name a namespace, or leave the setting out for istio-system",
        )),
        Some(name) => Ok(name),
        None => Ok("istio-system".to_owned()),
    }
}

fn identity(raw: IdentitySection) -> Result<Source, Fault> {
    let has_ca = raw.ca != CaSection::default();
    let has_files = raw.files != FilesSection::default();
    match (has_ca, has_files, raw.workload_api) {
        (true, false, None) => Ok(Source::Ca(ca(raw.ca)?)),
        (false, true, None) => Ok(Source::Files(files(raw.files)?)),
        (false, false, Some(UnixSocket(socket))) => {
            built_in("identity.workloadApi").map(|()| Source::WorkloadApi(socket))
        }
        (false, false, None) => Err(Fault::new(
            "identity",
            "is missing; say where the certificate comes from, by identity.ca, identity.files or identity.workloadApi",
        )),
        (has_ca, has_files, workload_api) => {
            let named = [(has_ca, "ca"), (has_files, "files"), (workload_api.is_some(), "workloadApi")];
            let named: Vec<_> = named.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
            Err(Fault::new(
                "identity",
                format!(
                    "has {} (a flag or variable may have added one); keep exactly one of them",
                    named.join(" and ")
                ),
            ))
        }
    }
}

/// The Workload API is a feature that a build may lack.
fn built_in(setting: &str) -> Result<(), Fault> {
    if cfg!(feature = "workload-api") {
        return Ok(());
    }
    Err(Fault::new(setting, "is not in this program, which was built without the feature workload-api"))
}

fn workload_api(raw: WorkloadApiSection) -> Result<Option<WorkloadApi>, Fault> {
    let WorkloadApiSection { socket, mode } = raw;
    let Some(socket) = socket else {
        return match mode {
            None => Ok(None),
            Some(_) => Err(Fault::new(
                "workloadApi.socket",
                "is missing; say where to listen, such as /run/pillion/workload.sock",
            )),
        };
    };
    built_in("workloadApi")?;
    let socket = path("workloadApi.socket", socket)?;
    Ok(Some(WorkloadApi { socket, mode: mode.map_or(0o660, |mode| mode.0) }))
}

fn federation(raw: Vec<FederationItem>) -> Result<Vec<Federated>, Fault> {
    let mut federation: Vec<Federated> = Vec::new();
    for (n, item) in raw.into_iter().enumerate() {
        let FederationItem { trust_domain, bundle } = item;
        if federation.iter().any(|other| other.trust_domain == trust_domain) {
            return Err(Fault::new(
                format!("federation[{n}].trustDomain"),
                format!("{trust_domain} stands there twice; keep one"),
            ));
        }
        let bundle = federated_bundle(&format!("federation[{n}].bundle"), bundle)?;
        federation.push(Federated { trust_domain, bundle });
    }
    Ok(federation)
}

fn federated_bundle(at: &str, raw: FederatedBundleSection) -> Result<BundleSource, Fault> {
    let fault = |name: &str, message: &str| Err(Fault::new(format!("{at}.{name}"), message));
    let FederatedBundleSection { file, endpoint, profile, endpoint_spiffe_id, ca_file } = raw;
    let file = file.map(|file| path(&format!("{at}.file"), file)).transpose()?;
    let ca_file = ca_file.map(|file| path(&format!("{at}.caFile"), file)).transpose()?;
    let Some(url) = endpoint else {
        return match (file, profile, endpoint_spiffe_id, ca_file) {
            (Some(file), None, None, None) => Ok(BundleSource::File(file)),
            (None, None, None, None) => fault("file", "is missing; name a file, or an endpoint"),
            _ => fault("endpoint", "is missing; it goes with profile, endpointSpiffeId and caFile"),
        };
    };
    let trust = match (profile, endpoint_spiffe_id) {
        (None, _) => {
            return fault(
                "profile",
                "is missing; say how the endpoint proves itself, by https_web or https_spiffe",
            );
        }
        (Some(EndpointProfile::HttpsWeb), Some(_)) => {
            return fault(
                "endpointSpiffeId",
                "is for the profile https_spiffe; leave it out, or change the profile",
            );
        }
        (Some(EndpointProfile::HttpsWeb), None) if file.is_some() => {
            return fault("file", "is for the profile https_spiffe, or instead of an endpoint; leave it out");
        }
        (Some(EndpointProfile::HttpsWeb), None) => EndpointTrust::Web { ca_file },
        (Some(EndpointProfile::HttpsSpiffe), None) => {
            return fault("endpointSpiffeId", "is missing; name the SPIFFE ID of the endpoint's certificate");
        }
        (Some(EndpointProfile::HttpsSpiffe), Some(_)) if ca_file.is_some() => {
            return fault("caFile", "is for the profile https_web; leave it out");
        }
        (Some(EndpointProfile::HttpsSpiffe), Some(id)) => EndpointTrust::Spiffe { id, first: file },
    };
    Ok(BundleSource::Endpoint(Endpoint { host: url.host, port: url.port, path: url.path, trust }))
}

fn ca(raw: CaSection) -> Result<CaSource, Fault> {
    let missing =
        |name: &str, cure: &str| Fault::new(format!("identity.ca.{name}"), format!("is missing; {cure}"));
    let address = raw.address.ok_or_else(|| missing("address", "name the CA, such as https://ca:15012"))?;
    let token_file = raw
        .token_file
        .ok_or_else(|| missing("tokenFile", "name the file with the token that `pillion-ca token` made"))?;
    let bundle_file = raw.bundle_file.ok_or_else(|| {
        missing("bundleFile", "name the file with the CA's roots; the proxy trusts no CA unseen")
    })?;
    let ttl = or_seconds(raw.ttl, 24 * 60 * 60);
    if ttl.subsec_nanos() != 0 {
        return Err(Fault::new(
            "identity.ca.ttl",
            format!("{} is no lifetime of a certificate; write whole seconds, 1s or more", Period(ttl)),
        ));
    }
    Ok(CaSource {
        host: address.host,
        port: address.port,
        token_file: path("identity.ca.tokenFile", token_file)?,
        bundle_file: path("identity.ca.bundleFile", bundle_file)?,
        key_type: key_type(raw.key_type.unwrap_or(KeyTypeWord::EcdsaP256)),
        ttl,
    })
}

fn key_type(word: KeyTypeWord) -> KeyType {
    match word {
        KeyTypeWord::EcdsaP256 => KeyType::EcdsaP256,
        KeyTypeWord::EcdsaP384 => KeyType::EcdsaP384,
        KeyTypeWord::Rsa2048 => KeyType::Rsa2048,
        KeyTypeWord::Rsa4096 => KeyType::Rsa4096,
        KeyTypeWord::Ed25519 => KeyType::Ed25519,
    }
}

fn files(raw: FilesSection) -> Result<FileSource, Fault> {
    let file = |name: &str, value: Option<PathBuf>| {
        let name = format!("identity.files.{name}");
        let value = value.ok_or_else(|| {
            Fault::new(&name, "is missing; identity.files needs certificate, key and bundle, each a PEM file")
        })?;
        path(&name, value)
    };
    Ok(FileSource {
        certificate: file("certificate", raw.certificate)?,
        key: file("key", raw.key)?,
        bundle: file("bundle", raw.bundle)?,
    })
}

fn inbound(raw: InboundSection) -> Result<Inbound, Fault> {
    let listeners: Vec<_> = raw
        .listeners
        .into_iter()
        .map(|item| InboundListener { address: item.address.0, forward: item.forward.0 })
        .collect();
    for (n, listener) in listeners.iter().enumerate() {
        if listener.forward.port() == 0 {
            return Err(Fault::new(
                format!("inbound.listeners[{n}].forward"),
                format!("{} has no port; name the one that the app listens on", listener.forward),
            ));
        }
    }
    Ok(Inbound {
        capture: raw.capture.map(|address| address.0),
        tunnel: raw.tunnel.map(|address| address.0),
        listeners,
        traffic_policy: raw.traffic_policy.unwrap_or(TrafficPolicy::Passthrough),
        trusted_proxies: raw.trusted_proxies,
    })
}

fn outbound(raw: OutboundSection) -> Outbound {
    let listeners = raw
        .listeners
        .into_iter()
        .map(|item| OutboundListener {
            address: item.address.0,
            host: item.destination.host,
            port: item.destination.port,
        })
        .collect();
    Outbound { capture: raw.capture.map(|address| address.0), listeners }
}

fn gateway(raw: GatewaySection) -> Result<Option<Gateway>, Fault> {
    let mut ports = raw.ports;
    ports.extend(raw.port_flags.into_iter().map(|pair| (pair.of_gateway, pair.bound)));
    let Some(address) = raw.address else {
        if ports.is_empty() {
            return Ok(None);
        }
        return Err(Fault::new("gateway.address", "is missing; say where to listen, such as 0.0.0.0"));
    };
    Ok(Some(Gateway { address, ports }))
}

fn interception(raw: &InterceptionSection) -> Result<Interception, Fault> {
    let mode = raw.mode.unwrap_or(InterceptionMode::Redirect);
    let mark = match (raw.mark, mode) {
        (Some(0), _) => {
            return Err(Fault::new(
                "interception.mark",
                "0 marks nothing; write another number, or leave it out",
            ));
        }
        (None, InterceptionMode::Tproxy) => Some(TPROXY_MARK),
        (mark, _) => mark,
    };
    Ok(Interception { mode, mark })
}

fn limits(raw: &LimitsSection) -> Result<Limits, Fault> {
    let max_connections = raw.max_connections.unwrap_or(10_000);
    if max_connections == 0 {
        return Err(Fault::new("limits.maxConnections", "0 would refuse every connection; write 1 or more"));
    }
    let hello_size = raw.hello_size.unwrap_or(MAX_HELLO_SIZE);
    if !(MIN_HELLO_SIZE..=MAX_HELLO_SIZE).contains(&hello_size) {
        return Err(Fault::new(
            "limits.helloSize",
            format!("{hello_size} is out of range; write {MIN_HELLO_SIZE} to {MAX_HELLO_SIZE} bytes"),
        ));
    }
    let request_head_size = raw.request_head_size.unwrap_or(60 * 1024);
    if !(MIN_HEAD_SIZE..=MAX_HEAD_SIZE).contains(&request_head_size) {
        return Err(Fault::new(
            "limits.requestHeadSize",
            format!("{request_head_size} is out of range; write {MIN_HEAD_SIZE} to {MAX_HEAD_SIZE} bytes"),
        ));
    }
    Ok(Limits {
        max_connections: count(max_connections),
        handshake_timeout: or_seconds(raw.handshake_timeout, 10),
        hello_size: count(hello_size),
        request_head_size: count(request_head_size),
        request_head_timeout: or_seconds(raw.request_head_timeout, 30),
        connect_timeout: or_seconds(raw.connect_timeout, 10),
        keepalive: keepalive(&raw.keepalive)?,
    })
}

fn tunnels(raw: &TunnelsSection) -> Result<Tunnels, Fault> {
    let number = |name: &str, number: Option<u32>, default: u32, most: u32| match number.unwrap_or(default) {
        number if (1..=most).contains(&number) => Ok(count(number)),
        number => {
            Err(Fault::new(format!("tunnels.{name}"), format!("{number} is out of range; write 1 to {most}")))
        }
    };
    Ok(Tunnels {
        max_streams: number("maxStreams", raw.max_streams, 100, MAX_STREAMS)?,
        max_tunnels: number("maxTunnels", raw.max_tunnels, 1_000, MAX_TUNNELS)?,
        idle_timeout: or_seconds(raw.idle_timeout, 5 * 60),
    })
}

/// A `u32` as a count; where a `usize` is smaller, as many as there can be.
fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn keepalive(raw: &KeepaliveSection) -> Result<Keepalive, Fault> {
    let period = |name: &str, period: Option<Period>| {
        let duration = or_seconds(period, 180);
        if duration < Duration::from_secs(1) || duration > MAX_KEEPALIVE || duration.subsec_nanos() != 0 {
            return Err(Fault::new(
                format!("limits.keepalive.{name}"),
                format!("{} is out of range; TCP counts whole seconds, 1s to 32767s", Period(duration)),
            ));
        }
        Ok(duration)
    };
    let retries = raw.retries.unwrap_or(9);
    if !(1..=MAX_KEEPALIVE_RETRIES).contains(&retries) {
        return Err(Fault::new(
            "limits.keepalive.retries",
            format!("{retries} is out of range; write 1 to {MAX_KEEPALIVE_RETRIES}"),
        ));
    }
    Ok(Keepalive { time: period("time", raw.time)?, interval: period("interval", raw.interval)?, retries })
}

fn hurry(raw: &TimeSection) -> Result<Option<Hurry>, Fault> {
    let origin = raw.origin.map(|moment| moment.0);
    match raw.scale {
        Some(factor) => Hurry::new(factor, origin)
            .map(Some)
            .map_err(|fault| Fault::new("time.scale", format!("is out of range: {fault}"))),
        None if origin.is_some() => Err(Fault::new(
            "time.origin",
            "hurries nothing without time.scale; add a factor, such as 2880, or leave it out",
        )),
        None => Ok(None),
    }
}

/// What only shows when all sections are known.
fn between_sections(settings: &Settings) -> Vec<Fault> {
    let mut faults = clashes(&settings.bound_addresses());
    faults.extend(foreign(settings));
    faults.extend(loops(settings));
    if settings.interception.mode == InterceptionMode::Tproxy && settings.inbound.capture.is_none() {
        faults.push(Fault::new(
            "interception.mode",
            "TPROXY needs inbound.capture, which is off; add inbound.capture: 0.0.0.0:15006, or leave the mode out",
        ));
    }
    faults
}

/// A sidecar that nobody can reach.
fn of_proxy(settings: &Settings) -> Option<Fault> {
    taking_in(settings).is_none().then(|| {
        Fault::new(
            "inbound",
            "takes in no connection, and neither do outbound and gateway; set a capture, list a listener or set gateway.address",
        )
    })
}

/// An agent that does more than keep and serve an identity, or less.
fn of_agent(settings: &Settings) -> Vec<Fault> {
    let mut faults = Vec::new();
    if let Some(name) = taking_in(settings) {
        faults.push(Fault::new(
            name,
            "is a sidecar's, an agent takes in no connection; leave it out, or run pillion-proxy",
        ));
    }
    if settings.mesh.is_some() {
        faults.push(Fault::new(
            "mesh",
            "is a sidecar's, an agent applies no policy; leave it out, or run pillion-proxy",
        ));
    }
    if settings.tls.key_log.is_some() {
        faults.push(Fault::new(
            "tls.keyLogFile",
            "is a sidecar's, an agent has no traffic to look into; leave it out, or run pillion-proxy",
        ));
    }
    if settings.workload_api.is_none() {
        faults.push(Fault::new(
            "workloadApi.socket",
            "is missing; say where an agent serves the identity, such as /run/pillion/workload.sock",
        ));
    }
    faults
}

/// The first setting by which connections are taken in.
fn taking_in(settings: &Settings) -> Option<&'static str> {
    let Settings { inbound, outbound, gateway, .. } = settings;
    let takes_in = inbound.capture.is_some() || inbound.tunnel.is_some() || !inbound.listeners.is_empty();
    let settings = [
        (takes_in, "inbound"),
        (outbound.capture.is_some() || !outbound.listeners.is_empty(), "outbound"),
        (gateway.is_some(), "gateway"),
    ];
    settings.into_iter().find_map(|(takes_in, name)| takes_in.then_some(name))
}

/// A trust domain of the federation that is our own, or an endpoint that nobody can vouch for.
fn foreign(settings: &Settings) -> Vec<Fault> {
    let own = &settings.workload.trust_domain;
    let mut faults = Vec::new();
    for (n, federated) in settings.federation.iter().enumerate() {
        let trust_domain = &federated.trust_domain;
        if trust_domain == own || settings.mesh_config.trust_domain_aliases.contains(trust_domain) {
            faults.push(Fault::new(
                format!("federation[{n}].trustDomain"),
                format!("{trust_domain} is our own, whose bundle comes with the identity; leave it out"),
            ));
        }
        let BundleSource::Endpoint(Endpoint { trust: EndpointTrust::Spiffe { id, first }, .. }) =
            &federated.bundle
        else {
            continue;
        };
        let of_endpoint = id.trust_domain();
        let known =
            of_endpoint == *own || settings.federation.iter().any(|other| other.trust_domain == of_endpoint);
        if first.is_none() && (of_endpoint == *trust_domain || !known) {
            faults.push(Fault::new(
                format!("federation[{n}].bundle.file"),
                format!("is missing; name a file with the bundle of {of_endpoint}, by which to believe the endpoint at first"),
            ));
        }
    }
    faults
}

/// Two listeners on one address.
fn clashes(bound: &[(String, SocketAddr)]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (n, (path, address)) in bound.iter().enumerate() {
        let earlier = bound.iter().take(n).find(|(_, other)| overlap(*address, *other));
        if let Some((other_path, other)) = earlier {
            faults.push(Fault::new(
                path,
                format!("{address} is taken by {other_path} ({other}); give it another port"),
            ));
        }
    }
    faults
}

/// Whether the kernel would refuse the second of two listeners. `[::]` takes in IPv4 as well.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |wide: IpAddr, narrow: IpAddr| {
        wide.is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4()) || wide == narrow
    };
    a.port() == b.port() && a.port() != 0 && (covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}

/// An explicit listener that would forward to the proxy itself, past what it shall enforce. An address of this host
/// that the settings do not name is caught when the connection is made.
fn loops(settings: &Settings) -> Vec<Fault> {
    let bound = settings.bound_addresses();
    let mut faults = Vec::new();
    for (n, listener) in settings.inbound.listeners.iter().enumerate() {
        let forward = listener.forward;
        let ip = forward.ip().to_canonical();
        let own = bound.iter().find(|(_, address)| {
            address.port() == forward.port()
                && (ip.is_loopback() || ip.is_unspecified() || ip == address.ip().to_canonical())
        });
        if let Some((path, _)) = own {
            faults.push(Fault::new(
                format!("inbound.listeners[{n}].forward"),
                format!("{forward} is the proxy's own {path}; forward to the port that the app listens on"),
            ));
        }
    }
    faults
}
