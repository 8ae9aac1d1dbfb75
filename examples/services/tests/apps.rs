//! The apps as their users see them: processes, sockets and signals.
//!
//! Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rstest::rstest;
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(20);

/// A running app; killed when dropped.
struct App {
    child: Child,
    address: SocketAddr,
}

impl App {
    fn start(name: &str, args: &[&str]) -> App {
        let mut child = command(name)
            .args(["--listen", "127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (send, lines) = mpsc::channel();
        thread::spawn(move || send.send(BufReader::new(stdout).lines().next()));
        let line = lines.recv_timeout(DEADLINE).unwrap().expect("the app ended at once").unwrap();
        let address = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("said {line:?}"));
        App { address: address.parse().unwrap(), child }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn terminate(&self) {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < DEADLINE, "the app did not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(name: &str) -> Command {
    Command::new(match name {
        "frontend" => env!("CARGO_BIN_EXE_frontend"),
        "backend" => env!("CARGO_BIN_EXE_backend"),
        "echo" => env!("CARGO_BIN_EXE_echo"),
        "greeter" => env!("CARGO_BIN_EXE_greeter"),
        other => panic!("no app {other}"),
    })
}

/// Status line and body of a GET.
fn get(app: &App, path: &str, headers: &str) -> (String, String) {
    let mut stream = app.connect();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn get_json(app: &App, path: &str, headers: &str) -> Value {
    let (status, body) = get(app, path, headers);
    assert_eq!(status, "HTTP/1.1 200 OK");
    serde_json::from_str(&body).unwrap()
}

/// A server that answers one connection with `answer` once it has seen some bytes.
fn one_connection(answer: impl FnOnce(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        assert_eq!(stream.peek(&mut [0]).unwrap(), 1);
        answer(stream);
    });
    format!("http://{address}")
}

#[test]
fn backend_says_who_called_it() {
    let backend = App::start("backend", &["--name", "shop"]);
    let seen = get_json(&backend, "/", "");
    assert_eq!(seen["name"], "shop");
    assert!(seen["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{seen}");
    assert_eq!(seen["forwardedClientCert"], Value::Null);
    assert!(seen["time"].as_str().unwrap().ends_with('Z'), "{seen}");
}

#[test]
fn backend_shows_the_certificate_that_a_sidecar_names() {
    let backend = App::start("backend", &[]);
    let seen = get_json(
        &backend,
        "/",
        "x-forwarded-client-cert: URI=spiffe://cluster.local/ns/default/sa/frontend\r\n",
    );
    assert_eq!(seen["forwardedClientCert"], "URI=spiffe://cluster.local/ns/default/sa/frontend");
}

#[test]
fn frontend_reports_what_the_backend_answered() {
    let backend = App::start("backend", &[]);
    let frontend = App::start("frontend", &["--backend", &backend.url()]);
    let report = get_json(&frontend, "/api", "");
    assert_eq!(report["ok"], true);
    assert_eq!(report["status"], 200);
    assert_eq!(report["body"]["name"], "backend");
    assert_eq!(report["error"], Value::Null);
    assert_eq!(report["errno"], Value::Null);
    assert!(report["micros"].as_u64().unwrap() > 0);
}

#[test]
fn frontend_makes_a_new_connection_for_each_call() {
    let backend = App::start("backend", &[]);
    let frontend = App::start("frontend", &["--backend", &backend.url()]);
    let mut clients: Vec<_> =
        (0..3).map(|_| get_json(&frontend, "/api", "")["body"]["client"].to_string()).collect();
    clients.dedup();
    assert_eq!(clients.len(), 3, "{clients:?}");
}

#[test]
fn frontend_names_a_reset() {
    // A socket that is closed with unread bytes resets the connection.
    let resetting = one_connection(drop);
    let report = get_json(&App::start("frontend", &["--backend", &resetting]), "/api", "");
    assert_eq!(report["ok"], false);
    assert_eq!(report["errno"], "ECONNRESET");
    assert!(report["error"].as_str().unwrap().contains("reset"), "{report}");
    assert_eq!(report["body"], Value::Null);
}

#[test]
fn frontend_tells_a_clean_end_from_a_reset() {
    let closing = one_connection(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
    });
    let report = get_json(&App::start("frontend", &["--backend", &closing]), "/api", "");
    assert_eq!(report["ok"], false);
    assert_eq!(report["errno"], Value::Null);
    assert!(report["error"].as_str().unwrap().contains("without a whole answer"), "{report}");
}

#[test]
fn frontend_names_a_refused_connection() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let report = get_json(&App::start("frontend", &["--backend", &format!("http://{free}")]), "/api", "");
    assert_eq!(report["errno"], "ECONNREFUSED");
    assert_eq!(report["error"], "The connection could not be made: nothing listens there.");
}

#[test]
fn frontend_says_that_a_name_is_unknown() {
    let report = get_json(&App::start("frontend", &["--backend", "http://nowhere.invalid"]), "/api", "");
    assert_eq!(report["errno"], Value::Null);
    assert!(
        report["error"].as_str().unwrap().starts_with("The name nowhere.invalid could not be looked up"),
        "{report}"
    );
}

#[test]
fn frontend_bounds_the_answer() {
    let endless = one_connection(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let report = get_json(&App::start("frontend", &["--backend", &endless]), "/api", "");
    assert_eq!(report["ok"], false);
    assert!(report["error"].as_str().unwrap().contains("limit"), "{report}");
}

#[test]
fn frontend_calls_by_itself_when_asked_to() {
    let (send, called) = mpsc::channel();
    let backend = one_connection(move |_| send.send(()).unwrap());
    let _frontend = App::start("frontend", &["--backend", &backend, "--call-every", "1"]);
    called.recv_timeout(DEADLINE).unwrap();
}

#[test]
fn page_loads_nothing_from_elsewhere() {
    let frontend = App::start("frontend", &[]);
    let (status, page) = get(&frontend, "/", "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(page.contains("<html"), "{page}");
    for foreign in ["http://", "https://", "src=\"", "@import", "url("] {
        assert!(!page.contains(foreign), "the page contains {foreign}");
    }
}

/// What curl asks for.
#[rstest]
#[case("")]
#[case("Accept: */*\r\n")]
fn without_a_browser_the_first_page_is_a_call(#[case] headers: &str) {
    let backend = App::start("backend", &["--name", "orders"]);
    let frontend = App::start("frontend", &["--backend", &backend.url()]);
    let report = get_json(&frontend, "/", headers);
    assert_eq!(
        (&report["name"], &report["body"]["name"]),
        (&"frontend".into(), &"orders".into()),
        "{report}"
    );
}

#[rstest]
fn http_apps_are_healthy_and_answer_on_paths_that_they_know(#[values("frontend", "backend")] name: &str) {
    let app = App::start(name, &[]);
    assert_eq!(get(&app, "/healthz", ""), ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
    let elsewhere = if name == "frontend" { "HTTP/1.1 404 Not Found" } else { "HTTP/1.1 200 OK" };
    assert_eq!(get(&app, "/elsewhere", "").0, elsewhere);
}

#[rstest]
#[case::get("GET", "/api/v1/products/7?all")]
#[case::post("POST", "/")]
#[case::of_its_own("REFUND", "/orders")]
#[case::to_the_server_as_a_whole("OPTIONS", "*")]
fn backend_says_what_it_was_asked(#[case] method: &str, #[case] target: &str) {
    let backend = App::start("backend", &["--name", "shop"]);
    let mut stream = backend.connect();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: Shop:80\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let seen: Value = serde_json::from_str(body).unwrap();
    assert_eq!((seen["method"].as_str(), seen["target"].as_str()), (Some(method), Some(target)), "{seen}");
    assert_eq!((seen["host"].as_str(), seen["name"].as_str()), (Some("Shop:80"), Some("shop")), "{seen}");
    assert!(seen["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{seen}");
}

#[test]
fn echo_sends_everything_back_and_then_ends_its_direction() {
    let echo = App::start("echo", &[]);
    let mut stream = echo.connect();
    let sent: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let writer = {
        let (mut stream, sent) = (stream.try_clone().unwrap(), sent.clone());
        thread::spawn(move || {
            stream.write_all(&sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        })
    };
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == sent, "{} of {} bytes came back", received.len(), sent.len());
}

#[test]
fn greeter_speaks_first_and_then_echoes() {
    let greeter = App::start("greeter", &["--banner", "hello"]);
    let mut stream = greeter.connect();
    let mut banner = [0; 7];
    stream.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"hello\r\n");
    stream.write_all(b"again").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "again");
}

#[rstest]
fn stops_cleanly_on_sigterm(#[values("frontend", "backend", "echo", "greeter")] name: &str) {
    let mut app = App::start(name, &[]);
    app.terminate();
    assert_eq!(app.wait().code(), Some(0));
}

#[test]
fn open_connections_may_finish_after_sigterm() {
    let mut echo = App::start("echo", &[]);
    let mut stream = echo.connect();
    stream.write_all(b"a").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    echo.terminate();
    let started = Instant::now();
    while TcpStream::connect(echo.address).is_ok() {
        assert!(started.elapsed() < DEADLINE, "it still accepts");
        thread::sleep(Duration::from_millis(10));
    }
    stream.write_all(b"b").unwrap();
    let mut last = [0];
    stream.read_exact(&mut last).unwrap();
    assert_eq!(&last, b"b");
    drop(stream);
    assert_eq!(echo.wait().code(), Some(0));
}

#[test]
fn silent_connections_do_not_hold_up_the_end() {
    let mut echo = App::start("echo", &[]);
    let mut silent = echo.connect();
    silent.write_all(b"a").unwrap();
    silent.read_exact(&mut [0]).unwrap();
    let started = Instant::now();
    echo.terminate();
    assert_eq!(echo.wait().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(9), "took {:?}", started.elapsed());
}

#[test]
fn wrong_arguments_exit_with_2() {
    for args in [&["--listen", "nowhere"][..], &["--backend", "https://backend"], &["--call-every", "0"]] {
        let ended = command("frontend").args(args).stderr(Stdio::null()).status().unwrap();
        assert_eq!(ended.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_taken_address_exits_with_1() {
    let taken = App::start("echo", &[]);
    let ended = command("echo").args(["--listen", &taken.address.to_string()]).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let words = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(words.contains(&format!("cannot listen on {}", taken.address)), "{words}");
}
