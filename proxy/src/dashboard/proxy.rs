//! The admin API of a sidecar, asked over plain HTTP within bounds.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST};
use hyper::http::uri::Authority;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use pillion_mesh::wire::Problem;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// Time for an answer, its last byte included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a connection to a proxy.
const DIAL: Duration = Duration::from_secs(3);
/// Bytes of an answer.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// The port of a URL without one.
const HTTP: u16 = 80;

/// Where a sidecar's admin API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    authority: Authority,
}

/// A text that is no such URL.
#[derive(Debug, thiserror::Error)]
#[error("expected the URL of an admin API, http://HOST:PORT, seen {0:?}")]
pub struct NoUrl(String);

impl FromStr for Proxy {
    type Err = NoUrl;

    /// `http://HOST:PORT`, or `HOST:PORT`.
    fn from_str(url: &str) -> Result<Self, NoUrl> {
        let rest = url.strip_prefix("http://").unwrap_or(url);
        let authority = rest.strip_suffix('/').unwrap_or(rest).parse::<Authority>();
        let authority = authority.ok().filter(|authority| !authority.as_str().contains('@'));
        authority.map(|authority| Self { authority }).ok_or_else(|| NoUrl(url.to_owned()))
    }
}

impl Display for Proxy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// What a proxy tells, as it comes.
pub(super) struct Events {
    body: Incoming,
    _connection: AbortOnDropHandle<()>,
}

impl Events {
    /// The next piece; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(format!("its answer was cut: {error}")),
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }
}

impl Proxy {
    /// A page, whole.
    pub(super) async fn get(&self, page: &str) -> Result<(StatusCode, Bytes), String> {
        let whole = async {
            let (response, _connection) = self.ask(page).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| format!("its answer was cut: {error}"))?;
            Ok((status, body.to_bytes()))
        };
        timeout(TIMEOUT, whole)
            .await
            .unwrap_or_else(|_late| Err(format!("no whole answer within {TIMEOUT:?}")))
    }

    /// What it tells from now on.
    pub(super) async fn events(&self) -> Result<Events, String> {
        let asked = timeout(TIMEOUT, self.ask("/events")).await;
        let (response, connection) =
            asked.unwrap_or_else(|_late| Err(format!("no answer within {TIMEOUT:?}")))?;
        match response.status() {
            StatusCode::OK => Ok(Events { body: response.into_body(), _connection: connection }),
            StatusCode::NOT_FOUND => {
                Err("has no page /events; it is no pillion-proxy, or one of an older version".to_owned())
            }
            status => Err(refusal(status, response.into_body()).await),
        }
    }

    async fn ask(&self, page: &str) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), String> {
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        let dialled = TcpStream::connect((host, self.authority.port_u16().unwrap_or(HTTP)));
        let stream = match timeout(DIAL, dialled).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                return Err(format!("{error}; is the proxy running, and can its admin API be reached?"));
            }
            Err(_late) => return Err(format!("no connection within {DIAL:?}")),
        };
        let faulty = |error: hyper::Error| format!("no answer: {error}");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(faulty)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // The answer tells how it ended.
            let _ = connection.await;
        }));
        let request = Request::get(page)
            .header(HOST, self.authority.as_str())
            .header(ACCEPT, "application/json")
            .body(Empty::<Bytes>::new())
            .map_err(|error| format!("{page} cannot be asked for: {error}"))?;
        Ok((sender.send_request(request).await.map_err(faulty)?, connection))
    }
}

/// Why a proxy does not tell.
async fn refusal(status: StatusCode, body: Incoming) -> String {
    let body = timeout(TIMEOUT, Limited::new(body, MAX_ANSWER).collect()).await;
    let problem: Option<Problem> =
        body.ok().and_then(Result::ok).and_then(|body| serde_json::from_slice(&body.to_bytes()).ok());
    let detail = problem.and_then(|problem| problem.detail).unwrap_or_default();
    format!("answered {status}: {detail}")
}
