//! See `fuzzing::introduction`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::introduction::run(bytes));
