//! Binds addresses, accepts connections, limits how many are open, and hands each to its direction's `serve`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pillion_mesh::reason::Reason;
use pillion_mesh::wire::Direction;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::Shared;
use crate::connections::Connection;
use crate::net::Leg;
use crate::net::original_dst::canonical;
use crate::net::relay::End;
use crate::settings::{InboundListener, InterceptionMode, OutboundListener};
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
    listener: TcpListener,
}

/// Binds `address` for `role`. A capture address that is "any" or loopback in IPv4 is bound in IPv6 too where the
/// host has it, since redirected IPv6 packets arrive there; "any" of a gateway and of the door for tunnels likewise.
///
/// # Errors
/// Those of the kernel, for the address that was configured; a missing IPv6 twin is no error.
pub(crate) fn bind(role: &Role, address: SocketAddr, mode: InterceptionMode) -> io::Result<Vec<Bound>> {
    let transparent = mode == InterceptionMode::Tproxy && matches!(role, Role::InboundCapture);
    let one = |address| -> io::Result<Bound> {
        let listener = listen(address, transparent)?;
        Ok(Bound { role: role.clone(), address: listener.local_addr()?, listener })
    };
    let first = one(address)?;
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
        let address = SocketAddr::new(ip.into(), first.address.port());
        one(address)
            .inspect_err(|error| info!(%address, %error, "not listening there as well: this host seems to have no IPv6"))
            .ok()
    });
    Ok([Some(first), second].into_iter().flatten().collect())
}

fn listen(address: SocketAddr, transparent: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
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
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Most connections that the kernel lets wait to be accepted.
const BACKLOG: i32 = 4096;

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
    stream.close_by_reset();
    let _ = stream.set_nodelay(true);
    let _ = shared.settings.limits.keepalive.apply(&SockRef::from(&stream));
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
                Box::pin(inbound::serve(stream, &mut connection, &role, &shared)).await
            }
            (_, Direction::Outbound) => {
                Box::pin(outbound::serve(stream, &mut connection, &role, &shared)).await
            }
        }
    };
    let end = tokio::select! {
        end = work => end,
        () = shared.drain.quitted() => End { reason: Reason::Drained, detail: None },
    };
    connection.end(end);
}
