//! pillion and Envoy side by side before the same apps, with the same policies, asked the same.
//!
//! Envoy has a listener of its own for each set of policies, on an address of its own and on the apps' ports. pillion has
//! one folder of resources, into which the sets are put one after the other; several pillions share the sets.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use pillion_testkit::Held;
use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::super::envoy::{self, Envoy};
use super::super::harness::{Mesh, PATIENCE, Process, eventually, listening};
use super::generate::Ports;
use super::istiod::{Chain, rbac_filters};
use super::policy::{OWN_APP, Policy, yaml};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// Of namespace `default`; pillion believes its `X-Forwarded-For`.
    Frontend,
    /// Of namespace `production`.
    Payments,
    /// Of namespace `prod-eu`.
    FrontendEu,
    /// In plaintext.
    Nobody,
}

/// What is asked, and from where.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) caller: Caller,
    pub(super) source: &'static str,
    /// Which of the two ports.
    pub(super) port: usize,
    pub(super) sni: Option<&'static str>,
    /// `None` for a connection alone.
    pub(super) request: Option<Request>,
}

/// What goes over the wire, to the byte.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) target: String,
    pub(super) host: &'static str,
    pub(super) fields: Vec<(&'static str, String)>,
}

/// What came back: the status and the body of an answer, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answered {
    Status(u16, String),
    /// Closed or reset without an answer.
    Nothing,
}

impl Caller {
    const KNOWN: [(Self, &'static str); 3] = [
        (Self::Frontend, "spiffe://cluster.local/ns/default/sa/frontend"),
        (Self::Payments, "spiffe://cluster.local/ns/production/sa/payments"),
        (Self::FrontendEu, "spiffe://cluster.local/ns/prod-eu/sa/frontend"),
    ];
}

impl Asked {
    /// The bytes that go over the wire.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let Some(Request { method, target, host, fields }) = &self.request else { return b"hello".to_vec() };
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}Content-Length: 0\r\n\r\n")
            .into_bytes()
    }
}

/// Both proxies, for some sets of policies.
pub(super) struct Stage {
    mesh: Mesh,
    held: Vec<(Caller, Held)>,
    ports: Ports,
    chain: Chain,
    _envoy: Envoy,
}

/// A pillion whose policies change.
pub(super) struct Pillion {
    process: Process,
    folder: PathBuf,
    listeners: Ports,
    admin: SocketAddr,
}

impl Stage {
    /// Envoy is up when this returns.
    pub(super) fn new(binary: &Path, ports: Ports, chain: Chain, sets: &[Vec<Policy>]) -> Self {
        let mesh = Mesh::new();
        let held = Caller::KNOWN.map(|(caller, id)| (caller, mesh.ca.issue(id))).into();
        let listeners: Vec<Value> = sets
            .iter()
            .enumerate()
            .map(|(set, policies)| listener(&mesh, set, ports, chain, policies))
            .collect();
        let app = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ports[0]);
        let envoy = Envoy::start(binary, &mesh, &listeners, &envoy::cluster(app, None));
        Self { mesh, held, ports, chain, _envoy: envoy }
    }

    /// A pillion that stands before the same apps, ready, and without policies yet.
    fn pillion(&self, number: usize) -> Pillion {
        let name = format!("pillion-{number}");
        let folder = self.mesh.path(&name);
        fs::create_dir(&folder).unwrap();
        let protocol = if self.chain == Chain::Http { "HTTP" } else { "TCP" };
        fs::write(folder.join("service.yaml"), declared(self.ports, protocol)).unwrap();
        let [one, two] =
            self.ports.map(|port| format!("{{address: \"127.0.0.1:0\", forward: \"127.0.0.1:{port}\"}}"));
        let (_, trusted) = Caller::KNOWN[0];
        let process = self.mesh.sidecar_in(
            &name,
            OWN_APP,
            &format!("inbound: {{trustedProxies: [\"{trusted}\"], listeners: [{one}, {two}]}}"),
        );
        let listeners = self.ports.map(|port| {
            let before = format!("127.0.0.1:{port}");
            process.wait_for(|line| line.contains(&before).then(|| listening(line, "(inbound"))?).port()
        });
        let admin = process.wait_for(|line| listening(line, "(admin"));
        Pillion { process, folder, listeners, admin }
    }

    /// Puts each set in force at some pillion and calls `ask` with its number; what that finds is given back. Several pillions
    /// share the sets, since each waits for its own files to be read.
    pub(super) fn with_each<T: Send>(
        &self,
        sets: &[Vec<Policy>],
        ask: impl Fn(usize, &Pillion) -> Vec<T> + Sync,
    ) -> Vec<T> {
        const PILLIONS: usize = 6;
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for number in 0..PILLIONS {
                let (next, found, ask) = (&next, &found, &ask);
                scope.spawn(move || {
                    let pillion = self.pillion(number);
                    loop {
                        let set = next.fetch_add(1, Ordering::Relaxed);
                        let Some(policies) = sets.get(set) else { return };
                        pillion.put(set, policies);
                        let new = ask(set, &pillion);
                        found.lock().unwrap().extend(new);
                    }
                });
            }
        });
        found.into_inner().unwrap()
    }

    /// What Envoy answers with the policies of `set`.
    pub(super) fn ask_envoy(&self, set: usize, asked: &Asked, bytes: &[u8]) -> Answered {
        self.ask(SocketAddr::new(address_of(set), self.ports[asked.port]), asked, bytes)
    }

    /// What pillion answers with the policies that it has.
    pub(super) fn ask_pillion(&self, pillion: &Pillion, asked: &Asked, bytes: &[u8]) -> Answered {
        self.ask(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), pillion.listeners[asked.port]), asked, bytes)
    }

    fn ask(&self, address: SocketAddr, asked: &Asked, bytes: &[u8]) -> Answered {
        let stream = dial(asked.source.parse().unwrap(), address);
        let held = self.held.iter().find(|(caller, _)| *caller == asked.caller);
        let answered = match held {
            None => exchange(stream, bytes, self.chain),
            Some((_, held)) => exchange(self.tls(held, asked.sni, stream), bytes, self.chain),
        };
        match answered {
            Ok(answered) => answered,
            Err(error) => match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    Answered::Nothing
                }
                _ => panic!("{asked:?} to {address}: {error}"),
            },
        }
    }

    fn tls(
        &self,
        held: &Held,
        sni: Option<&'static str>,
        stream: TcpStream,
    ) -> StreamOwned<ClientConnection, TcpStream> {
        let mut config = pillion_testkit::tls::client(&self.mesh.ca, Some(held));
        config.enable_sni = sni.is_some();
        let name = ServerName::try_from(sni.unwrap_or("unnamed")).unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
    }
}

impl Pillion {
    /// Puts policies in force, and is back when they are: with them comes a service that is known by then.
    fn put(&self, set: usize, policies: &[Policy]) {
        let host = format!("set-{set}.marker");
        let marker = format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: marker}}\n\
             spec: {{hosts: [{host}], location: MESH_EXTERNAL, resolution: STATIC, \
             ports: [{{number: 1, name: none, protocol: TCP}}], endpoints: [{{address: 192.0.2.1}}]}}\n"
        );
        let draft = self.folder.join(".draft");
        fs::write(&draft, yaml(policies) + &marker).unwrap();
        fs::rename(draft, self.folder.join("policies.yaml")).unwrap();
        let waited = eventually(|| {
            let fault = &self.page("/config_dump")["policy"]["lastError"];
            assert_eq!(*fault, Value::Null, "pillion takes the policies that Istio takes");
            let page = self.page("/endpoints");
            let hosts = page["endpoints"].as_array().into_iter().flatten().map(|endpoint| &endpoint["host"]);
            hosts.into_iter().any(|known| *known == *host).then_some(())
        });
        assert!(waited.is_some(), "set {set} never came:\n{}", self.process.printed());
    }

    fn page(&self, path: &str) -> Value {
        let page = pillion_cli::http::get(&format!("http://{}{path}", self.admin), PATIENCE).unwrap();
        serde_json::from_str(&page.body).unwrap()
    }
}

/// The workload's service, so that its ports are read as what they are.
fn declared(ports: Ports, protocol: &str) -> String {
    let [one, two] = ports;
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: backend}}\n\
         spec: {{hosts: [backend.default.svc.cluster.local], location: MESH_INTERNAL, resolution: STATIC, \
         workloadSelector: {{labels: {{app: {OWN_APP}}}}}, \
         ports: [{{number: 80, name: one, protocol: {protocol}, targetPort: {one}}}, \
         {{number: 81, name: two, protocol: {protocol}, targetPort: {two}}}]}}\n"
    )
}

/// The address of Envoy's listener for a set of policies.
fn address_of(set: usize) -> IpAddr {
    let (high, low) = (u8::try_from(set / 250).unwrap(), u8::try_from(set % 250).unwrap());
    Ipv4Addr::new(127, 83, high, low + 1).into()
}

/// An inbound listener as istiod writes it for PERMISSIVE, on both ports.
fn listener(mesh: &Mesh, set: usize, ports: Ports, chain: Chain, policies: &[Policy]) -> Value {
    let address =
        |port| json!({"socket_address": {"address": address_of(set).to_string(), "port_value": port}});
    let mut filters = rbac_filters(policies, chain);
    let filters = match chain {
        Chain::Tcp => {
            filters.extend(envoy::tcp_proxy().as_array().cloned().unwrap());
            Value::from(filters)
        }
        Chain::Http => json!([http_connection_manager(filters)]),
    };
    let mut listener = envoy::server_listener_with(mesh, "PERMISSIVE", ("TLSv1_2", "TLSv1_3"), &filters);
    listener["name"] = format!("inbound-{set}").into();
    listener["address"] = address(ports[0]);
    listener["additional_addresses"] = json!([{"address": address(ports[1])}]);
    listener
}

/// With Istio's path normalization DECODE_AND_MERGE_SLASHES.
fn http_connection_manager(mut filters: Vec<Value>) -> Value {
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }));
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "inbound",
            "codec_type": "AUTO",
            "use_remote_address": false,
            "normalize_path": true,
            "merge_slashes": true,
            "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http_filters": filters,
            "route_config": {
                "name": "inbound",
                "virtual_hosts": [{
                    "name": "inbound",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}}],
                }],
            },
        },
    })
}

/// Connects from a given address of this host.
fn dial(source: IpAddr, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(&address.into()).unwrap_or_else(|error| panic!("{source} to {address}: {error}"));
    socket.into()
}

fn exchange<S: Read + Write>(mut stream: S, bytes: &[u8], chain: Chain) -> io::Result<Answered> {
    stream.write_all(bytes)?;
    match chain {
        Chain::Http => read_answer(&mut stream),
        Chain::Tcp => {
            let mut echo = vec![0; bytes.len()];
            stream.read_exact(&mut echo)?;
            assert_eq!(echo, bytes);
            Ok(Answered::Status(200, String::new()))
        }
    }
}

/// Reads an answer with `Content-Length`.
fn read_answer<S: Read>(stream: &mut S) -> io::Result<Answered> {
    let head = read_head(stream)?;
    let status =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{head}"));
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    let mut body = vec![0; length.unwrap_or_default()];
    stream.read_exact(&mut body)?;
    Ok(Answered::Status(status, String::from_utf8_lossy(&body).into_owned()))
}

fn read_head<S: Read>(stream: &mut S) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Two apps that answer each request with `method target host` as they heard it, the host in lower case (in which pillion
/// passes it on, and Envoy as it came), for as long as the test runs.
pub(super) fn http_apps() -> Ports {
    apps(|mut stream| {
        while let Ok(head) = read_head(&mut stream) {
            let host = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("host").then(|| value.trim())
            });
            let asked = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1");
            let body = format!("{asked} {}", host.unwrap_or_default().to_ascii_lowercase());
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// Two apps that send back what they get.
pub(super) fn echo_apps() -> Ports {
    apps(|mut stream| {
        let mut from = stream.try_clone().unwrap();
        let _ = io::copy(&mut from, &mut stream);
    })
}

fn apps(serve: impl Fn(TcpStream) + Send + Copy + 'static) -> Ports {
    [(), ()].map(|()| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || serve(stream));
            }
        });
        port
    })
}
