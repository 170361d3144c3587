//! See `fuzzing::requests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::requests::run(bytes));
