//! A small HTTP/1.1 server: one request a connection, within bounds that no client can stretch.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use pillion_mesh::wire::{Problem, UNKNOWN};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

/// Connections at the same time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 32;
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
/// Time for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a whole connection, the answer's last byte included.
const DEADLINE: Duration = Duration::from_secs(15);
/// Time that answers under way may take when the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Wait after the kernel failed to hand over a connection, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An answer to a request.
#[derive(Clone)]
pub(super) struct Answer {
    status: StatusCode,
    content_type: &'static str,
    allow: Option<&'static str>,
    body: Bytes,
    afterwards: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Answer {
    /// A page of `content_type`.
    pub(super) fn page(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, content_type, allow: None, body: body.into(), afterwards: None }
    }

    /// A line of text.
    pub(super) fn text(body: impl Into<String>) -> Self {
        Self::page("text/plain; charset=utf-8", body.into() + "\n")
    }

    /// A JSON document, indented for people.
    pub(super) fn json(document: &impl Serialize) -> Self {
        Self::page("application/json", serde_json::to_string_pretty(document).unwrap_or_default() + "\n")
    }

    /// What went wrong, as RFC 9457 says it.
    pub(super) fn problem(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Problem");
        Self::titled(status, title, detail)
    }

    /// The page is there, and what it was asked for is not.
    pub(super) fn unknown(detail: impl Into<String>) -> Self {
        Self::titled(StatusCode::NOT_FOUND, UNKNOWN, detail)
    }

    fn titled(status: StatusCode, title: &str, detail: impl Into<String>) -> Self {
        let problem =
            Problem { status: status.as_u16(), title: title.to_owned(), detail: Some(detail.into()) };
        let body = serde_json::to_string_pretty(&problem).unwrap_or_default();
        Self::page("application/problem+json", body + "\n").with_status(status)
    }

    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Names the methods that a page has (RFC 9110 10.2.1).
    pub(super) fn with_allow(self, methods: &'static str) -> Self {
        Self { allow: Some(methods), ..self }
    }

    /// Calls `action` when the answer is on its way, or cannot be delivered.
    pub(super) fn and_then(self, action: impl Fn() + Send + Sync + 'static) -> Self {
        Self { afterwards: Some(Arc::new(action)), ..self }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// Answers requests with `answer` until `stop`. Bodies of requests are never read.
pub(super) async fn run<A>(listener: TcpListener, stop: CancellationToken, answer: A)
where
    A: Fn(&Parts) -> Answer + Send + Sync + 'static,
{
    let answer = Arc::new(answer);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = TaskTracker::new();
    let accept = async {
        // The semaphore is never closed.
        while let Ok(slot) = slots.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let answer = answer.clone();
                    tasks.spawn(async move {
                        serve_one(stream, answer).await;
                        drop(slot);
                    });
                }
                Err(fault) => {
                    debug!(%fault, "cannot accept a connection of an own server");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = accept => {}
    }
    tasks.close();
    let _ = timeout(LAST_ANSWERS, tasks.wait()).await;
}

async fn serve_one<A: Fn(&Parts) -> Answer>(stream: TcpStream, answer: Arc<A>) {
    let afterwards = OnceLock::new();
    let service = service_fn(|request: Request<Incoming>| {
        let answered = answer(&request.into_parts().0);
        if let Some(action) = &answered.afterwards {
            // One request a connection, so there is no second action.
            let _ = afterwards.set(action.clone());
        }
        async { Ok::<_, Infallible>(answered.into_response()) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    if !matches!(timeout(DEADLINE, connection).await, Ok(Ok(()))) {
        debug!("a connection of an own server ended early");
    }
    if let Some(action) = afterwards.get() {
        action();
    }
}
