//! `frontend`: a web page that calls the backend and shows what came of it; without a browser, what came of one call.
//!
//! Each call is made on a new connection, so behind a sidecar each click is a handshake.

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_SECURITY_POLICY, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde::Serialize;

use crate::call::{Outcome, Target, call};
use crate::http::{self, Answer};

/// One file: style and script are in it, nothing is loaded from elsewhere.
const PAGE: &str = include_str!("frontend.html");

/// A web page that calls the backend and shows what came back.
#[derive(Debug, Parser)]
#[command(name = "frontend", version)]
pub(crate) struct Options {
    #[command(flatten)]
    listen: crate::Listen,
    /// The name that the page shows.
    #[arg(long, default_value = "frontend")]
    name: String,
    /// What to call.
    #[arg(long, value_name = "URL", default_value = "http://backend:8080")]
    backend: Target,
    /// Calls the backend without being asked too, this often, and logs the outcome.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    call_every: Option<u64>,
}

/// Serves until a signal.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let frontend = Arc::new(Frontend { name: options.name, backend: options.backend });
    let caller = options
        .call_every
        .map(|seconds| tokio::spawn(call_for_ever(Arc::clone(&frontend), Duration::from_secs(seconds))));
    let served = http::serve(options.listen.listen, move |_, request| {
        let frontend = Arc::clone(&frontend);
        async move { frontend.answer(&request).await }
    })
    .await;
    if let Some(caller) = caller {
        caller.abort();
    }
    served
}

async fn call_for_ever(frontend: Arc<Frontend>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        frontend.call().await;
    }
}

struct Frontend {
    name: String,
    backend: Target,
}

/// The body of `GET /api`.
#[derive(Serialize)]
struct Report<'a> {
    /// Who called.
    name: &'a str,
    /// What was called.
    url: &'a str,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Frontend {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/") if shows_pages(request) => page(),
            (&Method::GET, "/" | "/api") => {
                let outcome = self.call().await;
                http::json(&Report { name: &self.name, url: self.backend.url(), outcome })
            }
            (&Method::GET, "/healthz") => http::healthy(),
            _ => http::not_found("GET /, GET /api or GET /healthz"),
        }
    }

    /// Calls the backend and logs the outcome.
    async fn call(&self) -> Outcome {
        let outcome = call(&self.backend).await;
        let status = outcome.status.map(|status| status.to_string());
        let word = outcome.errno.or(status.as_deref()).unwrap_or("failed");
        let error = outcome.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        let took = Duration::from_micros(outcome.micros);
        // One piece, so that lines of calls at the same time stay whole.
        let line = format!("{}: GET {} -> {word} in {took:.1?}{error}\n", self.name, self.backend.url());
        eprint!("{line}");
        outcome
    }
}

/// A browser gets the page, which calls; curl gets what the call brought.
fn shows_pages(request: &Request<Incoming>) -> bool {
    let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    accepted.into_iter().any(|line| line.contains("text/html"))
}

fn page() -> Answer {
    let mut page = http::answer(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    page.headers_mut().insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:",
        ),
    );
    page
}
