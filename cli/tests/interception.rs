//! Whole meshes of real processes on hosts of their own: the rules, the sidecars and the apps, as the kernel joins them.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use pillion_cli::lab::{Node, RunningSidecar, Sidecar, wait_until};
use pillion_cli::wiretap::{contains, payload};
use pillion_mesh::policy::mode::Mode;
use pillion_mesh::reason::Reason;
use pillion_mesh::wire::{ConnectionRecord, Direction, FirstBytes};
use rstest::rstest;
use rustix::process::Signal;

use common::{
    CLIENT_ID, ECONNRESET, Family, Interception, PORT, SERVER_ID, SOON, Stage, echoes, errno_of_call,
    exchange, process, seen_client, skip,
};

/// The newest connection that `sidecar` has served by mutual TLS, once there is one.
fn newest_mutual(sidecar: &RunningSidecar, direction: Direction) -> ConnectionRecord {
    sidecar.wait_for_record(SOON, |record| record.direction == direction && record.tls.is_some()).unwrap()
}

/// The newest connection that `sidecar` has ended for this reason, once there is one.
fn ended(sidecar: &RunningSidecar, reason: Reason) -> ConnectionRecord {
    sidecar.wait_for_record(SOON, |record| record.reason == Some(reason)).unwrap()
}

#[rstest]
fn a_call_is_mutual_tls_and_the_app_sees_the_client_that_the_interception_shows(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(Interception::Redirect, Interception::Tproxy)] interception: Interception,
) {
    let Some(stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let _app = stage.app("backend", family.any());
    let (client_sidecar, server_sidecar) = stage.sidecars(interception);
    let wire = stage.lab.switch().tap(&[PORT]).unwrap();

    let seen = seen_client(&stage.client, stage.service(family)).unwrap();
    let shown = match interception {
        Interception::Redirect => family.sidecar_source(),
        Interception::Tproxy => family.of(&stage.client),
    };
    assert_eq!(seen, shown);

    let record = newest_mutual(&server_sidecar, Direction::Inbound);
    let tls = record.tls.unwrap();
    assert_eq!((tls.peer.as_str(), tls.local.as_str()), (CLIENT_ID, SERVER_ID));
    assert_eq!((&*tls.version, &*tls.group), ("TLSv1.3", "X25519MLKEM768"));
    assert_eq!(record.original_destination, Some(stage.service(family)));
    assert_eq!(record.client.ip(), family.of(&stage.client));
    assert_eq!(record.mode.unwrap().mode, Mode::Strict);
    assert_eq!(record.reason, Some(Reason::Completed));

    let record = newest_mutual(&client_sidecar, Direction::Outbound);
    let tls = record.tls.unwrap();
    assert_eq!((tls.peer.as_str(), tls.local.as_str()), (SERVER_ID, CLIENT_ID));
    assert_eq!(record.reason, Some(Reason::Completed));

    let heard = wait_until(SOON, "the call on the wire", || {
        let heard = payload(&wire.segments(), |_| true);
        Ok((heard.len() > 1000).then_some(heard))
    })
    .unwrap();
    assert!(!contains(&heard, b"HTTP/1"), "plaintext on the wire");
}

#[rstest]
fn an_app_on_loopback_alone_is_reached_where_the_sidecar_is_told_so(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(Interception::Redirect, Interception::Tproxy)] interception: Interception,
    #[values("PASSTHROUGH", "LOCALHOST")] policy: &str,
) {
    let Some(stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let _app = stage.app("backend", family.loopback());
    let _client = interception.sidecar("client").start(&stage.client, &stage.ca).unwrap();
    let sidecar = interception.sidecar("server").args(&["--inbound-traffic-policy", policy]);
    let sidecar = sidecar.start(&stage.server, &stage.ca).unwrap();
    let call = seen_client(&stage.client, stage.service(family));
    if policy == "LOCALHOST" {
        assert_eq!(call.unwrap(), family.sidecar_source());
    } else {
        assert_eq!(call.unwrap_err().kind(), ErrorKind::ConnectionReset);
        ended(&sidecar, Reason::AppUnreachable);
    }
}

/// Through its virtual address a service that calls itself goes out and comes in again. To an address of its own host
/// it speaks directly: that never leaves the host (Istio's rules say the same).
#[rstest]
fn a_service_that_calls_itself_goes_out_and_comes_in_by_mutual_tls(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(Interception::Redirect, Interception::Tproxy)] interception: Interception,
) {
    let Some(stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let virtual_ip: IpAddr = if family == Family::V4 { "10.96.0.1" } else { "fd96::1" }.parse().unwrap();
    let itself = family.of(&stage.server);
    let entry = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: itself}}
spec:
  hosts: [itself]
  addresses: ['{virtual_ip}']
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, targetPort: {PORT}, name: tcp, protocol: TCP}}]
  endpoints:
  - {{address: '{itself}', serviceAccount: server, labels: {{app: server, security.istio.io/tlsMode: istio}}}}
"
    );
    stage.lab.mesh().write("itself.yaml", &entry).unwrap();
    stage.server.run("ip", &["route", "add", &virtual_ip.to_string(), "dev", "eth0"]).unwrap();
    let _app = stage.app("backend", family.any());
    let sidecar = interception.sidecar("server").start(&stage.server, &stage.ca).unwrap();

    let seen = seen_client(&stage.server, SocketAddr::new(virtual_ip, 80)).unwrap();
    for direction in [Direction::Outbound, Direction::Inbound] {
        let record = newest_mutual(&sidecar, direction);
        let tls = record.tls.unwrap();
        assert_eq!((tls.peer.as_str(), tls.local.as_str()), (SERVER_ID, SERVER_ID));
        assert_eq!(record.reason, Some(Reason::Completed));
    }
    let shown = if interception == Interception::Redirect { family.sidecar_source() } else { itself };
    assert_eq!(seen, shown);

    let before = sidecar.access_log().len();
    assert_eq!(seen_client(&stage.server, stage.service(family)).unwrap(), itself);
    assert_eq!(sidecar.access_log().len(), before, "what stays on the host was captured");
}

#[test]
fn a_server_that_speaks_first_is_heard_at_the_detection_timeout_and_at_once_inside_the_mesh() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let Some(stage) = Stage::new() else { return };
    stage.mode("PERMISSIVE");
    let _app = stage.app("greeter", Family::V4.any());
    let sidecar = Sidecar::new("server").args(&["--detection-timeout", "2s"]);
    let sidecar = sidecar.start(&stage.server, &stage.ca).unwrap();
    let _client = Sidecar::new("client").start(&stage.client, &stage.ca).unwrap();
    let banner_after = |from: &Node| {
        let start = Instant::now();
        let mut banner = [0; 19];
        from.dial(stage.service(Family::V4)).unwrap().read_exact(&mut banner).unwrap();
        assert_eq!(&banner, b"220 greeter ready\r\n");
        start.elapsed()
    };

    let waited = banner_after(&stage.stranger);
    assert!((TIMEOUT..TIMEOUT * 2).contains(&waited), "after {waited:?}");
    let silent = |record: &ConnectionRecord| record.first_bytes == Some(FirstBytes::Silent);
    assert_eq!(sidecar.wait_for_record(SOON, silent).unwrap().tls, None);

    let waited = banner_after(&stage.client);
    assert!(waited < TIMEOUT, "after {waited:?}");
    newest_mutual(&sidecar, Direction::Inbound);
}

#[rstest]
#[case::crashed(Signal::KILL)]
#[case::stopped(Signal::TERM)]
fn a_proxy_that_is_started_again_serves_again_and_nothing_passes_meanwhile(#[case] signal: Signal) {
    let Some(stage) = Stage::new() else { return };
    stage.mode("PERMISSIVE");
    let _app = stage.app("echo", Family::V4.any());
    let (_client, mut server) = stage.sidecars(Interception::Redirect);
    let service = stage.service(Family::V4);
    echoes(&stage.client, service).unwrap();

    server.process().unwrap().signal(signal).unwrap();
    server.process().unwrap().wait(SOON).unwrap();
    for from in [&stage.client, &stage.stranger] {
        echoes(from, service).expect_err("something passes where no proxy is");
    }

    server.start_again().unwrap();
    server.wait_ready(SOON).unwrap();
    let before = server.access_log().len();
    echoes(&stage.client, service).unwrap();
    let next =
        wait_until(SOON, "the call's record", || Ok(server.access_log().get(before).cloned())).unwrap();
    assert_eq!(next.tls.unwrap().peer, CLIENT_ID);
}

/// What the kernel holds that rules may touch, without counters and times, and without the link-local address, which
/// comes when IPv6 has looked whether it is taken.
fn network_state(node: &Node) -> String {
    let script = "iptables-save; ip6tables-save; iptables-legacy-save; ip6tables-legacy-save; ip rule; ip -6 rule; \
                  ip route show table all; ip -6 route show table all; ip address show dev lo";
    let state = node.run("sh", &["-c", script]).unwrap();
    let lines = state.lines().filter(|line| !line.starts_with('#') && !line.contains("fe80::"));
    lines.map(|line| line.split(" [").next().unwrap()).collect::<Vec<_>>().join("\n")
}

#[rstest]
fn clean_restores_the_ruleset_byte_for_byte_and_direct_traffic(
    #[values(Interception::Redirect, Interception::Tproxy)] interception: Interception,
) {
    let Some(stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let foreign = "for tool in iptables ip6tables; do \
        $tool -t nat -N MINE; $tool -t nat -A OUTPUT -p tcp --dport 9 -j MINE; $tool -t nat -A MINE -j RETURN; \
        $tool -t mangle -A PREROUTING -p udp -j MARK --set-mark 7; $tool -A INPUT -p tcp --dport 9 -j DROP; done";
    stage.server.run("sh", &["-c", foreign]).unwrap();
    let before = network_state(&stage.server);
    let _app = stage.app("backend", Family::V4.any());
    let sidecar = interception.sidecar("server").start(&stage.server, &stage.ca).unwrap();
    let service = stage.service(Family::V4);

    for _ in 0..2 {
        assert_ne!(network_state(&stage.server), before);
        assert_eq!(errno_of_call(&stage.stranger, service), Some(ECONNRESET));
        sidecar.clean_rules().unwrap();
        assert_eq!(network_state(&stage.server), before);
        let connections = sidecar.access_log().len();
        assert_eq!(seen_client(&stage.stranger, service).unwrap(), stage.stranger.v4());
        assert_eq!(sidecar.access_log().len(), connections);
        sidecar.apply_rules().unwrap();
    }
}

#[rstest]
fn a_stranger_gets_econnreset_from_a_strict_port_and_the_app_is_not_even_dialled(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(Interception::Redirect, Interception::Tproxy)] interception: Interception,
) {
    let Some(stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let app = stage.server.listen(SocketAddr::new(family.any(), PORT)).unwrap();
    let sidecar = interception.sidecar("server").start(&stage.server, &stage.ca).unwrap();
    assert_eq!(errno_of_call(&stage.stranger, stage.service(family)), Some(ECONNRESET));
    let record = ended(&sidecar, Reason::StrictPlaintext);
    assert_eq!(record.client.ip(), family.of(&stage.stranger));
    assert_eq!(record.upstream, None);
    assert!(nobody_came(&app));
}

fn nobody_came(app: &TcpListener) -> bool {
    app.set_nonblocking(true).unwrap();
    app.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// The handshake and the certificate that the client checks prove that not a byte was changed.
#[rstest]
fn tls_of_the_apps_own_passes_a_permissive_port_end_to_end(
    #[values(Interception::Redirect, Interception::Tproxy)] interception: Interception,
) {
    let Some(stage) = Stage::new() else { return };
    if stage.server.run("openssl", &["version"]).is_err() {
        return skip("openssl is not installed");
    }
    stage.mode("PERMISSIVE");
    let (key, certificate) = (stage.lab.folder().join("app.key"), stage.lab.folder().join("app.pem"));
    let (key, certificate) = (key.to_str().unwrap(), certificate.to_str().unwrap());
    let request = format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {key} -out {certificate} -subj /CN=app"
    );
    stage.server.run("openssl", &request.split(' ').collect::<Vec<_>>()).unwrap();
    let serve = format!("s_server -accept {PORT} -cert {certificate} -key {key} -www");
    let app = stage.server.start("tls-app", "openssl", &serve.split(' ').collect::<Vec<_>>()).unwrap();
    app.wait_for_line(SOON, "ACCEPT").unwrap();
    let (_client, server) = stage.sidecars(interception);
    let service = stage.service(Family::V4);
    let call = format!(
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 10 openssl s_client -connect {service} -CAfile {certificate} \
         -verify_return_error -alpn http/1.1 -quiet 2>&1"
    );

    let page = stage.stranger.run("sh", &["-c", &call]).unwrap();
    assert!(page.contains("HTTP/1.0 200 ok"), "{page}");
    let record = ended(&server, Reason::Completed);
    assert!(matches!(record.first_bytes, Some(FirstBytes::Tls { mesh: false, .. })), "{record:?}");
    assert_eq!(record.tls, None);

    let page = stage.client.run("sh", &["-c", &call]).unwrap();
    assert!(page.contains("HTTP/1.0 200 ok"), "{page}");
    assert_eq!(newest_mutual(&server, Direction::Inbound).tls.unwrap().peer, CLIENT_ID);

    stage.mode("STRICT");
    server.wait_for_mode(SOON, PORT, "STRICT").unwrap();
    let credulous = call.replace("-verify_return_error", "");
    let page = stage.stranger.run("sh", &["-c", &format!("{credulous} || true")]).unwrap();
    assert!(!page.contains("200 ok"), "{page}");
    ended(&server, Reason::NoClientCertificate);
    assert!(stage.client.run("sh", &["-c", &call]).unwrap().contains("200 ok"));
}

#[rstest]
fn a_destination_that_nobody_declared_is_reached_as_it_is(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(Interception::Redirect, Interception::Tproxy)] interception: Interception,
) {
    let Some(stage) = Stage::new() else { return };
    let address = SocketAddr::new(family.of(&stage.stranger), 7000);
    let listen = SocketAddr::new(family.any(), 7000).to_string();
    let args = ["example", "echo", "--listen", &listen];
    let app = stage.stranger.start_pillion("app", &args).unwrap();
    app.wait_for_line(SOON, "listening on").unwrap();
    let sidecar = interception.sidecar("client").start(&stage.client, &stage.ca).unwrap();
    echoes(&stage.client, address).unwrap();
    let record = ended(&sidecar, Reason::Completed);
    assert_eq!((record.direction, record.original_destination), (Direction::Outbound, Some(address)));
    assert_eq!((record.service, record.tls), (None, None));
}

/// What came of a connection and of a question over it; only an answer is bad here.
fn answer_of(from: &Node, address: SocketAddr) -> io::Result<Vec<u8>> {
    let stream = from.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(1))).unwrap()?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    exchange(&stream, b"GET /config_dump HTTP/1.0\r\n\r\n")
}

fn assert_no_answer(from: &Node, address: SocketAddr) {
    let answer = answer_of(from, address);
    let error = answer.map(|answer| String::from_utf8_lossy(&answer).into_owned());
    let error = error.expect_err(&format!("{} reaches {address}", from.name()));
    assert_ne!(error.kind(), ErrorKind::WouldBlock, "{address} neither answers nor refuses {}", from.name());
}

/// Requirement 38, from another host. It sends packets to loopback addresses of the server, whose kernel takes them:
/// route_localnet is on, as it is on many a container host.
#[rstest]
fn req_38_a_peer_reaches_neither_app_nor_admin_past_the_policy(
    #[values(Interception::Redirect, Interception::Tproxy)] interception: Interception,
    #[values("PASSTHROUGH", "LOCALHOST")] policy: &str,
) {
    let Some(stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let app = stage.server.listen(SocketAddr::new(Family::V4.any(), PORT)).unwrap();
    let on_v6 = SocketAddr::new(stage.server.v6(), PORT);
    let app_v6 = stage.server.listen(on_v6).unwrap();
    let sidecar = interception.sidecar("server").args(&["--inbound-traffic-policy", policy]);
    let sidecar = sidecar.start(&stage.server, &stage.ca).unwrap();
    let take_loopback = "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet";
    stage.server.run("sh", &["-c", take_loopback]).unwrap();
    let detour = format!(
        "{take_loopback}
         ip route flush table local dev lo
         ip route add 127.0.0.0/8 via {} src {}
         ip -6 route add ::6/128 via {}",
        stage.server.v4(),
        stage.stranger.v4(),
        stage.server.v6()
    );
    stage.stranger.run("sh", &["-ec", &detour]).unwrap();

    let own_ports = [15000, 15001, 15006];
    for ip in [stage.server.v4(), stage.server.v6()] {
        for port in own_ports {
            assert_no_answer(&stage.stranger, SocketAddr::new(ip, port));
        }
    }
    wait_until(SOON, "a refusal of each connection to the proxy's own ports", || {
        let log = sidecar.access_log();
        let refused = log.iter().filter(|record| record.reason == Some(Reason::SelfLoop)).count();
        Ok((refused == 2 * own_ports.len()).then_some(()))
    })
    .unwrap();
    for ip in ["127.0.0.1", "127.0.0.6", "::6"] {
        for port in [PORT, 15000, 15001, 15006] {
            assert_no_answer(&stage.stranger, SocketAddr::new(ip.parse().unwrap(), port));
        }
    }
    assert!(nobody_came(&app) && nobody_came(&app_v6));
    sidecar.admin("/ready").expect("the admin API answers on its own host");
}

/// Requirement 38, from the app's own host: who dials the proxy itself is not served by it.
#[rstest]
fn req_38_an_app_that_dials_the_capture_ports_is_refused(
    #[values(Interception::Redirect, Interception::Tproxy)] interception: Interception,
) {
    let Some(stage) = Stage::new() else { return };
    let sidecar = interception.sidecar("server").start(&stage.server, &stage.ca).unwrap();
    let loopbacks = [Family::V4, Family::V6].map(Family::loopback);
    for (ip, port) in
        [(loopbacks[0], 15001), (loopbacks[1], 15001), (loopbacks[0], 15006), (loopbacks[1], 15006)]
    {
        let before = sidecar.access_log().len();
        assert_no_answer(&stage.server, SocketAddr::new(ip, port));
        let what = format!("a refusal of {ip} port {port}");
        let new = wait_until(SOON, &what, || Ok(sidecar.access_log().get(before).cloned())).unwrap();
        assert!(
            matches!(new.reason, Some(Reason::SelfLoop | Reason::NoOriginalDestination)),
            "{ip} port {port}: {new:?}"
        );
    }
}

#[test]
fn a_proxy_that_captures_itself_refuses_once_instead_of_spinning() {
    let Some(stage) = Stage::new() else { return };
    let sidecar = Sidecar::new("client").start(&stage.client, &stage.ca).unwrap();
    let _app = stage.app("echo", Family::V4.any());
    // The proxy has its certificate; from now on the rules exempt somebody else.
    let args = ["iptables", "apply", "-u", "4242", "-g", "4242"];
    pillion_cli::lab::run(stage.client.pillion(&args)).unwrap();
    let pid = sidecar.process().unwrap().id();
    let (cpu, calls) = (process::cpu_time(pid), 10);
    for _ in 0..calls {
        assert_no_answer(&stage.client, stage.service(Family::V4));
    }
    let record = ended(&sidecar, Reason::SelfLoop);
    assert!(record.detail.unwrap().contains("uid"), "the cure is not told");
    // The app's connection, and the proxy's own that came back.
    let two_for_each = || sidecar.access_log().len() == 2 * calls;
    let waited = wait_until(SOON, "two records for each call", || Ok(two_for_each().then_some(())));
    assert!(waited.is_ok(), "{:#?}", sidecar.access_log());
    let used = process::cpu_time(pid) - cpu;
    assert!(used < Duration::from_secs(1), "{used:?} of CPU time for {calls} calls");
}

/// The sidecar knows the service by a name whose address it has looked up, and will not look up again by itself for
/// an hour.
#[test]
fn a_service_that_moves_to_another_address_is_never_spoken_to_in_plaintext() {
    let Some(stage) = Stage::new() else { return };
    let entry = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: moving}}
spec:
  hosts: [moving.test]
  location: MESH_INTERNAL
  resolution: DNS
  ports: [{{number: {PORT}, name: tcp, protocol: TCP}}]
  endpoints:
  - {{address: moving.test, serviceAccount: server, labels: {{security.istio.io/tlsMode: istio}}}}
"
    );
    stage.lab.mesh().remove("service-server-8080.yaml").unwrap();
    stage.lab.mesh().write("moving.yaml", &entry).unwrap();
    let second = stage.lab.node("second").unwrap();
    let hosts = stage.lab.folder().join("hosts");
    let others = std::fs::read_to_string(&hosts).unwrap();
    // Written in place: the sidecars see this very file.
    let move_to = |ip: IpAddr| std::fs::write(&hosts, format!("{others}{ip} moving.test\n")).unwrap();
    move_to(stage.server.v4());

    let _first_app = stage.app("echo", Family::V4.any());
    let listen = format!("0.0.0.0:{PORT}");
    let second_app = second.start_pillion("app", &["example", "echo", "--listen", &listen]).unwrap();
    second_app.wait_for_line(SOON, "listening on").unwrap();
    let sidecar = |node: &Node| Sidecar::new("server").start(node, &stage.ca).unwrap();
    let (_first, second_sidecar) = (sidecar(&stage.server), sidecar(&second));
    let _client =
        Sidecar::new("client").args(&["--dns-refresh", "1h"]).start(&stage.client, &stage.ca).unwrap();

    echoes(&stage.client, stage.service(Family::V4)).unwrap();
    move_to(second.v4());
    let calls = 3;
    for _ in 0..calls {
        echoes(&stage.client, SocketAddr::new(second.v4(), PORT)).unwrap();
    }
    let records = wait_until(SOON, "the records of all calls", || {
        let log = second_sidecar.access_log();
        Ok((log.len() == calls).then_some(log))
    })
    .unwrap();
    for record in records {
        let tls = record.tls.expect("spoken to in plaintext");
        assert_eq!((tls.peer.as_str(), tls.local.as_str()), (CLIENT_ID, SERVER_ID));
    }
}
