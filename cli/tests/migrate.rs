//! The way to STRICT beside real sidecars: who comes in plaintext is named, a dry run tells whom it would refuse, and when
//! nobody comes without mutual TLS any more the port is safe to switch.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::process::Output;

use pillion_cli::lab::{Mesh, Node, wait_until};
use pillion_mesh::reason::Reason;
use serde_json::Value;

use common::http::ask;
use common::{ECONNRESET, Family, Interception, PORT, SOON, Stage, errno_of_call};

fn status(node: &Node, args: &[&str]) -> Output {
    node.pillion(&[&["migrate", "status"], args].concat()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The port of the service, for programs.
fn port(node: &Node, args: &[&str]) -> (Option<i32>, Value) {
    let output = status(node, &[args, &["-o", "json"]].concat());
    let answer: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), answer["workloads"][0]["ports"][0].clone())
}

#[test]
fn a_port_is_moved_to_strict_and_nobody_is_cut_off_unawares() {
    let Some(stage) = Stage::new() else { return };
    let service = stage.service(Family::V4);
    let _app = stage.app("backend", Family::V4.any());
    let (_client, server) = stage.sidecars(Interception::Redirect);
    let (code, nothing) = port(&stage.server, &[]);
    assert_eq!((code, &nothing["verdict"]), (Some(1), &Value::from("nothingSeen")), "{nothing}");

    // Watch.
    assert_eq!(ask(&stage.stranger, service, "GET", "/").unwrap().status, 200);
    assert_eq!(ask(&stage.client, service, "GET", "/").unwrap().status, 200);
    let watched = status(&stage.server, &[]);
    assert_eq!(watched.status.code(), Some(1), "{watched:?}");
    let stranger = format!("{} (stranger)", stage.stranger.v4());
    for part in [
        "8080  server:8080  PERMISSIVE  1     1",
        &format!("× give a sidecar first to {stranger}"),
        &format!("{stranger}: plaintext (GET /), once since "),
    ] {
        assert!(text(&watched.stdout).contains(part), "{part} in:\n{}", text(&watched.stdout));
    }

    // In dry run.
    let strict = Mesh::peer_authentication("server", Some("server"), "STRICT");
    let trial = strict.replace("metadata:\n", "metadata:\n  annotations: {istio.io/dry-run: 'true'}\n");
    assert_ne!(trial, strict);
    stage.lab.mesh().write("policy.yaml", &trial).unwrap();
    let known = |page: &Value| page.to_string().contains("\"shadow\":{");
    server.wait_for_page(SOON, "/listeners", "the dry run", known).unwrap();
    assert_eq!(ask(&stage.stranger, service, "GET", "/").unwrap().status, 200);
    let metrics = server.admin("/stats/prometheus").unwrap().body;
    assert!(
        metrics.contains("pillion_shadow_refused_total{reason=\"strict_plaintext\",port=\"8080\"} 1"),
        "{metrics}"
    );
    let record =
        server.wait_for_record(SOON, |record| record.mode.as_ref().is_some_and(|mode| mode.shadow.is_some()));
    let shadow = record.unwrap().mode.unwrap().shadow.unwrap();
    assert_eq!(shadow.refused, Some(Reason::StrictPlaintext));
    assert!(shadow.because.contains("default/server"), "{shadow:?}");
    let described = text(&stage.server.pillion(&["describe"]).output().unwrap().stdout);
    assert!(described.contains("in dry run: STRICT by PeerAuthentication default/server"), "{described}");
    assert!(text(&status(&stage.server, &[]).stdout).contains("STRICT refuses 1"));

    // The stranger comes no more.
    wait_until(SOON, "the port to be safe to switch", || {
        assert_eq!(ask(&stage.client, service, "GET", "/").unwrap().status, 200);
        let (code, port) = port(&stage.server, &["--since", "500ms"]);
        Ok((code == Some(0) && port["verdict"] == "safe").then_some(()))
    })
    .unwrap();
    assert_eq!(status(&stage.server, &[]).status.code(), Some(1), "since the proxy began it is not");

    // In force.
    stage.lab.mesh().write("policy.yaml", &strict).unwrap();
    server.wait_for_mode(SOON, PORT, "STRICT").unwrap();
    assert_eq!(errno_of_call(&stage.stranger, service), Some(ECONNRESET));
    assert_eq!(ask(&stage.client, service, "GET", "/").unwrap().status, 200);
    let (code, port) = port(&stage.server, &[]);
    assert_eq!(
        (code, &port["verdict"], &port["refused"]["connections"]),
        (Some(0), &Value::from("strict"), &Value::from(1))
    );
    assert!(port["verdictBecause"].as_str().unwrap().contains(&format!("cuts off {stranger}")), "{port}");
}
