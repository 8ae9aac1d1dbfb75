//! Settings as typed (`Document`, and `Overrides` from flags and environment) and as checked ([`Settings`]).
//!
//! Checking reads nothing but what it is given; whether folders and files are as they should be shows at start.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pillion_mesh::duration;
use pillion_mesh::signers::Policy;
use pillion_mesh::spiffe::{SpiffeId, TrustDomain};
use pillion_mesh::wire::rfc3339;
use pillion_mesh::yaml::{self, YamlError};
use rustls_pki_types::ServerName;
use serde::de::{self, IntoDeserializer};
use serde::{Deserialize, Deserializer};

use crate::attest::jwt;
use crate::authority::WorkloadTtl;
use crate::clock::{Clock, Hurry};
use crate::external::ExternalFiles;
use crate::files::Owner;
use crate::slots::{RootKey, RootPlan};
use crate::store;

const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
const DEFAULT_STATE: &str = "/var/lib/pillion-ca";
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15012);
const DEFAULT_MONITORING: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15014);
/// A file larger than this is no configuration.
const MAX_BYTES: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How far clocks may be apart, the CA's own from one day to the next included: an hour either way, and one to spare.
const SKEW: Duration = Duration::from_secs(3 * 60 * 60);
/// For how long the CA serves before a rotation counts on it that all have asked: several times the longest that a proxy
/// waits between two tries.
const SETTLE: Duration = Duration::from_secs(15 * 60);
/// The same in hurried time, in which proxies wait for less.
const LEAST_SETTLE: Duration = Duration::from_secs(5);

/// What the CA runs by, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) trust_domain: TrustDomain,
    /// The HTTPS API.
    pub(crate) listen: SocketAddr,
    /// The names and addresses in the CA's own server certificate.
    pub(crate) dns_names: Vec<ServerName<'static>>,
    /// The state folder.
    pub(crate) state: PathBuf,
    /// Metrics and readiness, plain HTTP.
    pub(crate) monitoring: SocketAddr,
    pub(crate) workload_ttl: WorkloadTtl,
    /// Where the trust bundle is written for others to mount.
    pub(crate) bundle_file: Option<PathBuf>,
    pub(crate) registrations: Vec<Registration>,
    /// Whose JSON Web Tokens count.
    pub(crate) issuers: Vec<jwt::Issuer>,
    /// How long a token in a file counts; it is replaced at half of that. None: as long as its file.
    pub(crate) token_life: Option<Duration>,
    pub(crate) limits: Limits,
    pub(crate) rotation: Rotation,
    /// Somebody else's signing certificate, in the place of a root of our own.
    pub(crate) signer: Option<ExternalFiles>,
    /// The time that certificates live in, where it is not the world's.
    pub(crate) hurry: Option<Hurry>,
}

/// Who may have an identity, and where its token is delivered.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Registration {
    pub(crate) id: SpiffeId,
    /// Absent: tokens are handed out by `pillion-ca token create` alone.
    #[serde(default)]
    pub(crate) token_file: Option<PathBuf>,
    /// The user, and group, that the token file is given to; absent: the one the CA runs as.
    #[serde(default, deserialize_with = "owner")]
    pub(crate) owner: Option<Owner>,
}

/// Bounds of the HTTPS API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Connections served at the same time; more wait in the kernel's backlog.
    pub(crate) connections: usize,
    /// From accept to the last byte of the answer, TLS handshake included.
    pub(crate) request_timeout: Duration,
    /// CSRs from one address in a minute, and as many at once; 0 for any number.
    pub(crate) address_per_minute: u32,
    /// CSRs for one identity in a minute, and as many at once; 0 for any number.
    pub(crate) identity_per_minute: u32,
}

/// How roots are made and replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// Whether roots are replaced by age; else by `pillion-ca root` alone.
    pub(crate) automatic: bool,
    pub(crate) root: RootPlan,
    /// The least time that a root is published before it signs.
    pub(crate) publish_ahead: Duration,
}

impl Rotation {
    /// The policy by a clock: the time that proxies need to ask is the network's, and never less than a few seconds of it.
    pub(crate) fn policy(&self, clock: Clock) -> Policy {
        Policy {
            publish_ahead: self.publish_ahead,
            skew: SKEW,
            settle: SETTLE.max(clock.passed(LEAST_SETTLE)),
        }
    }
}
/// A mesh on one machine, or behind one address, can start all of its workloads at once.
pub(crate) const DEFAULT_ADDRESS_PER_MINUTE: u32 = 1200;
/// A service can start all of its copies at once.
pub(crate) const DEFAULT_IDENTITY_PER_MINUTE: u32 = 600;

/// Settings that cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("cannot read {path}: {source}; --config names a readable YAML file", path = path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Yaml(#[from] YamlError),
    #[error("{0}: {1}")]
    Field(&'static str, String),
}

/// The file.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Document {
    trust_domain: Option<TrustDomain>,
    #[serde(deserialize_with = "address")]
    listen: Option<SocketAddr>,
    dns_names: Option<Vec<String>>,
    state: Option<PathBuf>,
    #[serde(deserialize_with = "address")]
    monitoring: Option<SocketAddr>,
    workload_ttl: TtlDocument,
    bundle_file: Option<PathBuf>,
    registrations: Vec<Registration>,
    attestation: AttestationDocument,
    tokens: TokensDocument,
    limits: LimitsDocument,
    rotation: RotationDocument,
    time: TimeDocument,
    signer: SignerDocument,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct SignerDocument {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    chain: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct TtlDocument {
    #[serde(deserialize_with = "duration")]
    default: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    max: Option<Duration>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct AttestationDocument {
    jwt: Vec<jwt::Issuer>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct LimitsDocument {
    connections: Option<usize>,
    #[serde(deserialize_with = "duration")]
    request_timeout: Option<Duration>,
    address_per_minute: Option<u32>,
    identity_per_minute: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct TokensDocument {
    #[serde(deserialize_with = "duration")]
    life: Option<Duration>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RotationDocument {
    automatic: Option<bool>,
    root_key_type: Option<RootKey>,
    #[serde(deserialize_with = "duration")]
    root_life: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    intermediate_life: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    publish_ahead: Option<Duration>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct TimeDocument {
    scale: Option<u32>,
    #[serde(deserialize_with = "moment")]
    origin: Option<SystemTime>,
}

/// Serde's `deserialize_with` for an optional moment.
fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    parse_moment(&String::deserialize(deserializer)?).map(Some).map_err(de::Error::custom)
}

fn parse_moment(text: &str) -> Result<SystemTime, String> {
    let read: de::value::StrDeserializer<'_, de::value::Error> = text.into_deserializer();
    rfc3339::deserialize(read)
        .map_err(|_syntax| format!("`{text}` is not a time; write it as 2026-11-26T00:00:00Z"))
}

/// Serde's `deserialize_with` for an optional duration.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration::parse(&text).map(Some).map_err(de::Error::custom)
}

/// Serde's `deserialize_with` for an optional address.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    parse_address(&String::deserialize(deserializer)?).map(Some).map_err(de::Error::custom)
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let fault = "is not an address with a port; write it as 0.0.0.0:15012 or [::1]:15012, names are not looked up here";
    text.parse().map_err(|_syntax| format!("`{text}` {fault}"))
}

/// Single settings that a flag or an environment variable gives in the place of the file.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Settings in place of the file's")]
pub(crate) struct Overrides {
    /// trustDomain: the trust domain whose identities are signed [default: cluster.local]
    #[arg(long, env = "PILLION_CA_TRUST_DOMAIN", value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    /// listen: address of the HTTPS API [default: 0.0.0.0:15012]
    #[arg(long, env = "PILLION_CA_LISTEN", value_name = "ADDRESS:PORT", value_parser = parse_address)]
    listen: Option<SocketAddr>,
    /// dnsNames: names and addresses in the CA's own server certificate [default: localhost]
    #[arg(long, env = "PILLION_CA_DNS_NAMES", value_name = "NAME,…", value_delimiter = ',')]
    dns_names: Option<Vec<String>>,
    /// state: the folder of keys and records [default: /var/lib/pillion-ca]
    #[arg(long, env = "PILLION_CA_STATE", value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// monitoring: address of metrics and readiness [default: 0.0.0.0:15014]
    #[arg(long, env = "PILLION_CA_MONITORING", value_name = "ADDRESS:PORT", value_parser = parse_address)]
    monitoring: Option<SocketAddr>,
    /// workloadTtl.default: lifetime of a certificate where the request asks for none [default: 24h]
    #[arg(long, env = "PILLION_CA_WORKLOAD_TTL_DEFAULT", value_name = "DURATION", value_parser = duration::parse)]
    workload_ttl_default: Option<Duration>,
    /// workloadTtl.max: longest lifetime of a certificate [default: 90d]
    #[arg(long, env = "PILLION_CA_WORKLOAD_TTL_MAX", value_name = "DURATION", value_parser = duration::parse)]
    workload_ttl_max: Option<Duration>,
    /// bundleFile: where the trust bundle is written [default: nowhere]
    #[arg(long, env = "PILLION_CA_BUNDLE_FILE", value_name = "FILE")]
    bundle_file: Option<PathBuf>,
    /// limits.connections: connections served at the same time [default: 512]
    #[arg(long, env = "PILLION_CA_LIMITS_CONNECTIONS", value_name = "NUMBER")]
    limits_connections: Option<usize>,
    /// limits.requestTimeout: from accept to the last byte of the answer [default: 10s]
    #[arg(long, env = "PILLION_CA_LIMITS_REQUEST_TIMEOUT", value_name = "DURATION", value_parser = duration::parse)]
    limits_request_timeout: Option<Duration>,
    /// tokens.life: how long a token in a file counts, which is replaced at half of that [default: as long as its file]
    #[arg(long, env = "PILLION_CA_TOKENS_LIFE", value_name = "DURATION", value_parser = duration::parse)]
    tokens_life: Option<Duration>,
    /// signer.certificate: somebody else's signing certificate, in the place of a root of our own [default: none]
    #[arg(long, env = "PILLION_CA_SIGNER_CERTIFICATE", value_name = "FILE")]
    signer_certificate: Option<PathBuf>,
    /// signer.key: its key
    #[arg(long, env = "PILLION_CA_SIGNER_KEY", value_name = "FILE")]
    signer_key: Option<PathBuf>,
    /// signer.chain: the certificates above it, roots included
    #[arg(long, env = "PILLION_CA_SIGNER_CHAIN", value_name = "FILE")]
    signer_chain: Option<PathBuf>,
    /// rotation.automatic: replace roots by age; else `pillion-ca root` alone does [default: true]
    #[arg(long, env = "PILLION_CA_ROTATION_AUTOMATIC", value_name = "BOOL")]
    rotation_automatic: Option<bool>,
    /// rotation.rootKeyType: the key of a new root [default: ecdsa-p256]
    #[arg(long, env = "PILLION_CA_ROTATION_ROOT_KEY_TYPE", value_name = "TYPE")]
    rotation_root_key_type: Option<RootKey>,
    /// rotation.rootLife: how long a new root is valid [default: 3650d]
    #[arg(long, env = "PILLION_CA_ROTATION_ROOT_LIFE", value_name = "DURATION", value_parser = duration::parse)]
    rotation_root_life: Option<Duration>,
    /// rotation.intermediateLife: sign by an intermediate under the root that is valid for so long [default: none]
    #[arg(long, env = "PILLION_CA_ROTATION_INTERMEDIATE_LIFE", value_name = "DURATION", value_parser = duration::parse)]
    rotation_intermediate_life: Option<Duration>,
    /// rotation.publishAhead: least time that a root is published before it signs [default: 24h]
    #[arg(long, env = "PILLION_CA_ROTATION_PUBLISH_AHEAD", value_name = "DURATION", value_parser = duration::parse)]
    rotation_publish_ahead: Option<Duration>,
    /// time.scale: how many times as fast as the world's the time runs that certificates live in, for lessons and tests
    #[arg(long, env = "PILLION_CA_TIME_SCALE", value_name = "FACTOR")]
    time_scale: Option<u32>,
    /// time.origin: since when it does; the same for the CA and its proxies [default: the start of the process]
    #[arg(long, env = "PILLION_CA_TIME_ORIGIN", value_name = "TIME", value_parser = parse_moment)]
    time_origin: Option<SystemTime>,
    /// limits.addressPerMinute: CSRs from one address, 0 for any number [default: 1200]
    #[arg(long, env = "PILLION_CA_LIMITS_ADDRESS_PER_MINUTE", value_name = "NUMBER")]
    limits_address_per_minute: Option<u32>,
    /// limits.identityPerMinute: CSRs for one identity, 0 for any number [default: 600]
    #[arg(long, env = "PILLION_CA_LIMITS_IDENTITY_PER_MINUTE", value_name = "NUMBER")]
    limits_identity_per_minute: Option<u32>,
}

impl Settings {
    /// Reads the file, lets the overrides have their say, and checks the whole.
    pub(crate) fn load(path: &Path, overrides: Overrides) -> Result<Self, SettingsError> {
        let text =
            read(path).map_err(|source| SettingsError::Unreadable { path: path.to_owned(), source })?;
        Settings::parse(&path.display().to_string(), &text, overrides)
    }

    fn parse(source_name: &str, text: &str, overrides: Overrides) -> Result<Self, SettingsError> {
        Settings::check(yaml::read(source_name, text)?, overrides)
    }

    fn check(document: Document, overrides: Overrides) -> Result<Self, SettingsError> {
        let limits = check_limits(&overrides, &document.limits)?;
        let trust_domain = match overrides.trust_domain.or(document.trust_domain) {
            Some(trust_domain) => trust_domain,
            None => DEFAULT_TRUST_DOMAIN.parse().map_err(|error| field("trustDomain", error))?,
        };
        let bundle_file = overrides.bundle_file.or(document.bundle_file);
        check_registrations(&document.registrations, &trust_domain, bundle_file.as_deref())?;
        check_issuers(&document.attestation.jwt)?;
        let state = overrides.state.or(document.state).unwrap_or_else(|| DEFAULT_STATE.into());
        let tokens =
            document.registrations.iter().filter_map(|registration| registration.token_file.as_deref());
        check_outside_state(&state, tokens.chain(bundle_file.as_deref()))?;
        let listen = overrides.listen.or(document.listen).unwrap_or(DEFAULT_LISTEN);
        let monitoring = overrides.monitoring.or(document.monitoring).unwrap_or(DEFAULT_MONITORING);
        if listen == monitoring && listen.port() != 0 {
            return Err(field(
                "monitoring",
                format_args!("{listen} is taken by listen; give it another port"),
            ));
        }
        let workload_ttl = check_ttl(
            overrides.workload_ttl_default.or(document.workload_ttl.default),
            overrides.workload_ttl_max.or(document.workload_ttl.max),
        )?;
        let rotation = RotationDocument {
            automatic: overrides.rotation_automatic.or(document.rotation.automatic),
            root_key_type: overrides.rotation_root_key_type.or(document.rotation.root_key_type),
            root_life: overrides.rotation_root_life.or(document.rotation.root_life),
            intermediate_life: overrides.rotation_intermediate_life.or(document.rotation.intermediate_life),
            publish_ahead: overrides.rotation_publish_ahead.or(document.rotation.publish_ahead),
        };
        Ok(Settings {
            trust_domain,
            listen,
            dns_names: check_names(overrides.dns_names.or(document.dns_names))?,
            state,
            monitoring,
            workload_ttl,
            rotation: check_rotation(&rotation, workload_ttl)?,
            signer: check_signer(
                overrides.signer_certificate.or(document.signer.certificate),
                overrides.signer_key.or(document.signer.key),
                overrides.signer_chain.or(document.signer.chain),
            )?,
            bundle_file,
            registrations: document.registrations,
            issuers: document.attestation.jwt,
            token_life: check_token_life(overrides.tokens_life.or(document.tokens.life))?,
            limits,
            hurry: check_time(
                overrides.time_scale.or(document.time.scale),
                overrides.time_origin.or(document.time.origin),
            )?,
        })
    }
}

/// The file as text. What goes on for ever, such as a device, is not read to its end.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(text)
}

fn check_names(names: Option<Vec<String>>) -> Result<Vec<ServerName<'static>>, SettingsError> {
    let names = names.unwrap_or_else(|| vec!["localhost".to_owned()]);
    if names.is_empty() {
        return Err(field("dnsNames", "expected at least one name, by which workloads dial the CA"));
    }
    let parse = |name: String| {
        ServerName::try_from(name.clone())
            .map_err(|_| field("dnsNames", format_args!("{name:?} is neither a DNS name nor an IP address")))
    };
    names.into_iter().map(parse).collect()
}

fn check_ttl(default: Option<Duration>, max: Option<Duration>) -> Result<WorkloadTtl, SettingsError> {
    let max = max.unwrap_or(90 * DAY);
    let default = default.unwrap_or_else(|| DAY.min(max));
    if default < Duration::from_secs(1) {
        return Err(field("workloadTtl.default", "expected at least 1s"));
    }
    if default > max {
        return Err(field("workloadTtl.default", "is longer than workloadTtl.max"));
    }
    Ok(WorkloadTtl { default, max })
}

fn check_rotation(document: &RotationDocument, ttl: WorkloadTtl) -> Result<Rotation, SettingsError> {
    let life = document.root_life.unwrap_or(3650 * DAY);
    let publish_ahead = document.publish_ahead.unwrap_or(DAY);
    // Until it is known by all, until it is replaced, and until nothing of it is valid.
    let least = 3 * (publish_ahead.max(ttl.max) + SKEW);
    if life < least {
        let least = duration::print(least);
        return Err(field(
            "rotation.rootLife",
            format_args!(
                "expected at least {least}, thrice the longest of workloadTtl.max and publishAhead; make those shorter or this longer"
            ),
        ));
    }
    let intermediate = document.intermediate_life;
    if intermediate.is_some_and(|life| life < 2 * ttl.default) {
        let least = duration::print(2 * ttl.default);
        return Err(field(
            "rotation.intermediateLife",
            format_args!(
                "expected at least {least}, twice workloadTtl.default; what an intermediate signs ends with it"
            ),
        ));
    }
    let root = RootPlan { key: document.root_key_type.unwrap_or_default(), life, intermediate };
    Ok(Rotation { automatic: document.automatic.unwrap_or(true), root, publish_ahead })
}

fn check_token_life(life: Option<Duration>) -> Result<Option<Duration>, SettingsError> {
    match life {
        Some(life) if life < Duration::from_secs(60) => Err(field("tokens.life", "expected at least 1m")),
        life => Ok(life),
    }
}

fn check_signer(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    chain: Option<PathBuf>,
) -> Result<Option<ExternalFiles>, SettingsError> {
    match (certificate, key, chain) {
        (Some(certificate), Some(key), chain) => Ok(Some(ExternalFiles { certificate, key, chain })),
        (None, None, None) => Ok(None),
        (None, ..) => {
            Err(field("signer.certificate", "is missing; an external signer has a certificate and a key"))
        }
        (_, None, _) => {
            Err(field("signer.key", "is missing; an external signer has a certificate and a key"))
        }
    }
}

fn check_limits(overrides: &Overrides, document: &LimitsDocument) -> Result<Limits, SettingsError> {
    let connections = overrides.limits_connections.or(document.connections).unwrap_or(512);
    let timeout = overrides.limits_request_timeout.or(document.request_timeout);
    let request_timeout = timeout.unwrap_or(Duration::from_secs(10));
    let address = overrides.limits_address_per_minute.or(document.address_per_minute);
    let identity = overrides.limits_identity_per_minute.or(document.identity_per_minute);
    if !(1..=100_000).contains(&connections) {
        return Err(field("limits.connections", "expected 1 to 100000"));
    }
    if request_timeout < Duration::from_millis(10) || request_timeout > Duration::from_secs(300) {
        return Err(field("limits.requestTimeout", "expected 10ms to 5m"));
    }
    Ok(Limits {
        connections,
        request_timeout,
        address_per_minute: address.unwrap_or(DEFAULT_ADDRESS_PER_MINUTE),
        identity_per_minute: identity.unwrap_or(DEFAULT_IDENTITY_PER_MINUTE),
    })
}

fn check_time(scale: Option<u32>, origin: Option<SystemTime>) -> Result<Option<Hurry>, SettingsError> {
    match scale {
        Some(factor) => Hurry::new(factor, origin).map(Some).map_err(|error| field("time.scale", error)),
        None if origin.is_some() => Err(field(
            "time.origin",
            "hurries nothing without time.scale; add a factor, such as 2880, or leave it out",
        )),
        None => Ok(None),
    }
}

fn check_registrations(
    registrations: &[Registration],
    trust_domain: &TrustDomain,
    bundle_file: Option<&Path>,
) -> Result<(), SettingsError> {
    let mut ids = BTreeSet::new();
    let mut files: BTreeSet<&Path> = bundle_file.into_iter().collect();
    for Registration { id, token_file, .. } in registrations {
        if id.trust_domain() != *trust_domain {
            return Err(field(
                "registrations",
                format_args!("{id} is not of the trust domain {trust_domain}"),
            ));
        }
        if !ids.insert(id) {
            return Err(field("registrations", format_args!("{id} is registered twice")));
        }
        if let Some(path) = token_file
            && !files.insert(path)
        {
            let path = path.display();
            return Err(field("registrations", format_args!("two files would be written to {path}")));
        }
    }
    Ok(())
}

fn check_issuers(issuers: &[jwt::Issuer]) -> Result<(), SettingsError> {
    const NAME: &str = "attestation.jwt";
    let mut names = BTreeSet::new();
    for issuer in issuers {
        let name = &issuer.issuer;
        if name.is_empty() || issuer.audience.is_empty() {
            return Err(field(NAME, "expected an issuer and an audience that are not empty"));
        }
        if !names.insert(name) {
            return Err(field(NAME, format_args!("the issuer {name:?} stands there twice")));
        }
        issuer.jwks.check().map_err(|fault| field(NAME, format_args!("jwks of {name:?}: {fault}")))?;
    }
    Ok(())
}

/// What is written for others must not replace the CA's own key or records.
fn check_outside_state<'a>(
    state: &Path,
    mut files: impl Iterator<Item = &'a Path>,
) -> Result<(), SettingsError> {
    let own = store::own_paths(state);
    let inside = files.find(|file| own.iter().any(|own| file.starts_with(own)));
    inside.map_or(Ok(()), |file| {
        let file = file.display();
        Err(field(
            "state",
            format_args!("{file} would be written among the CA's own files; write it elsewhere"),
        ))
    })
}

fn field(name: &'static str, fault: impl fmt::Display) -> SettingsError {
    SettingsError::Field(name, fault.to_string())
}

/// `UID`, as a number or a text, or `UID:GID`.
fn owner<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Owner>, D::Error> {
    struct OwnerVisitor;
    impl de::Visitor<'_> for OwnerVisitor {
        type Value = Owner;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a user ID, or a user and a group ID such as 1337:1337")
        }

        fn visit_u64<E: de::Error>(self, uid: u64) -> Result<Owner, E> {
            let uid = uid.try_into().map_err(|_| E::invalid_value(de::Unexpected::Unsigned(uid), &self))?;
            Ok(Owner { uid, gid: None })
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Owner, E> {
            let (uid, gid) = match text.split_once(':') {
                Some((uid, gid)) => (uid.parse(), Some(gid.parse()).transpose()),
                None => (text.parse(), Ok(None)),
            };
            match (uid, gid) {
                (Ok(uid), Ok(gid)) => Ok(Owner { uid, gid }),
                _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
            }
        }
    }
    deserializer.deserialize_any(OwnerVisitor).map(Some)
}

#[cfg(test)]
mod tests;
