//! The CA on the network: two listeners, their bounds, and an orderly end.
//!
//! [`accept`] takes connections in, [`tls`] and [`http`] carry them, [`api`] and [`monitoring`] answer.

mod accept;
mod api;
mod http;
mod monitoring;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::api::Api;
use self::tls::{Endpoint, EndpointError};
use crate::attest::Attestor;
use crate::authority::Authority;
use crate::metrics::Metrics;
use crate::settings::Limits;

/// How long requests in flight may still take after the signal to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of the monitoring port at the same time.
const MONITORING_CONNECTIONS: usize = 64;
/// Time for one request of the monitoring port.
const MONITORING_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the CA cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    #[error("cannot listen on {address} ({what}): {source}{}", cure(source))]
    Listen { what: &'static str, address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

/// What helps where an address cannot be listened on.
fn cure(fault: &io::Error) -> &'static str {
    // An error of our own making says it itself.
    match fault.raw_os_error().map(|_| fault.kind()) {
        Some(io::ErrorKind::AddrInUse) => "; end what listens there, or choose another address",
        Some(io::ErrorKind::AddrNotAvailable) => "; choose an address of this host",
        Some(io::ErrorKind::PermissionDenied) => "; choose a port from 1024 on, or give CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

/// Both listeners, bound and ready to be served.
pub(crate) struct Server {
    api: TcpListener,
    monitoring: TcpListener,
    endpoint: Endpoint,
    state: Arc<Api>,
    limits: Limits,
}

impl Server {
    /// Makes the server certificate and binds the addresses of the API and of monitoring.
    pub(crate) async fn bind(
        listen: SocketAddr,
        monitoring: SocketAddr,
        names: Vec<ServerName<'static>>,
        limits: Limits,
        authority: Authority,
        attestor: Attestor,
    ) -> Result<Self, ServerError> {
        let authority = Arc::new(authority);
        let metrics = Metrics::new();
        let endpoint = Endpoint::new(Arc::clone(&authority), names, authority.clock().now())?;
        Ok(Server {
            api: bind(listen, "listen").await?,
            monitoring: bind(monitoring, "monitoring").await?,
            endpoint,
            state: Arc::new(Api::new(authority, attestor, metrics)),
            limits,
        })
    }

    /// Serves until `stop`, then lets requests in flight end, for at most five seconds.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let Server { api, monitoring, mut endpoint, state, limits } = self;
        let clock = state.clock();
        tracing::info!(api = %address_of(&api), monitoring = %address_of(&monitoring), "listening");
        let serve_api = accept::accept(api, limits.connections, &stop, &connections, |stream, peer| {
            let config = endpoint.config(clock.now());
            api::serve(Arc::clone(&state), stream, peer, config, limits.request_timeout, stop.clone())
        });
        let serve_monitoring =
            accept::accept(monitoring, MONITORING_CONNECTIONS, &stop, &connections, |stream, _| {
                monitoring::serve(Arc::clone(&state), stream, MONITORING_TIMEOUT, stop.clone())
            });
        tokio::join!(serve_api, serve_monitoring);
        connections.close();
        if tokio::time::timeout(STOP_TIMEOUT, connections.wait()).await.is_err() {
            tracing::warn!(connections = connections.len(), "cut off at the end of the time to stop");
        }
    }
}

async fn bind(address: SocketAddr, what: &'static str) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| ServerError::Listen { what, address, source })
}

fn address_of(listener: &TcpListener) -> String {
    listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
}
