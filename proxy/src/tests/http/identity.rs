//! Who asks: by the certificate alone, told to the app in `X-Forwarded-Client-Cert`, believed from nobody.

use hyper::client::conn::http2;
use hyper::header::HeaderMap;
use rstest::rstest;

use super::*;

const ALLOW_FRONTEND: &str = "{rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}], \
                              to: [{operation: {methods: [GET], paths: [/api/*]}}]}]}";

/// The usual shape of a rule: one caller, some methods, some paths.
#[rstest]
#[case::allowed(Some("frontend"), "GET", "/api/products", 200)]
#[case::another_method(Some("frontend"), "POST", "/api/products", 403)]
#[case::another_path(Some("frontend"), "GET", "/other", 403)]
#[case::another_caller(Some("payments"), "GET", "/api/products", 403)]
#[case::nobody(None, "GET", "/api/products", 403)]
#[tokio::test]
async fn each_request_is_judged_by_who_asks_and_what_for(
    #[case] caller: Option<&str>,
    #[case] method: &str,
    #[case] path: &str,
    #[case] status: u16,
) {
    let lab = Lab::new();
    lab.resources(Some(&policy("allow", ALLOW_FRONTEND)));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let request = head(method, path, "Content-Length: 0\r\n");
    let answer = match caller {
        Some(name) => {
            let mut stream = lab.tls_client(sidecar.inbound(), Some(name), &["istio"]).await.unwrap();
            ask(&mut stream, &request).await
        }
        None => ask(&mut TcpStream::connect(sidecar.inbound()).await.unwrap(), &request).await,
    };
    assert_eq!(answer.unwrap().status, status);
    assert_eq!(app.heard().len(), usize::from(status == 200), "the app is dialled for nobody else");
}

/// Two requests of one connection have two fates.
#[tokio::test]
async fn a_denied_request_does_not_end_the_connection() {
    let lab = Lab::new();
    lab.resources(Some(&policy("allow", ALLOW_FRONTEND)));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    for (path, status) in [("/api/a", 200), ("/b", 403), ("/api/c", 200), ("//api/d", 200)] {
        assert_eq!(ask(&mut stream, &head("GET", path, "")).await.unwrap().status, status, "{path}");
    }
    assert_eq!(app.targets(), ["/api/a", "/api/c", "/api/d"]);
    let metrics = sidecar.metrics();
    let count = |code: &str| {
        let wanted = format!("response_code=\"{code}\"");
        let line =
            metrics.lines().find(|line| line.starts_with("istio_requests_total") && line.contains(&wanted));
        line.and_then(|line| line.rsplit(' ').next().map(str::to_owned))
    };
    assert_eq!((count("200").as_deref(), count("403").as_deref()), (Some("3"), Some("1")), "{metrics}");
    assert!(
        metrics.contains(
            "pillion_requests_refused_total{reason=\"authorization_denied\",direction=\"inbound\"} 1"
        )
    );
}

#[tokio::test]
async fn the_app_is_told_who_asks() {
    let lab = Lab::new();
    let app = App::start().await;
    lab.resources(Some(&declared(app.address, "HTTP")));
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    let forged = "X-Forwarded-Client-Cert: By=me;URI=spiffe://cluster.local/ns/default/sa/admin\r\n\
                  x-forwarded-client-cert: URI=spiffe://cluster.local/ns/default/sa/root\r\n";
    assert_eq!(ask(&mut stream, &head("GET", "/", forged)).await.unwrap().status, 200);
    let told = app.heard()[0].field("x-forwarded-client-cert").join("|");
    let (by, rest) = told.split_once(";Hash=").unwrap();
    let (hash, rest) = rest.split_once(';').unwrap();
    assert_eq!(by, "By=spiffe://cluster.local/ns/default/sa/backend");
    assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{told}");
    assert_eq!(rest, "Subject=\"\";URI=spiffe://cluster.local/ns/default/sa/frontend");
}

#[tokio::test]
async fn a_stranger_is_told_as_nobody() {
    let lab = Lab::new();
    let app = App::start().await;
    lab.resources(Some(&declared(app.address, "HTTP")));
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let forged = "X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/default/sa/admin\r\nX-FORWARDED-CLIENT-CERT: a\r\n";
    assert_eq!(ask(&mut stream, &head("GET", "/", forged)).await.unwrap().status, 200);
    assert_eq!(app.heard()[0].field("x-forwarded-client-cert"), [""; 0]);
}

/// An app that takes trailers for headers is not told by them who asks, nor what nobody has judged.
#[rstest]
#[case::who_asks("X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/default/sa/admin")]
#[case::host("Host: other")]
#[case::by_way_of("X-Forwarded-For: 192.0.2.7")]
#[case::of_the_connection("Connection: close")]
#[case::secret("Authorization: token")]
#[tokio::test]
async fn trailers_say_nothing_that_the_head_says(#[case] line: &str) {
    let lab = Lab::new();
    let app = App::start().await;
    lab.resources(Some(&declared(app.address, "HTTP")));
    let sidecar = lab.in_front_of(app.address, "").await;
    let name = line.split(':').next().unwrap();
    let fields = format!("Transfer-Encoding: chunked\r\nTrailer: X-Sum, {name}\r\nTE: trailers\r\n");
    let request = [head("POST", "/", &fields), format!("0\r\n{line}\r\nX-Sum: 1\r\n\r\n").into()].concat();
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    assert_eq!(ask(&mut stream, &request).await.unwrap().status, 200);
    assert_eq!(app.heard()[0].trailers, ["x-sum: 1"]);
}

/// The same over HTTP/2.
#[tokio::test]
async fn trailers_of_http2_name_nobody() {
    let lab = Lab::new();
    let app = App::start().await;
    lab.resources(Some(&declared(app.address, "HTTP2")));
    let sidecar = lab.in_front_of(app.address, "").await;
    let stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let trailers: HeaderMap =
        [("x-sum", "1"), ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/default/sa/admin")]
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .into_iter()
            .collect();
    let body = Full::<Bytes>::from("hello").with_trailers(std::future::ready(Some(Ok(trailers))));
    let request = Request::post("http://backend/").body(body).unwrap();
    assert_eq!(timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap().status(), 200);
    assert_eq!(app.heard()[0].trailers, ["x-sum: 1"]);
}

/// A policy that asks for the header is told the same as the app.
#[rstest]
#[case::who_it_is(Some("frontend"), "", 200)]
#[case::somebody_else(Some("payments"), "", 403)]
#[case::somebody_else_who_lies(Some("payments"), FORGED, 403)]
#[case::who_it_is_and_lies(Some("frontend"), "X-Forwarded-Client-Cert: URI=nobody\r\n", 200)]
#[case::nobody_who_lies(None, FORGED, 403)]
#[tokio::test]
async fn a_policy_is_told_who_asks_as_the_app_is(
    #[case] caller: Option<&str>,
    #[case] fields: &str,
    #[case] status: u16,
) {
    let lab = Lab::new();
    lab.resources(Some(&policy(
        "told",
        "{rules: [{when: [{key: 'request.headers[X-Forwarded-Client-Cert]', values: ['*/sa/frontend']}]}]}",
    )));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let request = head("GET", "/", fields);
    let answer = match caller {
        Some(name) => {
            let mut stream = lab.tls_client(sidecar.inbound(), Some(name), &["istio"]).await.unwrap();
            ask(&mut stream, &request).await
        }
        None => ask(&mut TcpStream::connect(sidecar.inbound()).await.unwrap(), &request).await,
    };
    assert_eq!(answer.unwrap().status, status);
}

const FORGED: &str = "X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/default/sa/frontend\r\n";

/// `remoteIpBlocks` asks for the original client, which only a trusted proxy may name.
#[rstest]
#[case::trusted("frontend", "X-Forwarded-For: 10.0.0.1, 192.0.2.7\r\n", 200)]
#[case::the_nearest_counts("frontend", "X-Forwarded-For: 192.0.2.7, 10.0.0.1\r\n", 403)]
#[case::nothing_said("frontend", "", 403)]
#[case::not_trusted("payments", "X-Forwarded-For: 192.0.2.7\r\n", 403)]
#[tokio::test]
async fn the_original_client_is_who_a_trusted_proxy_says(
    #[case] caller: &str,
    #[case] fields: &str,
    #[case] status: u16,
) {
    let lab = Lab::new();
    lab.resources(Some(&policy(
        "remote",
        "{rules: [{from: [{source: {remoteIpBlocks: [192.0.2.0/24]}}], to: [{operation: {methods: [GET]}}]}]}",
    )));
    let app = App::start().await;
    let listener = format!(
        "inbound: {{trustedProxies: [\"spiffe://cluster.local/ns/default/sa/frontend\"], \
         listeners: [{{address: \"127.0.0.1:0\", forward: \"{}\"}}]}}",
        app.address
    );
    let sidecar = lab.sidecar("backend", &listener).await;
    let mut stream = lab.tls_client(sidecar.inbound(), Some(caller), &["istio"]).await.unwrap();
    assert_eq!(ask(&mut stream, &head("GET", "/", fields)).await.unwrap().status, status);
}

/// What is not read as HTTP is judged as a connection: fields of HTTP match no ALLOW there, and widen a DENY.
#[rstest]
#[case::allow("{rules: [{to: [{operation: {methods: [GET]}}]}]}", false)]
#[case::deny("{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}", false)]
#[case::deny_of_another_port(
    "{action: DENY, rules: [{to: [{operation: {paths: [/admin], ports: ['1']}}]}]}",
    true
)]
#[tokio::test]
async fn a_port_that_is_declared_as_tcp_is_never_read(#[case] spec: &str, #[case] allowed: bool) {
    let lab = Lab::new();
    let app = App::start().await;
    lab.resources(Some(&(policy("p", spec) + &declared(app.address, "TCP"))));
    let sidecar = lab.in_front_of(app.address, "").await;
    assert_eq!(get(&sidecar, "/public").await.is_ok(), allowed);
    assert_eq!(app.heard().len(), usize::from(allowed));
    if !allowed {
        sidecar.refused(Reason::AuthorizationDenied).await;
    }
}

/// The app's own TLS cannot be read: on a port that a policy asks HTTP of it is judged as a connection.
#[tokio::test]
async fn the_apps_own_tls_does_not_pass_a_policy_that_asks_for_http() {
    let lab = Lab::new();
    lab.resources(Some(&deny_admin()));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let error = lab.tls_client(sidecar.inbound(), None, &["h2"]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    sidecar.refused(Reason::AuthorizationDenied).await;
}

/// Whoever is denied is told so, however much it sends.
#[rstest]
#[case::short(5)]
#[case::long(3_000_000)]
#[tokio::test]
async fn a_denied_request_with_a_body_gets_its_answer(#[case] length: usize) {
    let lab = Lab::new();
    lab.resources(Some(&deny_admin()));
    let app = App::start().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut stream = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let mut request = head("POST", "/admin", &format!("Content-Length: {length}\r\n"));
    request.resize(request.len() + length, 0);
    // The rest may not be wanted any more.
    let _ = stream.write_all(&request).await;
    assert_eq!(timeout(PATIENCE, read_answer(&mut stream)).await.unwrap().unwrap().status, 403);
}
