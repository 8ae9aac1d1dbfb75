//! The HTTPS API: sign a CSR, read the trust bundle.
//!
//! Whatever costs nothing to refuse is refused first: path, method and length, then the evidence, then the request
//! itself. Every answer to a CSR is one line of the audit log; the caller learns of a refused evidence only that it was
//! refused.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, StatusCode};
use pillion_mesh::duration;
use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::wire::rfc3339;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::http::{self, Answer};
use crate::attest::{Attestor, Evidence, Refusal};
use crate::authority::{Authority, IssueError, Issued};
use crate::bundle::Bundle;
use crate::clock::Clock;
use crate::csr::{self, CsrError};
use crate::metrics::Metrics;

/// Longest body of a request, in bytes (requirement 34).
const BODY_LIMIT: usize = 64 * 1024;

/// All that answers need; shared by the connections.
pub(super) struct Api {
    authority: Arc<Authority>,
    attestor: Attestor,
    metrics: Metrics,
}

/// Who calls, as far as the connection shows.
pub(super) struct Caller {
    pub(super) address: SocketAddr,
    /// The leaf of a client certificate that the handshake verified.
    pub(super) certificate: Option<CertificateDer<'static>>,
}

/// Serves one request of one connection, all of it within `timeout`.
pub(super) async fn serve(
    api: Arc<Api>,
    stream: TcpStream,
    address: SocketAddr,
    tls: Arc<ServerConfig>,
    timeout: Duration,
    stop: CancellationToken,
) {
    let serving = serve_within(&api, stream, address, tls, &stop);
    if tokio::time::timeout(timeout, serving).await.is_err() {
        tracing::warn!(caller = %address, "cut off: no whole request within {timeout:?}");
    }
}

async fn serve_within(
    api: &Api,
    stream: TcpStream,
    address: SocketAddr,
    tls: Arc<ServerConfig>,
    stop: &CancellationToken,
) {
    let Some(handshake) = stop.run_until_cancelled(TlsAcceptor::from(tls).accept(stream)).await else {
        return;
    };
    let mut stream = match handshake {
        Ok(stream) => stream,
        Err(error) => return api.handshake_failed(address, &error),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).cloned();
    let caller = Caller { address, certificate };
    let served = http::serve_one(&mut stream, stop, |request| api.respond(&caller, request)).await;
    match served {
        Ok(()) => http::linger(stream.get_mut().0).await,
        Err(error) => tracing::debug!(caller = %address, error = %error, "connection failed"),
    }
}

impl Api {
    pub(super) fn new(authority: Arc<Authority>, attestor: Attestor, metrics: Metrics) -> Self {
        Api { authority, attestor, metrics }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn clock(&self) -> Clock {
        self.authority.clock()
    }

    /// Brings the metrics of the published roots up to date.
    pub(super) fn show_roots(&self) {
        self.metrics.show_roots(self.authority.slots().signers());
    }

    pub(super) fn can_sign(&self, now: SystemTime) -> bool {
        now < self.authority.slots().current().not_after()
    }

    /// A client certificate that does not verify ends here, before there is a request to answer.
    fn handshake_failed(&self, caller: SocketAddr, error: &std::io::Error) {
        let fault = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if matches!(fault, Some(rustls::Error::InvalidCertificate(_))) {
            self.metrics.authentication_failure.increment();
            tracing::warn!(target: "audit", caller = %caller, evidence = "certificate", result = "refused",
                reason = error.to_string().as_str(), "TLS handshake refused");
        } else {
            tracing::debug!(caller = %caller, error = %error, "TLS handshake failed");
        }
    }

    async fn respond<B>(&self, caller: &Caller, request: Request<B>) -> Answer
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
            "/v1/bundle.pem" => {
                let pem = self.authority.slots().bundle_pem().to_owned();
                http::answer(StatusCode::OK, "application/x-pem-file", pem)
            }
            _ => http::not_found(),
        }
    }

    fn bundle(&self) -> Answer {
        let slots = self.authority.slots();
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
        self.metrics.csr.increment();
        let mut audit = Audit::default();
        let outcome = self.sign(caller, request, &mut audit).await;
        audit.log(caller, &outcome);
        self.count(&outcome);
        match outcome {
            Ok(issued) => {
                let chain = issued.chain_pem;
                let mut answer =
                    http::answer(StatusCode::CREATED, "application/pem-certificate-chain", chain);
                answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                answer
            }
            Err(fault) => fault.answer(),
        }
    }

    /// The life of a CSR, from its evidence to the signature.
    async fn sign<B>(&self, caller: &Caller, request: Request<B>, audit: &mut Audit) -> Result<Issued, Fault>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let now = self.clock().now();
        let evidence = match (request.headers().get(AUTHORIZATION), &caller.certificate) {
            (Some(header), _) => Evidence::Authorization(header.as_bytes()),
            (None, Some(certificate)) => Evidence::Certificate(certificate),
            (None, None) => Evidence::Nothing,
        };
        audit.evidence = evidence.kind();
        if request.body().size_hint().lower() > BODY_LIMIT as u64 {
            return Err(Fault::TooLarge);
        }
        let id = self.attestor.identify(&evidence, now)?;
        audit.identity = Some(id.clone());
        audit.asked = requested_ttl(request.uri().query())?;
        let ttl = self.authority.ttl().grant(audit.asked);
        audit.granted = Some(ttl);
        let body = Limited::new(request.into_body(), BODY_LIMIT).collect().await;
        let body = body.map_err(|error| Fault::of_body(&*error))?;
        let csr = csr::read(&body.to_bytes())?;
        audit.ignored.clone_from(&csr.ignored);
        Ok(self.authority.issue(&id, &csr, ttl, now)?)
    }

    fn count(&self, outcome: &Result<Issued, Fault>) {
        match outcome {
            Ok(_) => self.metrics.success.increment(),
            Err(Fault::Evidence(_)) => self.metrics.authentication_failure.increment(),
            Err(Fault::Csr(_)) => self.metrics.csr_parsing_error.increment(),
            Err(Fault::Signing(_)) => self.metrics.csr_sign_error.increment(),
            Err(Fault::TooLarge | Fault::Ttl(_) | Fault::Interrupted(_)) => {}
        }
    }
}

/// Why a CSR got no certificate. The text is the whole reason, for the log.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the body is longer than {BODY_LIMIT} bytes")]
    TooLarge,
    #[error(transparent)]
    Evidence(#[from] Refusal),
    #[error("{0}")]
    Ttl(String),
    #[error("the body broke off: {0}")]
    Interrupted(String),
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error(transparent)]
    Signing(#[from] IssueError),
}

impl Fault {
    fn of_body(error: &(dyn Error + Send + Sync + 'static)) -> Self {
        if error.is::<LengthLimitError>() { Fault::TooLarge } else { Fault::Interrupted(error.to_string()) }
    }

    fn answer(&self) -> Answer {
        let detail = Some(self.to_string());
        match self {
            Fault::TooLarge => http::problem(StatusCode::PAYLOAD_TOO_LARGE, detail),
            Fault::Evidence(_) => {
                let mut answer = http::problem(StatusCode::UNAUTHORIZED, None);
                answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                answer
            }
            Fault::Ttl(_) | Fault::Interrupted(_) | Fault::Csr(_) => {
                http::problem(StatusCode::BAD_REQUEST, detail)
            }
            Fault::Signing(_) => http::problem(StatusCode::INTERNAL_SERVER_ERROR, None),
        }
    }
}

/// The lifetime that the query asks for, `?ttl=24h`.
fn requested_ttl(query: Option<&str>) -> Result<Option<Duration>, Fault> {
    let mut ttl = None;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let Some(text) = pair.strip_prefix("ttl=") else {
            return Err(Fault::Ttl("the query holds something else than ttl=<duration>".to_owned()));
        };
        let wish = duration::parse(text).map_err(|error| Fault::Ttl(format!("ttl: {error}")))?;
        if wish < Duration::from_secs(1) {
            return Err(Fault::Ttl("ttl: expected at least 1s".to_owned()));
        }
        ttl = Some(wish);
    }
    Ok(ttl)
}

/// What the audit log tells of a CSR, gathered on the way.
#[derive(Default)]
struct Audit {
    evidence: &'static str,
    identity: Option<SpiffeId>,
    asked: Option<Duration>,
    granted: Option<Duration>,
    ignored: String,
}

impl Audit {
    /// One line, whatever the outcome. Texts that a caller can shape are logged quoted and escaped.
    fn log(&self, caller: &Caller, outcome: &Result<Issued, Fault>) {
        let caller = caller.address;
        let evidence = self.evidence;
        let identity = self.identity.as_ref().map(SpiffeId::as_str);
        let ignored = Some(self.ignored.as_str()).filter(|ignored| !ignored.is_empty());
        let capped = self.asked.filter(|asked| Some(*asked) != self.granted);
        let note = capped.map(|asked| format!("asked for {asked:?}, which is over workloadTtl.max"));
        let note = note.as_deref();
        match outcome {
            Ok(issued) => {
                let serial = issued.serial.as_str();
                let not_after = rfc3339::print(issued.not_after);
                let not_after = not_after.as_str();
                tracing::info!(target: "audit", %caller, evidence, identity, result = "issued", serial, not_after,
                    ignored, note, "CSR answered");
            }
            Err(fault) => {
                let reason = fault.to_string();
                let reason = reason.as_str();
                tracing::warn!(target: "audit", %caller, evidence, identity, result = "refused", reason, ignored, note,
                    "CSR answered");
            }
        }
    }
}

#[cfg(test)]
mod tests;
