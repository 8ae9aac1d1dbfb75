//! HTTP/2: the HTTPS API for clients that prefer it, and Istio's gRPC service, side by side.
//!
//! A client may keep its connection, as Istio's agent does, but not for long: after the time that a request may take it is
//! told to make no new request (GOAWAY), and after as much again it is cut. So no client holds a place longer than twice
//! the others, and a new connection asks the present certificate of the CA.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::api::Api;
use super::desk::Caller;
use super::grpc;
use super::http::HEAD_LIMIT;

/// The protocol's name in the TLS handshake.
pub(super) const ALPN: &[u8] = b"h2";
/// Requests of one connection at the same time.
const STREAMS: u32 = 16;
/// What a client may send of one request, and of all of them, before somebody reads it.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// What is buffered of an answer that its client does not read.
const SEND_BUFFER: usize = 64 * 1024;

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Serves the requests of one connection, new ones for as long as `age`.
pub(super) async fn serve(
    api: Arc<Api>,
    stream: TlsStream<TcpStream>,
    caller: Caller,
    age: Duration,
    stop: CancellationToken,
) {
    let (address, caller) = (caller.address, Arc::new(caller));
    let service = service_fn(move |request| {
        let (api, caller) = (Arc::clone(&api), Arc::clone(&caller));
        async move { Ok::<_, Infallible>(answer(api, caller, request).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(HEAD_LIMIT).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        () = at_the_end(age, &stop) => {
            connection.as_mut().graceful_shutdown();
            let Ok(served) = tokio::time::timeout(age, connection).await else {
                tracing::warn!(caller = %address, "cut off: requests over HTTP/2 did not end within {age:?}");
                return;
            };
            served
        }
    };
    if let Err(error) = served {
        tracing::debug!(caller = %address, error = %error, "connection failed");
    }
}

async fn at_the_end(age: Duration, stop: &CancellationToken) {
    stop.run_until_cancelled(tokio::time::sleep(age)).await;
}

async fn answer(api: Arc<Api>, caller: Arc<Caller>, request: Request<Incoming>) -> Response<Body> {
    if request.uri().path().starts_with(grpc::PREFIX) {
        return grpc::answer(api, caller, request).await.map(|body| body.map_err(Into::into).boxed_unsync());
    }
    api.respond(&caller, request).await.map(|body| body.map_err(|never| match never {}).boxed_unsync())
}
