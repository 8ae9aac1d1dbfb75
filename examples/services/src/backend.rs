//! `backend`: answers with its name and with what it saw of the client.

use clap::Parser;
use hyper::body::Incoming;
use hyper::{Method, Request};
use serde::Serialize;
use std::net::SocketAddr;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::http::{self, Answer};

/// An HTTP app that answers who called it.
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

fn answer(name: &str, client: SocketAddr, request: &Request<Incoming>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => http::json(&Seen {
            name,
            client,
            forwarded_client_cert: request
                .headers()
                .get("x-forwarded-client-cert")
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
            time: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
        }),
        (&Method::GET, "/healthz") => http::healthy(),
        _ => http::not_found("GET / or GET /healthz"),
    }
}
