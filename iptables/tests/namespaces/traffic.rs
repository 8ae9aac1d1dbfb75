//! Real packets: what the kernel does with them is what `explain` says, and what must keep working does.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};

use rstest::rstest;
use socket2::{Domain, Protocol, Socket, Type};

use crate::host::{APP, Namespace, PATIENCE, PROXY, Server, can_run, set_transparent, udp_server};
use crate::rules::DOCKER;

/// The app's namespace and another one, joined by a cable, with servers in both.
struct Scene {
    /// First, so that they stop before their namespaces go.
    servers: Vec<Server>,
    workload: Namespace,
    peer: Namespace,
    v6: bool,
}

impl Scene {
    fn new(v6: bool) -> Self {
        let (peer, workload) = (Namespace::new(), Namespace::new());
        peer.join(&workload);
        Self { workload, peer, v6, servers: Vec::new() }
    }

    fn peer_address(&self) -> IpAddr {
        if self.v6 { "fd77::1".parse().unwrap() } else { "10.77.0.1".parse().unwrap() }
    }

    fn own_address(&self) -> IpAddr {
        if self.v6 { "fd77::2".parse().unwrap() } else { "10.77.0.2".parse().unwrap() }
    }

    fn loopback(&self) -> IpAddr {
        if self.v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() }
    }

    fn any(&self) -> IpAddr {
        if self.v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
    }

    /// A server says as its name what the verdict of `explain` would be for a packet that ends there.
    fn serve(&mut self, mode: &str) {
        let tproxy = mode == "TPROXY";
        let at = |port| SocketAddr::new(self.any(), port);
        let workload = &self.workload;
        let mut servers = vec![
            Server::named(workload, "inbound", at(15006), tproxy),
            Server::named(workload, "outbound", at(15001), false),
        ];
        servers.extend([8080, 22, 15008].map(|port| Server::named(workload, "notCaptured", at(port), false)));
        servers.extend([80, 25].map(|port| Server::named(&self.peer, "notCaptured", at(port), false)));
        self.servers = servers;
    }
}

/// What `explain` says.
fn explained(namespace: &Namespace, flags: &str) -> String {
    let printed = namespace.pillion_ok(&format!("explain --json {flags}"));
    let walk: serde_json::Value = serde_json::from_str(&printed).unwrap();
    walk["verdict"]["kind"].as_str().unwrap().to_owned()
}

/// A handful of connections: each ends where `explain` says.
#[rstest]
fn the_kernel_does_what_explain_says(
    #[values("nft", "legacy")] back_end: &str,
    #[values("REDIRECT", "TPROXY")] mode: &str,
    #[values(false, true)] v6: bool,
) {
    if !can_run() {
        return;
    }
    let mut scene = Scene::new(v6);
    scene.serve(mode);
    let wishes = format!("-m {mode} -d 22 -o 25");
    scene.workload.pillion_ok(&format!("apply --backend {back_end} {wishes}"));
    let (own, peer, loopback) = (scene.own_address(), scene.peer_address(), scene.loopback());

    let connections = [
        ("in", own, 8080, 0, 0, "inbound"),
        ("in", own, 9999, 0, 0, "inbound"),
        ("in", own, 22, 0, 0, "notCaptured"),
        ("in", own, 15008, 0, 0, "notCaptured"),
        ("in", own, 15001, 0, 0, "inbound"),
        ("out", peer, 80, APP, APP, "outbound"),
        ("out", peer, 7777, APP, APP, "outbound"),
        ("out", peer, 25, APP, APP, "notCaptured"),
        ("out", peer, 80, PROXY, PROXY, "notCaptured"),
        ("out", peer, 80, APP, PROXY, "notCaptured"),
        ("out", own, 8080, APP, APP, "notCaptured"),
        ("out", own, 8080, PROXY, PROXY, "inbound"),
        ("out", own, 8080, APP, PROXY, "inbound"),
        ("out", own, 22, PROXY, PROXY, "notCaptured"),
        ("out", loopback, 8080, APP, APP, "notCaptured"),
        ("out", loopback, 8080, PROXY, PROXY, "notCaptured"),
    ];
    let mut wrong = Vec::new();
    for (direction, destination, port, uid, gid, wanted) in connections {
        let (from, source) = match direction {
            "in" => (&scene.peer, peer),
            _ => (&scene.workload, if destination == peer { own } else { destination }),
        };
        let packet =
            format!("--direction {direction} --source {source} --destination {destination} --port {port}");
        let said = explained(&scene.workload, &format!("{wishes} {packet} --uid {uid} --gid {gid}"));
        let found = from.dial(uid, gid, SocketAddr::new(destination, port));
        if said != wanted || found != wanted {
            wrong.push(format!(
                "{packet} --uid {uid} --gid {gid}: explain {said:?}, kernel {found:?}, not {wanted:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), scene.workload.pillion_ok("show"));
}

/// Docker's DNS answers over UDP and TCP, whoever came first, asked by the app or by the proxy.
#[rstest]
fn dockers_dns_keeps_working(
    #[values("nft", "legacy")] docker: &str,
    #[values("nft", "legacy", "auto")] back_end: &str,
    #[values("REDIRECT", "TPROXY")] mode: &str,
    #[values(true, false)] docker_first: bool,
) {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let dns = |port| SocketAddr::from(([127, 0, 0, 11], port));
    let server = Server::named(&namespace, "docker", dns(40053), false);
    let answering = udp_server(&namespace, "docker", dns(40054), 2);
    let restore = format!("iptables-{docker}-restore");
    let apply = format!("apply --backend {back_end} -m {mode}");
    if docker_first {
        namespace.restore(&restore, DOCKER);
        namespace.pillion_ok(&apply);
    } else {
        namespace.pillion_ok(&apply);
        namespace.restore(&restore, DOCKER);
    }
    for user in [APP, PROXY] {
        assert_eq!(namespace.dial(user, user, dns(53)), "docker");
        let answer = namespace.run_as(user, user, || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(dns(53)).unwrap();
            socket.send(b"name?").unwrap();
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        });
        assert_eq!(answer, "docker");
    }
    answering.join().unwrap();
    drop(server);
}

/// Takes the proxy's part in TPROXY mode: dials the app as the client, by its address and with the mark, and passes on
/// what each side says, until both have said all.
fn transparent_proxy(client: &TcpStream, app: SocketAddr) {
    let source = client.peer_addr().unwrap();
    let socket = Socket::new(Domain::for_address(app), Type::STREAM, Some(Protocol::TCP)).unwrap();
    set_transparent(&socket, source.ip());
    socket.set_mark(1337).unwrap();
    socket.bind(&SocketAddr::new(source.ip(), 0).into()).unwrap();
    if socket.connect_timeout(&app.into(), PATIENCE).is_err() {
        return;
    }
    let app: TcpStream = socket.into();
    std::thread::scope(|scope| {
        scope.spawn(|| pass_on(client, &app));
        pass_on(&app, client);
    });
}

fn pass_on(mut from: &TcpStream, mut to: &TcpStream) {
    from.set_read_timeout(Some(PATIENCE)).unwrap();
    // A side that has gone shows in what the other one reads.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// The app sees the client's own address, and its answers find the proxy and not the way out to the client.
#[rstest]
#[case::as_it_comes("")]
#[case::strict_reverse_path(
    "net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1 net.ipv4.conf.lo.rp_filter=1"
)]
#[case::marked_reverse_path("net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.all.src_valid_mark=1")]
#[case::accepted_sockets_take_the_mark("net.ipv4.tcp_fwmark_accept=1")]
fn under_tproxy_the_app_sees_its_client(
    #[case] sysctls: &str,
    #[values("nft", "legacy")] back_end: &str,
    #[values(false, true)] v6: bool,
) {
    if !can_run() {
        return;
    }
    let scene = Scene::new(v6);
    if !sysctls.is_empty() {
        scene.workload.sh(&format!("sysctl -q -w {sysctls}"));
    }
    scene.workload.pillion_ok(&format!("apply --backend {back_end} -m TPROXY"));
    let captured = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = captured.clone();
    let proxy = Server::start(&scene.workload, SocketAddr::new(scene.any(), 15006), true, move |client| {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        transparent_proxy(&client, client.local_addr().unwrap());
    });
    let app = Server::start(&scene.workload, SocketAddr::new(scene.any(), 8080), false, |mut client| {
        let mut question = [0; 5];
        if client.read_exact(&mut question).is_ok() {
            let answer =
                format!("{}, {}", String::from_utf8_lossy(&question), client.peer_addr().unwrap().ip());
            // More than a socket's buffers hold at first: acknowledgements must find their way too.
            let _ = client.write_all(answer.as_bytes()).and_then(|()| client.write_all(&[b'.'; 300_000]));
        }
    });
    let to = SocketAddr::new(scene.own_address(), 8080);
    // From another host, and from the proxy itself to its own workload.
    for (from, user, source) in
        [(&scene.peer, 0, scene.peer_address()), (&scene.workload, PROXY, scene.own_address())]
    {
        let answer = from.run_as(user, user, || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"hello").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        assert_eq!(answer.trim_end_matches('.'), format!("hello, {source}"));
        assert_eq!(answer.len(), 300_000 + format!("hello, {source}").len());
    }
    assert_eq!(captured.load(std::sync::atomic::Ordering::SeqCst), 2);
    drop((proxy, app));
}

/// An app that listens on 127.0.0.1 only answers from there, where no route leads to its client, unless its socket has the
/// mark of the proxy's connection: then it can see its client too. Without that kernel setting the proxy dials such an
/// app from 127.0.0.6.
#[rstest]
fn under_tproxy_an_app_on_loopback_can_see_its_client(#[values(false, true)] v6: bool) {
    if !can_run() {
        return;
    }
    let scene = Scene::new(v6);
    scene.workload.sh("sysctl -q -w net.ipv4.tcp_fwmark_accept=1");
    scene.workload.pillion_ok("apply -m TPROXY");
    let app = SocketAddr::new(scene.loopback(), 8080);
    let _proxy = Server::start(&scene.workload, SocketAddr::new(scene.any(), 15006), true, move |client| {
        transparent_proxy(&client, app);
    });
    let _app = Server::named(&scene.workload, "app", app, false);
    assert_eq!(scene.peer.dial(0, 0, SocketAddr::new(scene.own_address(), 8080)), "app");
}

/// The proxy reaches its app from 127.0.0.6 or ::6 without coming back to itself, whichever address it dials.
#[rstest]
fn the_proxy_reaches_its_app_from_its_loopback_address(
    #[values("nft", "legacy")] back_end: &str,
    #[values("REDIRECT", "TPROXY")] mode: &str,
    #[values(false, true)] v6: bool,
) {
    if !can_run() {
        return;
    }
    let mut scene = Scene::new(v6);
    scene.serve(mode);
    scene.workload.pillion_ok(&format!("apply --backend {back_end} -m {mode}"));
    let source: IpAddr = if v6 { "::6".parse().unwrap() } else { "127.0.0.6".parse().unwrap() };
    for app in [scene.loopback(), scene.own_address()].map(|address| SocketAddr::new(address, 8080)) {
        let said = scene.workload.run_as(PROXY, PROXY, || {
            let socket = Socket::new(Domain::for_address(app), Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
            socket.connect_timeout(&app.into(), PATIENCE).unwrap();
            let mut said = String::new();
            TcpStream::from(socket).read_to_string(&mut said).unwrap();
            said
        });
        assert_eq!(said, "notCaptured", "{app}");
    }
}
