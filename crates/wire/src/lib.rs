//! Bytes to types and back for every format Weft speaks.
//!
//! Nothing here performs I/O, keeps state between calls or knows what a message means; the formats
//! are those of Weave Net 2.8 (control plane over TCP, gob payloads, sleeve datagrams). Every decoder
//! treats its input as hostile: bounded, and an error instead of a panic.
//!
//! # Size
//!
//! Past twice its plan, which counted five formats: gob alone, a serialisation with a type system of its
//! own, takes a third of the lines, and topology news, address rows and the packet headers of the data
//! plane came with their features. Every format is one file that knows no other.

#![forbid(unsafe_code)]

pub mod delta;
pub mod ethernet;
pub mod gob;
pub mod handshake;
mod intake;
pub mod ipam;
mod link;
pub mod message;
pub mod name;
pub mod quote;
pub mod sleeve;
pub mod topology;

pub use link::LinkId;
pub use name::PeerName;
pub use sleeve::nonce_prefix;
