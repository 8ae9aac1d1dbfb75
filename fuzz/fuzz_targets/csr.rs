//! Certificate signing requests; the laws are in `ca/src/fuzzing.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pillion_ca::fuzzing::csr(bytes));
