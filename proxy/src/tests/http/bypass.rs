//! Ways around a policy that forbids `/admin`: each leads to a refusal, or to the app by the very spelling that was judged.

use rstest::rstest;

use super::*;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// 403.
    Denied,
    /// 400.
    Malformed,
    /// 200, and the app heard this target.
    Reaches(&'static str),
}
use Fate::{Denied, Malformed, Reaches};

#[rstest]
#[case::plain("/admin", Denied)]
#[case::below("/admin/users", Denied)]
#[case::another("/public", Reaches("/public"))]
#[case::beside("/administration", Reaches("/administration"))]
#[case::query_is_no_path("/public?/admin", Reaches("/public?/admin"))]
#[case::with_query("/admin?x", Denied)]
#[case::double_slash("//admin", Denied)]
#[case::many_slashes("/////admin///users", Denied)]
#[case::dot("/./admin", Denied)]
#[case::dots("/public/../admin", Denied)]
#[case::above_the_root("/../../admin", Denied)]
#[case::dots_behind("/admin/.", Denied)]
#[case::dots_that_leave("/admin/../public", Reaches("/public"))]
#[case::encoded_dots("/public/%2e%2e/admin", Denied)]
#[case::encoded_dots_in_capitals("/public/%2E%2E/admin", Denied)]
#[case::encoded_slash("/%2fadmin", Denied)]
#[case::encoded_slash_below("/admin%2fusers", Denied)]
#[case::encoded_backslash("/%5cadmin", Denied)]
#[case::backslash("/\\admin", Denied)]
#[case::encoded_letters("/%61%64min", Denied)]
#[case::encoded_once_only("/%2561dmin", Reaches("/%2561dmin"))]
#[case::dot_parameter("/public/..;/admin", Malformed)]
#[case::dot_parameter_encoded("/public/..%3b/admin", Malformed)]
#[case::parameter("/admin;x=1", Reaches("/admin;x=1"))]
#[case::nul("/admin%00", Malformed)]
#[case::broken_escape("/%zz", Malformed)]
#[case::cut_escape("/admin%", Malformed)]
#[case::trailing_slash("/admin/", Denied)]
#[case::case_matters("/Admin", Reaches("/Admin"))]
#[case::absolute("http://backend/admin", Denied)]
#[case::absolute_elsewhere("http://backend/public", Reaches("/public"))]
#[case::absolute_in_capitals("HTTP://backend/admin", Denied)]
#[case::absolute_without_path("http://backend", Reaches("/"))]
#[case::absolute_with_another_host("http://other/public", Malformed)]
#[case::absolute_with_user("http://admin@backend/public", Malformed)]
#[tokio::test]
async fn a_path_is_judged_in_the_spelling_that_the_app_gets(#[case] target: &str, #[case] fate: Fate) {
    let lab = Lab::new();
    lab.resources(Some(&deny_admin()));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let answer = get(&sidecar, target).await.unwrap();
    let expected = match fate {
        Denied => 403,
        Malformed => 400,
        Reaches(_) => 200,
    };
    assert_eq!(answer.status, expected, "{answer:?}");
    match fate {
        Reaches(spelling) => assert_eq!(app.targets(), [spelling]),
        Denied | Malformed => assert_eq!(app.targets(), [""; 0], "the app heard of it"),
    }
    if fate == Denied {
        assert_eq!(answer.body(), "RBAC: access denied");
        assert_eq!(answer.field("pillion-reason"), Some("authorization_denied"));
    }
}

/// One host whatever its spelling; several hosts, or none, are refused.
#[rstest]
#[case::plain("Host: secret\r\n", Denied)]
#[case::capitals("Host: SECRET\r\n", Denied)]
#[case::with_port("Host: secret:8080\r\n", Denied)]
#[case::trailing_dot("Host: secret.\r\n", Denied)]
#[case::all_of_it("HOST:  Secret.:80 \r\n", Denied)]
#[case::another("Host: public\r\n", Reaches("/"))]
#[case::two("Host: public\r\nHost: secret\r\n", Malformed)]
#[case::twice("Host: public\r\nHost: public\r\n", Malformed)]
#[case::list("Host: public, secret\r\n", Malformed)]
#[case::user("Host: public@secret\r\n", Malformed)]
#[case::path("Host: public/secret\r\n", Malformed)]
#[case::none("", Malformed)]
#[case::empty("Host: \r\n", Malformed)]
#[tokio::test]
async fn a_host_has_one_spelling(#[case] fields: &str, #[case] fate: Fate) {
    let lab = Lab::new();
    lab.resources(Some(&policy("deny", "{action: DENY, rules: [{to: [{operation: {hosts: [secret]}}]}]}")));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let answer = ask(&mut stream, format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes()).await.unwrap();
    let expected = match fate {
        Denied => 403,
        Malformed => 400,
        Reaches(_) => 200,
    };
    assert_eq!(answer.status, expected, "{answer:?}");
    assert_eq!(app.heard().len(), usize::from(expected == 200));
}

/// An app that takes `delete` for `DELETE` is not reached past a policy.
#[rstest]
#[case("DELETE", 403)]
#[case("delete", 400)]
#[case("Delete", 400)]
#[case("GET", 200)]
#[case("PURGE", 200)]
#[tokio::test]
async fn a_method_has_one_spelling(#[case] method: &str, #[case] status: u16) {
    let lab = Lab::new();
    lab.resources(Some(&policy("deny", "{action: DENY, rules: [{to: [{operation: {methods: [DELETE]}}]}]}")));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    assert_eq!(ask(&mut stream, &head(method, "/", "")).await.unwrap().status, status);
    assert_eq!(app.heard().len(), usize::from(status == 200));
}

/// A header field is matched whatever the case of its name; each of its lines must be what is allowed.
#[rstest]
#[case("X-Team: red\r\n", 200)]
#[case("x-TEAM: red\r\n", 200)]
#[case("X-Team: blue\r\n", 403)]
#[case("X-Team: red\r\nX-Team: blue\r\n", 403)]
#[case("", 403)]
#[tokio::test]
async fn each_line_of_a_header_field_must_be_allowed(#[case] fields: &str, #[case] status: u16) {
    let lab = Lab::new();
    lab.resources(Some(&policy(
        "team",
        "{rules: [{when: [{key: 'request.headers[X-Team]', values: [red]}]}]}",
    )));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    assert_eq!(ask(&mut stream, &head("GET", "/", fields)).await.unwrap().status, status);
}

/// A second line hides none from what forbids it.
#[rstest]
#[case("X-Team: blue\r\n", 403)]
#[case("X-Team: red\r\nX-Team: blue\r\n", 403)]
#[case("X-Team: blue\r\nx-team: blue\r\n", 403)]
#[case("X-Team: red\r\n", 200)]
#[case("", 200)]
#[tokio::test]
async fn a_header_field_does_not_hide_behind_another(#[case] fields: &str, #[case] status: u16) {
    let lab = Lab::new();
    lab.resources(Some(&policy(
        "team",
        "{action: DENY, rules: [{when: [{key: 'request.headers[X-Team]', values: [blue]}]}]}",
    )));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    assert_eq!(ask(&mut stream, &head("GET", "/", fields)).await.unwrap().status, status);
    assert_eq!(app.heard().len(), usize::from(status == 200));
}

/// What the client has taken out on the way is not there for the judge either.
#[rstest]
#[case::there("X-Read-Only: yes\r\n", 200)]
#[case::named_away("X-Read-Only: yes\r\nConnection: X-Read-Only\r\n", 403)]
#[case::named_away_among_others(
    "Connection: keep-alive\r\nConnection: x, x-read-only\r\nX-Read-Only: yes\r\n",
    403
)]
#[tokio::test]
async fn a_field_that_does_not_reach_the_app_lets_nobody_in(#[case] fields: &str, #[case] status: u16) {
    let lab = Lab::new();
    lab.resources(Some(&policy(
        "read-only",
        "{rules: [{when: [{key: 'request.headers[X-Read-Only]', values: ['yes']}]}]}",
    )));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    assert_eq!(ask(&mut stream, &head("GET", "/", fields)).await.unwrap().status, status);
    assert!(app.heard().iter().all(|heard| heard.field("x-read-only") == ["yes"]), "{:?}", app.heard());
}

/// Whatever is written around the end of a body: the app gets one request, framed in one way, and what hides behind it is
/// judged by itself or never read.
#[rstest]
#[case::length_and_chunked(
    "POST / HTTP/1.1\r\nHost: backend\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: backend\r\n\r\n"
)]
#[case::chunked_and_length(
    "POST / HTTP/1.1\r\nHost: backend\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: backend\r\n\r\n"
)]
#[case::two_lengths(
    "POST / HTTP/1.1\r\nHost: backend\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\nGET /admin HTTP/1.1\r\nHost: backend\r\n\r\n"
)]
#[case::a_list_of_lengths(
    "POST / HTTP/1.1\r\nHost: backend\r\nContent-Length: 0, 40\r\n\r\nGET /admin HTTP/1.1\r\nHost: backend\r\n\r\n"
)]
#[case::signed_length(
    "POST / HTTP/1.1\r\nHost: backend\r\nContent-Length: +0\r\n\r\nGET /admin HTTP/1.1\r\nHost: backend\r\n\r\n"
)]
#[case::unknown_coding(
    "POST / HTTP/1.1\r\nHost: backend\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: backend\r\n\r\n"
)]
#[case::chunked_is_not_last(
    "POST / HTTP/1.1\r\nHost: backend\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: backend\r\n\r\n"
)]
#[case::chunked_in_http_1_0(
    "POST / HTTP/1.0\r\nHost: backend\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: backend\r\n\r\n"
)]
#[case::space_before_the_colon(
    "POST / HTTP/1.1\r\nHost: backend\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: backend\r\n\r\n"
)]
#[case::folded_line(
    "POST / HTTP/1.1\r\nHost: backend\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: backend\r\n\r\n"
)]
#[case::huge_chunk(
    "POST / HTTP/1.1\r\nHost: backend\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff0\r\nGET /admin HTTP/1.1\r\nHost: backend\r\n\r\n"
)]
#[case::body_of_a_get(
    "GET / HTTP/1.1\r\nHost: backend\r\nContent-Length: 5\r\n\r\nhelloGET /admin HTTP/1.1\r\nHost: backend\r\n\r\n"
)]
#[case::pipelined("GET / HTTP/1.1\r\nHost: backend\r\n\r\nGET /admin HTTP/1.1\r\nHost: backend\r\n\r\n")]
#[case::bare_line_feeds("GET / HTTP/1.1\nHost: backend\n\nGET /admin HTTP/1.1\nHost: backend\n\n")]
#[tokio::test]
async fn nothing_is_smuggled_behind_a_request(#[case] bytes: &str) {
    let lab = Lab::new();
    lab.resources(Some(&deny_admin()));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answers = Vec::new();
    // A reset counts as an end as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answers)).await.unwrap();
    let answers = String::from_utf8_lossy(&answers).into_owned();
    let statuses: Vec<&str> =
        answers.match_indices("HTTP/1.1 ").filter_map(|(at, _)| answers.get(at + 9..at + 12)).collect();
    assert!(
        matches!(statuses.as_slice(), ["200"] | ["400"] | ["200", "400" | "403"]),
        "{statuses:?} in {answers:?}"
    );
    assert!(app.heard().iter().all(|heard| heard.target == "/"), "{:?}", app.heard());
    assert!(app.heard().len() <= 1);
}

/// What the client says of its own connection cannot take out what is judged, or what the app relies on.
#[tokio::test]
async fn fields_of_the_connection_end_here() {
    let lab = Lab::new();
    lab.resources(Some(&deny_admin()));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let fields = "Connection: keep-alive, X-Drop, Authorization, Host\r\nX-Drop: 1\r\nAuthorization: token\r\n\
                  Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nX-Keep: 2\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    assert_eq!(ask(&mut stream, &head("GET", "/", fields)).await.unwrap().status, 200);
    let heard = &app.heard()[0];
    assert_eq!(heard.fields, ["authorization: token", "host: backend", "x-keep: 2"], "{heard:?}");
}

/// A tunnel would carry requests that nobody judges.
#[tokio::test]
async fn a_tunnel_is_not_opened() {
    let lab = Lab::new();
    lab.resources(Some(&deny_admin()));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let connect = b"CONNECT backend:80 HTTP/1.1\r\nHost: backend:80\r\n\r\n";
    assert_eq!(ask(&mut stream, connect).await.unwrap().status, 400);
    assert_eq!(app.heard().len(), 0);
}

/// Bytes that are no request, and heads without end.
#[rstest]
#[case::no_http(b"\x00\x01\x02\x03\r\n\r\n".to_vec())]
#[case::no_method(b" / HTTP/1.1\r\n\r\n".to_vec())]
#[case::no_version(b"GET /\r\n\r\n".to_vec())]
#[case::another_version(b"GET / HTTP/3.7\r\n\r\n".to_vec())]
#[case::nul_in_a_field(b"GET / HTTP/1.1\r\nHost: backend\r\nX: a\0b\r\n\r\n".to_vec())]
#[case::long_line([b"GET /".to_vec(), vec![b'a'; 70_000], b" HTTP/1.1\r\n\r\n".to_vec()].concat())]
#[case::long_field([b"GET / HTTP/1.1\r\nHost: backend\r\nX: ".to_vec(), vec![b'a'; 70_000], b"\r\n\r\n".to_vec()].concat())]
#[case::many_fields([b"GET / HTTP/1.1\r\nHost: backend\r\n".to_vec(), b"X: 1\r\n".repeat(200), b"\r\n".to_vec()].concat())]
#[tokio::test]
async fn what_is_no_request_reaches_nobody(#[case] bytes: Vec<u8>) {
    let lab = Lab::new();
    lab.resources(Some(&deny_admin()));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let _ = stream.write_all(&bytes).await;
    match timeout(PATIENCE, read_answer(&mut stream)).await.unwrap() {
        Ok(answer) => assert!(matches!(answer.status, 400 | 414 | 431), "{answer:?}"),
        Err(error) => assert!(
            matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof),
            "{error}"
        ),
    }
    assert_eq!(app.heard().len(), 0);
}

/// Requirement 26: a head that drips is cut at its deadline; a connection without a request may wait for its next.
#[tokio::test]
async fn req_26_a_head_that_drips_is_cut_and_an_idle_connection_is_not() {
    let lab = Lab::new();
    lab.resources(Some(&deny_admin()));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "limits: {requestHeadTimeout: 300ms}").await;
    let mut idle = TcpStream::connect(sidecar.inbound()).await.unwrap();
    assert_eq!(ask(&mut idle, &head("GET", "/", "")).await.unwrap().status, 200);
    let mut dripping = TcpStream::connect(sidecar.inbound()).await.unwrap();
    dripping.write_all(b"GET / HT").await.unwrap();
    let error = timeout(PATIENCE, dripping.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    sidecar
        .eventually("the cut", || {
            sidecar.metrics().lines().any(|line| {
                line.starts_with("pillion_connections_ended_total")
                    && line.contains("reason=\"request_timeout\"")
            })
        })
        .await;
    assert_eq!(ask(&mut idle, &head("GET", "/", "")).await.unwrap().status, 200, "idle for longer than that");
}

/// Over HTTP/2, where fields have no lines and the target is four of them.
mod http2 {
    use hyper::client::conn::http2;
    use hyper::header::HOST;

    use super::*;

    async fn asked(sidecar: &Sidecar, request: Request<Full<Bytes>>) -> Result<u16, hyper::Error> {
        let stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.map(|response| response.status().as_u16())
    }

    #[rstest]
    #[case::plain("http://backend/admin", Denied)]
    #[case::dots("http://backend/public/../admin", Denied)]
    #[case::encoded("http://backend/%2e/%61dmin", Denied)]
    #[case::another("http://backend/public", Reaches("/public"))]
    #[case::user("http://admin@backend/public", Malformed)]
    #[tokio::test]
    async fn a_path_is_judged_in_the_spelling_that_the_app_gets(#[case] uri: &str, #[case] fate: Fate) {
        let lab = Lab::new();
        lab.resources(Some(&deny_admin()));
        let app = App::start().await;
        let sidecar = lab.in_front_of(app.address, "").await;
        let request = Request::builder().uri(uri).body(Full::default()).unwrap();
        let status = asked(&sidecar, request).await;
        match fate {
            Denied => assert_eq!(status.unwrap(), 403),
            // The client's own library may refuse it first.
            Malformed => assert!(status.map_or(true, |status| status == 400)),
            Reaches(spelling) => {
                assert_eq!(status.unwrap(), 200);
                assert_eq!(app.targets(), [spelling]);
                assert_eq!(app.heard()[0].version, "HTTP/2.0");
                assert_eq!(app.heard()[0].host, "backend");
            }
        }
    }

    #[rstest]
    #[case::the_same("backend", 200)]
    #[case::spelt_otherwise("BACKEND.", 200)]
    #[case::another("secret", 400)]
    #[tokio::test]
    async fn host_beside_authority_must_be_the_same(#[case] host: &str, #[case] status: u16) {
        let lab = Lab::new();
        lab.resources(Some(&deny_admin()));
        let app = App::start().await;
        let sidecar = lab.in_front_of(app.address, "").await;
        let request = Request::builder().uri("http://backend/").header(HOST, host);
        assert_eq!(asked(&sidecar, request.body(Full::default()).unwrap()).await.unwrap(), status);
        assert_eq!(app.heard().len(), usize::from(status == 200));
    }

    /// Frames by hand: what a library would not send.
    #[rstest]
    #[case::no_path(&[(":method", "GET"), (":scheme", "http"), (":authority", "backend")])]
    #[case::empty_path(&[(":method", "GET"), (":scheme", "http"), (":authority", "backend"), (":path", "")])]
    #[case::no_method(&[(":scheme", "http"), (":authority", "backend"), (":path", "/")])]
    #[case::two_paths(&[(":method", "GET"), (":scheme", "http"), (":authority", "backend"), (":path", "/"), (":path", "/admin")])]
    #[case::two_authorities(&[(":method", "GET"), (":scheme", "http"), (":authority", "backend"), (":authority", "x"), (":path", "/")])]
    #[case::unknown_pseudo_field(&[(":method", "GET"), (":scheme", "http"), (":authority", "backend"), (":path", "/"), (":other", "1")])]
    #[case::pseudo_field_behind(&[(":method", "GET"), (":scheme", "http"), (":authority", "backend"), ("x", "1"), (":path", "/admin")])]
    #[case::connection_field(&[(":method", "GET"), (":scheme", "http"), (":authority", "backend"), (":path", "/"), ("connection", "close")])]
    #[case::framing_field(&[(":method", "GET"), (":scheme", "http"), (":authority", "backend"), (":path", "/"), ("transfer-encoding", "chunked")])]
    #[case::capitals(&[(":method", "GET"), (":scheme", "http"), (":authority", "backend"), (":path", "/"), ("X-A", "1")])]
    #[case::line_in_a_field(&[(":method", "GET"), (":scheme", "http"), (":authority", "backend"), (":path", "/"), ("x", "1\r\nhost: other")])]
    #[case::line_in_the_path(&[(":method", "GET"), (":scheme", "http"), (":authority", "backend"), (":path", "/ HTTP/1.1\r\nhost: other")])]
    #[case::absolute_path(&[(":method", "GET"), (":scheme", "http"), (":authority", "backend"), (":path", "http://backend/admin")])]
    #[case::length_that_lies(&[(":method", "GET"), (":scheme", "http"), (":authority", "backend"), (":path", "/"), ("content-length", "5")])]
    #[case::no_host(&[(":method", "GET"), (":scheme", "http"), (":path", "/")])]
    #[case::asterisk_for_get(&[(":method", "GET"), (":scheme", "http"), (":authority", "backend"), (":path", "*/admin")])]
    #[case::connect(&[(":method", "CONNECT"), (":authority", "backend:80")])]
    #[tokio::test]
    async fn a_malformed_head_reaches_nobody(#[case] fields: &[(&str, &str)]) {
        let lab = Lab::new();
        lab.resources(Some(&deny_admin()));
        let app = App::start().await;
        let sidecar = lab.in_front_of(app.address, "").await;
        let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(http2_frame(4, 0, 0, &[]));
        // END_STREAM and END_HEADERS.
        bytes.extend(http2_frame(1, 0x5, 1, &literal_fields(fields)));
        // A request behind it that is in order: once that is answered, the first has been dealt with.
        let good = [(":method", "GET"), (":scheme", "http"), (":authority", "backend"), (":path", "/last")];
        bytes.extend(http2_frame(1, 0x5, 3, &literal_fields(&good)));
        stream.write_all(&bytes).await.unwrap();
        let dealt_with = async {
            loop {
                let mut head = [0; 9];
                if stream.read_exact(&mut head).await.is_err() {
                    return;
                }
                let length = usize::from(head[1]) << 8 | usize::from(head[2]);
                let mut payload = vec![0; length];
                if stream.read_exact(&mut payload).await.is_err() {
                    return;
                }
                let of_last = head[8] == 3 && matches!(head[3], 0 | 1 | 3);
                if of_last || head[3] == 7 {
                    return;
                }
            }
        };
        timeout(PATIENCE, dealt_with).await.unwrap();
        assert!(app.targets().iter().all(|target| target == "/last"), "{:?}", app.heard());
    }
}
