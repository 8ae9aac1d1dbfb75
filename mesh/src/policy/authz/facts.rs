//! What is known of a connection, or of one request on it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::policy::path::Normalized;
use crate::policy::request::Host;
use crate::spiffe::SpiffeId;

/// What the decision is about.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'f> {
    /// Who the peer has proven to be; `None` for plaintext. Without an identity, fields that ask for one do not match,
    /// and their `not…` twins do.
    pub peer: Option<&'f SpiffeId>,
    /// The address that the connection comes from (`ipBlocks`, `source.ip`).
    pub source: IpAddr,
    /// The address of the original client (`remoteIpBlocks`, `remote.ip`); `source` where nobody trusted names another.
    pub remote: IpAddr,
    /// Where the connection was going: the workload's address and port.
    pub destination: SocketAddr,
    /// The server name of the TLS ClientHello.
    pub sni: Option<&'f str>,
    /// The request; `None` for a TCP connection as a whole.
    pub http: Option<HttpFacts<'f>>,
}

/// What one HTTP request says.
#[derive(Clone, Copy)]
pub struct HttpFacts<'f> {
    /// The method, after [`crate::policy::request::check_method`].
    pub method: &'f str,
    /// The host, from [`crate::policy::request::host`].
    pub host: &'f Host,
    /// The path, from [`crate::policy::path::normalize`].
    pub path: &'f Normalized,
    /// The header fields.
    pub headers: &'f dyn Headers,
}

/// Header fields by name.
pub trait Headers: Sync {
    /// The values of all lines of a field in their order, none where it is absent. `name` is in lower case.
    fn lines(&self, name: &str) -> Vec<&[u8]>;
}

/// Name and value of each line, names in any case.
impl Headers for Vec<(String, String)> {
    fn lines(&self, name: &str) -> Vec<&[u8]> {
        self.iter().filter(|line| line.0.eq_ignore_ascii_case(name)).map(|line| line.1.as_bytes()).collect()
    }
}

/// Without the headers, among which are secrets.
impl fmt::Debug for HttpFacts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.method, self.host, self.path.path())
    }
}
