//! What a person sees of the settings: `--help`, `--check`, every error and every exit code, from the program itself.
//!
//! The expected texts are files under `golden/settings`; `UPDATE_GOLDEN=1 cargo test` writes them anew.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const MINIMAL: &str = "\
workload: {serviceAccount: backend}
identity: {files: {certificate: svid.pem, key: svid.key, bundle: bundle.pem}}
inbound: {capture: 0.0.0.0:15006}
";

const FULL: &str = "\
workload:
  name: backend-v1
  trustDomain: mesh.example
  namespace: shop
  serviceAccount: backend
  labels: {app: backend, version: v1}
rootNamespace: mesh-system
trustDomainAliases: [old.example]
identity:
  ca:
    address: https://ca:15012
    tokenFile: /run/pillion/token
    bundleFile: /run/pillion/bundle.pem
    keyType: ecdsa-p384
    ttl: 10m
  crl: /etc/pillion/crl.pem
policyChange: keep
inbound:
  capture: 0.0.0.0:15006
  trafficPolicy: LOCALHOST
  listeners:
  - {address: 0.0.0.0:8443, forward: 127.0.0.1:8080}
outbound:
  capture: 127.0.0.1:15001
  trafficPolicy: REGISTRY_ONLY
  listeners:
  - {address: 127.0.0.1:9001, destination: \"customers:8080\"}
interception: {mode: TPROXY, mark: 7}
admin: {address: 127.0.0.1:16000, capture: true}
readiness: {address: 127.0.0.1:16021, failBefore: 10m}
metrics: {address: 127.0.0.1:16090}
tls: {minVersion: \"1.3\", cipherSuites: [TLS_AES_128_GCM_SHA256], ecdhCurves: [X25519]}
detection: {timeout: 500ms}
drain: {timeout: 30s}
limits:
  maxConnections: 500
  handshakeTimeout: 3s
  helloSize: 16384
  connectTimeout: 2s
  keepalive: {time: 60s, interval: 10s, retries: 3}
dns: {refresh: 1m}
workloadApi: {socket: /run/pillion/workload.sock, mode: 0666}
federation:
- trustDomain: other.example
  bundle:
    endpoint: https://ca.other.example:15012/v1/bundle
    profile: https_spiffe
    endpointSpiffeId: spiffe://other.example/ca
    file: other.json
log: {format: json}
time: {scale: 2880, origin: \"2026-11-26T00:00:00Z\"}
";

/// The longest that the program may run.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ends the program when it runs for too long, and when the test fails meanwhile.
struct Watchdog {
    program: Pid,
    _done: Sender<()>,
}

impl Watchdog {
    fn over(child: &Child) -> Self {
        let program = Pid::from_child(child);
        let (done, wait) = mpsc::channel();
        std::thread::spawn(move || {
            if wait.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let _ = kill_process(program, Signal::KILL);
            }
        });
        Self { program, _done: done }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = kill_process(self.program, Signal::KILL);
        }
    }
}

/// The program in a folder that holds `proxy.yaml`, with no environment but `env`.
fn program(folder: &TempDir, yaml: &str, args: &[&str], env: &[(&str, &str)]) -> Command {
    fs::write(folder.path().join("proxy.yaml"), yaml).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion-proxy"));
    command.args(args).env_clear().envs(env.iter().copied()).current_dir(folder.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program to its end.
fn run(yaml: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let child = program(&folder, yaml, args, env).spawn().unwrap();
    let _watchdog = Watchdog::over(&child);
    child.wait_with_output().unwrap()
}

fn check(yaml: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
    run(yaml, &[&["--config", "proxy.yaml", "--check"], args].concat(), env)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The value that `--check` prints for a path.
fn checked(output: &Output, path: &str) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let line = stdout.lines().find(|line| line.split_whitespace().next() == Some(path));
    line.unwrap_or_else(|| panic!("no {path} in:\n{stdout}"))[path.len()..].trim().to_owned()
}

fn assert_golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/settings").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, actual).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == actual,
        "{} is not what the program says now; compare, then write it anew with UPDATE_GOLDEN=1:\n{actual}",
        path.display()
    );
}

#[test]
fn help_names_every_setting_with_its_flag_its_variable_and_its_default() {
    let output = run("", &["--help"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_golden("help.txt", &text(&output.stdout));
}

#[test]
fn check_prints_the_settings_with_their_defaults() {
    assert_golden("minimal.txt", &text(&check(MINIMAL, &[], &[]).stdout));
}

#[test]
fn check_prints_what_a_whole_file_says() {
    assert_golden("full.txt", &text(&check(FULL, &[], &[]).stdout));
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let file = format!("{MINIMAL}drain: {{timeout: 1s}}\n");
    let env = [("PILLION_DRAIN_TIMEOUT", "2s")];
    assert_eq!(checked(&check(&file, &[], &[]), "drain.timeout"), "1s");
    assert_eq!(checked(&check(&file, &[], &env), "drain.timeout"), "2s");
    assert_eq!(checked(&check(&file, &["--drain-timeout", "3s"], &env), "drain.timeout"), "3s");
}

#[test]
fn flags_and_environment_suffice_without_a_file() {
    let output = run(
        "",
        &[
            "--check",
            "--workload-service-account=backend",
            "--inbound-capture=0.0.0.0:15006",
            "--identity-files-key=k",
        ],
        &[("PILLION_IDENTITY_FILES_CERTIFICATE", "c"), ("PILLION_IDENTITY_FILES_BUNDLE", "b")],
    );
    assert_eq!(checked(&output, "identity.files.bundle"), "b");
    assert_eq!(checked(&output, "identity.files.key"), "k");
}

#[test]
fn the_file_can_be_named_by_the_environment() {
    let output = run(MINIMAL, &["--check"], &[("PILLION_CONFIG", "proxy.yaml")]);
    assert_eq!(checked(&output, "workload.serviceAccount"), "backend");
}

#[test]
fn labels_of_flags_go_over_those_of_the_file_one_by_one() {
    let file = format!("{MINIMAL}workload: {{serviceAccount: backend, labels: {{app: a, version: v1}}}}\n")
        .replacen("workload: {serviceAccount: backend}\n", "", 1);
    let flags = check(&file, &["--workload-labels", "version=v2", "--workload-labels", "tier=x"], &[]);
    assert_eq!(checked(&flags, "workload.labels.app"), "a");
    assert_eq!(checked(&flags, "workload.labels.version"), "v2");
    assert_eq!(checked(&flags, "workload.labels.tier"), "x");
    let env = check(&file, &[], &[("PILLION_WORKLOAD_LABELS", "version=v3,tier=y")]);
    assert_eq!(checked(&env, "workload.labels.version"), "v3");
    assert_eq!(checked(&env, "workload.labels.tier"), "y");
}

/// What can be wrong, by the line of the minimal file that is replaced (or added), and the arguments.
const WRONG: &[(&str, &str, &str, &[&str])] = &[
    ("an unknown key", "admin:", "admn: {address: 127.0.0.1:15000}", &[]),
    ("an unknown key further in", "inbound:", "inbound:\n  capture: 0.0.0.0:15006\n  listener: []", &[]),
    ("a key that stands twice", "drain:", "drain: {timeout: 5s}\ndrain: {timeout: 5s}", &[]),
    ("an address without a port", "inbound:", "inbound: {capture: 0.0.0.0}", &[]),
    ("a name where an address belongs", "admin:", "admin: {address: \"localhost:15000\"}", &[]),
    ("a duration without a unit", "drain:", "drain: {timeout: 5}", &[]),
    ("a negative duration", "drain:", "drain: {timeout: -5s}", &[]),
    ("a duration of nothing", "detection:", "detection: {timeout: 0s}", &[]),
    ("a word that is none of the choices", "policyChange:", "policyChange: closed", &[]),
    ("a mode in small letters", "interception:", "interception: {mode: redirect}", &[]),
    ("an unknown TLS version", "tls:", "tls: {minVersion: \"1.1\"}", &[]),
    ("an unknown cipher suite", "tls:", "tls: {cipherSuites: [AES128-SHA]}", &[]),
    (
        "an unknown cipher suite in a flag",
        "",
        "",
        &["--tls-cipher-suites", "TLS_AES_128_GCM_SHA256,AES128-SHA"],
    ),
    ("an unknown group", "tls:", "tls: {ecdhCurves: [X25519, P-521]}", &[]),
    ("a group twice", "tls:", "tls: {ecdhCurves: [X25519, P-256, X25519]}", &[]),
    (
        "a choice of cipher suites without TLS 1.2",
        "tls:",
        "tls: {cipherSuites: [TLS_AES_128_GCM_SHA256]}",
        &[],
    ),
    (
        "a choice of cipher suites that are not spoken",
        "tls:",
        "tls: {minVersion: \"1.3\", cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]}",
        &[],
    ),
    ("a choice of groups without TLS 1.2", "tls:", "tls: {ecdhCurves: [X25519MLKEM768]}", &[]),
    ("no service account", "workload:", "workload: {namespace: default}", &[]),
    (
        "a namespace that no SPIFFE ID can hold",
        "workload:",
        "workload: {namespace: a/b, serviceAccount: backend}",
        &[],
    ),
    (
        "a trust domain that is none",
        "workload:",
        "workload: {trustDomain: Mesh/x, serviceAccount: backend}",
        &[],
    ),
    ("no identity", "identity:", "", &[]),
    ("two identities", "", "", &["--identity-ca-address", "https://ca:15012"]),
    ("an identity that is not whole", "identity:", "identity: {files: {certificate: svid.pem}}", &[]),
    ("a CA without a token", "identity:", "identity: {ca: {address: \"https://ca:15012\"}}", &[]),
    ("a CA over plain HTTP", "identity:", "identity: {ca: {address: \"http://ca:15012\"}}", &[]),
    ("an unknown type of key", "identity:", "identity: {ca: {keyType: ecdsa-p255}}", &[]),
    (
        "a lifetime of half a second",
        "identity:",
        "identity: {ca: {address: \"https://ca\", tokenFile: t, bundleFile: b, ttl: 500ms}}",
        &[],
    ),
    ("a Workload API over TCP", "identity:", "identity: {workloadApi: \"tcp://127.0.0.1:8081\"}", &[]),
    (
        "an agent and files",
        "identity:",
        "identity: {workloadApi: \"unix:///agent.sock\", files: {certificate: c, key: k, bundle: b}}",
        &[],
    ),
    ("a Workload API without a socket", "workloadApi:", "workloadApi: {mode: \"0666\"}", &[]),
    ("a mode that is none", "workloadApi:", "workloadApi: {socket: a.sock, mode: rw}", &[]),
    (
        "our own trust domain as another",
        "federation:",
        "federation: [{trustDomain: cluster.local, bundle: {file: a.json}}]",
        &[],
    ),
    (
        "a trust domain twice",
        "federation:",
        "federation: [{trustDomain: a.example, bundle: {file: a.json}}, {trustDomain: a.example, bundle: {file: b.json}}]",
        &[],
    ),
    (
        "a trust domain without a bundle",
        "federation:",
        "federation: [{trustDomain: a.example, bundle: {}}]",
        &[],
    ),
    (
        "an endpoint without a profile",
        "federation:",
        "federation: [{trustDomain: a.example, bundle: {endpoint: \"https://a.example/bundle\"}}]",
        &[],
    ),
    (
        "an endpoint over plain HTTP",
        "federation:",
        "federation: [{trustDomain: a.example, bundle: {endpoint: \"http://a.example/bundle\", profile: https_web}}]",
        &[],
    ),
    (
        "a SPIFFE endpoint without an ID",
        "federation:",
        "federation: [{trustDomain: a.example, bundle: {endpoint: \"https://a.example/bundle\", profile: https_spiffe}}]",
        &[],
    ),
    (
        "a SPIFFE endpoint that nobody vouches for",
        "federation:",
        "federation: [{trustDomain: a.example, bundle: {endpoint: \"https://a.example/bundle\", profile: https_spiffe, \
         endpointSpiffeId: \"spiffe://a.example/ca\"}}]",
        &[],
    ),
    (
        "the door for tunnels where something listens already",
        "inbound:",
        "inbound: {tunnel: 0.0.0.0:15021}",
        &[],
    ),
    ("tunnels for nobody", "limits:", "tunnels: {maxStreams: 0}", &[]),
    ("more tunnels than there are ports", "limits:", "tunnels: {maxTunnels: 100001}", &[]),
    ("no listener at all", "inbound:", "", &[]),
    ("two listeners on one address", "admin:", "admin: {address: 127.0.0.1:15006}", &[]),
    (
        "a listener that forwards to the proxy itself",
        "inbound:",
        "inbound: {capture: 0.0.0.0:15006, listeners: [{address: 0.0.0.0:8443, forward: 127.0.0.1:15006}]}",
        &[],
    ),
    (
        "a listener that forwards nowhere",
        "inbound:",
        "inbound: {listeners: [{address: 0.0.0.0:8443, forward: 127.0.0.1:0}]}",
        &[],
    ),
    (
        "a destination without a port",
        "outbound:",
        "outbound: {listeners: [{address: 127.0.0.1:9001, destination: backend}]}",
        &[],
    ),
    (
        "TPROXY without capture",
        "inbound:",
        "inbound: {listeners: [{address: 0.0.0.0:8443, forward: 127.0.0.1:8080}]}",
        &["--interception-mode", "TPROXY"],
    ),
    ("a mark that marks nothing", "interception:", "interception: {mark: 0}", &[]),
    ("a hello larger than can be", "limits:", "limits: {helloSize: 100000}", &[]),
    ("a proxy for nobody", "limits:", "limits: {maxConnections: 0}", &[]),
    ("a keepalive that TCP cannot count", "limits:", "limits: {keepalive: {time: 500ms}}", &[]),
    ("too many keepalive probes", "limits:", "limits: {keepalive: {retries: 200}}", &[]),
    ("time that stands still", "time:", "time: {scale: 0}", &[]),
    ("an origin of time that nothing hurries", "time:", "time: {origin: 2026-11-26T00:00:00Z}", &[]),
    ("an origin of time that is none", "time:", "time: {scale: 2880, origin: yesterday}", &[]),
    (
        "several faults at once",
        "workload:",
        "workload: {}\ninterception: {mark: 0}\nlimits: {maxConnections: 0}",
        &[],
    ),
    ("a flag with a value that is none", "", "", &["--inbound-capture", "15006"]),
    ("a flag that is misspelt", "", "", &["--inbound-captur", "0.0.0.0:15006"]),
    ("a label that is none", "", "", &["--workload-labels", "backend"]),
    ("a mesh folder that is not there", "mesh:", "mesh: /nonexistent/mesh", &[]),
    ("a file that is not there", "", "", &["--config", "absent.yaml"]),
];

#[test]
fn every_error_names_the_place_what_was_seen_and_the_cure() {
    let mut catalogue = String::new();
    for (what, key, line, args) in WRONG {
        let mut yaml: String = MINIMAL
            .lines()
            .filter(|old| key.is_empty() || !old.starts_with(key))
            .map(|old| format!("{old}\n"))
            .collect();
        writeln!(yaml, "{line}").unwrap();
        let named = if args.contains(&"--config") { &[][..] } else { &["--config", "proxy.yaml"] };
        let output = run(&yaml, &[named, &["--check"], args].concat(), &[]);
        let (code, stderr) = (output.status.code(), text(&output.stderr));
        assert_eq!(code, Some(2), "{what} was taken:\n{yaml}\n{stderr}");
        assert_eq!(text(&output.stdout), "", "{what} printed settings");
        let given = [line.lines().map(|line| format!("    {line}\n")).collect(), args.join(" ")].concat();
        writeln!(catalogue, "# {what}\n{}\n{stderr}", given.trim_end()).unwrap();
    }
    assert_golden("errors.txt", &catalogue);
}

/// The smallest settings, on ports of the kernel's choice, with `more`.
fn loopback_with(more: &str) -> String {
    let mut yaml = String::from(
        "workload: {serviceAccount: backend}\n\
         identity: {files: {certificate: svid.pem, key: svid.key, bundle: bundle.pem}}\n\
         inbound: {listeners: [{address: 127.0.0.1:0, forward: 127.0.0.1:9}]}\n",
    );
    for server in ["admin", "readiness", "metrics"] {
        if !more.starts_with(server) {
            writeln!(yaml, "{server}: {{address: 127.0.0.1:0}}").unwrap();
        }
    }
    yaml + more
}

#[test]
fn a_port_in_use_is_a_runtime_failure() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = run(
        &loopback_with(&format!("readiness: {{address: '{address}'}}")),
        &["--config", "proxy.yaml"],
        &[],
    );
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&format!("cannot listen on {address} (readiness)")), "{stderr}");
}

#[test]
fn a_broken_policy_stops_the_start_with_the_exit_code_of_wrong_settings() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("strict.yaml");
    fs::write(
        &policy,
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\n\
         spec: {mtls: {mode: DISABLED}}\n",
    )
    .unwrap();
    let yaml = loopback_with(&format!("mesh: {}", policy.display()));
    for args in [&["--config", "proxy.yaml"][..], &["--config", "proxy.yaml", "--check"]] {
        let output = run(&yaml, args, &[]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains("strict.yaml:4:"), "{args:?}: {stderr}");
        assert!(stderr.contains("did you mean `DISABLE`"), "{args:?}: {stderr}");
    }
}

#[test]
fn a_log_level_that_is_none_is_a_wrong_setting() {
    let output = run(&loopback_with(""), &["--config", "proxy.yaml"], &[("RUST_LOG", "no=such=level")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).starts_with("pillion-proxy: RUST_LOG: `no=such=level`"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_proxy_that_is_told_to_quit_ends_cleanly_and_every_line_of_its_json_log_is_an_object() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--config", "proxy.yaml", "--log-format", "json"];
    let mut proxy = program(&folder, &loopback_with(""), &args, &[]).spawn().unwrap();
    let _watchdog = Watchdog::over(&proxy);
    let mut asked = false;
    for line in BufReader::new(proxy.stderr.take().unwrap()).lines() {
        let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
        let message = line["message"].as_str().unwrap();
        if let Some(address) =
            message.strip_prefix("listening on ").and_then(|rest| rest.strip_suffix(" (admin)"))
        {
            assert!(post(address, "/quitquitquit").starts_with("HTTP/1.1 200 "));
            asked = true;
        }
    }
    assert!(asked, "no line names the admin address");
    assert_eq!(proxy.wait().unwrap().code(), Some(0));
}

fn post(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "POST {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
