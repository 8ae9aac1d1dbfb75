//! Binds addresses, accepts connections, limits how many are open, and hands each to its direction's `serve`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pillion_mesh::reason::Reason;
use pillion_mesh::wire::Direction;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::Shared;
use crate::connections::Connection;
use crate::cut::unless;
use crate::net::Keepalive;
use crate::net::original_dst::canonical;
use crate::net::relay::End;
use crate::settings::{InboundListener, InterceptionMode, OutboundListener};
use crate::workers::Workers;
use crate::{gateway, inbound, outbound, tunnel};

/// What a listener is for.
#[derive(Debug, Clone)]
pub(crate) enum Role {
    InboundCapture,
    OutboundCapture,
    /// The door for tunnels.
    InboundTunnel,
    Inbound(InboundListener),
    Outbound(OutboundListener),
    /// For a port of the Gateways, by their number.
    Gateway(u16),
}

impl Role {
    pub(crate) fn direction(&self) -> Direction {
        match self {
            Role::InboundCapture | Role::InboundTunnel | Role::Inbound(_) | Role::Gateway(_) => {
                Direction::Inbound
            }
            Role::OutboundCapture | Role::Outbound(_) => Direction::Outbound,
        }
    }

    /// For `/listeners` and the start message.
    pub(crate) fn describe(&self) -> String {
        match self {
            Role::InboundCapture | Role::OutboundCapture => "capture".to_owned(),
            Role::InboundTunnel => "tunnel".to_owned(),
            Role::Inbound(listener) => format!("forward to {}", listener.forward),
            Role::Outbound(listener) => format!("to {}:{}", listener.host, listener.port),
            Role::Gateway(port) => format!("gateway port {port}"),
        }
    }
}

/// A bound listener.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) role: Role,
    pub(crate) address: SocketAddr,
    /// Whether it is the first of those that share its address, one for each worker.
    pub(crate) is_first: bool,
    listener: TcpListener,
    worker: Handle,
}

/// How connections are taken in.
#[derive(Debug)]
pub(crate) struct How<'a> {
    pub(crate) interception: InterceptionMode,
    pub(crate) keepalive: Keepalive,
    /// Who serves them.
    pub(crate) workers: &'a Workers,
}

/// Binds `address` for `role`, once for each of the workers. A capture address that is "any" or loopback in IPv4 is bound
/// in IPv6 too where the host has it, since redirected IPv6 packets arrive there; "any" of a gateway and of the door for
/// tunnels likewise.
///
/// # Errors
/// Those of the kernel, for the address that was configured; a missing IPv6 twin is no error.
pub(crate) fn bind(role: &Role, address: SocketAddr, how: &How<'_>) -> io::Result<Vec<Bound>> {
    let first = bind_for_each(role, address, how)?;
    let twin = match (role, address.ip()) {
        (
            Role::InboundCapture | Role::InboundTunnel | Role::OutboundCapture | Role::Gateway(_),
            IpAddr::V4(ip),
        ) if ip.is_unspecified() => Some(Ipv6Addr::UNSPECIFIED),
        (Role::InboundCapture | Role::OutboundCapture, IpAddr::V4(Ipv4Addr::LOCALHOST)) => {
            Some(Ipv6Addr::LOCALHOST)
        }
        _ => None,
    };
    let second = twin.and_then(|ip| {
        let port = first.first().map_or(address.port(), |bound| bound.address.port());
        let address = SocketAddr::new(ip.into(), port);
        bind_for_each(role, address, how)
            .inspect_err(|error| info!(%address, %error, "not listening there as well: this host seems to have no IPv6"))
            .ok()
    });
    Ok(first.into_iter().chain(second.into_iter().flatten()).collect())
}

/// The same address once for each of the workers.
fn bind_for_each(role: &Role, mut address: SocketAddr, how: &How<'_>) -> io::Result<Vec<Bound>> {
    let transparent = how.interception == InterceptionMode::Tproxy && matches!(role, Role::InboundCapture);
    let shared = how.workers.handles().len() > 1;
    if shared {
        // Whoever shares an address has to take it alone first: another process that listens there, a second sidecar
        // perhaps, would else go unseen and have a share of our connections.
        drop(socket_at(address, transparent, false)?);
    }
    let mut bound = Vec::new();
    for worker in how.workers.handles() {
        let socket = socket_at(address, transparent, shared)?;
        set_options(&socket, how.keepalive)?;
        socket.listen(BACKLOG)?;
        let listener = {
            let _on_its_runtime = worker.enter();
            TcpListener::from_std(socket.into())?
        };
        address = listener.local_addr()?;
        let is_first = bound.is_empty();
        bound.push(Bound { role: role.clone(), address, is_first, listener, worker: worker.clone() });
    }
    Ok(bound)
}

/// What every accepted connection inherits, so that it needs no call of its own.
fn set_options(socket: &Socket, keepalive: Keepalive) -> io::Result<()> {
    socket.set_linger(Some(Duration::ZERO))?; // closes by reset
    socket.set_tcp_nodelay(true)?;
    keepalive.apply(&SockRef::from(socket))
}

fn socket_at(address: SocketAddr, transparent: bool, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if transparent {
        if address.is_ipv4() {
            socket.set_ip_transparent_v4(true)
        } else {
            socket.set_ip_transparent_v6(true)
        }
        .map_err(|error| io::Error::new(error.kind(), format!("TPROXY needs CAP_NET_ADMIN: {error}")))?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Most connections that the kernel lets wait to be accepted.
const BACKLOG: i32 = 4096;

/// Accepts on the listener's own worker until draining begins or `stop` says so.
pub(crate) fn spawn(bound: Bound, shared: &Arc<Shared>, stop: &CancellationToken) {
    let worker = bound.worker.clone();
    shared.tasks.spawn_on(run(bound, shared.clone(), stop.clone()), &worker);
}

/// Accepts until draining begins or `stop` says so; then takes what already waits in the backlog, so that nobody who was
/// let in by the kernel is cut, and closes the listener.
pub(crate) async fn run(bound: Bound, shared: Arc<Shared>, stop: CancellationToken) {
    let Bound { role, listener, .. } = bound;
    let role = Arc::new(role);
    let mut pause = Pause::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.drain.started() => break,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, client)) => {
                pause = Pause::default();
                take(stream, canonical(client), &role, &shared);
            }
            Err(error) => {
                shared.telemetry.accept_failed();
                pause.after(&error).await;
            }
        }
    }
    for _ in 0..BACKLOG {
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => take(stream, canonical(client), &role, &shared),
                Err(_) => return,
            },
            () = std::future::ready(()) => return,
        }
    }
}

/// Waits after a failed accept, longer each time: a process out of descriptors must not spin.
#[derive(Debug, Default)]
struct Pause {
    failures: u32,
}

impl Pause {
    async fn after(&mut self, error: &io::Error) {
        use rustix::io::Errno;
        let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
        if !exhausted {
            return; // the client went away before it was accepted
        }
        if self.failures.is_multiple_of(40) {
            warn!(%error, "cannot accept connections; raise the limit of open files (ulimit -n) or lower limits.maxConnections");
        }
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(Duration::from_millis(10 << self.failures.min(4))).await;
    }
}

fn take(stream: TcpStream, client: SocketAddr, role: &Arc<Role>, shared: &Arc<Shared>) {
    let connection = Connection::begin(&shared.connections, &shared.telemetry, role.direction(), client);
    let Ok(permit) = shared.slots.clone().try_acquire_owned() else {
        let detail = format!("limits.maxConnections is {}", shared.settings.limits.max_connections);
        connection.end(End { reason: Reason::TooManyConnections, detail: Some(detail) });
        return;
    };
    shared.tasks.spawn(serve(stream, connection, role.clone(), shared.clone(), permit));
}

async fn serve(
    stream: TcpStream,
    mut connection: Connection,
    role: Arc<Role>,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
) {
    if matches!(*role, Role::InboundTunnel) {
        return Box::pin(tunnel::serve(stream, connection, &shared)).await;
    }
    let work = async {
        match (&*role, role.direction()) {
            (Role::Gateway(port), _) => {
                Box::pin(gateway::serve(stream, &mut connection, *port, &shared)).await
            }
            (_, Direction::Inbound) => {
                match Box::pin(inbound::serve(stream, &mut connection, &role, &shared)).await {
                    Ok(rest) => rest.await,
                    Err(end) => end,
                }
            }
            (_, Direction::Outbound) => {
                match Box::pin(outbound::serve(stream, &mut connection, &role, &shared)).await {
                    Ok(rest) => rest.await,
                    Err(end) => end,
                }
            }
        }
    };
    let end = unless(work, shared.drain.quitted()).await;
    connection.end(end.unwrap_or(End { reason: Reason::Drained, detail: None }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keepalive() -> Keepalive {
        Keepalive { time: Duration::from_secs(77), interval: Duration::from_secs(11), retries: 3 }
    }

    fn bind_here(workers: &Workers, address: &str) -> io::Result<Vec<Bound>> {
        let how = How { interception: InterceptionMode::Redirect, keepalive: keepalive(), workers };
        bind(&Role::OutboundCapture, address.parse().unwrap(), &how)
    }

    #[tokio::test]
    async fn an_accepted_connection_has_its_options_from_the_listener() {
        let bound = bind_here(&Workers::here(), "127.0.0.1:0").unwrap();
        let (_client, accepted) =
            tokio::join!(TcpStream::connect(bound[0].address), bound[0].listener.accept());
        let (accepted, _) = accepted.unwrap();
        let socket = SockRef::from(&accepted);
        assert_eq!(socket.linger().unwrap(), Some(Duration::ZERO));
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(11));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
    }

    #[test]
    fn workers_share_an_address_but_with_no_other_process() {
        let (workers, others) = (Workers::start_many(3).unwrap(), Workers::start_many(2).unwrap());
        let bound = bind_here(&workers, "127.0.0.1:0").unwrap();
        let of_v4: Vec<_> = bound.iter().filter(|bound| bound.address.is_ipv4()).collect();
        assert_eq!(of_v4.len(), 3);
        assert!(of_v4.iter().all(|bound| bound.address == of_v4[0].address));
        assert_eq!(of_v4.iter().filter(|bound| bound.is_first).count(), 1);
        let again = bind_here(&others, &of_v4[0].address.to_string()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
    }
}
