//! What a mesh handshake costs in full and resumed, by the kind of key. `cargo bench -p pillion-benches --bench handshakes`;
//! with `-- --test` a few of each run.
//!
//! Both sides work on one thread and talk in memory, so a figure is the processor time of client and server together, and
//! there is no network in it. Full and resumed handshakes take turns in one run: what slows this machine down slows both.

// Nothing here is read from outside.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::time::{Duration, Instant};

use pillion_proxy::measure::{Pair, Side};
use pillion_testkit::{Held, TestCa};

const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/frontend";
const SERVER: &str = "spiffe://cluster.local/ns/default/sa/backend";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let is_test = arguments.iter().any(|arg| arg == "--test");
    let rounds = if is_test { 3 } else { 600 };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    println!("{:<12}  {:>9}  {:>9}  {:>6}   median of {rounds}", "key", "full", "resumed", "saved");
    for (name, algorithm) in [
        ("ecdsa-p256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("ecdsa-p384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("ed25519", &rcgen::PKCS_ED25519),
        ("rsa-2048", &rcgen::PKCS_RSA_SHA256),
    ] {
        let ca = TestCa::root("root");
        let held = [CLIENT, SERVER].map(|id| ca.issue_for_key(id, algorithm, |_| {}));
        let (full, resuming) = (pair(&ca, &held, false), pair(&ca, &held, true));
        // The first connection gets the ticket that the next one resumes with.
        assert!(!runtime.block_on(resuming.connect()).unwrap());
        let (mut in_full, mut resumed) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            in_full.push(timed(&runtime, &full, false));
            resumed.push(timed(&runtime, &resuming, true));
        }
        let (full, resumed) = (median(in_full), median(resumed));
        let saved = 100.0 * (1.0 - resumed.as_secs_f64() / full.as_secs_f64());
        println!("{name:<12}  {:>6} us  {:>6} us  {saved:>5.0}%", full.as_micros(), resumed.as_micros());
    }
}

fn pair(ca: &TestCa, held: &[Held; 2], resumption: bool) -> Pair {
    let [client, server] = held.each_ref().map(|held| Side { chain: held.chain.clone(), key: &held.key });
    Pair::new(client, server, &ca.bundle_pem(), resumption).unwrap()
}

fn timed(runtime: &tokio::runtime::Runtime, pair: &Pair, resumed: bool) -> Duration {
    let begun = Instant::now();
    let was = runtime.block_on(pair.connect()).unwrap();
    let took = begun.elapsed();
    assert_eq!(was, resumed, "the handshake is not the one that is measured");
    took
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}
