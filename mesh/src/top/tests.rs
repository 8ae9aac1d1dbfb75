use std::time::{Duration, SystemTime};

use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + seconds)
}

fn server() -> Workload {
    Workload {
        name: "server".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: "default".to_owned(),
        service_account: "server".to_owned(),
        labels: [].into(),
    }
}

/// A connection that `last` of its octets called, accepted at a second; open, or over after one second.
fn record(id: u64, last: u8, accepted: u64, bytes: u64, more: &Value) -> ConnectionRecord {
    let mut record = json!({
        "id": id, "direction": "inbound", "accepted": rfc3339::print(at(accepted)), "client": format!("10.0.0.{last}:1"),
        "originalDestination": "10.0.0.8:80", "firstBytes": {"class": "plaintext"}, "bytesToServer": bytes,
        "bytesToClient": 2 * bytes, "durationMicros": 1_000_000, "times": {"opened": 1}, "reason": null,
        "mode": {"mode": "PERMISSIVE", "because": "the default"},
    });
    for (name, value) in more.as_object().unwrap() {
        record[name] = value.clone();
    }
    serde_json::from_value(record).unwrap()
}

fn over() -> Value {
    json!({"reason": "completed"})
}

fn refused() -> Value {
    json!({"reason": "strict_plaintext", "times": {}})
}

/// A reading at a second.
fn reading(second: u64, since: Option<u64>, records: &[ConnectionRecord]) -> Traffic {
    Traffic::of(&server(), records, &[], since.map(at), at(second))
}

/// Who calls, new connections a second, bytes a second to the server and to the client.
fn rates(before: &Traffic, after: &Traffic) -> Vec<(String, f64, u64, u64)> {
    let rates = Rates::between(before, after);
    let row = |flow: Flow| {
        (flow.edge.src, flow.new_per_second, flow.to_server_per_second, flow.to_client_per_second)
    };
    rates.edges.into_iter().map(row).collect()
}

fn told(src: &str, new: f64, to_server: u64, to_client: u64) -> (String, f64, u64, u64) {
    (src.to_owned(), new, to_server, to_client)
}

#[test]
fn a_rate_is_what_came_between_two_readings_by_the_proxys_clock() {
    let before = reading(10, None, &[record(1, 7, 5, 100, &json!({})), record(2, 7, 6, 40, &over())]);
    let after = reading(
        12,
        Some(10),
        &[
            record(1, 7, 5, 300, &json!({})), // 200 bytes more
            record(2, 7, 6, 40, &over()),     // over before
            record(3, 7, 11, 60, &over()),    // came and went
            record(4, 9, 11, 0, &refused()),
        ],
    );
    assert_eq!(rates(&before, &after), [told("10.0.0.7", 0.5, 130, 260), told("10.0.0.9", 0.5, 0, 0)]);
}

#[test]
fn an_edge_that_rests_stays_as_long_as_the_proxy_knows_it() {
    let records = [record(1, 7, 5, 100, &over())];
    let (before, after) = (reading(10, None, &records), reading(11, Some(10), &records));
    assert!(after.connections.is_empty(), "{after:?}");
    assert_eq!(rates(&before, &after), [told("10.0.0.7", 0.0, 0, 0)]);
}

/// A reading cuts its time to the millisecond, so what ended in that millisecond is told twice.
#[test]
fn a_connection_that_is_told_twice_counts_once() {
    let before = reading(10, None, &[record(1, 7, 9, 100, &over())]);
    let after = reading(11, Some(10), &[record(1, 7, 9, 100, &over())]);
    assert_eq!(after.connections.len(), 1, "it ended at the very second");
    assert_eq!(rates(&before, &after), [told("10.0.0.7", 0.0, 0, 0)]);
}

#[test]
fn a_connection_counts_once_it_is_known_whose_it_is() {
    let unknown = json!({"firstBytes": null, "mode": null, "times": {}});
    let before = reading(10, None, &[record(1, 7, 9, 0, &unknown)]);
    assert_eq!((before.connections[0].edge, before.newest[0].secured), (None, None));
    let after = reading(11, Some(10), &[record(1, 7, 9, 5, &json!({}))]);
    assert_eq!(rates(&before, &after), [told("10.0.0.7", 1.0, 5, 10)]);
    assert_eq!(Rates::between(&before, &after).missed, 0);
}

#[test]
fn a_connection_that_is_refused_late_counts_as_a_refusal() {
    let before = reading(10, None, &[record(1, 7, 9, 5, &json!({}))]);
    let after = reading(11, Some(10), &[record(1, 7, 9, 5, &json!({"reason": "authorization_denied"}))]);
    let rates = Rates::between(&before, &after);
    assert_eq!(rates.edges.len(), 1);
    assert_eq!((rates.edges[0].edge.secured, rates.edges[0].new_per_second), (Secured::Refused, 1.0));
}

/// A request that is refused does not end its connection.
#[test]
fn refused_requests_count_for_the_edge_of_their_connection_and_once() {
    let records = [record(1, 7, 5, 100, &json!({})), record(2, 9, 5, 100, &json!({}))];
    let request = |connection: u64, second: u64, reason: &str| -> RequestRecord {
        let request = json!({
            "connection": connection, "direction": "inbound", "received": rfc3339::print(at(second)), "client": "10.0.0.7:1",
            "destination": "10.0.0.8:80", "protocol": "HTTP/1.1", "isGrpc": false, "method": "GET", "bytesToServer": 0,
            "bytesToClient": 0, "durationMicros": 0, "reason": reason,
        });
        serde_json::from_value(request).unwrap()
    };
    let requests = [
        request(1, 9, "authorization_denied"),
        request(1, 10, "authorization_denied"),
        request(1, 11, "authorization_denied"),
        request(2, 11, "policy_changed"),       // cut, not refused
        request(7, 11, "authorization_denied"), // of a connection that nobody knows any more
        request(1, 12, "authorization_denied"),
    ];
    let read = |second: u64, since: Option<u64>| {
        Traffic::of(&server(), &records, &requests, since.map(at), at(second))
    };
    let per_second = |before: &Traffic, after: &Traffic| -> Vec<f64> {
        Rates::between(before, after).edges.iter().map(|flow| flow.refused_requests_per_second).collect()
    };
    let (first, second, third) = (read(10, None), read(12, Some(10)), read(14, Some(12)));
    assert_eq!(first.refused_requests, [RefusedRequests { edge: 0, count: 1 }]);
    assert_eq!(per_second(&first, &second), [1.0, 0.0]);
    assert_eq!(
        per_second(&second, &third),
        [0.5, 0.0],
        "at its very end the reading before has not counted it"
    );
}

/// More came and went than the proxy keeps.
#[test]
fn connections_of_which_nothing_is_kept_are_counted_as_missed() {
    let before = reading(10, None, &[record(1, 7, 9, 5, &json!({}))]);
    let after = reading(11, Some(10), &[record(1, 7, 9, 5, &json!({})), record(5_000, 7, 10, 5, &over())]);
    assert_eq!(Rates::between(&before, &after).missed, 4_998);
}

#[test]
fn a_proxy_that_was_started_anew_begins_at_nothing() {
    let before = reading(10, None, &[record(900, 7, 9, 5_000, &json!({}))]);
    let after = reading(11, Some(10), &[record(1, 7, 10, 70, &json!({}))]);
    assert_eq!(rates(&before, &after), [told("10.0.0.7", 1.0, 70, 140)]);
    assert_eq!(Rates::between(&before, &after).missed, 0);
}

#[rstest]
#[case::back(5)]
#[case::not_at_all(10)]
fn a_clock_that_does_not_go_forward_makes_no_rates(#[case] then: u64) {
    let before = reading(10, None, &[]);
    let after = reading(then, None, &[record(1, 7, 4, 70, &json!({}))]);
    assert_eq!(rates(&before, &after), [told("10.0.0.7", 0.0, 0, 0)]);
}

/// Both ends of an edge whose ends have proved who they are count the same connections.
#[test]
fn what_both_ends_tell_of_stands_once() {
    let [client, own] =
        ["client", "server"].map(|name| format!("spiffe://cluster.local/ns/default/sa/{name}"));
    let mutual = |peer: &str, local: &str, direction: &str| {
        json!({"direction": direction, "tls": {"mode": "ISTIO_MUTUAL", "peer": peer, "local": local, "version": "TLSv1.3",
            "cipherSuite": "", "group": "", "resumed": false, "handshakeMicros": 1, "peerSerial": "", "peerNotAfter": rfc3339::print(at(0))}})
    };
    let nothing = reading(10, None, &[]);
    let of_server = reading(11, None, &[record(1, 7, 10, 100, &mutual(&client, &own, "inbound"))]);
    let of_client = Traffic::of(
        &Workload { name: "client".to_owned(), ..server() },
        &[record(1, 7, 10, 90, &mutual(&own, &client, "outbound"))],
        &[],
        None,
        at(11),
    );
    let rates = Rates::of_all([&of_server, &of_client].map(|after| Rates::between(&nothing, after)));
    let [flow] = &rates.edges[..] else { panic!("{rates:?}") };
    assert_eq!((flow.new_per_second, flow.to_server_per_second, flow.edge.open), (1.0, 100, 1));
    assert_eq!(flow.edge.seen_from.len(), 2);
}

/// However many connections a proxy serves, a reading tells of few one by one, and of the others in a few numbers each.
#[test]
fn a_reading_of_ten_thousand_connections_is_small() {
    let records: Vec<_> = (1..=10_000).map(|id| record(id, 7, 9, 5, &json!({}))).collect();
    let reading = reading(10, None, &records);
    assert_eq!((reading.newest.len(), reading.newest[0].id, reading.edges[0].open), (NEWEST, 10_000, 10_000));
    let size = serde_json::to_vec(&reading).unwrap().len();
    assert!(size < 1_000_000, "{size} bytes");
}

#[test]
fn each_order_has_a_word_and_a_key() {
    for sort in Sort::ALL {
        assert_eq!(sort.as_str().parse(), Ok(sort));
        assert_eq!(sort.as_str().chars().next().and_then(Sort::of_key), Some(sort));
    }
    assert!("name".parse::<Sort>().unwrap_err().contains("new, bytes, open, refused, who"));
    assert_eq!(Sort::of_key('q'), None);
}
