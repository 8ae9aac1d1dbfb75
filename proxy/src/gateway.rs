//! The edge of the mesh: listens where the `Gateway` resources in force say, and passes plaintext HTTP on to services of
//! the mesh, by the routes of `VirtualService`.
//!
//! Where a request goes is `pillion_mesh::policy::route`'s to say; how requests are read, judged and passed on is
//! [`crate::http`]'s.

mod pool;
mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pillion_mesh::wire::FirstBytes;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::app::Shared;
use crate::authorize::Known;
use crate::connections::Connection;
use crate::http;
use crate::listener::{self, Bound, Role};
use crate::net::original_dst::canonical;
use crate::net::relay::End;
use crate::settings::{Gateway, InterceptionMode};
use requests::Requests;

/// How often a port is tried again that could not be listened on.
const RETRY: Duration = Duration::from_secs(1);

/// The ports that are asked for, by the Gateways' numbers.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    ports: Mutex<BTreeMap<u16, Port>>,
    /// Whether all of them have been open at some time.
    complete: AtomicBool,
}

/// One port.
#[derive(Debug)]
enum Port {
    /// It is listened on, until told to stop.
    Open { address: SocketAddr, stop: CancellationToken },
    /// It could not be.
    Failed { address: SocketAddr, fault: String },
}

/// A port as the admin API tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortStatus {
    /// The Gateways' number.
    pub(crate) port: u16,
    /// Where it is listened on, or should be.
    pub(crate) address: SocketAddr,
    /// Why it is not.
    pub(crate) fault: Option<String>,
}

impl Ports {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, Port>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All ports in order.
    pub(crate) fn list(&self) -> Vec<PortStatus> {
        let status = |(port, state): (&u16, &Port)| match state {
            Port::Open { address, .. } => PortStatus { port: *port, address: *address, fault: None },
            Port::Failed { address, fault } => {
                PortStatus { port: *port, address: *address, fault: Some(fault.clone()) }
            }
        };
        self.lock().iter().map(status).collect()
    }

    /// Which port is waited for before clients should come: one that has been shut since the start. Later a Gateway whose
    /// port cannot be had takes nothing from the others.
    pub(crate) fn missing(&self) -> Option<PortStatus> {
        let first = || self.list().into_iter().find(|port| port.fault.is_some());
        if self.complete.load(Ordering::Relaxed) { None } else { first() }
    }

    /// Whether a port of this host is one of ours.
    pub(crate) fn contains(&self, bound: u16) -> bool {
        self.lock().values().any(|port| matches!(port, Port::Open { address, .. } if address.port() == bound))
    }

    /// Stops listening on ports that nobody asks for any more, and tells which are asked for and not open.
    fn keep(&self, wanted: &BTreeSet<u16>) -> Vec<u16> {
        let mut ports = self.lock();
        ports.retain(|number, port| {
            let kept = wanted.contains(number);
            if let (Port::Open { address, stop }, false) = (&*port, kept) {
                stop.cancel();
                info!("no longer listening on {address} (gateway port {number}: no Gateway asks for it)");
            }
            kept
        });
        let is_open = |number: &u16| matches!(ports.get(number), Some(Port::Open { .. }));
        wanted.iter().filter(|number| !is_open(number)).copied().collect()
    }

    fn opened(&self, number: u16, address: SocketAddr, stop: CancellationToken) {
        info!("listening on {address} (gateway port {number})");
        self.lock().insert(number, Port::Open { address, stop });
    }

    /// Logs a fault once, and again when it is another.
    fn failed(&self, number: u16, address: SocketAddr, fault: &io::Error) {
        let text = fault.to_string();
        let known =
            matches!(self.lock().get(&number), Some(Port::Failed { fault: known, .. }) if *known == text);
        if !known {
            error!(
                "cannot listen on {address} for gateway port {number}: {fault}; {}; it is tried again every {RETRY:?}",
                cure(fault)
            );
        }
        self.lock().insert(number, Port::Failed { address, fault: text });
    }
}

fn cure(fault: &io::Error) -> &'static str {
    if fault.kind() == io::ErrorKind::PermissionDenied {
        "choose one from 1024 on by gateway.ports, or give CAP_NET_BIND_SERVICE"
    } else {
        "end what listens there, or choose another one by gateway.ports"
    }
}

/// Opens the ports of the Gateways in force, and follows every change until the proxy drains.
pub(crate) fn start(settings: Gateway, shared: &Arc<Shared>) {
    open_all(&settings, shared);
    tokio::spawn(follow(settings, shared.clone()));
}

async fn follow(settings: Gateway, shared: Arc<Shared>) {
    let mut live = shared.snapshot.clone();
    loop {
        live.mark_unchanged();
        let all_open = open_all(&settings, &shared);
        tokio::select! {
            changed = live.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if !all_open => {}
            () = shared.drain.started() => return,
        }
    }
}

/// Whether all ports that are asked for now are listened on.
fn open_all(settings: &Gateway, shared: &Arc<Shared>) -> bool {
    let wanted: BTreeSet<u16> = shared.snapshot.borrow().snapshot.routes.ports().collect();
    let mut all_open = true;
    for number in shared.gateway.keep(&wanted) {
        if let Err(fault) = open(settings, number, shared) {
            shared.gateway.failed(number, settings.bound(number), &fault);
            all_open = false;
        }
    }
    shared.gateway.complete.fetch_or(all_open, Ordering::Relaxed);
    all_open
}

fn open(settings: &Gateway, number: u16, shared: &Arc<Shared>) -> io::Result<()> {
    let role = Role::Gateway(number);
    let how = listener::How {
        interception: InterceptionMode::Redirect,
        keepalive: shared.settings.limits.keepalive,
        workers: &shared.workers,
    };
    let bound: Vec<Bound> = listener::bind(&role, settings.bound(number), &how)?;
    let stop = CancellationToken::new();
    let address = bound.first().map_or_else(|| settings.bound(number), |bound| bound.address);
    for bound in bound {
        listener::spawn(bound, shared, &stop);
    }
    shared.gateway.opened(number, address, stop);
    Ok(())
}

/// Serves one accepted connection until its end. Of who calls nothing is known but the address.
pub(crate) async fn serve(
    stream: TcpStream,
    connection: &mut Connection,
    port: u16,
    shared: &Arc<Shared>,
) -> End {
    let client = connection.client();
    // Policies of the edge speak of the Gateway's port, wherever it is listened on.
    let here = stream.local_addr().map_or(client, canonical);
    let destination = SocketAddr::new(here.ip(), port);
    connection.note(|record| {
        record.original_destination = Some(destination);
        record.first_bytes = Some(FirstBytes::Plaintext);
    });
    connection.opened();
    let known = Known { peer: None, source: client.ip(), destination, sni: None, certificate: None };
    let requests = Requests::new(shared.clone(), connection.notes(), port);
    Box::pin(http::serve(stream, connection, known, requests, shared.clone(), std::future::pending())).await
}
