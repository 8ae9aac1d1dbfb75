//! `pillion check` beside real sidecars: a mesh in which all is well, by a capture and by records, and one planted fault after
//! the other.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pillion_cli::lab::{Node, RunningSidecar, Service, Sidecar};
use pillion_mesh::check::{Check, Kind, Outcome, Report};

use common::http::ask;
use common::{Family, PORT, SOON, Stage};

/// From the client's host, so that its sidecar is asked on loopback and the server's by its name.
const BOTH: [&str; 5] = ["check", "--proxy", "127.0.0.1:15000", "--proxy", "server:15000"];

fn run(node: &Node, args: &[&str]) -> Output {
    node.pillion(&[&BOTH, args].concat()).output().unwrap()
}

fn report(node: &Node, args: &[&str]) -> (Option<i32>, Report) {
    let output = run(node, &[args, &["-o", "json"]].concat());
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), report)
}

/// Once, by the records.
fn judged(node: &Node) -> (Option<i32>, Report) {
    report(node, &["--by-records", "--wait", "1ms"])
}

fn worst(report: &Report, kind: Kind) -> &Check {
    let of_kind = report.checks.iter().filter(|check| check.id == kind);
    of_kind.max_by_key(|check| check.outcome).unwrap_or_else(|| panic!("{kind} is not in\n{report}"))
}

/// A sidecar whose admin API the whole lab can ask.
fn sidecar(name: &str, node: &Node, stage: &Stage) -> RunningSidecar {
    let sidecar = Sidecar::new(name).rules(&["-d", "15000"]);
    sidecar.args(&["--admin-address", "0.0.0.0:15000"]).start(node, &stage.ca).unwrap()
}

#[test]
fn a_mesh_is_checked_and_each_planted_fault_is_found() {
    let Some(stage) = Stage::new() else { return };
    let service = stage.service(Family::V4);
    let _app = stage.app("backend", Family::V4.any());
    let (client, mut server) =
        (sidecar("client", &stage.client, &stage), sidecar("server", &stage.server, &stage));

    let (code, nothing_yet) = judged(&stage.client);
    assert_eq!(code, Some(0), "{nothing_yet}");
    assert!(worst(&nothing_yet, Kind::EdgeSecured).told.contains("nothing is proved"), "{nothing_yet}");

    let call = || assert_eq!(ask(&stage.client, service, "GET", "/").unwrap().status, 200);
    call();
    let (code, good) = judged(&stage.client);
    assert_eq!((code, good.outcome), (Some(0), Outcome::Passed), "{good}");
    let link = &worst(&good, Kind::LinkSecured).told;
    assert!(
        link.starts_with("client -> server: 0 plaintext bytes of ")
            && link.contains("by the records of both ends (1 connection"),
        "{link}"
    );
    let text = String::from_utf8(run(&stage.client, &["--by-records"]).stdout).unwrap();
    assert!(text.contains("√ the rules of client are installed") && text.contains("checks passed"), "{text}");

    heard_on_the_wire(&stage, &call);

    // A folder that cannot be loaded.
    stage.lab.mesh().write("broken.yaml", "kind: PeerAuthentication\n").unwrap();
    server
        .wait_for_page(SOON, "/config_dump", "the fault", |page| !page["policy"]["lastError"].is_null())
        .unwrap();
    let (code, broken) = judged(&stage.client);
    assert_eq!((code, worst(&broken, Kind::PolicyLoaded).outcome), (Some(1), Outcome::Failed), "{broken}");
    assert!(worst(&broken, Kind::PolicyLoaded).told.contains("broken.yaml"), "{broken}");
    stage.lab.mesh().remove("broken.yaml").unwrap();
    // It asks again while something fails.
    let (code, mended) = report(&stage.client, &["--by-records", "--wait", "15s"]);
    assert_eq!(code, Some(0), "{mended}");

    // The rules are gone.
    client.clean_rules().unwrap();
    let (code, bare) = judged(&stage.client);
    assert_eq!((code, worst(&bare, Kind::TrafficCaptured).outcome), (Some(1), Outcome::Failed), "{bare}");
    client.apply_rules().unwrap();

    // Two with sidecars that talk in plaintext: the endpoint is not known to have one.
    let service_of_server = Service::of("server", PORT, &[stage.server.v4(), stage.server.v6()]);
    stage.lab.mesh().service(&Service { has_sidecar: false, ..service_of_server }).unwrap();
    let plain = |page: &serde_json::Value| {
        page["endpoints"].as_array().is_some_and(|all| all.iter().all(|it| it["hasSidecar"] == false))
    };
    client.wait_for_page(SOON, "/endpoints", "the endpoint without a sidecar", plain).unwrap();
    call();
    let (code, open) = judged(&stage.client);
    let link = worst(&open, Kind::LinkSecured);
    assert_eq!((code, link.outcome), (Some(1), Outcome::Failed), "{open}");
    assert!(
        !link.told.contains(": 0 plaintext") && link.told.contains("1 of them plaintext"),
        "{}",
        link.told
    );
    assert_eq!(link.hint.as_deref(), Some("docs/reference/checks.md#link_secured"));

    // A proxy that is gone.
    server.kill();
    let (code, gone) = judged(&stage.client);
    assert_eq!((code, worst(&gone, Kind::ProxyAnswers).outcome), (Some(1), Outcome::Failed), "{gone}");
    assert!(worst(&gone, Kind::ProxyAnswers).told.starts_with("http://server:15000: "), "{gone}");
    assert_eq!(worst(&gone, Kind::ProxyReady).outcome, Outcome::Passed, "the other one answers\n{gone}");
}

/// While there is traffic, root hears on the client's host that it is encrypted.
fn heard_on_the_wire(stage: &Stage, call: &(impl Fn() + Sync)) {
    let done = AtomicBool::new(false);
    let (code, heard) = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                call();
            }
        });
        let heard = report(&stage.client, &["--listen", "500ms", "--wait", "1ms"]);
        done.store(true, Ordering::Relaxed);
        heard
    });
    let link = worst(&heard, Kind::LinkSecured);
    assert_eq!((code, link.outcome), (Some(0), Outcome::Passed), "{heard}");
    let told = &link.told;
    assert!(
        told.starts_with("client -> server: 0 plaintext bytes of ")
            && told.ends_with("by a capture in the network of client"),
        "{told}"
    );
}
