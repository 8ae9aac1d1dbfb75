//! The CA on the network: two listeners, their bounds, and an orderly end.
//!
//! [`accept`] takes connections in, [`tls`] and [`http`] carry them, [`api`] and [`monitoring`] answer. What becomes of a
//! CSR is decided at the [`desk`], also if it came over Istio's gRPC (`http2`, `grpc`); [`faults`] is how the CA misbehaves when it is told to.

mod accept;
mod api;
mod desk;
mod faults;
#[cfg(feature = "grpc")]
mod grpc;
mod http;
#[cfg(feature = "grpc")]
mod http2;
mod monitoring;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::api::Api;
use self::desk::Desk;
use self::tls::{Endpoint, EndpointError};
use crate::attest::Attestor;
use crate::authority::Authority;
use crate::metrics::Metrics;
use crate::settings::Limits;

pub(crate) use self::faults::Faults;

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
    api: ApiSocket,
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
        faults: Faults,
    ) -> Result<Self, ServerError> {
        faults.tell();
        let authority = Arc::new(authority);
        let metrics = Metrics::new();
        let endpoint = Endpoint::new(Arc::clone(&authority), names, authority.clock().now())?;
        Ok(Server {
            api: ApiSocket::bind(listen, faults.down()).await?,
            monitoring: bind(monitoring, "monitoring").await?,
            endpoint,
            state: Arc::new(Api::new(Desk::new(authority, attestor, metrics, limits, faults))),
            limits,
        })
    }

    /// Serves until `stop`, then lets requests in flight end, for at most five seconds.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let Server { api, monitoring, mut endpoint, state, limits } = self;
        let monitoring_address = shown(monitoring.local_addr());
        tracing::info!(api = api.address(), monitoring = monitoring_address, "listening");
        let serve_api = async {
            // A socket that does not listen keeps its port until the end, and refuses whoever dials it.
            let ApiSocket::Listening(api) = api else { return stop.cancelled().await };
            let serve = |stream, peer| {
                let config = endpoint.config(state.desk().now());
                api::serve(Arc::clone(&state), stream, peer, config, limits.request_timeout, stop.clone())
            };
            accept::accept(api, limits.connections, &stop, &connections, serve).await;
        };
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

/// Where the API listens, or would.
enum ApiSocket {
    Listening(TcpListener),
    /// The CA is down on purpose.
    Down(TcpSocket),
}

impl ApiSocket {
    async fn bind(address: SocketAddr, down: bool) -> Result<Self, ServerError> {
        if !down {
            return bind(address, "listen").await.map(ApiSocket::Listening);
        }
        let bound = || -> io::Result<TcpSocket> {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        bound().map(ApiSocket::Down).map_err(|source| ServerError::Listen { what: "listen", address, source })
    }

    fn address(&self) -> String {
        shown(match self {
            ApiSocket::Listening(listener) => listener.local_addr(),
            ApiSocket::Down(socket) => socket.local_addr(),
        })
    }
}

async fn bind(address: SocketAddr, what: &'static str) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| ServerError::Listen { what, address, source })
}

fn shown(address: io::Result<SocketAddr>) -> String {
    address.map_or_else(|error| error.to_string(), |address| address.to_string())
}
