//! The JSON that processes share: what the CA answers, what the admin API and the access log show.
//!
//! Field names are camelCase and stable. What is not known or does not apply is `null`; a reader takes an absent field
//! for that, and ignores fields it does not know.

use std::borrow::Cow;
use std::mem;
use std::net::SocketAddr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::client_hello::{ClientHello, names};
pub use crate::closed::{By, Closed, How};
use crate::policy::mode::Mode;
use crate::reason::Reason;

/// Which side of its app the proxy stands on for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the app: the proxy is the server of the mesh connection.
    Inbound,
    /// From the app: the proxy is the client of the mesh connection.
    Outbound,
}

impl Direction {
    /// `inbound` or `outbound`, as in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

/// What is known of one connection. The access log, `/connections` and the metrics all come from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionRecord {
    /// Unique while the proxy runs; counts up from 1.
    pub id: u64,
    /// Towards the app or from it.
    pub direction: Direction,
    /// When the proxy accepted it, RFC 3339 in UTC.
    #[serde(with = "rfc3339")]
    pub accepted: SystemTime,
    /// The address that dialled.
    pub client: SocketAddr,
    /// The address the client dialled before the kernel redirected the packet; the policy port is its port.
    pub original_destination: Option<SocketAddr>,
    /// The first bytes, once looked at.
    pub first_bytes: Option<FirstBytes>,
    /// What plaintext of them looks like, such as `GET /`; see [`crate::plaintext`].
    pub looks_like: Option<String>,
    /// The port's mode (inbound) and where it came from.
    pub mode: Option<ModeRecord>,
    /// The service that the registry found, `host:port`: the one that was dialled, or inbound the app's own.
    pub service: Option<String>,
    /// Why the outbound leg is mTLS or plaintext (outbound).
    pub plan: Option<String>,
    /// The finished handshake of the leg that speaks TLS: of the tunnel, where it is in one.
    pub tls: Option<TlsRecord>,
    /// The tunnel that it is in, where it is in one.
    #[serde(default)]
    pub tunnel: Option<TunnelRecord>,
    /// What the AuthorizationPolicies decided (inbound).
    pub authorization: Option<AuthorizationRecord>,
    /// The address that the proxy dialled.
    pub upstream: Option<SocketAddr>,
    /// The address that it dialled from, by which the proxy of the other side tells of the same connection (outbound).
    #[serde(default)]
    pub dialled_from: Option<SocketAddr>,
    /// Application bytes from the client to the server.
    pub bytes_to_server: u64,
    /// Application bytes from the server to the client.
    pub bytes_to_client: u64,
    /// From accept to end, or to now for an open connection, in microseconds.
    pub duration_micros: u64,
    /// When each step was done.
    #[serde(default)]
    pub times: Times,
    /// How it ended; none while it is open.
    pub reason: Option<Reason>,
    /// What exactly was expected and seen, where the reason alone does not say it.
    pub detail: Option<String>,
    /// Who ended it first, and how; none while it is open.
    pub closed: Option<Closed>,
    /// The first bytes that passed, where they are kept. In no log.
    pub wire: Option<Box<WireRecord>>,
}

/// When each step of a connection was done, in microseconds after it was accepted; none for a step that it did not come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Times {
    /// The first bytes were known.
    pub first_bytes: Option<u64>,
    /// The TLS handshake was finished and verified.
    pub handshake: Option<u64>,
    /// The AuthorizationPolicies had decided.
    pub authorized: Option<u64>,
    /// The other side was dialled: this is when that began.
    pub dialled: Option<u64>,
    /// The other side had taken the connection, before any handshake with it.
    pub connected: Option<u64>,
    /// It was admitted, and bytes or requests could pass.
    pub opened: Option<u64>,
    /// The first byte for the server came from the client, its handshake aside.
    pub asked: Option<u64>,
    /// The first byte for the client came from the server, or as an answer of the proxy's own to a request.
    pub answered: Option<u64>,
}

/// The place of a connection in a tunnel (HBONE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TunnelRecord {
    /// The tunnel: unique while the proxy runs; counts up from 1.
    pub id: u64,
    /// The number of the connection's stream in it, which both ends tell: 1, 3, 5, ….
    pub stream: u32,
    /// Whether the tunnel was made for this connection (outbound), or this is the first in it (inbound).
    pub new: bool,
    /// Connections in it when this one began, itself among them.
    pub shared_by: u32,
    /// The address that it leads to.
    pub door: SocketAddr,
}

/// What is known of one HTTP request. The access log and the metrics of requests come from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRecord {
    /// The id of the connection that it came on.
    pub connection: u64,
    /// Towards the app or from it.
    pub direction: Direction,
    /// When its head had arrived, RFC 3339 in UTC.
    #[serde(with = "rfc3339")]
    pub received: SystemTime,
    /// The address that dialled the connection.
    pub client: SocketAddr,
    /// The address that the connection was for; the policy port is its port.
    pub destination: SocketAddr,
    /// Who has proved what on the leg of it that speaks TLS: inbound from the client, outbound to the server.
    pub tls: Option<Parties>,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub protocol: String,
    /// Whether it is gRPC, by its content type.
    pub is_grpc: bool,
    /// The method.
    pub method: String,
    /// The host, once it is understood.
    pub host: Option<String>,
    /// The path in its one spelling, without the query.
    pub path: Option<String>,
    /// The service that it is for, `host:port`.
    pub service: Option<String>,
    /// The address that it was passed on to.
    pub upstream: Option<SocketAddr>,
    /// What the AuthorizationPolicies decided.
    pub authorization: Option<AuthorizationRecord>,
    /// The status of the answer; none where there was none.
    pub status: Option<u16>,
    /// The status of gRPC (`grpc-status`).
    pub grpc_status: Option<u32>,
    /// Bytes of its body.
    pub bytes_to_server: u64,
    /// Bytes of the answer's body.
    pub bytes_to_client: u64,
    /// From its head to the end of the answer, in microseconds.
    pub duration_micros: u64,
    /// How it ended.
    pub reason: Reason,
    /// What exactly was expected and seen, where the reason alone does not say it.
    pub detail: Option<String>,
}

/// What the first bytes of an inbound connection were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "class")]
pub enum FirstBytes {
    /// Not looked at: the port is DISABLE.
    Unseen,
    /// None before the detection timeout, or an end at once.
    Silent,
    /// Bytes that cannot begin a TLS ClientHello.
    Plaintext,
    /// A ClientHello.
    #[serde(rename_all = "camelCase")]
    Tls {
        /// Server name asked for.
        sni: Option<String>,
        /// Protocols offered, lossily as text.
        alpn: Vec<String>,
        /// Whether one of them is the mesh's mark.
        mesh: bool,
        /// What else it offers.
        #[serde(flatten)]
        offer: Box<Offer>,
    },
}

impl FirstBytes {
    /// Protocols that are kept.
    pub const PROTOCOLS: usize = 16;
    /// Characters of a server name that are kept.
    pub const NAME: usize = 255;

    /// What the record keeps of a hello. A peer may name thousands of protocols and a name of kilobytes.
    #[must_use]
    pub fn of(mut hello: ClientHello) -> Self {
        let mesh = hello.is_mesh();
        let sni = mem::take(&mut hello.sni).map(|mut name| {
            if let Some((end, _)) = name.char_indices().nth(Self::NAME) {
                name.truncate(end);
            }
            name.shrink_to_fit();
            name
        });
        let alpn = first(mem::take(&mut hello.alpn), Self::PROTOCOLS).into_iter().map(as_text).collect();
        Self::Tls { sni, alpn, mesh, offer: Box::new(Offer::of(hello)) }
    }
}

/// The first of a list, at most so many. The room of the others is given back: records are kept by the thousand.
fn first<T>(mut list: Vec<T>, most: usize) -> Vec<T> {
    list.truncate(most);
    list.shrink_to_fit();
    list
}

/// Lossily, where it is none.
fn as_text(name: Vec<u8>) -> String {
    String::from_utf8(name).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// What a ClientHello offers, in the client's order and without GREASE: the first of each list, by number; in JSON by the
/// names of [`names`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Offer {
    /// Protocol versions.
    #[serde(with = "names::versions")]
    pub versions: Vec<u16>,
    /// Groups for key exchange.
    #[serde(with = "names::groups")]
    pub groups: Vec<u16>,
    /// Cipher suites.
    #[serde(with = "names::cipher_suites")]
    pub cipher_suites: Vec<u16>,
    /// Signature algorithms.
    #[serde(with = "names::signature_algorithms")]
    pub signature_algorithms: Vec<u16>,
    /// The groups for which a key share came along.
    #[serde(with = "names::groups")]
    pub key_shares: Vec<u16>,
    /// Bytes of the ClientHello on the wire, record headers included.
    pub length: usize,
}

impl Offer {
    /// Versions and key shares that are kept.
    pub const FEW: usize = 16;
    /// Groups, cipher suites and signature algorithms that are kept: more than any usual client has.
    pub const MANY: usize = 128;

    /// What the record keeps of a hello, which may name thousands of each.
    #[must_use]
    pub fn of(hello: ClientHello) -> Self {
        Self {
            versions: first(hello.versions, Self::FEW),
            groups: first(hello.groups, Self::MANY),
            cipher_suites: first(hello.cipher_suites, Self::MANY),
            signature_algorithms: first(hello.signature_algorithms, Self::MANY),
            key_shares: first(hello.key_share_groups, Self::FEW),
            length: hello.wire_length,
        }
    }
}

/// The first bytes that passed on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WireRecord {
    /// On the leg that speaks TLS as they were on the wire, from the end of the handshake on: ciphertext.
    pub mesh: Option<FirstPassed>,
    /// What they were on the app's side, kept only while a person has switched that on: plaintext.
    pub app: Option<FirstPassed>,
}

/// The first bytes each way, in JSON in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FirstPassed {
    /// From the client to the server.
    #[serde(with = "hexadecimal")]
    pub to_server: Vec<u8>,
    /// From the server to the client.
    #[serde(with = "hexadecimal")]
    pub to_client: Vec<u8>,
}

/// A mode and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModeRecord {
    /// What the port accepts.
    pub mode: Mode,
    /// The policy that decided, in words.
    pub because: String,
    /// What the policies in dry run (`istio.io/dry-run`) would have made of the connection, where there are any and it is
    /// known.
    #[serde(default)]
    pub shadow: Option<ModeShadow>,
}

/// What PeerAuthentications in dry run would have made of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModeShadow {
    /// What the port would accept.
    pub mode: Mode,
    /// The policy that would have decided, in words.
    pub because: String,
    /// Why the connection would have been refused; none where it would have been let in.
    pub refused: Option<Reason>,
}

/// What the AuthorizationPolicies decided, and what is only told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationRecord {
    /// Whether the connection is allowed.
    pub allowed: bool,
    /// The rule that decided, or that none did, in words.
    pub because: String,
    /// The AUDIT rule that marks it.
    #[serde(default)]
    pub audited: Option<String>,
    /// What policies in dry run (`istio.io/dry-run`) would have decided, where there are any.
    #[serde(default)]
    pub shadow: Option<ShadowRecord>,
}

/// What policies in dry run would have decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShadowRecord {
    /// Whether they would have allowed the connection.
    pub allowed: bool,
    /// The rule that would have decided; none where no ALLOW rule matched.
    pub rule: Option<String>,
}

/// The TLS of a leg, in the words of a DestinationRule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    /// Mutual TLS between sidecars.
    #[default]
    IstioMutual,
    /// To a server outside the mesh, with a certificate of ours.
    Mutual,
    /// The same without one.
    Simple,
}

/// Who has proved what to whom by TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parties {
    /// With whom.
    pub mode: TlsMode,
    /// What the other side has proved: in the mesh its SPIFFE ID.
    pub peer: String,
    /// What we have shown: in the mesh our SPIFFE ID.
    pub local: String,
}

impl From<&TlsRecord> for Parties {
    fn from(TlsRecord { mode, peer, local, .. }: &TlsRecord) -> Self {
        Self { mode: *mode, peer: peer.clone(), local: local.clone() }
    }
}

/// The handshake of the leg that speaks TLS, as it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsRecord {
    /// With whom.
    #[serde(default)]
    pub mode: TlsMode,
    /// What the peer has proved: in the mesh its SPIFFE ID; outside of it one of the names that were wanted, empty where
    /// none was (`insecureSkipVerify`).
    pub peer: String,
    /// What we have shown: in the mesh our own SPIFFE ID; outside of it the certificate's URI or else its subject, empty
    /// where none was asked for or there is none to show.
    pub local: String,
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: Cow<'static, str>,
    /// The cipher suite by its IANA name.
    pub cipher_suite: Cow<'static, str>,
    /// The key-exchange group by its IANA name.
    pub group: Cow<'static, str>,
    /// Whether the session was resumed.
    pub resumed: bool,
    /// From the first handshake byte to the last, in microseconds.
    pub handshake_micros: u64,
    /// The peer certificate's serial number in hexadecimal.
    pub peer_serial: String,
    /// The end of the peer certificate's validity, RFC 3339 in UTC.
    #[serde(with = "rfc3339")]
    pub peer_not_after: SystemTime,
    /// The serial number of our own certificate in hexadecimal; none where we have shown none.
    #[serde(default)]
    pub local_serial: Option<String>,
    /// The end of our own certificate's validity, RFC 3339 in UTC.
    #[serde(default, with = "rfc3339::optional")]
    pub local_not_after: Option<SystemTime>,
}

/// An error answer of the CA and the admin API: `application/problem+json`, RFC 9457.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// What kind of problem, the same for each occurrence.
    pub title: String,
    /// What was expected and seen this time, and the likely cure. Never a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The title of a [`Problem`] of status 404 where the page is there, and what it was asked for is not.
pub const UNKNOWN: &str = "Unknown";

/// Times as RFC 3339 text in UTC with milliseconds.
pub mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de};
    use time::format_description::well_known::Rfc3339;
    use time::{Duration, OffsetDateTime};

    /// `2026-11-20T12:00:00.000Z`, cut to the millisecond; times before the epoch or past year 9999 print as the epoch.
    #[must_use]
    pub fn print(at: SystemTime) -> String {
        since_epoch(at)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
            .format(time::macros::format_description!(
                "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
            ))
            .unwrap_or_else(|_| "1970-01-01T00:00:00.000Z".to_owned())
    }

    /// Reads `2026-11-20T12:00:00Z`, with or without a fraction, in any offset from UTC.
    ///
    /// # Errors
    /// What the text lacks.
    pub fn parse(text: &str) -> Result<SystemTime, time::error::Parse> {
        OffsetDateTime::parse(text, &Rfc3339).map(SystemTime::from)
    }

    fn since_epoch(at: SystemTime) -> Option<OffsetDateTime> {
        let since = Duration::try_from(at.duration_since(SystemTime::UNIX_EPOCH).ok()?).ok()?;
        OffsetDateTime::UNIX_EPOCH.checked_add(since)
    }

    /// Serde's `serialize_with`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&print(*at))
    }

    /// Serde's `deserialize_with`.
    ///
    /// # Errors
    /// When the text is not an RFC 3339 time.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map_err(de::Error::custom)
    }

    /// The same for a time that there may be none of.
    pub mod optional {
        use std::time::SystemTime;

        use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

        /// Serde's `serialize_with`.
        ///
        /// # Errors
        /// Those of the serializer.
        pub fn serialize<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
            at.map(super::print).serialize(serializer)
        }

        /// Serde's `deserialize_with`.
        ///
        /// # Errors
        /// When there is a text and it is not an RFC 3339 time.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<SystemTime>, D::Error> {
            let text = Option::<String>::deserialize(deserializer)?;
            text.map(|text| super::parse(&text)).transpose().map_err(de::Error::custom)
        }
    }
}

/// Bytes as hexadecimal text.
pub mod hexadecimal {
    use std::fmt::Write;

    use serde::{Deserialize, Deserializer, Serializer, de};

    /// `16030100`.
    #[must_use]
    pub fn print(bytes: &[u8]) -> String {
        bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Reads what [`print()`] writes; none where it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Vec<u8>> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
        rest.is_empty().then(|| pairs.iter().map(byte).collect())?
    }

    /// Serde's `serialize_with`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&print(bytes))
    }

    /// Serde's `deserialize_with`.
    ///
    /// # Errors
    /// When the text is not hexadecimal.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text)
            .ok_or_else(|| de::Error::custom(format!("expected pairs of hexadecimal digits, found `{text}`")))
    }
}

#[cfg(test)]
mod tests;
