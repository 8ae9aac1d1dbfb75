//! `backend`: answers with its name, and with what it saw of the client and of the request.
//!
//! `GET /` tells who called; any other method and path is answered too, with what was asked, so that a policy about
//! methods and paths can be tried on it.

use clap::Parser;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request};
use serde::Serialize;
use std::net::SocketAddr;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::http::{self, Answer};

/// An HTTP app that answers who called it, and what for.
#[derive(Debug, Parser)]
#[command(name = "backend", version)]
pub(crate) struct Options {
    #[command(flatten)]
    listen: crate::Listen,
    /// The name that it answers with.
    #[arg(long, default_value = "backend")]
    name: String,
}

/// Serves until a signal.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let name = options.name;
    http::serve(options.listen.listen, move |client, request| {
        std::future::ready(answer(&name, client, &request))
    })
    .await
}

/// The body of `GET /`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen<'a> {
    /// Who answers.
    name: &'a str,
    /// The address that the connection came from.
    client: SocketAddr,
    /// The header `x-forwarded-client-cert`, by which a sidecar may say who the client proved to be.
    forwarded_client_cert: Option<String>,
    /// When, RFC 3339 in UTC.
    time: String,
}

/// The body of every other answer.
#[derive(Serialize)]
struct Asked<'a> {
    method: &'a str,
    /// Path and query as they came.
    target: &'a str,
    /// The header `host`.
    host: Option<String>,
    #[serde(flatten)]
    seen: Seen<'a>,
}

fn answer(name: &str, client: SocketAddr, request: &Request<Incoming>) -> Answer {
    let field = |name| request.headers().get(name).map(text_of);
    let seen = Seen {
        name,
        client,
        forwarded_client_cert: field("x-forwarded-client-cert"),
        time: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
    };
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => http::json(&seen),
        (&Method::GET, "/healthz") => http::healthy(),
        (method, _) => http::json(&Asked {
            method: method.as_str(),
            target: request.uri().path_and_query().map_or("", PathAndQuery::as_str),
            host: field("host"),
            seen,
        }),
    }
}

fn text_of(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}
