//! Sets of an issuer's keys; the laws are in `ca/src/fuzzing.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pillion_ca::fuzzing::jwks(bytes));
