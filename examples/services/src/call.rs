//! One HTTP call on a new connection, told in words that a person understands, with the system's own error name.

use std::error::Error;
use std::io;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::Value;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;

/// For the whole call, from looking up the name to the last byte of the body.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Of the answer's body, in bytes.
const BODY_SIZE: usize = 64 * 1024;

/// Where to call: a checked `http://host[:port][/path]`.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    host: String,
    port: u16,
    path: String,
    authority: HeaderValue,
    url: String,
}

impl Target {
    /// As typed, with the path.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |seen: &str| format!("expected a URL such as http://backend:8080, got {text}: {seen}");
        let uri: Uri = text.parse().map_err(|error| wrong(&format!("{error}")))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("the scheme is not http"));
        }
        let host = uri.host().ok_or_else(|| wrong("there is no host"))?;
        let authority = uri.authority().map_or(host, |authority| authority.as_str());
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Target {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(80),
            path: path.to_owned(),
            authority: HeaderValue::from_str(authority).map_err(|error| wrong(&error.to_string()))?,
            url: format!("http://{authority}{path}"),
        })
    }
}

/// What came of one call.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    /// Whether a whole answer with a status of 2xx came back.
    pub(crate) ok: bool,
    /// The HTTP status, where there was an answer.
    pub(crate) status: Option<u16>,
    /// The answer's body: as JSON if it is JSON, else as text.
    pub(crate) body: Option<Value>,
    /// What went wrong, in plain words.
    pub(crate) error: Option<String>,
    /// The system's name for it, such as `ECONNRESET`, where the system reported it.
    pub(crate) errno: Option<&'static str>,
    /// How long it all took, in microseconds.
    pub(crate) micros: u64,
}

/// Calls `target` on a new connection. Takes ten seconds at most.
pub(crate) async fn call(target: &Target) -> Outcome {
    let started = Instant::now();
    let result = tokio::time::timeout(TIMEOUT, get(target)).await.unwrap_or(Err(Failure::Timeout));
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    match result {
        Ok((status, body)) => Outcome {
            ok: status.is_success(),
            status: Some(status.as_u16()),
            error: (!status.is_success()).then(|| format!("The backend answered {status}.")),
            body: Some(body),
            errno: None,
            micros,
        },
        Err(failure) => Outcome {
            ok: false,
            status: None,
            body: None,
            error: Some(failure.to_string()),
            errno: failure.errno(),
            micros,
        },
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("The name {0} could not be looked up: {1}.")]
    Lookup(String, io::Error),
    #[error("The connection could not be made: {}.", connect_words(.0))]
    Connect(io::Error),
    #[error("The connection was made, and then {}.", talk_words(.0.as_ref()))]
    Talk(Box<dyn Error + Send + Sync>),
    #[error("There was no whole answer within {} seconds.", TIMEOUT.as_secs())]
    Timeout,
}

impl Failure {
    fn errno(&self) -> Option<&'static str> {
        match self {
            Failure::Connect(error) => errno(error),
            Failure::Talk(error) => io_error(error.as_ref()).and_then(errno),
            Failure::Lookup(..) | Failure::Timeout => None,
        }
    }
}

async fn get(target: &Target) -> Result<(StatusCode, Value), Failure> {
    let addresses: Vec<_> = lookup_host((target.host.as_str(), target.port))
        .await
        .map_err(|error| Failure::Lookup(target.host.clone(), error))?
        .collect();
    let stream = TcpStream::connect(addresses.as_slice()).await.map_err(Failure::Connect)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| Failure::Talk(error.into()))?;
    // Dropping the set ends the connection with the call.
    let mut driver = JoinSet::new();
    driver.spawn(connection);

    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = target.path.parse().map_err(|error| Failure::Talk(Box::new(error)))?;
    request.headers_mut().insert(HOST, target.authority.clone());
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));

    let response = sender.send_request(request).await.map_err(|error| Failure::Talk(error.into()))?;
    let status = response.status();
    let body =
        Limited::new(response.into_body(), BODY_SIZE).collect().await.map_err(Failure::Talk)?.to_bytes();
    let value = serde_json::from_slice(&body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
    Ok((status, value))
}

fn connect_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::ConnectionReset => "the other side reset it".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "there is no way to that address".to_owned()
        }
        io::ErrorKind::TimedOut => "the address does not answer".to_owned(),
        _ => error.to_string(),
    }
}

fn talk_words(error: &(dyn Error + 'static)) -> String {
    match io_error(error).map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionReset) => {
            "the other side reset it: it refused this caller, or it crashed".to_owned()
        }
        Some(io::ErrorKind::BrokenPipe) => "the other side closed it while we were sending".to_owned(),
        _ if closed_early(error) => "the other side closed it without a whole answer".to_owned(),
        _ => format!("something was wrong with the answer: {error}"),
    }
}

fn closed_early(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message)
}

/// The system's error in the chain of causes.
fn io_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<io::Error>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// The name in `errno.h` of an error that the system reported.
fn errno(error: &io::Error) -> Option<&'static str> {
    error.raw_os_error()?;
    Some(match error.kind() {
        io::ErrorKind::ConnectionReset => "ECONNRESET",
        io::ErrorKind::ConnectionRefused => "ECONNREFUSED",
        io::ErrorKind::ConnectionAborted => "ECONNABORTED",
        io::ErrorKind::TimedOut => "ETIMEDOUT",
        io::ErrorKind::HostUnreachable => "EHOSTUNREACH",
        io::ErrorKind::NetworkUnreachable => "ENETUNREACH",
        io::ErrorKind::BrokenPipe => "EPIPE",
        io::ErrorKind::AddrNotAvailable => "EADDRNOTAVAIL",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::port_and_slash("http://backend:8080", "backend", 8080, "http://backend:8080/")]
    #[case::default_port("http://backend", "backend", 80, "http://backend/")]
    #[case::path_and_query("http://10.0.0.2:1/a?b", "10.0.0.2", 1, "http://10.0.0.2:1/a?b")]
    #[case::ipv6("http://[::1]:8080/", "::1", 8080, "http://[::1]:8080/")]
    fn reads_a_target(#[case] text: &str, #[case] host: &str, #[case] port: u16, #[case] url: &str) {
        let target: Target = text.parse().unwrap();
        assert_eq!((target.host.as_str(), target.port, target.url()), (host, port, url));
    }

    #[rstest]
    #[case::tls("https://backend:8080", "scheme is not http")]
    #[case::no_scheme("backend:8080", "scheme is not http")]
    #[case::nothing("", "http://backend:8080")]
    fn refuses_what_it_cannot_call(#[case] text: &str, #[case] words: &str) {
        let error = text.parse::<Target>().unwrap_err();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn names_only_what_the_system_reported() {
        assert_eq!(errno(&io::Error::from_raw_os_error(104)), Some("ECONNRESET"));
        assert_eq!(errno(&io::Error::from_raw_os_error(111)), Some("ECONNREFUSED"));
        assert_eq!(errno(&io::Error::from(io::ErrorKind::ConnectionReset)), None);
    }
}
