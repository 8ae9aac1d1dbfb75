use serde_json::{Value, json};

use super::*;
use crate::links::{Teller, links};

const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";
const CUSTOMERS: &str = "spiffe://cluster.local/ns/default/sa/customers";

fn tls(peer: &str, local: &str) -> Value {
    json!({
        "mode": "ISTIO_MUTUAL", "peer": peer, "local": local, "version": "TLSv1.3",
        "cipherSuite": "TLS13_AES_256_GCM_SHA384", "group": "X25519MLKEM768", "resumed": false, "handshakeMicros": 900,
        "peerSerial": "0aff", "peerNotAfter": "2026-11-20T13:00:00.000Z",
    })
}

fn record(more: &Value) -> ConnectionRecord {
    let mut record = json!({
        "accepted": "2026-11-20T12:00:00.000Z", "bytesToServer": 112, "bytesToClient": 4_000, "durationMicros": 9_000,
        "reason": "completed",
    });
    record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(record).unwrap()
}

fn outbound() -> ConnectionRecord {
    record(&json!({
        "id": 12, "direction": "outbound", "client": "10.0.0.7:50000", "originalDestination": "10.0.0.8:3000",
        "upstream": "10.0.0.8:3000", "dialledFrom": "10.0.0.7:41000", "tls": tls(CUSTOMERS, WEB),
        "times": {"dialled": 300, "handshake": 1_400, "opened": 1_400, "asked": 1_500, "answered": 4_000},
    }))
}

fn inbound() -> ConnectionRecord {
    record(&json!({
        "id": 7, "direction": "inbound", "client": "10.0.0.7:41000", "originalDestination": "10.0.0.8:3000",
        "firstBytes": {"class": "tls", "sni": "outbound_.3000_._.customers", "alpn": ["istio"], "mesh": true},
        "upstream": "10.0.0.8:3000", "dialledFrom": "127.0.0.6:33000", "tls": tls(WEB, CUSTOMERS),
        "authorization": {"allowed": true, "because": "no ALLOW policy applies"},
        "times": {"firstBytes": 100, "handshake": 1_000, "authorized": 1_010, "dialled": 1_020, "asked": 1_300},
        "durationMicros": 8_500,
    }))
}

fn crossing(outbound: ConnectionRecord, inbound: ConnectionRecord, heard: &[Said]) -> Crossing {
    let (client, server) = ([outbound], [inbound]);
    let tellers = [Teller { records: &client }, Teller { records: &server }];
    let links = links(&tellers);
    let [link] = &links[..] else { panic!("one link, not {}", links.len()) };
    Crossing::of("web", "customers", link, heard)
}

fn said(from: &str, to: &str, bytes: &[u8]) -> Said {
    Said { from: from.parse().unwrap(), to: to.parse().unwrap(), bytes: bytes.to_vec() }
}

#[test]
fn a_person_sees_three_legs_and_both_sidecars_in_time() {
    let heard = [
        said("10.0.0.7:50000", "127.0.0.1:15001", b"GET / HTTP/1.1\r\n"),
        said("10.0.0.7:41000", "10.0.0.8:3000", &[0x17, 3, 3, 0, 0x20, 0xaa]),
        said("10.0.0.8:3000", "10.0.0.7:41000", &[0x17, 3, 3, 0, 0x30]),
        said("10.0.0.9:41000", "10.0.0.8:3000", b"somebody else"),
    ];
    let expected = "\
web -> customers: connection 12 of web is connection 7 of customers

app of web -> its sidecar, open: 10.0.0.7:50000 -> 10.0.0.8:3000
  plaintext: GET /
  112 B to the server, 4.0 kB to the client, as the apps count them
  the first bytes to the server, heard on the network here:
    47 45 54 20 2f 20 48 54 54 50 2f 31 2e 31 0d 0a  GET / HTTP/1.1..

sidecar -> sidecar, encrypted: 10.0.0.7:41000 -> 10.0.0.8:3000
  mutual TLS (TLSv1.3 TLS13_AES_256_GCM_SHA384 X25519MLKEM768): spiffe://cluster.local/ns/default/sa/web and spiffe://cluster.local/ns/default/sa/customers have proved themselves to each other
  customers: certificate 0aff until 2026-11-20T13:00:00.000Z
  web: certificate 0aff until 2026-11-20T13:00:00.000Z
  112 B to the server, 4.0 kB to the client, as the apps count them
  the first bytes to the server, heard on the network here:
    17 03 03 00 20 aa                                .... .
  the first bytes to the client, heard on the network here:
    17 03 03 00 30                                   ....0

sidecar -> app of customers, open: 127.0.0.6:33000 -> 10.0.0.8:3000
  what the app says, as it says it
  112 B to the server, 4.0 kB to the client, as the apps count them

TIME     sidecar of web                          sidecar of customers
+0.0 ms  takes it from its app
+0.3 ms  dials the other sidecar
+0.3 ms                                          takes it from the other sidecar
+0.4 ms                                          knows the ClientHello
+1.3 ms                                          has verified who it talks to
+1.3 ms                                          allows it
+1.3 ms                                          dials its app
+1.4 ms  has verified who it talks to
+1.5 ms  passes on the first byte to the server
+1.6 ms                                          passes on the first byte to the server
+4.0 ms  passes on the first byte to the client
+8.8 ms                                          ends it: completed
+9.0 ms  ends it: completed";
    let crossing = crossing(outbound(), inbound(), &heard);
    snapbox::assert_data_eq!(crossing.to_string(), snapbox::Data::text(expected).raw());
    assert_eq!(
        serde_json::from_value::<Crossing>(serde_json::to_value(&crossing).unwrap()).unwrap(),
        crossing
    );
}

#[test]
fn what_the_sidecars_have_kept_is_shown_where_nobody_listened() {
    let kept = json!({"mesh": {"toServer": "170303", "toClient": ""}, "app": {"toServer": "474554202f20", "toClient": ""}});
    let inbound = ConnectionRecord { wire: serde_json::from_value(kept).unwrap(), ..inbound() };
    let crossing = crossing(outbound(), inbound, &[]);
    let heard: Vec<_> = crossing.legs.iter().map(|leg| leg.heard).collect();
    assert_eq!(heard, [None, Some(Heard::KeptByTheSidecar), Some(Heard::KeptByTheSidecar)]);
    assert_eq!(crossing.legs[1].passed.as_ref().unwrap().to_server, [0x17, 3, 3]);
}

#[test]
fn plaintext_between_the_sidecars_is_called_so() {
    let outbound = ConnectionRecord { tls: None, ..outbound() };
    let first_bytes = Some(FirstBytes::Plaintext);
    let inbound =
        ConnectionRecord { tls: None, first_bytes, looks_like: Some("GET /".to_owned()), ..inbound() };
    let crossing = crossing(outbound, inbound, &[]);
    let [_, mesh, _] = &crossing.legs;
    assert_eq!((mesh.secured, mesh.carries.as_str()), (false, "plaintext: GET /"));
}

#[test]
fn a_connection_in_a_tunnel_leads_to_the_door_of_it() {
    let door: SocketAddr = "10.0.0.2:15008".parse().unwrap();
    let tunnel = |id| Some(crate::wire::TunnelRecord { id, stream: 3, new: false, shared_by: 2, door });
    let outbound = ConnectionRecord { tunnel: tunnel(4), ..outbound() };
    let inbound = ConnectionRecord { tunnel: tunnel(9), ..inbound() };
    let crossing = crossing(outbound, inbound, &[]);
    let [_, mesh, _] = &crossing.legs;
    assert_eq!(mesh.to, Some(door));
    assert!(mesh.carries.starts_with("in tunnel 4, mutual TLS"), "{}", mesh.carries);
}

#[test]
fn clocks_that_differ_are_told_and_move_nothing() {
    let late = inbound().accepted + Duration::from_secs(30);
    let inbound = ConnectionRecord { accepted: late, ..inbound() };
    let told = crossing(outbound(), inbound, &[]);
    assert_eq!(told.moments, crossing(outbound(), self::inbound(), &[]).moments);
    assert!(
        told.to_string().ends_with(
            "Their clocks differ by 29.9 s; the right column counts from where the left one dials."
        ),
        "{told}"
    );
}
