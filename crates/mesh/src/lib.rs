//! Peers and the links between them: handshake and sessions, topology, gossip, routes, short ids
//! and whom to dial. A pure state machine; see `Mesh`. The wire contract is spec/mesh.md.
//!
//! This file only shows what others may use; every name of it is declared in the room it belongs to.

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
