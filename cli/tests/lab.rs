//! The lab itself: that its nodes are what they claim to be, and that nothing of it stays.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use pillion_cli::lab::{Lab, Node, Service, Sidecar, wait_until};
use pillion_cli::wiretap::payload;
use rstest::rstest;

const PILLION: &str = env!("CARGO_BIN_EXE_pillion");

const SOON: Duration = Duration::from_secs(10);

fn lab() -> Option<Lab> {
    Lab::for_test(Path::new(PILLION)).unwrap()
}

#[test]
fn nodes_reach_each_other_by_address_and_name_but_not_the_host() {
    let Some(lab) = lab() else { return };
    let (one, two) = (lab.node("one").unwrap(), lab.node("two").unwrap());
    for (address, name) in [(one.v4(), "one"), (one.v6(), "one-v6")] {
        let listen = SocketAddr::new(address, 7000);
        let listener = one.listen(listen).unwrap();
        let dialled = two.dial(listen).unwrap();
        let (_, client) = listener.accept().unwrap();
        assert_eq!(client, dialled.local_addr().unwrap());
        let found = two.run("getent", &["ahosts", name]).unwrap();
        assert!(found.contains(&address.to_string()), "{name}: {found}");
    }
    let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(two.dial(host).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_process_is_told_from_its_output_and_ends_with_its_handle() {
    let Some(lab) = lab() else { return };
    let node = lab.node("node").unwrap();
    let script = "echo ready; trap 'echo told; exit 7' TERM; while :; do sleep 0.05; done";
    let process = node.start("loop", "sh", &["-c", script]).unwrap();
    process.wait_for_line(SOON, "ready").unwrap();
    process.terminate().unwrap();
    assert_eq!(process.wait(SOON).unwrap().code(), Some(7));
    assert!(process.output().contains("told"));

    let process = node.start("other", "sleep", &["600"]).unwrap();
    process.check_running().unwrap();
    let folder = format!("/proc/{}", process.id());
    drop(process);
    assert!(!Path::new(&folder).exists(), "it outlives its handle");
}

#[test]
fn a_process_that_ends_too_early_is_an_error_that_shows_its_log() {
    let Some(lab) = lab() else { return };
    let node = lab.node("node").unwrap();
    let process = node.start("short", "sh", &["-c", "echo the reason; exit 3"]).unwrap();
    let error = process.wait_for_line(SOON, "ready").unwrap_err().to_string();
    assert!(error.contains("the reason") && error.contains('3'), "{error}");
}

#[test]
fn a_tap_on_the_switch_hears_each_byte_once() {
    let Some(lab) = lab() else { return };
    let (one, two) = (lab.node("one").unwrap(), lab.node("two").unwrap());
    let tap = lab.switch().tap(&[7000]).unwrap();
    for address in [one.v4(), one.v6()] {
        tap.clear();
        let listen = SocketAddr::new(address, 7000);
        let listener = one.listen(listen).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(b"pong").unwrap();
        });
        let mut client = two.dial(listen).unwrap();
        client.write_all(b"ping").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        server.join().unwrap();
        wait_until(SOON, "ping and pong on the wire", || {
            let heard = tap.segments();
            let asked = payload(&heard, |segment| segment.to == listen);
            let answered = payload(&heard, |segment| segment.from == listen);
            assert!(asked.len() <= 4 && answered.len() <= 4, "heard twice: {heard:?}");
            Ok((asked == b"ping" && answered == b"pong").then_some(()))
        })
        .unwrap();
    }
}

#[test]
fn a_dropped_lab_leaves_nothing() {
    let Some(lab) = lab() else { return };
    let node = lab.node("node").unwrap();
    // A grandchild that its parent lost.
    let process = node.start("orphan", "sh", &["-c", "sleep 601 & echo $!; exec sleep 602"]).unwrap();
    let orphan = process.wait_for(SOON, "a number", |p| p.output().trim().parse::<u32>().ok()).unwrap();
    let (folder, namespace) = (lab.folder().to_owned(), Path::new("/run/netns").join(node.namespace()));
    assert!(folder.exists() && namespace.exists());
    drop((process, node, lab));
    assert!(!folder.exists() && !namespace.exists());
    wait_until(SOON, "the end of the orphan", || {
        Ok((!Path::new(&format!("/proc/{orphan}")).exists()).then_some(()))
    })
    .unwrap();
}

#[test]
fn what_a_killed_lab_left_behind_is_removed_by_the_next() {
    let Some(first) = lab() else { return };
    drop(first);
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let name = format!("pillion-{}-0-left", dead.id());
    let folder = std::env::temp_dir().join(format!("{name}-x"));
    std::fs::create_dir(&folder).unwrap();
    assert!(Command::new("ip").args(["netns", "add", &name]).status().unwrap().success());
    drop(lab().unwrap());
    assert!(!folder.exists() && !Path::new("/run/netns").join(name).exists());
}

/// What a sidecar is to be, where the other dials, and what the app sees as its client.
#[rstest]
#[case::redirect_v4(Sidecar::new("server"), Node::v4, "127.0.0.6")]
#[case::redirect_v6(Sidecar::new("server"), Node::v6, "::6")]
#[case::tproxy_v4(Sidecar::new("server").tproxy(), Node::v4, "client")]
#[case::tproxy_v6(Sidecar::new("server").tproxy(), Node::v6, "client")]
fn a_sidecar_captures_by_each_mode_and_family_and_can_be_restarted(
    #[case] sidecar: Sidecar,
    #[case] address: fn(&Node) -> IpAddr,
    #[case] seen_by_app: &str,
) {
    let Some(lab) = lab() else { return };
    let (client, server) = (lab.node("client").unwrap(), lab.node("server").unwrap());
    let ca = lab.ca(&["client", "server"], "").unwrap();
    let app = SocketAddr::new(address(&server), 8080);
    lab.mesh().service(&Service::of("server", 8080, &[app.ip()])).unwrap();
    let listen = SocketAddr::new(if app.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() }, 8080);
    let backend =
        server.start_pillion("app", &["example", "backend", "--listen", &listen.to_string()]).unwrap();
    backend.wait_for_line(SOON, "listening on").unwrap();
    let mut server_sidecar = sidecar.start(&server, &ca).unwrap();
    let _client_sidecar = Sidecar::new("client").start(&client, &ca).unwrap();
    let client_address = address(&client).to_string();
    for _restart in 0..2 {
        let answer = client.get(&format!("http://{app}/")).unwrap();
        let expected = if seen_by_app == "client" { &client_address } else { seen_by_app };
        assert!(answer.body.contains(expected), "{answer:?}");
        let record =
            server_sidecar.wait_for_record(SOON, |record| record.original_destination == Some(app)).unwrap();
        assert_eq!(record.tls.unwrap().peer, "spiffe://cluster.local/ns/default/sa/client");
        server_sidecar.stop();
        server_sidecar.start_again().unwrap();
        server_sidecar.wait_ready(SOON).unwrap();
    }
    server_sidecar.clean_rules().unwrap();
    server_sidecar.stop();
    let plain = lab.node("legacy").unwrap().get(&format!("http://{app}/")).unwrap();
    assert!(plain.is_success(), "without rules and sidecar the app is itself again: {plain:?}");
}

#[test]
fn the_ca_delivers_tokens_and_survives_a_kill() {
    let Some(lab) = lab() else { return };
    let mut ca = lab.ca(&["frontend", "default/backend"], "").unwrap();
    for account in ["frontend", "default/backend"] {
        assert!(!std::fs::read(ca.token(account)).unwrap().is_empty());
    }
    let bundle = std::fs::read_to_string(ca.bundle()).unwrap();
    ca.kill();
    ca.start_again().unwrap();
    assert_eq!(std::fs::read_to_string(ca.bundle()).unwrap(), bundle);
}
