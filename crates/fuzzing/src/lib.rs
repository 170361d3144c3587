//! Bodies of the fuzz targets: plain functions from bytes to nothing that panic when something is
//! wrong.
//!
//! `fuzz/` wraps each in a libFuzzer program; `tests/corpus.rs` replays what those found on stable
//! Rust. docs/fuzzing.md says what each asserts and how to run them.

#![forbid(unsafe_code)]

pub mod gob;
pub mod headers;
pub mod introduction;
pub mod message;

/// A target: its name, which is that of its corpus directory, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target there is.
pub const TARGETS: [Target; 4] = [
    ("gob", gob::run),
    ("headers", headers::run),
    ("introduction", introduction::run),
    ("message", message::run),
];
