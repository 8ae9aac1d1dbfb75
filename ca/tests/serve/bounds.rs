//! Slow, large, many and last requests.

use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::Request;
use rcgen::KeyPair;
use rstest::rstest;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Ca, Client, Home, PATIENCE, csr, get, wait_for};

const SHORT: &str = "limits: {requestTimeout: 700ms}";

/// The beginning of a request for a certificate, with a body of this length announced.
fn head(token: &str, length: usize) -> String {
    format!(
        "POST /v1/certificates HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         content-length: {length}\r\n\r\n"
    )
}

/// How long the other side lets the connection live.
async fn lifetime(mut stream: impl AsyncReadExt + Unpin) -> Duration {
    let start = Instant::now();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection lives on");
    start.elapsed()
}

fn assert_cut_at_the_deadline(life: Duration) {
    let expected = Duration::from_millis(600)..Duration::from_secs(5);
    assert!(expected.contains(&life), "cut after {life:?}");
}

#[tokio::test]
async fn req_34_a_caller_that_says_nothing_is_cut_at_the_deadline() {
    let home = Home::with(SHORT);
    let ca = home.start();
    assert_cut_at_the_deadline(lifetime(TcpStream::connect(ca.api).await.unwrap()).await);
}

#[rstest]
#[case::after_the_handshake(|_: &str| String::new())]
#[case::in_the_head(|_: &str| "POST /v1/certificates HTTP/1.1\r\nhost: lo".to_owned())]
#[case::in_the_body(|token: &str| head(token, 500) + "0123456789")]
#[tokio::test]
async fn req_34_a_request_that_stops_halfway_is_cut_at_the_deadline(#[case] sent: fn(&str) -> String) {
    let home = Home::with(SHORT);
    let ca = home.start();
    let mut stream = Client::new(&ca, &home).connect().await.unwrap();
    stream.write_all(sent(&home.token()).as_bytes()).await.unwrap();
    assert_cut_at_the_deadline(lifetime(stream).await);
    wait_for("the log to tell of it", || {
        let cut = |line: &serde_json::Value| line["message"].as_str()?.starts_with("cut off").then_some(());
        ca.log().iter().find_map(cut)
    });
}

#[tokio::test]
async fn req_34_a_dripping_caller_gains_no_time() {
    let home = Home::with(SHORT);
    let ca = home.start();
    let stream = Client::new(&ca, &home).connect().await.unwrap();
    let (read, mut write) = tokio::io::split(stream);
    let drip = tokio::spawn(async move {
        while write.write_all(b"GET").await.is_ok() && write.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert_cut_at_the_deadline(lifetime(read).await);
    drip.abort();
}

#[tokio::test]
async fn req_34_a_large_body_is_refused_before_it_is_sent() {
    let home = Home::new();
    let ca = home.start();
    let mut stream = Client::new(&ca, &home).connect().await.unwrap();
    stream.write_all(head("x", 10_000_000).as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("no answer").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn req_34_a_large_body_is_refused_while_it_is_sent_and_not_taken_in() {
    let home = Home::new();
    let ca = home.start();
    let stream = Client::new(&ca, &home).connect().await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let head = format!(
        "POST /v1/certificates HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         transfer-encoding: chunked\r\n\r\n",
        home.token()
    );
    let sending = tokio::spawn(async move {
        let chunk = format!("4000\r\n{}\r\n", "0".repeat(0x4000));
        write.write_all(head.as_bytes()).await?;
        for _ in 0..100_000_000 / 0x4000 {
            write.write_all(chunk.as_bytes()).await?;
        }
        std::io::Result::Ok(())
    });
    let mut answer = [0; 12];
    timeout(PATIENCE, read.read_exact(&mut answer)).await.expect("no answer").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    let sent = timeout(PATIENCE, sending).await.expect("the CA goes on reading").unwrap();
    assert!(sent.is_err(), "the CA took in 100 MB");
}

#[tokio::test]
async fn req_34_a_long_head_is_refused() {
    let home = Home::new();
    let ca = home.start();
    let client = Client::new(&ca, &home);
    let padded = |length: usize| {
        Request::get("/v1/bundle")
            .header("host", "localhost")
            .header("x-padding", "a".repeat(length))
            .body(Full::default())
            .unwrap()
    };
    assert_eq!(client.send(padded(8 * 1024)).await.unwrap().status, 200);
    assert_eq!(client.send(padded(20 * 1024)).await.unwrap().status, 431);
}

#[tokio::test]
async fn a_connection_carries_one_request() {
    let home = Home::new();
    let ca = home.start();
    let answer = Client::new(&ca, &home).send(get("/v1/bundle")).await.unwrap();
    assert_eq!(answer.headers["connection"], "close");
}

#[tokio::test]
async fn callers_over_the_limit_wait_until_others_are_done() {
    let home = Home::with("limits: {requestTimeout: 700ms, connections: 2}");
    let ca = home.start();
    let silent = [TcpStream::connect(ca.api).await.unwrap(), TcpStream::connect(ca.api).await.unwrap()];
    let start = Instant::now();
    assert_eq!(Client::new(&ca, &home).send(get("/v1/bundle")).await.unwrap().status, 200);
    assert!(start.elapsed() > Duration::from_millis(500), "served beside two others: {:?}", start.elapsed());
    drop(silent);
}

#[tokio::test]
async fn req_27_out_of_descriptors_it_waits_without_spinning_and_recovers() {
    let home = Home::new();
    let ca = Ca::start(home.command_behind("ulimit -n 40"));
    let mut hoard = Vec::new();
    for _ in 0..60 {
        hoard.push(TcpStream::connect(ca.api).await.unwrap());
    }
    let failures = || {
        let failed = |line: &&serde_json::Value| {
            line["message"].as_str().is_some_and(|message| message.starts_with("cannot accept"))
        };
        ca.log().iter().filter(failed).count()
    };
    wait_for("accept to fail", || (failures() > 0).then_some(()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Pauses of 10, 20, 40 … ms: about seven in the first second; a spinning loop makes thousands.
    assert!(failures() < 20, "{} failures in a second", failures());
    drop(hoard);
    assert_eq!(Client::new(&ca, &home).send(get("/v1/bundle")).await.unwrap().status, 200);
}

#[rstest]
#[case(Signal::TERM)]
#[case(Signal::INT)]
#[tokio::test]
async fn a_request_in_flight_is_finished_after_the_signal_to_stop(#[case] signal: Signal) {
    let home = Home::new();
    let mut ca = home.start();
    let idle = TcpStream::connect(ca.api).await.unwrap();
    let mut stream = Client::new(&ca, &home).connect().await.unwrap();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let body = csr(&key);
    stream.write_all(head(&home.token(), body.len()).as_bytes()).await.unwrap();
    stream.write_all(&body[..10]).await.unwrap();
    stream.flush().await.unwrap();
    // The request is in flight once its head was read, which nothing shows from outside.
    tokio::time::sleep(Duration::from_millis(300)).await;
    ca.signal(signal);
    wait_for("the listener to close", || std::net::TcpStream::connect(ca.api).is_err().then_some(()));
    stream.write_all(&body[10..]).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("no answer").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 201"), "{}", String::from_utf8_lossy(&answer));
    drop(stream);
    let start = Instant::now();
    assert_eq!(ca.wait().code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "an idle connection held up the end: {:?}",
        start.elapsed()
    );
    drop(idle);
}

#[tokio::test]
async fn a_request_that_does_not_end_holds_up_the_stop_for_five_seconds_at_most() {
    let home = Home::new();
    let mut ca = home.start();
    let mut stream = Client::new(&ca, &home).connect().await.unwrap();
    stream.write_all(head(&home.token(), 500).as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    ca.signal(Signal::TERM);
    assert_eq!(ca.wait().code(), Some(0));
    let took = start.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&took), "stopped after {took:?}");
}
