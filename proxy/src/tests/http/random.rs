//! Bytes that nobody thought of: whatever is sent to a port whose policy forbids `/admin`, the app is never asked for a path
//! that is `/admin` or below it, nor for one that is not in its one spelling. Two apps listen, hyper's reader and one that
//! reads more leniently, so that what is smuggled past one of them is seen.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::sample::select;

use pillion_mesh::policy::path::normalize;

use super::*;

/// The sidecar before both apps.
struct Stage {
    _lab: Lab,
    _sidecar: Sidecar,
    app: App,
    lenient: LenientApp,
    before_app: SocketAddr,
    before_lenient: SocketAddr,
}

impl Stage {
    async fn start() -> Self {
        let lab = Lab::new();
        lab.resources(Some(&deny_admin()));
        let (app, lenient) = (App::start().await, LenientApp::start().await);
        let listeners = [app.address, lenient.address]
            .map(|app| format!("{{address: \"127.0.0.1:0\", forward: \"{app}\"}}"));
        let sidecar =
            lab.sidecar("backend", &format!("inbound: {{listeners: [{}]}}", listeners.join(", "))).await;
        let before = |app: SocketAddr| {
            let listens = &sidecar.running.addresses.inbound;
            listens.iter().find(|(_, what)| what.contains(&app.to_string())).unwrap().0
        };
        let (before_app, before_lenient) = (before(app.address), before(lenient.address));
        Self { _lab: lab, _sidecar: sidecar, app, lenient, before_app, before_lenient }
    }

    /// Sends `bytes` to both, and returns what came back of hyper's, once both connections have ended.
    async fn send(&self, bytes: &[u8]) -> Vec<u8> {
        let (answer, _) = tokio::join!(sent(self.before_app, bytes), sent(self.before_lenient, bytes));
        answer
    }

    /// What the apps were asked for since the last look.
    fn targets(&self) -> Vec<String> {
        let of_app =
            std::mem::take(&mut *self.app.heard.lock().unwrap()).into_iter().map(|heard| heard.target);
        let of_lenient = std::mem::take(&mut *self.lenient.targets.lock().unwrap());
        of_app.chain(of_lenient).collect()
    }
}

async fn sent(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A reset is an end as well.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    if bytes.starts_with(b"PRI * HTTP/2.0") {
        // HTTP/2 has no half of a connection. What is asked last is answered, unless what comes before breaks the frames.
        let of_last = async {
            while !has_answer_on(LAST_STREAM, &answer) && stream.read_buf(&mut answer).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = timeout(Duration::from_millis(50), of_last).await;
    }
    let _ = stream.shutdown().await;
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection never ends");
    answer
}

/// The stream of a request that is in order, behind all others.
const LAST_STREAM: u32 = 99;

/// Whether HEADERS or RST_STREAM came on a stream.
fn has_answer_on(stream: u32, mut frames: &[u8]) -> bool {
    while let Some((head, rest)) = frames.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if matches!(head[3], 1 | 3) && head[5..] == stream.to_be_bytes() {
            return true;
        }
        frames = rest.get(length..).unwrap_or_default();
    }
    false
}

/// Draws cases and sends each. Some must be let through and some denied, else nothing is shown.
fn hold(name: &'static str, cases: u32, bytes: impl Strategy<Value = Vec<u8>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stage = runtime.block_on(Stage::start());
    let (reached, denied) = (Cell::new(0), Cell::new(0));
    let config = ProptestConfig {
        source_file: Some(file!()),
        test_name: Some(name),
        ..ProptestConfig::with_cases(cases)
    };
    proptest!(config, |(bytes in bytes)| {
        let answer = String::from_utf8_lossy(&runtime.block_on(stage.send(&bytes))).into_owned();
        denied.set(denied.get() + answer.matches("RBAC: access denied").count());
        let targets = stage.targets();
        reached.set(reached.get() + targets.len());
        check(&targets)?;
    });
    // What came late as well.
    runtime.block_on(stage.send(b"GET /last HTTP/1.1\r\nHost: backend\r\n\r\n"));
    check(&stage.targets()).unwrap();
    let (reached, denied) = (reached.get(), denied.get());
    println!("{name}: {reached} requests reached an app, {denied} were denied");
    assert!(reached > 50 && denied > 20, "{reached} requests reached an app, {denied} were denied");
}

fn check(targets: &[String]) -> Result<(), TestCaseError> {
    for target in targets {
        match normalize(target) {
            Err(refused) => return Err(TestCaseError::fail(format!("{target:?}: {refused}"))),
            Ok(normal) => {
                let path = normal.path();
                prop_assert_eq!(normal.path_and_query(), target);
                prop_assert!(
                    path != "/admin" && !path.starts_with("/admin/"),
                    "the app was asked for {target}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn no_bytes_reach_what_is_forbidden() {
    hold("no_bytes_reach_what_is_forbidden", 1_000, mutated(http1().boxed()));
}

#[test]
fn no_frames_reach_what_is_forbidden() {
    hold("no_frames_reach_what_is_forbidden", 500, mutated(http2().boxed()));
}

/// One of `right` most of the time.
fn mostly(
    right: &'static [&'static str],
    odd: &'static [&'static str],
) -> impl Strategy<Value = &'static str> + Clone {
    prop_oneof![9 => select(right), 1 => select(odd)]
}

/// Text that leads to `/admin`, or away, or nowhere.
fn target() -> impl Strategy<Value = String> {
    let segment = mostly(
        &[
            "admin", "admin", "%61dmin", "adm%69n", "..", ".", "%2e%2e", ".%2E", "public", "", "users",
            "Admin", "a;x=1",
        ],
        &[
            "..;",
            "..;x",
            "%2e%2e%3b",
            "%00",
            "%",
            "%zz",
            ";x=1",
            "admin;x",
            "é",
            "*",
            "%25%32%66",
            "..%00",
            "a b",
            "\t",
        ],
    );
    let separator = select(vec!["/", "/", "/", "//", "%2f", "%2F", "\\", "%5c", "/./", "/x/../", "/\\"]);
    let start = mostly(
        &["/", "/", "/", "http://backend/", "HTTP://BACKEND/"],
        &["http://other/", "https:", "*", "?", "#", "", "//backend"],
    );
    let end = mostly(&["", "", "", "?", "?x", "?/admin"], &["#", "#/../..", " ", "/*"]);
    let middle = prop::collection::vec((segment, separator), 0..4);
    (start, middle, mostly(&["admin", "admin", "users", "", ".."], &["..;", "%"]), end).prop_map(
        |(start, middle, last, end)| {
            let middle: String =
                middle.into_iter().map(|(segment, separator)| format!("{segment}{separator}")).collect();
            format!("{start}{middle}{last}{end}")
        },
    )
}

/// Some requests one after the other, most of them in order, of which bodies look like requests.
fn http1() -> impl Strategy<Value = Vec<u8>> {
    let method = mostly(&["GET", "GET", "POST", "OPTIONS"], &["get", "CONNECT", "G\tET", ""]);
    let version =
        mostly(&[" HTTP/1.1", " HTTP/1.1", " HTTP/1.0"], &[" HTTP/2.0", "", " HTTP/1.1 ", " HTTP/1.9"]);
    let line_end = mostly(&["\r\n"], &["\n", "\r", "\r\n\r\n", "\n\r"]);
    let field = mostly(
        &[
            "Content-Length: 0",
            "Content-Length: 5",
            "Content-Length: 45",
            "Transfer-Encoding: chunked",
            "Connection: keep-alive",
            "Connection: close",
            "X: 1",
            "TE: trailers",
            "X-Original-URL: /admin",
            "X-HTTP-Method-Override: GET",
            "Upgrade: h2c",
        ],
        &[
            "Content-Length: +5",
            "content-length: 5, 5",
            "Transfer-Encoding: identity",
            "transfer-encoding:\tchunked",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding: x, chunked",
            "Transfer-Encoding: chunked, x",
            "Connection: Content-Length",
            "Connection: Transfer-Encoding",
            "Connection: Upgrade, HTTP2-Settings",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "HTTP2-Settings: AAMAAABk",
            "Expect: 100-continue",
            " folded",
            "Host: other",
            "Host: backend",
            "\u{0}: 1",
            "X: \r 1",
        ],
    );
    let fields = prop::collection::vec((field, line_end.clone()), 0..3);
    let body = select(vec![
        "",
        "",
        "",
        "",
        "hello",
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "5;x=\"\n\"\r\nhello\r\n0\r\nX: 1\r\n\r\n",
        "GET /admin HTTP/1.1\r\nHost: backend\r\n\r\n",
        "0\r\n\r\nGET /admin HTTP/1.1\r\nHost: backend\r\n\r\n",
        "0005\nhello\n0\n\n",
        "fffffffffffffffff0\r\n",
    ]);
    let one = (method, target(), version, fields, line_end, body).prop_map(
        |(method, target, version, fields, line_end, body)| {
            let fields: String = fields.into_iter().map(|(field, end)| format!("{field}{end}")).collect();
            format!("{method} {target}{version}{line_end}Host: backend\r\n{fields}{line_end}{body}")
                .into_bytes()
        },
    );
    prop_oneof![
        12 => prop::collection::vec(one, 1..4).prop_map(|requests| requests.concat()),
        1 => prop::collection::vec(any::<u8>(), 0..300),
    ]
}

/// The preface and some frames: requests whose pseudo fields are in order or not, and others.
fn http2() -> impl Strategy<Value = Vec<u8>> {
    let more = select(vec![
        (":path", "/admin"),
        (":authority", "other"),
        ("host", "other"),
        ("connection", "x"),
        ("te", "trailers"),
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        (":protocol", "websocket"),
        ("x", "1\r\nx: 2"),
        ("X", "1"),
        ("upgrade", "h2c"),
        ("x", "1"),
        ("host", "backend"),
    ]);
    let request = (
        mostly(&["GET", "POST"], &["get", "CONNECT", ""]),
        target(),
        mostly(&["backend", "BACKEND:80"], &["other@backend", "backend/admin", "", "a b"]),
        prop::option::weighted(0.2, more),
    );
    let request = request.prop_map(|(method, path, authority, more)| {
        let mut fields =
            vec![(":method", method), (":scheme", "http"), (":authority", authority), (":path", &*path)];
        fields.extend(more);
        literal_fields(&fields)
    });
    // END_STREAM and END_HEADERS, or one of them, none, or a priority as well.
    let flags = prop_oneof![9 => Just(5u8), 1 => select(vec![4u8, 1, 0, 0x25])];
    let odd = (any::<u8>(), any::<u8>(), 0..8u32, prop::collection::vec(any::<u8>(), 0..20));
    (prop::collection::vec((flags, request), 1..4), prop::option::weighted(0.1, odd)).prop_map(
        |(requests, odd)| {
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            bytes.extend(http2_frame(4, 0, 0, &[]));
            for (number, (flags, fields)) in (0u32..).zip(requests) {
                bytes.extend(http2_frame(1, flags, 2 * number + 1, &fields));
            }
            if let Some((kind, flags, stream, payload)) = odd {
                bytes.extend(http2_frame(kind, flags, stream, &payload));
            }
            let last =
                [(":method", "GET"), (":scheme", "http"), (":authority", "backend"), (":path", "/last")];
            bytes.extend(http2_frame(1, 5, LAST_STREAM, &literal_fields(&last)));
            bytes
        },
    )
}

/// As it is, or with some of its bytes changed, taken out, doubled or put elsewhere.
fn mutated(bytes: BoxedStrategy<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..5u8, any::<u8>());
    let changes = prop_oneof![3 => Just(0..1), 2 => Just(1..4), 1 => Just(4..12)]
        .prop_flat_map(move |range| prop::collection::vec(change.clone(), range));
    (bytes, changes).prop_map(|(mut bytes, changes)| {
        for (at, other, kind, byte) in changes {
            if bytes.is_empty() {
                break;
            }
            let (at, other) = (at.index(bytes.len()), other.index(bytes.len()));
            let (from, to) = (at.min(other), at.max(other).min(at.min(other) + 40));
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => bytes.drain(from..to).for_each(drop),
                3 => bytes.splice(from..from, bytes[from..to].to_vec()).for_each(drop),
                _ => bytes.swap(at, other),
            }
        }
        bytes
    })
}

/// An app that takes a line feed for the end of a line, a length before chunks, and whatever else some servers do. It answers
/// each request with 200, and notes its target.
struct LenientApp {
    address: SocketAddr,
    targets: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for LenientApp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl LenientApp {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let targets: Arc<Mutex<Vec<String>>> = Arc::default();
        let all = targets.clone();
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(answer_leniently(stream, all.clone()));
            }
        });
        Self { address, targets, task }
    }
}

async fn answer_leniently(stream: TcpStream, targets: Arc<Mutex<Vec<String>>>) -> Option<()> {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let mut stream = BufReader::new(stream);
    loop {
        let (mut line, mut length, mut is_chunked) = (Vec::new(), None, false);
        while matches!(line.as_slice(), b"" | b"\r\n" | b"\n") {
            line.clear();
            (stream.read_until(b'\n', &mut line).await.ok()? > 0).then_some(())?;
        }
        let first = String::from_utf8_lossy(&line).into_owned();
        let target = first.split([' ', '\t']).filter(|word| !word.is_empty()).nth(1)?;
        targets.lock().unwrap().push(target.trim_end().to_owned());
        loop {
            line.clear();
            (stream.read_until(b'\n', &mut line).await.ok()? > 0).then_some(())?;
            let field = String::from_utf8_lossy(&line).trim().to_ascii_lowercase();
            match field.split_once(':').map(|(name, value)| (name.trim(), value.trim())) {
                Some(("content-length", value)) => length = length.or(value.parse::<u64>().ok()),
                Some(("transfer-encoding", value)) => is_chunked = value.contains("chunked"),
                _ if field.is_empty() => break,
                _ => {}
            }
        }
        match length {
            Some(length) => {
                let mut body = (&mut stream).take(length);
                tokio::io::copy(&mut body, &mut tokio::io::sink()).await.ok()?;
            }
            None if is_chunked => loop {
                line.clear();
                (stream.read_until(b'\n', &mut line).await.ok()? > 0).then_some(())?;
                let text = String::from_utf8_lossy(&line).into_owned();
                let size = u64::from_str_radix(text.split(';').next()?.trim(), 16).ok()?;
                let mut chunk = (&mut stream).take(size);
                tokio::io::copy(&mut chunk, &mut tokio::io::sink()).await.ok()?;
                line.clear();
                stream.read_until(b'\n', &mut line).await.ok()?;
                if size == 0 {
                    while !line.trim_ascii().is_empty() {
                        line.clear();
                        (stream.read_until(b'\n', &mut line).await.ok()? > 0).then_some(())?;
                    }
                    break;
                }
            },
            None => {}
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.ok()?;
    }
}
