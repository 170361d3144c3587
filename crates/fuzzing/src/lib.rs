//! Bodies of the fuzz targets: plain functions from bytes to nothing that panic when something is
//! wrong.
//!
//! `fuzz/` wraps each in a libFuzzer program; `tests/corpus.rs` replays what those found on stable
//! Rust. docs/fuzzing.md says what each asserts and how to run them.

#![forbid(unsafe_code)]

pub mod datapath;
mod frames;
pub mod gob;
pub mod gossip;
pub mod headers;
pub mod introduction;
pub mod ipam;
pub mod link;
pub mod message;
pub mod node;
pub mod offload;
mod remote;
pub mod replay;
pub mod requests;
mod shell;
pub mod tunnel;

/// A target: its name, which is that of its corpus directory, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target there is.
pub const TARGETS: [Target; 13] = [
    ("datapath", datapath::run),
    ("gob", gob::run),
    ("gossip", gossip::run),
    ("headers", headers::run),
    ("introduction", introduction::run),
    ("ipam", ipam::run),
    ("link", link::run),
    ("message", message::run),
    ("node", node::run),
    ("offload", offload::run),
    ("replay", replay::run),
    ("requests", requests::run),
    ("tunnel", tunnel::run),
];
