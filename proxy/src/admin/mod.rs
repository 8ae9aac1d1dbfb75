//! What the proxy tells of itself over HTTP: the admin API, readiness and metrics, each on a port of its own.
//!
//! Nothing here decides about traffic. All of it is bounded: connections, request heads, and the time of each request.

mod connections;
mod events;
pub(crate) mod guard;
mod page;
mod pages;
mod readiness;
mod route;
pub(crate) mod server;
#[cfg(test)]
pub(crate) mod tests;

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::connections::ConnectionTable;
use crate::entry::LogLevel;
use crate::identity::Identity;
use crate::live::LiveSnapshot;
use crate::page::file as page_file;
use crate::settings::Settings;
use crate::telemetry::Telemetry;
use crate::tls::Clock;
use crate::tls::origination::Originator;
use crate::{drain, gateway};

/// What the pages show and the buttons press.
#[derive(Debug)]
pub(crate) struct AdminState {
    pub(crate) settings: Arc<Settings>,
    pub(crate) snapshot: LiveSnapshot,
    pub(crate) clock: Clock,
    pub(crate) identity: Arc<Identity>,
    pub(crate) originator: Arc<Originator>,
    pub(crate) connections: Arc<ConnectionTable>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) drain: drain::Trigger,
    pub(crate) log_level: LogLevel,
    pub(crate) bound: Arc<BoundAddresses>,
    pub(crate) gateway: Arc<gateway::Ports>,
}

/// The addresses that the proxy really listens on, each with what it is for.
#[derive(Debug, Clone)]
pub(crate) struct BoundAddresses {
    pub(crate) admin: SocketAddr,
    pub(crate) readiness: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) inbound: Vec<(SocketAddr, String)>,
    pub(crate) outbound: Vec<(SocketAddr, String)>,
}

/// Serves the admin API until `stop`. Whoever reaches it can stop the proxy: it belongs on loopback.
pub(crate) async fn serve(listener: TcpListener, state: Arc<AdminState>, stop: CancellationToken) {
    let bound = state.bound.admin;
    let answer = move |request| {
        let answered = guard::check(bound, &request).or_else(|| page_file(&request));
        ready(answered.unwrap_or_else(|| route::answer(&route::ADMIN, &state, &request)))
    };
    server::run(listener, stop, answer).await;
}

/// Serves `GET /healthz/ready` until `stop`.
pub(crate) async fn serve_readiness(listener: TcpListener, state: Arc<AdminState>, stop: CancellationToken) {
    let answer = move |request| ready(route::answer(&route::READINESS, &state, &request));
    server::run(listener, stop, answer).await;
}

/// Serves `GET /stats/prometheus` until `stop`.
pub(crate) async fn serve_metrics(listener: TcpListener, state: Arc<AdminState>, stop: CancellationToken) {
    let answer = move |request| ready(route::answer(&route::METRICS, &state, &request));
    server::run(listener, stop, answer).await;
}
