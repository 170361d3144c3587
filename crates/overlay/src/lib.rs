//! Tunnels to other peers: which one carries traffic (the overlay switch), how each is probed and
//! measured (sleeve), and how frames become datagrams and back.
//!
//! Two halves share this crate. The *control half* ([`Overlay`], [`switch`], [`machine`] and a module
//! per kind, as [`sleeve`]) is a state machine inside `Node`. The *data half* ([`frame`], with
//! [`sleeve::framing`] as its one kind) is pure code run by data-plane threads; it goes by a plan that
//! [`forward`] makes of each [`table::ForwardingTable`], and never asks the control half anything.
//!
//! # Size
//!
//! Past twice its plan, because the data half grew a batching path that is worth its lines (segmenting, merging,
//! fragmenting, answering in `frame`) and because each kind of tunnel has both halves here: what a lane needs
//! is said once, between the machine that finds it out and the code that goes by it.

#![forbid(unsafe_code)]

pub mod capabilities;
pub mod forward;
pub mod frame;
pub mod kind;
pub mod mac;
pub mod machine;
pub mod overlay;
pub mod protection;
pub mod routes;
pub mod sleeve;
pub mod switch;
pub mod table;
#[cfg(test)]
mod testing;
#[cfg(any(test, feature = "trial"))]
pub mod trial;
pub mod tunnel;

pub use overlay::{ConnectionParams, Overlay, OverlayOutput, TunnelStatus};
