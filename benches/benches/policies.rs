//! Loading 10,000 policies and 10,000 endpoints, and deciding by them. `cargo bench -p pillion-benches`; with `-- --test`
//! each runs once.
//!
//! A table at the end tells the fastest of each, where there was more than one run: what is decided must cost about the
//! same in every column.

// Nothing here is read from outside.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use criterion::{Bencher, BenchmarkId, Criterion};
use pillion_benches::mesh::{Files, Shape, address, addresses, snapshot};
use pillion_mesh::policy::Snapshot;
use pillion_mesh::policy::authz::{Facts, HttpFacts};
use pillion_mesh::policy::path::normalize;
use pillion_mesh::policy::request::Host;

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const LARGE: usize = 10_000;

fn main() {
    let mut criterion = Criterion::default()
        .configure_from_args()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    let mut fastest = Fastest::default();
    load(&mut criterion, &mut fastest);
    decide(&mut criterion, &mut fastest);
    refresh(&mut criterion, &mut fastest);
    criterion.final_summary();
    // One run tells what it costs with cold caches, if anything.
    if !std::env::args().any(|arg| arg == "--test") {
        fastest.print();
    }
}

/// From the text of files to a snapshot.
fn load(criterion: &mut Criterion, fastest: &mut Fastest) {
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    for size in SIZES {
        let policies = Files::policies(size);
        group.bench_with_input(BenchmarkId::new("policies", size), &policies, |bencher, files| {
            fastest.time(bencher, "load policies", size, || snapshot(&files.read()));
        });
        for shape in Shape::ALL {
            let files = Files::endpoints(size, shape);
            let what = format!("load endpoints: {}", shape.name());
            group.bench_with_input(BenchmarkId::new(shape.name(), size), &files, |bencher, files| {
                fastest.time(bencher, &what, size, || snapshot(&files.read()));
            });
        }
        let resources = policies.and(Files::endpoints(size, Shape::Selected)).read();
        group.bench_with_input(BenchmarkId::new("build alone", size), &resources, |bencher, resources| {
            fastest.time(bencher, "build of both, read before", size, || snapshot(resources));
        });
    }
    group.finish();
}

/// One decision each.
fn decide(criterion: &mut Criterion, fastest: &mut Fastest) {
    let mut group = criterion.benchmark_group("decide");
    for size in SIZES {
        let files =
            Files::policies(size).and(Files::endpoints(size, Shape::ManyServices)).and(Files::routes(size));
        let snapshot = snapshot(&files.read());
        let last = size - size % 32;
        let mut decision = |name: &str, decide: &dyn Fn(&Snapshot)| {
            group.bench_with_input(BenchmarkId::new(name, size), &snapshot, |bencher, snapshot| {
                fastest.time(bencher, name, size, || decide(snapshot));
            });
        };
        let dialled: SocketAddr = format!("{}:80", address(10, size / 2)).parse().unwrap();
        decision("connection: a stranger", &|snapshot| {
            let peer = "spiffe://cluster.local/ns/prod/sa/stranger".parse().unwrap();
            let facts = Facts { peer: Some(&peer), ..of(dialled) };
            black_box(snapshot.authorization.authorize(&facts));
        });
        decision("connection: an address that is allowed", &|snapshot| {
            let number = last.saturating_sub(32) + 10;
            let source = IpAddr::from([12, number.to_be_bytes()[6], number.to_be_bytes()[7], 1]);
            black_box(snapshot.authorization.authorize(&Facts { source, ..of(dialled) }));
        });
        decision("request: a path that is allowed", &|snapshot| {
            let path = normalize(&format!("/api/v2/p{}/x", last.saturating_sub(32) + 22)).unwrap();
            let (host, headers) = (Host::parse("me.example").unwrap(), Vec::new());
            let http = HttpFacts { method: "GET", host: &host, path: &path, headers: &headers };
            black_box(snapshot.authorization.authorize(&Facts { http: Some(http), ..of(dialled) }));
        });
        decision("look-up by address, and plan", &|snapshot| {
            let found = snapshot.registry.lookup(dialled, 0).unwrap();
            black_box(snapshot.plan(Some(&found)));
        });
        decision("look-up by host, and plan", &|snapshot| {
            let found = snapshot.registry.lookup_host("s1.example", 80, 1).unwrap();
            black_box(snapshot.plan(Some(&found)));
        });
        decision("route by host", &|snapshot| {
            let (host, path) =
                (Host::parse(&format!("h{}.example", size - 1)).unwrap(), normalize("/").unwrap());
            black_box(snapshot.routes.route(80, &host, &path).unwrap());
        });
        decision("route by path", &|snapshot| {
            let host = Host::parse("paths.example").unwrap();
            let path = normalize(&format!("/p{}/x", size - 1)).unwrap();
            black_box(snapshot.routes.route(80, &host, &path).unwrap());
        });
    }
    group.finish();
}

/// What one new address of one name costs.
fn refresh(criterion: &mut Criterion, fastest: &mut Fastest) {
    let mut group = criterion.benchmark_group("refresh");
    group.sample_size(10);
    for size in SIZES {
        for (what, files) in [
            ("addresses of names", Files::endpoints(size, Shape::Named)),
            (
                "one name among endpoints",
                Files::endpoints(size, Shape::Selected).and(Files::endpoints(1, Shape::Named)),
            ),
        ] {
            let snapshot = snapshot(&files.and(Files::policies(size)).read());
            let addresses = addresses(&snapshot);
            group.bench_with_input(BenchmarkId::new(what, size), &snapshot, |bencher, snapshot| {
                fastest
                    .time(bencher, &format!("refresh {what}"), size, || snapshot.with_addresses(&addresses));
            });
        }
    }
    group.finish();
}

/// A connection in plaintext to `destination`.
fn of(destination: SocketAddr) -> Facts<'static> {
    let source = IpAddr::from([192, 0, 2, 1]);
    Facts { peer: None, source, remote: source, destination, sni: None, http: None }
}

/// The least time of each, by name and size.
#[derive(Default)]
struct Fastest {
    names: Vec<String>,
    times: BTreeMap<(String, usize), Duration>,
}

impl Fastest {
    fn time<T>(&mut self, bencher: &mut Bencher<'_>, name: &str, size: usize, mut once: impl FnMut() -> T) {
        if !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
        }
        let fastest = self.times.entry((name.to_owned(), size)).or_insert(Duration::MAX);
        bencher.iter_custom(|times| {
            let started = Instant::now();
            for _ in 0..times {
                black_box(once());
            }
            let taken = started.elapsed();
            let each = taken / u32::try_from(times).unwrap_or(u32::MAX).max(1);
            *fastest = each.min(*fastest);
            taken
        });
    }

    fn print(&self) {
        if self.times.is_empty() {
            return;
        }
        println!("\n{:44}{}", "", SIZES.map(|size| format!("{size:>12}")).concat());
        for name in &self.names {
            let time = |size| match self.times.get(&(name.clone(), size)) {
                Some(time) if *time < Duration::MAX => format!("{:>12}", format!("{time:.1?}")),
                _ => format!("{:>12}", "-"),
            };
            println!("{name:44}{}", SIZES.map(time).concat());
        }
        let files = Files::policies(LARGE).and(Files::endpoints(LARGE, Shape::Selected));
        println!("\n{LARGE} policies with {LARGE} endpoints are {} KiB of YAML.", files.bytes() / 1024);
    }
}
