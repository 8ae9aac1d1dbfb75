//! What strangers and broken peers may do at the door and at the other end of a tunnel: each costs itself alone.

use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;

use super::*;

/// A sidecar with the door at an address of its own, in front of an echo.
struct Door {
    lab: Lab,
    server: Sidecar,
    ip: IpAddr,
    _app: Listening,
}

impl Door {
    async fn open(more: &str) -> Self {
        let (lab, ip, app) = (Lab::new(), own_address(), peer::echo_app().await);
        let server = lab.sidecar("backend", &inbound_at(ip, &[app.address], more)).await;
        Self { lab, server, ip, _app: app }
    }

    async fn handshake(&self, name: Option<&str>, alpn: &[&str]) -> io::Result<TlsStream<TcpStream>> {
        self.lab.tls_client(SocketAddr::new(self.ip, PORT), name, alpn).await
    }

    /// HTTP/2 with a good certificate.
    async fn client(&self) -> h2::client::SendRequest<Bytes> {
        let stream = self.handshake(Some("frontend"), &["h2"]).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// Where the app is reached.
    fn good(&self) -> String {
        self.server.inbound().to_string()
    }
}

type Stream = (StatusCode, SendStream<Bytes>, RecvStream);

async fn ask(sender: &h2::client::SendRequest<Bytes>, request: Request<()>) -> Result<Stream, h2::Error> {
    let mut sender = sender.clone().ready().await?;
    let (response, sending) = sender.send_request(request, false)?;
    let response = timeout(PATIENCE, response).await.expect("no answer")?;
    Ok((response.status(), sending, response.into_body()))
}

fn connect(authority: &str) -> Request<()> {
    Request::builder().method(Method::CONNECT).uri(authority).body(()).unwrap()
}

/// That the tunnel still serves: a stream to the app echoes.
async fn serves(sender: &h2::client::SendRequest<Bytes>, authority: &str) {
    let (status, mut sending, mut receiving) = ask(sender, connect(authority)).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    sending.send_data(Bytes::from_static(b"hello"), true).unwrap();
    let mut answer = Vec::new();
    while let Some(piece) = timeout(PATIENCE, receiving.data()).await.unwrap() {
        answer.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(answer, b"hello");
}

/// What the tunnel's own port, the door's, and ports of the proxy elsewhere are called below.
fn placed(text: &str, door: &Door) -> String {
    let admin = door.server.running.addresses.admin.port();
    text.replace("OURS", &door.ip.to_string()).replace("ADMIN", &admin.to_string())
}

#[rstest]
#[case::a_name("backend:8080", Reason::RequestMalformed)]
#[case::no_port("OURS", Reason::RequestMalformed)]
#[case::port_0("OURS:0", Reason::RequestMalformed)]
#[case::another_host("10.1.2.3:80", Reason::AddressNotOurs)]
#[case::loopback("127.0.0.1:80", Reason::AddressNotOurs)]
#[case::any("0.0.0.0:80", Reason::AddressNotOurs)]
#[case::ipv6_loopback("[::1]:80", Reason::AddressNotOurs)]
#[case::the_door_itself("OURS:15008", Reason::SelfLoop)]
#[case::the_admin_api("OURS:ADMIN", Reason::SelfLoop)]
#[case::nobody_listens_there("OURS:1", Reason::AppUnreachable)]
#[tokio::test]
async fn a_stream_that_asks_for_what_is_not_the_apps_is_refused_by_itself(
    #[case] authority: &str,
    #[case] reason: Reason,
) {
    let door = Door::open("").await;
    let client = door.client().await;
    let (status, ..) = ask(&client, connect(&placed(authority, &door))).await.unwrap();
    assert_eq!(status.as_u16(), pillion_mesh::tunnel::status(reason));
    door.server.refused(reason).await;
    serves(&client, &door.good()).await;
}

#[tokio::test]
async fn a_request_that_is_no_connect_is_refused_by_itself() {
    let door = Door::open("").await;
    let client = door.client().await;
    let request = Request::get(format!("http://{}/", door.good())).body(()).unwrap();
    let (status, ..) = ask(&client, request).await.unwrap();
    assert_eq!(status, StatusCode::BAD_REQUEST);
    door.server.refused(Reason::RequestMalformed).await;
    serves(&client, &door.good()).await;
}

/// A frame (RFC 9113 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A block of headers, none of them compressed (RFC 7541 6.2.2).
fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    headers.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_HEADERS: u8 = 4;

/// HTTP/2 byte by byte: the preface, and an empty SETTINGS.
async fn raw(door: &Door) -> TlsStream<TcpStream> {
    let mut stream = door.handshake(Some("frontend"), &["h2"]).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    stream
}

/// The first frame that comes and that `wanted` takes: its kind, and its payload; none where the connection ends before.
async fn frame_of<S: AsyncReadExt + Unpin>(
    stream: &mut S,
    wanted: impl Fn(u8, u32) -> bool,
) -> Option<(u8, Vec<u8>)> {
    timeout(PATIENCE, async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, _, d, e, f, g] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            stream.read_exact(&mut payload).await.ok()?;
            if wanted(kind, u32::from_be_bytes([d, e, f, g])) {
                return Some((kind, payload));
            }
        }
    })
    .await
    .expect("neither a frame nor an end")
}

/// RFC 9113 8.5: a CONNECT has neither `:scheme` nor `:path`; and what else no CONNECT may have.
#[rstest]
#[case::with_a_path(&[(":method", "CONNECT"), (":authority", "OURS:80"), (":path", "/")])]
#[case::with_a_scheme(&[(":method", "CONNECT"), (":authority", "OURS:80"), (":scheme", "https")])]
#[case::extended(&[(":method", "CONNECT"), (":authority", "OURS:80"), (":scheme", "https"), (":path", "/"), (":protocol", "websocket")])]
#[case::no_method(&[(":authority", "OURS:80")])]
#[case::two_authorities(&[(":method", "CONNECT"), (":authority", "OURS:80"), (":authority", "10.1.2.3:80")])]
#[case::a_status(&[(":method", "CONNECT"), (":authority", "OURS:80"), (":status", "200")])]
#[case::upper_case(&[(":method", "CONNECT"), (":authority", "OURS:80"), ("Host", "x")])]
#[case::connection_header(&[(":method", "CONNECT"), (":authority", "OURS:80"), ("connection", "close")])]
#[case::no_authority(&[(":method", "CONNECT")])]
#[tokio::test]
async fn a_malformed_connect_reaches_nobody(#[case] headers: &[(&str, &str)]) {
    let door = Door::open("").await;
    let good = door.good();
    let here = |value: &str| value.replace("OURS:80", &good);
    let headers: Vec<(&str, String)> = headers.iter().map(|(name, value)| (*name, here(value))).collect();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut stream = raw(&door).await;
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &block(&headers))).await.unwrap();
    let answer = frame_of(&mut stream, |kind, id| id == 1 && kind != 8 || kind == GOAWAY).await;
    match answer {
        // Refused by a status: it is not 200 (index 8 of the static table).
        Some((HEADERS, block)) => assert_ne!(block.first(), Some(&0x88)),
        Some((RST_STREAM | GOAWAY, _)) | None => {}
        Some((kind, _)) => panic!("a frame of kind {kind}"),
    }
    let served = door.server.metrics().contains("istio_tcp_connections_opened_total{");
    assert!(!served, "{}", door.server.metrics());
    serves(&door.client().await, &good).await;
}

/// Heads are bounded, whether in one frame or in many.
#[tokio::test]
async fn req_30_a_head_without_end_is_refused() {
    let door = Door::open("").await;
    let mut stream = raw(&door).await;
    let filler = "x".repeat(100);
    let many = [("filler", filler.as_str()); 100];
    let connect = block(&[(":method", "CONNECT"), (":authority", &door.good())]);
    stream.write_all(&frame(HEADERS, 0, 1, &connect)).await.unwrap();
    for _ in 0..1000 {
        if stream.write_all(&frame(9, 0, 1, &block(&many))).await.is_err() {
            break;
        }
    }
    let _ = stream.flush().await;
    let ended = frame_of(&mut stream, |kind, _| kind == GOAWAY || kind == RST_STREAM).await;
    assert!(ended.is_none_or(|(kind, _)| kind == GOAWAY || kind == RST_STREAM));
    serves(&door.client().await, &door.good()).await;
}

/// CVE-2023-44487: streams that are opened and taken back at once.
#[tokio::test]
async fn req_28_a_rapid_reset_ends_its_tunnel_and_no_other() {
    let door = Door::open("").await;
    let good = door.client().await;
    let mut stream = raw(&door).await;
    let head = block(&[(":method", "CONNECT"), (":authority", &door.good())]);
    let mut flood = Vec::new();
    for number in 0..20_000_u32 {
        flood.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, &head));
        flood.extend(frame(RST_STREAM, 0, 2 * number + 1, &8_u32.to_be_bytes()));
    }
    let (mut from, mut to) = tokio::io::split(stream);
    let flooding = tokio::spawn(async move {
        let _ = to.write_all(&flood).await;
        to
    });
    let mut seen = Vec::new();
    timeout(PATIENCE, from.read_to_end(&mut seen)).await.expect("the flood is served for ever").ok();
    stream = from.unsplit(flooding.await.unwrap());
    drop(stream);
    serves(&good, &door.good()).await;
    door.server
        .eventually("nothing left of it", || {
            door.server.running.shared.connections.len() == 0 && open_tunnels(&door.server, "inbound") == "1"
        })
        .await;
}

/// More than the window allows.
#[tokio::test]
async fn req_30_a_client_that_does_not_heed_the_window_is_cut() {
    let (lab, ip) = (Lab::new(), own_address());
    let app = peer::silent_app().await;
    let server = lab.sidecar("backend", &inbound_at(ip, &[app.address], "")).await;
    let door = Door { lab, server, ip, _app: app };
    let mut stream = raw(&door).await;
    let head = block(&[(":method", "CONNECT"), (":authority", &door.good())]);
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &head)).await.unwrap();
    assert!(frame_of(&mut stream, |kind, id| id == 1 && kind == HEADERS).await.is_some());
    let (mut from, mut to) = tokio::io::split(stream);
    tokio::spawn(async move {
        for _ in 0..4_000 {
            if to.write_all(&frame(0, 0, 1, &[7; 16_384])).await.is_err() {
                return;
            }
        }
    });
    let cut = frame_of(&mut from, |kind, id| kind == GOAWAY || kind == RST_STREAM && id == 1).await;
    assert!(cut.is_some(), "the window does not hold");
    let moved: u64 =
        door.server.running.shared.connections.all().iter().map(|record| record.bytes_to_server).sum();
    assert!(moved < 16 * 1024 * 1024, "{moved} bytes were taken");
}

#[rstest]
#[case::no_certificate(None, &["h2"], Reason::NoClientCertificate)]
#[case::no_protocol(Some("frontend"), &[], Reason::HandshakeFailed)]
#[case::a_direct_connection(Some("frontend"), &["istio"], Reason::HandshakeFailed)]
#[case::http_1(Some("frontend"), &["http/1.1"], Reason::HandshakeFailed)]
#[tokio::test]
async fn who_does_not_come_for_a_tunnel_is_refused_at_the_door(
    #[case] name: Option<&str>,
    #[case] alpn: &[&str],
    #[case] reason: Reason,
) {
    let door = Door::open("").await;
    if let Ok(mut stream) = door.handshake(name, alpn).await {
        let mut rest = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it is let in").ok();
    }
    door.server.refused(reason).await;
    let record = door.server.running.shared.connections.refused().pop().unwrap();
    assert_eq!(record.original_destination, Some(SocketAddr::new(door.ip, PORT)));
}

/// Whatever is not begun in time: TLS, or HTTP/2 in it.
#[rstest]
#[case::silent(false)]
#[case::tls_and_then_silent(true)]
#[tokio::test]
async fn req_26_a_tunnel_that_is_not_begun_is_cut(#[case] with_tls: bool) {
    let door = Door::open("limits: {handshakeTimeout: 200ms}").await;
    let address = SocketAddr::new(door.ip, PORT);
    let mut silent = TcpStream::connect(address).await.unwrap();
    if with_tls {
        let _tls = door.handshake(Some("frontend"), &["h2"]).await.unwrap();
        door.server.refused(Reason::HandshakeTimeout).await;
    }
    let _ = end_of(&mut silent).await;
    door.server.refused(Reason::HandshakeTimeout).await;
}

#[tokio::test]
async fn bytes_that_are_no_http_2_end_the_tunnel() {
    let door = Door::open("").await;
    let mut stream = door.handshake(Some("frontend"), &["h2"]).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: backend\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().ok();
    door.server.refused(Reason::RequestMalformed).await;
}

/// Plaintext at the door is not looked at, and reaches nobody.
#[tokio::test]
async fn req_19_plaintext_at_the_door_is_refused() {
    let door = Door::open("").await;
    let address = SocketAddr::new(door.ip, PORT);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let _ = end_of(&mut stream).await;
    door.server.refused(Reason::HandshakeFailed).await;
}

/// A client that takes its stream back while the app is not reached yet.
#[tokio::test]
async fn a_stream_that_is_taken_back_leaves_nothing() {
    let door = Door::open("").await;
    let client = door.client().await;
    for _ in 0..10 {
        let mut sender = client.clone().ready().await.unwrap();
        let (response, mut sending) = sender.send_request(connect(&door.good()), false).unwrap();
        sending.send_reset(h2::Reason::CANCEL);
        drop(response);
    }
    serves(&client, &door.good()).await;
    door.server.eventually("no stream", || door.server.running.shared.connections.len() == 0).await;
}

/// A door that the test itself keeps, and a sidecar that is led to it.
struct Fake {
    client: Sidecar,
    door: TcpListener,
    acceptor: TlsAcceptor,
    _lab: Lab,
}

type Asked = (Request<RecvStream>, SendResponse<Bytes>);

impl Fake {
    async fn with(alpn: &[&str], more: &str) -> Self {
        let (lab, ip) = (Lab::new(), own_address());
        let door = TcpListener::bind(SocketAddr::new(ip, PORT)).await.unwrap();
        lab.resources(Some(&service(0, SocketAddr::new(ip, 8080))));
        let mut config = pillion_testkit::tls::server(&lab.ca, &lab.held("backend"));
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let client = lab.sidecar("frontend", &format!("{}\n{more}", outbound(1))).await;
        Self { client, door, acceptor: TlsAcceptor::from(Arc::new(config)), _lab: lab }
    }

    async fn tls(&self) -> tokio_rustls::server::TlsStream<TcpStream> {
        let (stream, _) = timeout(PATIENCE, self.door.accept()).await.expect("nobody came").unwrap();
        self.acceptor.accept(stream).await.unwrap()
    }

    /// The handshake of who then goes away.
    async fn handshake_for_nothing(&self) {
        let (stream, _) = timeout(PATIENCE, self.door.accept()).await.expect("nobody came").unwrap();
        let _ = self.acceptor.accept(stream).await;
    }

    /// A tunnel that the sidecar opens, driven until the test ends it; its streams come one by one.
    async fn tunnel(&self, settings: &h2::server::Builder) -> FakeTunnel {
        let mut http2 = settings.handshake(self.tls().await).await.unwrap();
        let (asked, streams) = tokio::sync::mpsc::channel::<Asked>(100);
        let goodbye = Arc::new(tokio::sync::Notify::new());
        let leaving = goodbye.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    stream = http2.accept() => match stream {
                        Some(Ok(stream)) => asked.send(stream).await.unwrap(),
                        _ => return,
                    },
                    () = leaving.notified() => http2.graceful_shutdown(),
                }
            }
        });
        FakeTunnel { streams, goodbye }
    }

    async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.client.outbound()).await.unwrap()
    }
}

struct FakeTunnel {
    streams: tokio::sync::mpsc::Receiver<Asked>,
    goodbye: Arc<tokio::sync::Notify>,
}

impl FakeTunnel {
    async fn stream(&mut self) -> Asked {
        timeout(PATIENCE, self.streams.recv()).await.expect("no stream came").unwrap()
    }

    /// The next stream, let in.
    async fn let_in(&mut self) -> (RecvStream, SendStream<Bytes>) {
        let (request, mut reply) = self.stream().await;
        (request.into_body(), reply.send_response(Response::new(()), false).unwrap())
    }
}

async fn reads(stream: &mut TcpStream, expected: &[u8]) {
    let mut read = vec![0; expected.len()];
    timeout(PATIENCE, stream.read_exact(&mut read)).await.unwrap().unwrap();
    assert_eq!(read, expected);
}

#[rstest]
#[case::denied(403, Reason::DeniedByPeer)]
#[case::denied_as_ztunnel_says_it(401, Reason::DeniedByPeer)]
#[case::app_down(503, Reason::DestinationUnreachable)]
#[case::not_ours(400, Reason::TunnelRefused)]
#[case::no_such_thing(404, Reason::TunnelRefused)]
#[case::elsewhere(302, Reason::TunnelRefused)]
#[tokio::test]
async fn what_a_peer_answers_is_told(#[case] status: u16, #[case] reason: Reason) {
    let fake = Fake::with(&["h2"], "").await;
    let mut stream = fake.dial().await;
    let mut tunnel = fake.tunnel(&h2::server::Builder::new()).await;
    let (request, mut reply) = tunnel.stream().await;
    assert_eq!(request.method(), Method::CONNECT);
    assert_eq!(request.uri().authority().unwrap().port_u16(), Some(8080));
    assert!(request.uri().scheme().is_none() && request.uri().path_and_query().is_none());
    reply.send_response(Response::builder().status(status).body(()).unwrap(), true).unwrap();
    assert_eq!(end_of(&mut stream).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    fake.client.refused(reason).await;
}

#[tokio::test]
async fn a_peer_that_does_not_answer_is_not_waited_for_for_ever() {
    let fake = Fake::with(&["h2"], "limits: {connectTimeout: 200ms}").await;
    let mut stream = fake.dial().await;
    let mut tunnel = fake.tunnel(&h2::server::Builder::new()).await;
    let _asked = tunnel.stream().await;
    assert!(end_of(&mut stream).await.is_err());
    fake.client.refused(Reason::ConnectTimeout).await;
}

#[tokio::test]
async fn a_peer_that_resets_what_it_is_asked_is_told() {
    let fake = Fake::with(&["h2"], "").await;
    let mut stream = fake.dial().await;
    let mut tunnel = fake.tunnel(&h2::server::Builder::new()).await;
    let (_request, mut reply) = tunnel.stream().await;
    reply.send_reset(h2::Reason::INTERNAL_ERROR);
    assert!(end_of(&mut stream).await.is_err());
    fake.client.refused(Reason::TunnelRefused).await;
}

#[tokio::test]
async fn a_peer_that_does_not_speak_http_2_is_told() {
    let fake = Fake::with(&[], "").await;
    let mut stream = fake.dial().await;
    fake.handshake_for_nothing().await;
    assert!(end_of(&mut stream).await.is_err());
    fake.client.refused(Reason::TunnelFailed).await;
}

/// GOAWAY: what is in the tunnel goes on, and what is new goes by another.
#[tokio::test]
async fn a_peer_that_says_goodbye_keeps_what_it_has() {
    let fake = Fake::with(&["h2"], "").await;
    let mut old = fake.dial().await;
    let mut first = fake.tunnel(&h2::server::Builder::new()).await;
    let (_receiving, mut sending) = first.let_in().await;
    sending.send_data(Bytes::from_static(b"before"), false).unwrap();
    reads(&mut old, b"before").await;
    first.goodbye.notify_one();
    // Until GOAWAY has arrived, the first may still be asked; it does not answer, and none is lost.
    let usual = h2::server::Builder::new();
    let (mut new, mut second) = loop {
        let new = fake.dial().await;
        tokio::select! {
            second = fake.tunnel(&usual) => break (new, second),
            Some((_request, mut reply)) = first.streams.recv() => {
                reply.send_response(Response::builder().status(503).body(()).unwrap(), true).unwrap();
            }
        }
    };
    let (_receiving, mut of_new) = second.let_in().await;
    of_new.send_data(Bytes::from_static(b"new"), false).unwrap();
    reads(&mut new, b"new").await;
    sending.send_data(Bytes::from_static(b"after"), false).unwrap();
    reads(&mut old, b"after").await;
}

/// A stream that is refused unseen goes by another tunnel.
#[tokio::test]
async fn a_stream_that_is_refused_unseen_is_asked_for_in_another_tunnel() {
    let fake = Fake::with(&["h2"], "").await;
    let mut old = fake.dial().await;
    let mut first = fake.tunnel(&h2::server::Builder::new()).await;
    let (_receiving, mut sending) = first.let_in().await;
    sending.send_data(Bytes::from_static(b"x"), false).unwrap();
    reads(&mut old, b"x").await;
    let mut new = fake.dial().await;
    let (_request, mut reply) = first.stream().await;
    reply.send_reset(h2::Reason::REFUSED_STREAM);
    let mut second = fake.tunnel(&h2::server::Builder::new()).await;
    let (_receiving, mut of_new) = second.let_in().await;
    of_new.send_data(Bytes::from_static(b"new"), false).unwrap();
    reads(&mut new, b"new").await;
}

/// What a peer allows counts, where it is less than our own limit.
#[tokio::test]
async fn a_peer_that_allows_one_stream_gets_one() {
    let fake = Fake::with(&["h2"], "").await;
    let mut one = h2::server::Builder::new();
    one.max_concurrent_streams(1);
    let mut open = Vec::new();
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        let mut stream = fake.dial().await;
        let mut tunnel = fake.tunnel(&one).await;
        let (receiving, mut sending) = tunnel.let_in().await;
        sending.send_data(Bytes::from_static(b"x"), false).unwrap();
        reads(&mut stream, b"x").await;
        open.push((stream, receiving, sending));
        tunnels.push(tunnel);
    }
    let streams: Vec<_> =
        records(&fake.client).iter().filter_map(|record| record.tunnel).map(|tunnel| tunnel.stream).collect();
    assert_eq!(streams, [1, 1, 1]);
}

/// A tunnel that breaks takes its connections along, by reset.
#[tokio::test]
async fn req_29_a_tunnel_that_breaks_resets_what_is_in_it() {
    let fake = Fake::with(&["h2"], "").await;
    let mut stream = fake.dial().await;
    let mut http2 = h2::server::Builder::new().handshake::<_, Bytes>(fake.tls().await).await.unwrap();
    let (request, mut reply) = timeout(PATIENCE, http2.accept()).await.unwrap().unwrap().unwrap();
    let mut sending = reply.send_response(Response::new(()), false).unwrap();
    sending.send_data(Bytes::from_static(b"x"), false).unwrap();
    let breaking = tokio::spawn(async move { while http2.accept().await.is_some() {} });
    reads(&mut stream, b"x").await;
    breaking.abort();
    drop((request, sending));
    assert_eq!(end_of(&mut stream).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    fake.client.eventually("no tunnel", || open_tunnels(&fake.client, "outbound") == "0").await;
}
