//! A small HTTP/1.1 server: one request a connection, within bounds that no client can stretch. An answer comes whole, or in
//! parts for as long as its client takes them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use pillion_mesh::wire::{Problem, UNKNOWN};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
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
/// Parts of an answer that wait for its client.
const PARTS_WAITING: usize = 16;
/// Time for the next part to find room.
const PART_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that answers under way may take when the server stops, or their last part.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Wait after the kernel failed to hand over a connection, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What browsers may do with an answer: the page of [`crate::page`] takes nothing but its own files and asks nobody but this
/// server, and no text in it can become code.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
/// Keeps an answer out of pages of other origins, even where these do not read it.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// An answer to a request.
pub(crate) struct Answer {
    status: StatusCode,
    content_type: &'static str,
    allow: Option<&'static str>,
    content: Content,
    afterwards: Option<Arc<dyn Fn() + Send + Sync>>,
}

enum Content {
    Whole(Bytes),
    Parts(mpsc::Receiver<Bytes>, CancellationToken),
}

/// Sends the parts of an answer. Dropped, it ends the answer.
pub(crate) struct Sender {
    parts: mpsc::Sender<Bytes>,
    _over: DropGuard,
}

impl Sender {
    /// Sends the next part, once there is room; whether the client goes on taking them.
    pub(crate) async fn send(&self, part: Bytes) -> bool {
        matches!(timeout(PART_TIMEOUT, self.parts.send(part)).await, Ok(Ok(())))
    }

    /// Ends when the client is gone.
    pub(crate) async fn gone(&self) {
        self.parts.closed().await;
    }
}

/// A body whose parts come when there are some.
struct Parted(mpsc::Receiver<Bytes>);

impl Body for Parted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}

impl Answer {
    /// A page of `content_type`.
    pub(crate) fn page(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self::of(content_type, Content::Whole(body.into()))
    }

    /// One that comes in parts, and by what they are sent. It may last; a client that takes none of it for a while is left.
    pub(crate) fn in_parts(content_type: &'static str) -> (Self, Sender) {
        let (parts, received) = mpsc::channel(PARTS_WAITING);
        let over = CancellationToken::new();
        let answer = Self::of(content_type, Content::Parts(received, over.clone()));
        (answer, Sender { parts, _over: over.drop_guard() })
    }

    fn of(content_type: &'static str, content: Content) -> Self {
        Self { status: StatusCode::OK, content_type, allow: None, content, afterwards: None }
    }

    /// A line of text.
    pub(crate) fn text(body: impl Into<String>) -> Self {
        Self::page("text/plain; charset=utf-8", body.into() + "\n")
    }

    /// A JSON document, indented for people.
    pub(crate) fn json(document: &impl Serialize) -> Self {
        Self::page("application/json", serde_json::to_string_pretty(document).unwrap_or_default() + "\n")
    }

    /// The same for the web page, which reads it faster.
    pub(crate) fn compact(document: &impl Serialize) -> Self {
        Self::page("application/json", serde_json::to_string(document).unwrap_or_default() + "\n")
    }

    /// What went wrong, as RFC 9457 says it.
    pub(crate) fn problem(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Problem");
        Self::titled(status, title, detail)
    }

    /// The page is there, and what it was asked for is not.
    pub(crate) fn unknown(detail: impl Into<String>) -> Self {
        Self::titled(StatusCode::NOT_FOUND, UNKNOWN, detail)
    }

    fn titled(status: StatusCode, title: &str, detail: impl Into<String>) -> Self {
        let problem =
            Problem { status: status.as_u16(), title: title.to_owned(), detail: Some(detail.into()) };
        let body = serde_json::to_string_pretty(&problem).unwrap_or_default();
        Self::page("application/problem+json", body + "\n").with_status(status)
    }

    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Names the methods that a page has (RFC 9110 10.2.1).
    pub(crate) fn with_allow(self, methods: &'static str) -> Self {
        Self { allow: Some(methods), ..self }
    }

    /// Calls `action` when the answer is on its way, or cannot be delivered.
    pub(crate) fn and_then(self, action: impl Fn() + Send + Sync + 'static) -> Self {
        Self { afterwards: Some(Arc::new(action)), ..self }
    }

    fn into_response(self) -> Response<Either<Full<Bytes>, Parted>> {
        let mut response = Response::new(match self.content {
            Content::Whole(body) => Either::Left(Full::new(body)),
            Content::Parts(parts, _) => Either::Right(Parted(parts)),
        });
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_POLICY));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// Answers requests with `answer` until `stop`. Bodies of requests are never read.
pub(crate) async fn run<A, F>(listener: TcpListener, stop: CancellationToken, answer: A)
where
    A: Fn(Parts) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
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

async fn serve_one<A, F>(stream: TcpStream, answer: Arc<A>)
where
    A: Fn(Parts) -> F,
    F: Future<Output = Answer>,
{
    // One request a connection, so there is no second of either.
    let (afterwards, in_parts) = (&OnceLock::new(), &OnceLock::new());
    let service = service_fn(move |request: Request<Incoming>| {
        let answering = answer(request.into_parts().0);
        async move {
            let answered = answering.await;
            if let Some(action) = &answered.afterwards {
                let _ = afterwards.set(action.clone());
            }
            if let Content::Parts(_, over) = &answered.content {
                let _ = in_parts.set(over.clone());
            }
            Ok::<_, Infallible>(answered.into_response())
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = match timeout(DEADLINE, &mut connection).await {
        Ok(ended) => ended.is_ok(),
        Err(_late) => match in_parts.get() {
            Some(over) => tokio::select! {
                ended = connection => ended.is_ok(),
                () = after(over) => false,
            },
            None => false,
        },
    };
    if !ended {
        debug!("a connection of an own server ended early");
    }
    if let Some(action) = afterwards.get() {
        action();
    }
}

/// Ends when the last part of an answer has had its time.
async fn after(over: &CancellationToken) {
    over.cancelled().await;
    sleep(LAST_ANSWERS).await;
}
