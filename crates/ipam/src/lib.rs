//! Unique addresses on any host, without a store: the ring of Weave Net 2.8 and what runs on it. A
//! pure state machine; see [`Ipam`]. The wire contract is spec/ipam.md.
//!
//! Who owns which range is the ring's business ([`ring`]); which of our own addresses are free is
//! the space's ([`space`]); who gets the first shares is decided by election ([`paxos`]). [`Ipam`]
//! ties them together and serves requests.
//!
//! # Size
//!
//! Past twice its plan: beside the original's protocol stands what makes it safe, and each part is about as
//! large as the protocol itself: a merge that is total where the original panics (`ring/merge`), disputes and
//! takeovers that end without two owners (`allocator/disputes`, `allocator/takeback`), and giving back what
//! containers and hosts leave behind (`allocator/reclaim`). All of it changes one ring, so it is one crate.

#![forbid(unsafe_code)]

pub mod address;
mod allocator;
mod config;
mod container;
mod output;
pub mod paxos;
pub mod refusal;
mod request;
pub mod ring;
pub mod rows;
pub mod snapshot;
pub mod space;
pub mod status;

pub use allocator::Ipam;
pub use config::{Init, IpamConfig};
pub use container::{ContainerEvent, GRACE};
pub use output::{CHANNEL, IpamOutput, WEFT_CHANNEL};
pub use refusal::Refusal;
pub use request::{
    ANONYMOUS, Allocate, Answer, Ask, Claim, Delete, Free, Holding, Leave, List, Lookup, Outcome,
    PATIENCE, Patience, Prime, Request, TakeOver, Ticket,
};
