//! Settings as typed: the shape of the YAML file, in which every scalar is a flag and an environment variable too.
//!
//! A flag is the value's path in kebab-case (`inbound.capture`: `--inbound-capture`), its variable the same in capitals
//! (`PILLION_INBOUND_CAPTURE`). Nothing is filled in or judged here; that is [`super::check`]'s.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use pillion_mesh::spiffe::{SpiffeId, TrustDomain};
use serde::Deserialize;

use super::value::{
    Address, Destination, HttpsOrigin, HttpsUrl, Label, MinVersion, Moment, Period, PortPair, SocketMode,
    UnixSocket,
};
use super::{InterceptionMode, LogFormat, OutboundTrafficPolicy, PolicyChange, TrafficPolicy};
use crate::tls::{Group, Suite};

/// All settings as typed, in one layer: the file's, or those of flags and environment.
#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(crate) struct RawSettings {
    #[command(flatten, next_help_heading = "Workload")]
    pub(super) workload: WorkloadSection,
    /// Namespace whose policies apply to the whole mesh [default: istio-system]
    #[arg(long, value_name = "NAMESPACE", env = "PILLION_ROOT_NAMESPACE", help_heading = "Policies")]
    pub(super) root_namespace: Option<String>,
    /// Another name of the trust domain, in policies and in certificates, for the time of a rename; repeat it, or separate
    /// by commas
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "PILLION_TRUST_DOMAIN_ALIASES",
        help_heading = "Policies"
    )]
    pub(super) trust_domain_aliases: Vec<TrustDomain>,
    #[command(flatten, next_help_heading = "Identity")]
    pub(super) identity: IdentitySection,
    #[command(flatten, next_help_heading = "Identity")]
    pub(super) workload_api: WorkloadApiSection,
    #[arg(skip)]
    pub(super) federation: Vec<FederationItem>,
    /// File or folder of Istio resources, watched and reloaded; without it there are no policies
    #[arg(long, value_name = "PATH", env = "PILLION_MESH", help_heading = "Policies")]
    pub(super) mesh: Option<PathBuf>,
    /// Open connections that a changed policy or trust bundle no longer allows: cut them, or keep them as Envoy does
    /// [default: close]
    #[arg(long, value_name = "ACTION", env = "PILLION_POLICY_CHANGE", help_heading = "Policies")]
    pub(super) policy_change: Option<PolicyChange>,
    #[command(flatten, next_help_heading = "Inbound, towards the app")]
    pub(super) inbound: InboundSection,
    #[command(flatten, next_help_heading = "Outbound, from the app")]
    pub(super) outbound: OutboundSection,
    #[command(flatten, next_help_heading = "Gateway, at the edge of the mesh")]
    pub(super) gateway: GatewaySection,
    #[command(flatten, next_help_heading = "Interception")]
    pub(super) interception: InterceptionSection,
    #[command(flatten, next_help_heading = "Own servers")]
    pub(super) admin: AdminSection,
    #[command(flatten, next_help_heading = "Own servers")]
    pub(super) readiness: ReadinessSection,
    #[command(flatten, next_help_heading = "Own servers")]
    pub(super) metrics: MetricsSection,
    #[command(flatten, next_help_heading = "Connections")]
    pub(super) tls: TlsSection,
    #[command(flatten, next_help_heading = "Connections")]
    pub(super) detection: DetectionSection,
    #[command(flatten, next_help_heading = "Connections")]
    pub(super) drain: DrainSection,
    #[command(flatten, next_help_heading = "Limits")]
    pub(super) limits: LimitsSection,
    #[command(flatten, next_help_heading = "Tunnels")]
    pub(super) tunnels: TunnelsSection,
    #[command(flatten, next_help_heading = "Names")]
    pub(super) dns: DnsSection,
    #[command(flatten, next_help_heading = "Logs")]
    pub(super) log: LogSection,
    #[command(flatten, next_help_heading = "Hurried time, for lessons and tests")]
    pub(super) time: TimeSection,
}

impl RawSettings {
    /// What these say wins; what they leave out, `under` says.
    pub(crate) fn over(self, under: RawSettings) -> RawSettings {
        Layer::over(self, under)
    }
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct WorkloadSection {
    /// What metrics and logs call the workload [default: its label `app`, else the service account]
    #[arg(id = "workload.name", long = "workload-name", value_name = "NAME", env = "PILLION_WORKLOAD_NAME")]
    pub(super) name: Option<String>,
    /// Trust domain whose authority signs its certificate [default: cluster.local]
    #[arg(
        id = "workload.trustDomain",
        long = "workload-trust-domain",
        value_name = "NAME",
        env = "PILLION_WORKLOAD_TRUST_DOMAIN"
    )]
    pub(super) trust_domain: Option<TrustDomain>,
    /// Its namespace [default: default]
    #[arg(
        id = "workload.namespace",
        long = "workload-namespace",
        value_name = "NAME",
        env = "PILLION_WORKLOAD_NAMESPACE"
    )]
    pub(super) namespace: Option<String>,
    /// Its service account; with trust domain and namespace it makes the SPIFFE ID
    #[arg(
        id = "workload.serviceAccount",
        long = "workload-service-account",
        value_name = "NAME",
        env = "PILLION_WORKLOAD_SERVICE_ACCOUNT"
    )]
    pub(super) service_account: Option<String>,
    #[arg(skip)]
    pub(super) labels: BTreeMap<String, String>,
    /// A label that selectors of policies match on; repeat it, or separate by commas. Adds to those of the file
    #[serde(skip)]
    #[arg(
        id = "workload.labels",
        long = "workload-labels",
        value_name = "NAME=VALUE",
        value_delimiter = ',',
        env = "PILLION_WORKLOAD_LABELS"
    )]
    pub(super) label_flags: Vec<Label>,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct IdentitySection {
    #[command(flatten)]
    pub(super) ca: CaSection,
    #[command(flatten)]
    pub(super) files: FilesSection,
    /// PEM file with revocation lists, by which peers of the mesh are judged too; watched and reloaded
    #[arg(id = "identity.crl", long = "identity-crl", value_name = "FILE", env = "PILLION_IDENTITY_CRL")]
    pub(super) crl: Option<PathBuf>,
    /// Instead of a CA: the SPIFFE Workload API of an agent, such as SPIRE's, unix:///PATH
    #[arg(
        id = "identity.workloadApi",
        long = "identity-workload-api",
        value_name = "SOCKET",
        env = "PILLION_IDENTITY_WORKLOAD_API"
    )]
    pub(super) workload_api: Option<UnixSocket>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct WorkloadApiSection {
    /// Serve the SPIFFE Workload API on this Unix socket: whoever may open it gets the certificate with its key; without
    /// it there is none
    #[arg(
        id = "workloadApi.socket",
        long = "workload-api-socket",
        value_name = "FILE",
        env = "PILLION_WORKLOAD_API_SOCKET"
    )]
    pub(super) socket: Option<PathBuf>,
    /// Who may open it [default: 0660]
    #[arg(
        id = "workloadApi.mode",
        long = "workload-api-mode",
        value_name = "MODE",
        env = "PILLION_WORKLOAD_API_MODE"
    )]
    pub(super) mode: Option<SocketMode>,
}

/// Another trust domain, whose identities are believed.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FederationItem {
    pub(super) trust_domain: TrustDomain,
    pub(super) bundle: FederatedBundleSection,
}

/// Where its bundle comes from.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct FederatedBundleSection {
    pub(super) file: Option<PathBuf>,
    pub(super) endpoint: Option<HttpsUrl>,
    pub(super) profile: Option<EndpointProfile>,
    pub(super) endpoint_spiffe_id: Option<SpiffeId>,
    pub(super) ca_file: Option<PathBuf>,
}

/// How an endpoint proves who it is (SPIFFE Federation 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EndpointProfile {
    /// By a name and the roots of the web.
    HttpsWeb,
    /// By its SPIFFE ID.
    HttpsSpiffe,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct CaSection {
    /// The certificate authority, https://HOST:PORT
    #[arg(
        id = "identity.ca.address",
        long = "identity-ca-address",
        value_name = "URL",
        env = "PILLION_IDENTITY_CA_ADDRESS"
    )]
    pub(super) address: Option<HttpsOrigin>,
    /// File with the token that proves this workload to the CA
    #[arg(
        id = "identity.ca.tokenFile",
        long = "identity-ca-token-file",
        value_name = "FILE",
        env = "PILLION_IDENTITY_CA_TOKEN_FILE"
    )]
    pub(super) token_file: Option<PathBuf>,
    /// PEM file with the roots by which to trust the CA before the first certificate
    #[arg(
        id = "identity.ca.bundleFile",
        long = "identity-ca-bundle-file",
        value_name = "FILE",
        env = "PILLION_IDENTITY_CA_BUNDLE_FILE"
    )]
    pub(super) bundle_file: Option<PathBuf>,
    /// Key of the certificate, a new one for each [default: ecdsa-p256]
    #[arg(
        id = "identity.ca.keyType",
        long = "identity-ca-key-type",
        value_name = "TYPE",
        env = "PILLION_IDENTITY_CA_KEY_TYPE"
    )]
    pub(super) key_type: Option<KeyTypeWord>,
    /// Lifetime to ask for; half of it passes before the renewal [default: 24h]
    #[arg(
        id = "identity.ca.ttl",
        long = "identity-ca-ttl",
        value_name = "DURATION",
        env = "PILLION_IDENTITY_CA_TTL"
    )]
    pub(super) ttl: Option<Period>,
}

/// The key types by their names in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
pub(super) enum KeyTypeWord {
    #[serde(rename = "ecdsa-p256")]
    #[value(name = "ecdsa-p256")]
    EcdsaP256,
    #[serde(rename = "ecdsa-p384")]
    #[value(name = "ecdsa-p384")]
    EcdsaP384,
    #[serde(rename = "rsa-2048")]
    #[value(name = "rsa-2048")]
    Rsa2048,
    #[serde(rename = "rsa-4096")]
    #[value(name = "rsa-4096")]
    Rsa4096,
    #[serde(rename = "ed25519")]
    #[value(name = "ed25519")]
    Ed25519,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct FilesSection {
    /// Instead of a CA: PEM file with the certificate, leaf first; watched and reloaded
    #[arg(
        id = "identity.files.certificate",
        long = "identity-files-certificate",
        value_name = "FILE",
        env = "PILLION_IDENTITY_FILES_CERTIFICATE"
    )]
    pub(super) certificate: Option<PathBuf>,
    /// PEM file with its private key
    #[arg(
        id = "identity.files.key",
        long = "identity-files-key",
        value_name = "FILE",
        env = "PILLION_IDENTITY_FILES_KEY"
    )]
    pub(super) key: Option<PathBuf>,
    /// PEM file with the roots of the trust domain
    #[arg(
        id = "identity.files.bundle",
        long = "identity-files-bundle",
        value_name = "FILE",
        env = "PILLION_IDENTITY_FILES_BUNDLE"
    )]
    pub(super) bundle: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct InboundSection {
    /// Where interception rules send inbound connections (Istio: 0.0.0.0:15006); without it there is no capture
    #[arg(
        id = "inbound.capture",
        long = "inbound-capture",
        value_name = "IP:PORT",
        env = "PILLION_INBOUND_CAPTURE"
    )]
    pub(super) capture: Option<Address>,
    /// Where captured connections go: the address that the client dialled, or 127.0.0.1 [default: PASSTHROUGH]
    #[arg(
        id = "inbound.trafficPolicy",
        long = "inbound-traffic-policy",
        value_name = "POLICY",
        ignore_case = true,
        env = "PILLION_INBOUND_TRAFFIC_POLICY"
    )]
    pub(super) traffic_policy: Option<TrafficPolicy>,
    /// A proxy of the mesh, by its SPIFFE ID, whose X-Forwarded-For says who the original client is (remoteIpBlocks);
    /// repeat it, or separate by commas
    #[arg(
        id = "inbound.trustedProxies",
        long = "inbound-trusted-proxies",
        value_name = "SPIFFE ID",
        value_delimiter = ',',
        env = "PILLION_INBOUND_TRUSTED_PROXIES"
    )]
    pub(super) trusted_proxies: Vec<SpiffeId>,
    #[arg(skip)]
    pub(super) listeners: Vec<InboundListenerItem>,
    /// Where peers bring connections in tunnels (HBONE; Istio: 0.0.0.0:15008); without it there are none
    #[arg(
        id = "inbound.tunnel",
        long = "inbound-tunnel",
        value_name = "IP:PORT",
        env = "PILLION_INBOUND_TUNNEL"
    )]
    pub(super) tunnel: Option<Address>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct InboundListenerItem {
    pub(super) address: Address,
    pub(super) forward: Address,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct OutboundSection {
    /// Where interception rules send outbound connections (Istio: 127.0.0.1:15001); without it there is no capture
    #[arg(
        id = "outbound.capture",
        long = "outbound-capture",
        value_name = "IP:PORT",
        env = "PILLION_OUTBOUND_CAPTURE"
    )]
    pub(super) capture: Option<Address>,
    /// What becomes of captured connections to a destination that no ServiceEntry has: passed on, or refused
    /// [default: ALLOW_ANY]
    #[arg(
        id = "outbound.trafficPolicy",
        long = "outbound-traffic-policy",
        value_name = "POLICY",
        ignore_case = true,
        env = "PILLION_OUTBOUND_TRAFFIC_POLICY"
    )]
    pub(super) traffic_policy: Option<OutboundTrafficPolicy>,
    #[arg(skip)]
    pub(super) listeners: Vec<OutboundListenerItem>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OutboundListenerItem {
    pub(super) address: Address,
    pub(super) destination: Destination,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct GatewaySection {
    /// Where to listen for the ports of the Gateway resources that select this workload (0.0.0.0); without it no Gateway
    /// is served
    #[arg(
        id = "gateway.address",
        long = "gateway-address",
        value_name = "IP",
        env = "PILLION_GATEWAY_ADDRESS"
    )]
    pub(super) address: Option<IpAddr>,
    #[arg(skip)]
    pub(super) ports: BTreeMap<u16, u16>,
    /// Listen on another port than a Gateway's, as where 80 is not ours to take: 80=8080; repeat it, or separate by
    /// commas. Adds to those of the file
    #[serde(skip)]
    #[arg(
        id = "gateway.ports",
        long = "gateway-ports",
        value_name = "PORT=PORT",
        value_delimiter = ',',
        env = "PILLION_GATEWAY_PORTS"
    )]
    pub(super) port_flags: Vec<PortPair>,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct InterceptionSection {
    /// The mode that the rules were installed with [default: REDIRECT]
    #[arg(
        id = "interception.mode",
        long = "interception-mode",
        value_name = "MODE",
        ignore_case = true,
        env = "PILLION_INTERCEPTION_MODE"
    )]
    pub(super) mode: Option<InterceptionMode>,
    /// SO_MARK of what the proxy dials, with TPROXY of its connections to the app alone; needs CAP_NET_ADMIN [default: none with REDIRECT, 1337 with TPROXY]
    #[arg(
        id = "interception.mark",
        long = "interception-mark",
        value_name = "NUMBER",
        env = "PILLION_INTERCEPTION_MARK"
    )]
    pub(super) mark: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct AdminSection {
    /// Admin API; whoever reaches it can stop the proxy [default: 127.0.0.1:15000]
    #[arg(
        id = "admin.address",
        long = "admin-address",
        value_name = "IP:PORT",
        env = "PILLION_ADMIN_ADDRESS"
    )]
    pub(super) address: Option<Address>,
    /// Whether whoever reaches the admin API may have the first bytes of plaintext kept and read them, for a time
    /// (POST /capture) [default: false]
    #[arg(
        id = "admin.capture",
        long = "admin-capture",
        value_name = "true|false",
        env = "PILLION_ADMIN_CAPTURE"
    )]
    pub(super) capture: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct ReadinessSection {
    /// GET /healthz/ready [default: 0.0.0.0:15021]
    #[arg(
        id = "readiness.address",
        long = "readiness-address",
        value_name = "IP:PORT",
        env = "PILLION_READINESS_ADDRESS"
    )]
    pub(super) address: Option<Address>,
    /// Not ready either when the certificate lasts for less than this, as where renewals fail; without it as long as the
    /// certificate is valid
    #[arg(
        id = "readiness.failBefore",
        long = "readiness-fail-before",
        value_name = "DURATION",
        env = "PILLION_READINESS_FAIL_BEFORE"
    )]
    pub(super) fail_before: Option<Period>,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct MetricsSection {
    /// GET /stats/prometheus [default: 0.0.0.0:15090]
    #[arg(
        id = "metrics.address",
        long = "metrics-address",
        value_name = "IP:PORT",
        env = "PILLION_METRICS_ADDRESS"
    )]
    pub(super) address: Option<Address>,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct TlsSection {
    /// Oldest TLS version that is spoken, in the mesh and to servers outside of it, 1.2 or 1.3 [default: 1.2]
    #[arg(
        id = "tls.minVersion",
        long = "tls-min-version",
        value_name = "VERSION",
        env = "PILLION_TLS_MIN_VERSION"
    )]
    pub(super) min_version: Option<MinVersion>,
    /// A cipher suite that peers of the mesh may negotiate, the preferred one first, by OpenSSL's or IANA's name; repeat it, or
    /// separate by commas. Without any of a TLS version all of that version that are spoken
    #[arg(
        id = "tls.cipherSuites",
        long = "tls-cipher-suites",
        value_name = "SUITE",
        value_delimiter = ',',
        env = "PILLION_TLS_CIPHER_SUITES"
    )]
    pub(super) cipher_suites: Vec<Suite>,
    /// A group of the key exchange that peers of the mesh may negotiate, the preferred one first: X25519MLKEM768, X25519, P-256
    /// or P-384; repeat it, or separate by commas. Without any all of these, in this order
    #[arg(
        id = "tls.ecdhCurves",
        long = "tls-ecdh-curves",
        value_name = "GROUP",
        value_delimiter = ',',
        env = "PILLION_TLS_ECDH_CURVES"
    )]
    pub(super) ecdh_curves: Vec<Group>,
    /// Whether sidecars resume TLS 1.3 sessions, which spares both a signature and a certificate; each is judged again as
    /// if it were new [default: true]
    #[arg(
        id = "tls.resumption",
        long = "tls-resumption",
        value_name = "true|false",
        env = "PILLION_TLS_RESUMPTION"
    )]
    pub(super) resumption: Option<bool>,
    /// File that the secrets of all TLS sessions are written to, for Wireshark: WHOEVER READS IT CAN DECRYPT the traffic of this
    /// proxy; for lessons and debugging, never for a mesh in use
    #[arg(
        id = "tls.keyLogFile",
        long = "tls-key-log-file",
        value_name = "FILE",
        env = "PILLION_TLS_KEY_LOG_FILE"
    )]
    pub(super) key_log_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct DetectionSection {
    /// How long the first bytes of an inbound connection may take; then, in PERMISSIVE, the app speaks first
    /// [default: 5s]
    #[arg(
        id = "detection.timeout",
        long = "detection-timeout",
        value_name = "DURATION",
        env = "PILLION_DETECTION_TIMEOUT"
    )]
    pub(super) timeout: Option<Period>,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct DrainSection {
    /// How long open connections may finish after SIGTERM or SIGINT [default: 5s]
    #[arg(
        id = "drain.timeout",
        long = "drain-timeout",
        value_name = "DURATION",
        env = "PILLION_DRAIN_TIMEOUT"
    )]
    pub(super) timeout: Option<Period>,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct LimitsSection {
    /// Connections at the same time [default: 10000]
    #[arg(
        id = "limits.maxConnections",
        long = "limits-max-connections",
        value_name = "NUMBER",
        env = "PILLION_LIMITS_MAX_CONNECTIONS"
    )]
    pub(super) max_connections: Option<u32>,
    /// A TLS handshake [default: 10s]
    #[arg(
        id = "limits.handshakeTimeout",
        long = "limits-handshake-timeout",
        value_name = "DURATION",
        env = "PILLION_LIMITS_HANDSHAKE_TIMEOUT"
    )]
    pub(super) handshake_timeout: Option<Period>,
    /// Bytes of a TLS ClientHello, 1024 to 65536 [default: 65536]
    #[arg(
        id = "limits.helloSize",
        long = "limits-hello-size",
        value_name = "BYTES",
        env = "PILLION_LIMITS_HELLO_SIZE"
    )]
    pub(super) hello_size: Option<u32>,
    /// Bytes of an HTTP message's head, 8192 or more [default: 61440]
    #[arg(
        id = "limits.requestHeadSize",
        long = "limits-request-head-size",
        value_name = "BYTES",
        env = "PILLION_LIMITS_REQUEST_HEAD_SIZE"
    )]
    pub(super) request_head_size: Option<u32>,
    /// The head of an HTTP request, from its first byte to its last [default: 30s]
    #[arg(
        id = "limits.requestHeadTimeout",
        long = "limits-request-head-timeout",
        value_name = "DURATION",
        env = "PILLION_LIMITS_REQUEST_HEAD_TIMEOUT"
    )]
    pub(super) request_head_timeout: Option<Period>,
    /// A connection to the app or to the peer [default: 10s]
    #[arg(
        id = "limits.connectTimeout",
        long = "limits-connect-timeout",
        value_name = "DURATION",
        env = "PILLION_LIMITS_CONNECT_TIMEOUT"
    )]
    pub(super) connect_timeout: Option<Period>,
    #[command(flatten)]
    pub(super) keepalive: KeepaliveSection,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct KeepaliveSection {
    /// Idle time before TCP asks whether the other side still lives [default: 180s]
    #[arg(
        id = "limits.keepalive.time",
        long = "limits-keepalive-time",
        value_name = "DURATION",
        env = "PILLION_LIMITS_KEEPALIVE_TIME"
    )]
    pub(super) time: Option<Period>,
    /// Time between two such questions [default: 180s]
    #[arg(
        id = "limits.keepalive.interval",
        long = "limits-keepalive-interval",
        value_name = "DURATION",
        env = "PILLION_LIMITS_KEEPALIVE_INTERVAL"
    )]
    pub(super) interval: Option<Period>,
    /// Unanswered questions before the connection is reset [default: 9]
    #[arg(
        id = "limits.keepalive.retries",
        long = "limits-keepalive-retries",
        value_name = "NUMBER",
        env = "PILLION_LIMITS_KEEPALIVE_RETRIES"
    )]
    pub(super) retries: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct TunnelsSection {
    /// Connections in one tunnel at the same time, in and out [default: 100]
    #[arg(
        id = "tunnels.maxStreams",
        long = "tunnels-max-streams",
        value_name = "NUMBER",
        env = "PILLION_TUNNELS_MAX_STREAMS"
    )]
    pub(super) max_streams: Option<u32>,
    /// Tunnels to one peer at the same time [default: 1000]
    #[arg(
        id = "tunnels.maxTunnels",
        long = "tunnels-max-tunnels",
        value_name = "NUMBER",
        env = "PILLION_TUNNELS_MAX_TUNNELS"
    )]
    pub(super) max_tunnels: Option<u32>,
    /// How long a tunnel may be empty before it is closed [default: 5m]
    #[arg(
        id = "tunnels.idleTimeout",
        long = "tunnels-idle-timeout",
        value_name = "DURATION",
        env = "PILLION_TUNNELS_IDLE_TIMEOUT"
    )]
    pub(super) idle_timeout: Option<Period>,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct DnsSection {
    /// Longest time between two questions for the name of a service, whatever its time to live [default: 5s]
    #[arg(id = "dns.refresh", long = "dns-refresh", value_name = "DURATION", env = "PILLION_DNS_REFRESH")]
    pub(super) refresh: Option<Period>,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct LogSection {
    /// Form of the lines on stderr; RUST_LOG says how much is logged [default: text]
    #[arg(id = "log.format", long = "log-format", value_name = "FORMAT", env = "PILLION_LOG_FORMAT")]
    pub(super) format: Option<LogFormat>,
}

#[derive(Debug, Clone, Default, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[group(skip)]
pub(super) struct TimeSection {
    /// How many times as fast as the world's the time is that certificates live in; without it they live in the world's
    #[arg(id = "time.scale", long = "time-scale", value_name = "FACTOR", env = "PILLION_TIME_SCALE")]
    pub(super) scale: Option<u32>,
    /// Since when; all proxies of a mesh and its CA need the same factor and origin to have the same time. Without it
    /// since the start of the process
    #[arg(id = "time.origin", long = "time-origin", value_name = "TIME", env = "PILLION_TIME_ORIGIN")]
    pub(super) origin: Option<Moment>,
}

/// One layer of settings over another.
trait Layer: Sized {
    /// What `self` says wins; what it leaves out, `under` says.
    fn over(self, under: Self) -> Self;
}

impl<T> Layer for Option<T> {
    fn over(self, under: Self) -> Self {
        self.or(under)
    }
}

impl<T> Layer for Vec<T> {
    fn over(self, under: Self) -> Self {
        if self.is_empty() { under } else { self }
    }
}

impl<K: Ord, V> Layer for BTreeMap<K, V> {
    fn over(self, mut under: Self) -> Self {
        under.extend(self);
        under
    }
}

/// Field by field. A field that is missing here does not compile.
macro_rules! layer {
    ($($section:ident { $($field:ident),+ })+) => {
        $(impl Layer for $section {
            fn over(self, under: Self) -> Self {
                Self { $($field: self.$field.over(under.$field)),+ }
            }
        })+
    };
}

layer! {
    RawSettings {
        workload, root_namespace, trust_domain_aliases, identity, workload_api, federation, mesh, policy_change, inbound, outbound, gateway, interception, admin,
        readiness, metrics, tls, detection, drain, limits, tunnels, dns, log, time
    }
    WorkloadSection { name, trust_domain, namespace, service_account, labels, label_flags }
    IdentitySection { ca, files, crl, workload_api }
    WorkloadApiSection { socket, mode }
    CaSection { address, token_file, bundle_file, key_type, ttl }
    FilesSection { certificate, key, bundle }
    InboundSection { capture, traffic_policy, trusted_proxies, listeners, tunnel }
    OutboundSection { capture, traffic_policy, listeners }
    GatewaySection { address, ports, port_flags }
    InterceptionSection { mode, mark }
    AdminSection { address, capture }
    ReadinessSection { address, fail_before }
    MetricsSection { address }
    TlsSection { min_version, cipher_suites, ecdh_curves, resumption, key_log_file }
    DetectionSection { timeout }
    DrainSection { timeout }
    LimitsSection {
        max_connections, handshake_timeout, hello_size, request_head_size, request_head_timeout, connect_timeout,
        keepalive
    }
    TunnelsSection { max_streams, max_tunnels, idle_timeout }
    KeepaliveSection { time, interval, retries }
    DnsSection { refresh }
    LogSection { format }
    TimeSection { scale, origin }
}
