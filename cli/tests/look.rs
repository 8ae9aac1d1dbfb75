//! `pillion proxy-config` and `pillion top` beside real sidecars, `top` at a terminal, and what every command says of a proxy
//! that does not answer.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use pillion_cli::lab::{Node, RunningSidecar, wait_until};
use pillion_mesh::edges::{End, Secured};
use pillion_mesh::proxy_config::{Connections, Endpoints, ListenerRows, SecretRows, Side};
use pillion_mesh::reason::Reason;
use pillion_mesh::top::View;
use rstest::rstest;
use serde::de::DeserializeOwned;

use common::http::{ask, ask_over};
use common::{
    CLIENT_ID, ECONNRESET, Family, Interception, PILLION, PORT, SERVER_ID, SOON, Stage, errno_of_call,
};

fn run(node: &Node, args: &[&str]) -> Output {
    node.pillion(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What it prints on success.
fn told(node: &Node, args: &[&str]) -> String {
    let output = run(node, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    text(&output.stdout)
}

fn json<T: DeserializeOwned>(node: &Node, args: &[&str]) -> T {
    let output = run(node, &[args, &["-o", "json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}"))
}

/// A sidecar whose admin API the whole lab can ask.
fn sidecar(name: &str, node: &Node, stage: &Stage) -> RunningSidecar {
    let sidecar = Interception::Redirect.sidecar(name).rules(&["-d", "15000"]);
    let sidecar = sidecar.outbound("127.0.0.1:9001".parse().unwrap(), &format!("server:{PORT}"));
    sidecar.args(&["--admin-address", "0.0.0.0:15000"]).start(node, &stage.ca).unwrap()
}

#[test]
fn a_person_sees_what_a_sidecar_listens_on_dials_holds_and_serves() {
    let Some(stage) = Stage::new() else { return };
    let service = stage.service(Family::V4);
    let _app = stage.app("backend", Family::V4.any());
    let (client, server) =
        (sidecar("client", &stage.client, &stage), sidecar("server", &stage.server, &stage));
    stage.mode("STRICT");
    server.wait_for_mode(SOON, PORT, "STRICT").unwrap();
    client.wait_for_endpoint_mode(SOON, "server", "STRICT").unwrap();

    let ours = ["proxy-config", "listener", "--port", "8080", "--address", "0.0.0.0"];
    let rows: ListenerRows = json(&stage.server, &ours);
    let [row] = &rows.listeners[..] else { panic!("{rows}") };
    assert_eq!((row.port, row.direction, row.matches.as_str()), (15006, Side::Inbound, "Addr: *:8080"));
    assert_eq!((row.mode.as_deref(), row.destination.as_str()), (Some("STRICT"), "the app, 8080 (TCP)"));
    assert!(row.because.as_ref().unwrap().contains("default/server"), "{rows}");
    let table = told(&stage.server, &["pc", "l"]);
    let head: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["ADDRESSES", "PORT", "DIRECTION", "MATCH", "MODE", "DESTINATION", "BECAUSE"]);
    for (port, direction) in [(15006, "inbound"), (15001, "outbound"), (9001, "outbound"), (15000, "own")] {
        let is_it = |line: &&str| {
            let cells: Vec<_> = line.split_whitespace().collect();
            cells[1] == port.to_string() && cells[2] == direction
        };
        assert!(table.lines().any(|line| is_it(&line)), "{port} {direction} in:\n{table}");
    }
    let explicit: ListenerRows = json(&stage.client, &["pc", "listener", "--port", "9001"]);
    assert_eq!(explicit.listeners[0].mode.as_deref(), Some("ISTIO_MUTUAL"), "{explicit}");

    let to_server = ["pc", "endpoint", "--service", "server", "--address", &stage.server.v4().to_string()];
    let endpoints: Endpoints = json(&stage.client, &to_server);
    let [endpoint] = &endpoints.endpoints[..] else { panic!("{endpoints}") };
    assert_eq!((endpoint.tls.as_str(), endpoint.mode.to_string().as_str()), ("ISTIO_MUTUAL", "STRICT"));
    assert_eq!(endpoint.identities[0].to_string(), SERVER_ID);
    assert!(told(&stage.client, &["pc", "endpoint", "--service", "nobody"]).contains("no such endpoint"));

    let secrets: SecretRows = json(&stage.client, &["pc", "secret"]);
    let seen: Vec<_> = secrets
        .secrets
        .iter()
        .map(|row| (row.resource_name.as_str(), row.kind.as_str(), row.valid_cert))
        .collect();
    assert_eq!(seen, [("default", "Cert Chain", true), ("ROOTCA", "CA", true)], "{secrets}");
    assert!(secrets.renewals.succeeded >= 1 && secrets.renewals.next.is_some(), "{secrets:?}");

    // One that is open, and one that was refused.
    let mut open = stage.client.dial(service).unwrap();
    assert_eq!(ask_over(&mut open, "GET", "/", "server").unwrap().status, 200);
    assert_eq!(errno_of_call(&stage.stranger, service), Some(ECONNRESET));
    let refused =
        server.wait_for_record(SOON, |record| record.reason == Some(Reason::StrictPlaintext)).unwrap();
    let served: Connections = json(&stage.server, &["pc", "connection"]);
    let [record] = &served.connections[..] else { panic!("{served}") };
    assert_eq!(record.tls.as_ref().unwrap().peer, CLIENT_ID);
    let line = served.to_string();
    for part in ["server.default", "inbound", CLIENT_ID, "mTLS", "STRICT", "open"] {
        assert!(line.contains(part), "{part} in:\n{line}");
    }
    let gone: Connections = json(&stage.server, &["pc", "connection", "--state", "refused"]);
    assert_eq!(gone.connections, [refused], "{gone}");
    let of_stranger = stage.stranger.v4().to_string();
    let all = ["pc", "connection", "--state", "all", "--address", &of_stranger];
    assert!(told(&stage.server, &all).contains("strict_plaintext"));
    let outbound = ["pc", "connection", "--direction", "outbound"];
    let dialled = told(&stage.client, &[&outbound[..], &["--service", "server"]].concat());
    assert!(dialled.contains("server:8080") && dialled.contains("mTLS"), "{dialled}");
    assert!(told(&stage.server, &outbound).contains("no such connection"));
    assert!(told(&stage.client, &["pc", "secret", "-o", "yaml"]).contains("resourceName: ROOTCA"));
}

/// Asked from a host that is neither end.
#[test]
fn top_tells_what_passes_between_two_sidecars_once_and_who_is_refused() {
    let Some(stage) = Stage::new() else { return };
    let service = stage.service(Family::V4);
    let _app = stage.app("backend", Family::V4.any());
    let sidecars = [sidecar("client", &stage.client, &stage), sidecar("server", &stage.server, &stage)];
    stage.mode("STRICT");
    sidecars[1].wait_for_mode(SOON, PORT, "STRICT").unwrap();
    let urls = sidecars.each_ref().map(|sidecar| format!("http://{}:15000", sidecar.node().name()));
    let once = ["top", "--once", "--interval", "1s", "--proxy", &urls[0], "--proxy", &urls[1]];
    let busy = AtomicBool::new(true);
    let view: View = thread::scope(|scope| {
        scope.spawn(|| {
            while busy.load(Ordering::Relaxed) {
                assert_eq!(ask(&stage.client, service, "GET", "/").unwrap().status, 200);
                assert_eq!(errno_of_call(&stage.stranger, service), Some(ECONNRESET));
            }
        });
        let seen = wait_until(SOON, "rates of all edges", || {
            let view: View = json(&stage.stranger, &once);
            let both = view.rates.edges.iter().any(|flow| flow.edge.seen_from.len() == 2);
            Ok((both && view.rates.edges.len() == 2).then_some(view))
        });
        busy.store(false, Ordering::Relaxed);
        seen.unwrap()
    });
    let of = |secured: Secured| view.rates.edges.iter().find(|flow| flow.edge.secured == secured).unwrap();
    let mutual = of(Secured::MutualTls);
    assert!(mutual.new_per_second > 0.0, "{view}");
    assert!(mutual.to_server_per_second > 0 && mutual.to_client_per_second > 0, "{view}");
    assert_eq!(mutual.edge.seen_from.len(), 2, "{view}");
    let refused = of(Secured::Refused);
    assert!(refused.new_per_second > 0.0 && refused.edge.seen_from.contains(&End::Destination), "{view}");
    assert_eq!(refused.edge.reason, "strict_plaintext");
    assert_eq!(view.proxies.len(), 2);

    // Without a terminal the same as a table, and a proxy that does not answer takes nothing from the others.
    let half =
        run(&stage.stranger, &["top", "--interval", "100ms", "--proxy", &urls[1], "--proxy", "127.0.0.1:1"]);
    assert_eq!(half.status.code(), Some(1), "{half:?}");
    let (table, fault) = (text(&half.stdout), text(&half.stderr));
    assert!(table.contains("SRC↓") || table.contains("NEW/S↓"), "{table}");
    assert!(table.contains("strict_plaintext") && table.contains("client.default"), "{table}");
    assert!(fault.contains("127.0.0.1:1") && fault.contains("--proxy URL"), "{fault}");
}

/// An admin API that has one page: what was recorded of a proxy, again and again.
fn recorded() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /traffic"), "{:?}", text(&request[..length]));
            let page = include_str!("../../mesh/tests/look/traffic-after.json");
            // Who has seen enough may be gone.
            let _ = write!(stream, "HTTP/1.1 200 -\r\n\r\n{page}");
        }
    });
    url
}

/// A shell at a terminal of its own, in which `top` is typed.
struct Terminal {
    shell: Child,
    keys: Option<std::process::ChildStdin>,
    shown: mpsc::Receiver<Vec<u8>>,
    so_far: String,
}

impl Terminal {
    /// Around it the shell tells how the terminal is set.
    fn with(top: &str) -> Self {
        let typed = format!("echo set=$(stty -g).; {top}; echo code=$?.; echo set=$(stty -g).");
        let mut script = Command::new("script");
        script.args(["-qefc", &typed, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = script.spawn().unwrap();
        let (mut out, keys) = (shell.stdout.take().unwrap(), shell.stdin.take());
        let (tell, shown) = mpsc::channel();
        thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(length @ 1..) = out.read(&mut some) {
                if tell.send(some[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { shell, keys, shown, so_far: String::new() }
    }

    /// Waits until `part` has been shown since the last time, and takes it as seen.
    fn wait_for(&mut self, part: &str) -> String {
        loop {
            if let Some(at) = self.so_far.find(part) {
                let rest = self.so_far.split_off(at + part.len());
                return std::mem::replace(&mut self.so_far, rest);
            }
            let more = self.shown.recv_timeout(SOON);
            let more = more.unwrap_or_else(|error| panic!("{error}: no {part:?} in {:?}", self.so_far));
            self.so_far += &String::from_utf8_lossy(&more);
        }
    }

    /// How the terminal is set, as the shell tells next.
    fn settings(&mut self) -> String {
        self.wait_for("set=");
        self.wait_for(".")
    }

    /// `top` ends with this code, and the screen and the settings are as they were.
    fn assert_given_back(&mut self, code: u8, before: &str) {
        self.wait_for(LEAVE);
        self.wait_for(&format!("code={code}."));
        assert_eq!(self.settings(), before);
    }

    fn press(&mut self, key: &str) {
        self.keys.as_mut().unwrap().write_all(key.as_bytes()).unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.keys.take());
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

#[test]
fn top_is_live_at_a_terminal_hears_keys_and_gives_the_terminal_back() {
    let url = recorded();
    let mut terminal = Terminal::with(&format!("{PILLION} top --interval 100ms --proxy {url}"));
    let before = terminal.settings();
    terminal.wait_for(ENTER);
    terminal.wait_for("by new");
    terminal.wait_for("q quit");
    for (key, shown) in
        [("o", "by open"), ("w", "SRC↓"), ("\u{1b}[A", "by who"), ("p", ", paused"), ("p", "by who   ")]
    {
        terminal.press(key);
        terminal.wait_for(shown);
    }
    terminal.press("q");
    terminal.assert_given_back(0, &before);
}

/// Ctrl-Z and `fg`: a shell that knows jobs is there in between.
#[test]
fn top_makes_room_for_the_shell_while_it_is_stopped() {
    let url = recorded();
    let mut terminal = Terminal::with(&format!(
        "set -m; {PILLION} top --interval 100ms --proxy {url}; echo stopped=$?.; fg"
    ));
    let before = terminal.settings();
    terminal.wait_for("q quit");
    terminal.press("\u{1a}");
    terminal.wait_for(LEAVE);
    terminal.wait_for("stopped=148.");
    terminal.wait_for(ENTER);
    terminal.press("q");
    terminal.assert_given_back(0, &before);
}

/// The signals that people and supervisors send.
#[rstest]
#[case("TERM", 143)]
#[case("HUP", 129)]
#[case("INT", 130)]
#[case("QUIT", 131)]
fn a_signal_ends_top_and_the_terminal_is_as_it_was(#[case] signal: &str, #[case] code: u8) {
    let url = recorded();
    let top = format!("sh -c 'echo pid=$$.; exec {PILLION} top --interval 100ms --proxy {url}'");
    let mut terminal = Terminal::with(&top);
    let before = terminal.settings();
    terminal.wait_for("pid=");
    let pid = terminal.wait_for(".");
    let pid = pid.trim_end_matches('.');
    terminal.wait_for("q quit");
    let killed = Command::new("kill").args(["-s", signal, pid]).status().unwrap();
    assert!(killed.success());
    terminal.assert_given_back(code, &before);
}

/// A command that asks a proxy, with what it needs besides; the flag that names the proxy; its exit code where nobody answers;
/// what it says then.
type Asking = (&'static [&'static str], &'static str, i32, &'static [&'static str]);

const ASKING: &[Asking] = &[
    (&["explain", "7"], "--admin", 1, &["is the proxy running", "its access log"]),
    (&["edges"], "--proxy", 1, &["is the proxy running", "--proxy URL"]),
    (&["check", "--wait", "1ms"], "--proxy", 1, &["Start the proxy", "name its admin API by --proxy"]),
    (
        &["wire", "web", "server"],
        "--proxy",
        1,
        &["is the proxy running", "the names of workloads whose proxies"],
    ),
    (&["capture", "--stop"], "--admin", 1, &["is the proxy running", "tcpdump as root"]),
    (&["migrate", "status"], "--proxy", 1, &["is the proxy running", "--proxy URL"]),
    (&["describe"], "--admin", 1, &["is the proxy running", "--folder FOLDER --config PROXY.yaml"]),
    (&["authz", "check"], "--admin", 2, &["is the proxy running", "--folder FOLDER --config PROXY.yaml"]),
    (&["proxy-config", "listener"], "--proxy", 1, &["is the proxy running", "pillion describe --folder"]),
    (&["proxy-config", "endpoint"], "--proxy", 1, &["is the proxy running", "pillion describe --folder"]),
    (&["proxy-config", "secret"], "--proxy", 1, &["is the proxy running", "pillion describe --folder"]),
    (&["proxy-config", "connection"], "--proxy", 1, &["is the proxy running", "--proxy URL"]),
    (&["top"], "--proxy", 1, &["is the proxy running", "--proxy URL"]),
    (&["wait", "--timeout", "1ms"], "--admin", 1, &["is the sidecar running", "name another by --admin"]),
    (
        &["run", "--timeout", "1ms", "true"],
        "--admin",
        125,
        &["is the sidecar running", "name another by --admin"],
    ),
];

#[test]
fn every_command_says_what_to_do_where_no_proxy_answers() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{nobody}");
    for &(command, flag, code, parts) in ASKING {
        let (name, more) = command.split_at(1);
        let subcommand =
            more.iter().take_while(|word| !word.starts_with('-')).count().min(usize::from(name[0] != "run"));
        let (subcommand, more) = more.split_at(subcommand);
        let output =
            Command::new(PILLION).args(name).args(subcommand).args([flag, &url]).args(more).output().unwrap();
        let fault = text(&output.stderr);
        // `check` answers on stdout: that nobody answers is what it has found.
        let told = text(&output.stdout) + &fault;
        assert_eq!(output.status.code(), Some(code), "{command:?}: {told}");
        for part in [&[url.as_str(), "listens on loopback only"][..], parts].concat() {
            assert!(told.contains(part), "{command:?}: {part} in:\n{told}");
        }
        assert!(fault.lines().all(|line| line.starts_with("pillion ")), "{command:?}: {fault}");
    }
}

/// The reference page has them all. `dashboard` asks for nobody: its page tells who does not answer.
#[test]
fn no_command_that_asks_a_proxy_is_left_out() {
    let page = include_str!("../../docs/reference/commands.md");
    let sections = page.split("\n## pillion ").skip(1).filter_map(|section| section.split_once('\n'));
    let asking = sections
        .filter(|(_, help)| ["--proxy <URL>", "--admin <URL>"].iter().any(|flag| help.contains(flag)))
        .map(|(name, _)| name);
    for name in asking.filter(|name| *name != "dashboard") {
        let is_it = |(command, ..): &Asking| command.join(" ").starts_with(name);
        assert!(ASKING.iter().any(is_it), "`pillion {name}` asks a proxy: add it to ASKING");
    }
}

/// Commands that list nothing: they do something, or print what is a file's to hold.
const NO_LISTINGS: [&str; 14] = [
    "bench",
    "demo",
    "lesson run",
    "lesson show",
    "lesson copy",
    "lab",
    "wait",
    "run",
    "inject",
    "probe",
    "completion",
    "man",
    "tap",
    "dashboard",
];

#[test]
fn every_listing_is_for_people_and_for_programs() {
    let page = include_str!("../../docs/reference/commands.md");
    for section in page.split("\n## pillion ").skip(1) {
        let (name, help) = section.split_once('\n').unwrap();
        if help.contains("\nCommands:\n") || NO_LISTINGS.contains(&name) {
            continue;
        }
        let format =
            help.contains("--output <FORMAT>") && help.contains("[possible values: table, json, yaml]");
        assert!(
            format,
            "`pillion {name}` takes no -o table|json|yaml; where it lists nothing, add it to NO_LISTINGS"
        );
    }
}
