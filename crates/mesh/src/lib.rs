//! Peers and the links between them: handshake and sessions, topology, gossip, routes, short ids
//! and whom to dial. A pure state machine; see `Mesh`. The wire contract is spec/mesh.md.
//!
//! This file only shows what others may use; every name of it is declared in the room it belongs to.
//!
//! # Size
//!
//! Twice the lines that were planned, because each of three jobs is done twice: topology is gossiped
//! whole with originals and as differences between Wefts (`peers`, `mesh/news.rs`), links are spoken in
//! two protocol versions (`link`), and beside the protocol stand the rules that heal what liars, clones
//! and dead links do to it (`peers/doubts.rs`, `mesh/clones.rs`, `mesh/duplicates.rs`). None of the
//! three can be had without the table of peers and the links, so none is a crate of its own.

#![forbid(unsafe_code)]

mod bucket;
mod config;
mod gossip;
mod keys;
mod link;
mod maker;
mod mesh;
mod output;
mod peers;
mod routes;
pub mod status;

pub use bucket::TokenBucket;
pub use config::{MeshConfig, Password, TrustedSubnet};
pub use maker::DirectPeer;
pub use mesh::{GossipContent, Mesh, MeshSnapshot, UnicastError};
pub use output::{Connection, MeshOutput};

#[cfg(test)]
mod testing;
