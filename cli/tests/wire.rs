//! `pillion wire` beside real sidecars: one request, by the records of both and as root hears it.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pillion_cli::lab::{Node, RunningSidecar, Sidecar, wait_until};
use pillion_cli::wiretap::contains;
use pillion_mesh::crossing::{Crossing, Heard};

use common::http::ask;
use common::{CLIENT_ID, Family, SERVER_ID, SOON, Stage};

fn wire(node: &Node, args: &[&str]) -> Output {
    node.pillion(&[&["wire"], args].concat()).output().unwrap()
}

fn crossing(node: &Node, args: &[&str]) -> Crossing {
    let output = wire(node, &[args, &["-o", "json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A sidecar whose admin API the whole lab can ask.
fn sidecar(name: &str, node: &Node, stage: &Stage) -> RunningSidecar {
    let sidecar = Sidecar::new(name).rules(&["-d", "15000"]);
    sidecar.args(&["--admin-address", "0.0.0.0:15000"]).start(node, &stage.ca).unwrap()
}

#[test]
fn one_request_is_shown_on_its_three_legs() {
    let Some(stage) = Stage::new() else { return };
    let service = stage.service(Family::V4);
    let _app = stage.app("backend", Family::V4.any());
    let _sidecars = (sidecar("client", &stage.client, &stage), sidecar("server", &stage.server, &stage));

    let nothing = wire(&stage.stranger, &["client", "server"]);
    assert_eq!(nothing.status.code(), Some(1), "{nothing:?}");
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("Send a request"), "{nothing:?}");

    // By records, from a host that is neither; the end may reach one record before the other.
    assert_eq!(ask(&stage.client, service, "GET", "/orders").unwrap().status, 200);
    let told = wait_until(SOON, "both ends to have ended", || {
        let told = crossing(&stage.stranger, &["client", "server"]);
        Ok((told.outbound.reason.is_some() && told.inbound.reason.is_some()).then_some(told))
    });
    let told = told.unwrap();
    let [app, mesh, own] = &told.legs;
    assert!(mesh.secured && mesh.carries.contains(CLIENT_ID) && mesh.carries.contains(SERVER_ID), "{told}");
    assert_eq!(mesh.from, told.outbound.dialled_from);
    assert_eq!(
        (app.bytes_to_server, app.bytes_to_client),
        (own.bytes_to_server, own.bytes_to_client),
        "{told}"
    );
    assert!(own.from.is_some_and(|from| from.ip() == Family::V4.sidecar_source()), "{told}");
    let by_name = ["client", "server", "--proxy", "http://server:15000", "--proxy", "http://client:15000"];
    assert_eq!(crossing(&stage.stranger, &by_name).outbound.id, told.outbound.id);

    heard_on_the_network(&stage);

    // The other way round, somebody unknown, nobody there.
    let back = wire(&stage.stranger, &["server", "client"]);
    assert!(String::from_utf8_lossy(&back.stderr).contains("ask the other way round"), "{back:?}");
    let unknown = wire(&stage.stranger, &["web", "server", "--proxy", "client:15000"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    let silent = wire(&stage.stranger, &["127.0.0.1:1", "server"]);
    assert_eq!(silent.status.code(), Some(1), "{silent:?}");
    assert!(String::from_utf8_lossy(&silent.stderr).contains("is the proxy running"), "{silent:?}");
}

/// In the client's network namespace: plaintext between app and sidecar, and none of it between the sidecars.
fn heard_on_the_network(stage: &Stage) {
    let done = AtomicBool::new(false);
    let heard = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(
                    ask(&stage.client, stage.service(Family::V4), "GET", "/secret").unwrap().status,
                    200
                );
            }
        });
        let heard = crossing(&stage.client, &["127.0.0.1:15000", "server:15000", "--capture", "500ms"]);
        done.store(true, Ordering::Relaxed);
        heard
    });
    let [app, mesh, _] = &heard.legs;
    assert_eq!((app.heard, mesh.heard), (Some(Heard::OnTheNetwork), Some(Heard::OnTheNetwork)), "{heard}");
    assert_eq!(app.carries, "plaintext: GET /secret");
    assert!(contains(&app.passed.as_ref().unwrap().to_server, b"/secret"), "{heard}");
    let on_the_wire = mesh.passed.as_ref().unwrap();
    assert!(!on_the_wire.to_server.is_empty() && !contains(&on_the_wire.to_server, b"secret"), "{heard}");
    assert!(heard.to_string().contains("heard on the network here"), "{heard}");
}
