//! What a request asks for, in the one spelling that policies are asked with and the other side gets: method, host, path,
//! header fields. The rules of spelling are `pillion_mesh::policy::{path, request}`'s.

use std::net::SocketAddr;

use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Version};
use pillion_mesh::policy::authz::{Headers, HttpFacts};
use pillion_mesh::policy::path::{Normalized, Refused, normalize};
use pillion_mesh::policy::request::{Host, check_method, host};

/// One request's head.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) host: Host,
    pub(crate) path: Normalized,
    headers: Fields,
}

/// The header fields as the client sent them.
#[derive(Debug)]
struct Fields(HeaderMap);

/// Why a request is not judged at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAsked {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("CONNECT asks for a tunnel, which is not passed on")]
    Connect,
    #[error("a `Host` line is no text")]
    HostBytes,
}

impl Asked {
    /// Reads a head. A request of HTTP/1.0 need not name a host (RFC 9112 3.2): `destination` stands in for it.
    ///
    /// # Errors
    /// Where the request can be understood in more than one way, or asks for what is not passed on.
    pub(super) fn read(parts: &Parts, destination: SocketAddr) -> Result<Self, NotAsked> {
        if parts.method == Method::CONNECT {
            return Err(NotAsked::Connect);
        }
        check_method(parts.method.as_str())?;
        let lines: Vec<&str> = parts
            .headers
            .get_all(HOST)
            .iter()
            .map(|line| line.to_str().map_err(|_| NotAsked::HostBytes))
            .collect::<Result<_, _>>()?;
        let authority = parts.uri.authority().map(|authority| authority.as_str());
        let host = match host(authority, lines) {
            Err(Refused::NoHost) if parts.version == Version::HTTP_10 => {
                Host::parse(&destination.to_string())?
            }
            other => other?,
        };
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        Ok(Self {
            method: parts.method.clone(),
            host,
            path: normalize(target)?,
            headers: Fields(parts.headers.clone()),
        })
    }

    /// What policies are asked with.
    pub(crate) fn facts(&self) -> HttpFacts<'_> {
        HttpFacts { method: self.method.as_str(), host: &self.host, path: &self.path, headers: &self.headers }
    }
}

impl Headers for Fields {
    fn lines(&self, name: &str) -> Vec<&[u8]> {
        // A name that no field can have is that of none.
        self.0.get_all(name).iter().map(HeaderValue::as_bytes).collect()
    }
}
