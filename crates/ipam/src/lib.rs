//! Unique addresses on any host, without a store: the ring of Weave Net 2.8 and what runs on it. A
//! pure state machine; see [`Ipam`]. The wire contract is spec/ipam.md.
//!
//! Who owns which range is the ring's business ([`ring`]); which of our own addresses are free is
//! the space's ([`space`]); who gets the first shares is decided by election ([`paxos`]). [`Ipam`]
//! ties them together and serves requests.

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
