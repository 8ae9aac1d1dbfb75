//! The HTTPS API: sign a CSR, read the trust bundle.
//!
//! Whatever costs nothing to refuse is refused first: path, method and length, then what the [`desk`](super::desk)
//! refuses. The caller learns of a refused evidence only that it was refused.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, Request, StatusCode};
use pillion_mesh::duration;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::desk::{BODY_LIMIT, Caller, Case, Denial, Desk, Door};
use super::faults::GARBAGE;
use super::http::{self, Answer};
use crate::attest::Refusal;
use crate::authority::Issued;
use crate::bundle::Bundle;

/// All that answers need; shared by the connections.
pub(super) struct Api {
    desk: Desk,
}

/// Serves one connection. Over HTTP/1.1 it carries one request, all of it within `timeout`; over HTTP/2 see `http2`.
pub(super) async fn serve(
    api: Arc<Api>,
    stream: TcpStream,
    address: SocketAddr,
    tls: Arc<ServerConfig>,
    timeout: Duration,
    stop: CancellationToken,
) {
    let deadline = Instant::now() + timeout;
    let handshake = stop.run_until_cancelled(TlsAcceptor::from(tls).accept(stream));
    let stream = match timeout_at(deadline, handshake).await {
        Ok(Some(Ok(stream))) => stream,
        Ok(Some(Err(error))) => return api.desk.handshake_failed(address, &error),
        Ok(None) => return,
        Err(_elapsed) => return cut_off(address, timeout),
    };
    let faults = api.desk.faults();
    if faults.hangs_up() {
        return reset(&stream);
    }
    tokio::time::sleep(faults.delay()).await;
    let deadline = deadline + faults.delay();
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).cloned();
    let caller = Caller { address, certificate };
    #[cfg(feature = "grpc")]
    if stream.get_ref().1.alpn_protocol() == Some(super::http2::ALPN) {
        return super::http2::serve(api, stream, caller, timeout, stop).await;
    }
    if timeout_at(deadline, serve_http1(&api, stream, &caller, &stop)).await.is_err() {
        cut_off(address, timeout);
    }
}

fn cut_off(address: SocketAddr, timeout: Duration) {
    tracing::warn!(caller = %address, "cut off: no whole request within {timeout:?}");
}

/// Closes by a reset, as a process does that dies.
fn reset(stream: &TlsStream<TcpStream>) {
    if let Err(error) = stream.get_ref().0.set_zero_linger() {
        tracing::debug!(error = %error, "cannot reset the connection");
    }
}

async fn serve_http1(api: &Api, mut stream: TlsStream<TcpStream>, caller: &Caller, stop: &CancellationToken) {
    let served = http::serve_one(&mut stream, stop, |request| api.respond(caller, request)).await;
    match served {
        Ok(()) => http::linger(stream.get_mut().0).await,
        Err(error) => tracing::debug!(caller = %caller.address, error = %error, "connection failed"),
    }
}

impl Api {
    pub(super) fn new(desk: Desk) -> Self {
        Api { desk }
    }

    pub(super) fn desk(&self) -> &Desk {
        &self.desk
    }

    pub(super) async fn respond<B>(&self, caller: &Caller, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let method = request.method();
        match request.uri().path() {
            "/v1/certificates" if *method == Method::POST => self.certificate(caller, request).await,
            "/v1/certificates" => http::method_not_allowed(method, "POST"),
            "/v1/bundle" | "/v1/bundle.pem" if !http::reads(method) => {
                http::method_not_allowed(method, "GET, HEAD")
            }
            "/v1/bundle" => self.bundle(),
            "/v1/bundle.pem" => http::answer(StatusCode::OK, "application/x-pem-file", self.bundle_pem()),
            _ => http::not_found(),
        }
    }

    fn bundle_pem(&self) -> String {
        if self.desk.faults().publishes_garbage() {
            return GARBAGE.to_owned();
        }
        self.desk.published().slots().bundle_pem().to_owned()
    }

    fn bundle(&self) -> Answer {
        if self.desk.faults().publishes_garbage() {
            return http::answer(StatusCode::OK, "application/json", GARBAGE);
        }
        let slots = self.desk.published().slots();
        match serde_json::to_vec(&Bundle::of(slots.roots(), slots.sequence())) {
            Ok(json) => http::answer(StatusCode::OK, "application/json", json),
            Err(error) => http::problem(StatusCode::INTERNAL_SERVER_ERROR, Some(error.to_string())),
        }
    }

    async fn certificate<B>(&self, caller: &Caller, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut case = self.desk.open(caller, Door::Https);
        let outcome = sign(&mut case, request).await;
        case.close(&outcome);
        match outcome {
            Ok(issued) => {
                let chain = issued.chain_pem;
                let mut answer =
                    http::answer(StatusCode::CREATED, "application/pem-certificate-chain", chain);
                answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                answer
            }
            Err(denial) => worded(&denial),
        }
    }
}

/// From the evidence to the signature.
async fn sign<B>(case: &mut Case<'_>, request: Request<B>) -> Result<Issued, Denial>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    if request.body().size_hint().lower() > BODY_LIMIT as u64 {
        return Err(Denial::TooLarge);
    }
    let who = case.identify(request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes))?;
    case.asks_for(requested_ttl(request.uri().query())?);
    let body = Limited::new(request.into_body(), BODY_LIMIT).collect().await;
    let body = body.map_err(|error| broken(&*error))?;
    case.sign(&who, &body.to_bytes())
}

/// Why a body could not be read.
pub(super) fn broken(error: &(dyn Error + Send + Sync + 'static)) -> Denial {
    if error.is::<LengthLimitError>() { Denial::TooLarge } else { Denial::Broken(error.to_string()) }
}

fn worded(denial: &Denial) -> Answer {
    let detail = Some(denial.to_string());
    let mut answer = match denial {
        Denial::TooLarge => http::problem(StatusCode::PAYLOAD_TOO_LARGE, detail),
        Denial::Evidence(Refusal::NotSpent(_)) => http::problem(StatusCode::SERVICE_UNAVAILABLE, None),
        Denial::Evidence(_) | Denial::RefusedOnPurpose => {
            let mut answer = http::problem(StatusCode::UNAUTHORIZED, None);
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            answer
        }
        Denial::AddressRate(_) | Denial::IdentityRate { .. } | Denial::BusyOnPurpose => {
            http::problem(StatusCode::TOO_MANY_REQUESTS, detail)
        }
        Denial::Lifetime(_) | Denial::Broken(_) | Denial::Csr(_) => {
            http::problem(StatusCode::BAD_REQUEST, detail)
        }
        Denial::Signing(_) | Denial::ErrorOnPurpose => http::problem(StatusCode::INTERNAL_SERVER_ERROR, None),
    };
    if let Some(seconds) = denial.retry_after() {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// The lifetime that the query asks for, `?ttl=24h`.
fn requested_ttl(query: Option<&str>) -> Result<Option<Duration>, Denial> {
    let mut ttl = None;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let Some(text) = pair.strip_prefix("ttl=") else {
            return Err(Denial::Lifetime("the query holds something else than ttl=<duration>".to_owned()));
        };
        let wish = duration::parse(text).map_err(|error| Denial::Lifetime(format!("ttl: {error}")))?;
        if wish < Duration::from_secs(1) {
            return Err(Denial::Lifetime("ttl: expected at least 1s".to_owned()));
        }
        ttl = Some(wish);
    }
    Ok(ttl)
}

#[cfg(test)]
mod tests;
