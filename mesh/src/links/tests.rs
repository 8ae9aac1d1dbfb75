use super::*;
use crate::wire::{FirstBytes, Times, TlsMode, TlsRecord};

fn at(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + Duration::from_millis(millis)
}

fn record(direction: Direction, client: &str, millis: u64, tls: Option<(&str, &str)>) -> ConnectionRecord {
    let tls = tls.map(|(peer, local)| TlsRecord {
        mode: TlsMode::IstioMutual,
        peer: peer.to_owned(),
        local: local.to_owned(),
        version: "TLSv1.3".into(),
        cipher_suite: "TLS13_AES_256_GCM_SHA384".into(),
        group: "X25519".into(),
        resumed: false,
        handshake_micros: 1,
        peer_serial: "01".to_owned(),
        peer_not_after: at(0),
        local_serial: None,
        local_not_after: None,
    });
    ConnectionRecord {
        id: 1,
        direction,
        accepted: at(millis),
        client: client.parse().unwrap(),
        original_destination: Some("10.0.0.8:3000".parse().unwrap()),
        first_bytes: Some(FirstBytes::Plaintext),
        looks_like: None,
        mode: None,
        service: None,
        plan: None,
        tls,
        authorization: None,
        upstream: None,
        tunnel: None,
        dialled_from: None,
        bytes_to_server: 10,
        bytes_to_client: 20,
        duration_micros: 0,
        times: Times::default(),
        reason: None,
        detail: None,
        closed: None,
        wire: None,
    }
}

fn outbound(local: &str, millis: u64, tls: Option<(&str, &str)>) -> ConnectionRecord {
    ConnectionRecord {
        upstream: Some("10.0.0.8:3000".parse().unwrap()),
        dialled_from: Some(local.parse().unwrap()),
        times: Times { dialled: Some(0), ..Times::default() },
        ..record(Direction::Outbound, "10.0.0.7:50000", millis, tls)
    }
}

/// Which inbound connections of the server's sidecar are paired, by the time of their accept.
fn paired(out: ConnectionRecord, inbound: &[ConnectionRecord]) -> Vec<SystemTime> {
    let own = [out];
    let tellers = [Teller { records: &own }, Teller { records: inbound }];
    links(&tellers).iter().map(|link| link.inbound.accepted).collect()
}

#[test]
fn a_connection_is_known_by_the_address_that_it_was_dialled_from() {
    let (web, customers) = (Some(("customers", "web")), Some(("web", "customers")));
    let inbound = [
        record(Direction::Inbound, "10.0.0.7:4312", 3, customers),
        record(Direction::Inbound, "10.0.0.7:4313", 2, customers),
        // The same port, used again.
        record(Direction::Inbound, "10.0.0.7:4312", 9_000, customers),
        // Of another server behind an address that was used again.
        record(Direction::Inbound, "10.0.0.7:4312", 2, Some(("web", "orders"))),
        record(Direction::Outbound, "10.0.0.7:4312", 2, customers),
    ];
    assert_eq!(paired(outbound("10.0.0.7:4312", 2, web), &inbound), [at(3)]);
    assert_eq!(paired(outbound("[::ffff:10.0.0.7]:4313", 2, web), &inbound), [at(2)]);
    assert_eq!(paired(outbound("10.0.0.7:4312", 8_999, web), &inbound), [at(9_000)]);
    assert_eq!(paired(outbound("10.0.0.7:4312", 3_600_000, web), &inbound), [] as [SystemTime; 0]);
    assert_eq!(paired(outbound("10.0.0.7:4314", 2, web), &inbound), [] as [SystemTime; 0]);
}

#[test]
fn a_link_is_secured_where_both_ends_say_so() {
    for (tls, secured) in [(Some(("customers", "web")), true), (None, false)] {
        let out = [outbound("10.0.0.7:4312", 2, tls)];
        let inbound =
            [record(Direction::Inbound, "10.0.0.7:4312", 3, tls.map(|(peer, local)| (local, peer)))];
        let tellers = [Teller { records: &inbound }, Teller { records: &out }];
        let [link] = &links(&tellers)[..] else { panic!("one link") };
        assert_eq!((link.client, link.server, link.is_secured(), link.bytes()), (1, 0, secured, 30));
        assert_eq!(link.ends().0, "10.0.0.7:4312".parse().unwrap());
    }
}
