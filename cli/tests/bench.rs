//! `pillion bench` from end to end, quick: that every cell is there, and orders that cannot wobble. Never how long anything took.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::process::Command;

use common::{PILLION, skip};
use pillion_cli::lab::Way;
use serde_json::Value;

/// What has no TLS of its own.
const FLOORS: [&str; 3] = ["relay", "splice", "relay-inbound"];

struct Report(Value);

impl Report {
    fn of(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let output = Command::new(PILLION)
            .args(["bench", "--quick", "--rounds", "1", "--out"])
            .arg(&out)
            .args(arguments)
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
        let results = serde_json::from_slice(&fs::read(out.join("results.json")).unwrap()).unwrap();
        let page = fs::read_to_string(out.join("report.html")).unwrap();
        let report = Self(results);
        for section in report.0["sections"].as_array().unwrap() {
            let title = section["title"].as_str().unwrap();
            assert!(printed.contains(title) && page.contains(title), "{title} is not shown");
        }
        report
    }

    fn section(&self, id: &str) -> &Value {
        let sections = self.0["sections"].as_array().unwrap();
        sections.iter().find(|section| section["id"] == id).unwrap_or_else(|| panic!("no section {id}"))
    }

    fn names(&self, id: &str) -> Vec<&str> {
        let cells = self.section(id)["cells"].as_array().unwrap();
        cells.iter().map(|cell| cell["contestant"].as_str().unwrap()).collect()
    }

    fn figure(&self, id: &str, contestant: &str, figure: &str) -> f64 {
        let cells = self.section(id)["cells"].as_array().unwrap();
        let cell = cells.iter().find(|cell| cell["contestant"] == contestant).unwrap();
        let median = cell["figures"][figure]["median"].as_f64();
        median.unwrap_or_else(|| panic!("{id}, {contestant}: no {figure}: {cell:#}"))
    }
}

#[test]
fn a_handshake_is_taken_apart_without_root_too() {
    let report = Report::of(&["handshake"]);
    let bytes = |variation| {
        report.figure("handshake", variation, "bytesSent")
            + report.figure("handshake", variation, "bytesReceived")
    };
    for variation in report.names("handshake").into_iter().filter(|variation| *variation != "plaintext") {
        for figure in ["cpuServer", "cpuClient", "rate", "p50"] {
            assert!(report.figure("handshake", variation, figure) > 0.0, "{variation}: {figure}");
        }
    }
    for (more, less) in [
        ("usual", "server-only"),
        ("usual", "resumed"),
        ("rsa-2048", "usual"),
        ("rsa-4096", "rsa-2048"),
        ("p384", "usual"),
        ("x25519mlkem768", "usual"),
        ("chain-2", "usual"),
        ("chain-3", "chain-2"),
        ("tls-1.2", "tls-1.2-resumed"),
        ("tls-1.2", "tls-1.2-server-only"),
    ] {
        assert!(bytes(more) > bytes(less), "{more} does not send more than {less}");
    }
    let parts = report.names("parts");
    for part in
        ["tls-full", "tls-resumed", "pillion-full", "aead-seal", "peek", "client-hello", "policy-1000"]
    {
        assert!(parts.contains(&part), "{part} is not among {parts:?}");
    }
}

#[test]
fn every_contestant_that_is_here_answers_every_question() {
    match Way::here() {
        Ok(Way::Root) => {}
        other => return skip(&format!("the proxies need a user of their own: {other:?}")),
    }
    let mut report = Report::of(&["compare"]);
    let absent = report.0["absent"].take();
    let is_absent = |name: &str| absent.as_array().unwrap().iter().any(|absent| absent["name"] == name);
    if is_absent("envoy") {
        skip(&format!("Envoy is not here: {absent}"));
    }
    let contestants: Vec<Value> = report.0["contestants"].as_array().unwrap().clone();
    let names: Vec<&str> =
        contestants.iter().map(|contestant| contestant["name"].as_str().unwrap()).collect();
    for name in ["direct", "relay", "splice", "pillion"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    for name in ["envoy", "haproxy", "nginx", "stunnel"] {
        assert!(names.contains(&name) != is_absent(name), "{name} is neither here nor absent");
    }
    let proxies = || names.iter().filter(|name| **name != "direct");
    for name in proxies().filter(|name| !FLOORS.contains(name)) {
        for id in ["inbound-full", "inbound-resumed", "inbound-full-rsa-2048"] {
            for figure in ["cpuProxies", "ofFloor", "rate", "p50", "bytesSent", "bytesReceived"] {
                report.figure(id, name, figure);
            }
        }
        let sent = |id| report.figure(id, name, "bytesSent");
        assert!(sent("inbound-full-rsa-2048") > sent("inbound-full"), "{name}");
        report.figure("memory-start", name, "memoryInbound");
    }
    for name in proxies() {
        for id in ["connection", "round-trip-1", "round-trip-32"] {
            for figure in ["cpuProxies", "ofFloor", "rate", "p50", "addedP50"] {
                report.figure(id, name, figure);
            }
        }
        report.figure("fixed-rate", name, "p50");
        for id in ["bulk-to-app-1", "bulk-to-app-8", "bulk-from-app-1", "bulk-from-app-8"] {
            for figure in ["nsPerByteProxies", "throughput"] {
                report.figure(id, name, figure);
            }
        }
    }
    for name in ["pillion", "relay"] {
        report.figure("round-trip-1000", name, "cpuProxies");
    }
    report.figure("idle-1000", "pillion", "perConnectionInbound");
}

#[test]
fn a_peer_that_cannot_be_read_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("peer.yaml");
    fs::write(&file, "name: x\ntitle: X\ninbuond: {command: [x]}\n").unwrap();
    let output =
        Command::new(PILLION).args(["bench", "path", "--quick", "--peer"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("peer.yaml:3:1: unknown field `inbuond`"), "{errors}");
}
