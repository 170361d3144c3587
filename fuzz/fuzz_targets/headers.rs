//! See `fuzzing::headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::headers::run(bytes));
