use std::net::SocketAddr;

use rstest::rstest;

use super::*;
use crate::resource::Resources;
use crate::wire::{ModeRecord, ModeShadow, Times, TlsMode, TlsRecord};
use crate::workload::MeshConfig;

const DECLARED: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: customers}
spec:
  hosts: [customers]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 3000, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.8, serviceAccount: customers, labels: {app: customers}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: legacy}
spec:
  hosts: [legacy]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.9}]
---
";

fn at(seconds: u64) -> SystemTime {
    rfc3339::parse("2026-11-20T12:00:00Z").unwrap() + Duration::from_secs(seconds)
}

fn workload() -> Workload {
    Workload {
        name: "customers".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: "default".to_owned(),
        service_account: "customers".to_owned(),
        labels: [("app".to_owned(), "customers".to_owned())].into(),
    }
}

fn policy(name: &str, mode: &str, annotations: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: {name}{annotations}}}\nspec: {{mtls: {{mode: {mode}}}}}\n---\n"
    )
}

fn snapshot(policies: &str) -> Snapshot {
    let mut resources = Resources::default();
    resources.read("mesh.yaml", &format!("{DECLARED}{policies}")).unwrap();
    Snapshot::build(&resources, &workload(), &MeshConfig::default())
}

/// Let in, in plaintext.
fn plaintext(client: &str, seconds: u64) -> ConnectionRecord {
    ConnectionRecord {
        id: 1,
        direction: Direction::Inbound,
        accepted: at(seconds),
        client: SocketAddr::new(client.parse().unwrap(), 4312),
        original_destination: Some("10.0.0.8:3000".parse().unwrap()),
        first_bytes: Some(FirstBytes::Plaintext),
        looks_like: Some("GET /".to_owned()),
        mode: Some(ModeRecord { mode: Mode::Permissive, because: "the default".to_owned(), shadow: None }),
        service: None,
        plan: None,
        tls: None,
        authorization: None,
        upstream: None,
        tunnel: None,
        dialled_from: None,
        bytes_to_server: 0,
        bytes_to_client: 0,
        duration_micros: 0,
        times: Times { opened: Some(1), ..Times::default() },
        closed: None,
        reason: None,
        detail: None,
        wire: None,
    }
}

fn mutual(client: &str, seconds: u64) -> ConnectionRecord {
    let tls = TlsRecord {
        mode: TlsMode::IstioMutual,
        peer: "spiffe://cluster.local/ns/default/sa/web".to_owned(),
        local: "spiffe://cluster.local/ns/default/sa/customers".to_owned(),
        version: "TLSv1.3".into(),
        cipher_suite: "TLS13_AES_256_GCM_SHA384".into(),
        group: "X25519".into(),
        resumed: false,
        handshake_micros: 1,
        peer_serial: "01".to_owned(),
        peer_not_after: at(3600),
        local_serial: None,
        local_not_after: None,
    };
    ConnectionRecord { tls: Some(tls), first_bytes: None, looks_like: None, ..plaintext(client, seconds) }
}

fn refused(client: &str, seconds: u64, reason: Reason) -> ConnectionRecord {
    ConnectionRecord { reason: Some(reason), times: Times::default(), ..plaintext(client, seconds) }
}

fn judged(records: &[ConnectionRecord], policies: &str, now: u64, within: Option<u64>) -> Judged {
    let mut tally = Tally::new(at(0));
    records.iter().for_each(|record| tally.count(record));
    tally.told(&workload(), &snapshot(policies), &[], at(now)).judged(within.map(Duration::from_secs))
}

#[rstest]
#[case::nobody(&[], "", None, Verdict::NothingSeen)]
#[case::mutual_tls_only(&[mutual("10.0.0.7", 1)], "", None, Verdict::Safe)]
#[case::somebody_in_plaintext(&[mutual("10.0.0.7", 1), plaintext("10.0.0.9", 2)], "", None, Verdict::NotYet)]
#[case::plaintext_that_is_past(&[plaintext("10.0.0.9", 2), mutual("10.0.0.9", 50)], "", Some(60), Verdict::Safe)]
#[case::nobody_lately(&[mutual("10.0.0.7", 1)], "", Some(60), Verdict::NothingSeen)]
#[case::refused_by_a_policy(&[refused("10.0.0.9", 1, Reason::AuthorizationDenied)], "", None, Verdict::NothingSeen)]
#[case::while_the_app_was_down(&[refused("10.0.0.9", 1, Reason::AppUnreachable)], "", None, Verdict::NotYet)]
#[case::disabled(&[mutual("10.0.0.7", 1)], "DISABLE", None, Verdict::NotLookedAt)]
#[case::strict(&[refused("10.0.0.9", 1, Reason::StrictPlaintext)], "STRICT", None, Verdict::Strict)]
fn the_verdict_is(
    #[case] records: &[ConnectionRecord],
    #[case] mode: &str,
    #[case] within: Option<u64>,
    #[case] expected: Verdict,
) {
    let policies = if mode.is_empty() { String::new() } else { policy("now", mode, "") };
    let judged = judged(records, &policies, 100, within);
    assert_eq!(judged.ports[0].verdict, expected, "{judged}");
    assert_eq!(judged.is_safe(), expected.is_safe());
}

#[rstest]
#[case::own_tls(FirstBytes::Tls { sni: None, alpn: vec![], mesh: false, offer: Box::default() }, Some(How::OwnTls))]
#[case::silence(FirstBytes::Silent, Some(How::Silent))]
#[case::not_looked_at(FirstBytes::Unseen, Some(How::NotLookedAt))]
#[case::a_handshake_that_did_not_come_to_be(FirstBytes::Tls { sni: None, alpn: vec![], mesh: true, offer: Box::default() }, None)]
fn who_has_no_mutual_tls_is_told_by_how_it_comes(#[case] first: FirstBytes, #[case] how: Option<How>) {
    let record = ConnectionRecord { first_bytes: Some(first), ..plaintext("10.0.0.9", 1) };
    let judged = judged(&[record], "", 10, None);
    assert_eq!(judged.ports[0].port.peers.first().map(|peer| peer.how), how);
}

#[test]
fn a_person_reads_who_must_get_a_sidecar_first() {
    let policies = policy("soon", "STRICT", ", annotations: {istio.io/dry-run: 'true'}");
    let shadow = Some(ModeShadow {
        mode: Mode::Strict,
        because: "PeerAuthentication default/soon (namespace)".to_owned(),
        refused: Some(Reason::StrictPlaintext),
    });
    let mode = Some(ModeRecord { mode: Mode::Permissive, because: "the default".to_owned(), shadow });
    let of_legacy = |seconds| ConnectionRecord { mode: mode.clone(), ..plaintext("10.0.0.9", seconds) };
    let judged = judged(
        &[of_legacy(60), of_legacy(600), mutual("10.0.0.7", 610), mutual("10.0.0.9", 640)],
        &policies,
        650,
        None,
    );
    let expected = "\
default/customers, watched since 2026-11-20T12:00:00.000Z (10 m 50 s)
  PORT  SERVICE         MODE        MTLS  WITHOUT  REFUSED  DRY RUN           VERDICT
  3000  customers:3000  PERMISSIVE  2     2        0        STRICT refuses 2  × give a sidecar first to 10.0.0.9 (legacy)
      10.0.0.9 (legacy): plaintext (GET /), 2 times since 2026-11-20T12:01:00.000Z, last 50.0 s ago, by mutual TLS once since 2026-11-20T12:10:40.000Z, last 10.0 s ago";
    assert_eq!(judged.to_string(), expected);
}

/// However long ago it was accepted.
#[test]
fn a_connection_that_is_open_is_seen_now() {
    let (mut tally, open) = (Tally::new(at(0)), plaintext("10.0.0.9", 1));
    tally.count(&open);
    let told = |open: &[ConnectionRecord]| {
        let watched = tally.told(&workload(), &snapshot(""), open, at(100));
        watched.judged(Some(Duration::from_secs(10)))
    };
    assert_eq!(told(&[]).ports[0].verdict, Verdict::NothingSeen);
    let told = told(&[open]);
    assert_eq!((told.ports[0].verdict, told.ports[0].port.peers[0].open), (Verdict::NotYet, 1), "{told}");
}

#[test]
fn the_room_is_bounded_and_what_finds_none_is_counted() {
    let mut tally = Tally::new(at(0));
    let peers = u32::try_from(MOST_PEERS).unwrap();
    for number in 0..peers + 5 {
        let client = std::net::Ipv4Addr::from(0x0a01_0000 + number);
        tally.count(&plaintext(&client.to_string(), u64::from(number / 10)));
    }
    let watched = tally.told(&workload(), &snapshot(""), &[], at(200));
    assert_eq!(watched.ports[0].peers.len(), MOST_PEERS);
    assert_eq!(watched.ports[0].unnamed.map(|seen| seen.connections), Some(5));
    assert_eq!(watched.ports[0].without.map(|seen| seen.connections), Some(u64::from(peers) + 5));

    // One that was not seen for long makes room.
    tally.count(&plaintext("10.9.9.9", 2 * STALE.as_secs()));
    let watched = tally.told(&workload(), &snapshot(""), &[], at(10_000));
    assert_eq!(watched.ports[0].peers.len(), MOST_PEERS);
    assert_eq!(watched.ports[0].peers[0].address.to_string(), "10.9.9.9");

    for port in 1..=100 {
        let original_destination = Some(SocketAddr::from(([10, 0, 0, 8], port)));
        tally.count(&ConnectionRecord { original_destination, ..mutual("10.0.0.7", 1) });
    }
    let watched = tally.told(&workload(), &snapshot(""), &[], at(10_000));
    assert_eq!(watched.ports.len(), MOST_PORTS);
    assert_eq!(watched.other_ports.map(|seen| seen.connections), Some(100 + 1 - MOST_PORTS as u64));
    assert_eq!(serde_json::from_value::<Watched>(serde_json::to_value(&watched).unwrap()).unwrap(), watched);
}
