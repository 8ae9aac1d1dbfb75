//! The life of an outbound connection, top to bottom: the app beside us calls somebody.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use pillion_mesh::policy::dial::DialTls;
use pillion_mesh::reason::Reason;
use pillion_mesh::registry::{Destination, Miss};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::app::Shared;
use crate::connections::Connection;
use crate::listener::Role;
use crate::net::Leg;
use crate::net::dial;
use crate::net::original_dst::original_destination;
use crate::net::relay::{End, relay};
use crate::settings::{InterceptionMode, OutboundListener};
use crate::tls;

/// Serves one accepted connection until its end.
pub(crate) async fn serve(
    mut app: TcpStream,
    connection: &mut Connection,
    role: &Role,
    shared: &Arc<Shared>,
) -> End {
    let found = match role {
        Role::Outbound(listener) => named(listener, connection, shared).await,
        _ => captured(&app, connection, shared).await,
    };
    let (destination, address) = match found {
        Ok(found) => found,
        Err(end) => return end,
    };
    let plan = shared.snapshot.borrow().snapshot.plan(destination.as_ref());
    connection.note(|record| {
        record.service = destination.as_ref().map(|known| format!("{}:{}", known.host, known.port));
        record.plan = Some(plan.because.clone());
        record.upstream = Some(address);
    });

    let credentials = match &plan.tls {
        DialTls::Plaintext => None,
        DialTls::Refuse(reason) => return refuse(*reason, plan.because.clone()),
        DialTls::Originate { .. } => return refuse(Reason::Internal, plan.because.clone()),
        DialTls::IstioMutual { .. } => {
            match shared.credentials.borrow().clone().filter(|current| current.is_valid_at(SystemTime::now()))
            {
                Some(credentials) => Some(credentials),
                None => {
                    return refuse(
                        Reason::NoCertificate,
                        format!("{address} is to be reached by mutual TLS"),
                    );
                }
            }
        }
    };
    let (mut upstream, _own) =
        match dial::connect_remembered(address, &shared.dial_options(), &shared.own_dials).await {
            Ok(dialled) => dialled,
            Err(error) => return dial_fault(&error, address, Reason::DestinationUnreachable),
        };

    let (DialTls::IstioMutual { sni, identities }, Some(credentials)) = (&plan.tls, credentials) else {
        connection.opened();
        return relay(&mut app, &mut upstream, connection.moved()).await;
    };
    upstream.close_cleanly(); // lets the alert of a failed handshake out
    let limit = shared.settings.limits.handshake_timeout;
    let handshake = Box::pin(tls::client::connect(upstream, &credentials, sni, Arc::clone(identities)));
    let (mut upstream, handshake) = match timeout(limit, handshake).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => return End { reason: error.reason, detail: Some(error.detail) },
        Err(_elapsed) => {
            return refuse(Reason::HandshakeTimeout, format!("{address} did not finish within {limit:?}"));
        }
    };
    upstream.close_by_reset();
    connection.note(|record| record.tls = Some(handshake.record));
    connection.opened();
    relay(&mut app, &mut upstream, connection.moved()).await
}

/// What the registry knows of a captured connection's destination, and the address to dial.
async fn captured(
    app: &TcpStream,
    connection: &Connection,
    shared: &Shared,
) -> Result<(Option<Destination>, SocketAddr), End> {
    // Outbound is captured by REDIRECT in either interception mode.
    let original = original_destination(app, InterceptionMode::Redirect)
        .map_err(|error| refuse(Reason::NoOriginalDestination, error.to_string()))?;
    connection.note(|record| record.original_destination = Some(original));
    if app.local_addr().is_ok_and(|local| local.port() == original.port()) {
        return Err(refuse(Reason::SelfLoop, format!("{original} is this proxy's own outbound port")));
    }
    if app.peer_addr().is_ok_and(|client| shared.own_dials.contains(client)) {
        return Err(refuse(
            Reason::SelfLoop,
            "this proxy's own connection was captured; run the proxy as the uid that the rules exempt"
                .to_owned(),
        ));
    }
    match look_up(shared, original.port(), |snapshot, turn| snapshot.registry.lookup(original, turn)).await {
        Ok(destination) => {
            let address = destination.endpoint;
            Ok((Some(destination), address))
        }
        Err(Miss::Unknown) => Ok((None, original)),
        Err(Miss::NoEndpoint(host)) => Err(no_endpoint(&host)),
    }
}

/// What the registry knows of an explicit listener's destination. An unknown one is refused: nobody asked for
/// plaintext there.
async fn named(
    listener: &OutboundListener,
    connection: &Connection,
    shared: &Shared,
) -> Result<(Option<Destination>, SocketAddr), End> {
    let OutboundListener { host, port, .. } = listener;
    connection.note(|record| record.service = Some(format!("{host}:{port}")));
    match look_up(shared, *port, |snapshot, turn| snapshot.registry.lookup_host(host, *port, turn)).await {
        Ok(destination) => {
            let address = destination.endpoint;
            Ok((Some(destination), address))
        }
        Err(Miss::Unknown) => Err(refuse(
            Reason::DestinationUnknown,
            format!("no ServiceEntry has the host {host} with the port {port}"),
        )),
        Err(Miss::NoEndpoint(host)) => Err(no_endpoint(&host)),
    }
}

/// Looks up, and once more with fresh addresses where DNS may know more than we: an endpoint that was just
/// restarted must not be taken for a stranger and spoken to in plaintext.
async fn look_up(
    shared: &Shared,
    port: u16,
    find: impl Fn(&pillion_mesh::policy::Snapshot, usize) -> Result<Destination, Miss>,
) -> Result<Destination, Miss> {
    let turn = shared.next_turn();
    let published = shared.snapshot.borrow().clone();
    let found = find(&published.snapshot, turn);
    if found.is_ok() || !published.snapshot.registry.may_be_stale(port) {
        return found;
    }
    shared.resolver.refresh().await;
    let published = shared.snapshot.borrow().clone();
    find(&published.snapshot, turn)
}

fn no_endpoint(host: &str) -> End {
    refuse(Reason::NoEndpoint, format!("{host} has no address now"))
}

/// The end of a connection that was not let in.
pub(crate) fn refuse(reason: Reason, detail: String) -> End {
    End { reason, detail: Some(detail) }
}

/// The end of a connection whose other leg could not be dialled.
pub(crate) fn dial_fault(error: &io::Error, address: SocketAddr, reason: Reason) -> End {
    let reason = if error.kind() == io::ErrorKind::TimedOut { Reason::ConnectTimeout } else { reason };
    refuse(reason, format!("{address}: {error}"))
}
