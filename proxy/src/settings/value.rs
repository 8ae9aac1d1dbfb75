//! Single values as people write them: an address, a duration, a destination. The file and the flags share them.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use pillion_mesh::duration::{self, DurationError};
use pillion_mesh::wire::rfc3339;
use serde::{Deserialize, Deserializer, de};

use crate::tls::{Group, Suite, TlsVersion};

/// A value is written in a form that it cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ValueError(String);

/// `IP:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address(pub(super) SocketAddr);

impl FromStr for Address {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse().map(Self).map_err(|_syntax| {
            ValueError(format!(
                "`{text}` is not an address with a port; write it as 0.0.0.0:15006 or [::1]:15006, names are not looked up here"
            ))
        })
    }
}

/// A duration, `500ms`; longer than nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Period(pub(super) Duration);

impl FromStr for Period {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        duration::parse(text).map(Self)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&duration::print(self.0))
    }
}

/// A moment, `2026-11-26T00:00:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment(pub(super) SystemTime);

impl FromStr for Moment {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        rfc3339::parse(text).map(Self).map_err(|_syntax| {
            ValueError(format!("`{text}` is not a time; write it as 2026-11-26T00:00:00Z (RFC 3339)"))
        })
    }
}

/// `HOST:PORT` of a service in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) host: String,
    pub(super) port: u16,
}

impl FromStr for Destination {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let name = |host: &str| {
            !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
            Some((host, Ok(port))) if port != 0 && name(host) => {
                Ok(Self { host: host.to_ascii_lowercase(), port })
            }
            _ => Err(ValueError(format!(
                "`{text}` is not a host with a port; write it as a ServiceEntry names it, such as backend:8080"
            ))),
        }
    }
}

/// `https://HOST:PORT` of a certificate authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpsOrigin {
    pub(super) host: String,
    pub(super) port: u16,
}

/// Where Istio's and pillion's authorities listen.
const CA_PORT: u16 = 15012;

impl FromStr for HttpsOrigin {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let malformed = || {
            ValueError(format!(
                "`{text}` is not the address of a CA; write it as https://ca:15012, with no path"
            ))
        };
        let uri: hyper::Uri = text.parse().map_err(|_syntax| malformed())?;
        let authority = uri.authority().ok_or_else(malformed)?;
        let bare = uri.path().trim_matches('/').is_empty() && uri.query().is_none();
        // `Authority` keeps user information; a CA has none.
        if uri.scheme_str() != Some("https")
            || !bare
            || authority.as_str().contains('@')
            || authority.host().is_empty()
        {
            return Err(malformed());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        match authority.port_u16() {
            Some(0) => Err(malformed()),
            Some(port) => Ok(Self { host, port }),
            None if authority.as_str() == authority.host() => Ok(Self { host, port: CA_PORT }),
            None => Err(malformed()),
        }
    }
}

impl fmt::Display for HttpsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "https://[{}]:{}", self.host, self.port),
            false => write!(f, "https://{}:{}", self.host, self.port),
        }
    }
}

/// `unix:///PATH`, the socket of a SPIFFE Workload API (SPIFFE Workload Endpoint 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnixSocket(pub(super) PathBuf);

impl FromStr for UnixSocket {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') && path.len() > 1 => Ok(Self(PathBuf::from(path))),
            _ => Err(ValueError(format!(
                "`{text}` is not the socket of a Workload API; write it as unix:///run/spire/sockets/agent.sock"
            ))),
        }
    }
}

impl fmt::Display for UnixSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// `0660`, who may open a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SocketMode(pub(super) u32);

impl FromStr for SocketMode {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let octal = |digits: &&str| digits.len() == 3 && digits.bytes().all(|digit| digit.is_ascii_digit());
        let digits = text.strip_prefix('0').filter(octal);
        match digits.and_then(|digits| u32::from_str_radix(digits, 8).ok()) {
            Some(mode) => Ok(Self(mode)),
            None => Err(ValueError(format!(
                "`{text}` is not the mode of a socket; write four octal digits, \"0660\" or \"0666\""
            ))),
        }
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// `https://HOST[:PORT]/PATH`, where a trust bundle is served (SPIFFE Federation 5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpsUrl {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
}

impl FromStr for HttpsUrl {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let malformed = || {
            ValueError(format!(
                "`{text}` is not the address of a bundle endpoint; write it as https://ca.other.example:15012/v1/bundle"
            ))
        };
        let uri: hyper::Uri = text.parse().map_err(|_syntax| malformed())?;
        let authority = uri.authority().ok_or_else(malformed)?;
        let port = match authority.port_u16() {
            Some(0) => return Err(malformed()),
            Some(port) => port,
            None if authority.as_str() == authority.host() => 443,
            None => return Err(malformed()),
        };
        // No user information (SPIFFE Federation 5.2.1.1).
        if uri.scheme_str() != Some("https")
            || authority.as_str().contains('@')
            || authority.host().is_empty()
        {
            return Err(malformed());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = uri.path_and_query().map_or("/", hyper::http::uri::PathAndQuery::as_str).to_owned();
        Ok(Self { host, port, path })
    }
}

impl fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, path } = self;
        write!(f, "{}{path}", HttpsOrigin { host: host.clone(), port: *port })
    }
}

/// `1.2` or `1.3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MinVersion(pub(super) TlsVersion);

impl FromStr for MinVersion {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "1.2" => Ok(Self(TlsVersion::Tls12)),
            "1.3" => Ok(Self(TlsVersion::Tls13)),
            _ => Err(ValueError(format!(
                "`{text}` is not a version that is spoken here; write \"1.2\" or \"1.3\""
            ))),
        }
    }
}

impl fmt::Display for MinVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            TlsVersion::Tls12 => "1.2",
            TlsVersion::Tls13 => "1.3",
        })
    }
}

/// `NAME=VALUE`, a label on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) name: String,
    pub(super) value: String,
}

impl FromStr for Label {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok(Self { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err(ValueError(format!("`{text}` is not a label; write it as app=backend"))),
        }
    }
}

/// `PORT=PORT`, a port in another's place on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortPair {
    pub(super) of_gateway: u16,
    pub(super) bound: u16,
}

impl FromStr for PortPair {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let port = |text: &str| text.parse::<u16>().ok();
        match text.split_once('=').map(|(of_gateway, bound)| (port(of_gateway), port(bound))) {
            Some((Some(of_gateway), Some(bound))) => Ok(Self { of_gateway, bound }),
            _ => Err(ValueError(format!("`{text}` is not a pair of ports; write it as 80=8080"))),
        }
    }
}

/// In the file these are texts.
macro_rules! deserialize_from_text {
    ($($name:ident),+) => {
        $(impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        })+
    };
}

deserialize_from_text!(
    Address,
    Period,
    Moment,
    Destination,
    HttpsOrigin,
    HttpsUrl,
    MinVersion,
    SocketMode,
    UnixSocket,
    Suite,
    Group
);

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("https://ca:15012", "ca", 15012)]
    #[case("https://ca", "ca", 15012)]
    #[case("https://ca/", "ca", 15012)]
    #[case("https://10.0.0.1:443", "10.0.0.1", 443)]
    #[case("https://[::1]:15012", "::1", 15012)]
    fn a_ca_is_an_https_origin(#[case] text: &str, #[case] host: &str, #[case] port: u16) {
        assert_eq!(text.parse(), Ok(HttpsOrigin { host: host.to_owned(), port }));
    }

    #[rstest]
    #[case("ca:15012")]
    #[case("http://ca:15012")]
    #[case("https://")]
    #[case("https://ca:0")]
    #[case("https://ca:")]
    #[case("https://ca:99999")]
    #[case("https://user@ca:15012")]
    #[case("https://ca:15012/v1")]
    #[case("https://ca:15012?x")]
    fn other_addresses_of_a_ca_are_refused(#[case] text: &str) {
        assert!(text.parse::<HttpsOrigin>().is_err(), "{text:?} was taken for an origin");
    }

    #[rstest]
    #[case("https://ca:15012/v1/bundle", Some(("ca", 15012, "/v1/bundle")))]
    #[case("https://other.example", Some(("other.example", 443, "/")))]
    #[case("https://[::1]:8443/a?b=c", Some(("::1", 8443, "/a?b=c")))]
    #[case("http://ca/v1/bundle", None)]
    #[case("https://user@ca/v1/bundle", None)]
    #[case("https://ca:0/", None)]
    #[case("https://ca:/", None)]
    #[case("/v1/bundle", None)]
    fn a_bundle_endpoint_is_a_url_of_https(#[case] text: &str, #[case] expected: Option<(&str, u16, &str)>) {
        let expected = expected.map(|(host, port, path)| HttpsUrl {
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        });
        assert_eq!(text.parse().ok(), expected);
    }

    #[rstest]
    #[case("unix:///run/agent.sock", Some("/run/agent.sock"))]
    #[case("unix:/run/agent.sock", None)]
    #[case("unix://run/agent.sock", None)]
    #[case("unix:///", None)]
    #[case("tcp://127.0.0.1:8081", None)]
    #[case("/run/agent.sock", None)]
    fn the_socket_of_a_workload_api_is_a_path(#[case] text: &str, #[case] expected: Option<&str>) {
        assert_eq!(text.parse().ok(), expected.map(|path| UnixSocket(PathBuf::from(path))));
    }

    #[rstest]
    #[case("0660", Some(0o660))]
    #[case("0777", Some(0o777))]
    #[case("660", None)]
    #[case("0o660", None)]
    #[case("04755", None)]
    #[case("0680", None)]
    #[case("0+66", None)]
    #[case("rw-rw----", None)]
    fn a_mode_is_four_octal_digits(#[case] text: &str, #[case] expected: Option<u32>) {
        assert_eq!(text.parse().ok(), expected.map(SocketMode));
    }

    #[rstest]
    #[case("backend:8080", Some(("backend", 8080)))]
    #[case("Backend.Default.svc:80", Some(("backend.default.svc", 80)))]
    #[case("backend", None)]
    #[case(":80", None)]
    #[case("backend:0", None)]
    #[case("backend:http", None)]
    #[case("back end:80", None)]
    #[case("[::1]:80", None)]
    fn a_destination_is_a_host_and_a_port(#[case] text: &str, #[case] expected: Option<(&str, u16)>) {
        let expected = expected.map(|(host, port)| Destination { host: host.to_owned(), port });
        assert_eq!(text.parse().ok(), expected);
    }
}
