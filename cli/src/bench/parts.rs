//! The parts that need no socket, each measured alone by the processor time of one thread: what is decided for a connection,
//! and the floors that physics and the TLS library set, so that every figure can be read as a multiple of what is possible.

use std::hint::black_box;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use pillion_mesh::client_hello::sniff;
use pillion_mesh::policy::Snapshot;
use pillion_mesh::policy::admit::{Observed, admit};
use pillion_mesh::policy::authz::Facts;
use pillion_mesh::policy::mode::Mode;
use pillion_mesh::resource::{Protocol, Resources};
use pillion_mesh::workload::{MeshConfig, Workload};
use pillion_proxy::measure::{Pair, Side};
use rustix::time::{ClockId, clock_gettime};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;

use super::identity::{Authority, Held, Key};
use super::load::job::{ServerTls, Shape, Tls};
use super::load::{client_config, server_config};
use super::results::{Cell, Section};
use super::{Progress, Scale};
use crate::lab::{LabError, check_interrupt};

/// What TLS seals at once, at most.
const RECORD: usize = 16 * 1024;

/// Measures all parts.
pub(crate) fn measure(scale: Scale, progress: &Progress) -> Result<Section, LabError> {
    progress.step("parts in memory");
    let mut cells = Vec::new();
    let folder = tempfile::tempdir().map_err(LabError::io("make a folder"))?;
    for (key, resumed) in [(Key::P256, false), (Key::P256, true), (Key::Rsa2048, false)] {
        check_interrupt()?;
        cells.push(handshake(key, resumed, folder.path(), scale)?);
    }
    for (resumed, usual) in [(false, true), (true, true), (false, false)] {
        check_interrupt()?;
        cells.push(pillions_handshake(resumed, usual, scale)?);
    }
    cells.extend(aead(scale)?);
    check_interrupt()?;
    cells.extend(decisions(scale)?);
    Ok(Section {
        id: "parts".to_owned(),
        title: "Parts and floors, in memory".to_owned(),
        text: "Each alone, on one thread, by the processor time of that thread: nothing of the machine's other users is in it. First \
               mutual handshakes, the client's and the server's work; that of the TLS library is what no sidecar that uses it can go \
               below."
            .to_owned(),
        cells,
    })
}

/// The TLS library alone, both sides in one thread, the time of each apart.
fn handshake(key: Key, resumed: bool, folder: &std::path::Path, scale: Scale) -> Result<Cell, LabError> {
    let authority = Authority::new(1)?;
    let files = |account: &str| authority.issue(account, key)?.write(folder, account, None);
    let tls = Tls { shape: Shape::USUAL, mutual: true, resumed, files: files("client")? };
    let doors = ServerTls { shape: Shape::USUAL, mutual: true, files: files("server")? };
    let failed = |error: anyhow::Error| LabError::Failed(format!("TLS in memory: {error:#}"));
    let client = Arc::new(client_config(&tls).map_err(failed)?);
    let server = Arc::new(server_config(&doors).map_err(failed)?);
    // The first gets the tickets for the next.
    shake(&client, &server).map_err(failed)?;
    let (mut at_client, mut at_server) = (Vec::new(), Vec::new());
    for _ in 0..scale.rounds {
        let (mut times, mut count) = ((0, 0), 0_u32);
        while times.0 + times.1 < nanoseconds(scale.part()) {
            let once = shake(&client, &server).map_err(failed)?;
            times = (times.0 + once.0, times.1 + once.1);
            count += 1;
        }
        let each = |time: u64| super::cpu::ratio(time, count.into()) / 1_000.0;
        at_client.push(each(times.0));
        at_server.push(each(times.1));
    }
    let kind = if resumed { "resumed" } else { "full" };
    let suffix = if key == Key::P256 { "" } else { "-rsa-2048" };
    let mut cell = Cell::new(&format!("tls-{kind}{suffix}"), &format!("TLS library, {kind}, {}", key.name()));
    cell.figure("cpuServer", at_server);
    cell.figure("cpuClient", at_client);
    Ok(cell)
}

/// Processor time of client and server, in nanoseconds.
fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> anyhow::Result<(u64, u64)> {
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let (mut at_client, mut at_server) = (0, 0);
    let begun = thread_time();
    let mut client = ClientConnection::new(Arc::clone(client), ServerName::try_from("server")?)?;
    at_client += thread_time() - begun;
    let begun = thread_time();
    let mut server = ServerConnection::new(Arc::clone(server))?;
    at_server += thread_time() - begun;
    // Three flights, and the tickets.
    for _ in 0..4 {
        let begun = thread_time();
        let mut incoming = to_client.as_slice();
        while !incoming.is_empty() {
            client.read_tls(&mut incoming)?;
            client.process_new_packets()?;
        }
        to_server.clear();
        while client.wants_write() {
            client.write_tls(&mut to_server)?;
        }
        at_client += thread_time() - begun;
        let begun = thread_time();
        let mut incoming = to_server.as_slice();
        while !incoming.is_empty() {
            server.read_tls(&mut incoming)?;
            server.process_new_packets()?;
        }
        to_client.clear();
        while server.wants_write() {
            server.write_tls(&mut to_client)?;
        }
        at_server += thread_time() - begun;
    }
    anyhow::ensure!(!client.is_handshaking() && !server.is_handshaking(), "the handshake does not end");
    Ok((at_client, at_server))
}

/// A sidecar's handshake with a sidecar: with the SPIFFE rules, and what is asked of a session that is resumed. `usual` is as
/// the TLS library's above, else as sidecars negotiate unless they are told otherwise.
fn pillions_handshake(resumed: bool, usual: bool, scale: Scale) -> Result<Cell, LabError> {
    let authority = Authority::new(1)?;
    let (client, server) = (authority.issue("client", Key::P256)?, authority.issue("server", Key::P256)?);
    let failed = |error: String| LabError::Failed(format!("a sidecar's handshake in memory: {error}"));
    let make = if usual { Pair::usual } else { Pair::new };
    let pair = make(side(&client), side(&server), &authority.bundle(), resumed).map_err(failed)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().build().map_err(LabError::io("make a runtime"))?;
    let mut fault = None;
    let mut connect = || {
        if let Err(error) = runtime.block_on(pair.connect()) {
            fault.get_or_insert(error);
        }
    };
    connect();
    let rounds = timed(scale, &mut connect);
    if let Some(error) = fault {
        return Err(failed(error));
    }
    let kind = if resumed { "resumed" } else { "full" };
    let (suffix, group) = if usual { ("", "X25519") } else { ("-default", "X25519MLKEM768") };
    let mut cell = Cell::new(&format!("pillion-{kind}{suffix}"), &format!("pillion, {kind}, {group}"));
    cell.figure("cpuBoth", rounds.iter().map(|time| time / 1_000.0).collect());
    Ok(cell)
}

fn side(held: &Held) -> Side<'_> {
    Side { chain: held.chain.clone(), key: &held.key }
}

/// The cipher of a TLS record, in place.
fn aead(scale: Scale) -> Result<[Cell; 2], LabError> {
    let failed = |_| LabError::Failed("AES-128-GCM cannot be used".to_owned());
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).map_err(failed)?);
    let nonce = || Nonce::assume_unique_for_key([3; 12]);
    let mut record = vec![0x5a_u8; RECORD];
    let sealing = timed(scale, &mut || {
        let _ = black_box(key.seal_in_place_separate_tag(nonce(), Aad::empty(), black_box(&mut record)));
    });
    let mut sealed = vec![0x5a_u8; RECORD];
    key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut sealed).map_err(failed)?;
    let mut copy = sealed.clone();
    let opening = timed(scale, &mut || {
        copy.copy_from_slice(&sealed);
        let _ = black_box(key.open_in_place(nonce(), Aad::empty(), black_box(&mut copy)));
    });
    let bytes = super::cpu::ratio(RECORD as u64, 1);
    let cell = |id: &str, title: &str, rounds: Vec<f64>| {
        let mut cell = Cell::new(id, title);
        cell.figure("gigabytes", rounds.iter().map(|time| bytes / time).collect());
        cell.figure("cpuNanoseconds", rounds);
        cell
    };
    Ok([
        cell("aead-seal", "AES-128-GCM, seal of 16 KiB", sealing),
        cell("aead-open", "AES-128-GCM, copy and open of 16 KiB", opening),
    ])
}

/// What is decided for one connection.
fn decisions(scale: Scale) -> Result<Vec<Cell>, LabError> {
    let mut cells = Vec::new();
    let mut add = |id: &str, title: &str, once: &mut dyn FnMut()| {
        let mut cell = Cell::new(id, title);
        cell.figure("cpuNanoseconds", timed(scale, once));
        cells.push(cell);
    };
    let hello = client_hello()?;
    let (mut near, far) = connected()?;
    near.write_all(&hello).map_err(LabError::io("write to loopback"))?;
    let mut buffer = vec![0_u8; RECORD];
    add("peek", "peek at the first bytes of a socket", &mut || {
        let _ = black_box(far.peek(&mut buffer));
    });
    add("client-hello", "read a ClientHello", &mut || {
        black_box(sniff(black_box(&hello)));
    });
    let pillion_mesh::client_hello::Sniff::Tls(seen) = sniff(&hello) else {
        return Err(LabError::Failed("a ClientHello is not taken for one".to_owned()));
    };
    let observed = if seen.is_mesh() { Observed::MeshTls } else { Observed::OtherTls };
    add("admit", "admit it by the port's mode", &mut || {
        black_box(admit(black_box(Mode::Strict), Protocol::Tcp, observed));
    });
    for count in [1, 1_000] {
        let snapshot = snapshot(count)?;
        let peer =
            "spiffe://cluster.local/ns/default/sa/client".parse().map_err(|error| impossible(&error))?;
        let source = IpAddr::V4(Ipv4Addr::new(10, 83, 0, 2));
        let destination = SocketAddr::from(([10, 83, 0, 3], 8080));
        let facts = Facts { peer: Some(&peer), source, remote: source, destination, sni: None, http: None };
        let title =
            if count == 1 { "check one policy".to_owned() } else { format!("check {count} policies") };
        add(&format!("policy-{count}"), &title, &mut || {
            black_box(snapshot.authorization.authorize(black_box(&facts)));
        });
    }
    Ok(cells)
}

fn client_hello() -> Result<Vec<u8>, LabError> {
    let folder = tempfile::tempdir().map_err(LabError::io("make a folder"))?;
    let files = Authority::new(1)?.issue("client", Key::P256)?.write(folder.path(), "client", None)?;
    let tls = Tls { shape: Shape::USUAL, mutual: true, resumed: false, files };
    let mut hello = Vec::new();
    let written = || -> anyhow::Result<()> {
        let config = Arc::new(client_config(&tls)?);
        ClientConnection::new(config, ServerName::try_from("server")?)?.write_tls(&mut hello)?;
        Ok(())
    };
    let mut written = written;
    written().map_err(|error| LabError::Failed(format!("a ClientHello cannot be made: {error:#}")))?;
    Ok(hello)
}

fn connected() -> Result<(TcpStream, TcpStream), LabError> {
    let pair = || {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let near = TcpStream::connect(listener.local_addr()?)?;
        let (far, _) = listener.accept()?;
        far.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok((near, far))
    };
    pair().map_err(LabError::io("connect on loopback"))
}

/// A workload with so many policies, the last of which allows the client.
fn snapshot(count: usize) -> Result<Snapshot, LabError> {
    use std::fmt::Write as _;
    let mut text = String::new();
    for number in 1..=count {
        let account = if number == count { "client".to_owned() } else { format!("other-{number}") };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: p{number}, namespace: default}}\n\
             spec: {{rules: [{{from: [{{source: {{principals: [cluster.local/ns/default/sa/{account}]}}}}]}}]}}\n"
        );
    }
    let mut resources = Resources::default();
    resources.read("policies", &text).map_err(|error| impossible(&error))?;
    let workload = Workload {
        name: "server".to_owned(),
        trust_domain: "cluster.local".parse().map_err(|error| impossible(&error))?,
        namespace: "default".to_owned(),
        service_account: "server".to_owned(),
        labels: [("app".to_owned(), "server".to_owned())].into(),
    };
    Ok(Snapshot::build(&resources, &workload, &MeshConfig::default()))
}

fn impossible(error: &impl std::fmt::Display) -> LabError {
    LabError::Failed(error.to_string())
}

/// Nanoseconds of this thread's processor time for each run of `once`, by round; each round is long enough for the clock.
fn timed(scale: Scale, once: &mut dyn FnMut()) -> Vec<f64> {
    let wanted = nanoseconds(scale.part());
    let mut times = 1_u32;
    let mut measure = |times: u32| {
        let begun = thread_time();
        for _ in 0..times {
            once();
        }
        thread_time() - begun
    };
    // Warm-up and the number of runs at once.
    while measure(times) < wanted / 4 && times < 1 << 28 {
        times *= 2;
    }
    let times = times.saturating_mul(4);
    (0..scale.rounds).map(|_| super::cpu::ratio(measure(times), times.into())).collect()
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Of this thread, in nanoseconds.
fn thread_time() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let [seconds, nanoseconds] =
        [now.tv_sec, now.tv_nsec].map(|part| u64::try_from(part).unwrap_or_default());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
