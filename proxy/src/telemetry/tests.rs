//! Records in; log lines and the metrics text out, read back as a monitoring system would.

mod page;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pillion_mesh::policy::mode::Mode;
use pillion_mesh::reason::{Kind, Reason};
use pillion_mesh::wire::{
    ConnectionRecord, Direction, FirstBytes, ModeRecord, ModeShadow, Times, TlsMode, TlsRecord,
};
use pillion_mesh::workload::Workload;
use rstest::rstest;
use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use super::access::Line;
use super::{Scraped, Telemetry, log};
use crate::settings::LogFormat;

const FRONTEND: &str = "spiffe://cluster.local/ns/shop/sa/frontend";
const BACKEND: &str = "spiffe://cluster.local/ns/default/sa/backend";

fn workload() -> Workload {
    Workload {
        name: "backend-v1".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: "default".to_owned(),
        service_account: "backend".to_owned(),
        labels: [("app", "backend"), ("version", "v1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    }
}

fn record(direction: Direction) -> ConnectionRecord {
    ConnectionRecord {
        id: 1,
        direction,
        accepted: UNIX_EPOCH,
        client: "10.0.0.7:4312".parse().unwrap(),
        original_destination: Some("10.0.0.8:8080".parse().unwrap()),
        first_bytes: Some(FirstBytes::Plaintext),
        looks_like: None,
        mode: None,
        service: None,
        plan: None,
        tls: None,
        authorization: None,
        upstream: None,
        tunnel: None,
        dialled_from: None,
        bytes_to_server: 0,
        bytes_to_client: 0,
        duration_micros: 12_345,
        times: Times::default(),
        reason: None,
        detail: None,
        closed: None,
        wire: None,
    }
}

/// With a finished handshake.
fn secured(direction: Direction) -> ConnectionRecord {
    let (local, peer) = match direction {
        Direction::Inbound => (BACKEND, FRONTEND),
        Direction::Outbound => (BACKEND, "spiffe://cluster.local/ns/shop/sa/customers"),
    };
    let tls = TlsRecord {
        mode: TlsMode::IstioMutual,
        peer: peer.to_owned(),
        local: local.to_owned(),
        version: "TLSv1.3".into(),
        cipher_suite: "TLS13_AES_256_GCM_SHA384".into(),
        group: "X25519MLKEM768".into(),
        resumed: false,
        handshake_micros: 1_500,
        peer_serial: "01".to_owned(),
        peer_not_after: UNIX_EPOCH,
        local_serial: None,
        local_not_after: None,
    };
    ConnectionRecord { tls: Some(tls), ..record(direction) }
}

/// With a finished handshake to a server outside the mesh.
fn outside(mode: TlsMode, peer: &str, local: &str) -> ConnectionRecord {
    let record = secured(Direction::Outbound);
    let tls = record.tls.map(|tls| TlsRecord { mode, peer: peer.to_owned(), local: local.to_owned(), ..tls });
    ConnectionRecord { tls, service: Some("api.example.com:443".to_owned()), ..record }
}

fn ended(record: ConnectionRecord, reason: Reason) -> ConnectionRecord {
    ConnectionRecord { reason: Some(reason), ..record }
}

/// One line of the metrics text.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads the metrics text: every line is a comment or a sample, and the last says that it is whole.
fn samples(page: &str) -> Vec<Sample> {
    let body = page.strip_suffix("# EOF\n").expect("the end is marked");
    body.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).expect("a name ends");
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (key, after) = rest.trim_start_matches(',').split_once("=\"").expect("a label has a value");
            let (value, after) = quoted(after);
            assert_eq!(labels.insert(key.to_owned(), value), None, "{key} stands twice");
            rest = after;
        }
        rest = &rest[1..];
    }
    Sample { name: name.to_owned(), labels, value: rest.trim().parse().expect("a number") }
}

/// The text up to the closing quote with its escapes resolved, and what follows.
fn quoted(text: &str) -> (String, &str) {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next().expect("an escape has a character").1 {
                'n' => value.push('\n'),
                c => value.push(c),
            },
            c => value.push(c),
        }
    }
    panic!("no closing quote in {text}");
}

fn scrape(telemetry: &Telemetry) -> Vec<Sample> {
    samples(&telemetry.encode(&Scraped::default()))
}

/// The sum over the samples of a name that have all these labels.
fn sum(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    samples
        .iter()
        .filter(|sample| sample.name == name)
        .filter(|sample| {
            labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        })
        .map(|sample| sample.value)
        .sum()
}

const ISTIO_LABELS: [&str; 23] = [
    "connection_security_policy",
    "destination_app",
    "destination_canonical_revision",
    "destination_canonical_service",
    "destination_cluster",
    "destination_principal",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_version",
    "destination_workload",
    "destination_workload_namespace",
    "reporter",
    "request_protocol",
    "response_flags",
    "source_app",
    "source_canonical_revision",
    "source_canonical_service",
    "source_cluster",
    "source_principal",
    "source_version",
    "source_workload",
    "source_workload_namespace",
];

#[test]
fn the_query_for_plaintext_by_workload_finds_the_client_without_a_sidecar() {
    let telemetry = Telemetry::new(&workload());
    telemetry.opened(&record(Direction::Inbound));
    telemetry.opened(&ConnectionRecord { id: 2, ..secured(Direction::Inbound) });
    // sum(istio_tcp_connections_opened_total{connection_security_policy="none"})
    //     by (source_workload, destination_workload)
    let found: Vec<_> = scrape(&telemetry)
        .into_iter()
        .filter(|sample| sample.name == "istio_tcp_connections_opened_total")
        .filter(|sample| sample.labels["connection_security_policy"] == "none")
        .map(|sample| {
            let label = |name: &str| sample.labels[name].clone();
            (label("source_workload"), label("destination_workload"), sample.value)
        })
        .collect();
    assert_eq!(found, [("unknown".to_owned(), "backend-v1".to_owned(), 1.0)]);
}

#[rstest]
#[case::mtls_in(secured(Direction::Inbound), &[
    ("reporter", "destination"), ("connection_security_policy", "mutual_tls"), ("request_protocol", "tcp"),
    ("response_flags", "-"),
    ("source_workload", "frontend"), ("source_workload_namespace", "shop"), ("source_principal", FRONTEND),
    ("source_canonical_service", "frontend"), ("source_canonical_revision", "latest"), ("source_app", "unknown"),
    ("destination_workload", "backend-v1"), ("destination_workload_namespace", "default"),
    ("destination_principal", BACKEND), ("destination_app", "backend"), ("destination_version", "v1"),
    ("destination_canonical_service", "backend"), ("destination_canonical_revision", "v1"),
    ("destination_service", "unknown"), ("destination_service_name", "InboundPassthroughCluster"),
    ("destination_service_namespace", "default"),
])]
#[case::plaintext_in(record(Direction::Inbound), &[
    ("reporter", "destination"), ("connection_security_policy", "none"),
    ("source_workload", "unknown"), ("source_workload_namespace", "unknown"), ("source_principal", "unknown"),
    ("source_canonical_service", "unknown"), ("source_canonical_revision", "latest"),
    ("destination_workload", "backend-v1"), ("destination_principal", "unknown"),
])]
#[case::mtls_out(ConnectionRecord { service: Some("customers:3000".into()), ..secured(Direction::Outbound) }, &[
    ("reporter", "source"), ("connection_security_policy", "unknown"),
    ("source_workload", "backend-v1"), ("source_principal", BACKEND),
    ("destination_workload", "customers"), ("destination_workload_namespace", "shop"),
    ("destination_principal", "spiffe://cluster.local/ns/shop/sa/customers"),
    ("destination_service", "customers"), ("destination_service_name", "customers"),
    ("destination_service_namespace", "shop"),
])]
#[case::to_a_kubernetes_name(
    ConnectionRecord { service: Some("web.shop.svc.cluster.local:80".into()), ..record(Direction::Outbound) }, &[
    ("destination_service", "web.shop.svc.cluster.local"), ("destination_service_name", "web"),
    ("destination_service_namespace", "shop"), ("source_principal", "unknown"),
])]
#[case::to_a_host_outside(
    ConnectionRecord { service: Some("api.example.com:443".into()), ..record(Direction::Outbound) }, &[
    ("destination_service", "api.example.com"), ("destination_service_name", "api.example.com"),
    ("destination_service_namespace", "unknown"),
])]
#[case::simple_tls_out(outside(TlsMode::Simple, "api.example.com", ""), &[
    ("reporter", "source"), ("connection_security_policy", "unknown"),
    ("source_workload", "backend-v1"), ("source_principal", "unknown"),
    ("destination_workload", "unknown"), ("destination_workload_namespace", "unknown"),
    ("destination_principal", "unknown"), ("destination_canonical_service", "unknown"),
    ("destination_service", "api.example.com"), ("destination_service_namespace", "unknown"),
])]
#[case::mutual_tls_out_by_subject(outside(TlsMode::Mutual, "api.example.com", "CN=client"), &[
    ("source_principal", "unknown"), ("destination_principal", "unknown"), ("destination_workload", "unknown"),
])]
#[case::mutual_tls_out_to_another_mesh(
    outside(TlsMode::Mutual, "spiffe://other.mesh/ns/shop/sa/customers", "spiffe://other.mesh/ns/x/sa/guest"), &[
    ("source_workload", "backend-v1"), ("source_principal", "spiffe://other.mesh/ns/x/sa/guest"),
    ("destination_principal", "spiffe://other.mesh/ns/shop/sa/customers"),
    ("destination_workload", "unknown"), ("destination_workload_namespace", "unknown"),
])]
#[case::to_nobody_known(record(Direction::Outbound), &[
    ("destination_service", "unknown"), ("destination_service_name", "PassthroughCluster"),
    ("destination_workload", "unknown"),
])]
fn a_connection_counts_under_istios_labels(
    #[case] record: ConnectionRecord,
    #[case] expected: &[(&str, &str)],
) {
    let telemetry = Telemetry::new(&workload());
    telemetry.opened(&record);
    let samples = scrape(&telemetry);
    let opened: Vec<_> =
        samples.iter().filter(|sample| sample.name == "istio_tcp_connections_opened_total").collect();
    assert_eq!(opened.len(), 1, "{opened:?}");
    assert_eq!(opened[0].labels.keys().map(String::as_str).collect::<Vec<_>>(), ISTIO_LABELS);
    for (label, value) in expected {
        assert_eq!(opened[0].labels[*label], *value, "{label}");
    }
}

#[rstest]
#[case::inbound(Direction::Inbound)]
#[case::outbound(Direction::Outbound)]
fn what_the_client_sends_is_received_and_the_answer_is_sent_at_both_ends(#[case] direction: Direction) {
    let telemetry = Telemetry::new(&workload());
    telemetry.opened(&record(direction));
    let end = ConnectionRecord { bytes_to_server: 9, bytes_to_client: 27, ..record(direction) };
    telemetry.closed(&ended(end, Reason::Completed), true);
    let samples = scrape(&telemetry);
    assert_eq!(sum(&samples, "istio_tcp_received_bytes_total", &[]), 9.0);
    assert_eq!(sum(&samples, "istio_tcp_sent_bytes_total", &[]), 27.0);
    assert_eq!(sum(&samples, "istio_tcp_connections_closed_total", &[("response_flags", "-")]), 1.0);
}

#[test]
fn bytes_of_a_long_connection_count_while_it_is_open_and_only_once() {
    let telemetry = Telemetry::new(&workload());
    telemetry.opened(&record(Direction::Inbound));
    let received = |open: &[(u64, u64)]| {
        let open = open
            .iter()
            .map(|(to_server, to_client)| ConnectionRecord {
                bytes_to_server: *to_server,
                bytes_to_client: *to_client,
                ..record(Direction::Inbound)
            })
            .collect();
        let samples = samples(&telemetry.encode(&Scraped { open, ..Scraped::default() }));
        let total = |name| sum(&samples, name, &[]);
        (total("istio_tcp_received_bytes_total"), total("istio_tcp_sent_bytes_total"))
    };
    assert_eq!(received(&[(100, 5)]), (100.0, 5.0));
    assert_eq!(received(&[(100, 5)]), (100.0, 5.0));
    assert_eq!(received(&[(150, 6)]), (150.0, 6.0));
    let end = ConnectionRecord { bytes_to_server: 160, bytes_to_client: 6, ..record(Direction::Inbound) };
    telemetry.closed(&ended(end, Reason::ServerReset), true);
    assert_eq!(received(&[]), (160.0, 6.0));
    // The list of open connections may be older than the end.
    assert_eq!(received(&[(155, 6)]), (160.0, 6.0));
}

#[test]
fn every_refusal_counts_under_its_reason_and_never_as_opened() {
    let telemetry = Telemetry::new(&workload());
    let refusals: Vec<_> = Reason::ALL.iter().filter(|reason| reason.kind() == Kind::Refused).collect();
    for reason in &refusals {
        telemetry.closed(&ended(record(Direction::Inbound), **reason), false);
        telemetry.closed(&ended(record(Direction::Outbound), **reason), false);
    }
    let samples = scrape(&telemetry);
    for reason in &refusals {
        for direction in ["inbound", "outbound"] {
            let labels = [("reason", reason.id()), ("direction", direction)];
            assert_eq!(
                sum(&samples, "pillion_connections_refused_total", &labels),
                1.0,
                "{reason} {direction}"
            );
        }
    }
    let failed = sum(&samples, "istio_tcp_connections_failed_total", &[]);
    assert_eq!(failed, (2 * refusals.len()) as f64);
    for name in [
        "istio_tcp_connections_opened_total",
        "istio_tcp_connections_closed_total",
        "pillion_connections_open",
    ] {
        assert_eq!(sum(&samples, name, &[]), 0.0, "{name}");
    }
}

#[rstest]
#[case(Direction::Inbound, Reason::StrictPlaintext, "NR")]
#[case(Direction::Inbound, Reason::CertificateExpired, "DPE")]
#[case(Direction::Outbound, Reason::CertificateExpired, "UF")]
#[case(Direction::Outbound, Reason::NoExpectedIdentity, "UF")]
#[case(Direction::Outbound, Reason::NoEndpoint, "UH")]
#[case(Direction::Inbound, Reason::AuthorizationDenied, "DENY")]
#[case(Direction::Inbound, Reason::AppUnreachable, "UF")]
#[case(Direction::Outbound, Reason::ConnectTimeout, "UF")]
#[case(Direction::Inbound, Reason::TooManyConnections, "UO")]
fn a_refusal_has_envoys_flags(#[case] direction: Direction, #[case] reason: Reason, #[case] flags: &str) {
    let telemetry = Telemetry::new(&workload());
    telemetry.closed(&ended(record(direction), reason), false);
    let labels = [("response_flags", flags)];
    assert_eq!(sum(&scrape(&telemetry), "istio_tcp_connections_failed_total", &labels), 1.0);
}

#[rstest]
#[case(Reason::Completed, "-")]
#[case(Reason::ClientReset, "DC")]
#[case(Reason::ServerReset, "UC")]
#[case(Reason::TlsTruncated, "DPE")]
#[case(Reason::Drained, "DT")]
#[case(Reason::PolicyChanged, "LR")]
fn an_end_has_envoys_flags_and_its_reason(#[case] reason: Reason, #[case] flags: &str) {
    let telemetry = Telemetry::new(&workload());
    telemetry.opened(&record(Direction::Inbound));
    telemetry.closed(&ended(record(Direction::Inbound), reason), true);
    let samples = scrape(&telemetry);
    assert_eq!(sum(&samples, "istio_tcp_connections_closed_total", &[("response_flags", flags)]), 1.0);
    assert_eq!(sum(&samples, "pillion_connections_ended_total", &[("reason", reason.id())]), 1.0);
    assert_eq!(sum(&samples, "pillion_connections_refused_total", &[]), 0.0);
}

#[test]
fn a_connection_to_the_proxy_itself_goes_to_the_black_hole() {
    let telemetry = Telemetry::new(&workload());
    telemetry.closed(&ended(record(Direction::Inbound), Reason::SelfLoop), false);
    let labels = [("destination_service_name", "BlackHoleCluster")];
    assert_eq!(sum(&scrape(&telemetry), "istio_tcp_connections_failed_total", &labels), 1.0);
}

#[test]
fn a_client_that_hangs_up_before_anything_was_decided_is_no_refusal() {
    let telemetry = Telemetry::new(&workload());
    telemetry.closed(&ended(record(Direction::Inbound), Reason::ClientReset), false);
    let samples = scrape(&telemetry);
    assert_eq!(sum(&samples, "pillion_connections_refused_total", &[]), 0.0);
    assert_eq!(sum(&samples, "istio_tcp_connections_failed_total", &[]), 0.0);
}

#[test]
fn open_connections_are_a_gauge_for_each_direction() {
    let telemetry = Telemetry::new(&workload());
    let open =
        |direction: &str| sum(&scrape(&telemetry), "pillion_connections_open", &[("direction", direction)]);
    telemetry.opened(&record(Direction::Inbound));
    telemetry.opened(&ConnectionRecord { id: 2, ..record(Direction::Outbound) });
    telemetry.opened(&ConnectionRecord { id: 3, ..record(Direction::Outbound) });
    assert_eq!((open("inbound"), open("outbound")), (1.0, 2.0));
    telemetry
        .closed(&ended(ConnectionRecord { id: 3, ..record(Direction::Outbound) }, Reason::Drained), true);
    assert_eq!((open("inbound"), open("outbound")), (1.0, 1.0));
}

#[test]
fn a_handshake_is_observed_once_also_where_the_connection_fails_after_it() {
    let telemetry = Telemetry::new(&workload());
    telemetry.opened(&secured(Direction::Inbound));
    telemetry.closed(&ended(secured(Direction::Inbound), Reason::Completed), true);
    telemetry.closed(&ended(secured(Direction::Inbound), Reason::AppUnreachable), false);
    telemetry.opened(&outside(TlsMode::Simple, "api.example.com", "")); // not between sidecars
    let samples = scrape(&telemetry);
    let labels = [("direction", "inbound"), ("resumed", "false")];
    assert_eq!(sum(&samples, "pillion_handshake_duration_seconds_count", &labels), 2.0);
    assert_eq!(sum(&samples, "pillion_handshake_duration_seconds_sum", &labels), 0.003);
    assert_eq!(sum(&samples, "pillion_handshake_duration_seconds_count", &[]), 2.0);
    let bucket = |le: &str| sum(&samples, "pillion_handshake_duration_seconds_bucket", &[("le", le)]);
    assert_eq!((bucket("0.001"), bucket("0.002")), (0.0, 2.0));
}

#[test]
fn each_dial_that_was_taken_is_counted_once_with_its_duration() {
    let telemetry = Telemetry::new(&workload());
    let dialled = |record: ConnectionRecord, connected| ConnectionRecord {
        times: Times { dialled: Some(1_000), connected, ..Times::default() },
        ..record
    };
    // Before it is open, as bytes are relayed; later, as requests are passed on; never.
    let relayed = dialled(record(Direction::Outbound), Some(3_500));
    telemetry.opened(&relayed);
    telemetry.closed(&ended(relayed, Reason::Completed), true);
    let asked = ConnectionRecord { id: 2, ..record(Direction::Outbound) };
    telemetry.opened(&asked);
    telemetry.closed(&ended(dialled(asked, Some(3_500)), Reason::Completed), true);
    telemetry.closed(&ended(dialled(record(Direction::Outbound), None), Reason::ConnectTimeout), false);
    let failed = dialled(record(Direction::Outbound), Some(3_500));
    telemetry.closed(&ended(failed, Reason::CertificateExpired), false);
    let samples = scrape(&telemetry);
    let outbound = [("direction", "outbound")];
    assert_eq!(sum(&samples, "pillion_dial_duration_seconds_count", &outbound), 3.0);
    assert_eq!(sum(&samples, "pillion_dial_duration_seconds_sum", &outbound), 0.007_5);
    assert_eq!(sum(&samples, "pillion_dial_duration_seconds_count", &[]), 3.0);
}

#[test]
fn a_connection_that_was_open_is_counted_with_its_duration() {
    let telemetry = Telemetry::new(&workload());
    telemetry.closed(&ended(record(Direction::Inbound), Reason::StrictPlaintext), false);
    telemetry.opened(&record(Direction::Inbound));
    telemetry.closed(&ended(record(Direction::Inbound), Reason::Completed), true);
    let samples = scrape(&telemetry);
    let bucket = |le: &str| sum(&samples, "pillion_connection_duration_seconds_bucket", &[("le", le)]);
    assert_eq!((bucket("0.005"), bucket("0.02"), bucket("86400.0")), (0.0, 1.0, 1.0));
    assert_eq!(sum(&samples, "pillion_connection_duration_seconds_sum", &[]), 0.012_345);
}

#[test]
fn the_proxys_own_state_is_counted() {
    let telemetry = Telemetry::new(&workload());
    telemetry.policy_reloaded(true);
    telemetry.policy_reloaded(false);
    telemetry.policy_reloaded(false);
    telemetry.panicked();
    telemetry.accept_failed();
    let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
    let page = telemetry.encode(&Scraped {
        leaf_not_after: at(2_000_000_000),
        crl_next_update: None,
        root_not_after: at(3_000_000_000),
        renewals_succeeded: 3,
        renewals_failed: 4,
        open: Vec::new(),
    });
    let all = samples(&page);
    for (name, label, expected) in [
        ("pillion_policy_reload_total", ("result", "success"), 1.0),
        ("pillion_policy_reload_total", ("result", "failure"), 2.0),
        ("pillion_certificate_renewals_total", ("result", "success"), 3.0),
        ("pillion_certificate_renewals_total", ("result", "failure"), 4.0),
        ("pillion_certificate_expiry_timestamp_seconds", ("kind", "leaf"), 2e9),
        ("pillion_certificate_expiry_timestamp_seconds", ("kind", "root"), 3e9),
        ("pillion_build_info", ("version", env!("CARGO_PKG_VERSION")), 1.0),
    ] {
        assert_eq!(sum(&all, name, &[label]), expected, "{name}{label:?}");
    }
    assert_eq!(sum(&all, "pillion_policy_last_reload_successful", &[]), 0.0);
    telemetry.policy_reloaded(true);
    assert_eq!(sum(&scrape(&telemetry), "pillion_policy_last_reload_successful", &[]), 1.0);
    assert_eq!(sum(&all, "pillion_panics_total", &[]), 1.0);
    assert_eq!(sum(&all, "pillion_accept_failures_total", &[]), 1.0);
    let without = scrape(&telemetry);
    assert!(without.iter().all(|sample| sample.name != "pillion_certificate_expiry_timestamp_seconds"));
}

#[test]
fn every_family_has_its_type_and_help_once() {
    let telemetry = Telemetry::new(&workload());
    telemetry.opened(&secured(Direction::Inbound));
    let page = telemetry.encode(&Scraped::default());
    let mut described: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let count = described.len();
    described.sort_unstable();
    described.dedup_by_key(|line| line.split(' ').next().map(str::to_owned));
    assert_eq!(described.len(), count, "a family stands twice");
    assert!(described.contains(&"istio_tcp_connections_opened counter"), "{described:?}");
    assert!(described.contains(&"pillion_handshake_duration_seconds histogram"), "{described:?}");
}

#[test]
fn more_peers_than_the_limit_share_one_edge() {
    let telemetry = Telemetry::new(&workload());
    for id in 0..5_000 {
        let mut record = ConnectionRecord { id, ..secured(Direction::Inbound) };
        if let Some(tls) = &mut record.tls {
            tls.peer = format!("spiffe://cluster.local/ns/shop/sa/job-{id}");
        }
        telemetry.opened(&record);
    }
    telemetry.opened(&ConnectionRecord { id: 9_000, ..record(Direction::Inbound) });
    let samples = scrape(&telemetry);
    let opened = samples.iter().filter(|sample| sample.name == "istio_tcp_connections_opened_total");
    assert!(opened.count() <= 2_010, "label sets grow without limit");
    assert_eq!(sum(&samples, "istio_tcp_connections_opened_total", &[]), 5_001.0, "and yet none is lost");
    let other = [("source_principal", "other"), ("connection_security_policy", "mutual_tls")];
    assert_eq!(sum(&samples, "istio_tcp_connections_opened_total", &other), 3_000.0);
    let plaintext = [("connection_security_policy", "none")];
    assert_eq!(sum(&samples, "istio_tcp_connections_opened_total", &plaintext), 1.0);
}

/// What a peer says of itself without proof stands in no label, and what the registry or an identity says is escaped.
#[test]
fn a_name_cannot_forge_a_metric() {
    let forged = "x\"} 1\npillion_panics_total 99\n\\";
    let telemetry = Telemetry::new(&workload());
    let mut record = ConnectionRecord {
        service: Some(forged.to_owned()),
        first_bytes: Some(FirstBytes::Tls {
            sni: Some(forged.to_owned()),
            alpn: vec![forged.to_owned()],
            mesh: true,
            offer: Box::default(),
        }),
        detail: Some(forged.to_owned()),
        ..secured(Direction::Inbound)
    };
    if let Some(tls) = &mut record.tls {
        tls.peer = forged.to_owned();
    }
    telemetry.opened(&record);
    telemetry.closed(&ended(record, Reason::Completed), true);
    let samples = scrape(&telemetry);
    assert_eq!(sum(&samples, "pillion_panics_total", &[]), 0.0);
    let labels = [("source_principal", forged), ("destination_service", forged)];
    assert_eq!(sum(&samples, "istio_tcp_connections_opened_total", &labels), 1.0);
}

#[test]
fn an_unproved_server_name_makes_no_label_set() {
    let telemetry = Telemetry::new(&workload());
    for id in 0..100 {
        let first = FirstBytes::Tls {
            sni: Some(format!("host-{id}")),
            alpn: vec![format!("p{id}")],
            mesh: false,
            offer: Box::default(),
        };
        telemetry.opened(&ConnectionRecord { id, first_bytes: Some(first), ..record(Direction::Inbound) });
    }
    let samples = scrape(&telemetry);
    assert_eq!(
        samples.iter().filter(|sample| sample.name == "istio_tcp_connections_opened_total").count(),
        1
    );
}

#[rstest]
#[case::mtls(
    ended(ConnectionRecord { bytes_to_server: 120, bytes_to_client: 4_123, ..secured(Direction::Inbound) }, Reason::Completed),
    "inbound   10.0.0.7:4312 -> 10.0.0.8:8080  mTLS spiffe://cluster.local/ns/shop/sa/frontend  TLSv1.3 X25519MLKEM768  \
     120 B to server, 4.1 kB to client  12 ms  id=1  completed"
)]
#[case::plaintext(
    ended(ConnectionRecord { duration_micros: 850, ..record(Direction::Inbound) }, Reason::Completed),
    "inbound   10.0.0.7:4312 -> 10.0.0.8:8080  plaintext  0 B to server, 0 B to client  0.8 ms  id=1  completed"
)]
#[case::what_plaintext_looks_like(
    ended(ConnectionRecord { looks_like: Some("GET /\u{1b}".into()), ..record(Direction::Inbound) }, Reason::Completed),
    "inbound   10.0.0.7:4312 -> 10.0.0.8:8080  plaintext (GET /\\u{1b})  0 B to server, 0 B to client  12 ms  id=1  completed"
)]
#[case::outbound_to_a_service(
    ended(
        ConnectionRecord {
            service: Some("customers:3000".into()),
            upstream: Some("10.0.0.9:3000".parse().unwrap()),
            bytes_to_client: 2_345_678_901,
            duration_micros: 125_000_000,
            ..secured(Direction::Outbound)
        },
        Reason::ServerReset,
    ),
    "outbound  10.0.0.7:4312 -> 10.0.0.8:8080 (customers:3000) at 10.0.0.9:3000  \
     mTLS spiffe://cluster.local/ns/shop/sa/customers  TLSv1.3 X25519MLKEM768  \
     0 B to server, 2.3 GB to client  2 m 5 s  id=1  \
     server_reset: The server reset the connection; the reset was passed on."
)]
#[case::simple_tls_to_a_server_outside(
    ended(outside(TlsMode::Simple, "api.example.com", ""), Reason::Completed),
    "outbound  10.0.0.7:4312 -> 10.0.0.8:8080 (api.example.com:443)  TLS api.example.com  TLSv1.3 X25519MLKEM768  \
     0 B to server, 0 B to client  12 ms  id=1  completed"
)]
#[case::mutual_tls_to_a_server_outside(
    ended(outside(TlsMode::Mutual, "api.example.com", "CN=client"), Reason::Completed),
    "outbound  10.0.0.7:4312 -> 10.0.0.8:8080 (api.example.com:443)  mTLS api.example.com  TLSv1.3 X25519MLKEM768  \
     0 B to server, 0 B to client  12 ms  id=1  completed"
)]
#[case::whoever_answered(
    ended(outside(TlsMode::Simple, "", ""), Reason::Completed),
    "outbound  10.0.0.7:4312 -> 10.0.0.8:8080 (api.example.com:443)  TLS unverified  TLSv1.3 X25519MLKEM768  \
     0 B to server, 0 B to client  12 ms  id=1  completed"
)]
#[case::of_the_apps_own_tls(
    ended(
        ConnectionRecord {
            first_bytes: Some(FirstBytes::Tls { sni: None, alpn: Vec::new(), mesh: false, offer: Box::default() }),
            original_destination: None,
            ..record(Direction::Inbound)
        },
        Reason::Completed,
    ),
    "inbound   10.0.0.7:4312 -> ?  TLS of the app  0 B to server, 0 B to client  12 ms  id=1  completed"
)]
fn the_access_log_tells_a_connection_in_a_line(#[case] record: ConnectionRecord, #[case] expected: &str) {
    assert_eq!(Line(&record).to_string(), expected);
}

/// It was served: the dry run changes nothing.
#[test]
fn what_a_dry_run_would_have_refused_is_logged_and_counted_once() {
    let because = "PeerAuthentication default/soon (namespace)".to_owned();
    let refused = Some(Reason::StrictPlaintext);
    let shadow = Some(ModeShadow { mode: Mode::Strict, because, refused });
    let mode = ModeRecord { mode: Mode::Permissive, because: "the default".to_owned(), shadow };
    let original_destination = Some("10.0.0.8:3000".parse().unwrap());
    let record = ConnectionRecord { mode: Some(mode), original_destination, ..record(Direction::Inbound) };
    let line = Line(&ended(record.clone(), Reason::Completed)).to_string();
    let end = "  completed  dry run: strict_plaintext, STRICT by PeerAuthentication default/soon (namespace)";
    assert!(line.ends_with(end), "{line}");

    let telemetry = Telemetry::new(&workload());
    let declared = ConnectionRecord { service: Some("customers:3000".to_owned()), ..record.clone() };
    telemetry.opened(&declared);
    telemetry.closed(&ended(declared, Reason::Completed), true);
    let undeclared = ConnectionRecord { service: None, ..record };
    telemetry.closed(&ended(undeclared, Reason::AppUnreachable), false);
    let page = telemetry.encode(&Scraped::default());
    for port in ["3000", "other"] {
        let sample =
            format!("pillion_shadow_refused_total{{reason=\"strict_plaintext\",port=\"{port}\"}} 1\n");
        assert!(page.contains(&sample), "{sample} in\n{page}");
    }
}

#[test]
fn a_refusal_tells_what_was_seen_which_policy_decided_and_the_cure() {
    let reason = Reason::StrictPlaintext;
    let record = ConnectionRecord {
        mode: Some(ModeRecord {
            mode: Mode::Strict,
            because: "default/strict (namespace)".to_owned(),
            shadow: None,
        }),
        detail: Some("the first bytes were \"GET / HT\"".to_owned()),
        ..ended(record(Direction::Inbound), reason)
    };
    let end = format!(
        "  strict_plaintext: {} the first bytes were \"GET / HT\". STRICT by default/strict (namespace). Cure: {}",
        reason.sentence(),
        reason.cure()
    );
    let line = Line(&record).to_string();
    assert!(line.ends_with(&end), "{line}");
}

#[rstest]
#[case::refused(Reason::StrictPlaintext, "port 8080 is STRICT by default/strict (namespace)")]
// The mode of the record is that of the beginning, and no longer what decided.
#[case::cut(Reason::PolicyChanged, "port 8080 is DISABLE by default/new (workload)")]
fn the_policy_that_decided_is_told_once(#[case] reason: Reason, #[case] detail: &str) {
    let record = ConnectionRecord {
        mode: Some(ModeRecord {
            mode: Mode::Strict,
            because: "default/strict (namespace)".to_owned(),
            shadow: None,
        }),
        detail: Some(detail.to_owned()),
        ..ended(record(Direction::Inbound), reason)
    };
    let line = Line(&record).to_string();
    assert_eq!(line.matches(" by default/").count(), 1, "{line}");
}

/// Collects what is logged.
#[derive(Debug, Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Logged {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// What `act` logs.
fn logged(format: LogFormat, act: impl FnOnce()) -> String {
    let written = Logged::default();
    let subscriber = tracing_subscriber::registry().with(log::lines(format, false, written.clone()));
    tracing::subscriber::with_default(subscriber, act);
    String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
}

fn refused() -> ConnectionRecord {
    ended(record(Direction::Inbound), Reason::StrictPlaintext)
}

#[test]
fn a_refusal_is_a_warning_and_a_good_end_is_not() {
    let telemetry = Telemetry::new(&workload());
    let line = |record: &ConnectionRecord| logged(LogFormat::Text, || telemetry.closed(record, false));
    assert!(line(&refused()).contains(" WARN inbound "), "{}", line(&refused()));
    let good = line(&ended(record(Direction::Inbound), Reason::Completed));
    assert!(good.contains(" INFO inbound "), "{good}");
    assert_eq!(good.lines().count(), 1);
    assert!(!good.contains('{'), "the text form shows the record as JSON: {good}");
}

#[test]
fn the_json_form_carries_the_whole_record() {
    let telemetry = Telemetry::new(&workload());
    let line = logged(LogFormat::Json, || telemetry.closed(&refused(), false));
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["target"], "access");
    assert_eq!(line["record"], serde_json::to_value(refused()).unwrap());
    assert!(line["message"].as_str().unwrap().contains("strict_plaintext"));
}

#[test]
fn fields_stand_after_the_message_and_keep_their_types_in_json() {
    let act = || tracing::info!(version = 3_u64, ok = true, name = "a b", "policy changed");
    let text = logged(LogFormat::Text, act);
    assert!(text.ends_with(" INFO policy changed version=3 ok=true name=\"a b\"\n"), "{text}");
    let json: Value = serde_json::from_str(&logged(LogFormat::Json, act)).unwrap();
    assert_eq!((&json["version"], &json["ok"], &json["name"]), (&3.into(), &true.into(), &"a b".into()));
}

/// What a peer can put into a record, and what others may log of it.
const HOSTILE: &str =
    "a\x1b[31mred\x1b]0;title\x07\r\n2026-11-20T00:00:00Z  INFO forged\x7f\u{9b}31m\u{202e}kcab\u{2028}";

#[rstest]
#[case::text(LogFormat::Text)]
#[case::json(LogFormat::Json)]
fn no_control_character_of_a_peer_reaches_the_terminal(#[case] format: LogFormat) {
    let telemetry = Telemetry::new(&workload());
    let mut record = ConnectionRecord {
        service: Some(HOSTILE.to_owned()),
        detail: Some(HOSTILE.to_owned()),
        mode: Some(ModeRecord { mode: Mode::Strict, because: HOSTILE.to_owned(), shadow: None }),
        first_bytes: Some(FirstBytes::Tls {
            sni: Some(HOSTILE.to_owned()),
            alpn: Vec::new(),
            mesh: true,
            offer: Box::default(),
        }),
        ..ended(secured(Direction::Inbound), Reason::HandshakeFailed)
    };
    if let Some(tls) = &mut record.tls {
        tls.peer = HOSTILE.to_owned();
    }
    let written = logged(format, || {
        telemetry.closed(&record, false);
        tracing::warn!(detail = HOSTILE, quoted = ?HOSTILE, shown = %HOSTILE, "said {HOSTILE}");
    });
    assert_eq!(written.lines().count(), 2, "a line was forged: {written:?}");
    let body: String = written.lines().collect();
    for c in body.chars() {
        assert!(!c.is_control(), "{c:?} in {body:?}");
    }
    assert!(body.contains("forged"), "nothing is lost: {body:?}");
    assert!(!body.contains(['\u{202e}', '\u{2028}']), "{body:?}");
    if format == LogFormat::Json {
        let lines: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["record"]["detail"], HOSTILE, "the escapes read back as what the peer sent");
    }
}

#[test]
fn the_log_level_changes_while_it_runs() {
    let (filter, level) = log::LogLevel::new("").unwrap();
    let written = Logged::default();
    let subscriber =
        tracing_subscriber::registry().with(filter).with(log::lines(LogFormat::Text, false, written.clone()));
    let said = || String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        tracing::debug!("before");
        level.set("debug").unwrap();
        tracing::debug!("within");
        level.set("access=warn,error").unwrap();
        tracing::info!("after");
        level.set("no=such=level").unwrap_err();
        level.set(&"a".repeat(2_000)).unwrap_err();
        assert_eq!(level.current().unwrap(), "access=warn,error");
    });
    assert!(
        !said().contains("before") && said().contains("within") && !said().contains("after"),
        "{}",
        said()
    );
}

#[test]
fn a_level_whose_log_is_gone_is_an_error() {
    let level = log::LogLevel::fixed();
    assert!(level.set("debug").is_err() && level.current().is_err());
}

#[test]
fn times_before_1970_count_as_1970() {
    let telemetry = Telemetry::new(&workload());
    let early = SystemTime::UNIX_EPOCH - Duration::from_secs(5);
    let page = telemetry.encode(&Scraped { leaf_not_after: Some(early), ..Scraped::default() });
    assert_eq!(
        sum(&samples(&page), "pillion_certificate_expiry_timestamp_seconds", &[("kind", "leaf")]),
        0.0
    );
}
