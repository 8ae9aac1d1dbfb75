//! The life of an outbound connection, top to bottom: the app beside us calls somebody.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use pillion_mesh::policy::dial::{DialPlan, DialTls};
use pillion_mesh::reason::Reason;
use pillion_mesh::registry::{Destination, FoundBy, Miss};
use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::wire::{TlsRecord, TunnelRecord};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use crate::app::Shared;
use crate::connections::Connection;
use crate::cut::unless;
use crate::inbound::{first_bytes, looks_like};
use crate::listener::Role;
use crate::live::Published;
use crate::net::Leg;
use crate::net::dial::{self, Dialled, OwnDial};
use crate::net::original_dst::original_destination;
use crate::net::relay::{End, Rest, relay};
use crate::net::rewind::Rewound;
use crate::net::sniff::{First, sniff};
use crate::net::tap::Tap;
use crate::settings::{InterceptionMode, OutboundListener, PolicyChange};
use crate::telemetry::log::STEP;
use crate::tls::origination::{Material, Wanted};
use crate::tls::{self, Credentials, HandshakeError, Proof, TlsStream};
use crate::tunnel::{Entered, TunnelStream};

/// Of a host's name (RFC 1035 2.3.4); an app may ask for a longer one, which no message repeats.
const LONGEST_NAME: usize = 255;

/// The app's side, and what is known of where it wants to go. All of it is from one snapshot.
struct Found {
    app: Rewound<TcpStream>,
    by: FoundBy,
    destination: Option<Destination>,
    plan: DialPlan,
    /// Where to connect.
    address: SocketAddr,
}

/// What a connection was made for; kept so that a changed policy or bundle can be asked again.
pub(crate) struct Made {
    pub(crate) by: FoundBy,
    pub(crate) destination: Option<Destination>,
    pub(crate) tls: DialTls,
    /// Who a peer of the mesh has proved to be, and by what.
    pub(crate) peer: Option<(SpiffeId, Proof)>,
}

/// What a handshake takes, got before anybody is dialled.
pub(crate) enum Means<'p> {
    Mesh { credentials: Arc<Credentials>, sni: &'p str, identities: &'p Arc<[SpiffeId]> },
    Tunnel { credentials: Arc<Credentials>, door: SocketAddr, identities: &'p Arc<[SpiffeId]> },
    Outside { material: Material, wanted: Wanted<'p> },
}

/// Serves one accepted connection until it stands as it is planned. What is left is to relay until the end.
///
/// # Errors
/// The end of one that is not let out.
pub(crate) async fn serve<'c>(
    app: TcpStream,
    connection: &'c mut Connection,
    role: &Role,
    shared: &'c Arc<Shared>,
) -> Result<Rest<'c>, End> {
    let found = match role {
        Role::Outbound(listener) => named(app, listener, connection, shared).await,
        _ => captured(app, connection, shared).await,
    };
    let Found { app, by, destination, plan, address } = found?;
    connection.note(|record| {
        record.service = destination.as_ref().map(|known| format!("{}:{}", known.host, known.port));
        record.plan = Some(plan.because.clone());
    });
    debug!(target: STEP, id = connection.id(), "planned as {}: {}", plan.tls.mode(), plan.because);

    let means = means(&plan, address, shared).await?;
    connection.note(|record| record.upstream = Some(address));
    let Reached { stream, own, record, tunnel, peer } = reach(means, address, connection, shared).await?;
    connection.note(|noted| (noted.tls, noted.tunnel) = (record, tunnel));
    let made = Made { by, destination, tls: plan.tls, peer };
    connection.opened();
    debug!(target: STEP, id = connection.id(), "both legs stand: what the app says goes on, encrypted where that is planned");
    Ok(match stream {
        Stream::Plain(stream) => relay_while_planned(app, Dialled { own, stream }, made, connection, shared),
        Stream::Tls(stream) => {
            relay_while_planned(app, Dialled { own, stream: *stream }, made, connection, shared)
        }
        Stream::Tunnel(stream) => {
            relay_while_planned(app, Dialled { own, stream: *stream }, made, connection, shared)
        }
    })
}

/// A connection that stands as its plan has it.
pub(crate) struct Reached {
    pub(crate) stream: Stream,
    /// Where it was dialled by itself.
    pub(crate) own: Option<OwnDial>,
    /// The handshake, where there was one: the tunnel's, where it is in one.
    pub(crate) record: Option<TlsRecord>,
    /// Its place in a tunnel.
    pub(crate) tunnel: Option<TunnelRecord>,
    /// Who a peer of the mesh has proved to be, and by what.
    pub(crate) peer: Option<(SpiffeId, Proof)>,
}

/// With TLS or without.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Tunnel(Box<TunnelStream>),
}

/// Dials, and finishes the handshake where there is to be one; or enters a tunnel.
///
/// # Errors
/// With the reason for the record.
pub(crate) async fn reach(
    means: Option<Means<'_>>,
    address: SocketAddr,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<Reached, End> {
    if let Some(Means::Tunnel { credentials, door, identities }) = &means {
        return Box::pin(enter((*door, identities), address, credentials, connection, shared)).await;
    }
    let (upstream, own) = dial::connect_remembered(address, &shared.dial_options(), &shared.own_dials)
        .await
        .map_err(|error| dial_fault(&error, address, Reason::DestinationUnreachable))?;
    connection.connected();
    connection.note(|record| record.dialled_from = Some(own.local()));
    debug!(target: STEP, id = connection.id(), "{address} has taken the connection");
    let Some(means) = means else {
        let (stream, own) = (Stream::Plain(upstream), Some(own));
        return Ok(Reached { stream, own, record: None, tunnel: None, peer: None });
    };
    let tap = connection.tap();
    let limit = shared.settings.limits.handshake_timeout;
    let done = timeout(limit, Box::pin(handshake(upstream, tap, address, means, shared))).await.map_err(
        |_elapsed| refuse(Reason::HandshakeTimeout, format!("{address} did not finish within {limit:?}")),
    )?;
    let (upstream, record, peer) = done.map_err(End::from)?;
    let (stream, own) = (Stream::Tls(Box::new(upstream)), Some(own));
    Ok(Reached { stream, own, record: Some(record), tunnel: None, peer })
}

/// By a tunnel: the peer takes the connection, or says why not.
async fn enter(
    to: (SocketAddr, &Arc<[SpiffeId]>),
    address: SocketAddr,
    credentials: &Arc<Credentials>,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<Reached, End> {
    let entered = shared.tunnels.enter(to, address, credentials, connection, shared).await;
    let Entered { stream, tls, record, local, peer } = entered.map_err(|end| with_dates(end, shared))?;
    connection.connected();
    connection.note(|noted| noted.dialled_from = Some(local));
    debug!(target: STEP, id = connection.id(), "{address} has taken the connection, in tunnel {} to {}", record.id, to.0);
    let stream = Stream::Tunnel(Box::new(stream));
    Ok(Reached { stream, own: None, record: Some(tls), tunnel: Some(record), peer: Some(peer) })
}

/// What the registry knows of a captured connection's destination: by its address, else by the server name of the app's
/// own TLS, where a service is told by nothing else.
async fn captured(app: TcpStream, connection: &Connection, shared: &Shared) -> Result<Found, End> {
    // Outbound is captured by REDIRECT in either interception mode.
    let original = original_destination(&app, InterceptionMode::Redirect)
        .map_err(|error| refuse(Reason::NoOriginalDestination, error.to_string()))?;
    connection.note(|record| record.original_destination = Some(original));
    debug!(target: STEP, id = connection.id(), "a connection of the app to {original} is captured");
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
    let by = FoundBy::Address(original);
    let (published, found) = look_up(shared, &by, original.port()).await;
    if found != Err(Miss::Unknown) {
        return plan_for(Rewound::new(Vec::new(), app), by, found, &published, original);
    }
    told_by_first_bytes(app, original, published, connection, shared).await
}

/// An address that is unknown may still be told: the app's own TLS may name a service. And where a rule asks for TLS to a
/// name on this port, plaintext may be meant for an address that DNS has given to it just now.
async fn told_by_first_bytes(
    app: TcpStream,
    original: SocketAddr,
    published: Arc<Published>,
    connection: &Connection,
    shared: &Shared,
) -> Result<Found, End> {
    let by = FoundBy::Address(original);
    let registry = &published.snapshot.registry;
    let (asks_sni, originated) =
        (registry.asks_sni(original.port()), registry.may_be_originated(original.port()));
    if !asks_sni && !originated {
        return plan_for(Rewound::new(Vec::new(), app), by, Err(Miss::Unknown), &published, original);
    }
    let sniffed = sniff(&app, shared.settings.limits.hello_size, shared.settings.detection_timeout)
        .await
        .map_err(|error| End { reason: Reason::ClientReset, detail: Some(error.to_string()) })?;
    connection.note(|record| {
        record.first_bytes = Some(first_bytes(sniffed.first.clone()));
        record.looks_like = looks_like(&sniffed);
    });
    let app = Rewound::new(sniffed.bytes, app);
    match sniffed.first {
        First::Hello(hello) => {
            let Some(name) = hello.sni.filter(|_| asks_sni) else {
                return plan_for(app, by, Err(Miss::Unknown), &published, original);
            };
            let asked: String = name.chars().take(LONGEST_NAME).collect();
            let by = FoundBy::ServerName(name, original);
            let known = registry.find(&by, 0);
            let mut found = plan_for(app, by, known, &published, original)?;
            if found.destination.is_none() {
                found.plan.because +=
                    &format!("; nor has one the server name {asked}, which the app asks for");
            }
            Ok(found)
        }
        First::Plaintext | First::Silent if originated => {
            let (published, found) = look_up_afresh(shared, &by).await;
            plan_for(app, by, found, &published, original)
        }
        First::Plaintext | First::Silent | First::TooLarge => {
            plan_for(app, by, Err(Miss::Unknown), &published, original)
        }
    }
}

/// What the registry knows of an explicit listener's destination. An unknown one is refused: nobody asked for
/// plaintext there.
async fn named(
    app: TcpStream,
    listener: &OutboundListener,
    connection: &Connection,
    shared: &Shared,
) -> Result<Found, End> {
    let OutboundListener { host, port, .. } = listener;
    connection.note(|record| record.service = Some(format!("{host}:{port}")));
    let by = FoundBy::Host(host.clone(), *port);
    match look_up(shared, &by, *port).await {
        (published, Ok(known)) => {
            let address = known.endpoint;
            plan_for(Rewound::new(Vec::new(), app), by, Ok(known), &published, address)
        }
        (_, Err(Miss::Unknown)) => {
            Err(refuse(Reason::DestinationUnknown, DialPlan::for_unknown_host(host, *port).because))
        }
        (_, Err(Miss::NoEndpoint(host))) => Err(no_endpoint(&host)),
    }
}

/// The plan, by the snapshot that the look-up was made in. An unknown destination keeps the address that was dialled.
fn plan_for(
    app: Rewound<TcpStream>,
    by: FoundBy,
    found: Result<Destination, Miss>,
    published: &Published,
    original: SocketAddr,
) -> Result<Found, End> {
    let destination = match found {
        Ok(destination) => Some(destination),
        Err(Miss::Unknown) => None,
        Err(Miss::NoEndpoint(host)) => return Err(no_endpoint(&host)),
    };
    let address = destination.as_ref().map_or(original, |known| known.endpoint);
    let plan = published.snapshot.plan(destination.as_ref());
    Ok(Found { app, by, destination, plan, address })
}

/// Looks up, and once more with fresh addresses where DNS may know more than we: an endpoint that was just
/// restarted must not be taken for a stranger and spoken to in plaintext.
async fn look_up(shared: &Shared, by: &FoundBy, port: u16) -> (Arc<Published>, Result<Destination, Miss>) {
    let published = shared.snapshot.borrow().clone();
    let found = published.snapshot.registry.find(by, shared.next_turn());
    if found.is_ok() || !published.snapshot.registry.may_be_stale(port) {
        return (published, found);
    }
    look_up_afresh(shared, by).await
}

async fn look_up_afresh(shared: &Shared, by: &FoundBy) -> (Arc<Published>, Result<Destination, Miss>) {
    shared.resolver.refresh().await;
    let published = shared.snapshot.borrow().clone();
    let found = published.snapshot.registry.find(by, shared.next_turn());
    (published, found)
}

/// What the plan's handshake takes; nothing for plaintext. Nobody is dialled without.
///
/// # Errors
/// With the reason for the record: the plan refuses, or there is no certificate or no file to prove oneself with.
pub(crate) async fn means<'p>(
    plan: &'p DialPlan,
    address: SocketAddr,
    shared: &Shared,
) -> Result<Option<Means<'p>>, End> {
    match &plan.tls {
        DialTls::Plaintext => Ok(None),
        DialTls::Refuse(reason) => Err(refuse(*reason, plan.because.clone())),
        DialTls::IstioMutual { sni, identities } => {
            let credentials = credentials(address, shared)?;
            Ok(Some(Means::Mesh { credentials, sni, identities }))
        }
        DialTls::Tunnel { door, identities } => {
            let credentials = credentials(address, shared)?;
            Ok(Some(Means::Tunnel { credentials, door: *door, identities }))
        }
        DialTls::Originate { server_name, names, alpn, how } => {
            let limit = shared.settings.limits.handshake_timeout;
            let material = timeout(limit, shared.originator.material(how)).await.map_err(|_elapsed| {
                let detail = format!("{}, and its files could not be read within {limit:?}", plan.because);
                refuse(Reason::TlsFilesUnusable, detail)
            })??;
            let wanted = Wanted { server_name: server_name.as_deref(), names, alpn: *alpn };
            Ok(Some(Means::Outside { material, wanted }))
        }
    }
}

/// What mutual TLS with the mesh takes.
fn credentials(address: SocketAddr, shared: &Shared) -> Result<Arc<Credentials>, End> {
    let current = shared.credentials.borrow().clone();
    tls::usable(current, &shared.clock).map_err(|because| {
        refuse(Reason::NoCertificate, format!("{address} is to be reached by mutual TLS: {because}"))
    })
}

/// A handshake and what it proved.
type Secured = (TlsStream<TcpStream>, TlsRecord, Option<(SpiffeId, Proof)>);

async fn handshake(
    upstream: TcpStream,
    tap: Arc<Tap>,
    address: SocketAddr,
    means: Means<'_>,
    shared: &Shared,
) -> Result<Secured, HandshakeError> {
    match means {
        Means::Mesh { credentials, sni, identities } => {
            let identities = Arc::clone(identities);
            debug!(target: STEP, "a ClientHello goes to {address}, server name {sni}");
            let (stream, done) =
                tls::client::connect(upstream, tap, &credentials, address, sni, identities).await?;
            Ok((stream, done.record, Some((done.peer, done.proof))))
        }
        Means::Tunnel { .. } => {
            Err(HandshakeError { reason: Reason::Internal, detail: "a tunnel is not begun here".to_owned() })
        }
        Means::Outside { material, wanted } => {
            let (stream, record) = shared.originator.connect(upstream, tap, &material, wanted).await?;
            Ok((stream, record, None))
        }
    }
}

/// Relays until the end, or until a changed policy or trust bundle would no longer make the connection as it is.
fn relay_while_planned<'c, S>(
    mut app: Rewound<TcpStream>,
    mut upstream: Dialled<S>,
    made: Made,
    connection: &'c Connection,
    shared: &'c Shared,
) -> Rest<'c>
where
    S: AsyncRead + AsyncWrite + Leg + Unpin + Send + 'static,
{
    // What a block has captured it holds once; arguments of an `async fn` would be held twice.
    Box::pin(async move {
        let relaying = relay(&mut app, &mut upstream.stream, connection.moved());
        match unless(relaying, no_longer_planned(&made, shared)).await {
            Ok(end) => with_dates(end, shared),
            Err(because) => refuse(Reason::PolicyChanged, because),
        }
    })
}

/// In TLS 1.3 a server that does not accept the dates of our certificate says so after the handshake.
fn with_dates(end: End, shared: &Shared) -> End {
    let current = shared.credentials.borrow().clone();
    match (end, current) {
        (End { reason: Reason::PeerRefused, detail: Some(detail) }, Some(current)) => {
            End { reason: Reason::PeerRefused, detail: Some(current.with_dates(detail)) }
        }
        (end, _) => end,
    }
}

/// Ends, with the reason in words, when a change of policy or of the trust bundle would no longer make this connection as
/// it is.
pub(crate) async fn no_longer_planned(made: &Made, shared: &Shared) -> String {
    if shared.settings.policy_change == PolicyChange::Keep {
        return std::future::pending().await;
    }
    tokio::select! {
        because = planned_otherwise(made, shared) => because,
        because = tls::no_longer_proved(made.peer.as_ref().map(|(_, proof)| proof), &shared.credentials) => because,
    }
}

async fn planned_otherwise(made: &Made, shared: &Shared) -> String {
    let mut snapshot = shared.snapshot.clone();
    loop {
        if snapshot.changed().await.is_err() {
            return std::future::pending().await;
        }
        let published = snapshot.borrow_and_update().clone();
        let now = published.snapshot.plan_again(&made.by, made.destination.as_ref());
        if let Some(because) = now.ends(&made.tls, made.peer.as_ref().map(|(peer, _)| peer)) {
            return because;
        }
    }
}

/// A handshake that failed ends the connection for its reason.
impl From<HandshakeError> for End {
    fn from(HandshakeError { reason, detail }: HandshakeError) -> Self {
        refuse(reason, detail)
    }
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
