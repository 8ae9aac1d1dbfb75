//! Holds the part of `docs/reference/metrics.md` that is of sidecars equal to the code. `UPDATE_GOLDEN=1` writes it anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use pillion_mesh::exposition::Format;
use pillion_mesh::policy::mode::Mode;
use pillion_mesh::wire::{AuthorizationRecord, ModeRecord, ModeShadow, RequestRecord, ShadowRecord};
use pillion_testkit::page::{hold_section, metrics_table};

use super::super::edges::response_flags;
use super::*;

const SOURCES: [&str; 3] =
    [include_str!("../mod.rs"), include_str!("../edges.rs"), include_str!("../requests.rs")];

#[test]
fn the_reference_page_tells_every_metric_of_a_sidecar() {
    let text = Format::Plain.render(everything());
    for name in SOURCES.iter().flat_map(|source| names(source)) {
        let is_told = ["", "_total", "_info"]
            .iter()
            .any(|suffix| text.lines().any(|line| line.starts_with(&format!("# TYPE {name}{suffix} "))));
        assert!(is_told, "{name} has no sample here; let everything() make one");
    }
    let table = metrics_table(&text, ("Istio's", &ISTIO_LABELS));
    let section = format!("{table}\n{}", flags());
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/metrics.md");
    hold_section(&page, "sidecar", &section);
}

/// What stands between quotation marks and looks like a metric of ours.
fn names(source: &str) -> impl Iterator<Item = &str> {
    let is_name = |text: &&str| {
        let own = text.starts_with("pillion_") || text.starts_with("istio_");
        own && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    source.split('"').filter(is_name)
}

/// The metrics of a proxy to which everything has happened.
fn everything() -> String {
    let telemetry = Telemetry::new(&workload());
    for (direction, resumed) in [(Direction::Inbound, false), (Direction::Outbound, true)] {
        let mut record = secured(direction);
        record.id += u64::from(resumed);
        record.tls.as_mut().unwrap().resumed = resumed;
        record.times = Times { dialled: Some(1), connected: Some(2), ..Times::default() };
        let because = "default/strict (namespace)".to_owned();
        let refused = Some(Reason::StrictPlaintext);
        let shadow = Some(ModeShadow { mode: Mode::Strict, because: because.clone(), refused });
        record.mode = Some(ModeRecord { mode: Mode::Permissive, because, shadow });
        telemetry.opened(&record);
        telemetry.tunnel_opened(direction);
        let record = ConnectionRecord { bytes_to_server: 1, bytes_to_client: 1, ..record };
        telemetry.closed(&ended(record.clone(), Reason::Completed), true);
        telemetry.closed(&ended(record, Reason::StrictPlaintext), false);
    }
    for allowed in [true, false] {
        let shadow = Some(ShadowRecord { allowed, rule: None });
        let authorization =
            Some(AuthorizationRecord { allowed: true, because: String::new(), audited: None, shadow });
        telemetry.request_ended(&RequestRecord { authorization, ..request(Direction::Inbound) });
        telemetry.federation_refreshed("other.mesh", allowed);
    }
    telemetry.request_ended(&request(Direction::Outbound));
    telemetry.workload_api_answered("FetchX509SVID", "ok");
    let at = Some(UNIX_EPOCH);
    telemetry.encode(&Scraped {
        leaf_not_after: at,
        root_not_after: at,
        crl_next_update: at,
        ..Scraped::default()
    })
}

fn request(direction: Direction) -> RequestRecord {
    RequestRecord {
        connection: 1,
        direction,
        received: UNIX_EPOCH,
        client: "10.0.0.7:4312".parse().unwrap(),
        destination: "10.0.0.8:8080".parse().unwrap(),
        tls: None,
        protocol: "HTTP/1.1".to_owned(),
        is_grpc: false,
        method: "GET".to_owned(),
        host: None,
        path: None,
        service: None,
        upstream: None,
        authorization: None,
        status: Some(403),
        grpc_status: None,
        bytes_to_server: 0,
        bytes_to_client: 0,
        duration_micros: 1,
        reason: Reason::AuthorizationDenied,
        detail: None,
    }
}

/// Which reasons are behind each of Envoy's flags.
fn flags() -> String {
    let mut flags = BTreeMap::<&str, [Vec<String>; 2]>::new();
    for (side, direction) in [Direction::Inbound, Direction::Outbound].into_iter().enumerate() {
        for reason in Reason::ALL {
            let of_flag = flags.entry(response_flags(direction, Some(*reason))).or_default();
            of_flag[side].push(format!("`{}`", reason.id()));
        }
    }
    let mut table =
        "| `response_flags` | [reasons](reasons.md), inbound | outbound |\n|---|---|---|\n".to_owned();
    for (flag, [inbound, outbound]) in flags {
        let outbound = if inbound == outbound { "the same".to_owned() } else { outbound.join(", ") };
        writeln!(table, "| `{flag}` | {} | {outbound} |", inbound.join(", ")).unwrap();
    }
    table
}
