//! Messages pass as they are: bodies of any length as streams, trailers, upgrades, interim answers, both versions.

use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper::header::HeaderMap;
use rstest::rstest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;

async fn in_front_of(lab: &Lab, app: SocketAddr) -> Sidecar {
    lab.resources(Some(&declared(app, "HTTP")));
    lab.in_front_of(app, "").await
}

/// What the app sends comes to the client, whatever shape it has.
#[rstest]
#[case::length("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello")]
#[case::no_body("HTTP/1.1 204 No Content\r\n\r\n", 204, "")]
#[case::not_modified("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", 304, "")]
#[case::to_the_end("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", 200, "hello")]
#[case::old("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello")]
#[case::interim(
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    200,
    "hello"
)]
#[case::unusual_status("HTTP/1.1 599 Odd\r\nContent-Length: 0\r\n\r\n", 599, "")]
#[tokio::test]
async fn answers_come_through(#[case] answer: &'static str, #[case] status: u16, #[case] body: &str) {
    let lab = Lab::new();
    let app = RawApp::answering(answer).await;
    let sidecar = in_front_of(&lab, app.address).await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    stream.write_all(&head("GET", "/", "")).await.unwrap();
    let seen = if status == 204 || status == 304 {
        let mut bytes = vec![0; 12];
        timeout(PATIENCE, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), format!("HTTP/1.1 {status}"));
        return;
    } else {
        timeout(PATIENCE, read_answer(&mut stream)).await.unwrap().unwrap()
    };
    assert_eq!((seen.status, seen.body().as_str()), (status, body), "{seen:?}");
    assert_eq!(seen.field("pillion-reason"), None);
}

/// What is no answer, or breaks off, is not taken for one.
#[rstest]
#[case::none("", None)]
#[case::no_http("hello\r\n\r\n", Some("server_reset"))]
#[case::two_lengths(
    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    Some("server_reset")
)]
#[case::switches_unasked(
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    Some("server_reset")
)]
#[tokio::test]
async fn no_answer_is_a_503_or_a_502(#[case] answer: &'static str, #[case] reason: Option<&str>) {
    let lab = Lab::new();
    let app = RawApp::answering(answer).await;
    let sidecar = in_front_of(&lab, app.address).await;
    let Some(reason) = reason else {
        // It hangs, and the client gives up.
        assert!(timeout(Duration::from_millis(200), get(&sidecar, "/")).await.is_err());
        return;
    };
    let seen = get(&sidecar, "/").await.unwrap();
    assert!(matches!(seen.status, 502 | 503), "{seen:?}");
    assert_eq!(seen.field("pillion-reason"), Some(reason));
}

#[tokio::test]
async fn an_app_that_is_not_there_is_a_503() {
    let lab = Lab::new();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let sidecar = in_front_of(&lab, nobody).await;
    let seen = get(&sidecar, "/").await.unwrap();
    assert_eq!((seen.status, seen.field("pillion-reason")), (503, Some("app_unreachable")));
    assert!(!seen.body().contains("127.0.0.1"), "addresses are for the log: {}", seen.body());
}

/// An answer that breaks off in its body is a broken connection, never a short body.
#[tokio::test]
async fn an_answer_that_breaks_off_breaks_the_connection() {
    let lab = Lab::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = in_front_of(&lab, listener.local_addr().unwrap()).await;
    let app = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 1024];
        let _ = stream.read(&mut buffer).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello").await.unwrap();
    });
    let error = get(&sidecar, "/").await.unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof), "{error}");
    app.await.unwrap();
}

/// The end of a connection waits for a client that reads slowly.
#[tokio::test]
async fn a_slow_reader_gets_the_last_answer_whole() {
    const LENGTH: usize = 3_000_000;
    let lab = Lab::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = in_front_of(&lab, listener.local_addr().unwrap()).await;
    let app = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {LENGTH}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; LENGTH]).await.unwrap();
    });
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    stream.write_all(&head("GET", "/", "")).await.unwrap();
    // Until the app is done, and the sidecar holds what is left, as far as the kernel takes it.
    stream.readable().await.unwrap();
    let answer = timeout(PATIENCE, async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let (mut body, mut part) = (Vec::new(), vec![0; 50_000]);
        loop {
            sleep(Duration::from_millis(5)).await;
            match stream.read(&mut part).await? {
                0 => return io::Result::Ok(body),
                count => body.extend_from_slice(&part[..count]),
            }
        }
    });
    assert_eq!(answer.await.unwrap().unwrap().len(), LENGTH);
    app.await.unwrap();
}

/// Both ways at the same time, and nothing is held until the other side has finished.
#[tokio::test]
async fn bodies_stream_both_ways_over_http2() {
    let lab = Lab::new();
    let app = streaming_echo().await;
    lab.resources(Some(&declared(app.address, "HTTP2")));
    let sidecar = lab.in_front_of(app.address, "").await;
    let stream = lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (chunks, body) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = StreamBody::new(ReceiverStream::new(body));
    let request =
        Request::post("http://backend/echo").header("te", "trailers").body(BodyExt::boxed(body)).unwrap();
    let mut answer = timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    for number in 0..20 {
        let chunk = vec![number; 30_000];
        chunks.send(Ok(Frame::data(chunk.clone().into()))).await.unwrap();
        let mut back = Vec::new();
        while back.len() < chunk.len() {
            let frame = timeout(PATIENCE, answer.frame()).await.unwrap().unwrap().unwrap();
            back.extend_from_slice(frame.data_ref().unwrap());
        }
        assert_eq!(back, chunk, "chunk {number}");
    }
    let trailers: HeaderMap = [("x-sum".parse().unwrap(), "1".parse().unwrap())].into_iter().collect();
    chunks.send(Ok(Frame::trailers(trailers))).await.unwrap();
    drop(chunks);
    let mut last = None;
    while let Some(frame) = timeout(PATIENCE, answer.frame()).await.unwrap() {
        last = Some(frame.unwrap());
    }
    let trailers = last.unwrap().into_trailers().unwrap();
    assert_eq!(
        (&trailers["x-sum"], &trailers["grpc-status"]),
        (&"1".parse().unwrap(), &"0".parse().unwrap())
    );
    sidecar
        .eventually("the status of gRPC", || sidecar.metrics().contains("grpc_response_status=\"0\""))
        .await;
}

/// An app that sends each piece of a body back as it comes, and the trailers with `grpc-status: 0`.
async fn streaming_echo() -> App {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut open = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async move {
                let body = request.into_body().map_frame(|frame| match frame.into_trailers() {
                    Ok(mut trailers) => {
                        trailers.insert("grpc-status", "0".parse().unwrap());
                        Frame::trailers(trailers)
                    }
                    Err(data) => data,
                });
                Ok::<_, Infallible>(Response::new(BoxBody::new(body)))
            });
            open.spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    App { address, heard: Arc::default(), task }
}

#[tokio::test]
async fn a_chunked_body_with_trailers_comes_through_over_http1() {
    let lab = Lab::new();
    let app = App::start().await;
    let sidecar = in_front_of(&lab, app.address).await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let mut request = head("POST", "/", "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\nTE: trailers\r\n");
    request.extend_from_slice(b"5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n");
    assert_eq!(ask(&mut stream, &request).await.unwrap().status, 200);
    let heard = &app.heard()[0];
    assert_eq!(heard.body, b"hello world");
    assert_eq!(heard.trailers, ["x-sum: 11"]);
}

/// A megabyte each way, on one connection, again and again.
#[tokio::test]
async fn large_bodies_come_through_whole() {
    let lab = Lab::new();
    let app = streaming_echo().await;
    let sidecar = in_front_of(&lab, app.address).await;
    let stream = lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    let (mut reading, mut writing) = tokio::io::split(stream);
    for round in 0..3u8 {
        let body: Vec<u8> = (0..1_000_000u32).map(|at| u8::try_from(at % 251).unwrap() ^ round).collect();
        let request = head("POST", "/", &format!("Content-Length: {}\r\n", body.len()));
        let send = async {
            writing.write_all(&request).await.unwrap();
            writing.write_all(&body).await.unwrap();
        };
        let (answer, ()) = tokio::join!(timeout(PATIENCE, read_answer(&mut reading)), send);
        let answer = answer.unwrap().unwrap();
        assert_eq!(answer.status, 200);
        let back = if answer.field("transfer-encoding").is_some() {
            timeout(PATIENCE, read_chunked(&mut reading)).await.unwrap()
        } else {
            answer.body
        };
        assert!(back == body, "round {round}: {} bytes came back", back.len());
    }
}

async fn read_chunked<S: AsyncRead + Unpin>(stream: &mut S) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(stream.read_u8().await.unwrap());
        }
        let length = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk).await.unwrap();
        body.extend_from_slice(&chunk[..length]);
        if length == 0 {
            return body;
        }
    }
}

/// The client's body is not asked for before the app has said that it wants it, or refused.
#[rstest]
#[case::wanted("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true, 200)]
#[case::refused("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno", false, 417)]
#[case::too_large(
    "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
    false,
    413
)]
#[tokio::test]
async fn a_client_that_asks_first_gets_the_apps_answer(
    #[case] answer: &'static str,
    #[case] continues: bool,
    #[case] status: u16,
) {
    let lab = Lab::new();
    let app = RawApp::answering(answer).await;
    let sidecar = in_front_of(&lab, app.address).await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let request = head("PUT", "/", "Expect: 100-continue\r\nContent-Length: 5\r\n");
    stream.write_all(&request).await.unwrap();
    let mut first = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut first)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&first), format!("HTTP/1.1 {}", if continues { 100 } else { status }));
    assert!(!app.got().contains("hello"));
    if continues {
        stream.write_all(b"hello").await.unwrap();
        let mut rest = vec![0; b" Continue\r\n\r\nHTTP/1.1 200".len()];
        timeout(PATIENCE, stream.read_exact(&mut rest)).await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&rest).ends_with("200"), "{}", String::from_utf8_lossy(&rest));
        sidecar.eventually("the body at the app", || app.got().ends_with("hello")).await;
    }
}

/// An app that never says `100` gets the body all the same.
#[tokio::test]
async fn an_app_that_does_not_know_the_question_gets_the_body() {
    let lab = Lab::new();
    let app = App::start().await;
    let sidecar = in_front_of(&lab, app.address).await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    stream.write_all(&head("PUT", "/", "Expect: 100-continue\r\nContent-Length: 5\r\n")).await.unwrap();
    let mut interim = vec![0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    timeout(PATIENCE, stream.read_exact(&mut interim)).await.unwrap().unwrap();
    assert_eq!(ask(&mut stream, b"hello").await.unwrap().status, 200);
    assert_eq!(app.heard()[0].body, b"hello");
}

/// From the 101 on the connection carries whatever the two have agreed on.
#[rstest]
#[case::plaintext(None)]
#[case::mesh(Some("frontend"))]
#[tokio::test]
async fn a_websocket_passes_bytes_both_ways(#[case] caller: Option<&str>) {
    let lab = Lab::new();
    let app = upgrading_app().await;
    let sidecar = in_front_of(&lab, app.address).await;
    match caller {
        Some(name) => {
            let stream = lab.tls_client(sidecar.inbound(), Some(name), &["istio"]).await.unwrap();
            talk(stream).await;
        }
        None => talk(TcpStream::connect(sidecar.inbound()).await.unwrap()).await,
    }
    sidecar
        .eventually("the end of the request", || sidecar.metrics().contains("response_code=\"101\""))
        .await;
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let fields = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n";
    // The first bytes of the new protocol may come with the request for it.
    let request = [head("GET", "/chat", fields), b"early ".to_vec()].concat();
    let answer = ask(&mut stream, &request).await.unwrap();
    assert_eq!((answer.status, answer.field("upgrade")), (101, Some("websocket")), "{answer:?}");
    stream.write_all(b"and late").await.unwrap();
    let mut back = vec![0; b"greeting early and late".len()];
    timeout(PATIENCE, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&back), "greeting early and late");
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"", "each direction ends by itself, and cleanly");
}

/// Answers 101 together with a greeting, then sends back what it gets.
async fn upgrading_app() -> App {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
            assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\ngreeting ";
            stream.write_all(answer).await.unwrap();
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await.unwrap();
            to.shutdown().await.unwrap();
        }
    });
    App { address, heard: Arc::default(), task }
}

/// A request that the app reads, on the same connection to it, for each of the client's; and the end of one is the end of
/// the other.
#[tokio::test]
async fn one_connection_to_the_app_for_each_of_the_client() {
    let lab = Lab::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = in_front_of(&lab, listener.local_addr().unwrap()).await;
    let mut client = TcpStream::connect(sidecar.inbound()).await.unwrap();
    client.write_all(&head("GET", "/1", "")).await.unwrap();
    let (mut app, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    for number in 1..=3 {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(timeout(PATIENCE, app.read_u8()).await.unwrap().unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        assert!(request.starts_with(&format!("GET /{number} HTTP/1.1\r\n")), "{request}");
        app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        assert_eq!(timeout(PATIENCE, read_answer(&mut client)).await.unwrap().unwrap().body(), "ok");
        if number < 3 {
            client.write_all(&head("GET", &format!("/{}", number + 1), "")).await.unwrap();
        }
    }
    drop(app);
    let ended = timeout(PATIENCE, client.read(&mut [0; 1])).await.unwrap().unwrap();
    assert_eq!(ended, 0, "the app's end is the client's");
}

/// A client of HTTP/1.0 names no host and gets an answer that it understands.
#[tokio::test]
async fn an_old_client_is_served() {
    let lab = Lab::new();
    let app = App::start().await;
    let sidecar = in_front_of(&lab, app.address).await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("heard GET /health"), "{answer}");
    assert_eq!(app.heard()[0].host, app.address.to_string());
}

/// Names of fields keep their letters over HTTP/1.1.
#[tokio::test]
async fn names_of_fields_keep_their_letters() {
    let lab = Lab::new();
    let app = RawApp::answering("HTTP/1.1 200 OK\r\nX-MixedCase: 1\r\nContent-Length: 0\r\n\r\n").await;
    let sidecar = in_front_of(&lab, app.address).await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let answer = ask(&mut stream, &head("GET", "/", "X-OtherCase: 2\r\n")).await.unwrap();
    assert!(answer.head.contains("X-MixedCase: 1"), "{}", answer.head);
    assert!(app.got().contains("X-OtherCase: 2"), "{}", app.got());
}
