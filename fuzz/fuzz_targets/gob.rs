//! See `fuzzing::gob`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::gob::run(bytes));
