//! Connections in tunnels between two sidecars: shared, judged one by one, ended like any other. Each test has an address of
//! loopback for itself, since the port of tunnels is one for all.

mod hostile;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU8, Ordering};

use pillion_mesh::tunnel::PORT;
use pillion_mesh::wire::ConnectionRecord;
use pillion_testkit::peer::{self, Listening};
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// The label of an endpoint that takes tunnels.
const TAKES_TUNNELS: &str = "networking.istio.io/tunnel: http";

/// An address of this host that no other test here has, nor another run of them.
fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 63), low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// Settings of a sidecar with the door for tunnels at `ip`, and a listener for each app.
fn inbound_at(ip: IpAddr, apps: &[SocketAddr], more: &str) -> String {
    let listeners: Vec<_> =
        apps.iter().map(|app| format!("{{address: \"{ip}:0\", forward: \"{app}\"}}")).collect();
    format!("inbound: {{tunnel: \"{ip}:{PORT}\", listeners: [{}]}}\n{more}", listeners.join(", "))
}

/// The services `backend:80`, `backend:81`, … , each behind one of the server's listeners and reached by tunnels.
fn services(server: &Sidecar) -> String {
    let inbound = &server.running.addresses.inbound;
    let explicit =
        inbound.iter().filter(|(_, what)| what.starts_with("forward")).map(|(address, _)| *address);
    explicit.enumerate().map(|(number, address)| service(number, address)).collect()
}

fn service(number: usize, address: SocketAddr) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: backend-{number}}}\nspec:\n  \
         hosts: [backend-{number}.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
         ports: [{{number: 80, name: tcp, protocol: TCP, targetPort: {}}}]\n  \
         endpoints: [{{address: {}, serviceAccount: backend, labels: {{{TAKES_TUNNELS}}}}}]\n",
        address.port(),
        address.ip(),
    )
}

/// Settings of a sidecar that leads to so many of these services.
fn outbound(services: usize) -> String {
    let listener = |number| format!("{{address: \"127.0.0.1:0\", destination: \"backend-{number}:80\"}}");
    let listeners: Vec<String> = (0..services).map(listener).collect();
    format!("outbound: {{listeners: [{}]}}", listeners.join(", "))
}

/// Two sidecars, and the apps behind one of them.
struct Pair {
    lab: Lab,
    client: Sidecar,
    server: Sidecar,
    /// Of the server.
    ip: IpAddr,
    services: String,
}

impl Pair {
    async fn with(apps: &[SocketAddr], of_server: &str, of_client: &str) -> Self {
        let (lab, ip) = (Lab::new(), own_address());
        let server = lab.sidecar("backend", &inbound_at(ip, apps, of_server)).await;
        let services = services(&server);
        lab.resources(Some(&services));
        let client = lab.sidecar("frontend", &format!("{}\n{of_client}", outbound(apps.len()))).await;
        Self { lab, client, server, ip, services }
    }

    async fn with_echo() -> (Self, Listening) {
        let app = peer::echo_app().await;
        (Self::with(&[app.address], "", "").await, app)
    }

    /// In front of a listener that the test itself answers.
    async fn with_own_app() -> (Self, TcpListener) {
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (Self::with(&[app.local_addr().unwrap()], "", "").await, app)
    }

    /// A connection to one of the services.
    async fn dial(&self, service: usize) -> TcpStream {
        TcpStream::connect(self.client.running.addresses.outbound[service].0).await.unwrap()
    }

    /// A connection over which something has passed.
    async fn open(&self, service: usize) -> TcpStream {
        let mut stream = self.dial(service).await;
        echoes(&mut stream).await.unwrap();
        stream
    }

    /// Adds `more` to the resources.
    fn add(&self, more: &str) {
        self.lab.resources(Some(&format!("{}---\n{more}", self.services)));
    }

    /// The only record that ended for this reason, or was refused for it.
    async fn ended(&self, sidecar: &Sidecar, reason: Reason) -> ConnectionRecord {
        let find = || {
            let all = sidecar.running.shared.connections.all();
            all.into_iter().find(|record| record.reason == Some(reason))
        };
        sidecar.eventually(&format!("an end by {reason}"), || find().is_some()).await;
        find().unwrap()
    }
}

async fn echoes(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"hello").await?;
    let mut answer = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"hello");
    Ok(())
}

/// How a read ends that gets nothing.
async fn end_of(stream: &mut TcpStream) -> io::Result<usize> {
    timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("the connection did not end")
}

fn records(sidecar: &Sidecar) -> Vec<ConnectionRecord> {
    sidecar.running.shared.connections.list()
}

fn open_tunnels(sidecar: &Sidecar, direction: &str) -> String {
    let name = format!("pillion_tunnels_open{{direction=\"{direction}\"}} ");
    let metrics = sidecar.metrics();
    metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn connections_to_a_peer_share_a_tunnel_and_each_has_its_record() {
    let (pair, _app) = Pair::with_echo().await;
    let _open = [pair.open(0).await, pair.open(0).await, pair.open(0).await];
    let (out, into) = (records(&pair.client), records(&pair.server));
    for (number, (made, seen)) in (1..).zip(out.iter().zip(&into)) {
        let (of_client, of_server) = (made.tunnel.unwrap(), seen.tunnel.unwrap());
        assert_eq!(of_client.door, SocketAddr::new(pair.ip, PORT));
        assert_eq!(of_client.stream, of_server.stream);
        assert_eq!((of_client.id, of_client.new), (1, number == 1));
        assert_eq!((of_client.shared_by, of_server.shared_by), (number, number));
        assert_eq!(made.dialled_from, Some(seen.client));
        assert_eq!(made.tls.as_ref().unwrap().peer, Lab::id("backend"));
        assert_eq!(seen.tls.as_ref().unwrap().peer, Lab::id("frontend"));
        assert_eq!((made.bytes_to_server, seen.bytes_to_client), (5, 5));
        let link = pillion_mesh::legs::other(made, &into);
        assert_eq!(link.map(|other| other.id), Some(seen.id));
    }
    assert_eq!((out.len(), into.len()), (3, 3));
    for (sidecar, direction) in [(&pair.client, "outbound"), (&pair.server, "inbound")] {
        assert_eq!(open_tunnels(sidecar, direction), "1");
        let metrics = sidecar.metrics();
        let handshakes = format!(
            "pillion_handshake_duration_seconds_count{{direction=\"{direction}\",resumed=\"false\"}} 1"
        );
        assert!(metrics.contains(&handshakes), "{handshakes} is missing in:\n{metrics}");
        let opened = metrics.lines().find(|line| line.starts_with("istio_tcp_connections_opened_total"));
        assert!(
            opened.is_some_and(
                |line| line.ends_with(" 3") && line.contains("mutual_tls") == (direction == "inbound")
            ),
            "{opened:?}"
        );
    }
}

#[tokio::test]
async fn each_direction_closes_by_itself() {
    let (pair, app) = Pair::with_own_app().await;
    let mut client = pair.dial(0).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut served, _) = timeout(PATIENCE, app.accept()).await.unwrap().unwrap();
    let mut question = String::new();
    timeout(PATIENCE, served.read_to_string(&mut question)).await.unwrap().unwrap();
    served.write_all(b"late answer").await.unwrap();
    drop(served);
    let mut answer = String::new();
    timeout(PATIENCE, client.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!((question.as_str(), answer.as_str()), ("question", "late answer"));
    pair.ended(&pair.client, Reason::Completed).await;
    pair.ended(&pair.server, Reason::Completed).await;
}

#[tokio::test]
async fn req_29_a_reset_goes_through_to_the_client() {
    let (pair, app) = Pair::with_own_app().await;
    let mut client = pair.dial(0).await;
    client.write_all(b"x").await.unwrap();
    let (mut served, _) = timeout(PATIENCE, app.accept()).await.unwrap().unwrap();
    timeout(PATIENCE, served.read_u8()).await.unwrap().unwrap();
    served.set_zero_linger().unwrap();
    drop(served);
    assert_eq!(end_of(&mut client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    pair.ended(&pair.client, Reason::ServerReset).await;
    pair.ended(&pair.server, Reason::ServerReset).await;
}

#[tokio::test]
async fn req_29_a_reset_goes_through_to_the_app() {
    let (pair, app) = Pair::with_own_app().await;
    let client = pair.dial(0).await;
    let (mut served, _) = timeout(PATIENCE, app.accept()).await.unwrap().unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(end_of(&mut served).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    pair.ended(&pair.server, Reason::ClientReset).await;
}

/// More than all windows together, both ways at once, in order.
#[tokio::test]
async fn bulk_passes_whole_in_both_directions() {
    const BYTES: usize = 24 * 1024 * 1024;
    let (pair, _app) = Pair::with_echo().await;
    let (mut from, mut to) = pair.dial(0).await.into_split();
    let at = |place: usize| u8::try_from((place / 251 + place) % 256).unwrap();
    let sending = tokio::spawn(async move {
        for begin in (0..BYTES).step_by(60_000) {
            let piece: Vec<u8> = (begin..BYTES.min(begin + 60_000)).map(at).collect();
            to.write_all(&piece).await.unwrap();
        }
        to.shutdown().await.unwrap();
    });
    let (mut place, mut piece) = (0, vec![0; 100_000]);
    loop {
        let count = timeout(PATIENCE, from.read(&mut piece)).await.unwrap().unwrap();
        if count == 0 {
            break;
        }
        assert!(piece[..count].iter().enumerate().all(|(number, byte)| *byte == at(place + number)));
        place += count;
    }
    sending.await.unwrap();
    assert_eq!(place, BYTES);
}

/// One that does not read holds up to its window, and nobody else.
#[tokio::test]
async fn req_30_one_that_does_not_read_stops_its_sender_and_no_other() {
    let (pair, app) = Pair::with_own_app().await;
    let mut stopped = pair.dial(0).await;
    let (_never_reads, _) = timeout(PATIENCE, app.accept()).await.unwrap().unwrap();
    let piece = vec![7; 64 * 1024];
    let mut sent = 0;
    // Each of both sockets' buffers takes some megabytes, and the window one.
    while let Ok(written) = timeout(Duration::from_millis(500), stopped.write(&piece)).await {
        sent += written.unwrap();
        assert!(sent < 64 * 1024 * 1024, "nothing stops the sender");
    }
    let moved = records(&pair.client)[0].bytes_to_server - records(&pair.server)[0].bytes_to_server;
    assert!(moved <= 2 * 1024 * 1024, "{moved} bytes are on the way in the tunnel");
    let other = pair.dial(0).await;
    let (mut served, _) = timeout(PATIENCE, app.accept()).await.unwrap().unwrap();
    let mut other = other;
    other.write_all(b"goes on").await.unwrap();
    let mut read = [0; 7];
    timeout(PATIENCE, served.read_exact(&mut read)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let app = peer::app_that_speaks_first(b"220 ready").await;
    let pair = Pair::with(&[app.address], "", "").await;
    let mut stream = pair.dial(0).await;
    let mut banner = [0; 9];
    timeout(PATIENCE, stream.read_exact(&mut banner)).await.unwrap().unwrap();
    assert_eq!(&banner, b"220 ready");
}

fn deny(port: u16) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: deny}}\nspec:\n  action: DENY\n  \
         rules: [{{from: [{{source: {{principals: [cluster.local/ns/default/sa/frontend]}}}}], \
         to: [{{operation: {{ports: ['{port}']}}}}]}}]\n"
    )
}

/// In one tunnel, by the identity that it has proved, and by the port that each stream is for.
#[tokio::test]
async fn each_connection_in_a_tunnel_is_authorized_by_itself() {
    let apps = [peer::echo_app().await, peer::echo_app().await];
    let pair = Pair::with(&[apps[0].address, apps[1].address], "", "").await;
    let mut allowed = pair.open(0).await;
    let mut cut = pair.open(1).await;
    pair.add(&deny(apps[1].address.port()));
    assert_eq!(end_of(&mut cut).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    pair.ended(&pair.server, Reason::PolicyChanged).await;
    let mut refused = pair.dial(1).await;
    assert_eq!(end_of(&mut refused).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let seen = pair.ended(&pair.server, Reason::AuthorizationDenied).await;
    assert_eq!(seen.original_destination, Some(apps[1].address));
    let told = pair.ended(&pair.client, Reason::DeniedByPeer).await;
    assert!(told.detail.as_ref().is_some_and(|detail| detail.contains("403")), "{told:?}");
    assert_eq!(
        pillion_mesh::legs::other(&told, [&seen]),
        Some(&seen),
        "the refusal is told by one end alone"
    );
    echoes(&mut allowed).await.unwrap();
    let tunnels: Vec<_> = records(&pair.server).iter().filter_map(|record| record.tunnel).collect();
    assert_eq!((tunnels.len(), tunnels[0].id), (1, seen.tunnel.unwrap().id));
}

#[tokio::test]
async fn an_app_that_cannot_be_reached_is_told_to_both_sides() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pair = Pair::with(&[app.local_addr().unwrap()], "", "").await;
    drop(app);
    let mut refused = pair.dial(0).await;
    assert!(end_of(&mut refused).await.is_err());
    pair.ended(&pair.server, Reason::AppUnreachable).await;
    let told = pair.ended(&pair.client, Reason::DestinationUnreachable).await;
    assert!(told.detail.as_ref().is_some_and(|detail| detail.contains("503")), "{told:?}");
}

/// There is no way around the tunnel: neither plaintext nor a handshake with the endpoint itself.
#[tokio::test]
async fn req_25_an_endpoint_without_a_door_is_not_reached_otherwise() {
    let (lab, app) = (Lab::new(), peer::echo_app().await);
    let endpoint = SocketAddr::new(own_address(), app.address.port());
    lab.resources(Some(&service(0, endpoint)));
    let client = lab.sidecar("frontend", &outbound(1)).await;
    let mut stream = TcpStream::connect(client.outbound()).await.unwrap();
    assert!(end_of(&mut stream).await.is_err());
    client.refused(Reason::DestinationUnreachable).await;
}

#[tokio::test]
async fn req_08_an_impostor_behind_the_door_is_refused() {
    let (lab, ip, app) = (Lab::new(), own_address(), peer::echo_app().await);
    let impostor = lab.sidecar("impostor", &inbound_at(ip, &[app.address], "")).await;
    lab.resources(Some(&services(&impostor)));
    let client = lab.sidecar("frontend", &outbound(1)).await;
    let mut stream = TcpStream::connect(client.outbound()).await.unwrap();
    assert!(end_of(&mut stream).await.is_err());
    client.refused(Reason::IdentityUnexpected).await;
    impostor.refused(Reason::PeerRefused).await;
}

/// A hundred share the first, and the others are opened one after the other.
#[tokio::test]
async fn many_at_once_open_few_tunnels() {
    let (pair, _app) = Pair::with_echo().await;
    let mut open = Vec::new();
    for _ in 0..250 {
        open.push(pair.dial(0).await);
    }
    for stream in &mut open {
        echoes(stream).await.unwrap();
    }
    let mut tunnels: Vec<_> =
        records(&pair.client).iter().filter_map(|record| record.tunnel).map(|tunnel| tunnel.id).collect();
    tunnels.sort_unstable();
    tunnels.dedup();
    assert_eq!(tunnels.len(), 3);
    let shared_by =
        records(&pair.client).iter().filter_map(|record| record.tunnel).map(|tunnel| tunnel.shared_by).max();
    assert_eq!(shared_by, Some(100));
}

#[tokio::test]
async fn what_a_peer_may_have_of_tunnels_is_bounded() {
    let app = peer::echo_app().await;
    let pair = Pair::with(&[app.address], "", "tunnels: {maxStreams: 2, maxTunnels: 2}").await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(pair.open(0).await);
    }
    let mut refused = pair.dial(0).await;
    assert!(end_of(&mut refused).await.is_err());
    pair.ended(&pair.client, Reason::TunnelsFull).await;
    drop(open.pop());
    pair.client.eventually("a free place", || records(&pair.client).len() == 3).await;
    pair.open(0).await;
}

#[tokio::test]
async fn a_tunnel_that_nobody_needs_is_closed_and_another_opened() {
    let app = peer::echo_app().await;
    let pair = Pair::with(&[app.address], "", "tunnels: {idleTimeout: 100ms}").await;
    drop(pair.open(0).await);
    for (sidecar, direction) in [(&pair.client, "outbound"), (&pair.server, "inbound")] {
        sidecar.eventually("no tunnel", || open_tunnels(sidecar, direction) == "0").await;
    }
    let _open = pair.open(0).await;
    assert_eq!(records(&pair.client)[0].tunnel.map(|tunnel| (tunnel.id, tunnel.new)), Some((2, true)));
}

/// A renewed certificate, of either side: what is open stays, and what is new goes by a new tunnel.
#[rstest]
#[case::of_the_client("frontend")]
#[case::of_the_server("backend")]
#[tokio::test]
async fn a_rotation_drains_the_tunnel(#[case] whose: &str) {
    let (pair, _app) = Pair::with_echo().await;
    let mut old = pair.open(0).await;
    let renewing = if whose == "frontend" { &pair.client } else { &pair.server };
    let generation = || renewing.running.shared.credentials.borrow().as_ref().unwrap().generation();
    let before = generation();
    let _ = pair.lab.held(whose).write(&pair.lab.folder.path().join(whose), &pair.lab.ca.bundle_pem());
    renewing.eventually("the renewed certificate", || generation() > before).await;
    // The server asks for another tunnel; until that has arrived, this one may still serve.
    let mut new = Vec::new();
    timeout(PATIENCE, async {
        loop {
            new.push(pair.open(0).await);
            if records(&pair.client).iter().any(|record| record.tunnel.is_some_and(|tunnel| tunnel.id == 2)) {
                return;
            }
        }
    })
    .await
    .expect("no new tunnel was opened");
    echoes(&mut old).await.unwrap();
    new.drain(..new.len() - 1);
    drop(old);
    for (sidecar, direction) in [(&pair.client, "outbound"), (&pair.server, "inbound")] {
        sidecar.eventually("only the new tunnel", || open_tunnels(sidecar, direction) == "1").await;
    }
    echoes(&mut new[0]).await.unwrap();
}

/// Requirement 16 for tunnels: no session outlives the trust that it was made by.
#[rstest]
#[case::by_the_server("backend", Reason::PeerRefused)]
#[case::by_the_client("frontend", Reason::CertificateUntrusted)]
#[tokio::test]
async fn req_16_a_bundle_without_the_peers_root_closes_its_tunnel_at_once(
    #[case] whose: &str,
    #[case] then: Reason,
) {
    let (pair, _app) = Pair::with_echo().await;
    let mut open = pair.open(0).await;
    let other = TestCa::root("another root");
    let _ = other.issue(&Lab::id(whose)).write(&pair.lab.folder.path().join(whose), &other.bundle_pem());
    assert!(end_of(&mut open).await.is_err());
    let judge = if whose == "frontend" { &pair.client } else { &pair.server };
    let cut = pair.ended(judge, Reason::PolicyChanged).await;
    assert!(cut.detail.as_ref().is_some_and(|detail| detail.contains("trust bundle")), "{cut:?}");
    let mut refused = pair.dial(0).await;
    assert!(end_of(&mut refused).await.is_err());
    judge.refused(then).await;
}

#[tokio::test]
async fn a_revoked_clients_tunnel_is_closed_with_its_connections() {
    let (lab, ip, app) = (Lab::new(), own_address(), peer::echo_app().await);
    lab.revoke(&[]);
    let server = lab.sidecar("backend", &inbound_at(ip, &[app.address], "")).await;
    lab.resources(Some(&services(&server)));
    let client = lab.sidecar("frontend", &outbound(1)).await;
    let mut open = TcpStream::connect(client.outbound()).await.unwrap();
    echoes(&mut open).await.unwrap();
    let frontend = client.running.shared.credentials.borrow().clone().unwrap();
    let shown = Held { chain: frontend.chain.clone(), ..lab.held("frontend") };
    lab.revoke(&[&shown]);
    assert!(end_of(&mut open).await.is_err());
    let mut again = TcpStream::connect(client.outbound()).await.unwrap();
    assert!(end_of(&mut again).await.is_err());
    server.refused(Reason::CertificateRevoked).await;
    client.refused(Reason::PeerRefused).await;
}

#[tokio::test]
async fn draining_lets_what_is_in_a_tunnel_finish() {
    let app = peer::echo_app().await;
    let pair = Pair::with(&[app.address], "drain: {timeout: 10s}", "").await;
    let mut open = pair.open(0).await;
    let shared = pair.server.running.shared.clone();
    shared.drain.start();
    pair.client
        .eventually("the tunnel takes no more", || {
            shared.drain.is_draining() && open_tunnels(&pair.client, "outbound") == "1"
        })
        .await;
    echoes(&mut open).await.unwrap();
    open.shutdown().await.unwrap();
    assert_eq!(end_of(&mut open).await.unwrap(), 0);
    pair.server.eventually("no tunnel", || open_tunnels(&pair.server, "inbound") == "0").await;
    pair.client.eventually("no tunnel", || open_tunnels(&pair.client, "outbound") == "0").await;
}

#[tokio::test]
async fn the_drain_deadline_cuts_what_is_in_a_tunnel() {
    let app = peer::echo_app().await;
    let pair = Pair::with(&[app.address], "drain: {timeout: 100ms}", "").await;
    let mut open = pair.open(0).await;
    timeout(PATIENCE, pair.server.running.stop()).await.unwrap();
    assert_eq!(end_of(&mut open).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    pair.ended(&pair.server, Reason::Drained).await;
}

/// Requests are judged one by one, as on a connection of their own.
#[tokio::test]
async fn http_in_a_tunnel_is_read_and_judged_by_request() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = app.local_addr().unwrap();
    let pair = Pair::with(&[address], "", "").await;
    pair.add(&format!(
        "{}---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: gets}}\n\
         spec: {{rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]}}\n",
        declared(address, "HTTP")
    ));
    pair.server
        .eventually("the policy", || {
            pair.server.running.shared.snapshot.borrow().snapshot.reads_http(address.port())
        })
        .await;
    let serving = tokio::spawn(async move {
        let (mut served, _) = app.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(served.read_u8().await.unwrap());
        }
        served.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        (String::from_utf8(head).unwrap(), served)
    });
    let mut stream = pair.dial(0).await;
    for (method, status) in [("POST", "403"), ("GET", "200")] {
        let request = format!("{method} / HTTP/1.1\r\nhost: backend\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !(answer.ends_with(b"\r\n\r\nok") || answer.ends_with(b"RBAC: access denied")) {
            answer.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    let (head, _served) = serving.await.unwrap();
    assert!(head.to_ascii_lowercase().contains(&format!("uri={}", Lab::id("frontend"))), "{head}");
}

/// The edge of the mesh goes by tunnels too: clients that have nothing to do with each other share one, each with a connection of
/// its own in it.
#[tokio::test]
async fn the_edge_reaches_a_service_by_a_tunnel() {
    use super::http::{App, ask};

    let (lab, ip, app) = (Lab::new(), own_address(), App::start().await);
    let server = lab.sidecar("backend", &inbound_at(ip, &[app.address], "")).await;
    let http = services(&server).replace("name: tcp, protocol: TCP", "name: http, protocol: HTTP");
    lab.resources(Some(&format!(
        "{http}{}---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: gateway}}\n\
         spec: {{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']}}]}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: all}}\n\
         spec: {{hosts: ['*'], gateways: [gateway], http: [{{route: [{{destination: {{host: backend-0}}}}]}}]}}\n",
        declared(app.address, "HTTP")
    )));
    server.eventually("the new resources", || server.running.shared.snapshot.borrow().version > 1).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = format!("gateway: {{address: 127.0.0.1, ports: {{80: {port}}}}}");
    let edge = lab.labelled_sidecar("edge", "istio: ingressgateway", &settings).await;
    let mut clients = Vec::new();
    for path in ["/1", "/2"] {
        let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: anything\r\n\r\n");
        let answer = timeout(PATIENCE, ask(&mut client, request.as_bytes())).await.unwrap().unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        clients.push(client);
    }
    let uri = format!("URI={}", Lab::id("edge"));
    assert!(app.heard().iter().all(|heard| heard.field("x-forwarded-client-cert")[0].ends_with(&uri)));
    let made: Vec<_> = records(&edge).iter().filter_map(|record| record.tunnel).collect();
    assert_eq!(made.iter().map(|tunnel| (tunnel.id, tunnel.stream)).collect::<Vec<_>>(), [(1, 1), (1, 3)]);
}

/// A tunnel is no way around the end of a certificate: what is new is proved anew.
#[tokio::test]
async fn a_tunnel_takes_nothing_new_once_the_peers_certificate_has_ended() {
    let (lab, ip, app) = (Lab::new(), own_address(), peer::echo_app().await);
    let server = lab.sidecar("backend", &inbound_at(ip, &[app.address], "")).await;
    let ends = std::time::SystemTime::now() + Duration::from_secs(3);
    let brief = lab.ca.issue_with(&Lab::id("frontend"), |params| params.not_after = ends.into());
    let mut config = pillion_testkit::tls::client(&lab.ca, Some(&brief));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(SocketAddr::new(ip, PORT)).await.unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(pillion_testkit::tls::any_name(), stream).await;
    let (client, connection) = h2::client::handshake(stream.unwrap()).await.unwrap();
    let driving = tokio::spawn(connection);
    let asked =
        hyper::Request::builder().method("CONNECT").uri(server.inbound().to_string()).body(()).unwrap();
    let (response, mut open) = client.clone().ready().await.unwrap().send_request(asked, false).unwrap();
    let mut answer = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    // The server says goodbye when the certificate ends, and what is open goes on.
    let gone = async {
        while client.clone().ready().await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the tunnel goes on after the end of its certificate");
    open.send_data(hyper::body::Bytes::from_static(b"still"), true).unwrap();
    assert_eq!(timeout(PATIENCE, answer.data()).await.unwrap().unwrap().unwrap(), "still");
    drop((open, answer, client));
    let _ = timeout(PATIENCE, driving).await.expect("the tunnel is not closed");
}
