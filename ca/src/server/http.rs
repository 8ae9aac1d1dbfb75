//! One HTTP/1.1 request on one connection, and the answers that more than one route gives.
//!
//! Connections are not kept alive: a workload asks once in hours, and a connection that ends with its answer has no
//! idle time to bound.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use pillion_mesh::wire::Problem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_util::sync::CancellationToken;

/// Longest request line with headers, in bytes (requirement 34).
pub(super) const HEAD_LIMIT: usize = 16 * 1024;
/// What is read of a client that still sends when its answer is out, so that the answer is not lost in a reset.
const LINGER_BYTES: u64 = 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(1);

pub(super) type Answer = Response<Full<Bytes>>;

/// Reads one request, answers it and closes the sending side. The caller puts the deadline around it.
pub(super) async fn serve_one<Io, Respond, Answering>(
    io: &mut Io,
    stop: &CancellationToken,
    respond: Respond,
) -> Result<(), hyper::Error>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    Respond: Fn(Request<Incoming>) -> Answering,
    Answering: Future<Output = Answer>,
{
    let service = service_fn(|request| {
        let answering = respond(request);
        async { Ok::<_, Infallible>(answering.await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_LIMIT)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    tokio::select! {
        result = &mut connection => return result,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Reads what the client still sends until it closes, within bounds.
pub(super) async fn linger(io: impl AsyncRead + Unpin) {
    let (mut rest, mut nowhere) = (io.take(LINGER_BYTES), tokio::io::sink());
    let reading = tokio::io::copy(&mut rest, &mut nowhere);
    // However it ends, the connection is over.
    let _ = tokio::time::timeout(LINGER_TIME, reading).await;
}

pub(super) fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// An error as `application/problem+json` (RFC 9457).
pub(super) fn problem(status: StatusCode, detail: Option<String>) -> Answer {
    let title = status.canonical_reason().unwrap_or_default().to_owned();
    let problem = Problem { status: status.as_u16(), title, detail };
    answer(status, "application/problem+json", serde_json::to_vec(&problem).unwrap_or_default())
}

pub(super) fn not_found() -> Answer {
    problem(StatusCode::NOT_FOUND, None)
}

/// Refuses a method that the path does not have (RFC 9110 15.5.6).
pub(super) fn method_not_allowed(method: &Method, allowed: &'static str) -> Answer {
    let detail = format!("{method} is not possible here; expected {allowed}");
    let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, Some(detail));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// Whether the method asks to read; hyper leaves the body out for HEAD.
pub(super) fn reads(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}
