//! From checked settings to a running proxy, and to its end.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use pillion_mesh::wire::rfc3339;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admin::{self, AdminState, BoundAddresses};
use crate::connections::ConnectionTable;
use crate::dns::Dns;
use crate::entry::LogLevel;
use crate::identity::{self, Identity};
use crate::listener::{self, Bound, Role};
use crate::live::{LiveSnapshot, Publisher};
use crate::net::dial::{DialOptions, OwnDials};
use crate::resolver::Resolver;
use crate::settings::{Hurry, InboundListener, Settings};
use crate::telemetry::Telemetry;
use crate::tls::origination::Originator;
use crate::tls::{Clock, LiveCredentials};
use crate::workers::Workers;
#[cfg(feature = "workload-api")]
use crate::workload_api::{self, Socket, SocketError};
use crate::{drain, gateway, memory, reload, tunnel};

/// Longest wait for the first DNS answers before connections are accepted.
const FIRST_NAMES: Duration = Duration::from_secs(3);

/// Why the proxy did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    /// Exit code 2.
    #[error(transparent)]
    Resources(#[from] reload::ReloadError),
    /// Exit code 2.
    #[error("the workload has no SPIFFE ID: {0}")]
    WorkloadId(#[from] pillion_mesh::spiffe::SpiffeIdError),
    #[error("cannot listen on {address} ({what}): {fault}{}", cure(fault))]
    Listen { what: &'static str, address: SocketAddr, fault: io::Error },
    #[cfg(feature = "workload-api")]
    #[error("cannot listen on {path} (Workload API): {fault}")]
    WorkloadApi { path: String, fault: SocketError },
    #[error("cannot write the secrets of TLS sessions to {path} (tls.keyLogFile): {fault}")]
    KeyLog { path: String, fault: io::Error },
    #[error("cannot watch for signals: {0}")]
    Signals(io::Error),
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

/// What every connection needs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    pub(crate) snapshot: LiveSnapshot,
    /// By which certificates are judged.
    pub(crate) clock: Clock,
    pub(crate) credentials: LiveCredentials,
    pub(crate) originator: Arc<Originator>,
    pub(crate) connections: Arc<ConnectionTable>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) drain: drain::Trigger,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) own_dials: OwnDials,
    own_ports: BTreeSet<u16>,
    /// The explicit inbound listeners by the addresses that they are bound to.
    explicit: Vec<(SocketAddr, InboundListener)>,
    /// Our own tunnels to peers.
    pub(crate) tunnels: tunnel::Pools,
    pub(crate) gateway: Arc<gateway::Ports>,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
    pub(crate) workers: Workers,
    turn: AtomicUsize,
}

impl Shared {
    /// How the proxy dials where nothing special is asked for.
    pub(crate) fn dial_options(&self) -> DialOptions {
        DialOptions {
            source: None,
            transparent: false,
            mark: self.settings.interception.mark_outwards(),
            keepalive: self.settings.limits.keepalive,
            timeout: self.settings.limits.connect_timeout,
        }
    }

    /// Whether the proxy itself listens on a port of this host: no peer may be forwarded to one.
    pub(crate) fn is_own_port(&self, port: u16) -> bool {
        self.own_ports.contains(&port) || self.gateway.contains(port)
    }

    /// The explicit inbound listener that listens there.
    pub(crate) fn listener_at(&self, address: SocketAddr) -> Option<&InboundListener> {
        let is_there = |bound: &SocketAddr| {
            bound.port() == address.port() && (bound.ip().is_unspecified() || bound.ip() == address.ip())
        };
        self.explicit.iter().find(|(bound, _)| is_there(bound)).map(|(_, listener)| listener)
    }

    /// Counts look-ups, so that the endpoints of a service take turns.
    pub(crate) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

/// Runs the proxy until a signal, `/drain` or `/quitquitquit` ends it.
///
/// # Errors
/// [`AppError`]; nothing is left running then.
pub(crate) async fn run(settings: Settings, log_level: LogLevel, workers: Workers) -> Result<(), AppError> {
    raise_file_limit();
    warn_of_loops(&settings);
    let running = start(settings, log_level, workers).await?;
    memory::forget_the_start();
    let stopped = tokio::select! {
        stopped = until_stopped(&running.shared.drain) => stopped,
        never = memory::keep_small() => match never {},
    };
    running.stop().await;
    stopped
}

/// A running proxy. Dropped without [`Running::stop`] it cuts everything.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) shared: Arc<Shared>,
    /// Where it listens; tests ask for port 0.
    #[cfg_attr(not(test), expect(dead_code))]
    pub(crate) addresses: Arc<BoundAddresses>,
    /// Puts snapshots in force; tests do so faster than files change.
    #[cfg_attr(not(test), expect(dead_code))]
    pub(crate) publisher: Publisher,
}

/// Loads the resources, binds every address and starts serving.
///
/// # Errors
/// [`AppError`]; nothing is left running then.
pub(crate) async fn start(
    settings: Settings,
    log_level: LogLevel,
    workers: Workers,
) -> Result<Running, AppError> {
    let settings = Arc::new(settings);
    let id = settings.workload.id()?;
    let (snapshot, applied) = reload::load(&settings)?;
    reload::report_findings(&snapshot);
    let (publisher, snapshot) = Publisher::new(snapshot, SystemTime::now());
    open_key_log(&settings)?;
    let bound = bind_all(&settings, &workers)?;
    let servers = Servers::bind(&settings).await?;
    #[cfg(feature = "workload-api")]
    let api_socket = settings.workload_api.as_ref().map(api_socket).transpose()?;

    let drain = drain::Trigger::default();
    let telemetry = Arc::new(Telemetry::new(&settings.workload));
    let mark = settings.interception.mark_outwards();
    let own = identity::Own {
        id: id.clone(),
        aliases: settings.mesh_config.trust_domain_aliases.as_slice().into(),
    };
    let clock = clock(settings.hurry);
    let identity = identity::spawn(
        own,
        settings.identity.clone(),
        settings.crl.clone(),
        settings.tls,
        clock.clone(),
        mark,
        drain.quit_token(),
    );
    let federation = settings.federation.clone();
    let speaking = (settings.tls, mark, &clock);
    let identity = identity::federate(identity, &id, federation, speaking, &telemetry, &drain.quit_token());
    let identity = Arc::new(identity);
    let resolver = Resolver::new(publisher.clone(), Dns::system(), settings.dns_refresh);
    if timeout(FIRST_NAMES, resolver.refresh()).await.is_err() {
        warn!("DNS is slow; services known by name have no endpoints yet");
    }
    let shared = Arc::new(Shared {
        snapshot,
        clock: clock.clone(),
        credentials: identity.credentials.clone(),
        originator: Arc::new(Originator::new(settings.tls, Clock::system())),
        connections: Arc::default(),
        telemetry: telemetry.clone(),
        drain: drain.clone(),
        resolver: resolver.clone(),
        own_dials: OwnDials::default(),
        own_ports: own_ports(&settings, &bound, &servers),
        explicit: explicit(&bound),
        tunnels: tunnel::Pools::default(),
        gateway: Arc::default(),
        slots: Arc::new(Semaphore::new(settings.limits.max_connections)),
        tasks: TaskTracker::new(),
        workers,
        turn: AtomicUsize::new(0),
        settings: settings.clone(),
    });
    let addresses = Arc::new(servers.addresses(&bound));
    announce(&addresses);
    if settings.capture_allowed {
        warn!(
            "admin.capture is true: whoever reaches the admin API may have the first bytes of plaintext kept, and read them"
        );
    }
    if let Some(gateway) = settings.gateway.clone() {
        gateway::start(gateway, &shared);
    }

    tokio::spawn(resolver.run(drain.quit_token()));
    tokio::spawn({
        let (originator, snapshot, stop) =
            (shared.originator.clone(), shared.snapshot.clone(), drain.quit_token());
        async move { originator.watch(snapshot, stop).await }
    });
    tokio::spawn(reload::run(settings.clone(), applied, publisher.clone(), telemetry, drain.quit_token()));
    servers.spawn(AdminState {
        settings,
        clock,
        snapshot: shared.snapshot.clone(),
        identity: identity.clone(),
        originator: shared.originator.clone(),
        connections: shared.connections.clone(),
        telemetry: shared.telemetry.clone(),
        drain,
        log_level,
        bound: addresses.clone(),
        gateway: shared.gateway.clone(),
    });
    #[cfg(feature = "workload-api")]
    if let Some(socket) = api_socket {
        let (credentials, telemetry) = (identity.credentials.clone(), shared.telemetry.clone());
        tokio::spawn(workload_api::serve(socket, credentials, telemetry, shared.drain.quit_token()));
    }
    tokio::spawn(announce_certificate(identity));
    for listener in bound {
        listener::spawn(listener, &shared, &CancellationToken::new());
    }
    Ok(Running { shared, addresses, publisher })
}

impl Running {
    /// Takes no new connections, lets open ones finish until the deadline, then cuts them.
    pub(crate) async fn stop(&self) {
        let shared = &self.shared;
        let limit = shared.settings.drain_timeout;
        shared.drain.start();
        shared.tasks.close();
        let cut = tokio::select! {
            () = shared.tasks.wait() => false,
            () = tokio::time::sleep(limit) => true,
            () = shared.drain.quitted() => true,
        };
        if cut {
            warn!(open = shared.connections.len(), ?limit, "cutting the connections that are still open");
        }
        shared.drain.quit();
        // Cut connections end at their next poll; this wait is only for their log lines.
        let _ = timeout(Duration::from_secs(1), shared.tasks.wait()).await;
        info!("stopped");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.drain.quit();
    }
}

/// Where the settings name a file for the secrets of sessions: without it the proxy does not start, since somebody waits for
/// what is to be written there.
fn open_key_log(settings: &Settings) -> Result<(), AppError> {
    let Some(file) = settings.tls.key_log else { return Ok(()) };
    file.open().map_err(|fault| AppError::KeyLog { path: file.path().display().to_string(), fault })
}

/// The system's clock, or one that a lesson hurries, which is told loudly.
fn clock(hurry: Option<Hurry>) -> Clock {
    let Some(hurry) = hurry else { return Clock::system() };
    let scale = hurry.scale(SystemTime::now());
    let (clock, origin) = (Clock::system().hurried(scale), rfc3339::print(scale.origin()));
    warn!(
        "TIME IS HURRIED (time.scale): certificates live {} times as fast as the world since {origin}, and it is {} for \
         them; this is for lessons and tests, never for a mesh in use",
        scale.factor(),
        rfc3339::print(clock.now())
    );
    if hurry.origin.is_none() {
        warn!(
            "time.origin is not set, so it is the start of this process; give --time-origin {origin} to the CA and to every \
             other proxy of the mesh, else their clocks differ"
        );
    }
    clock
}

/// Waits for the first SIGTERM, SIGINT, `/drain` or `/quitquitquit`.
async fn until_stopped(drain: &drain::Trigger) -> Result<(), AppError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AppError::Signals)?;
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: draining"),
        _ = interrupt.recv() => info!("SIGINT: draining"),
        () = drain.started() => info!("draining as asked through the admin API"),
    }
    Ok(())
}

fn bind_all(settings: &Settings, workers: &Workers) -> Result<Vec<Bound>, AppError> {
    let inbound = settings.inbound.capture.map(|address| ("inbound capture", Role::InboundCapture, address));
    let tunnel = settings.inbound.tunnel.map(|address| ("inbound tunnels", Role::InboundTunnel, address));
    let outbound =
        settings.outbound.capture.map(|address| ("outbound capture", Role::OutboundCapture, address));
    let explicit_in = settings
        .inbound
        .listeners
        .iter()
        .map(|listener| ("inbound listener", Role::Inbound(listener.clone()), listener.address));
    let explicit_out = settings
        .outbound
        .listeners
        .iter()
        .map(|listener| ("outbound listener", Role::Outbound(listener.clone()), listener.address));
    let (interception, keepalive) = (settings.interception.mode, settings.limits.keepalive);
    let how = listener::How { interception, keepalive, workers };
    let mut bound = Vec::new();
    let inbound = inbound.into_iter().chain(explicit_in).chain(tunnel);
    for (what, role, address) in inbound.chain(outbound).chain(explicit_out) {
        bound.extend(listener::bind(&role, address, &how).map_err(|fault| AppError::Listen {
            what,
            address,
            fault,
        })?);
    }
    Ok(bound)
}

#[cfg(feature = "workload-api")]
fn api_socket(api: &crate::settings::WorkloadApi) -> Result<Socket, AppError> {
    let crate::settings::WorkloadApi { socket, mode } = api;
    let path = socket.display().to_string();
    let bound =
        Socket::bind(socket, *mode).map_err(|fault| AppError::WorkloadApi { path: path.clone(), fault })?;
    info!("listening on {path} (Workload API, mode {mode:04o})");
    Ok(bound)
}

/// The admin, readiness and metrics servers.
struct Servers {
    admin: TcpListener,
    readiness: TcpListener,
    metrics: TcpListener,
}

impl Servers {
    async fn bind(settings: &Settings) -> Result<Self, AppError> {
        async fn one(what: &'static str, address: SocketAddr) -> Result<TcpListener, AppError> {
            TcpListener::bind(address).await.map_err(|fault| AppError::Listen { what, address, fault })
        }
        Ok(Self {
            admin: one("admin", settings.admin).await?,
            readiness: one("readiness", settings.readiness).await?,
            metrics: one("metrics", settings.metrics).await?,
        })
    }

    fn addresses(&self, bound: &[Bound]) -> BoundAddresses {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let of = |inbound: bool| {
            bound
                .iter()
                .filter(|listener| listener.is_first)
                .filter(|listener| {
                    (listener.role.direction() == pillion_mesh::wire::Direction::Inbound) == inbound
                })
                .map(|listener| (listener.address, listener.role.describe()))
                .collect()
        };
        BoundAddresses {
            admin: self.admin.local_addr().unwrap_or(unknown),
            readiness: self.readiness.local_addr().unwrap_or(unknown),
            metrics: self.metrics.local_addr().unwrap_or(unknown),
            inbound: of(true),
            outbound: of(false),
        }
    }

    fn spawn(self, state: AdminState) {
        let stop = state.drain.quit_token();
        let state = Arc::new(state);
        tokio::spawn(admin::serve(self.admin, state.clone(), stop.clone()));
        tokio::spawn(admin::serve_readiness(self.readiness, state.clone(), stop.clone()));
        tokio::spawn(admin::serve_metrics(self.metrics, state, stop));
    }
}

/// Every port that this proxy itself listens on: no peer may be forwarded to one.
fn own_ports(settings: &Settings, bound: &[Bound], servers: &Servers) -> BTreeSet<u16> {
    let servers = [&servers.admin, &servers.readiness, &servers.metrics];
    let bound = bound.iter().map(|listener| listener.address.port());
    let servers = servers.iter().filter_map(|server| server.local_addr().ok()).map(|address| address.port());
    settings.own_ports().into_iter().chain(bound).chain(servers).collect()
}

fn explicit(bound: &[Bound]) -> Vec<(SocketAddr, InboundListener)> {
    let explicit = bound.iter().filter_map(|listener| match &listener.role {
        Role::Inbound(settings) => Some((listener.address, settings.clone())),
        _ => None,
    });
    explicit.collect()
}

fn announce(addresses: &BoundAddresses) {
    for (address, what) in &addresses.inbound {
        info!("listening on {address} (inbound, {what})");
    }
    for (address, what) in &addresses.outbound {
        info!("listening on {address} (outbound, {what})");
    }
    info!("listening on {} (admin)", addresses.admin);
    info!("listening on {} (readiness)", addresses.readiness);
    info!("listening on {} (metrics)", addresses.metrics);
}

async fn announce_certificate(identity: Arc<Identity>) {
    let mut credentials = identity.credentials.clone();
    if let Ok(current) = credentials.wait_for(Option::is_some).await
        && let Some(current) = current.as_ref()
    {
        info!(
            "ready as {} (certificate valid until {})",
            current.svid.id,
            rfc3339::print(current.svid.not_after)
        );
    }
}

/// Interception exempts a uid or a mark; a proxy that is neither captures its own connections.
fn warn_of_loops(settings: &Settings) {
    const EXEMPT: u32 = 1337;
    let uid = rustix::process::getuid().as_raw();
    if settings.outbound.capture.is_some() && settings.interception.mark.is_none() && uid != EXEMPT {
        warn!(
            uid,
            "outbound capture is on, but this process is not uid {EXEMPT}, which the interception rules exempt; \
             unless they exempt this uid, its own connections will be captured and refused (self_loop)"
        );
    }
}

/// Raises the soft limit of open files to the hard one: each connection takes two.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "cannot raise the limit of open files");
    }
}
