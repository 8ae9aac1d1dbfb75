//! What attackers, broken peers and full machines may cost: bounded time, memory and descriptors, and never the process.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pillion_cli::lab::{Node, RunningSidecar, Sidecar, wait_until};
use pillion_mesh::reason::Reason;
use pillion_testkit::tls::{any_name, client};
use pillion_testkit::{Held, TestCa};
use rstest::rstest;
use rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, ProtocolVersion, StreamOwned,
    SupportedCipherSuite,
};

use common::identity::IdentityFiles;
use common::load::Load;
use common::process::{cpu_time, descriptors, private_memory};
use common::{
    CLIENT_ID, ECONNRESET, Family, Interception, PORT, SERVER_ID, SOON, Stage, echoes, errno_of_call,
    exchange,
};

fn pid(sidecar: &RunningSidecar) -> u32 {
    sidecar.process().unwrap().id()
}

/// Leaves a proxy this many descriptors more than it has, as its own user may.
fn leave_descriptors(sidecar: &RunningSidecar, more: usize) {
    let (pid, most) = (pid(sidecar), descriptors(pid(sidecar)) + more);
    let command =
        format!("--reuid=1337 --regid=1337 --clear-groups prlimit --pid {pid} --nofile={most}:{most}");
    sidecar.node().run("setpriv", &command.split(' ').collect::<Vec<_>>()).unwrap();
}

/// Requirement 27. Connections wait at every listener that others can reach.
#[test]
fn req_27_out_of_descriptors_the_proxy_neither_exits_nor_spins_and_recovers() {
    let Some(stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let _app = stage.app("echo", Family::V4.any());
    let _client = Sidecar::new("client").start(&stage.client, &stage.ca).unwrap();
    let sidecar = Sidecar::new("server").args(&["--detection-timeout", "5m"]);
    let sidecar = sidecar.start(&stage.server, &stage.ca).unwrap();
    let service = stage.service(Family::V4);
    echoes(&stage.client, service).unwrap();

    leave_descriptors(&sidecar, 20);
    let mut held: Vec<TcpStream> = (0..100).map(|_| stage.stranger.dial(service).unwrap()).collect();
    held.extend(
        [15021, 15090].map(|port| stage.stranger.dial(SocketAddr::new(stage.server.v4(), port)).unwrap()),
    );
    sidecar.process().unwrap().wait_for_line(SOON, "cannot accept connections").unwrap();
    let (cpu, since) = (cpu_time(pid(&sidecar)), Instant::now());
    thread::sleep(Duration::from_secs(2));
    let used = (cpu_time(pid(&sidecar)) - cpu).as_secs_f64() / since.elapsed().as_secs_f64();
    assert!(used < 0.2, "{:.0} % of a core while it can accept nothing", used * 100.0);

    sidecar.process().unwrap().check_running().unwrap();
    drop(held);
    wait_until(SOON, "a call to be served again", || Ok(echoes(&stage.client, service).ok())).unwrap();
    assert!(stage.server.get("http://127.0.0.1:15021/healthz/ready").unwrap().is_success());
}

/// A ClientHello that bears the mesh's mark, of a client that nobody knows.
fn mesh_hello() -> Vec<u8> {
    let config = client(&TestCa::root("nobody's"), None);
    let mut connection = ClientConnection::new(Arc::new(config), any_name()).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

/// How a client holds a place without ever finishing what it began.
#[derive(Debug, Clone, Copy)]
enum Stall {
    Silent,
    DrippingHello,
    DrippingHandshake,
}

/// Stalls until it is let go; returns after how long.
fn stall(mut stream: TcpStream, kind: Stall, hello: &[u8]) -> Duration {
    let since = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let (at_once, dripped) = match kind {
        Stall::Silent => (&[][..], &[][..]),
        Stall::DrippingHello => (&[][..], hello),
        // The head of a record that is never filled.
        Stall::DrippingHandshake => (hello, &[0x17, 0x03, 0x03, 0x40, 0x00][..]),
    };
    stream.write_all(at_once).unwrap();
    let mut drops = dripped.iter();
    while since.elapsed() < SOON {
        let drop = drops.next();
        if drop.is_some_and(|byte| stream.write_all(&[*byte]).is_err()) {
            return since.elapsed();
        }
        match stream.read(&mut [0; 4096]) {
            Ok(1..) => {} // the server's part of the handshake
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return since.elapsed(),
        }
    }
    panic!("{kind:?}: never let go");
}

/// Requirement 26.
#[test]
fn req_26_two_hundred_silent_and_dripping_clients_are_let_go_and_a_good_one_works_meanwhile() {
    const LIMIT: Duration = Duration::from_secs(3);
    let Some(stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let _app = stage.app("echo", Family::V4.any());
    let _client = Sidecar::new("client").start(&stage.client, &stage.ca).unwrap();
    let args = ["--detection-timeout", "3s", "--limits-handshake-timeout", "3s"];
    let server = Sidecar::new("server").args(&args).start(&stage.server, &stage.ca).unwrap();
    let load = Load::of_a_mesh_client(&stage.client, stage.service(Family::V4));

    let hello = mesh_hello();
    let kinds = [(Stall::Silent, 100), (Stall::DrippingHello, 50), (Stall::DrippingHandshake, 50)];
    let stalls: Vec<_> = kinds.into_iter().flat_map(|(kind, count)| vec![kind; count]).collect();
    thread::scope(|scope| {
        let running: Vec<_> = stalls
            .iter()
            .map(|kind| {
                let stream = stage.stranger.dial(stage.service(Family::V4)).unwrap();
                let hello = &hello;
                (kind, scope.spawn(move || stall(stream, *kind, hello)))
            })
            .collect();
        for (kind, running) in running {
            let held = running.join().unwrap();
            let in_time = LIMIT.mul_f64(0.9)..LIMIT + Duration::from_secs(2);
            assert!(in_time.contains(&held), "{kind:?}: let go after {held:?}");
        }
    });
    let seen = load.finish();
    assert_eq!(seen.failures, [""; 0], "{seen:?}");
    assert!(seen.answers > 50 && seen.exchanges > 50, "{seen:?}");
    let count = |reason| server.access_log().iter().filter(|record| record.reason == Some(reason)).count();
    wait_until(SOON, "a reason for each", || {
        Ok((count(Reason::StrictSilent) == 150 && count(Reason::HandshakeTimeout) == 50).then_some(()))
    })
    .unwrap();
}

/// Requirement 30, descriptors: whatever way a connection ends.
#[test]
fn req_30_descriptors_return_to_the_base_line_after_500_connections() {
    let Some(stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let _app = stage.app("echo", Family::V4.any());
    let (client, server) = stage.sidecars(Interception::Redirect);
    let service = stage.service(Family::V4);
    echoes(&stage.client, service).unwrap();
    let settled = |sidecar: &RunningSidecar| {
        sidecar
            .wait_for_page(SOON, "/connections", "no open connection", |page| {
                page["connections"].as_array().is_some_and(Vec::is_empty)
            })
            .unwrap();
        descriptors(pid(sidecar))
    };
    let before = [settled(&client), settled(&server)];

    for _ in 0..125 {
        echoes(&stage.client, service).unwrap();
        assert_eq!(errno_of_call(&stage.stranger, service), Some(ECONNRESET));
        // Ends in the middle of a conversation.
        let mut stream = stage.client.dial(service).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
        drop(stream);
        // Ends before the first byte, with bytes under way.
        drop(stage.stranger.dial(service).unwrap());
    }
    wait_until(SOON, "the base line of descriptors", || {
        Ok(([settled(&client), settled(&server)] <= before).then_some(()))
    })
    .unwrap_or_else(|error| {
        panic!("{error}: {before:?} before, {:?} after", [settled(&client), settled(&server)])
    });
}

/// Which way the bytes go that nobody reads.
#[rstest]
#[case::to_the_client(true)]
#[case::to_the_server(false)]
fn req_30_memory_is_bounded_where_40_clients_do_not_read_16_mb_each(#[case] to_client: bool) {
    const CLIENTS: usize = 40;
    const BYTES: usize = 16 * 1024 * 1024;
    // Of each connection one batch that was read and one that is sealed, 256 KiB each, and a tenth of that for all else.
    const MOST_GROWTH: u64 = CLIENTS as u64 * 2 * 256 * 1024 / 10 * 11;
    let Some(stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let service = stage.service(Family::V4);
    let app = stage.server.listen(service).unwrap();
    let (client, server) = stage.sidecars(Interception::Redirect);
    let connect = || {
        let stream = stage.client.dial(service).unwrap();
        let (served, _) = app.accept().unwrap();
        if to_client { (served, stream) } else { (stream, served) }
    };
    drop(connect());
    let before = [&client, &server].map(|sidecar| private_memory(pid(sidecar)));

    let written = AtomicU64::new(0);
    let (writers, mut readers): (Vec<_>, Vec<_>) = (0..CLIENTS).map(|_| connect()).unzip();
    thread::scope(|scope| {
        for mut writer in writers {
            writer.set_write_timeout(Some(SOON * 2)).unwrap();
            let written = &written;
            scope.spawn(move || {
                let chunk = [7; 64 * 1024];
                for _ in 0..BYTES / chunk.len() {
                    if writer.write_all(&chunk).is_err() {
                        return;
                    }
                    written.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                }
            });
        }
        let mut last = (0, Instant::now());
        wait_until(SOON, "all writers to be held up", || {
            let now = written.load(Ordering::Relaxed);
            if now != last.0 {
                last = (now, Instant::now());
            }
            Ok((now > 0 && last.1.elapsed() > Duration::from_secs(1)).then_some(()))
        })
        .unwrap();
        assert!(written.load(Ordering::Relaxed) < (CLIENTS * BYTES) as u64, "nothing was held up");
        for (sidecar, before) in [&client, &server].into_iter().zip(before) {
            let growth = private_memory(pid(sidecar)).saturating_sub(before);
            assert!(growth < MOST_GROWTH, "{} grew by {} kB", sidecar.node().name(), growth / 1024);
        }

        // One that begins to read gets all of it.
        let mut reader = readers.pop().unwrap();
        reader.set_read_timeout(Some(SOON)).unwrap();
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert!(all.len() == BYTES && all.iter().all(|byte| *byte == 7), "{} bytes", all.len());
        drop(readers);
    });
}

/// A sidecar in front of the app whose clients are the test itself, with certificates of a root of its own.
fn sidecar_of(stage: &Stage, root: &TestCa) -> RunningSidecar {
    let files = IdentityFiles::new(&stage.lab, "server");
    files.replace(root, SERVER_ID, &[root]);
    Sidecar::new("server").identity(&files.settings()).start(&stage.server, &stage.ca).unwrap()
}

/// What an authenticated peer can send without end at little cost.
#[derive(Debug, Clone, Copy)]
enum Flood {
    KeyUpdates,
    EmptyRecords,
    /// After the ClientHello, before any certificate.
    ChangeCipherSpecs,
}

impl Flood {
    /// Floods one connection until it is cut or `stop` is set.
    fn run(self, stream: TcpStream, root: &TestCa, held: &Held, stop: &AtomicBool) -> io::Result<()> {
        let mut config = client(root, Some(held));
        config.enable_secret_extraction = true;
        match self {
            Flood::KeyUpdates => {
                let mut stream = mesh_stream(stream, config)?;
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..100 {
                        stream.conn.refresh_traffic_keys().map_err(io::Error::other)?;
                    }
                    stream.flush()?;
                }
            }
            Flood::EmptyRecords => {
                let stream = mesh_stream(stream, config)?;
                let mut tcp = stream.sock;
                let mut seal = empty_records(stream.conn);
                while !stop.load(Ordering::Relaxed) {
                    let records: Vec<u8> = (0..500).flat_map(|_| seal()).collect();
                    tcp.write_all(&records)?;
                }
            }
            Flood::ChangeCipherSpecs => {
                let mut stream = stream;
                stream.write_all(&mesh_hello())?;
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(&[0x14, 0x03, 0x03, 0x00, 0x01, 0x01].repeat(500))?;
                }
            }
        }
        Ok(())
    }
}

/// A finished handshake of a mesh client.
fn mesh_stream(
    stream: TcpStream,
    config: ClientConfig,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    stream.set_nodelay(true)?;
    let connection = ClientConnection::new(Arc::new(config), any_name()).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    stream.flush()?;
    Ok(stream)
}

/// Makes one record after the other that holds no byte.
fn empty_records(connection: ClientConnection) -> impl FnMut() -> Vec<u8> {
    let SupportedCipherSuite::Tls13(suite) = connection.negotiated_cipher_suite().unwrap() else {
        panic!("TLS 1.3 is the newest that both have");
    };
    let (mut number, secrets) = connection.dangerous_extract_secrets().unwrap().tx;
    let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
    | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
    | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
    else {
        panic!("a cipher suite that rustls did not have");
    };
    let mut sealer = suite.aead_alg.encrypter(key, iv);
    move || {
        let empty = OutboundPlainMessage {
            typ: ContentType::ApplicationData,
            version: ProtocolVersion::TLSv1_3,
            payload: OutboundChunks::Single(&[]),
        };
        let sealed = sealer.encrypt(empty, number).unwrap();
        number += 1;
        sealed.encode()
    }
}

/// Requirement 28.
#[rstest]
#[case(Flood::KeyUpdates, "TooManyKeyUpdateRequests")]
#[case(Flood::EmptyRecords, "TooManyEmptyFragments")]
#[case(Flood::ChangeCipherSpecs, "IllegalMiddleboxChangeCipherSpec")]
fn req_28_floods_are_cut_and_hold_up_no_good_client(#[case] flood: Flood, #[case] told: &str) {
    let Some(stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let _app = stage.app("echo", Family::V4.any());
    let root = TestCa::root("mesh");
    let sidecar = sidecar_of(&stage, &root);
    let (service, held) = (stage.service(Family::V4), root.issue(CLIENT_ID));
    let (stop, floods) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        // More than the proxy has threads on the machines that these tests run on.
        for _ in 0..4 {
            scope.spawn(|| {
                // One that is cut begins again.
                while !stop.load(Ordering::Relaxed) {
                    let Ok(stream) = stage.stranger.dial(service) else { continue };
                    floods.fetch_add(1, Ordering::Relaxed);
                    let _ = flood.run(stream, &root, &held, &stop);
                }
            });
        }
        let calls = || -> io::Result<()> {
            wait_until(SOON, "the floods", || Ok((floods.load(Ordering::Relaxed) >= 4).then_some(())))
                .unwrap();
            for call in 0..20 {
                let since = Instant::now();
                let mut good = mesh_stream(stage.client.dial(service)?, client(&root, Some(&held)))?;
                good.write_all(b"hello")?;
                good.read_exact(&mut [0; 5])?;
                assert!(since.elapsed() < Duration::from_secs(2), "call {call} took {:?}", since.elapsed());
            }
            Ok(())
        };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(calls));
        stop.store(true, Ordering::Relaxed);
        done.unwrap().unwrap();
    });
    sidecar
        .wait_for_record(SOON, |record| record.detail.as_ref().is_some_and(|detail| detail.contains(told)))
        .unwrap();
    sidecar.process().unwrap().check_running().unwrap();
}

/// Bytes that are no message of any protocol, and beginnings of messages that go astray. The same in each run.
fn garbage() -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(38);
    let noise = |length: usize, random: &mut fastrand::Rng| -> Vec<u8> {
        (0..length).map(|_| random.u8(..)).collect()
    };
    let mut all = vec![
        b"\n".to_vec(),
        b"\0\0\0\0\0\0\0\0".to_vec(),
        b"GET".to_vec(),
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"POST /drain HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n".to_vec(),
        b"POST /v1/certificates HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n".to_vec(),
        [b"GET /".as_slice(), &[b'a'; 100_000]].concat(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x00\x00".repeat(1000),
        b"\x16\x03\x01\xff\xff".to_vec(),
        b"\x16\x03\x01\x00\x05\x01\x00\xff\xff\xff".to_vec(),
        b"\x80\x2e\x01\x00\x02".to_vec(),
        b"\x15\x03\x03\x00\x02\x02\x28".repeat(100),
    ];
    let mut hello = mesh_hello();
    all.extend([1, 5, 6, 9, 43, 100, 1000].map(|length| hello[..length].to_vec()));
    for _ in 0..20 {
        let at = random.usize(..hello.len());
        hello[at] = random.u8(..);
        all.push(hello.clone());
    }
    all.extend([1, 7, 100, 5000, 200_000].map(|length| noise(length, &mut random)));
    all
}

/// Sends it and reads what comes, if anything; what comes does not matter.
fn send_garbage(from: &Node, to: SocketAddr, bytes: &[u8]) {
    let Ok(stream) = from.dial(to) else { return };
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let _ = exchange(&stream, bytes);
}

#[test]
fn garbage_to_every_port_ends_no_process() {
    let Some(stage) = Stage::new() else { return };
    stage.mode("PERMISSIVE");
    let _app = stage.app("echo", Family::V4.any());
    let (_client, server) = stage.sidecars(Interception::Redirect);
    let (ca, loopback) = (stage.ca.node(), Family::V4.loopback());
    let targets = [
        (&stage.stranger, stage.server.v4(), vec![PORT, 15006, 15021, 15090]),
        (&stage.server, loopback, vec![15000, 15001, 15006]),
        (&stage.stranger, ca.v4(), vec![15012, 15014]),
    ];
    let garbage = garbage();
    thread::scope(|scope| {
        for (from, ip, ports) in &targets {
            for port in ports {
                let garbage = &garbage;
                scope.spawn(move || {
                    for bytes in garbage {
                        send_garbage(from, SocketAddr::new(*ip, *port), bytes);
                    }
                });
            }
        }
    });
    server.process().unwrap().check_running().unwrap();
    stage.ca.process().unwrap().check_running().unwrap();
    echoes(&stage.client, stage.service(Family::V4)).unwrap();
    let metrics = server.metrics().unwrap();
    assert!(metrics.contains("pillion_panics_total 0"), "{metrics}");
    let ready = format!("http://{}:15014/healthz/ready", ca.v4());
    assert!(stage.stranger.get(&ready).unwrap().is_success());
    assert!(server.admin("/ready").unwrap().is_success());
}

#[rstest]
#[case::mode_with_a_typo(
    "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec: {mtls: {mode: DISABLED}}\n",
    "faulty.yaml:4:",
    "DISABLE"
)]
#[case::unknown_kind("apiVersion: v1\nkind: Pod\n", "faulty.yaml:2:", "Pod")]
#[case::no_yaml("a: [\n", "faulty.yaml:", "faulty.yaml")]
fn a_start_with_a_faulty_mesh_folder_ends_with_2_and_names_the_line(
    #[case] yaml: &str,
    #[case] place: &str,
    #[case] word: &str,
) {
    let Some(stage) = Stage::new() else { return };
    stage.lab.mesh().write("faulty.yaml", yaml).unwrap();
    let sidecar = Sidecar::new("server").start_unready(&stage.server, &stage.ca).unwrap();
    let process = sidecar.process().unwrap();
    assert_eq!(process.wait(SOON).unwrap().code(), Some(2));
    let output = process.output();
    assert!(output.contains(place) && output.contains(word), "{output}");
}

#[test]
fn a_start_with_an_unknown_setting_ends_with_2_and_names_the_line() {
    let Some(stage) = Stage::new() else { return };
    let mut sidecar = Sidecar::new("server").start(&stage.server, &stage.ca).unwrap();
    sidecar.stop();
    let config = std::fs::read_to_string(sidecar.config()).unwrap();
    let line = config.lines().count() + 1;
    std::fs::write(sidecar.config(), format!("{config}detektion: {{timeout: 1s}}\n")).unwrap();
    sidecar.start_again().unwrap();
    let process = sidecar.process().unwrap();
    assert_eq!(process.wait(SOON).unwrap().code(), Some(2));
    let output = process.output();
    let output = output.lines().last().unwrap();
    assert!(output.contains(&format!("proxy.yaml:{line}:")) && output.contains("detection"), "{output}");
}

#[test]
fn a_missing_token_is_waited_for_and_named() {
    let Some(stage) = Stage::new() else { return };
    let (token, away) = (stage.ca.token("server"), stage.lab.folder().join("away"));
    std::fs::rename(&token, &away).unwrap();
    let sidecar = Sidecar::new("server").start_unready(&stage.server, &stage.ca).unwrap();
    let line = sidecar.process().unwrap().wait_for_line(SOON, "no certificate yet").unwrap();
    assert!(line.contains(token.to_str().unwrap()), "{line}");
    let ready = stage.server.get("http://127.0.0.1:15021/healthz/ready").unwrap();
    assert_eq!(ready.status, 503, "{ready:?}");
    assert!(ready.body.contains("token"), "{ready:?}");
    std::fs::rename(&away, &token).unwrap();
    sidecar.wait_ready(SOON).unwrap();
}

/// A log that cannot be written is lost; the service is not.
#[test]
fn a_proxy_and_a_ca_whose_log_is_on_a_full_disk_go_on() {
    let Some(mut stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let _app = stage.app("echo", Family::V4.any());
    let _client = Sidecar::new("client").start(&stage.client, &stage.ca).unwrap();
    let mut sidecar = Sidecar::new("server").start(&stage.server, &stage.ca).unwrap();
    sidecar.stop();
    stage.ca.kill();
    let to_a_full_disk = |node: &Node, command: &str| {
        let executable = stage.lab.folder().join("pillion");
        let script = format!("exec {} {command} > /dev/full 2>&1", executable.display());
        let args = ["--reuid=1337", "--regid=1337", "--clear-groups", "sh", "-c", &script];
        node.start("full", "setpriv", &args).unwrap()
    };
    let config = stage.lab.folder().join("ca/ca.yaml").display().to_string();
    let ca = to_a_full_disk(stage.ca.node(), &format!("ca serve --config {config}"));
    let proxy = to_a_full_disk(&stage.server, &format!("proxy --config {}", sidecar.config().display()));
    let ready = "http://127.0.0.1:15021/healthz/ready";
    wait_until(SOON, "the proxy to be ready", || {
        Ok(stage.server.get(ready).is_ok_and(|answer| answer.is_success()).then_some(()))
    })
    .unwrap();
    for _ in 0..10 {
        echoes(&stage.client, stage.service(Family::V4)).unwrap();
        assert_eq!(errno_of_call(&stage.stranger, stage.service(Family::V4)), Some(ECONNRESET));
    }
    let metrics = stage.server.get("http://127.0.0.1:15000/stats/prometheus").unwrap().body;
    assert!(metrics.contains("pillion_panics_total 0"), "{metrics}");
    ca.check_running().unwrap();
    proxy.terminate().unwrap();
    assert_eq!(proxy.wait(SOON).unwrap().code(), Some(0));
}

#[test]
fn a_ca_without_room_for_its_state_says_so_and_ends() {
    let Some(stage) = Stage::new() else { return };
    let (state, executable) = (stage.lab.folder().join("full"), stage.lab.folder().join("pillion"));
    let (state, executable) = (state.to_str().unwrap(), executable.to_str().unwrap());
    std::fs::create_dir(state).unwrap();
    // The mount is seen by this process alone, and goes with it.
    let script = "mount -t tmpfs -o size=16k tmpfs \"$1\"; head -c 20000 /dev/zero > \"$1/taken\"; \
                  exec \"$0\" ca serve --config \"$2\" --state \"$1/ca\"";
    let config = stage.lab.folder().join("ca/ca.yaml");
    let ca = stage
        .stranger
        .start("ca-full", "sh", &["-c", script, executable, state, config.to_str().unwrap()])
        .unwrap();
    assert_eq!(ca.wait(SOON).unwrap().code(), Some(1));
    let output = ca.output();
    let last = output.lines().last().unwrap();
    assert!(last.contains(state) && last.contains("No space left"), "{output}");
}
