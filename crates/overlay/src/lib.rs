//! Tunnels to other peers: which one carries traffic (the overlay switch), how each is probed and
//! measured (sleeve), and how frames become datagrams and back.
//!
//! Two halves share this crate. The *control half* ([`Overlay`], `switch`, `sleeve`, `pmtu`) is a
//! state machine inside `Node`. The *data half* (`forward`, `datagram`, `segment`, `merge`,
//! `mss`, `replay`) is pure code run by data-plane threads; it reads a [`table::ForwardingTable`] and never
//! asks the control half anything.

#![forbid(unsafe_code)]

pub mod datagram;
pub mod forward;
pub mod fragment;
pub mod icmp;
pub mod kind;
pub mod mac;
pub mod merge;
pub mod mss;
pub mod overlay;
pub mod pmtu;
pub mod protection;
pub mod replay;
pub mod segment;
pub mod sleeve;
pub mod switch;
pub mod table;
#[cfg(test)]
mod testing;

pub use overlay::{ConnectionParams, Overlay, OverlayOutput, TunnelStatus};
