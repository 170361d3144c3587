//! See `fuzzing::datapath`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::datapath::run(bytes));
