//! See `fuzzing::tunnel`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::tunnel::run(bytes));
