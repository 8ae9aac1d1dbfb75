//! The life of an inbound connection, top to bottom: a peer or a stranger calls the app beside us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use pillion_mesh::policy::Snapshot;
use pillion_mesh::policy::admit::{Admission, Observed, admit, needs_sniff};
use pillion_mesh::policy::authz::Permit;
use pillion_mesh::reason::Reason;
use pillion_mesh::wire::{FirstBytes, ModeRecord};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::app::Shared;
use crate::authorize::Known;
use crate::connections::Connection;
use crate::listener::Role;
use crate::net::Leg;
use crate::net::dial::{self, DialOptions, OwnDial};
use crate::net::original_dst::original_destination;
use crate::net::relay::{End, relay};
use crate::net::rewind::Rewound;
use crate::net::sniff::{First, sniff};
use crate::outbound::{dial_fault, refuse};
use crate::settings::{InterceptionMode, PolicyChange, TrafficPolicy};
use crate::tls;

/// What a connection was admitted for; kept so that a changed policy can be asked again.
#[derive(Debug, Clone)]
struct Admitted {
    observed: Option<Observed>,
    admission: Admission,
    known: Known,
}

/// Serves one accepted connection until its end.
pub(crate) async fn serve(
    stream: TcpStream,
    connection: &mut Connection,
    role: &Role,
    shared: &Arc<Shared>,
) -> End {
    let target = match target(&stream, connection, role, shared) {
        Ok(target) => target,
        Err(end) => return end,
    };
    let client = connection.client().ip();
    let published = shared.snapshot.borrow().clone();
    let snapshot = &published.snapshot;
    let decision = snapshot.modes.for_port(target.port());
    connection.note(|record| {
        record.mode = Some(ModeRecord { mode: decision.mode, because: decision.because.clone() });
        record.service = snapshot.own_port(target.port()).map(|own| format!("{}:{}", own.host, own.port));
    });

    if !needs_sniff(decision.mode) {
        connection.note(|record| record.first_bytes = Some(FirstBytes::Unseen));
        let known = Known { peer: None, source: client, destination: target, sni: None };
        let admitted = Admitted { observed: None, admission: Admission::Forward, known };
        return forward(stream, admitted, snapshot, connection, role, shared).await;
    }

    let sniffed =
        match sniff(&stream, shared.settings.limits.hello_size, shared.settings.detection_timeout).await {
            Ok(sniffed) => sniffed,
            Err(error) => return End { reason: Reason::ClientReset, detail: Some(error.to_string()) },
        };
    let observed = match &sniffed.first {
        First::Hello(hello) if hello.is_mesh() => Observed::MeshTls,
        First::Hello(_) => Observed::OtherTls,
        First::Plaintext => Observed::Plaintext,
        First::Silent => Observed::Silent,
        First::TooLarge => {
            let limit = shared.settings.limits.hello_size;
            return refuse(Reason::HelloTooLarge, format!("more than {limit} bytes (limits.helloSize)"));
        }
    };
    connection.note(|record| record.first_bytes = Some(first_bytes(&sniffed.first)));

    let admission = admit(decision.mode, snapshot.protocol(target.port()), observed);
    let sni = if let First::Hello(hello) = sniffed.first { hello.sni } else { None };
    let known = Known { peer: None, source: client, destination: target, sni };
    let admitted = Admitted { observed: Some(observed), admission, known };
    let stream = Rewound::new(sniffed.bytes, stream);
    match admission {
        Admission::Forward => forward(stream, admitted, snapshot, connection, role, shared).await,
        Admission::Terminate => terminate(stream, admitted, snapshot, connection, role, shared).await,
        Admission::Refuse(reason) => {
            refuse(reason, format!("port {} is {} by {}", target.port(), decision.mode, decision.because))
        }
    }
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
    if shared.own_ports.contains(&target.port()) && !matches!(role, Role::Inbound(_)) {
        return Err(refuse(Reason::SelfLoop, format!("port {} is one of this proxy's own", target.port())));
    }
    Ok(target)
}

/// Terminates mutual TLS, then relays. The app is not dialled before the handshake is verified.
async fn terminate(
    stream: Rewound<TcpStream>,
    mut admitted: Admitted,
    snapshot: &Snapshot,
    connection: &mut Connection,
    role: &Role,
    shared: &Arc<Shared>,
) -> End {
    let credentials = shared.credentials.borrow().clone();
    let Some(credentials) = credentials.filter(|current| current.is_valid_at(SystemTime::now())) else {
        return refuse(Reason::NoCertificate, "clients of the mesh cannot be served without one".to_owned());
    };
    stream.close_cleanly(); // lets the alert of a failed handshake out
    let limit = shared.settings.limits.handshake_timeout;
    let handshake = Box::pin(tls::server::accept(stream, &credentials));
    let (stream, handshake) = match timeout(limit, handshake).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => return End { reason: error.reason, detail: Some(error.detail) },
        Err(_elapsed) => {
            return refuse(Reason::HandshakeTimeout, format!("not finished within {limit:?}"));
        }
    };
    stream.close_by_reset();
    admitted.known.peer = Some(handshake.peer);
    connection.note(|record| record.tls = Some(handshake.record));
    forward(stream, admitted, snapshot, connection, role, shared).await
}

/// Asks the AuthorizationPolicies, dials the app with their permit, and relays until the end, or until the policies no
/// longer allow the connection.
async fn forward<S>(
    mut client: S,
    admitted: Admitted,
    snapshot: &Snapshot,
    connection: &mut Connection,
    role: &Role,
    shared: &Arc<Shared>,
) -> End
where
    S: AsyncRead + AsyncWrite + Leg + Unpin,
{
    let (outcome, record) = admitted.known.ask(&snapshot.authorization);
    connection.note(|open| open.authorization = Some(record));
    let permit = match outcome {
        Ok(permit) => permit,
        Err(end) => return end,
    };
    let (mut app, _own) = match dial_app(&permit, &client, &admitted.known, connection, role, shared).await {
        Ok(dialled) => dialled,
        Err(end) => return end,
    };
    connection.opened();
    tokio::select! {
        end = relay(&mut client, &mut app, connection.moved()) => end,
        because = no_longer_allowed(&admitted, shared) => End { reason: Reason::PolicyChanged, detail: Some(because) },
    }
}

/// Connects to the app. Only who holds a permit may: the authorizer alone makes one.
async fn dial_app<S: Leg>(
    _permit: &Permit,
    client: &S,
    known: &Known,
    connection: &Connection,
    role: &Role,
    shared: &Shared,
) -> Result<(TcpStream, OwnDial), End> {
    let target = known.destination;
    let address = match (role, shared.settings.inbound.traffic_policy) {
        (Role::InboundCapture, TrafficPolicy::Localhost) => {
            SocketAddr::new(loopback(target.ip()), target.port())
        }
        _ => target,
    };
    connection.note(|record| record.upstream = Some(address));
    let options = app_options(client, address, role, shared);
    dial::connect_remembered(address, &options, &shared.own_dials)
        .await
        .map_err(|error| dial_fault(&error, address, Reason::AppUnreachable))
}

/// How the app is dialled: from 127.0.0.6 (`::6`), or with TPROXY from the client's own address, so that the
/// interception rules let the connection pass. An app on loopback sees 127.0.0.6 in either case: the kernel would not
/// let its answers leave a loopback address for the client's.
fn app_options<S: Leg>(client: &S, address: SocketAddr, role: &Role, shared: &Shared) -> DialOptions {
    let tproxy = shared.settings.interception.mode == InterceptionMode::Tproxy && !address.ip().is_loopback();
    let source = match role {
        Role::InboundCapture if tproxy => client.tcp().peer_addr().ok().map(|peer| peer.ip().to_canonical()),
        Role::InboundCapture => Some(sidecar_source(address.ip())),
        _ => None,
    };
    let mark = shared.settings.interception.mark;
    DialOptions { source, transparent: tproxy && source.is_some(), mark, ..shared.dial_options() }
}

fn loopback(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

fn sidecar_source(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() {
        Ipv4Addr::new(127, 0, 0, 6).into()
    } else {
        Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into()
    }
}

/// Ends, with the reason in words, when a change of policy would no longer let this connection in as it was.
async fn no_longer_allowed(admitted: &Admitted, shared: &Shared) -> String {
    let mut snapshot = shared.snapshot.clone();
    let mut asked = None;
    loop {
        if snapshot.changed().await.is_err() || shared.settings.policy_change == PolicyChange::Keep {
            return std::future::pending().await;
        }
        let published = snapshot.borrow_and_update().clone();
        // New addresses of names change nothing here.
        if asked.replace(published.version) == Some(published.version) {
            continue;
        }
        if let Some(because) = refusal_of(admitted, &published.snapshot) {
            return because;
        }
    }
}

/// Whether the snapshot would refuse what was admitted before. A connection is not cut for being safer than it
/// would have to be; one that was never looked at (DISABLE) is plaintext for all that is known.
fn refusal_of(admitted: &Admitted, snapshot: &Snapshot) -> Option<String> {
    let Admitted { observed, admission, known } = admitted;
    let port = known.destination.port();
    let decision = snapshot.modes.for_port(port);
    if needs_sniff(decision.mode) {
        let observed = observed.unwrap_or(Observed::Plaintext);
        let now = admit(decision.mode, snapshot.protocol(port), observed);
        let kept = now == *admission || (*admission == Admission::Terminate && now == Admission::Forward);
        if !kept {
            return Some(format!("port {port} is {} by {}", decision.mode, decision.because));
        }
    }
    let (outcome, record) = known.ask(&snapshot.authorization);
    outcome.is_err().then_some(record.because)
}

/// What the record keeps of the first bytes. A peer may name thousands of protocols; the record keeps a few.
fn first_bytes(first: &First) -> FirstBytes {
    const PROTOCOLS: usize = 16;
    const LONGEST: usize = 255; // of a protocol's name (RFC 7301 3.1), and of a host's
    match first {
        First::Hello(hello) => FirstBytes::Tls {
            sni: hello.sni.as_ref().map(|name| name.chars().take(LONGEST).collect()),
            alpn: hello
                .alpn
                .iter()
                .take(PROTOCOLS)
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .collect(),
            mesh: hello.is_mesh(),
        },
        First::Plaintext | First::TooLarge => FirstBytes::Plaintext,
        First::Silent => FirstBytes::Silent,
    }
}
