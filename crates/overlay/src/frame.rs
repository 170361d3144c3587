//! One batching path for all kinds of tunnel: frames of the bridge into datagrams and back.
//!
//! ```text
//!  capture   super-frame ─ segment ─┐                      ┌─► train ─► UDP (GSO)
//!  receive   UDP (GRO) ─ open ──────┴─ ways ─► egress ─────┘
//!                           └─ merge ─► bridge
//! ```
//!
//! What differs between kinds is behind [`framing::Framing`]: heads and tails of datagrams, their
//! numbers, their cipher. Pure code run by data-plane threads; nothing here allocates per frame, and
//! nothing here knows how many peers there are.

pub mod capture;
pub mod counters;
pub mod egress;
pub mod fragment;
pub mod framing;
pub mod icmp;
pub mod merge;
pub mod merging;
pub mod mss;
pub mod path;
pub mod plan;
pub mod receive;
pub mod replay;
pub mod segment;
pub mod train;
pub mod ways;
