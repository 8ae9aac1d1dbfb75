//! `pillion bench` from end to end, quick: that every cell is there, and orders that cannot wobble. Never how long anything took.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{PILLION, skip};
use pillion_cli::lab::Way;
use rstest::rstest;
use serde_json::Value;

/// What has no TLS of its own.
const FLOORS: [&str; 3] = ["relay", "splice", "relay-inbound"];

/// A user who may do nothing.
const NOBODY: u32 = 65_534;

/// What a run has printed and written.
struct Report(Value);

impl Report {
    /// As short as it goes: what is measured is not what is tested.
    fn of(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::by(Command::new(PILLION), folder.path(), arguments)
    }

    /// The same by somebody who is not root, where the test is.
    fn without_root(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        // Where the build is may be closed to them.
        let program = folder.path().join("pillion");
        if fs::hard_link(PILLION, &program).is_err() {
            fs::copy(PILLION, &program).unwrap();
        }
        let mut command = Command::new(program);
        if matches!(Way::here(), Ok(Way::Root)) {
            command.uid(NOBODY).gid(NOBODY);
        }
        Self::by(command, folder.path(), arguments)
    }

    fn by(mut command: Command, folder: &Path, arguments: &[&str]) -> Self {
        let out = folder.join("out");
        command.args(["bench", "--quick", "--rounds", "1", "--repeats", "0", "--time", "50ms", "--out"]);
        let output = command.arg(&out).args(arguments).output().unwrap();
        let report = Self::read(&output, &out);
        // What was measured is shown again without being measured.
        let again = Command::new(PILLION)
            .args(["bench", "--from"])
            .arg(out.join("results.json"))
            .arg("--out")
            .arg(folder.join("again"))
            .output()
            .unwrap();
        assert_eq!(Self::read(&again, &folder.join("again")).0, report.0);
        report
    }

    fn read(output: &Output, out: &Path) -> Self {
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(printed.contains("\nIn short\n"), "{printed}");
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
    let report = Report::without_root(&["handshake"]);
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
    for part in [
        "tls-full",
        "tls-resumed",
        "pillion-full",
        "pillion-full-default",
        "aead-seal",
        "peek",
        "client-hello",
        "policy-1000",
    ] {
        assert!(parts.contains(&part), "{part} is not among {parts:?}");
    }
}

/// Peers by files: HAProxy as it is described for all, under another name; and one that ends at once.
fn described(folder: &Path) -> [PathBuf; 2] {
    let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bench/peers/haproxy.yaml");
    let own = fs::read_to_string(known).unwrap().replace("name: haproxy", "name: of-a-file");
    let files = [folder.join("own.yaml"), folder.join("ends.yaml")];
    fs::write(&files[0], own).unwrap();
    fs::write(&files[1], "name: ends\ntitle: Ends\nprogram: 'false'\ninbound: {command: ['@program@']}\n")
        .unwrap();
    files
}

#[test]
fn every_contestant_that_is_here_answers_every_question() {
    match Way::here() {
        Ok(Way::Root) => {}
        other => return skip(&format!("the proxies need a user of their own: {other:?}")),
    }
    let folder = tempfile::tempdir().unwrap();
    let [own, ends] = described(folder.path());
    let files = ["--peer", own.to_str().unwrap(), "--peer", ends.to_str().unwrap()];
    let mut report = Report::of(&[&["path", "compare"], files.as_slice()].concat());
    let absent = report.0["absent"].take();
    let why = |name: &str| {
        let absent = absent.as_array().unwrap().iter().find(|absent| absent["name"] == name)?;
        Some(absent["why"].as_str().unwrap().to_owned())
    };
    assert!(why("ends").unwrap().starts_with("it did not start"), "{absent}");
    for foreign in ["envoy", "haproxy"] {
        if let Some(why) = why(foreign) {
            skip(&format!("{foreign} is not here: {why}"));
        }
    }
    let contestants: Vec<Value> = report.0["contestants"].as_array().unwrap().clone();
    let names: Vec<&str> =
        contestants.iter().map(|contestant| contestant["name"].as_str().unwrap()).collect();
    for name in ["direct", "relay", "splice", "pillion", "pillion-default"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    for name in ["envoy", "ztunnel", "haproxy", "nginx", "stunnel", "of-a-file"] {
        assert!(names.contains(&name) != why(name).is_some(), "{name} is neither here nor absent");
    }
    let proxies = || names.iter().filter(|name| !["direct", "pillion-default"].contains(name));
    let one_sided = |name: &str| ["relay-inbound", "pillion-permissive", "pillion-disable"].contains(&name);
    for name in proxies().filter(|name| !FLOORS.contains(name)) {
        report.figure("memory-start", name, "memoryInbound");
        // ztunnel's handshakes are of its tunnels.
        if one_sided(name) || *name == "ztunnel" {
            continue;
        }
        for id in ["inbound-full", "inbound-resumed", "inbound-full-rsa-2048"] {
            for figure in ["cpuProxies", "ofFloor", "rate", "p50", "bytesSent", "bytesReceived"] {
                report.figure(id, name, figure);
            }
        }
        let sent = |id| report.figure(id, name, "bytesSent");
        assert!(sent("inbound-full-rsa-2048") > sent("inbound-full"), "{name}");
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
    for name in ["pillion", "relay", "pillion-permissive", "pillion-disable"] {
        report.figure("round-trip-1000", name, "cpuProxies");
    }
    for figure in ["perConnectionInbound", "trafficInbound", "keptInbound"] {
        for name in ["pillion", "pillion-permissive", "pillion-disable"] {
            report.figure("idle-1000", name, figure);
        }
    }
    // One side only: nobody's time is counted at the client.
    for name in names.iter().filter(|name| one_sided(name)) {
        let cells = report.section("connection")["cells"].as_array().unwrap();
        let cell = cells.iter().find(|cell| cell["contestant"] == **name).unwrap();
        assert!(cell["figures"]["cpuOutbound"].is_null(), "{cell}");
    }
    report.figure("connection", "pillion-default", "ofFloor");
    assert!(!report.names("round-trip-1").contains(&"pillion-default"));
}

#[rstest]
#[case::no_file(None, "read ")]
#[case::key(Some("name: x\ntitle: X\ninbuond: {command: [x]}\n"), "peer.yaml:3:1: unknown field `inbuond`")]
#[case::value(Some("name: x\ntitle: X\ninbound: {command: ['@programm@']}\n"), "got @programm@")]
#[case::name(Some("name: envoy\ntitle: X\ninbound: {command: [x]}\n"), "one that no other contestant has")]
#[case::not_yaml(Some("name: ["), "peer.yaml:")]
fn a_peer_that_cannot_be_is_refused_before_anything_is_measured(
    #[case] text: Option<&str>,
    #[case] told: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("peer.yaml");
    if let Some(text) = text {
        fs::write(&file, text).unwrap();
    }
    let output = Command::new(PILLION)
        .args(["bench", "compare", "--quick", "--out"])
        .arg(folder.path())
        .arg("--peer")
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains(told), "{errors}");
    assert!(!folder.path().join("results.json").exists());
}

#[test]
fn what_is_no_earlier_run_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("results.json");
    fs::write(&file, "{}").unwrap();
    let output = Command::new(PILLION).args(["bench", "--from"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("expected a results.json of pillion bench"), "{errors}");
}
