//! See `fuzzing::gossip`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::gossip::run(bytes));
