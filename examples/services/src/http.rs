//! Serving HTTP/1.1: deadlines, an orderly stop, and the few answers that the apps give.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;

use crate::server;

/// For one request head, and for an idle connection to send its next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Of one request head, in bytes. Bodies are never read.
const HEAD_SIZE: usize = 16 * 1024;

/// What an app answers.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Answers each request on `address` with what `app` makes of it and of the client's address.
pub(crate) async fn serve<App, Answering>(address: SocketAddr, app: App) -> anyhow::Result<()>
where
    App: Fn(SocketAddr, Request<Incoming>) -> Answering + Send + Sync + 'static,
    Answering: Future<Output = Answer> + Send,
{
    let app = Arc::new(app);
    server::serve(address, move |stream, client, mut stopping| {
        let app = Arc::clone(&app);
        async move {
            let service = service_fn(|request| async { Ok::<_, Infallible>(app(client, request).await) });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_SIZE)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = pin!(connection);
            // How a client's connection ends is the client's business.
            let _ = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stopping.wait() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
        }
    })
    .await
}

/// A body of the given media type, not to be cached.
pub(crate) fn answer(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// `value` as JSON.
pub(crate) fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => answer(StatusCode::OK, "application/json", body),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
    }
}

/// Of `GET /healthz`.
pub(crate) fn healthy() -> Answer {
    answer(StatusCode::OK, "text/plain", "ok\n")
}

/// For a path that the app does not know.
pub(crate) fn not_found(known: &str) -> Answer {
    answer(StatusCode::NOT_FOUND, "text/plain", format!("expected {known}\n"))
}
