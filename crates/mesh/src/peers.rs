//! The topology as we know it: the table of peers, what others say about it, and what we tell them.
//!
//! ```text
//!   table ── entries ── history of each ── short ids ── doubts
//!     ▲ merge      whole entries, as everybody gossips them (spec/mesh.md 8.3)
//!     ▲ exchange   differences, among those that understand them
//!     ▼ payloads   what goes out, and what came in before
//! ```
//!
//! Everything here is about what is known. Who is told, when, and over which link is decided in
//! `mesh`.

mod address;
mod delta;
mod doubts;
mod entry;
mod exchange;
mod history;
mod merge;
mod payloads;
mod shortid;
mod table;

pub(crate) use address::canonical;
pub(crate) use doubts::Teller;
pub(crate) use entry::{Adjacency, NICKNAME_BYTES_MAX, Peer, peer_label, truncated};
pub(crate) use exchange::Applied;
pub(crate) use history::{Base, Changes};
pub(crate) use merge::Merged;
pub(crate) use payloads::{EncodedLately, MergedLately, Novelty};
pub(crate) use shortid::SHORT_IDS;
pub(crate) use table::{ADJACENCIES_MAX, PEERS_MAX, PeerTable, Rival};
