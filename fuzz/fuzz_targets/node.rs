//! See `fuzzing::node`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::node::run(bytes));
