//! The monitoring port: metrics and readiness, plain HTTP.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::ACCEPT;
use hyper::{Method, StatusCode};
use pillion_mesh::exposition::Format;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::api::Api;
use super::http::{self, Answer};

/// Serves one request of one connection.
pub(super) async fn serve(
    state: Arc<Api>,
    mut stream: TcpStream,
    timeout: Duration,
    stop: CancellationToken,
) {
    let answering = http::serve_one(&mut stream, &stop, |request| {
        let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
        let answer = respond(&state, request.method(), request.uri().path(), Format::of_accept(accept));
        std::future::ready(answer)
    });
    match tokio::time::timeout(timeout, answering).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = %error, "monitoring connection failed"),
        Err(_) => tracing::debug!("monitoring connection cut at its deadline"),
    }
}

fn respond(state: &Api, method: &Method, path: &str, format: Format) -> Answer {
    match path {
        "/metrics" | "/stats/prometheus" | "/healthz/ready" | "/ready" if !http::reads(method) => {
            http::method_not_allowed(method, "GET, HEAD")
        }
        "/metrics" | "/stats/prometheus" => {
            http::answer(StatusCode::OK, format.content_type(), format.render(state.desk().scrape()))
        }
        "/healthz/ready" | "/ready" if state.desk().can_sign() => {
            http::answer(StatusCode::OK, "text/plain", "ready\n")
        }
        "/healthz/ready" | "/ready" => {
            let detail = "the signing certificate has expired; the CA needs a new root".to_owned();
            http::problem(StatusCode::SERVICE_UNAVAILABLE, Some(detail))
        }
        _ => http::not_found(),
    }
}
