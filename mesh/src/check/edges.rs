//! The checks on who talks to whom. Of two proxies that are both asked the connection is known from both ends, and where
//! somebody listened, from the wire; of all others one end tells.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::facts::{Captured, Facts};
use super::judge::{connections, some};
use super::{Check, Kind, Outcome};
use crate::edges::{Edge, Edges, Secured};
use crate::links::{Link, Teller, links};
use crate::wire::ConnectionRecord;

pub(super) fn judge(proxies: &[&Facts]) -> Vec<Check> {
    let tellers: Vec<Teller<'_>> =
        proxies.iter().map(|facts| Teller { records: &facts.connections }).collect();
    let links = links(&tellers);
    let mut by_pair: BTreeMap<(usize, usize), Vec<&Link<'_>>> = BTreeMap::new();
    for link in &links {
        by_pair.entry((link.client, link.server)).or_default().push(link);
    }
    let mut checks: Vec<Check> = by_pair.values().filter_map(|links| link_secured(proxies, links)).collect();
    let edges = others(proxies, &links);
    checks.extend(edges.edges.iter().filter(|edge| edge.secured != Secured::Refused).map(edge_secured));
    if checks.is_empty() {
        let told = "nobody has talked to anybody yet, so nothing is proved: send a request through the mesh";
        checks.push(Check::new(Kind::EdgeSecured, Outcome::Warned, told));
    }
    checks.push(nobody_refused(&edges));
    checks
}

/// All connections between two proxies.
fn link_secured(proxies: &[&Facts], links: &[&Link<'_>]) -> Option<Check> {
    let first = links.first()?;
    let (client, server) = (proxies.get(first.client)?, proxies.get(first.server)?);
    let pair = format!("{} -> {}", client.name(), server.name());
    for heard_by in [client, server] {
        if let Some((plaintext, all)) = heard_by.captured.as_ref().and_then(|heard| heard_of(heard, links)) {
            let outcome = if plaintext == 0 { Outcome::Passed } else { Outcome::Failed };
            let told = format!(
                "{pair}: {} plaintext bytes of {} seen on the link, by a capture in the network of {}",
                thousands(plaintext),
                thousands(all),
                heard_by.name()
            );
            return Some(Check::new(Kind::LinkSecured, outcome, told));
        }
    }
    let sum = |links: &mut dyn Iterator<Item = &&Link<'_>>| {
        links.map(|link| link.bytes()).fold(0, u64::saturating_add)
    };
    let all = sum(&mut links.iter());
    let plaintext =
        sum(&mut links.iter().filter(|link| !link.is_secured() && link.outbound.times.opened.is_some()));
    let open = links.iter().filter(|link| !link.is_secured() && link.inbound.times.opened.is_some()).count();
    let outcome = if plaintext == 0 && open == 0 { Outcome::Passed } else { Outcome::Failed };
    let proved = match outcome {
        Outcome::Passed => "each end has proved to the other who it is".to_owned(),
        _ => format!("{open} of them plaintext"),
    };
    let told = format!(
        "{pair}: {} plaintext bytes of {} seen on the link, by the records of both ends ({}; {proved})",
        thousands(plaintext),
        thousands(all),
        connections(links.len())
    );
    Some(Check::new(Kind::LinkSecured, outcome, told))
}

/// What was heard of these connections: plaintext, all.
fn heard_of(heard: &Captured, links: &[&Link<'_>]) -> Option<(u64, u64)> {
    let ends: BTreeSet<(SocketAddr, SocketAddr)> = links
        .iter()
        .filter_map(|link| Some((link.ends().0, link.ends().1?)))
        .flat_map(|(client, server)| [(client, server), (server, client)])
        .collect();
    let streams = heard.streams.iter().filter(|stream| ends.contains(&(stream.one, stream.other)));
    let (plaintext, all) = streams.fold((0_u64, 0_u64), |(plaintext, all), stream| {
        (plaintext + stream.plaintext, all + stream.plaintext + stream.tls)
    });
    (all > 0).then_some((plaintext, all))
}

/// The edges of the connections that only one end tells of.
fn others(proxies: &[&Facts], links: &[Link<'_>]) -> Edges {
    let told_twice: BTreeSet<(usize, u64)> = links
        .iter()
        .flat_map(|link| [(link.client, link.outbound.id), (link.server, link.inbound.id)])
        .collect();
    let seen = proxies.iter().enumerate().map(|(number, facts)| {
        let once = |record: &&ConnectionRecord| !told_twice.contains(&(number, record.id));
        Edges::seen_by(&facts.workload(), facts.connections.iter().filter(once))
    });
    Edges::of_all(seen.collect::<Vec<_>>())
}

fn edge_secured(edge: &Edge) -> Check {
    let count = connections(usize::try_from(edge.open + edge.over).unwrap_or(usize::MAX));
    let (outcome, how) = match edge.secured {
        Secured::MutualTls => (Outcome::Passed, "mutual TLS"),
        Secured::Tls => (Outcome::Passed, "TLS to a server outside the mesh"),
        Secured::ByTheApp => (Outcome::Passed, "TLS of the apps' own"),
        Secured::No => (Outcome::Warned, "plaintext"),
        Secured::Refused => (Outcome::Warned, "refused"),
    };
    let told =
        format!("{} -> {}: {how}, by the record of one end ({count}): {}", edge.src, edge.dst, edge.reason);
    Check::new(Kind::EdgeSecured, outcome, told)
}

fn nobody_refused(edges: &Edges) -> Check {
    let refused: Vec<String> = edges
        .edges
        .iter()
        .filter(|edge| edge.secured == Secured::Refused)
        .map(|edge| format!("{} -> {}: {} ({})", edge.src, edge.dst, edge.reason, edge.over))
        .collect();
    if refused.is_empty() {
        return Check::new(Kind::NobodyRefused, Outcome::Passed, "nobody was refused in the last hour");
    }
    Check::new(Kind::NobodyRefused, Outcome::Warned, some(&refused))
}

/// `4,112`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}
