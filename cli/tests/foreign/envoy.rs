//! Envoy in Istio's place: its listeners, clusters, ALPN, SNI and SAN checks as istiod writes them for a sidecar.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use rstest::rstest;
use serde_json::{Value, json};

use super::harness::{Mesh, Process, call, echo_app, eventually, id, program, text};

/// An Envoy, and where the first of its listeners listens.
pub(super) struct Envoy {
    process: Process,
    pub(super) address: SocketAddr,
    admin: SocketAddr,
}

impl Envoy {
    pub(super) fn start(binary: &Path, mesh: &Mesh, listeners: &[Value], cluster: &Value) -> Self {
        let config = json!({
            "admin": {"address": loopback(0)},
            "static_resources": {"listeners": listeners, "clusters": [cluster]},
        });
        let (path, admin_path) = (mesh.path("envoy.json"), mesh.path("envoy-admin"));
        fs::write(&path, config.to_string()).unwrap();
        let mut command = Command::new(binary);
        command
            .args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "--log-level",
                "info",
                "--admin-address-path",
            ])
            .arg(&admin_path)
            .arg("--config-path")
            .arg(&path);
        let process = Process::start(command);
        let admin = eventually(|| fs::read_to_string(&admin_path).ok()?.trim().parse::<SocketAddr>().ok())
            .unwrap_or_else(|| panic!("Envoy did not start:\n{}", process.printed()));
        let address = eventually(|| {
            let listeners: Value = serde_json::from_str(&get(admin, "/listeners?format=json")?).ok()?;
            let socket = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
            let port = u16::try_from(socket["port_value"].as_u64()?).ok()?;
            Some(SocketAddr::new(socket["address"].as_str()?.parse().ok()?, port))
        })
        .unwrap_or_else(|| panic!("Envoy does not listen:\n{}", process.printed()));
        Self { process, address, admin }
    }

    /// The value of one of its counters.
    pub(super) fn counter(&self, name: &str) -> u64 {
        let stats = get(self.admin, &format!("/stats?filter=^{name}$")).unwrap_or_default();
        stats.lines().filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok()).sum()
    }
}

/// The body of Envoy's answer.
fn get(admin: SocketAddr, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n");
    let answer = String::from_utf8(call_whole(admin, request.as_bytes())?).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Some(body.to_owned());
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            break;
        }
        whole.push_str(tail.get(..size)?);
        rest = tail.get(size + 2..)?;
    }
    Some(whole)
}

/// Without half-close, which Envoy's admin server takes for a client that left.
fn call_whole(address: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(super::harness::PATIENCE)).ok()?;
    stream.write_all(bytes).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(answer)
}

pub(super) fn loopback(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

pub(super) fn cluster(endpoint: SocketAddr, transport_socket: Option<Value>) -> Value {
    let mut cluster = json!({
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "10s",
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": loopback(endpoint.port())}}]}],
        },
    });
    if let Some(socket) = transport_socket {
        cluster["transport_socket"] = socket;
    }
    cluster
}

pub(super) fn tcp_proxy() -> Value {
    json!([{
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "tcp",
            "cluster": "upstream",
        },
    }])
}

/// Certificate, key, and a check of the peer's URI SAN.
pub(super) fn common_tls(mesh: &Mesh, name: &str, alpn: &[&str], san: &Value, tls: (&str, &str)) -> Value {
    let paths = mesh.identity(name);
    json!({
        "alpn_protocols": alpn,
        "tls_params": {"tls_minimum_protocol_version": tls.0, "tls_maximum_protocol_version": tls.1},
        "tls_certificates": [{
            "certificate_chain": {"filename": text(&paths.certificate)},
            "private_key": {"filename": text(&paths.key)},
        }],
        "validation_context": {
            "trusted_ca": {"filename": text(&paths.bundle)},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": san}],
        },
    })
}

/// What istiod writes into a client's cluster for ISTIO_MUTUAL.
fn upstream_tls(mesh: &Mesh, server: &str, tls: (&str, &str)) -> Value {
    let alpn = ["istio-peer-exchange", "istio"];
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": "outbound_.80_._.backend.default.svc.cluster.local",
            "common_tls_context": common_tls(mesh, "frontend", &alpn, &json!({"exact": id(server)}), tls),
        },
    })
}

/// What istiod writes into a server's inbound chain of mutual TLS.
fn downstream_tls(mesh: &Mesh, tls: (&str, &str)) -> Value {
    let alpn = ["istio-peer-exchange", "h2", "http/1.1"];
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true,
            "common_tls_context":
                common_tls(mesh, "backend", &alpn, &json!({"prefix": "spiffe://cluster.local/"}), tls),
        },
    })
}

/// An outbound listener.
fn client_listener() -> Value {
    json!({"name": "outbound", "address": loopback(0), "filter_chains": [{"filters": tcp_proxy()}]})
}

/// An inbound listener that passes bytes on.
fn server_listener(mesh: &Mesh, mode: &str, tls: (&str, &str)) -> Value {
    server_listener_with(mesh, mode, tls, &tcp_proxy())
}

/// An inbound listener: the chain of mutual TLS by ALPN, and under PERMISSIVE one for plaintext, each with `filters`.
pub(super) fn server_listener_with(mesh: &Mesh, mode: &str, tls: (&str, &str), filters: &Value) -> Value {
    let mesh_alpn = ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];
    let mut chains = vec![json!({
        "filter_chain_match": {"transport_protocol": "tls", "application_protocols": mesh_alpn},
        "transport_socket": downstream_tls(mesh, tls),
        "filters": filters,
    })];
    if mode == "PERMISSIVE" {
        chains.push(json!({"filter_chain_match": {"transport_protocol": "raw_buffer"}, "filters": filters}));
    }
    json!({
        "name": "inbound",
        "address": loopback(0),
        "listener_filters": [{
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            },
        }],
        "filter_chains": chains,
    })
}

const ANY_TLS: (&str, &str) = ("TLSv1_2", "TLSv1_3");
const TLS_1_2: (&str, &str) = ("TLSv1_2", "TLSv1_2");

#[rstest]
#[case::strict("STRICT", ANY_TLS, "TLSv1.3")]
#[case::permissive("PERMISSIVE", ANY_TLS, "TLSv1.3")]
#[case::strict_tls_1_2("STRICT", TLS_1_2, "TLSv1.2")]
fn envoy_calls_pillion(#[case] mode: &str, #[case] tls: (&str, &str), #[case] version: &str) {
    let Some(binary) = program("PILLION_TEST_ENVOY", "envoy") else { return };
    let mesh = Mesh::new();
    mesh.mode(mode);
    let (pillion, address) = mesh.in_front_of(echo_app());
    let upstream = cluster(address, Some(upstream_tls(&mesh, "backend", tls)));
    let envoy = Envoy::start(&binary, &mesh, &[client_listener()], &upstream);
    assert_eq!(call(envoy.address, b"from Envoy").unwrap(), b"from Envoy");
    pillion.wait_for_line(&[&id("frontend"), version, "completed"]);
    assert_eq!(envoy.counter("cluster.upstream.ssl.fail_verify_san"), 0);
}

/// Envoy's own secure naming refuses pillion where it stands for another workload than wanted.
#[test]
fn envoy_refuses_a_pillion_that_is_somebody_else() {
    let Some(binary) = program("PILLION_TEST_ENVOY", "envoy") else { return };
    let mesh = Mesh::new();
    mesh.mode("STRICT");
    let (pillion, address) = mesh.in_front_of(echo_app());
    let upstream = cluster(address, Some(upstream_tls(&mesh, "payments", ANY_TLS)));
    let envoy = Envoy::start(&binary, &mesh, &[client_listener()], &upstream);
    assert!(call(envoy.address, b"x").map_or(true, |answer| answer.is_empty()));
    assert!(
        eventually(|| (envoy.counter("cluster.upstream.ssl.fail_verify_san") > 0).then_some(())).is_some()
    );
    pillion.wait_for_line(&["peer_refused"]);
}

#[test]
fn envoys_plaintext_is_refused_by_strict_and_passed_by_permissive() {
    let Some(binary) = program("PILLION_TEST_ENVOY", "envoy") else { return };
    for (mode, passes) in [("STRICT", false), ("PERMISSIVE", true)] {
        let mesh = Mesh::new();
        mesh.mode(mode);
        let (_pillion, address) = mesh.in_front_of(echo_app());
        let envoy = Envoy::start(&binary, &mesh, &[client_listener()], &cluster(address, None));
        let answer = call(envoy.address, b"plain").unwrap_or_default();
        assert_eq!(answer == b"plain", passes, "{mode}");
    }
}

#[rstest]
#[case::strict("STRICT", ANY_TLS, "TLSv1.3")]
#[case::permissive("PERMISSIVE", ANY_TLS, "TLSv1.3")]
#[case::strict_tls_1_2("STRICT", TLS_1_2, "TLSv1.2")]
fn pillion_calls_envoy(#[case] mode: &str, #[case] tls: (&str, &str), #[case] version: &str) {
    let Some(binary) = program("PILLION_TEST_ENVOY", "envoy") else { return };
    let mesh = Mesh::new();
    let app = echo_app();
    let envoy = Envoy::start(&binary, &mesh, &[server_listener(&mesh, mode, tls)], &cluster(app, None));
    mesh.backend_at(envoy.address);
    let (pillion, address) = mesh.towards_backend();
    assert_eq!(call(address, b"from pillion").unwrap(), b"from pillion");
    pillion.wait_for_line(&[&id("backend"), version, "completed"]);
    assert!(envoy.counter("listener.*.ssl.handshake") > 0, "{}", envoy.process.printed());
}

/// Envoy resumes its sessions as client and as server; a sidecar does so with it, and each connection is what it was.
#[rstest]
#[case::envoy_calls(true)]
#[case::pillion_calls(false)]
fn envoy_and_pillion_resume_their_sessions(#[case] envoy_calls: bool) {
    let Some(binary) = program("PILLION_TEST_ENVOY", "envoy") else { return };
    let mesh = Mesh::new();
    mesh.mode("STRICT");
    let app = echo_app();
    let (_envoy, pillion, address, peer) = if envoy_calls {
        let (pillion, address) = mesh.in_front_of(app);
        let upstream = cluster(address, Some(upstream_tls(&mesh, "backend", ANY_TLS)));
        let envoy = Envoy::start(&binary, &mesh, &[client_listener()], &upstream);
        let address = envoy.address;
        (envoy, pillion, address, "frontend")
    } else {
        let listener = server_listener(&mesh, "STRICT", ANY_TLS);
        let envoy = Envoy::start(&binary, &mesh, &[listener], &cluster(app, None));
        mesh.backend_at(envoy.address);
        let (pillion, address) = mesh.towards_backend();
        (envoy, pillion, address, "backend")
    };
    let peer = id(peer);
    let resumed = |line: &str| line.contains(&peer) && line.contains(" resumed  ");
    let seen = eventually(|| {
        assert_eq!(call(address, b"again").unwrap(), b"again");
        pillion.printed().lines().any(resumed).then_some(())
    });
    assert!(seen.is_some(), "no session was resumed:\n{}", pillion.printed());
}
