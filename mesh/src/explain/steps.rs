//! A record as steps, in the order in which a connection of its direction takes them.

use std::fmt::Write;
use std::time::Duration;

use super::{About, Step};
use crate::client_hello::names;
use crate::reason::{Kind, Reason};
use crate::wire::{
    AuthorizationRecord, By, ConnectionRecord, Direction, FirstBytes, FirstPassed, Offer, RequestRecord,
    TlsMode, TlsRecord, TunnelRecord, hexadecimal, rfc3339,
};
use crate::words::{Bytes, Elapsed, Escaped};

/// Requests that are told one by one.
const REQUESTS_TOLD: usize = 5;
/// Groups of a ClientHello that are told by name.
const GROUPS_TOLD: usize = 4;
/// Bytes of ciphertext, and of plaintext, that are told; the record has more.
const CIPHERTEXT_TOLD: usize = 16;
const PLAINTEXT_TOLD: usize = 64;

/// The story's steps. What the record does not know is left out, but for the step at which it failed.
pub(super) fn steps(record: &ConnectionRecord, refused_requests: &[RequestRecord]) -> Vec<Step> {
    let inbound = record.direction == Direction::Inbound;
    let mut told = Told {
        broken: record.reason.filter(|reason| reason.kind() == Kind::Refused).map(broken_at),
        record,
        steps: Vec::new(),
    };
    told.step(About::Client, None, Some(client(record)));
    told.step(About::Destination, None, destination(record));
    told.step(About::Port, None, port(record));
    told.step(
        About::FirstBytes,
        record.times.first_bytes,
        record.first_bytes.as_ref().map(|first| first_bytes(record, first)),
    );
    let handshake = record.tls.as_ref().map(|tls| handshake(record, tls));
    let policies = record.authorization.as_ref().map(policies);
    told.step(About::Plan, None, record.plan.clone());
    if inbound {
        told.step(About::Handshake, record.times.handshake, handshake);
        told.step(About::Policies, record.times.authorized, policies);
        told.step(About::Dial, record.times.dialled, dial(record));
    } else {
        told.step(About::Policies, record.times.authorized, policies);
        told.step(About::Dial, record.times.dialled, dial(record));
        told.step(About::Handshake, record.times.handshake, handshake);
    }
    told.step(About::Request, None, None);
    told.requests(refused_requests);
    told.bytes();
    told.step(About::Wire, None, on_the_wire(record));
    told.end();
    told.steps
}

/// The steps so far.
struct Told<'r> {
    record: &'r ConnectionRecord,
    /// The step at which it was refused.
    broken: Option<About>,
    steps: Vec<Step>,
}

impl Told<'_> {
    /// One step, where something is known of it or it is the one that failed: then with what was expected and seen.
    fn step(&mut self, about: About, at_micros: Option<u64>, known: Option<String>) {
        let failed = self.broken == Some(about);
        let said =
            |detail: &str| known.as_deref().is_some_and(|known| known.contains(detail)) || self.said(detail);
        let record = self.record;
        let detail = record.detail.as_deref().filter(|detail| failed && !said(detail));
        let told = match (known, detail) {
            (Some(known), Some(detail)) => format!("{known}; {detail}"),
            (Some(known), None) => known,
            (None, Some(detail)) => detail.to_owned(),
            (None, None) => return,
        };
        self.push(about, !failed, at_micros, &told);
    }

    /// Whether the steps so far hold it.
    fn said(&self, detail: &str) -> bool {
        let detail = Escaped(detail).to_string();
        self.steps.iter().any(|step| step.told.contains(&detail))
    }

    fn push(&mut self, about: About, passed: bool, at_micros: Option<u64>, told: &str) {
        self.steps.push(Step { about, passed, at_micros, told: Escaped(told).to_string() });
    }

    /// The newest requests that were refused on it.
    fn requests(&mut self, refused: &[RequestRecord]) {
        let left_out = refused.len().saturating_sub(REQUESTS_TOLD);
        if left_out > 0 {
            self.push(About::Request, false, None, &format!("{left_out} were refused before those below"));
        }
        for request in refused.iter().skip(left_out) {
            self.push(About::Request, false, micros_between(self.record, request), &request_told(request));
        }
    }

    fn bytes(&mut self) {
        let ConnectionRecord { bytes_to_server, bytes_to_client, times, .. } = self.record;
        if times.opened.is_some() || bytes_to_server + bytes_to_client > 0 {
            let passed = format!(
                "{} to the server{}, {} to the client{}",
                Bytes(*bytes_to_server),
                since(times.asked),
                Bytes(*bytes_to_client),
                since(times.answered)
            );
            self.push(About::Bytes, true, None, &passed);
        }
    }

    /// How it ended; with the detail, unless a step has said it, and who closed it, unless the reason says it.
    fn end(&mut self) {
        let Some(reason) = self.record.reason else {
            let so_far = Elapsed(Duration::from_micros(self.record.duration_micros));
            self.push(About::End, true, None, &format!("none yet: it is open for {so_far}"));
            return;
        };
        let mut told = format!("{reason}: {}", reason.sentence());
        if let Some(detail) = self.record.detail.as_deref().filter(|detail| !self.said(detail)) {
            let _ = write!(told, " {}.", detail.trim_end_matches('.'));
        }
        let unsaid = [Reason::Completed, Reason::StrictSilent, Reason::HandshakeFailed].contains(&reason);
        if let Some(closed) = self.record.closed.filter(|closed| unsaid || closed.by == By::Proxy) {
            let _ = write!(told, " {closed}");
        }
        self.push(About::End, reason.kind() == Kind::Ended, Some(self.record.duration_micros), &told);
    }
}

/// The step that a refusal is about.
fn broken_at(reason: Reason) -> About {
    match reason {
        Reason::TooManyConnections => About::Client,
        Reason::SelfLoop | Reason::NoOriginalDestination | Reason::AddressNotOurs => About::Destination,
        Reason::StrictPlaintext | Reason::StrictSilent | Reason::TlsToHttpPort | Reason::HelloTooLarge => {
            About::FirstBytes
        }
        Reason::DestinationUnknown
        | Reason::NoEndpoint
        | Reason::NoRoute
        | Reason::NoExpectedIdentity
        | Reason::NoServerName
        | Reason::TlsFilesUnusable => About::Plan,
        Reason::HandshakeTimeout
        | Reason::HandshakeFailed
        | Reason::NoClientCertificate
        | Reason::CertificateExpired
        | Reason::CertificateNotYetValid
        | Reason::CertificateUntrusted
        | Reason::CertificateInvalid
        | Reason::CertificateRevoked
        | Reason::SvidInvalid
        | Reason::TrustDomainUnknown
        | Reason::IdentityUnexpected
        | Reason::ServerNameUnexpected
        | Reason::PeerRefused
        | Reason::NoCertificate
        | Reason::TlsBroken => About::Handshake,
        Reason::AuthorizationDenied => About::Policies,
        Reason::AppUnreachable
        | Reason::DestinationUnreachable
        | Reason::ConnectTimeout
        | Reason::DeniedByPeer
        | Reason::TunnelRefused
        | Reason::TunnelFailed
        | Reason::TunnelsFull => About::Dial,
        Reason::RequestMalformed | Reason::RequestTimeout => About::Request,
        Reason::Completed
        | Reason::ClientReset
        | Reason::ServerReset
        | Reason::ClientLost
        | Reason::ServerLost
        | Reason::TlsTruncated
        | Reason::PolicyChanged
        | Reason::Drained
        | Reason::Internal => About::End,
    }
}

fn client(record: &ConnectionRecord) -> String {
    let accepted = rfc3339::print(record.accepted);
    let proved = match (record.direction, &record.tls) {
        (Direction::Outbound, _) => "our own side".to_owned(),
        (Direction::Inbound, Some(tls)) => format!("proved to be {}", tls.peer),
        (Direction::Inbound, None) => "no identity is proved".to_owned(),
    };
    format!("{}, {proved}; accepted at {accepted}", record.client)
}

fn destination(record: &ConnectionRecord) -> Option<String> {
    let ConnectionRecord { original_destination, service, .. } = record;
    match (original_destination, service) {
        (Some(address), Some(service)) => Some(format!("{address}, which is {service}")),
        (Some(address), None) => Some(format!("{address}, which no service is known for")),
        (None, Some(service)) => Some(service.clone()),
        (None, None) => None,
    }
}

fn port(record: &ConnectionRecord) -> Option<String> {
    let port = record
        .original_destination
        .map_or_else(|| "its port".to_owned(), |address| format!("port {}", address.port()));
    record.mode.as_ref().map(|mode| {
        let shadow = mode.shadow.as_ref().map(|shadow| {
            let would = match shadow.refused {
                Some(reason) => format!("refused ({reason})"),
                None => "let in".to_owned(),
            };
            format!("; in dry run it is {} by {}, and this would be {would}", shadow.mode, shadow.because)
        });
        format!("{port} is {} by {}{}", mode.mode, mode.because, shadow.unwrap_or_default())
    })
}

fn first_bytes(record: &ConnectionRecord, first: &FirstBytes) -> String {
    match first {
        FirstBytes::Unseen => "not looked at: the port is DISABLE".to_owned(),
        FirstBytes::Silent => {
            "none: nothing came before the client closed or the detection timeout passed".to_owned()
        }
        FirstBytes::Plaintext => match &record.looks_like {
            Some(looks_like) => format!("plaintext: {looks_like}"),
            None => "plaintext".to_owned(),
        },
        FirstBytes::Tls { sni, alpn, mesh, offer } => {
            let whose =
                if *mesh { "a ClientHello of the mesh" } else { "a ClientHello of the app's own TLS" };
            let name = sni
                .as_ref()
                .map_or_else(|| "no server name".to_owned(), |name| format!("server name {name}"));
            let alpn = if alpn.is_empty() { "none".to_owned() } else { alpn.join(", ") };
            format!("{whose}: {name}, ALPN {alpn}{}", offered(offer))
        }
    }
}

/// Its versions and first groups; nothing where the record does not know them.
fn offered(offer: &Offer) -> String {
    if offer.versions.is_empty() {
        return String::new();
    }
    let versions = names::VERSIONS.names(&offer.versions).join(", ");
    let told = offer.groups.get(..GROUPS_TOLD).unwrap_or(&offer.groups);
    let groups = match (told.len(), offer.groups.len() - told.len()) {
        (0, _) => String::new(),
        (_, 0) => format!(", groups {}", names::GROUPS.names(told).join(", ")),
        (_, more) => format!(", groups {} and {more} more", names::GROUPS.names(told).join(", ")),
    };
    format!("; {versions}{groups}")
}

fn handshake(record: &ConnectionRecord, tls: &TlsRecord) -> String {
    let kind = match (tls.mode, tls.local.is_empty()) {
        (TlsMode::IstioMutual | TlsMode::Mutual, false) => "mutual TLS",
        _ => "TLS",
    };
    let resumed = if tls.resumed { "resumed" } else { "full" };
    let took = Elapsed(Duration::from_micros(tls.handshake_micros));
    let peer = match (record.direction, tls.peer.as_str()) {
        (_, "") => "the server's certificate was not verified".to_owned(),
        (Direction::Inbound, peer) => format!("the client proved to be {peer}"),
        (Direction::Outbound, peer) => format!("the server proved to be {peer}"),
    };
    let shown = match (tls.local.as_str(), tls.local_serial.as_ref().zip(tls.local_not_after)) {
        ("", _) => String::new(),
        (local, None) => format!("; we showed {local}"),
        (local, Some((serial, until))) => {
            format!("; we showed {local} (certificate {serial}, until {})", rfc3339::print(until))
        }
    };
    let whose = match &record.tunnel {
        Some(TunnelRecord { id, new: true, .. }) => format!("tunnel {id}, new: "),
        Some(TunnelRecord { id, .. }) => format!("tunnel {id}, which stood before: "),
        None => String::new(),
    };
    format!(
        "{whose}{kind}, {} {} {}, {resumed} in {took}; {peer} (certificate {}, until {}){shown}",
        tls.version,
        tls.cipher_suite,
        tls.group,
        tls.peer_serial,
        rfc3339::print(tls.peer_not_after)
    )
}

fn policies(decided: &AuthorizationRecord) -> String {
    let mut told = format!("{}: {}", if decided.allowed { "allowed" } else { "denied" }, decided.because);
    if let Some(rule) = &decided.audited {
        let _ = write!(told, "; audited by {rule}");
    }
    if let Some(shadow) = &decided.shadow {
        let would = if shadow.allowed { "allowed" } else { "denied" };
        let rule = shadow.rule.as_deref().unwrap_or("no rule");
        let _ = write!(told, "; a dry run would have {would} it ({rule})");
    }
    told
}

/// Whom we dialled, and how long it took them to take the connection, if they did.
fn dial(record: &ConnectionRecord) -> Option<String> {
    let whom = if record.direction == Direction::Inbound { "the app at " } else { "" };
    let took = record.times.dialled.zip(record.times.connected).map(|(begun, done)| {
        format!(", connected in {}", Elapsed(Duration::from_micros(done.saturating_sub(begun))))
    });
    let through = record.tunnel.filter(|_| record.direction == Direction::Outbound).map(|tunnel| {
        let TunnelRecord { id, stream, shared_by, door, .. } = tunnel;
        format!(" by tunnel {id} to {door}, as stream {stream}, {shared_by} in it")
    });
    let (through, took) = (through.unwrap_or_default(), took.unwrap_or_default());
    record.upstream.map(|upstream| format!("{whom}{upstream}{through}{took}"))
}

/// When the first of some bytes came.
fn since(micros: Option<u64>) -> String {
    micros.map_or_else(String::new, |at| format!(" from +{} on", Elapsed(Duration::from_micros(at))))
}

/// The beginning of what passed: ciphertext where the leg speaks TLS, and plaintext where it is kept.
fn on_the_wire(record: &ConnectionRecord) -> Option<String> {
    let wire = record.wire.as_ref()?;
    let ciphertext = wire.mesh.as_ref().map(|passed| {
        told_both_ways("ciphertext", passed, |bytes| {
            let told = bytes.get(..CIPHERTEXT_TOLD).unwrap_or(bytes);
            format!("{}{}", hexadecimal::print(told), if told.len() < bytes.len() { "…" } else { "" })
        })
    });
    let plaintext = wire.app.as_ref().map(|passed| {
        told_both_ways("plaintext of the app", passed, |bytes| {
            let told = bytes.get(..PLAINTEXT_TOLD).unwrap_or(bytes);
            format!("\"{}\"{}", told.escape_ascii(), if told.len() < bytes.len() { "…" } else { "" })
        })
    });
    let told: Vec<String> = [ciphertext, plaintext].into_iter().flatten().flatten().collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// `ciphertext to the server 170303…, to the client 170303…`; none where nothing passed.
fn told_both_ways(what: &str, passed: &FirstPassed, told: impl Fn(&[u8]) -> String) -> Option<String> {
    let ways = [("server", &passed.to_server), ("client", &passed.to_client)];
    let ways = ways.into_iter().filter(|(_, bytes)| !bytes.is_empty());
    let ways: Vec<String> = ways.map(|(whom, bytes)| format!("to the {whom} {}", told(bytes))).collect();
    (!ways.is_empty()).then(|| format!("{what} {}", ways.join(", ")))
}

fn request_told(request: &RequestRecord) -> String {
    let RequestRecord { method, host, path, status, reason, detail, .. } = request;
    let (host, path) = (host.as_deref().unwrap_or("?"), path.as_deref().unwrap_or(""));
    let status = status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    let detail =
        detail.as_ref().map(|detail| format!(" {}.", detail.trim_end_matches('.'))).unwrap_or_default();
    format!("{method} {host}{path}: {status}, {reason}: {}{detail}", reason.sentence())
}

/// From the connection's accept to the request's head.
fn micros_between(record: &ConnectionRecord, request: &RequestRecord) -> Option<u64> {
    let since = request.received.duration_since(record.accepted).ok()?;
    u64::try_from(since.as_micros()).ok()
}
