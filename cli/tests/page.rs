//! The web page before a real mesh, in a real browser: `page/look.mjs` clicks through it and asserts what a person would see.
//!
//! Needs Node.js, a Chromium (`PILLION_TEST_CHROMIUM`, else `chromium` on the PATH) and, in the folder `PILLION_TEST_PAGE`, what
//! `page/package.json` names: `npm ci --prefix FOLDER`. What is missing skips the test with a message, and fails it under CI.
//! Screenshots are put into target/page.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pillion_cli::lab::{Node, Process, RunningSidecar, Service, Sidecar, run};
use pillion_mesh::reason::Reason;

use common::http::ask;
use common::{ECONNRESET, Family, PILLION, PORT, SOON, Stage, errno_of_call, skip};

/// A second port of the server, which takes plaintext still.
const OLD_PORT: u16 = 8081;

/// Everybody who proves who it is may read, and nothing else.
const POLICIES: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: server}
spec:
  selector: {matchLabels: {app: server}}
  mtls: {mode: STRICT}
  portLevelMtls: {8081: {mode: PERMISSIVE}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: read-only}
spec:
  selector: {matchLabels: {app: server}}
  rules:
  - {from: [{source: {principals: ['*']}}], to: [{operation: {methods: [GET]}}]}
  - {to: [{operation: {ports: ['8081']}}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: old}
spec:
  hosts: [old]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 8081, name: tcp, protocol: TCP}]
  workloadSelector: {labels: {app: server}}
";

/// A path that would like to be code.
const HOSTILE_PATH: &str = "/';document.title='owned';'";
/// One that would like to be markup.
const HOSTILE: &str = "/<img/src=x/onerror=document.title='owned'>";

struct Browser {
    modules: PathBuf,
    chromium: PathBuf,
}

/// What is needed, or none with a message.
fn browser() -> Option<Browser> {
    let Some(modules) = std::env::var_os("PILLION_TEST_PAGE").map(PathBuf::from) else {
        skip("PILLION_TEST_PAGE names no folder with what cli/tests/page/package.json asks for");
        return None;
    };
    let which = |name: &str| {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", name]).output().ok()?;
        found.status.success().then(|| PathBuf::from(String::from_utf8(found.stdout).unwrap().trim()))
    };
    if which("node").is_none() || !modules.join("node_modules/playwright-core").is_dir() {
        skip(&format!("there is no node, or no playwright-core in {}", modules.display()));
        return None;
    }
    let given = std::env::var_os("PILLION_TEST_CHROMIUM").map(PathBuf::from);
    let Some(chromium) = given.or_else(|| which("chromium")) else {
        skip("there is no chromium");
        return None;
    };
    Some(Browser { modules, chromium })
}

fn folder() -> PathBuf {
    let target =
        Path::new(PILLION).ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "target"));
    target.unwrap_or(Path::new("target")).join("page")
}

/// A sidecar whose admin API the whole lab can ask.
fn sidecar(name: &str, node: &Node, stage: &Stage) -> RunningSidecar {
    let sidecar = Sidecar::new(name).rules(&["-d", "15000"]);
    let args = ["--admin-address", "0.0.0.0:15000", "--detection-timeout", "1s", "--admin-capture", "true"];
    sidecar.args(&args).start(node, &stage.ca).unwrap()
}

impl Browser {
    /// Runs a scene of the script in `node`, before the page at `url`.
    fn look(&self, node: &Node, scene: &str, url: &str, facts: &serde_json::Value) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/look.mjs");
        let mut command = node.command("node", &[script.to_str().unwrap(), scene, url, &facts.to_string()]);
        command
            .env("PLAYWRIGHT_CORE", self.modules.join("node_modules/playwright-core/index.mjs"))
            .env("CHROMIUM", &self.chromium)
            .env("PICTURES", folder());
        print!("{}", run(command).unwrap_or_else(|error| panic!("{scene}: {error}")));
    }
}

/// Talks over a connection until it is dropped.
fn talk(node: &Node, to: SocketAddr) -> std::net::TcpStream {
    let mut stream = node.dial(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: server\r\n\r\n").unwrap();
    let _ = stream.read(&mut [0; 1024]).unwrap();
    stream
}

/// The connection of which plaintext was kept; no log has it.
fn captured(server: &RunningSidecar) -> u64 {
    let of = |page: &serde_json::Value| {
        let all = page["connections"].as_array()?;
        let kept = |record: &&serde_json::Value| {
            record["wire"]["app"]["toClient"].as_str().is_some_and(|bytes| !bytes.is_empty())
                && !record["tls"].is_null()
        };
        all.iter().find(kept)?["id"].as_u64()
    };
    let what = "a connection with its plaintext";
    let id = std::cell::Cell::new(None);
    let known = |page: &serde_json::Value| {
        id.set(of(page));
        id.get().is_some()
    };
    server.wait_for_page(SOON, "/connections?state=ended", what, known).unwrap();
    id.get().unwrap()
}

fn echo(stage: &Stage) -> Process {
    let listen = format!("0.0.0.0:{OLD_PORT}");
    let app = stage.server.start_pillion("echo", &["example", "echo", "--listen", &listen]).unwrap();
    app.wait_for_line(SOON, "listening on").unwrap();
    app
}

#[test]
fn a_person_sees_in_the_browser_what_the_mesh_does() {
    let Some(browser) = browser() else { return };
    let Some(stage) = Stage::new() else { return };
    let service = stage.service(Family::V4);
    let old = SocketAddr::new(service.ip(), OLD_PORT);
    let _apps = (stage.app("backend", Family::V4.any()), echo(&stage));
    let http = Service::of("server", PORT, &[stage.server.v4()]);
    stage.lab.mesh().service(&Service { protocol: "HTTP".to_owned(), ..http }).unwrap();
    stage.lab.mesh().write("policy.yaml", POLICIES).unwrap();
    let (client, server) =
        (sidecar("client", &stage.client, &stage), sidecar("server", &stage.server, &stage));
    server.wait_for_mode(SOON, PORT, "STRICT").unwrap();

    // A request that is let in, one that is denied, plaintext that is taken, and plaintext that is refused.
    assert_eq!(ask(&stage.client, service, "GET", "/").unwrap().status, 200);
    assert_eq!(ask(&stage.client, service, "DELETE", HOSTILE_PATH).unwrap().status, 403);
    let _open = talk(&stage.client, service);
    let capture =
        stage.server.enter(|| pillion_cli::http::post("http://127.0.0.1:15000/capture?for=60s", SOON));
    assert!(capture.unwrap().unwrap().is_success());
    assert_eq!(ask(&stage.client, service, "GET", "/captured").unwrap().status, 200);
    common::echoes(&stage.stranger, old).unwrap();
    let hostile = stage.stranger.dial(service).and_then(|mut stream| {
        stream.write_all(format!("GET {HOSTILE} HTTP/1.1\r\nHost: server\r\n\r\n").as_bytes())?;
        stream.read(&mut [0; 64])
    });
    assert_eq!(hostile.unwrap_err().raw_os_error(), Some(ECONNRESET));
    let refused =
        server.wait_for_record(SOON, |record| record.reason == Some(Reason::StrictPlaintext)).unwrap();
    let mutual = client.wait_for_record(SOON, |record| record.tls.is_some()).unwrap();
    let captured = captured(&server);

    let dashboard = stage.stranger.start_pillion(
        "dashboard",
        &[
            "dashboard",
            "--proxy",
            "http://client:15000",
            "--proxy",
            "server:15000",
            "--listen",
            "127.0.0.1:15080",
        ],
    );
    let dashboard = dashboard.unwrap();
    dashboard.wait_for_line(SOON, "the mesh is at http://127.0.0.1:15080/").unwrap();
    dashboard.wait_for_line(SOON, "http://server:15000 answers").unwrap();
    dashboard.wait_for_line(SOON, "http://client:15000 answers").unwrap();
    let facts = serde_json::json!({
        "stranger": stage.stranger.v4().to_string(), "hostile": HOSTILE, "hostilePath": HOSTILE_PATH, "refused": refused.id, "mutual": mutual.id, "captured": captured,
        "policies": stage.lab.folder().join("mesh/policy.yaml"), "server": service.to_string(), "old": old.to_string(),
    });
    browser.look(&stage.stranger, "mesh", "http://127.0.0.1:15080/", &facts);

    // The page of one sidecar, from its own admin API.
    assert_eq!(errno_of_call(&stage.stranger, service), Some(ECONNRESET));
    browser.look(&stage.server, "one", "http://127.0.0.1:15000/", &facts);

    // One that is gone is told of, and takes nothing from the other.
    drop(server);
    dashboard.wait_for_line(SOON, "http://server:15000: ").unwrap();
    browser.look(&stage.stranger, "down", "http://127.0.0.1:15080/", &facts);

    dashboard.terminate().unwrap();
    assert_eq!(dashboard.wait(SOON).unwrap().code(), Some(0));
}

#[test]
fn a_dashboard_that_cannot_be_says_what_to_do() {
    let output = |args: &[&str]| Command::new(PILLION).arg("dashboard").args(args).output().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (args, code, parts) in [
        (&["--listen", "0.0.0.0:15080"][..], 2, &["not on loopback", "ssh -L"][..]),
        (&["--listen", &taken], 1, &["another dashboard", "127.0.0.1:0"]),
        (&["--proxy", "https://web:15000"], 2, &["http://HOST:PORT"]),
    ] {
        let seen = output(args);
        let told = String::from_utf8(seen.stderr).unwrap();
        assert_eq!(seen.status.code(), Some(code), "{args:?}: {told}");
        for part in parts {
            assert!(told.contains(part), "{args:?}: {part} in:\n{told}");
        }
    }
}
