//! See `fuzzing::offload`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::offload::run(bytes));
