//! The single facts that fields are compared with: where each is taken from, and how it is told to a person.

use std::borrow::Cow;
use std::net::IpAddr;

use super::facts::{Facts, HttpFacts};
use super::matcher::service_account;
use crate::yaml::quoted_at_length as quoted;

/// A fact that is a text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum TextFact {
    Principal,
    Namespace,
    TrustDomain,
    Sni,
    Host,
    Method,
    Path,
    PathAndQuery,
    /// By its name in lower case.
    Header(String),
}

/// A fact that is an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum AddressFact {
    Source,
    Remote,
    Destination,
}

impl TextFact {
    /// Whether only an HTTP request has it.
    pub(super) fn needs_http(&self) -> bool {
        match self {
            Self::Host | Self::Method | Self::Path | Self::PathAndQuery | Self::Header(_) => true,
            Self::Principal | Self::Namespace | Self::TrustDomain | Self::Sni => false,
        }
    }

    /// Whether only a peer with an identity has it.
    pub(super) fn is_of_peer(&self) -> bool {
        matches!(self, Self::Principal | Self::Namespace | Self::TrustDomain)
    }

    /// The text, none where it is not known. Whoever names a port of a host means the same host: of both, one is enough. A
    /// header has each of its lines, and all in one (RFC 9110, 5.3).
    pub(super) fn texts<'f>(&self, facts: &Facts<'f>) -> impl Iterator<Item = Cow<'f, [u8]>> + use<'f> {
        let text = |text: &'f str| Some(Cow::Borrowed(text.as_bytes()));
        let with_port = facts.http.filter(|http| *self == Self::Host && http.host.port().is_some());
        let fact = match self {
            Self::Principal => facts.peer.and_then(|peer| text(peer.principal())),
            Self::Namespace => {
                facts.peer.and_then(service_account).and_then(|(namespace, _)| text(namespace))
            }
            Self::TrustDomain => facts.peer.and_then(|peer| text(trust_domain(peer.principal()))),
            Self::Sni => sni(facts).map(|sni| Cow::Owned(sni.to_ascii_lowercase().into_bytes())),
            Self::Host => facts.http.and_then(|http| text(http.host.name())),
            Self::Method => facts.http.and_then(|http| text(http.method)),
            Self::Path => facts.http.and_then(|http| text(http.path.path())),
            Self::PathAndQuery => facts.http.and_then(|http| text(http.path.path_and_query())),
            Self::Header(_) => None,
        };
        let lines = match (self, facts.http) {
            (Self::Header(name), Some(http)) => http.headers.lines(name),
            _ => Vec::new(),
        };
        let joined = (lines.len() > 1).then(|| Cow::Owned(lines.join(&b',')));
        let of_host = with_port.and_then(|http| text(http.host.as_str()));
        fact.into_iter().chain(of_host).chain(lines.into_iter().map(Cow::Borrowed)).chain(joined)
    }

    /// What a person is told of it.
    pub(super) fn seen(&self, facts: &Facts<'_>) -> String {
        let of_http = |text: &dyn Fn(&HttpFacts<'_>) -> String| {
            facts.http.as_ref().map_or_else(|| "a TCP connection".to_owned(), text)
        };
        match self {
            Self::Principal => seen_of_peer(facts, None),
            Self::Namespace => {
                seen_of_peer(facts, facts.peer.and_then(service_account).map(|(namespace, _)| namespace))
            }
            Self::TrustDomain => seen_of_peer(facts, facts.peer.map(|peer| trust_domain(peer.principal()))),
            Self::Sni => sni(facts).map_or_else(|| "no server name".to_owned(), quoted),
            Self::Host => of_http(&|http| quoted(http.host.as_str())),
            Self::Method => of_http(&|http| quoted(http.method)),
            Self::Path => of_http(&|http| quoted(http.path.path())),
            Self::PathAndQuery => of_http(&|http| quoted(http.path.path_and_query())),
            Self::Header(name) => of_http(&|http| match http.headers.lines(name).as_slice() {
                [] => "no such header".to_owned(),
                lines if is_secret(name) => format!("a value of {} bytes", lines.concat().len()),
                lines => {
                    let shown = |line: &&[u8]| quoted(&String::from_utf8_lossy(line));
                    lines.iter().map(shown).collect::<Vec<_>>().join(" and ")
                }
            }),
        }
    }
}

impl AddressFact {
    pub(super) fn address(self, facts: &Facts<'_>) -> IpAddr {
        match self {
            Self::Source => facts.source,
            Self::Remote => facts.remote,
            Self::Destination => facts.destination.ip(),
        }
    }
}

/// A part of the peer's identity for a person; all of it where it has no such part.
pub(super) fn seen_of_peer(facts: &Facts<'_>, part: Option<&str>) -> String {
    match (facts.peer, part) {
        (None, _) => "no identity (plaintext)".to_owned(),
        (Some(_), Some(part)) => quoted(part),
        (Some(peer), None) => quoted(peer.principal()),
    }
}

/// What stands before the path.
fn trust_domain(principal: &str) -> &str {
    principal.split_once('/').map_or(principal, |(trust_domain, _)| trust_domain)
}

fn sni<'f>(facts: &Facts<'f>) -> Option<&'f str> {
    facts.sni.filter(|sni| !sni.is_empty())
}

/// Headers whose values go into no log and no answer.
fn is_secret(header: &str) -> bool {
    const SECRET: [&str; 4] = ["authorization", "cookie", "token", "key"];
    SECRET.iter().any(|part| header.contains(part))
}
