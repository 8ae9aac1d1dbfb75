//! The gate: instructions of what every connection pays for, counted by callgrind, against those that `instructions.txt`
//! holds. Counts do not wobble as times do, so this can fail in CI. `cargo bench -p pillion-benches --bench instructions`; it takes
//! valgrind and `gungraun-runner` (`cargo install gungraun-runner --version 0.20.0`), and ends with 3 where one costs too
//! much. With `-- --test` it does nothing: without valgrind there is nothing to count.

// Nothing here is read from outside.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]
// What the macros of gungraun write.
#![allow(unused_qualifications, clippy::needless_pass_by_value)]

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};

use gungraun::{
    Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use pillion_benches::mesh::{Files, Shape, address, snapshot};
use pillion_mesh::client_hello::{Sniff, sniff};
use pillion_mesh::policy::Snapshot;
use pillion_mesh::policy::admit::{Admission, Observed, admit};
use pillion_mesh::policy::authz::Facts;
use pillion_mesh::policy::mode::Mode;
use pillion_mesh::resource::Protocol;
use pillion_proxy::measure::{Pair, Side};
use pillion_testkit::TestCa;
use tokio::runtime::Runtime;

const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/frontend";
const SERVER: &str = "spiffe://cluster.local/ns/default/sa/backend";

/// Policies and endpoints of the mesh that is decided by.
const SIZE: usize = 1_000;

/// A count that `instructions.txt` allows.
fn at_most(name: &str) -> LibraryBenchmarkConfig {
    let kept = include_str!("../instructions.txt");
    let line = kept.lines().find(|line| line.split_whitespace().next() == Some(name));
    let mut columns =
        line.unwrap_or_else(|| panic!("instructions.txt has no line for {name}")).split_whitespace().skip(1);
    let mut column = || columns.next().unwrap().parse::<u64>().unwrap();
    let (count, tolerance) = (column(), column());
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(Callgrind::default().hard_limits([(EventKind::Ir, count + count * tolerance / 100)]).clone());
    config
}

fn hello() -> Vec<u8> {
    include_bytes!("../../mesh/tests/hellos/rustls-x25519mlkem768.bin").to_vec()
}

#[library_benchmark(config = at_most("client_hello"))]
#[bench::rustls(setup = hello)]
fn client_hello(hello: Vec<u8>) -> Sniff {
    black_box(sniff(black_box(&hello)))
}

fn observed() -> Observed {
    Observed::MeshTls
}

#[library_benchmark(config = at_most("admission"))]
#[bench::strict(setup = observed)]
fn admission(observed: Observed) -> Admission {
    black_box(admit(black_box(Mode::Strict), Protocol::Tcp, observed))
}

fn mesh() -> Snapshot {
    snapshot(&Files::policies(SIZE).and(Files::endpoints(SIZE, Shape::ManyServices)).read())
}

#[library_benchmark(config = at_most("authorize"))]
#[bench::stranger(setup = mesh)]
fn authorize(mesh: Snapshot) -> Snapshot {
    let peer = "spiffe://cluster.local/ns/prod/sa/stranger".parse().unwrap();
    let source = IpAddr::from([192, 0, 2, 1]);
    let destination = SocketAddr::from(([10, 0, 0, 1], 80));
    let facts = Facts { peer: Some(&peer), source, remote: source, destination, sni: None, http: None };
    black_box(mesh.authorization.authorize(&facts));
    mesh
}

#[library_benchmark(config = at_most("find"))]
#[bench::address(setup = mesh)]
fn find(mesh: Snapshot) -> Snapshot {
    let dialled: SocketAddr = format!("{}:80", address(10, SIZE / 2)).parse().unwrap();
    let found = mesh.registry.lookup(dialled, 0).unwrap();
    black_box(mesh.plan(Some(&found)));
    mesh
}

/// Two sidecars that have met once: what is made once is made, and there is a session to resume.
fn pair(resumption: bool) -> (Runtime, Pair) {
    let ca = TestCa::root("root");
    let held = [CLIENT, SERVER].map(|id| ca.issue(id));
    let [client, server] = held.each_ref().map(|held| Side { chain: held.chain.clone(), key: &held.key });
    let pair = Pair::new(client, server, &ca.bundle_pem(), resumption).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(!runtime.block_on(pair.connect()).unwrap());
    (runtime, pair)
}

#[library_benchmark(config = at_most("full_handshake"))]
#[bench::p256(args = (false), setup = pair)]
fn full_handshake((runtime, pair): (Runtime, Pair)) -> (Runtime, Pair) {
    assert!(!runtime.block_on(pair.connect()).unwrap());
    (runtime, pair)
}

#[library_benchmark(config = at_most("resumed_handshake"))]
#[bench::p256(args = (true), setup = pair)]
fn resumed_handshake((runtime, pair): (Runtime, Pair)) -> (Runtime, Pair) {
    assert!(runtime.block_on(pair.connect()).unwrap());
    (runtime, pair)
}

library_benchmark_group!(name = decisions, benchmarks = [client_hello, admission, authorize, find]);
library_benchmark_group!(name = handshakes, benchmarks = [full_handshake, resumed_handshake]);

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    main!(library_benchmark_groups = [decisions, handshakes]);
    main();
}
