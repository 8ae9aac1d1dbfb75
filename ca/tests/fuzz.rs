//! The fuzz targets over mutated seeds: the same mutations each time, for a bounded time. `fuzz/README.md` says how to let
//! libFuzzer look for new ones.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use rstest::rstest;

/// Mutants of each seed.
const MUTANTS: usize = 10_000;

#[rstest]
#[case::csr("csr", pillion_ca::fuzzing::csr)]
#[case::evidence("evidence", pillion_ca::fuzzing::evidence)]
#[case::certificate("certificate", pillion_ca::fuzzing::certificate)]
#[case::bundle("bundle", pillion_ca::fuzzing::bundle)]
#[case::jwks("jwks", pillion_ca::fuzzing::jwks)]
#[case::state("state", pillion_ca::fuzzing::state)]
fn no_mutant_of_a_seed_breaks_a_law(#[case] name: &str, #[case] target: fn(&[u8])) {
    let seeds = seeds(name);
    assert!(!seeds.is_empty(), "fuzz/seeds/{name} is empty");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for (seed_number, seed) in seeds.iter().enumerate() {
        run(target, seed);
        for _ in 0..MUTANTS {
            let other = &seeds[random.below(seeds.len())];
            run(target, &mutant(seed, other, &mut random));
        }
        assert!(seed_number < 100, "fewer seeds find as much in less time");
    }
}

fn run(target: fn(&[u8]), input: &[u8]) {
    if catch_unwind(|| target(input)).is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("this input breaks a law; keep it among the seeds once it is mended:\n{hex}");
    }
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// The seed with one to four changes: bits, bytes that mean something in DER and JSON, pieces left out, doubled, or taken
/// from another seed.
fn mutant(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    const TELLING: &[u8] = b"\x00\x01\x02\x03\x04\x06\x30\x31\x7f\x80\x81\x82\x84\xa0\xff\"{}[]:.,-\\\n ";
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        let end = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = TELLING[random.below(TELLING.len())],
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => bytes.truncate(at),
            _ if other.is_empty() => {}
            _ => {
                let from = random.below(other.len());
                let piece = other[from..(from + 1 + random.below(64)).min(other.len())].to_vec();
                bytes.splice(at..end, piece);
            }
        }
    }
    bytes
}

/// xorshift64*: the same numbers each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % bound
    }
}
