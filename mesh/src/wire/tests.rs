use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::*;

fn at(seconds: u64, millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(millis)
}

fn record() -> ConnectionRecord {
    ConnectionRecord {
        id: 7,
        direction: Direction::Inbound,
        accepted: at(1_795_176_000, 250),
        client: "[2001:db8::1]:40000".parse().unwrap(),
        original_destination: Some("10.0.0.1:8080".parse().unwrap()),
        first_bytes: Some(FirstBytes::Tls {
            sni: Some("backend".to_owned()),
            alpn: vec!["istio".to_owned()],
            mesh: true,
            offer: Box::new(Offer {
                versions: vec![0x0304, 0x0303],
                groups: vec![0x11ec, 0x001d],
                cipher_suites: vec![0x1302, 0xfefe],
                signature_algorithms: vec![0x0403],
                key_shares: vec![0x11ec],
                length: 1_531,
            }),
        }),
        looks_like: None,
        mode: Some(ModeRecord {
            mode: Mode::Permissive,
            because: "default/migrating".to_owned(),
            shadow: Some(ModeShadow {
                mode: Mode::Strict,
                because: "default/strict".to_owned(),
                refused: None,
            }),
        }),
        service: None,
        plan: None,
        tls: Some(TlsRecord {
            mode: TlsMode::IstioMutual,
            peer: "spiffe://cluster.local/ns/default/sa/frontend".to_owned(),
            local: "spiffe://cluster.local/ns/default/sa/backend".to_owned(),
            version: "TLSv1.3".into(),
            cipher_suite: "TLS_AES_256_GCM_SHA384".into(),
            group: "X25519MLKEM768".into(),
            resumed: false,
            handshake_micros: 1_234,
            peer_serial: "0aff00".to_owned(),
            peer_not_after: at(1_795_262_400, 0),
            local_serial: Some("07".to_owned()),
            local_not_after: Some(at(1_795_262_401, 0)),
        }),
        authorization: Some(AuthorizationRecord {
            allowed: true,
            because: "no ALLOW policy applies".to_owned(),
            audited: None,
            shadow: Some(ShadowRecord { allowed: false, rule: None }),
        }),
        upstream: Some("127.0.0.1:8080".parse().unwrap()),
        tunnel: Some(TunnelRecord {
            id: 2,
            stream: 5,
            new: false,
            shared_by: 3,
            door: "10.0.0.2:15008".parse().unwrap(),
        }),
        dialled_from: None,
        bytes_to_server: 1,
        bytes_to_client: 2,
        duration_micros: 3,
        times: Times { first_bytes: Some(1), handshake: Some(2), ..Times::default() },
        reason: Some(Reason::Completed),
        detail: None,
        closed: Some(Closed { by: By::Client, how: How::CloseNotify }),
        wire: Some(Box::new(WireRecord {
            mesh: Some(FirstPassed { to_server: vec![0x17, 3, 3], to_client: Vec::new() }),
            app: None,
        })),
    }
}

#[test]
fn a_connection_record_has_stable_names() {
    assert_eq!(
        serde_json::to_value(record()).unwrap(),
        json!({
            "id": 7,
            "direction": "inbound",
            "accepted": "2026-11-20T12:00:00.250Z",
            "client": "[2001:db8::1]:40000",
            "originalDestination": "10.0.0.1:8080",
            "firstBytes": {
                "class": "tls",
                "sni": "backend",
                "alpn": ["istio"],
                "mesh": true,
                "versions": ["TLSv1.3", "TLSv1.2"],
                "groups": ["X25519MLKEM768", "x25519"],
                "cipherSuites": ["TLS_AES_256_GCM_SHA384", "0xfefe"],
                "signatureAlgorithms": ["ecdsa_secp256r1_sha256"],
                "keyShares": ["X25519MLKEM768"],
                "length": 1531,
            },
            "looksLike": null,
            "mode": {
                "mode": "PERMISSIVE",
                "because": "default/migrating",
                "shadow": {"mode": "STRICT", "because": "default/strict", "refused": null},
            },
            "service": null,
            "plan": null,
            "tls": {
                "mode": "ISTIO_MUTUAL",
                "peer": "spiffe://cluster.local/ns/default/sa/frontend",
                "local": "spiffe://cluster.local/ns/default/sa/backend",
                "version": "TLSv1.3",
                "cipherSuite": "TLS_AES_256_GCM_SHA384",
                "group": "X25519MLKEM768",
                "resumed": false,
                "handshakeMicros": 1234,
                "peerSerial": "0aff00",
                "peerNotAfter": "2026-11-21T12:00:00.000Z",
                "localSerial": "07",
                "localNotAfter": "2026-11-21T12:00:01.000Z",
            },
            "tunnel": {"id": 2, "stream": 5, "new": false, "sharedBy": 3, "door": "10.0.0.2:15008"},
            "authorization": {
                "allowed": true,
                "because": "no ALLOW policy applies",
                "audited": null,
                "shadow": {"allowed": false, "rule": null},
            },
            "upstream": "127.0.0.1:8080",
            "dialledFrom": null,
            "bytesToServer": 1,
            "bytesToClient": 2,
            "durationMicros": 3,
            "times": {
                "firstBytes": 1,
                "handshake": 2,
                "authorized": null,
                "dialled": null,
                "connected": null,
                "opened": null,
                "asked": null,
                "answered": null,
            },
            "reason": "completed",
            "detail": null,
            "closed": {"by": "client", "how": "closeNotify"},
            "wire": {"mesh": {"toServer": "170303", "toClient": ""}, "app": null},
        })
    );
}

#[test]
fn the_reference_page_tells_every_field() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/connection.md");
    let page = std::fs::read_to_string(page).unwrap();
    let record = serde_json::to_value(record()).unwrap();
    let mut fields = names_in(&record);
    assert!(fields.contains(&"cipherSuites".to_owned()));
    fields.extend(
        [How::Fin, How::CloseNotify, How::Reset, How::Alert, How::Timeout, How::Unreachable]
            .map(|how| serde_json::to_value(how).unwrap().as_str().unwrap().to_owned()),
    );
    for field in fields {
        assert!(page.contains(&format!("`{field}`")), "docs/reference/connection.md does not tell `{field}`");
    }
}

/// The names of all fields, those of fields among them.
fn names_in(value: &serde_json::Value) -> Vec<String> {
    let fields = value.as_object().into_iter().flatten();
    fields.flat_map(|(name, value)| [vec![name.clone()], names_in(value)].concat()).collect()
}

#[test]
fn a_connection_record_survives_the_wire() {
    let json = serde_json::to_string(&record()).unwrap();
    assert_eq!(serde_json::from_str::<ConnectionRecord>(&json).unwrap(), record());
}

#[test]
fn a_reader_ignores_fields_it_does_not_know_and_takes_absent_ones_for_null() {
    let json = json!({
        "id": 1, "direction": "outbound", "accepted": "2026-11-20T12:00:00Z", "client": "10.0.0.2:1",
        "bytesToServer": 0, "bytesToClient": 0, "durationMicros": 0, "invented": {"later": true},
    });
    let read: ConnectionRecord = serde_json::from_value(json).unwrap();
    assert_eq!((read.id, read.direction, read.reason, read.tls), (1, Direction::Outbound, None, None));
}

#[rstest]
#[case(FirstBytes::Unseen, json!({"class": "unseen"}))]
#[case(FirstBytes::Silent, json!({"class": "silent"}))]
#[case(FirstBytes::Plaintext, json!({"class": "plaintext"}))]
#[case(FirstBytes::Tls { sni: None, alpn: vec![], mesh: false, offer: Box::default() }, json!({
    "class": "tls", "sni": null, "alpn": [], "mesh": false, "versions": [], "groups": [], "cipherSuites": [],
    "signatureAlgorithms": [], "keyShares": [], "length": 0,
}))]
fn first_bytes_survive_the_wire(#[case] first: FirstBytes, #[case] json: serde_json::Value) {
    assert_eq!(serde_json::to_value(&first).unwrap(), json);
    assert_eq!(serde_json::from_value::<FirstBytes>(json).unwrap(), first);
}

#[test]
fn a_hello_of_an_older_proxy_and_names_of_a_newer_one_are_read() {
    let first = |json| serde_json::from_value::<FirstBytes>(json).unwrap();
    let tls = |offer| FirstBytes::Tls { sni: None, alpn: vec![], mesh: true, offer: Box::new(offer) };
    assert_eq!(first(json!({"class": "tls", "sni": null, "alpn": [], "mesh": true})), tls(Offer::default()));
    let newer =
        json!({"class": "tls", "sni": null, "alpn": [], "mesh": true, "groups": ["x25519", "x25520"]});
    assert_eq!(first(newer), tls(Offer { groups: vec![0x001d], ..Offer::default() }));
}

#[test]
fn a_record_keeps_the_first_of_what_a_hello_offers() {
    let numbers: Vec<u16> = (0..1_000).collect();
    let hello = ClientHello {
        versions: numbers.clone(),
        cipher_suites: numbers.clone(),
        groups: numbers.clone(),
        signature_algorithms: numbers.clone(),
        key_share_groups: numbers.clone(),
        wire_length: 9_000,
        ..ClientHello::default()
    };
    let Offer { versions, groups, cipher_suites, signature_algorithms, key_shares, length } =
        Offer::of(hello);
    assert_eq!(
        (&versions[..], &key_shares[..], length),
        (&numbers[..Offer::FEW], &numbers[..Offer::FEW], 9_000)
    );
    for list in [groups, cipher_suites, signature_algorithms] {
        assert_eq!(list, numbers[..Offer::MANY]);
    }
}

/// Room for tens of thousands: what a hello is left with that offers little but GREASE.
fn roomy<T>(element: T) -> Vec<T> {
    let mut list = Vec::with_capacity(32_000);
    list.push(element);
    list
}

#[test]
fn a_record_keeps_no_room_for_what_it_does_not_keep_of_a_hello() {
    let hello = ClientHello {
        sni: Some("a".repeat(16_000)),
        alpn: vec![b"\xffh2".to_vec(); 5_000],
        versions: roomy(1),
        cipher_suites: roomy(2),
        groups: roomy(3),
        signature_algorithms: roomy(4),
        key_share_groups: roomy(5),
        ..ClientHello::default()
    };
    let FirstBytes::Tls { sni, alpn, offer, .. } = FirstBytes::of(hello) else { panic!("it is a hello") };
    let sni = sni.unwrap();
    assert_eq!((sni.len(), alpn.len()), (FirstBytes::NAME, FirstBytes::PROTOCOLS));
    assert_eq!(alpn[0], "\u{fffd}h2");
    assert!(sni.capacity() <= FirstBytes::NAME && alpn.capacity() <= FirstBytes::PROTOCOLS);
    let Offer { versions, groups, cipher_suites, signature_algorithms, key_shares, .. } = *offer;
    for list in [versions, groups, cipher_suites, signature_algorithms, key_shares] {
        assert!(list.len() == 1 && list.capacity() <= Offer::FEW, "{}", list.capacity());
    }
}

#[rstest]
#[case("", Some(vec![]))]
#[case("160301ff", Some(vec![0x16, 3, 1, 0xff]))]
#[case("1", None)]
#[case("1g", None)]
#[case("+1", None)]
fn hexadecimal_is_read_in_pairs(#[case] text: &str, #[case] bytes: Option<Vec<u8>>) {
    assert_eq!(hexadecimal::parse(text), bytes);
    assert!(bytes.is_none_or(|bytes| hexadecimal::print(&bytes) == text));
}

#[test]
fn a_direction_reads_the_same_in_json_and_in_labels() {
    for direction in [Direction::Inbound, Direction::Outbound] {
        assert_eq!(serde_json::to_value(direction).unwrap(), direction.as_str());
    }
}

#[test]
fn a_problem_without_detail_leaves_it_out() {
    let problem = Problem { status: 401, title: "Unauthorized".to_owned(), detail: None };
    let json = json!({"status": 401, "title": "Unauthorized"});
    assert_eq!(serde_json::to_value(&problem).unwrap(), json);
    assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    // Others may add the rest of RFC 9457.
    let full = json!({"type": "about:blank", "status": 401, "title": "Unauthorized", "detail": "no token", "instance": "/x"});
    assert_eq!(serde_json::from_value::<Problem>(full).unwrap().detail.as_deref(), Some("no token"));
}

#[rstest]
#[case::epoch(SystemTime::UNIX_EPOCH, "1970-01-01T00:00:00.000Z")]
#[case::below_a_millisecond(SystemTime::UNIX_EPOCH + Duration::from_micros(1_999), "1970-01-01T00:00:00.001Z")]
#[case::last_second(at(253_402_300_799, 0), "9999-12-31T23:59:59.000Z")]
#[case::past_year_9999(at(253_402_300_800, 0), "1970-01-01T00:00:00.000Z")]
#[case::far_past_year_9999(at(1 << 60, 0), "1970-01-01T00:00:00.000Z")]
#[case::before_the_epoch(SystemTime::UNIX_EPOCH - Duration::from_secs(1), "1970-01-01T00:00:00.000Z")]
fn a_time_is_printed_with_milliseconds(#[case] time: SystemTime, #[case] text: &str) {
    assert_eq!(rfc3339::print(time), text);
}

#[rstest]
#[case("2026-11-20T12:00:00Z", Some("2026-11-20T12:00:00.000Z"))]
#[case("2026-11-20T13:00:00.5+01:00", Some("2026-11-20T12:00:00.500Z"))]
#[case("2026-11-20", None)]
#[case("yesterday", None)]
fn a_time_is_read_as_rfc_3339_has_it(#[case] text: &str, #[case] printed: Option<&str>) {
    assert_eq!(rfc3339::parse(text).ok().map(rfc3339::print).as_deref(), printed);
}

proptest! {
    #[test]
    fn a_time_survives_the_wire_to_the_millisecond(seconds in 0u64..253_402_300_800, millis in 0u64..1_000) {
        let record = ConnectionRecord { accepted: at(seconds, millis), ..record() };
        let json = serde_json::to_string(&record).unwrap();
        prop_assert_eq!(serde_json::from_str::<ConnectionRecord>(&json).unwrap(), record);
    }
}
