//! What an allocator asks of whoever runs it.

use wire::PeerName;

use crate::address::Range;
use crate::request::{Outcome, Ticket};
use crate::rows::RowWrite;

/// The gossip channel of address allocation (spec/ipam.md 9).
pub const CHANNEL: &str = "IPallocation";
/// The gossip channel of what only Wefts say to each other about allocation: votes on ranges of
/// peers that are gone. Originals do not know it and pass it on untouched.
pub const WEFT_CHANNEL: &str = "weft-ipam";

/// What must be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IpamOutput {
    /// Make these rows durable, all or none, before anything behind it is done.
    Persist(Vec<RowWrite>),
    /// Send to one peer on [`CHANNEL`]; report a failure with `handle_unicast_failed`.
    Unicast {
        /// Whom.
        to: PeerName,
        /// Kind byte and gob.
        payload: Vec<u8>,
    },
    /// Broadcast our state on [`CHANNEL`], encoded when it is sent ([`Ipam::gossip_state`]).
    Broadcast,
    /// Send to one peer on [`WEFT_CHANNEL`]; a failure need not be reported.
    WeftUnicast {
        /// Whom.
        to: PeerName,
        /// As `Ipam::handle_weft` takes it.
        payload: Vec<u8>,
    },
    /// Broadcast on [`WEFT_CHANNEL`].
    WeftBroadcast(Vec<u8>),
    /// Answer a request. Exactly one per ticket.
    Answer {
        /// Which.
        ticket: Ticket,
        /// How it ended.
        outcome: Outcome,
    },
    /// The ranges we own changed (range trackers, spec/ipam.md 10): all of them, merged, ascending.
    RangesChanged(Vec<Range>),
}
