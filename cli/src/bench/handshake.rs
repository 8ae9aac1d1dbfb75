//! `handshake`: what a handshake costs, taken apart. One server without a proxy, one load generator, over real sockets; from one
//! variation to the next one thing changes.

use std::path::Path;
use std::time::Duration;

use super::identity::{Authority, Key};
use super::load::job::{Door, Order, ServerTls, Shape, Tls, Work};
use super::results::Section;
use super::run::{Noise, Slot, Target, cell, slot};
use super::{Progress, Scale};
use crate::lab::{Lab, LabError, PROXY_USER, Way, free_port};

/// How many handshakes at once.
const WORKERS: usize = 8;

/// How long the server may take to open its doors.
const START: Duration = Duration::from_secs(20);

/// The port of the first door, where the server has a network of its own.
const FIRST: u16 = 9_000;

/// One variation.
#[derive(Debug, Clone, Copy)]
struct Variation {
    id: &'static str,
    title: &'static str,
    key: Key,
    shape: Shape,
    mutual: bool,
    resumed: bool,
    chain: usize,
    plaintext: bool,
}

const USUAL: Variation = Variation {
    id: "usual",
    title: "full, mutual, P-256, TLS 1.3",
    key: Key::P256,
    shape: Shape::USUAL,
    mutual: true,
    resumed: false,
    chain: 1,
    plaintext: false,
};

/// The usual one, and what changes from it.
const VARIATIONS: [Variation; 17] = [
    Variation { id: "plaintext", title: "plaintext, no handshake", plaintext: true, ..USUAL },
    USUAL,
    Variation { id: "resumed", title: "resumed", resumed: true, ..USUAL },
    Variation { id: "server-only", title: "server-only", mutual: false, ..USUAL },
    Variation {
        id: "server-only-resumed",
        title: "server-only, resumed",
        mutual: false,
        resumed: true,
        ..USUAL
    },
    Variation { id: "p384", title: "ECDSA P-384", key: Key::P384, ..USUAL },
    Variation { id: "rsa-2048", title: "RSA 2048", key: Key::Rsa2048, ..USUAL },
    Variation {
        id: "rsa-2048-resumed",
        title: "RSA 2048, resumed",
        key: Key::Rsa2048,
        resumed: true,
        ..USUAL
    },
    Variation { id: "rsa-4096", title: "RSA 4096", key: Key::Rsa4096, ..USUAL },
    Variation { id: "ed25519", title: "Ed25519", key: Key::Ed25519, ..USUAL },
    Variation { id: "tls-1.2", title: "TLS 1.2", shape: Shape { tls12: true, ..Shape::USUAL }, ..USUAL },
    Variation {
        id: "tls-1.2-resumed",
        title: "TLS 1.2, resumed",
        shape: Shape { tls12: true, ..Shape::USUAL },
        resumed: true,
        ..USUAL
    },
    Variation {
        id: "tls-1.2-server-only",
        title: "TLS 1.2, server-only",
        shape: Shape { tls12: true, ..Shape::USUAL },
        mutual: false,
        ..USUAL
    },
    Variation {
        id: "x25519mlkem768",
        title: "X25519MLKEM768",
        shape: Shape { post_quantum: true, ..Shape::USUAL },
        ..USUAL
    },
    Variation {
        id: "x25519mlkem768-resumed",
        title: "X25519MLKEM768, resumed",
        shape: Shape { post_quantum: true, ..Shape::USUAL },
        resumed: true,
        ..USUAL
    },
    Variation { id: "chain-2", title: "chain of 2 certificates", chain: 2, ..USUAL },
    Variation { id: "chain-3", title: "chain of 3 certificates", chain: 3, ..USUAL },
];

/// Measures all variations in turns. Without root the server has no network of its own, and all is on loopback.
pub(crate) fn measure(
    executable: &Path,
    way: Way,
    scale: Scale,
    progress: &Progress,
    noise: &mut Noise,
) -> Result<Section, LabError> {
    let lab = Lab::new(way, executable)?;
    let (client, server) = (lab.node("client")?, lab.node("server")?);
    super::rig::prepare(&client)?;
    super::rig::prepare(&server)?;
    let flag = lab.folder().join("go");
    progress.step("making keys and certificates");
    let prepared = VARIATIONS
        .iter()
        .zip(FIRST..)
        .map(|(variation, port)| {
            let port = if way == Way::Loopback { free_port()? } else { port };
            prepare(*variation, lab.folder(), way, (server.v4(), port).into())
        })
        .collect::<Result<Vec<_>, LabError>>()?;
    let doors: Vec<&Door> = prepared.iter().map(|(door, _)| door).collect();
    let doors = serde_json::to_string(&doors)
        .map_err(|error| LabError::Failed(format!("the doors cannot be written: {error}")))?;
    let process = server.start_pillion("doors", &["bench-part", "doors", &doors])?;
    process.wait_for_line(START, "listening at")?;

    let target = Target { node: &client, past_the_rules: false, processes: vec![("server", process.id())] };
    let mut slots: Vec<Vec<Slot>> = VARIATIONS.iter().map(|_| Vec::new()).collect();
    for round in 0..scale.rounds {
        for ((variation, (door, work)), slots) in VARIATIONS.iter().zip(&prepared).zip(&mut slots) {
            progress.step(&format!(
                "round {} of {}: handshake, {}",
                round + 1,
                scale.rounds,
                variation.title
            ));
            let order = Order {
                target: door.listen,
                measure_ms: scale.measure_ms,
                warm_up_ms: scale.warm_up_ms,
                work: work.clone(),
                flag: flag.clone(),
            };
            slots.push(slot(&target, &order, scale, noise)?);
        }
    }
    let cells = VARIATIONS
        .iter()
        .zip(&prepared)
        .zip(&slots)
        .map(|((variation, (_, work)), slots)| cell(variation.id, variation.title, slots, work));
    Ok(Section {
        id: "handshake".to_owned(),
        title: "A handshake, taken apart".to_owned(),
        text: format!(
            "A client and a server of one process each, over real sockets, without proxies: connect, handshake, one byte and \
             its echo, close; {WORKERS} at once. Each row differs from the first TLS row in what it names; AES-128-GCM \
             throughout, the certificates' signer has a P-256 key. Bytes are those of TLS on the wire, both ways, from connect \
             to close."
        ),
        cells: cells.collect(),
    })
}

/// The server's door, and the load generator's work at it.
fn prepare(
    variation: Variation,
    folder: &Path,
    way: Way,
    listen: std::net::SocketAddr,
) -> Result<(Door, Work), LabError> {
    if variation.plaintext {
        return Ok((Door { listen, tls: None }, Work::Connect { workers: WORKERS, tls: None }));
    }
    let owner = (way == Way::Root).then_some(PROXY_USER);
    let authority = Authority::new(variation.chain)?;
    let files = |account: &str| {
        let held = authority.issue(account, variation.key)?;
        held.write(folder, &format!("{}-{account}", variation.id), owner)
    };
    let Variation { shape, mutual, resumed, .. } = variation;
    let tls = Tls { shape, mutual, resumed, files: files("client")? };
    let door = Door { listen, tls: Some(ServerTls { shape, mutual, files: files("server")? }) };
    Ok((door, Work::Connect { workers: WORKERS, tls: Some(tls) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_variation_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = VARIATIONS.iter().map(|variation| variation.id).collect();
        assert_eq!(names.len(), VARIATIONS.len());
    }
}
