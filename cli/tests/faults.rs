//! The real proxy and its CA. Under a CA that misbehaves on purpose (`--fault`) it keeps the certificate that is valid, says
//! what it saw, and recovers by itself; what it began with may be a token that counts once.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use pillion_cli::lab::wait_until;
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(40);
const BACKEND: &str = "spiffe://cluster.local/ns/default/sa/backend";
/// Meshes that are tried at the same time.
const AT_ONCE: usize = 5;

/// What the proxy says of each fault. The texts are for people; what is compared is enough to tell them apart.
const FAULTS: [(&str, &str); 13] = [
    ("down", "it cannot be reached"),
    ("hang-up", "the connection failed"),
    ("error", "answered 500 Internal Server Error"),
    ("busy", "answered 429 Too Many Requests"),
    ("refuse", "answered 401 Unauthorized; its log says why"),
    ("garbage", "cannot be used"),
    ("wrong-identity", "it is one of spiffe://cluster.local/ns/default/sa/somebody-else"),
    ("other-key", "cannot be used"),
    ("other-root", "its certificate does not verify by its own bundle"),
    ("not-yet-valid", "our clock says"),
    ("expired", "our clock says"),
    ("bundle-without-own-root", "its certificate does not verify by its own bundle"),
    ("garbage-bundle", "its bundle"),
];

#[test]
fn the_proxy_keeps_what_is_valid_under_every_fault_says_what_it_saw_and_recovers() {
    for faults in FAULTS.chunks(AT_ONCE) {
        thread::scope(|scope| {
            for (fault, expected) in faults {
                // The meshes are made one after the other, so that no two are given the same ports.
                let mesh = Mesh::new("16s");
                scope.spawn(move || one_fault(mesh, fault, expected));
            }
        });
    }
}

fn one_fault(mut mesh: Mesh, fault: &str, expected: &str) {
    let before = mesh.wait_for(fault, |certs| certs["valid"] == true);
    mesh.start_ca(&["--fault", fault]);
    let says =
        |certs: &Value| certs["renewals"]["lastError"].as_str().is_some_and(|it| it.contains(expected));
    let seen = mesh.wait_for(&format!("{fault}: {expected}"), says);
    assert_eq!((&seen["valid"], &seen["identity"]), (&Value::Bool(true), &BACKEND.into()), "{fault}");
    assert_eq!(seen["chain"], before["chain"], "{fault}: the certificate that is valid stays");
    assert_eq!(seen["bundles"], before["bundles"], "{fault}: so do the roots");
    assert!(mesh.log("proxy").contains(expected), "{fault}: the log says it too");
    mesh.start_ca(&[]);
    let after = mesh.wait_for(fault, |certs| certs["chain"] != before["chain"] && certs["valid"] == true);
    assert_eq!(after["identity"], BACKEND, "{fault}");
    assert_eq!(after["renewals"]["lastError"], Value::Null, "{fault}");
}

/// The proxy gives the CA ten seconds for an answer.
#[test]
fn a_slow_ca_costs_patience_and_no_certificate() {
    let mut mesh = Mesh::new("30s");
    let before = mesh.wait_for("slow", |certs| certs["valid"] == true);
    mesh.start_ca(&["--fault", "slow=30s"]);
    let seen = mesh.wait_for("slow", |certs| certs["renewals"]["lastError"].is_string());
    let error = seen["renewals"]["lastError"].as_str().unwrap();
    assert!(error.contains("did not answer within 10 s"), "{error}");
    assert_eq!((&seen["valid"], &seen["chain"]), (&Value::Bool(true), &before["chain"]));
    mesh.start_ca(&["--fault", "slow=500ms"]);
    mesh.wait_for("slow", |certs| certs["chain"] != before["chain"] && certs["valid"] == true);
}

#[test]
fn a_proxy_that_began_by_a_one_time_token_renews_by_its_certificate() {
    let mesh = Mesh::with_token("10s", |folder| {
        let mut create = Command::new(env!("CARGO_BIN_EXE_pillion"));
        create
            .env_clear()
            .args(["ca", "token", "create", "--once", "--ttl", "1m", "--id", BACKEND, "--config"]);
        let output = create.arg(folder.path().join("ca.yaml")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::write(folder.path().join("token"), output.stdout).unwrap();
    });
    let renewed = mesh.wait_for("renewals", |certs| certs["renewals"]["succeeded"].as_u64() >= Some(2));
    assert_eq!((&renewed["renewals"]["failed"], &renewed["valid"]), (&Value::from(0), &Value::Bool(true)));
    let log = mesh.log("ca");
    assert_eq!(log.matches("evidence=\"one-time token\"").count(), 1, "{log}");
    assert!(log.contains("evidence=\"certificate\""), "{log}");
}

/// A CA and one proxy on this machine, without interception.
struct Mesh {
    folder: TempDir,
    ports: Vec<u16>,
    ca: Option<Running>,
    _proxy: Running,
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Mesh {
    /// Certificates last as long as `life`.
    fn new(life: &str) -> Self {
        Mesh::with_token(life, |_| ())
    }

    /// With something done between the starts of the CA and of the proxy.
    fn with_token(life: &str, deliver: impl FnOnce(&TempDir)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports = free_ports();
        let [ca, monitoring, admin, inbound, readiness, metrics] = ports[..] else { panic!("{ports:?}") };
        let at = folder.path().display();
        let settings = format!(
            "listen: 127.0.0.1:{ca}
monitoring: 127.0.0.1:{monitoring}
state: {at}/state
bundleFile: {at}/bundle.pem
workloadTtl: {{default: {life}, max: {life}}}
registrations: [{{id: '{BACKEND}', tokenFile: {at}/token}}]
"
        );
        fs::write(folder.path().join("ca.yaml"), settings).unwrap();
        let settings = format!(
            "workload: {{namespace: default, serviceAccount: backend}}
identity:
  ca: {{address: 'https://localhost:{ca}', tokenFile: {at}/token, bundleFile: {at}/bundle.pem}}
inbound: {{listeners: [{{address: '127.0.0.1:{inbound}', forward: '127.0.0.1:1'}}]}}
admin: {{address: '127.0.0.1:{admin}'}}
readiness: {{address: '127.0.0.1:{readiness}'}}
metrics: {{address: '127.0.0.1:{metrics}'}}
"
        );
        fs::write(folder.path().join("proxy.yaml"), settings).unwrap();
        let ca = start(&folder, "ca", &["ca", "serve"], &[]);
        wait_listening(&folder);
        deliver(&folder);
        let proxy = start(&folder, "proxy", &["proxy"], &[]);
        Mesh { folder, ports, ca: Some(ca), _proxy: proxy }
    }

    /// Ends the CA, as a crash would, and starts it again on the same state.
    fn start_ca(&mut self, args: &[&str]) {
        self.ca = None;
        fs::remove_file(self.path("ca.log")).unwrap();
        self.ca = Some(start(&self.folder, "ca", &["ca", "serve"], args));
        wait_listening(&self.folder);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap()
    }

    /// Waits until `/certs` of the proxy is so.
    fn wait_for(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let page = || self.certs().filter(&condition);
        wait_until(PATIENCE, what, || Ok(page())).unwrap_or_else(|error| {
            panic!("{what}: {error}\n{:?}\n{}\n{}", self.certs(), self.log("proxy"), self.log("ca"))
        })
    }

    fn certs(&self) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[2])).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(b"GET /certs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }
}

/// Starts a program of ours with its settings; its log is `<name>.log`.
fn start(folder: &TempDir, name: &str, program: &[&str], args: &[&str]) -> Running {
    let log =
        File::options().create(true).append(true).open(folder.path().join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command
        .env_clear()
        .args(program)
        .arg("--config")
        .arg(folder.path().join(format!("{name}.yaml")))
        .args(args);
    Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

fn wait_listening(folder: &TempDir) {
    let log = folder.path().join("ca.log");
    wait_until(PATIENCE, "the CA to listen", || {
        Ok(fs::read_to_string(&log).is_ok_and(|log| log.contains("listening")).then_some(()))
    })
    .unwrap();
}

/// Six ports that nobody listens on. All are held at once, so that they differ.
fn free_ports() -> Vec<u16> {
    let held: Vec<_> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}
