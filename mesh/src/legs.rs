//! One connection, told by the proxies of both sides: which two records are of the same TCP connection.
//!
//! Known by its addresses, which are the same at both ends where nothing between them rewrites them, in a tunnel also by the
//! number of its stream, and by the time, since ports are used again.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::wire::{ConnectionRecord, Direction};

/// How far apart the two may tell the beginning: the way between them, and clocks that differ.
pub const APART: Duration = Duration::from_secs(60);

/// Of the records of other proxies the one that tells of the same connection between the two sidecars as `record`.
#[must_use]
pub fn other<'r>(
    record: &ConnectionRecord,
    others: impl IntoIterator<Item = &'r ConnectionRecord>,
) -> Option<&'r ConnectionRecord> {
    let known = others.into_iter().filter_map(|other| Some((apart(record, other)?, other)));
    known.min_by_key(|(apart, _)| *apart).filter(|(apart, _)| *apart <= APART).map(|(_, other)| other)
}

/// How far apart both tell the beginning of a connection with the same addresses.
fn apart(one: &ConnectionRecord, other: &ConnectionRecord) -> Option<Duration> {
    let (client, server) = match (one.direction, other.direction) {
        (Direction::Outbound, Direction::Inbound) => (one, other),
        (Direction::Inbound, Direction::Outbound) => (other, one),
        _ => return None,
    };
    let stream = |record: &ConnectionRecord| record.tunnel.map(|tunnel| tunnel.stream);
    let same =
        canonical(client.dialled_from?) == canonical(server.client) && stream(client) == stream(server);
    let began = client.accepted + Duration::from_micros(client.times.dialled?);
    same.then(|| between(began, server.accepted))
}

/// An IPv4 address that an IPv6 socket tells is the IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn between(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|earlier| earlier.duration())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::TunnelRecord;

    fn record(direction: &str, client: &str, second: u32, dialled_from: Option<&str>) -> ConnectionRecord {
        serde_json::from_value(json!({
            "id": second, "direction": direction, "accepted": format!("2026-11-20T12:00:{second:02}Z"),
            "client": client, "bytesToServer": 0, "bytesToClient": 0, "durationMicros": 0,
            "times": {"dialled": dialled_from.map(|_| 500)}, "dialledFrom": dialled_from,
        }))
        .unwrap()
    }

    fn outbound(second: u32) -> ConnectionRecord {
        record("outbound", "10.0.0.7:5000", second, Some("10.0.0.7:41000"))
    }

    #[test]
    fn both_ends_of_a_connection_find_each_other() {
        let (ours, theirs) = (outbound(1), record("inbound", "[::ffff:10.0.0.7]:41000", 1, None));
        assert_eq!(other(&ours, [&theirs]), Some(&theirs));
        assert_eq!(other(&theirs, [&ours]), Some(&ours));
    }

    #[test]
    fn of_those_that_used_one_port_the_nearest_in_time_is_it() {
        let inbound = |second| record("inbound", "10.0.0.7:41000", second, None);
        let (early, late) = (inbound(1), inbound(30));
        assert_eq!(other(&outbound(29), [&early, &late]), Some(&late));
        assert_eq!(other(&outbound(2), [&early, &late]), Some(&early));
    }

    #[test]
    fn in_one_tunnel_the_stream_tells_them_apart() {
        let in_tunnel = |record: ConnectionRecord, stream| {
            let door = "10.0.0.9:15008".parse().unwrap();
            ConnectionRecord {
                tunnel: Some(TunnelRecord { id: 1, stream, new: stream == 1, shared_by: 1, door }),
                ..record
            }
        };
        let inbound = |stream| in_tunnel(record("inbound", "10.0.0.7:41000", 1, None), stream);
        let (first, second) = (inbound(1), inbound(3));
        assert_eq!(other(&in_tunnel(outbound(1), 3), [&first, &second]), Some(&second));
        assert_eq!(other(&outbound(1), [&first, &second]), None);
    }

    #[test]
    fn another_port_another_time_or_the_same_side_is_another_connection() {
        let mut long_ago = record("inbound", "10.0.0.7:41000", 1, None);
        long_ago.accepted -= Duration::from_secs(120);
        let app_leg = record("inbound", "10.0.0.7:5000", 1, None);
        let same_side = record("outbound", "10.0.0.7:41000", 1, None);
        let never_dialled = record("outbound", "10.0.0.7:5000", 1, None);
        assert_eq!(other(&outbound(1), [&long_ago, &app_leg, &same_side]), None);
        assert_eq!(other(&never_dialled, [&app_leg]), None);
    }
}
