//! All connections between sidecars that are asked, each as both ends tell it: as [`crate::legs`] knows them, and where each has
//! proved to the other what the other says it has.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::legs;
use crate::wire::{ConnectionRecord, Direction};

/// What one sidecar tells.
#[derive(Debug, Clone, Copy)]
pub struct Teller<'r> {
    /// Its connections.
    pub records: &'r [ConnectionRecord],
}

/// One connection between two sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link<'r> {
    /// Which of the tellers stands at the client's side.
    pub client: usize,
    /// Which stands at the server's.
    pub server: usize,
    /// As the client's tells it.
    pub outbound: &'r ConnectionRecord,
    /// As the server's tells it.
    pub inbound: &'r ConnectionRecord,
}

impl Link<'_> {
    /// Whether both ends have finished a handshake with each other.
    #[must_use]
    pub fn is_secured(&self) -> bool {
        self.outbound.tls.is_some() && self.inbound.tls.is_some()
    }

    /// Application bytes that it has moved, both ways.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let of = |record: &ConnectionRecord| record.bytes_to_server.saturating_add(record.bytes_to_client);
        of(self.outbound).max(of(self.inbound))
    }

    /// The addresses of both ends as they stand in its packets: client, server.
    #[must_use]
    pub fn ends(&self) -> (SocketAddr, Option<SocketAddr>) {
        let door = self.outbound.tunnel.map(|tunnel| tunnel.door);
        (canonical(self.inbound.client), door.or(self.outbound.upstream).map(canonical))
    }
}

/// All connections of which both ends are among the tellers, in the order in which the clients' sidecars took them.
#[must_use]
pub fn links<'r>(tellers: &[Teller<'r>]) -> Vec<Link<'r>> {
    let mut links = Vec::new();
    for (client, teller) in tellers.iter().enumerate() {
        for outbound in teller.records.iter().filter(|record| record.direction == Direction::Outbound) {
            let others = tellers.iter().enumerate().filter(|(server, _)| *server != client);
            let found = others.filter_map(|(server, teller)| {
                let believable = teller.records.iter().filter(|inbound| proofs_agree(outbound, inbound));
                Some((server, legs::other(outbound, believable)?))
            });
            let nearest = found.min_by_key(|(_, inbound)| apart(outbound.accepted, inbound.accepted));
            if let Some((server, inbound)) = nearest {
                links.push(Link { client, server, outbound, inbound });
            }
        }
    }
    links.sort_by_key(|link| link.outbound.accepted);
    links
}

/// Whether each has proved to the other what the other says it has.
fn proofs_agree(outbound: &ConnectionRecord, inbound: &ConnectionRecord) -> bool {
    match (&outbound.tls, &inbound.tls) {
        (Some(of_client), Some(of_server)) => {
            of_client.peer == of_server.local && of_client.local == of_server.peer
        }
        _ => true,
    }
}

fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|earlier| earlier.duration())
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
