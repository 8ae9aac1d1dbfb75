use std::time::SystemTime;

use rstest::rstest;

use super::*;
use crate::policy::mode::Mode;
use crate::reason::Reason;
use crate::wire::{ModeRecord, Times};

const CATALOG: &str = "spiffe://cluster.local/ns/shop/sa/catalog";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn workload(name: &str) -> Workload {
    Workload {
        name: format!("{name}-v1"),
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: "shop".to_owned(),
        service_account: name.to_owned(),
        labels: [].into(),
    }
}

fn plain(direction: Direction) -> ConnectionRecord {
    let inbound = direction == Direction::Inbound;
    ConnectionRecord {
        id: 1,
        direction,
        accepted: SystemTime::UNIX_EPOCH,
        client: "10.0.0.7:4312".parse().unwrap(),
        original_destination: Some("10.0.0.8:3000".parse().unwrap()),
        first_bytes: inbound.then_some(FirstBytes::Plaintext),
        looks_like: None,
        mode: inbound.then(|| ModeRecord {
            mode: Mode::Permissive,
            because: "the default".to_owned(),
            shadow: None,
        }),
        service: Some("catalog:80".to_owned()),
        plan: (!inbound).then(|| "the endpoint has no sidecar".to_owned()),
        tls: None,
        authorization: None,
        upstream: None,
        tunnel: None,
        dialled_from: None,
        bytes_to_server: 1,
        bytes_to_client: 2,
        duration_micros: 3,
        times: Times { opened: Some(1), ..Times::default() },
        reason: Some(Reason::Completed),
        detail: None,
        closed: None,
        wire: None,
    }
}

fn with_tls(direction: Direction, mode: TlsMode, peer: &str, local: &str) -> ConnectionRecord {
    let tls = TlsRecord {
        mode,
        peer: peer.to_owned(),
        local: local.to_owned(),
        version: "TLSv1.3".into(),
        cipher_suite: "TLS13_AES_256_GCM_SHA384".into(),
        group: "X25519MLKEM768".into(),
        resumed: false,
        handshake_micros: 1,
        peer_serial: "01".to_owned(),
        peer_not_after: SystemTime::UNIX_EPOCH,
        local_serial: None,
        local_not_after: None,
    };
    ConnectionRecord { tls: Some(tls), ..plain(direction) }
}

fn mutual(direction: Direction) -> ConnectionRecord {
    let (peer, local) = if direction == Direction::Inbound { (WEB, CATALOG) } else { (CATALOG, WEB) };
    let record = with_tls(direction, TlsMode::IstioMutual, peer, local);
    ConnectionRecord { plan: record.plan.map(|_| "auto mTLS".to_owned()), ..record }
}

fn refused(reason: Reason) -> ConnectionRecord {
    ConnectionRecord { reason: Some(reason), times: Times::default(), ..plain(Direction::Inbound) }
}

/// Source, destination, client's and server's identity, whether secured, and why: as the proxy of `catalog` (inbound) or
/// `web` (outbound) tells it.
#[rstest]
#[case::mutual_in(
    mutual(Direction::Inbound),
    "web shop -> catalog-v1 shop | web catalog | √ | PERMISSIVE by the default"
)]
#[case::mutual_out(mutual(Direction::Outbound), "web-v1 shop -> catalog shop | web catalog | √ | auto mTLS")]
#[case::plain_in(
    plain(Direction::Inbound),
    "10.0.0.7 - -> catalog-v1 shop | - - | × | PERMISSIVE by the default"
)]
#[case::plain_out(
    plain(Direction::Outbound),
    "web-v1 shop -> catalog - | - - | × | the endpoint has no sidecar"
)]
#[case::unknown_out(
    ConnectionRecord { service: None, ..plain(Direction::Outbound) },
    "web-v1 shop -> 10.0.0.8:3000 - | - - | × | the endpoint has no sidecar"
)]
#[case::own_tls(
    ConnectionRecord { first_bytes: Some(FirstBytes::Tls { sni: None, alpn: vec![], mesh: false, offer: Box::default() }), ..plain(Direction::Inbound) },
    "10.0.0.7 - -> catalog-v1 shop | - - | by the app | PERMISSIVE by the default"
)]
#[case::outside(
    with_tls(Direction::Outbound, TlsMode::Simple, "api.example.com", ""),
    "web-v1 shop -> catalog - | - api.example.com | √ | the endpoint has no sidecar"
)]
#[case::refused(
    refused(Reason::StrictPlaintext),
    "10.0.0.7 - -> catalog-v1 shop | - - | refused | strict_plaintext"
)]
fn a_connection_is_an_edge_with_what_was_proved(#[case] record: ConnectionRecord, #[case] told: &str) {
    let own = workload(if record.direction == Direction::Inbound { "catalog" } else { "web" });
    let seen = Edges::seen_by(&own, [&record]);
    let [edge] = &seen.edges[..] else { panic!("{seen:?}") };
    let or = |name: &Option<String>| {
        let name = name.as_deref().unwrap_or("-");
        name.rsplit('/').next().unwrap_or_default().to_owned()
    };
    let shown = format!(
        "{} {} -> {} {} | {} {} | {} | {}",
        edge.src,
        or(&edge.src_namespace),
        edge.dst,
        or(&edge.dst_namespace),
        or(&edge.client_id),
        or(&edge.server_id),
        edge.secured.as_str(),
        edge.reason
    );
    assert_eq!(shown, told);
}

/// A client that goes away before anything is known of it, a handshake that is under way.
#[rstest]
#[case(ConnectionRecord { first_bytes: None, reason: Some(Reason::ClientReset), times: Times::default(), ..plain(Direction::Inbound) })]
#[case(ConnectionRecord { reason: None, times: Times::default(), ..plain(Direction::Outbound) })]
fn a_connection_that_did_not_come_to_be_is_no_edge(#[case] record: ConnectionRecord) {
    assert_eq!(Edges::seen_by(&workload("web"), [&record]), Edges::default());
}

#[test]
fn connections_of_one_kind_are_one_edge_and_are_counted() {
    let open = ConnectionRecord { reason: None, ..mutual(Direction::Inbound) };
    let records = [
        mutual(Direction::Inbound),
        plain(Direction::Inbound),
        open,
        refused(Reason::StrictPlaintext),
        refused(Reason::StrictSilent),
        mutual(Direction::Inbound),
    ];
    let seen = Edges::seen_by(&workload("catalog"), &records);
    let counts: Vec<_> =
        seen.edges.iter().map(|edge| (edge.secured, edge.reason.as_str(), edge.open, edge.over)).collect();
    assert_eq!(
        counts,
        [
            (Secured::No, "PERMISSIVE by the default", 0, 1),
            (Secured::Refused, "strict_plaintext", 0, 1),
            (Secured::Refused, "strict_silent", 0, 1),
            (Secured::MutualTls, "PERMISSIVE by the default", 1, 2),
        ]
    );
}

#[rstest]
#[case::client_first([Direction::Outbound, Direction::Inbound])]
#[case::server_first([Direction::Inbound, Direction::Outbound])]
fn an_edge_that_both_ends_tell_of_stands_once(#[case] order: [Direction; 2]) {
    let seen = order.map(|direction| {
        let own = workload(if direction == Direction::Inbound { "catalog" } else { "web" });
        Edges::seen_by(&own, &[mutual(direction), mutual(direction)])
    });
    let all = Edges::of_all(seen);
    let [edge] = &all.edges[..] else { panic!("{all:?}") };
    assert_eq!(
        (edge.src.as_str(), edge.dst.as_str()),
        ("web-v1", "catalog-v1"),
        "each end knows its own name"
    );
    assert_eq!((edge.reason.as_str(), edge.over), ("auto mTLS", 2));
    assert_eq!(edge.seen_from, BTreeSet::from([End::Source, End::Destination]));
}

#[test]
fn the_table_has_linkerds_columns_and_the_reason() {
    let records = [refused(Reason::StrictPlaintext), mutual(Direction::Inbound)];
    let table = Edges::seen_by(&workload("catalog"), &records).to_string();
    let expected = "\
SRC       DST         SRC_NS  DST_NS  CLIENT_ID                              SERVER_ID                                  SECURED  REASON
10.0.0.7  catalog-v1  -       shop    -                                      -                                          refused  strict_plaintext
web       catalog-v1  shop    shop    spiffe://cluster.local/ns/shop/sa/web  spiffe://cluster.local/ns/shop/sa/catalog  √        PERMISSIVE by the default";
    assert_eq!(table, expected);
    assert!(Edges::default().to_string().starts_with("Nobody has talked"));
}
