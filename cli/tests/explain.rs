//! `pillion explain` and `pillion edges` beside real sidecars: a stranger's plaintext at a STRICT port, a request that a
//! policy denies, and who talks to whom as both ends tell it.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::net::SocketAddr;
use std::process::{Command, Output};

use pillion_cli::lab::{Mesh, Node, RunningSidecar, Service, Sidecar, wait_until};
use pillion_mesh::edges::{Edges, End, Secured};
use pillion_mesh::explain::{About, Story};
use pillion_mesh::reason::Reason;
use serde::de::DeserializeOwned;

use common::http::ask;
use common::{CLIENT_ID, ECONNRESET, Family, PILLION, PORT, SERVER_ID, SOON, Stage, errno_of_call};

/// Everybody who proves who it is may read, and nothing else.
const READ_ONLY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: read-only}
spec:
  selector: {matchLabels: {app: server}}
  rules: [{from: [{source: {principals: ['*']}}], to: [{operation: {methods: [GET]}}]}]
";

fn run(node: &Node, args: &[&str]) -> Output {
    node.pillion(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json<T: DeserializeOwned>(node: &Node, args: &[&str]) -> T {
    let output = run(node, &[args, &["-o", "json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}"))
}

/// A sidecar whose admin API the whole lab can ask.
fn sidecar(name: &str, node: &Node, stage: &Stage) -> RunningSidecar {
    let sidecar = Sidecar::new(name).rules(&["-d", "15000"]);
    let capture = if name == "server" { "true" } else { "false" };
    let args = ["--admin-address", "0.0.0.0:15000", "--admin-capture", capture];
    sidecar.args(&args).start(node, &stage.ca).unwrap()
}

#[test]
fn a_person_who_sees_a_reset_finds_the_cause_and_the_cure_with_one_command() {
    let Some(stage) = Stage::new() else { return };
    let service = stage.service(Family::V4);
    let _app = stage.app("backend", Family::V4.any());
    let http = Service::of("server", PORT, &[stage.server.v4()]);
    stage.lab.mesh().service(&Service { protocol: "HTTP".to_owned(), ..http }).unwrap();
    let (client, server) =
        (sidecar("client", &stage.client, &stage), sidecar("server", &stage.server, &stage));
    let nothing = run(&stage.server, &["explain", "--last-refused"]);
    assert_eq!(nothing.status.code(), Some(1), "{nothing:?}");
    assert!(text(&nothing.stderr).contains("nothing was refused here in the last hour"), "{nothing:?}");

    // A stranger's plaintext, before it is refused and after.
    assert_eq!(ask(&stage.stranger, service, "GET", "/").unwrap().status, 200);
    let policies = format!("{}---{READ_ONLY}", Mesh::peer_authentication("server", Some("server"), "STRICT"));
    stage.lab.mesh().write("policy.yaml", &policies).unwrap();
    server.wait_for_mode(SOON, PORT, "STRICT").unwrap();
    assert_eq!(errno_of_call(&stage.stranger, service), Some(ECONNRESET));
    let refused =
        server.wait_for_record(SOON, |record| record.reason == Some(Reason::StrictPlaintext)).unwrap();

    let told = text(&run(&stage.server, &["explain", "--last-refused"]).stdout);
    for part in [
        "inbound, refused: strict_plaintext",
        &format!("√ client                 {}, no identity is proved", refused.client),
        "port 8080 is STRICT by PeerAuthentication default/server",
        "plaintext: GET /\n",
        "cure: Give the client a sidecar, or make an exception for the port: PERMISSIVE in portLevelMtls.",
    ] {
        assert!(told.contains(part), "{part} in:\n{told}");
    }
    for which in [refused.id.to_string(), refused.client.to_string(), refused.client.ip().to_string()] {
        let story: Story = json(&stage.server, &["explain", &which]);
        assert_eq!(story.connection, refused, "{which}");
    }

    // A request that is denied, on a connection that is let in.
    let denied = ask(&stage.client, service, "DELETE", "/orders").unwrap_or_else(|error| {
        let [of_client, of_server] = [&stage.client, &stage.server]
            .map(|node| text(&run(node, &["explain", "--last-refused"]).stdout));
        panic!("{error}\n{of_client}\n{of_server}")
    });
    assert_eq!((denied.status, denied.body.as_str()), (403, "RBAC: access denied"));
    // The client may have its answer before the proxy has written the request down.
    let story = wait_until(SOON, "the story of the denied request", || {
        let story: Story = json(&stage.server, &["explain", "--last-refused"]);
        Ok((!story.refused_requests.is_empty()).then_some(story))
    });
    let story = story.unwrap();
    let failed: Vec<_> = story.steps.iter().filter(|step| !step.passed).collect();
    assert_eq!(failed[0].about, About::Request, "{story}");
    assert!(failed[0].told.starts_with("DELETE ") && failed[0].told.contains("/orders: 403, "), "{story}");
    assert_eq!(story.cure.as_deref(), Some(Reason::AuthorizationDenied.cure()));
    assert_eq!(story.connection.tls.as_ref().unwrap().peer, CLIENT_ID);

    plaintext_is_shown_once_it_is_asked_for(&stage, service);
    assert_eq!(ask(&stage.client, service, "GET", "/").unwrap().status, 200);
    edges_are_told_once(&stage, [&client, &server]);
}

/// Where the settings allow it; of the wire there is always something to see, which tells nothing.
fn plaintext_is_shown_once_it_is_asked_for(stage: &Stage, service: SocketAddr) {
    let forbidden = run(&stage.client, &["capture", "--for", "1m"]);
    assert_eq!(forbidden.status.code(), Some(1), "{forbidden:?}");
    assert!(text(&forbidden.stderr).contains("admin.capture"), "{forbidden:?}");
    let on = text(&run(&stage.server, &["capture", "--for", "1m"]).stdout);
    assert!(on.contains("the first 256 bytes each way of up to 500 new connections"), "{on}");
    assert_eq!(ask(&stage.client, service, "GET", "/secret").unwrap().status, 200);
    let client = stage.client.v4().to_string();
    let story = wait_until(SOON, "the story of the captured connection", || {
        let story: Story = json(&stage.server, &["explain", &client]);
        let has_ended = story.connection.reason.is_some();
        Ok((has_ended && story.connection.wire.as_ref().is_some_and(|wire| wire.app.is_some()))
            .then_some(story))
    });
    let told = text(&run(&stage.server, &["explain", &story.unwrap().connection.id.to_string()]).stdout);
    assert!(told.contains("√ wire                   ciphertext to the server 170303"), "{told}");
    assert!(told.contains("plaintext of the app to the server \"GET /secret HTTP/1.1\\r\\n"), "{told}");
    let off = text(&run(&stage.server, &["capture", "--stop"]).stdout);
    assert_eq!(off, "no plaintext is kept of new connections\n");
}

/// Asked from a host that is neither end.
fn edges_are_told_once(stage: &Stage, sidecars: [&RunningSidecar; 2]) {
    let [client, server] = sidecars.map(|sidecar| format!("{}:15000", sidecar.node().name()));
    let both = ["edges", "--proxy", &client, "--proxy", &format!("http://{server}")];
    // The end of a connection may reach one proxy before the other.
    let seen = wait_until(SOON, "the edge of both ends", || {
        let seen: Edges = json(&stage.stranger, &both);
        let whole = seen.edges.iter().any(|edge| edge.seen_from.len() == 2);
        Ok(whole.then_some(seen))
    });
    let seen = seen.unwrap();
    let mutual: Vec<_> = seen.edges.iter().filter(|edge| edge.secured == Secured::MutualTls).collect();
    let [edge] = &mutual[..] else { panic!("{seen}") };
    assert_eq!((edge.client_id.as_deref(), edge.server_id.as_deref()), (Some(CLIENT_ID), Some(SERVER_ID)));
    assert_eq!((edge.src.as_str(), edge.dst.as_str()), ("client", "server"));
    let stranger = stage.stranger.v4().to_string();
    for (secured, reason) in [(Secured::No, "PERMISSIVE by "), (Secured::Refused, "strict_plaintext")] {
        let of_stranger = |edge: &&pillion_mesh::edges::Edge| edge.src == stranger && edge.secured == secured;
        let edge = seen.edges.iter().find(of_stranger).unwrap_or_else(|| panic!("{secured:?} in:\n{seen}"));
        assert!(edge.reason.starts_with(reason) && edge.seen_from.contains(&End::Destination), "{edge:?}");
    }

    let table = text(&run(&stage.stranger, &both).stdout);
    let head: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["SRC", "DST", "SRC_NS", "DST_NS", "CLIENT_ID", "SERVER_ID", "SECURED", "REASON"]);
    assert!(
        text(&run(&stage.stranger, &[&both[..], &["-o", "yaml"]].concat()).stdout)
            .contains("secured: mutual_tls")
    );

    // One that does not answer takes nothing from what the other says.
    let half = run(&stage.stranger, &["edges", "--proxy", &server, "--proxy", "127.0.0.1:1"]);
    assert_eq!(half.status.code(), Some(1), "{half:?}");
    assert!(text(&half.stdout).contains(&stranger) && text(&half.stderr).contains("127.0.0.1:1"), "{half:?}");
}

/// Without any proxy.
#[test]
fn what_cannot_be_answered_says_what_to_do() {
    let output = |args: &[&str]| Command::new(PILLION).args(args).output().unwrap();
    for (args, code, parts) in [
        (&["explain", "7", "--admin", "127.0.0.1:1"][..], 1, &["is the proxy running", "its access log"][..]),
        (&["edges", "--proxy", "127.0.0.1:1"], 1, &["is the proxy running", "--proxy URL"]),
        (&["explain"], 2, &["--last-refused"]),
        (&["explain", "frontend"], 2, &["10.0.0.7:4312"]),
        (&["explain", "7", "--last-refused"], 2, &["cannot be used with"]),
    ] {
        let seen = output(args);
        let told = text(&seen.stderr);
        assert_eq!(seen.status.code(), Some(code), "{args:?}: {told}");
        for part in parts {
            assert!(told.contains(part), "{args:?}: {part} in:\n{told}");
        }
        assert!(!told.contains("--folder"), "{args:?} cannot be answered by files: {told}");
    }
}
