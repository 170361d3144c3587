//! See `fuzzing::replay`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::replay::run(bytes));
