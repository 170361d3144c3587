//! See `fuzzing::link`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::link::run(bytes));
