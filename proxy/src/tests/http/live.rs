//! What changes while requests are under way: policies, modes, the end of the proxy.

use rstest::rstest;

use super::*;

const ALLOW_ALL: &str = "{rules: [{to: [{operation: {methods: [GET, POST]}}]}]}";
const ALLOW_NONE: &str = "{rules: [{to: [{operation: {methods: [DELETE]}}]}]}";

/// An app that answers with a head at once and never finishes its body.
async fn endless_app() -> App {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin").await;
            open.push(stream);
        }
    });
    App { address, heard: Arc::default(), task }
}

async fn begun(sidecar: &Sidecar) -> TcpStream {
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    stream.write_all(&head("GET", "/", "")).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"begin") {
        seen.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
    }
    stream
}

#[rstest]
#[case::cut("", true)]
#[case::kept("policyChange: keep", false)]
#[tokio::test]
async fn a_request_that_is_no_longer_allowed_is_cut(#[case] settings: &str, #[case] cut: bool) {
    let lab = Lab::new();
    lab.resources(Some(&policy("p", ALLOW_ALL)));
    let app = endless_app().await;
    let sidecar = lab.in_front_of(app.address, settings).await;
    let mut stream = begun(&sidecar).await;
    lab.resources(Some(&policy("p", ALLOW_NONE)));
    sidecar.eventually("the new policy", || sidecar.running.shared.snapshot.borrow().version > 1).await;
    let mut fresh = TcpStream::connect(sidecar.inbound()).await.unwrap();
    assert_eq!(
        ask(&mut fresh, &head("GET", "/", "")).await.unwrap().status,
        403,
        "new requests are judged anew"
    );
    if cut {
        let error = timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        sidecar
            .eventually("the refusal of the request", || {
                sidecar.metrics().contains("pillion_requests_refused_total{reason=\"policy_changed\"")
            })
            .await;
    } else {
        assert!(timeout(Duration::from_millis(200), stream.read(&mut [0; 1])).await.is_err(), "it goes on");
    }
}

/// A request for which the app has not found an answer yet gets one.
#[tokio::test]
async fn a_request_that_waits_and_is_no_longer_allowed_gets_a_403() {
    let lab = Lab::new();
    lab.resources(Some(&policy("p", ALLOW_ALL)));
    let app = RawApp::answering("").await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    stream.write_all(&head("GET", "/", "")).await.unwrap();
    sidecar.eventually("the request at the app", || app.got().contains("GET / ")).await;
    lab.resources(Some(&policy("p", ALLOW_NONE)));
    let answer = timeout(PATIENCE, read_answer(&mut stream)).await.unwrap().unwrap();
    assert_eq!((answer.status, answer.field("pillion-reason")), (403, Some("policy_changed")));
}

/// An app may answer before the request has ended; what comes of it then is judged as well.
#[tokio::test]
async fn a_body_that_goes_on_behind_its_answer_is_cut_too() {
    let lab = Lab::new();
    lab.resources(Some(&policy("p", ALLOW_ALL)));
    let app = RawApp::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let answer = ask(&mut stream, &head("POST", "/", "Transfer-Encoding: chunked\r\n")).await.unwrap();
    assert_eq!(answer.status, 200);
    stream.write_all(b"6\r\nbefore\r\n").await.unwrap();
    sidecar.eventually("the first piece at the app", || app.got().contains("before")).await;
    lab.resources(Some(&policy("p", ALLOW_NONE)));
    // The answer was whole, so the end may be clean; what the app has must not look whole.
    let end = timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("it stays open");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert!(app.got().ends_with("6\r\nbefore\r\n"), "{}", app.got());
}

/// STRICT comes: who came in plaintext is cut, who came by mutual TLS goes on.
#[tokio::test]
async fn a_connection_that_its_port_no_longer_admits_is_cut() {
    const STRICT: &str = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: STRICT}}\n";
    let lab = Lab::new();
    let app = App::start().await;
    let service = declared(app.address, "HTTP");
    lab.resources(Some(&service));
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stranger = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let mut frontend = lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    assert_eq!(ask(&mut stranger, &head("GET", "/", "")).await.unwrap().status, 200);
    assert_eq!(ask(&mut frontend, &head("GET", "/", "")).await.unwrap().status, 200);
    lab.resources(Some(&(service + STRICT)));
    let error = timeout(PATIENCE, stranger.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(ask(&mut frontend, &head("GET", "/", "")).await.unwrap().status, 200);
}

/// Draining: a request under way is finished, with word that the connection ends; an idle connection ends at once.
#[tokio::test]
async fn draining_finishes_requests_and_ends_idle_connections() {
    let lab = Lab::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    lab.resources(Some(&declared(address, "HTTP")));
    let sidecar = lab.in_front_of(address, "drain: {timeout: 20s}").await;
    let mut busy = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let mut idle = TcpStream::connect(sidecar.inbound()).await.unwrap();
    busy.write_all(&head("GET", "/", "")).await.unwrap();
    let (mut app, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    idle.write_all(&head("GET", "/", "")).await.unwrap();
    let (mut other, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    other.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(timeout(PATIENCE, read_answer(&mut idle)).await.unwrap().unwrap().status, 200);
    let stop = async {
        sidecar.running.stop().await;
    };
    let finish = async {
        assert_eq!(timeout(PATIENCE, idle.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
        app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        let answer = timeout(PATIENCE, read_answer(&mut busy)).await.unwrap().unwrap();
        assert_eq!((answer.body().as_str(), answer.field("connection")), ("ok", Some("close")));
        assert_eq!(timeout(PATIENCE, busy.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
    };
    timeout(PATIENCE, async { tokio::join!(stop, finish) }).await.unwrap();
}

/// A websocket is judged as the request that began it, for as long as it lasts.
#[tokio::test]
async fn a_tunnel_that_is_no_longer_allowed_is_cut() {
    let lab = Lab::new();
    lab.resources(Some(&policy("p", ALLOW_ALL)));
    let app = RawApp::answering(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    )
    .await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let request = head("GET", "/", "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    assert_eq!(ask(&mut stream, &request).await.unwrap().status, 101);
    stream.write_all(b"hello").await.unwrap();
    sidecar.eventually("the bytes at the app", || app.got().ends_with("hello")).await;
    lab.resources(Some(&policy("p", ALLOW_NONE)));
    let error = timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}
