//! One connection across the mesh, from app to app: the leg of each side's app and the one between the sidecars, what each
//! carries, and what both sidecars did, side by side in time.
//!
//! Made of the two records of it that [`crate::links`] puts together, and of bytes that were heard, where somebody listened.

#[cfg(test)]
mod tests;
mod text;

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::links::Link;
use crate::plaintext;
use crate::wire::{ConnectionRecord, FirstBytes, FirstPassed, TlsRecord, rfc3339};

/// Bytes that are kept of each way of a leg.
const MOST_BYTES: usize = 256;
/// Clocks that are further apart are told of; the times in records are cut to the millisecond.
const CLOCKS_NEAR: Duration = Duration::from_millis(5);

/// A connection from app to app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Crossing {
    /// The workload that calls.
    pub client: String,
    /// The one that is called.
    pub server: String,
    /// What the client's sidecar tells.
    pub outbound: ConnectionRecord,
    /// What the server's sidecar tells.
    pub inbound: ConnectionRecord,
    /// The client's app to its sidecar, sidecar to sidecar, sidecar to the server's app.
    pub legs: [Leg; 3],
    /// What happened, in order.
    pub moments: Vec<Moment>,
    /// By how much the clocks of both differ, in microseconds, where that can be seen.
    pub clocks_apart_micros: Option<u64>,
}

/// One TCP connection of the three.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leg {
    /// Which.
    pub which: Which,
    /// Who dialled.
    pub from: Option<SocketAddr>,
    /// Whom.
    pub to: Option<SocketAddr>,
    /// Whether it is encrypted by the sidecars.
    pub secured: bool,
    /// What it carries, in words.
    pub carries: String,
    /// Bytes of the apps from the client to the server.
    pub bytes_to_server: u64,
    /// Bytes of the apps from the server to the client.
    pub bytes_to_client: u64,
    /// The first bytes as they passed, where they are known.
    pub passed: Option<FirstPassed>,
    /// Who knows them.
    pub heard: Option<Heard>,
}

/// A leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Which {
    /// From the client's app to its sidecar.
    ClientApp,
    /// Between the sidecars.
    Mesh,
    /// From the server's sidecar to its app.
    ServerApp,
}

/// Where bytes are known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Heard {
    /// Somebody listened on the network.
    OnTheNetwork,
    /// The sidecar has kept them.
    KeptByTheSidecar,
}

/// What one of both did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// In microseconds after the client's sidecar took the connection.
    pub at_micros: u64,
    /// Who: the client's sidecar, or else the server's.
    pub of_client: bool,
    /// What, in words.
    pub told: String,
}

/// What somebody said, as it was heard on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// From.
    pub from: SocketAddr,
    /// To.
    pub to: SocketAddr,
    /// What.
    pub bytes: Vec<u8>,
}

impl Crossing {
    /// The connection that `link` is. `heard` is what was heard on the network, in order.
    #[must_use]
    pub fn of(client: &str, server: &str, link: &Link<'_>, heard: &[Said]) -> Self {
        let Link { outbound, inbound, .. } = *link;
        Self {
            client: client.to_owned(),
            server: server.to_owned(),
            outbound: outbound.clone(),
            inbound: inbound.clone(),
            legs: [
                client_leg(outbound, heard),
                mesh_leg(outbound, inbound, heard),
                server_leg(inbound, heard),
            ],
            moments: moments(outbound, inbound),
            clocks_apart_micros: clocks_apart(outbound, inbound),
        }
    }
}

fn client_leg(outbound: &ConnectionRecord, heard: &[Said]) -> Leg {
    let kept = outbound.wire.as_ref().and_then(|wire| wire.app.as_ref());
    let (passed, heard) = passed(Some(outbound.client), heard, kept);
    Leg {
        which: Which::ClientApp,
        from: Some(outbound.client),
        to: outbound.original_destination,
        secured: false,
        carries: of_the_app(passed.as_ref(), outbound),
        bytes_to_server: outbound.bytes_to_server,
        bytes_to_client: outbound.bytes_to_client,
        passed,
        heard,
    }
}

fn mesh_leg(outbound: &ConnectionRecord, inbound: &ConnectionRecord, heard: &[Said]) -> Leg {
    let wire = |record: &ConnectionRecord| record.wire.as_ref().and_then(|wire| wire.mesh.clone());
    let kept = wire(outbound).or_else(|| wire(inbound));
    let (passed, heard) = passed(outbound.dialled_from, heard, kept.as_ref());
    let secured = outbound.tls.is_some() && inbound.tls.is_some();
    let carries = match (&outbound.tls, secured) {
        (Some(tls), true) => {
            let TlsRecord { version, cipher_suite, group, peer, local, .. } = tls;
            let tunnel =
                outbound.tunnel.map(|tunnel| format!("in tunnel {}, ", tunnel.id)).unwrap_or_default();
            format!(
                "{tunnel}mutual TLS ({version} {cipher_suite} {group}): {local} and {peer} have proved themselves to each other"
            )
        }
        (Some(_), false) => "TLS, which the other side does not tell of".to_owned(),
        (None, _) => of_the_app(passed.as_ref(), inbound),
    };
    Leg {
        which: Which::Mesh,
        from: outbound.dialled_from,
        to: outbound.tunnel.map(|tunnel| tunnel.door).or(outbound.upstream),
        secured,
        carries,
        bytes_to_server: outbound.bytes_to_server,
        bytes_to_client: outbound.bytes_to_client,
        passed,
        heard,
    }
}

fn server_leg(inbound: &ConnectionRecord, heard: &[Said]) -> Leg {
    let kept = inbound.wire.as_ref().and_then(|wire| wire.app.as_ref());
    let (passed, heard) = passed(inbound.dialled_from, heard, kept);
    Leg {
        which: Which::ServerApp,
        from: inbound.dialled_from,
        to: inbound.upstream,
        secured: false,
        carries: of_the_app(passed.as_ref(), inbound),
        bytes_to_server: inbound.bytes_to_server,
        bytes_to_client: inbound.bytes_to_client,
        passed,
        heard,
    }
}

/// What an app says, without TLS of the mesh around it.
fn of_the_app(passed: Option<&FirstPassed>, record: &ConnectionRecord) -> String {
    let heard = passed.and_then(|passed| plaintext::looks_like(&passed.to_server));
    match (heard.or_else(|| record.looks_like.clone()), &record.first_bytes) {
        (Some(looks_like), _) => format!("plaintext: {looks_like}"),
        (None, Some(FirstBytes::Tls { mesh: false, .. })) => "TLS of the app's own".to_owned(),
        (None, Some(FirstBytes::Plaintext)) => "plaintext".to_owned(),
        (None, _) => "what the app says, as it says it".to_owned(),
    }
}

/// The first bytes of the connection that was dialled from an address: as they were heard, or else as they were kept.
fn passed(
    from: Option<SocketAddr>,
    heard: &[Said],
    kept: Option<&FirstPassed>,
) -> (Option<FirstPassed>, Option<Heard>) {
    let mut passed = FirstPassed::default();
    if let Some(from) = from {
        for said in heard {
            let way = match (said.from == from, said.to == from) {
                (true, _) => &mut passed.to_server,
                (_, true) => &mut passed.to_client,
                _ => continue,
            };
            let room = MOST_BYTES.saturating_sub(way.len());
            way.extend(said.bytes.iter().take(room));
        }
    }
    if !passed.to_server.is_empty() || !passed.to_client.is_empty() {
        return (Some(passed), Some(Heard::OnTheNetwork));
    }
    (kept.cloned(), kept.map(|_| Heard::KeptByTheSidecar))
}

/// What both did, in order. The server's times count from when the client's sidecar dialled, since clocks differ.
fn moments(outbound: &ConnectionRecord, inbound: &ConnectionRecord) -> Vec<Moment> {
    let dialled = outbound.times.dialled.unwrap_or_default();
    let mut moments = Vec::new();
    for (of_client, record, from) in [(true, outbound, 0), (false, inbound, dialled)] {
        for (at, told) in steps(record, of_client) {
            let Some(at) = at else { continue };
            moments.push(Moment { at_micros: from.saturating_add(at), of_client, told });
        }
    }
    moments.sort_by_key(|moment| moment.at_micros);
    moments
}

fn steps(record: &ConnectionRecord, of_client: bool) -> Vec<(Option<u64>, String)> {
    let times = &record.times;
    let whom = if of_client { "the other sidecar" } else { "its app" };
    let took = if of_client { "takes it from its app" } else { "takes it from the other sidecar" };
    let mut steps = vec![(Some(0), took.to_owned())];
    if let Some(FirstBytes::Tls { mesh: true, .. }) = &record.first_bytes {
        steps.push((times.first_bytes, "knows the ClientHello".to_owned()));
    } else if !of_client {
        steps.push((times.first_bytes, "knows the first bytes".to_owned()));
    }
    steps.push((times.dialled, format!("dials {whom}")));
    steps.push((times.handshake, "has verified who it talks to".to_owned()));
    if let Some(decided) = &record.authorization {
        let word = if decided.allowed { "allows it" } else { "denies it" };
        steps.push((times.authorized, word.to_owned()));
    }
    steps.push((times.asked, "passes on the first byte to the server".to_owned()));
    steps.push((times.answered, "passes on the first byte to the client".to_owned()));
    if let Some(reason) = record.reason {
        steps.push((Some(record.duration_micros), format!("ends it: {reason}")));
    }
    steps
}

/// What the server's clock showed at its accept, against what the client's showed when it dialled.
fn clocks_apart(outbound: &ConnectionRecord, inbound: &ConnectionRecord) -> Option<u64> {
    let dialled = outbound.accepted.checked_add(Duration::from_micros(outbound.times.dialled?))?;
    let apart = inbound.accepted.duration_since(dialled).unwrap_or_else(|earlier| earlier.duration());
    let told = apart > CLOCKS_NEAR;
    told.then(|| u64::try_from(apart.as_micros()).unwrap_or(u64::MAX))
}

/// How a certificate is told: its serial number, and until when it holds.
fn certificate(tls: &TlsRecord) -> String {
    format!("certificate {} until {}", tls.peer_serial, rfc3339::print(tls.peer_not_after))
}
