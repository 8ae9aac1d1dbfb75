//! What leaves the mesh: apps that know no TLS call servers outside, and DestinationRules say how their sidecars do it.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use pillion_cli::lab::{Ca, Lab, Node, PROXY_USER, RunningSidecar, Service, Sidecar};
use pillion_mesh::reason::Reason;
use pillion_mesh::wire::{ConnectionRecord, FirstBytes, TlsMode};
use pillion_testkit::authority::write_private;
use pillion_testkit::tls::{outside_server, outside_server_content_without};
use pillion_testkit::{Held, TestCa};
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::CertificateDer;

use common::{ECONNRESET, SOON, exchange};

/// As guides to mTLS with external services call it.
const HOST: &str = "api.external-service.com";

/// A host with an app and a sidecar of `production/shop`, and a host outside the mesh.
struct World {
    app: Node,
    outside: Node,
    web: TestCa,
    ca: Ca,
    lab: Lab,
}

impl World {
    fn new() -> Option<Self> {
        let lab = common::lab()?;
        let [app, outside] = ["app", "outside"].map(|name| lab.node(name).unwrap());
        let ca = lab.ca(&["production/shop"], "").unwrap();
        Some(Self { app, outside, web: TestCa::root("root of the web"), ca, lab })
    }

    fn sidecar(&self, args: &[&str]) -> RunningSidecar {
        Sidecar::new("production/shop").args(args).start(&self.app, &self.ca).unwrap()
    }

    /// Gives an address of the outside another name, for all.
    fn name(&self, name: &str, node: &Node) {
        let hosts = self.lab.folder().join("hosts");
        let others = fs::read_to_string(&hosts).unwrap();
        let others: String =
            others.lines().filter(|line| !line.ends_with(name)).map(|line| format!("{line}\n")).collect();
        // Written in place: the sidecars see this very file.
        fs::write(&hosts, format!("{others}{} {name}\n", node.v4())).unwrap();
    }

    /// A file that the proxy may read.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = write_private(&self.lab.folder().join(name), text);
        chown(&path, Some(PROXY_USER), Some(PROXY_USER)).unwrap();
        path
    }

    /// The resources of such a guide but for the paths and what is put behind them.
    fn external_api(&self, client: &Held, mode: &str, more: &str) {
        let files = [
            ("clientCertificate", self.file("cert.pem", &client.chain_pem())),
            ("privateKey", self.file("key.pem", &client.key_pem())),
            ("caCertificates", self.file("ca.pem", &self.web.bundle_pem())),
        ];
        let files = files.iter().filter(|(field, _)| mode == "MUTUAL" || *field == "caCertificates");
        let files: String =
            files.map(|(field, path)| format!("      {field}: {}\n", path.display())).collect();
        let text = format!(
            "apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata:
  name: external-api-mtls
  namespace: production
spec:
  host: {HOST}
  trafficPolicy:
    tls:
      mode: {mode}
{files}{more}
---
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata:
  name: external-api
  namespace: production
spec:
  hosts:
    - {HOST}
  ports:
    - number: 443
      name: https
      protocol: HTTPS
  resolution: DNS
  location: MESH_EXTERNAL
"
        );
        self.lab.mesh().write("external-api.yaml", &text).unwrap();
    }

    /// Where the app calls the outside.
    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.outside.v4(), port)
    }
}

/// What a server outside learnt of a client that it has echoed to.
#[derive(Debug)]
struct Heard {
    sni: Option<String>,
    certificate: Option<CertificateDer<'static>>,
}

/// A TLS server on `node` that echoes, for as long as the test runs.
fn tls_echo(node: &Node, port: u16, config: ServerConfig) -> Receiver<Heard> {
    let listener = node.listen(SocketAddr::new(node.v4(), port)).unwrap();
    let (heard, receiver) = channel();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A client that does not believe the server ends it.
            if let Ok(of_one) = echo_one(stream, config.clone())
                && heard.send(of_one).is_err()
            {
                return;
            }
        }
    });
    receiver
}

fn echo_one(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<Heard> {
    stream.set_read_timeout(Some(SOON))?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    stream.write_all(&bytes)?;
    stream.conn.send_close_notify();
    stream.flush()?;
    let certificate = stream.conn.peer_certificates().and_then(<[_]>::first).cloned();
    Ok(Heard { sni: stream.conn.server_name().map(str::to_owned), certificate })
}

fn call(from: &Node, address: SocketAddr) -> io::Result<Vec<u8>> {
    exchange(&from.dial(address)?, b"an app that knows no TLS")
}

/// The newest connection that has ended for this reason, once there is one.
fn ended(sidecar: &RunningSidecar, reason: Reason) -> ConnectionRecord {
    sidecar.wait_for_record(SOON, |record| record.reason == Some(reason)).unwrap()
}

/// Waits until `host` is dialled as `mode` says, because of `because`.
fn wait_for_plan(sidecar: &RunningSidecar, mode: &str, because: &str) {
    sidecar
        .wait_for_page(SOON, "/endpoints", &format!("{mode} because of {because}"), |page| {
            let all = page["endpoints"].as_array().unwrap();
            all.iter().any(|known| {
                known["tls"] == mode && known["because"].as_str().unwrap_or_default().contains(because)
            })
        })
        .unwrap();
}

/// Document 002, "External Service Communication": the app speaks plaintext, the external service sees the certificate of
/// the DestinationRule; with SIMPLE it sees none; a server of another name is refused by name.
#[test]
fn an_external_api_is_called_by_mutual_tls() {
    let Some(world) = World::new() else { return };
    world.name(HOST, &world.outside);
    let client = world.web.issue_with("spiffe://unused/x", |leaf| {
        leaf.subject_alt_names.clear();
        leaf.distinguished_name.push(rcgen::DnType::CommonName, "shop");
    });
    world.external_api(&client, "MUTUAL", "");
    let server = outside_server_content_without(&world.web.issue_server(&[HOST]), &world.web);
    let heard = tls_echo(&world.outside, 443, server);
    let sidecar = world.sidecar(&["--dns-refresh", "1s"]);
    wait_for_plan(&sidecar, "MUTUAL", "external-api-mtls");

    assert_eq!(call(&world.app, world.at(443)).unwrap(), b"an app that knows no TLS");
    let seen = heard.recv_timeout(SOON).unwrap();
    assert_eq!(seen.sni.as_deref(), Some(HOST));
    assert_eq!(seen.certificate.as_ref(), client.chain.first());
    let record = ended(&sidecar, Reason::Completed);
    assert_eq!(record.service.as_deref(), Some("api.external-service.com:443"));
    let tls = record.tls.unwrap();
    assert_eq!((tls.mode, tls.peer.as_str(), tls.local.as_str()), (TlsMode::Mutual, HOST, "CN=shop"));
    let files = sidecar.admin_json("/certs").unwrap()["destinationRuleFiles"].take();
    assert_eq!(files.as_array().unwrap().len(), 2, "{files}");
    assert!(files[1]["notAfter"].is_string(), "{files}");

    world.external_api(&client, "SIMPLE", "");
    wait_for_plan(&sidecar, "SIMPLE", "external-api-mtls");
    call(&world.app, world.at(443)).unwrap();
    assert_eq!(heard.recv_timeout(SOON).unwrap().certificate, None);

    world.external_api(&client, "SIMPLE", "      subjectAltNames: [billing.external-service.com]\n");
    let refused = wait_for(|| {
        let error = call(&world.app, world.at(443)).err()?;
        let by_name = |record: &ConnectionRecord| record.reason == Some(Reason::ServerNameUnexpected);
        sidecar.access_log().into_iter().find(by_name).map(|record| (error, record))
    });
    assert_eq!(refused.0.raw_os_error(), Some(ECONNRESET));
    let detail = refused.1.detail.unwrap();
    for part in ["billing.external-service.com is wanted", HOST] {
        assert!(detail.contains(part), "{part} is missing in: {detail}");
    }
}

fn wait_for<T>(ask: impl Fn() -> Option<T>) -> T {
    pillion_cli::lab::wait_until(SOON, "what was asked for", || Ok(ask())).unwrap()
}

const WILDCARD: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web, namespace: production}
spec:
  hosts: ['*.example.com']
  location: MESH_EXTERNAL
  resolution: NONE
  ports: [{number: 443, name: tls, protocol: TLS}]
";

/// A TLS client of the app's own; whether the server with its very certificate answers.
fn tls_call(world: &World, name: &'static str, port: u16) -> io::Result<()> {
    let mut config = pillion_testkit::tls::client(&world.web, None);
    config.alpn_protocols.clear();
    let stream = world.app.dial(world.at(port))?;
    let connection =
        ClientConnection::new(Arc::new(config), name.try_into().unwrap()).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(b"hello")?;
    stream.conn.send_close_notify();
    stream.flush()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer == b"hello" { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

/// With REGISTRY_ONLY the app's own TLS passes to the names that a wildcard takes, end to end, and nothing else does.
#[test]
fn registry_only_lets_out_to_the_server_names_of_a_wildcard_and_refuses_strangers() {
    let Some(world) = World::new() else { return };
    world.lab.mesh().write("wildcard.yaml", WILDCARD).unwrap();
    let heard =
        tls_echo(&world.outside, 443, outside_server(&world.web.issue_server(&["a.example.com"]), None));
    let plain = world.outside.start_pillion("app", &["example", "echo", "--listen", "0.0.0.0:7000"]).unwrap();
    plain.wait_for_line(SOON, "listening on").unwrap();
    let sidecar = world.sidecar(&["--outbound-traffic-policy", "REGISTRY_ONLY"]);

    tls_call(&world, "a.example.com", 443).unwrap();
    assert_eq!(heard.recv_timeout(SOON).unwrap().sni.as_deref(), Some("a.example.com"));
    let record = ended(&sidecar, Reason::Completed);
    assert_eq!(record.service.as_deref(), Some("*.example.com:443"));
    assert!(matches!(record.first_bytes, Some(FirstBytes::Tls { mesh: false, .. })), "{record:?}");
    assert_eq!(record.tls, None);

    for refused in [
        tls_call(&world, "a.example.org", 443),
        tls_call(&world, "example.com", 443),
        call(&world.app, world.at(443)).map(drop),
        call(&world.app, world.at(7000)).map(drop),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    let refused = wait_for(|| {
        let log = sidecar.access_log();
        let refused: Vec<_> =
            log.into_iter().filter(|record| record.reason == Some(Reason::DestinationUnknown)).collect();
        (refused.len() == 4).then_some(refused)
    });
    assert!(refused.iter().all(|record| record.detail.as_ref().unwrap().contains("REGISTRY_ONLY")));
    assert!(refused.iter().all(|record| record.upstream.is_none()));
    assert!(
        refused.iter().any(|record| record.detail.as_ref().unwrap().contains("server name a.example.org"))
    );
    assert!(sidecar.metrics().unwrap().contains("BlackHoleCluster"));

    // What is added to the registry is let out to at once.
    let service = Service { has_sidecar: false, ..Service::of("plain", 7000, &[world.outside.v4()]) };
    world.lab.mesh().service(&service).unwrap();
    wait_for(|| call(&world.app, world.at(7000)).ok());
}

/// Looking for a server name costs a server that speaks first no more than the detection timeout.
#[test]
fn a_server_that_speaks_first_is_heard_where_a_server_name_was_looked_for() {
    let Some(world) = World::new() else { return };
    world.lab.mesh().write("wildcard.yaml", WILDCARD).unwrap();
    let greeter = ["example", "greeter", "--listen", "0.0.0.0:443"];
    let greeter = world.outside.start_pillion("app", &greeter).unwrap();
    greeter.wait_for_line(SOON, "listening on").unwrap();
    let sidecar = world.sidecar(&["--detection-timeout", "500ms"]);
    let mut banner = [0; 19];
    world.app.dial(world.at(443)).unwrap().read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"220 greeter ready\r\n");
    let record =
        sidecar.wait_for_record(SOON, |record| record.first_bytes == Some(FirstBytes::Silent)).unwrap();
    assert_eq!((record.service, record.tls), (None, None));
}

/// The rule is for a name that DNS has just given another address, and the sidecar will not look by itself for an hour.
/// Plaintext to the new address goes out as the rule says; what is TLS already goes out as it is, and waits for no DNS.
#[test]
fn plaintext_is_not_let_out_to_a_name_of_a_rule_that_has_moved() {
    let Some(world) = World::new() else { return };
    let first = world.lab.node("first").unwrap();
    world.name(HOST, &first);
    let client = world.web.issue("spiffe://outside/shop");
    world.external_api(&client, "SIMPLE", "");
    let server = world.web.issue_server(&[HOST]);
    let heard = tls_echo(&world.outside, 443, outside_server(&server, None));
    let sidecar = world.sidecar(&["--dns-refresh", "1h"]);
    wait_for_plan(&sidecar, "SIMPLE", "external-api-mtls");

    tls_call(&world, HOST, 443).unwrap();
    assert!(heard.recv_timeout(SOON).is_ok());
    let record = ended(&sidecar, Reason::Completed);
    assert_eq!((record.service, record.tls), (None, None));

    world.name(HOST, &world.outside);
    assert_eq!(call(&world.app, world.at(443)).unwrap(), b"an app that knows no TLS");
    let record = sidecar.wait_for_record(SOON, |record| record.tls.is_some()).unwrap();
    assert_eq!(record.tls.unwrap().mode, TlsMode::Simple);
}

/// A connection in plaintext is open when a rule asks for TLS to its destination.
#[test]
fn an_open_connection_that_a_new_rule_would_make_otherwise_is_cut() {
    let Some(world) = World::new() else { return };
    let echo = world.outside.start_pillion("app", &["example", "echo", "--listen", "0.0.0.0:443"]).unwrap();
    echo.wait_for_line(SOON, "listening on").unwrap();
    world.name(HOST, &world.outside);
    let sidecar = world.sidecar(&["--dns-refresh", "1s"]);
    let mut open = world.app.dial(world.at(443)).unwrap();
    open.write_all(b"hello").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();

    world.external_api(&world.web.issue("spiffe://outside/shop"), "SIMPLE", "");
    open.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(open.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let detail = ended(&sidecar, Reason::PolicyChanged).detail.unwrap();
    assert!(detail.contains("DestinationRule production/external-api-mtls says SIMPLE"), "{detail}");
    assert!(detail.contains("this connection was made as DISABLE has it"), "{detail}");
}

/// Nobody listens there: what must not be dialled is not.
#[test]
fn a_server_whose_roots_cannot_be_read_is_not_even_dialled() {
    let Some(world) = World::new() else { return };
    world.name(HOST, &world.outside);
    let client = world.web.issue("spiffe://outside/shop");
    world.external_api(&client, "MUTUAL", "");
    let missing = world.lab.folder().join("ca.pem");
    fs::remove_file(&missing).unwrap();
    let outside: TcpListener = world.outside.listen(world.at(443)).unwrap();
    let sidecar = world.sidecar(&["--dns-refresh", "1s"]);
    wait_for_plan(&sidecar, "MUTUAL", "external-api-mtls");
    assert_eq!(call(&world.app, world.at(443)).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let detail = ended(&sidecar, Reason::TlsFilesUnusable).detail.unwrap();
    assert!(detail.contains("ca.pem: No such file"), "{detail}");
    outside.set_nonblocking(true).unwrap();
    assert!(outside.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock));

    // It comes, and a second later is in use.
    world.file("ca.pem", &world.web.bundle_pem());
    drop(outside);
    let heard =
        tls_echo(&world.outside, 443, outside_server(&world.web.issue_server(&[HOST]), Some(&world.web)));
    wait_for(|| call(&world.app, world.at(443)).ok());
    assert_eq!(
        heard.recv_timeout(Duration::from_secs(5)).unwrap().certificate.as_ref(),
        client.chain.first()
    );
}
