//! The life of an inbound connection, top to bottom: a peer or a stranger calls the app beside us.

mod app;

use std::net::SocketAddr;
use std::sync::Arc;

use pillion_mesh::plaintext;
use pillion_mesh::policy::Snapshot;
use pillion_mesh::policy::admit::{Admission, Observed, admit, carries_requests, needs_sniff, shadow};
use pillion_mesh::reason::Reason;
use pillion_mesh::wire::{FirstBytes, How, ModeRecord};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use crate::app::Shared;
use crate::authorize::Known;
use crate::connections::Connection;
use crate::cut::unless;
use crate::listener::Role;
use crate::net::Leg;
use crate::net::moved::Side;
use crate::net::original_dst::original_destination;
use crate::net::relay::{End, Rest, relay};
use crate::net::rewind::Rewound;
use crate::net::sniff::{First, Sniffed, sniff};
use crate::outbound::refuse;
use crate::settings::PolicyChange;
use crate::telemetry::log::STEP;
use crate::tls::{Door, Handshake, usable};
use crate::tunnel::TunnelStream;
use crate::{http, tls};
use app::{App, AppRequests};

/// What a connection was admitted for; kept so that a changed policy can be asked again.
#[derive(Debug, Clone)]
struct Admitted {
    observed: Option<Observed>,
    admission: Admission,
    known: Known,
    /// What the peer of mutual TLS was believed by.
    proof: Option<tls::Proof>,
}

/// Serves one accepted connection until it is let in.
///
/// # Errors
/// The end of one that is not.
pub(crate) async fn serve<'c>(
    stream: TcpStream,
    connection: &'c mut Connection,
    role: &Arc<Role>,
    shared: &'c Arc<Shared>,
) -> Result<Rest<'c>, End> {
    let target = target(&stream, connection, role, shared)?;
    let client = connection.client().ip();
    let published = shared.snapshot.borrow().clone();
    let snapshot = &published.snapshot;
    let decision = snapshot.modes.for_port(target.port());
    note_port(target.port(), snapshot, connection);

    if !needs_sniff(decision.mode) {
        connection.note(|record| record.first_bytes = Some(FirstBytes::Unseen));
        let known = Known { peer: None, source: client, destination: target, sni: None, certificate: None };
        let admitted = Admitted { observed: None, admission: Admission::Forward, known, proof: None };
        return forward(stream, admitted, snapshot, connection, role, shared).await;
    }

    let sniffed = sniff(&stream, shared.settings.limits.hello_size, shared.settings.detection_timeout)
        .await
        .map_err(|error| End { reason: Reason::ClientReset, detail: Some(error.to_string()) })?;
    if sniffed.ended {
        connection.moved().ended(Side::Client, How::Fin);
    }
    let observed = match &sniffed.first {
        First::Hello(hello) if hello.is_mesh() => Observed::MeshTls,
        First::Hello(_) => Observed::OtherTls,
        First::Plaintext => Observed::Plaintext,
        First::Silent => Observed::Silent,
        First::TooLarge => {
            let limit = shared.settings.limits.hello_size;
            return Err(refuse(Reason::HelloTooLarge, format!("more than {limit} bytes (limits.helloSize)")));
        }
    };
    let sni = if let First::Hello(hello) = &sniffed.first { hello.sni.clone() } else { None };
    let looks_like = looks_like(&sniffed);
    connection.note(|record| {
        record.first_bytes = Some(first_bytes(sniffed.first));
        record.looks_like = looks_like;
    });

    let protocol = snapshot.protocol(target.port());
    let admission = admit(decision.mode, protocol, observed);
    debug!(target: STEP, id = connection.id(), "the first bytes for {target} are {observed:?}; the port is {}: {admission:?}", decision.mode);
    if let Some(shadow) = shadow(&snapshot.modes, target.port(), protocol, observed, admission) {
        connection.note(|record| {
            if let Some(mode) = &mut record.mode {
                mode.shadow = Some(shadow);
            }
        });
    }
    let known = Known { peer: None, source: client, destination: target, sni, certificate: None };
    let admitted = Admitted { observed: Some(observed), admission, known, proof: None };
    let stream = Rewound::new(sniffed.bytes, stream);
    match admission {
        Admission::Forward => forward(stream, admitted, snapshot, connection, role, shared).await,
        Admission::Terminate => terminate(stream, admitted, snapshot, connection, role, shared).await,
        Admission::Refuse(reason) => {
            let detail = format!("port {} is {} by {}", target.port(), decision.mode, decision.because);
            Err(refuse(reason, detail))
        }
    }
}

/// Serves one stream of a tunnel, whose client wants to go to `target` and has proved by the tunnel's `handshake` who it is,
/// until it is let in.
///
/// # Errors
/// The end of one that is not.
pub(crate) async fn serve_tunnelled<'c>(
    client: TunnelStream,
    target: SocketAddr,
    handshake: &Handshake,
    connection: &'c mut Connection,
    shared: &'c Arc<Shared>,
) -> Result<Rest<'c>, End> {
    // Who is told to come to an explicit listener means the app behind it.
    let (role, target) = match shared.listener_at(target) {
        Some(listener) => (Role::Inbound(listener.clone()), listener.forward),
        None => (Role::InboundTunnel, target),
    };
    connection.note(|record| record.original_destination = Some(target));
    if shared.is_own_port(target.port()) && !matches!(role, Role::Inbound(_)) {
        let detail = format!("port {} is one of this proxy's own", target.port());
        return Err(refuse(Reason::SelfLoop, detail));
    }
    let published = shared.snapshot.borrow().clone();
    let snapshot = &published.snapshot;
    note_port(target.port(), snapshot, connection);
    let known = Known {
        peer: Some(handshake.peer.clone()),
        source: connection.client().ip(),
        destination: target,
        sni: None,
        certificate: Some(handshake.proof.leaf()),
    };
    let proof = Some(handshake.proof.clone());
    let (observed, admission) = (Some(Observed::MeshTls), Admission::Terminate);
    let admitted = Admitted { observed, admission, known, proof };
    forward(client, admitted, snapshot, connection, &Arc::new(role), shared).await
}

/// What the port accepts, and whose it is.
fn note_port(port: u16, snapshot: &Snapshot, connection: &Connection) {
    let decision = snapshot.modes.for_port(port);
    connection.note(|record| {
        record.mode =
            Some(ModeRecord { mode: decision.mode, because: decision.because.clone(), shadow: None });
        record.service = snapshot.own_port(port).map(|own| format!("{}:{}", own.host, own.port));
    });
}

/// Where the client wants to go. A connection to the proxy itself is refused here.
fn target(
    stream: &TcpStream,
    connection: &Connection,
    role: &Role,
    shared: &Shared,
) -> Result<SocketAddr, End> {
    let target = match role {
        Role::Inbound(listener) => listener.forward,
        _ => original_destination(stream, shared.settings.interception.mode)
            .map_err(|error| refuse(Reason::NoOriginalDestination, error.to_string()))?,
    };
    connection.note(|record| record.original_destination = Some(target));
    if shared.is_own_port(target.port()) && !matches!(role, Role::Inbound(_)) {
        return Err(refuse(Reason::SelfLoop, format!("port {} is one of this proxy's own", target.port())));
    }
    Ok(target)
}

/// Terminates mutual TLS. The app is not dialled before the handshake is verified.
async fn terminate<'c>(
    stream: Rewound<TcpStream>,
    mut admitted: Admitted,
    snapshot: &Snapshot,
    connection: &'c mut Connection,
    role: &Arc<Role>,
    shared: &'c Arc<Shared>,
) -> Result<Rest<'c>, End> {
    let credentials = shared.credentials.borrow().clone();
    let credentials = usable(credentials, &shared.clock).map_err(|because| {
        refuse(Reason::NoCertificate, format!("clients of the mesh cannot be served: {because}"))
    })?;
    let limit = shared.settings.limits.handshake_timeout;
    let port = admitted.known.destination.port();
    let door = Door { port, mode: snapshot.modes.for_port(port).mode };
    debug!(target: STEP, id = connection.id(), "a ServerHello and our certificate go back, and the client is asked for its own");
    let handshake = Box::pin(tls::server::accept(stream, connection.tap(), &credentials, door));
    let done = timeout(limit, handshake)
        .await
        .map_err(|_elapsed| refuse(Reason::HandshakeTimeout, format!("not finished within {limit:?}")))?;
    let (stream, handshake) = done?;
    drop(credentials); // sessions must not outlive a change of them
    debug!(target: STEP, id = connection.id(), "the handshake is finished: the client is {}", handshake.peer);
    admitted.known.peer = Some(handshake.peer);
    admitted.known.certificate = Some(handshake.proof.leaf());
    admitted.proof = Some(handshake.proof);
    connection.note(|record| record.tls = Some(handshake.record));
    forward(stream, admitted, snapshot, connection, role, shared).await
}

/// Lets in what was admitted: request by request where it is read as HTTP, else as a whole.
async fn forward<'c, S>(
    client: S,
    admitted: Admitted,
    snapshot: &Snapshot,
    connection: &'c mut Connection,
    role: &Arc<Role>,
    shared: &'c Arc<Shared>,
) -> Result<Rest<'c>, End>
where
    S: AsyncRead + AsyncWrite + Leg + Unpin + Send + 'static,
{
    let port = admitted.known.destination.port();
    let app = App {
        shared: shared.clone(),
        role: role.clone(),
        notes: connection.notes(),
        target: admitted.known.destination,
    };
    let declared = snapshot.protocol(port).is_http();
    if snapshot.reads_http(port) && carries_requests(admitted.observed, admitted.admission, declared) {
        let service = snapshot.own_port(port).map(|own| format!("{}:{}", own.host, own.port));
        return Ok(Box::pin(forward_requests(
            client,
            admitted,
            AppRequests::new(app, service),
            connection,
            shared,
        )));
    }
    forward_bytes(client, admitted, &app, snapshot, connection, shared).await
}

/// Serves HTTP. Each request is authorized by itself; the connection as a whole is cut where its admission changes.
async fn forward_requests<S>(
    mut client: S,
    admitted: Admitted,
    app: AppRequests,
    connection: &mut Connection,
    shared: &Arc<Shared>,
) -> End
where
    S: AsyncRead + AsyncWrite + Leg + Unpin + Send + 'static,
{
    client.let_in();
    connection.opened();
    let cut = no_longer_allowed(&admitted, shared, not_admitted);
    http::serve(client, connection, admitted.known.clone(), app, shared.clone(), cut).await
}

/// Asks the AuthorizationPolicies and dials the app with their permit. What is left is to relay until the end, or until the
/// policies no longer allow the connection.
async fn forward_bytes<'c, S>(
    mut client: S,
    admitted: Admitted,
    app: &App,
    snapshot: &Snapshot,
    connection: &'c mut Connection,
    shared: &'c Shared,
) -> Result<Rest<'c>, End>
where
    S: AsyncRead + AsyncWrite + Leg + Unpin + Send + 'static,
{
    let (outcome, record) = admitted.known.ask(&snapshot.authorization);
    connection.note(|open| open.authorization = Some(record));
    let mut app = app.dial(&outcome?).await?;
    client.let_in();
    connection.opened();
    // What a block has captured it holds once; arguments of an `async fn` would be held twice.
    Ok(Box::pin(async move {
        let relaying = relay(&mut client, &mut app.stream, connection.moved());
        unless(relaying, no_longer_allowed(&admitted, shared, refusal_of))
            .await
            .unwrap_or_else(|because| refuse(Reason::PolicyChanged, because))
    }))
}

/// Ends, with the reason in words, when a change of policy (by what `refusal` says of it) or of the trust bundle would no
/// longer let this connection in as it was.
async fn no_longer_allowed(
    admitted: &Admitted,
    shared: &Shared,
    refusal: impl Fn(&Admitted, &Snapshot) -> Option<String>,
) -> String {
    if shared.settings.policy_change == PolicyChange::Keep {
        return std::future::pending().await;
    }
    tokio::select! {
        because = refused_by_policy(admitted, shared, refusal) => because,
        because = tls::no_longer_proved(admitted.proof.as_ref(), &shared.credentials) => because,
    }
}

async fn refused_by_policy(
    admitted: &Admitted,
    shared: &Shared,
    refusal: impl Fn(&Admitted, &Snapshot) -> Option<String>,
) -> String {
    let mut snapshot = shared.snapshot.clone();
    let mut asked = None;
    loop {
        if snapshot.changed().await.is_err() {
            return std::future::pending().await;
        }
        let published = snapshot.borrow_and_update().clone();
        // New addresses of names change nothing here.
        if asked.replace(published.version) == Some(published.version) {
            continue;
        }
        if let Some(because) = refusal(admitted, &published.snapshot) {
            return because;
        }
    }
}

/// Whether the snapshot would refuse what was admitted before, at its port or by its AuthorizationPolicies.
fn refusal_of(admitted: &Admitted, snapshot: &Snapshot) -> Option<String> {
    not_admitted(admitted, snapshot).or_else(|| {
        let (outcome, record) = admitted.known.ask(&snapshot.authorization);
        outcome.is_err().then_some(record.because)
    })
}

/// Whether the port would no longer admit it. A connection is not cut for being safer than it would have to be; one that
/// was never looked at (DISABLE) is plaintext for all that is known.
fn not_admitted(admitted: &Admitted, snapshot: &Snapshot) -> Option<String> {
    let Admitted { observed, admission, known, .. } = admitted;
    let port = known.destination.port();
    let decision = snapshot.modes.for_port(port);
    if !needs_sniff(decision.mode) {
        return None;
    }
    let observed = observed.unwrap_or(Observed::Plaintext);
    let now = admit(decision.mode, snapshot.protocol(port), observed);
    let kept = now == *admission || (*admission == Admission::Terminate && now == Admission::Forward);
    (!kept).then(|| format!("port {port} is {} by {}", decision.mode, decision.because))
}

/// What the record keeps of the first bytes.
pub(crate) fn first_bytes(first: First) -> FirstBytes {
    match first {
        First::Hello(hello) => FirstBytes::of(*hello),
        First::Plaintext | First::TooLarge => FirstBytes::Plaintext,
        First::Silent => FirstBytes::Silent,
    }
}

/// What the record tells of plaintext.
pub(crate) fn looks_like(sniffed: &Sniffed) -> Option<String> {
    if sniffed.first == First::Plaintext { plaintext::looks_like(&sniffed.bytes) } else { None }
}
