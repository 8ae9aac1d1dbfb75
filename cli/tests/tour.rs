//! The tour of the source, docs/explanation/tour.md: what it names is there, and what it says is logged is logged, in this
//! order.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pillion_cli::lab::{RunningSidecar, Sidecar};
use rstest::rstest;
use serde_json::Value;

use common::{PORT, SOON};

/// A row of the table.
struct Stop {
    who: String,
    file: String,
    function: String,
    says: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn stops() -> Vec<Stop> {
    let page = fs::read_to_string(root().join("docs/explanation/tour.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.contains("](../../"));
    let stop = |line: &str| {
        let [_, who, file, function, says] =
            line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>()[..]
        else {
            panic!("five columns: {line}");
        };
        let file = file.trim_start_matches('[').split(']').next().unwrap();
        let plain = |text: &str| text.trim_matches('`').to_owned();
        Stop { who: who.to_owned(), file: file.to_owned(), function: plain(function), says: plain(says) }
    };
    rows.map(stop).collect()
}

#[test]
fn every_function_of_the_tour_is_where_it_says() {
    let stops = stops();
    assert!(stops.len() >= 10, "only {} stops", stops.len());
    for Stop { file, function, .. } in stops {
        let source = fs::read_to_string(root().join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(
            source.contains(&format!("fn {function}(")) || source.contains(&format!("fn {function}<")),
            "{file}: {function}"
        );
    }
}

/// The arrows of the picture, each in the table.
#[test]
fn every_arrow_of_the_picture_has_its_stop() {
    let page = fs::read_to_string(root().join("docs/explanation/tour.md")).unwrap();
    let (picture, table) = page.split_once("## Step by step").unwrap();
    let arrows: Vec<&str> = picture.lines().filter(|line| line.contains("->>")).map(str::trim).collect();
    assert_eq!(arrows.len(), 9);
    for arrow in arrows {
        // Those of the handshake stand by their number.
        let (_, words) = arrow.split_once(": ").unwrap();
        let wanted = if words.starts_with(|first: char| first.is_ascii_digit()) { words } else { arrow };
        assert!(table.contains(&format!("| {wanted} |")), "{arrow}");
    }
}

/// One call of a TCP app, and one that is read as HTTP.
#[rstest]
#[case::tcp("TCP")]
#[case::http("HTTP")]
fn a_call_is_logged_stop_by_stop(#[case] protocol: &str) {
    let Some(lab) = common::lab() else { return };
    let (client, server) = (lab.node("client").unwrap(), lab.node("server").unwrap());
    let ca = lab.ca(&["client", "server"], "").unwrap();
    let service = pillion_cli::lab::Service {
        protocol: protocol.to_owned(),
        ..pillion_cli::lab::Service::of("server", PORT, &[server.v4()])
    };
    lab.mesh().service(&service).unwrap();
    let listen = format!("0.0.0.0:{PORT}");
    let app = server.start_pillion("app", &["example", "backend", "--listen", &listen]).unwrap();
    app.wait_for_line(SOON, "listening on").unwrap();
    let a = Sidecar::new("client").start(&client, &ca).unwrap();
    let b = Sidecar::new("server").start(&server, &ca).unwrap();
    for sidecar in [&a, &b] {
        let url = format!("http://{}/logging?level=info,step=debug", sidecar.admin_address());
        sidecar.node().run("curl", &["--silent", "--fail", "--request", "POST", &url]).unwrap();
    }
    let address = SocketAddr::new(server.v4(), PORT);
    assert!(client.get(&format!("http://{address}/")).unwrap().is_success());
    a.wait_for_record(SOON, |record| record.tls.is_some()).unwrap();
    b.wait_for_record(SOON, |record| record.tls.is_some()).unwrap();

    let (log_of_a, log_of_b) = (messages(&a), messages(&b));
    let mut before = [0, 0];
    for Stop { who, says, file, .. } in stops() {
        let (log, at) = if who == "A" { (&log_of_a, 0) } else { (&log_of_b, 1) };
        let rest = &log[before[at]..];
        let found = rest.iter().position(|line| line.contains(&says));
        let found = found
            .unwrap_or_else(|| panic!("{who} ({file}) does not say {says:?} after:\n{}", log.join("\n")));
        before[at] += found;
    }
}

/// What a sidecar has said of steps and of the connection's end, in its order.
fn messages(sidecar: &RunningSidecar) -> Vec<String> {
    let output = sidecar.process().unwrap().output();
    let lines = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["target"] == "step" || line["target"] == "access")
        .filter_map(|line| line["message"].as_str().map(str::to_owned))
        .collect()
}
