//! A question by its parts: names and values, as flags of the command line and as query of the admin API alike.

use std::net::{IpAddr, Ipv4Addr};

use crate::spiffe::{SpiffeId, SpiffeIdError};
use crate::yaml::{expected_one_of, quoted};

/// Who asks for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The identity that the caller proves; none for plaintext.
    pub caller: Option<SpiffeId>,
    /// The port of the workload.
    pub port: u16,
    /// The caller's address; unspecified where nobody says.
    pub source: IpAddr,
    /// The workload's address; unspecified where nobody says.
    pub destination: IpAddr,
    /// The server name that the caller asks for.
    pub sni: Option<String>,
    /// The request; where the port is read as HTTP and none is given, `GET /`.
    pub asked: Option<Asked>,
}

/// A request as the caller writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// The target: a path, or a whole URL as to a proxy.
    pub path: String,
    /// The `Host`; absent is the service's.
    pub host: Option<String>,
    /// Header fields.
    pub headers: Vec<(String, String)>,
}

/// Why a question cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// A part that no question has.
    #[error("a question has no {}{}", quoted(.0), expected_one_of(.0, &Question::PARTS))]
    Unknown(String),
    /// A part that it must have.
    #[error("`{0}` is missing; {1}")]
    Missing(&'static str, &'static str),
    /// A part that it has once.
    #[error("`{0}` stands twice; keep one")]
    Twice(&'static str),
    /// A part that cannot be understood.
    #[error("{part}: expected {expected}, seen {}", quoted(.seen))]
    Invalid {
        /// Its name.
        part: &'static str,
        /// What was expected.
        expected: &'static str,
        /// What was seen.
        seen: String,
    },
    /// A caller that is no identity.
    #[error("from: expected `plaintext` or a principal such as `cluster.local/ns/default/sa/frontend`: {0}")]
    Caller(#[from] SpiffeIdError),
}

const NO_CALLER: &str =
    "say who asks: a principal such as cluster.local/ns/default/sa/frontend, or plaintext";
const NO_PORT: &str = "say which port of the workload";

impl Question {
    /// The parts of a question; `header` may stand several times.
    pub const PARTS: [&'static str; 9] =
        ["from", "port", "method", "path", "host", "header", "source-ip", "destination-ip", "sni"];

    /// A question of which only this is known.
    #[must_use]
    pub fn about(caller: Option<SpiffeId>, port: u16, asked: Option<Asked>) -> Self {
        let anywhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self { caller, port, source: anywhere, destination: anywhere, sni: None, asked }
    }

    /// Reads a question from its parts.
    ///
    /// # Errors
    /// [`QuestionError`].
    pub fn parse<N: AsRef<str>, V: AsRef<str>>(
        parts: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, QuestionError> {
        let mut written = Written::default();
        for (name, value) in parts {
            written.take(name.as_ref(), value.as_ref())?;
        }
        let Written { from, port, method, path, host, headers, source_ip, destination_ip, sni } = written;
        let caller = caller(&from.ok_or(QuestionError::Missing("from", NO_CALLER))?)?;
        let port = number(&port.ok_or(QuestionError::Missing("port", NO_PORT))?)?;
        let asks_http = method.is_some() || path.is_some() || host.is_some() || !headers.is_empty();
        let asked = asks_http.then(|| Asked {
            method: method.unwrap_or_else(|| "GET".to_owned()),
            path: path.unwrap_or_else(|| "/".to_owned()),
            host,
            headers,
        });
        let Self { source, destination, .. } = Self::about(None, port, None);
        Ok(Self {
            source: source_ip.map_or(Ok(source), |text| address("source-ip", &text))?,
            destination: destination_ip.map_or(Ok(destination), |text| address("destination-ip", &text))?,
            sni: sni.map(|name| name.to_ascii_lowercase()),
            ..Self::about(caller, port, asked)
        })
    }
}

/// The parts as they come.
#[derive(Default)]
struct Written {
    from: Option<String>,
    port: Option<String>,
    method: Option<String>,
    path: Option<String>,
    host: Option<String>,
    headers: Vec<(String, String)>,
    source_ip: Option<String>,
    destination_ip: Option<String>,
    sni: Option<String>,
}

impl Written {
    fn take(&mut self, name: &str, value: &str) -> Result<(), QuestionError> {
        let (part, place) = match name {
            "from" => ("from", &mut self.from),
            "port" => ("port", &mut self.port),
            "method" => ("method", &mut self.method),
            "path" => ("path", &mut self.path),
            "host" => ("host", &mut self.host),
            "source-ip" => ("source-ip", &mut self.source_ip),
            "destination-ip" => ("destination-ip", &mut self.destination_ip),
            "sni" => ("sni", &mut self.sni),
            "header" => {
                self.headers.push(header(value)?);
                return Ok(());
            }
            other => return Err(QuestionError::Unknown(other.to_owned())),
        };
        if place.replace(value.to_owned()).is_some() {
            return Err(QuestionError::Twice(part));
        }
        Ok(())
    }
}

fn caller(text: &str) -> Result<Option<SpiffeId>, QuestionError> {
    match text {
        "plaintext" => Ok(None),
        id if id.starts_with("spiffe://") => Ok(Some(id.parse()?)),
        principal => Ok(Some(SpiffeId::of_principal(principal)?)),
    }
}

fn number(text: &str) -> Result<u16, QuestionError> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| QuestionError::Invalid {
        part: "port",
        expected: "a number from 1 to 65535",
        seen: text.to_owned(),
    })
}

fn address(part: &'static str, text: &str) -> Result<IpAddr, QuestionError> {
    text.parse().map_err(|_| QuestionError::Invalid {
        part,
        expected: "an IP address",
        seen: text.to_owned(),
    })
}

/// `name=value`. A `host` line would be a second host beside `host`.
fn header(text: &str) -> Result<(String, String), QuestionError> {
    let invalid = |expected| QuestionError::Invalid { part: "header", expected, seen: text.to_owned() };
    let (name, value) = text.split_once('=').ok_or_else(|| invalid("`name=value`"))?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(invalid("the name of a header, then `=` and its value"));
    }
    if name.eq_ignore_ascii_case("host") {
        return Err(invalid("any header but the host, which is a part of its own (`host`)"));
    }
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}
