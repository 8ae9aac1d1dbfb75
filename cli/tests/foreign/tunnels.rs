//! Tunnels (HBONE) with Envoy at the other end, as Istio's gateways and waypoints speak them: HTTP/2 CONNECT over mutual TLS at
//! port 15008 of an address of loopback that each test has for itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};

use rstest::rstest;
use serde_json::{Value, json};

use super::envoy::{Envoy, cluster, common_tls, loopback, tcp_proxy};
use super::harness::{Mesh, Process, call, echo_app, id, listening, program};

const DOOR: u16 = 15008;
const TLS: (&str, &str) = ("TLSv1_3", "TLSv1_3");

/// An address of this host that no other test here has, nor another run of them.
fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 128 | (high & 63), low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

fn at(ip: IpAddr, port: u16) -> Value {
    json!({"socket_address": {"address": ip.to_string(), "port_value": port}})
}

/// A sidecar with the door at `ip` in front of `app`, and where its explicit listener is, which streams ask for.
fn with_door(mesh: &Mesh, ip: IpAddr, app: SocketAddr) -> (Process, SocketAddr) {
    let settings = format!(
        "inbound: {{tunnel: \"{ip}:{DOOR}\", listeners: [{{address: \"{ip}:0\", forward: \"{app}\"}}]}}"
    );
    let process = mesh.sidecar("backend", &settings);
    let address = process.wait_for(|line| listening(line, "(inbound, forward"));
    (process, address)
}

/// What takes whatever an app says into a tunnel, to `target`.
fn originator(mesh: &Mesh, server: &str, ip: IpAddr, target: SocketAddr) -> (Value, Value) {
    let mut filters = tcp_proxy();
    filters[0]["typed_config"]["tunneling_config"] = json!({"hostname": target.to_string()});
    let listener =
        json!({"name": "outbound", "address": loopback(0), "filter_chains": [{"filters": filters}]});
    let tls = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": common_tls(mesh, "frontend", &["h2"], &json!({"exact": id(server)}), TLS),
        },
    });
    let mut upstream = cluster(SocketAddr::new(ip, DOOR), Some(tls));
    upstream["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] = at(ip, DOOR);
    upstream["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {"allow_connect": true}},
        },
    });
    (listener, upstream)
}

/// The door of a peer: what comes in a tunnel goes to the cluster, or is answered by `answer`.
fn terminator(mesh: &Mesh, ip: IpAddr, answer: Option<u16>) -> Value {
    let route = match answer {
        Some(status) => json!({"match": {"connect_matcher": {}}, "direct_response": {"status": status}}),
        None => json!({
            "match": {"connect_matcher": {}},
            "route": {
                "cluster": "upstream",
                "timeout": "0s",
                "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
            },
        }),
    };
    let manager = json!([{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type":
                "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "door",
            "http2_protocol_options": {"allow_connect": true},
            "upgrade_configs": [{"upgrade_type": "CONNECT"}],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
        },
    }]);
    let tls = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true,
            "common_tls_context":
                common_tls(mesh, "backend", &["h2"], &json!({"prefix": "spiffe://cluster.local/"}), TLS),
        },
    });
    let chain = json!({"transport_socket": tls, "filters": manager});
    json!({"name": "door", "address": at(ip, DOOR), "filter_chains": [chain]})
}

/// The service `backend:80` at `ip`, which takes tunnels.
fn backend_in_tunnels(mesh: &Mesh, ip: IpAddr) {
    mesh.resource(
        "backend",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: backend}}\nspec:\n  \
             hosts: [backend.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
             ports: [{{number: 80, name: tcp, protocol: TCP, targetPort: 8080}}]\n  endpoints:\n  \
             - {{address: {ip}, serviceAccount: backend, labels: {{networking.istio.io/tunnel: http}}}}\n"
        ),
    );
}

/// More than a window of either side.
fn much() -> Vec<u8> {
    (0..3_000_000_u32).map(|number| u8::try_from(number / 7 % 251).unwrap()).collect()
}

#[test]
fn envoy_comes_to_pillion_in_a_tunnel() {
    let Some(binary) = program("PILLION_TEST_ENVOY", "envoy") else { return };
    let (mesh, ip) = (Mesh::new(), own_address());
    mesh.mode("STRICT");
    let (pillion, target) = with_door(&mesh, ip, echo_app());
    let (listener, upstream) = originator(&mesh, "backend", ip, target);
    let envoy = Envoy::start(&binary, &mesh, &[listener], &upstream);
    assert_eq!(call(envoy.address, b"from Envoy").unwrap(), b"from Envoy");
    assert_eq!(call(envoy.address, b"again").unwrap(), b"again");
    let much = much();
    assert!(call(envoy.address, &much).unwrap() == much);
    let first = pillion.wait_for_line(&[&id("frontend"), "(new)", "completed"]);
    assert!(first.contains("tunnel "), "{first}");
    pillion.wait_for(|line| {
        (line.contains("tunnel ") && !line.contains("(new)") && line.contains("completed")).then_some(())
    });
}

/// Each stream is judged by the identity that Envoy has proved; it is told by 403, and its client by an end.
#[test]
fn what_envoy_may_not_reach_is_refused_in_its_tunnel() {
    let Some(binary) = program("PILLION_TEST_ENVOY", "envoy") else { return };
    let (mesh, ip) = (Mesh::new(), own_address());
    mesh.resource(
        "deny",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny}\n\
         spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}]}]}\n",
    );
    let (pillion, target) = with_door(&mesh, ip, echo_app());
    let (listener, upstream) = originator(&mesh, "backend", ip, target);
    let envoy = Envoy::start(&binary, &mesh, &[listener], &upstream);
    assert!(call(envoy.address, b"x").map_or(true, |answer| answer.is_empty()));
    pillion.wait_for_line(&["authorization_denied", &id("frontend")]);
}

/// Envoy's gateway cannot be used, nor can ours be, to reach another host.
#[test]
fn envoy_reaches_no_other_host_by_pillions_door() {
    let Some(binary) = program("PILLION_TEST_ENVOY", "envoy") else { return };
    let (mesh, ip, other) = (Mesh::new(), own_address(), echo_app());
    let (pillion, _target) = with_door(&mesh, ip, echo_app());
    let (listener, upstream) = originator(&mesh, "backend", ip, other);
    let envoy = Envoy::start(&binary, &mesh, &[listener], &upstream);
    assert!(call(envoy.address, b"x").map_or(true, |answer| answer.is_empty()));
    pillion.wait_for_line(&["address_not_ours"]);
}

#[test]
fn pillion_comes_to_envoy_in_a_tunnel() {
    let Some(binary) = program("PILLION_TEST_ENVOY", "envoy") else { return };
    let (mesh, ip, app) = (Mesh::new(), own_address(), echo_app());
    let envoy = Envoy::start(&binary, &mesh, &[terminator(&mesh, ip, None)], &cluster(app, None));
    backend_in_tunnels(&mesh, ip);
    let (pillion, address) = mesh.towards_backend();
    assert_eq!(call(address, b"from pillion").unwrap(), b"from pillion");
    assert_eq!(call(address, b"again").unwrap(), b"again");
    let much = much();
    assert!(call(address, &much).unwrap() == much);
    pillion.wait_for_line(&[&id("backend"), "tunnel 1 (new)", "completed"]);
    pillion.wait_for_line(&[&id("backend"), "tunnel 1  ", "completed"]);
    // Each of its threads, one for each core, may have a tunnel of its own; each connection by itself would be one handshake.
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let calls = threads + 10;
    for _ in 0..calls {
        assert_eq!(call(address, b"and again").unwrap(), b"and again");
    }
    let handshakes = envoy.counter("listener.*.ssl.handshake");
    assert!((1..=threads as u64).contains(&handshakes), "{handshakes} handshakes");
}

#[rstest]
#[case(403, "denied_by_peer")]
#[case(503, "destination_unreachable")]
#[case(404, "tunnel_refused")]
fn what_envoy_answers_in_a_tunnel_is_told(#[case] status: u16, #[case] reason: &str) {
    let Some(binary) = program("PILLION_TEST_ENVOY", "envoy") else { return };
    let (mesh, ip, app) = (Mesh::new(), own_address(), echo_app());
    let door = terminator(&mesh, ip, Some(status));
    let _envoy = Envoy::start(&binary, &mesh, &[door], &cluster(app, None));
    backend_in_tunnels(&mesh, ip);
    let (pillion, address) = mesh.towards_backend();
    assert!(call(address, b"x").is_err());
    pillion.wait_for_line(&[reason]);
}
