//! What the threads count: why frames and datagrams were dropped, and what went in and out.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a frame or datagram was not passed on. Each has a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// Shorter than an Ethernet header, or a malformed super-frame.
    MalformedFrame,
    /// To the spanning tree address.
    SpanningTree,
    /// Captured, but the destination is on our own bridge.
    LocalDestination,
    /// Captured with a source address that lives at another peer: our own injected frame.
    Injected,
    /// Origin or destination is not a peer we know.
    UnknownPeer,
    /// A special frame not from the neighbour to us, or not all zero.
    ForeignSpecial,
    /// Our own frame came back.
    OwnOrigin,
    /// The next hop is where the frame came from.
    RelayLoop,
    /// No route to the destination.
    NoRoute,
    /// No tunnel to the next hop, or it may not carry traffic.
    NoTunnel,
    /// The neighbour's UDP address is not known yet.
    AwaitingContact,
    /// Does not fit the tunnel; answered by ICMP.
    TooBig,
    /// A broadcast copy with DF that does not fit the tunnel.
    TooBigBroadcast,
    /// Larger than a datagram.
    TooBigDatagram,
    /// Datagram without room for a sender's name.
    ShortDatagram,
    /// Datagram of a sender without a tunnel.
    UnknownSender,
    /// Datagram failed authentication or has no room for it.
    Undecryptable,
    /// Datagram number seen before or too old.
    Replayed,
    /// Frames in a datagram are cut short or followed by garbage.
    MalformedDatagram,
    /// The kernel refused to send: larger than the path MTU.
    SendTooBig,
    /// The kernel refused to send for another reason.
    SendFailed,
    /// Writing to the TAP failed.
    InjectFailed,
    /// The tunnel's counter space is used up.
    CounterExhausted,
    /// An event for the control plane found its queue full.
    EventQueueFull,
}

impl DropReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 24] = [
        Self::MalformedFrame,
        Self::SpanningTree,
        Self::LocalDestination,
        Self::Injected,
        Self::UnknownPeer,
        Self::ForeignSpecial,
        Self::OwnOrigin,
        Self::RelayLoop,
        Self::NoRoute,
        Self::NoTunnel,
        Self::AwaitingContact,
        Self::TooBig,
        Self::TooBigBroadcast,
        Self::TooBigDatagram,
        Self::ShortDatagram,
        Self::UnknownSender,
        Self::Undecryptable,
        Self::Replayed,
        Self::MalformedDatagram,
        Self::SendTooBig,
        Self::SendFailed,
        Self::InjectFailed,
        Self::CounterExhausted,
        Self::EventQueueFull,
    ];

    /// A stable word for metrics and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MalformedFrame => "malformed-frame",
            Self::SpanningTree => "spanning-tree",
            Self::LocalDestination => "local-destination",
            Self::Injected => "injected",
            Self::UnknownPeer => "unknown-peer",
            Self::ForeignSpecial => "foreign-special",
            Self::OwnOrigin => "own-origin",
            Self::RelayLoop => "relay-loop",
            Self::NoRoute => "no-route",
            Self::NoTunnel => "no-tunnel",
            Self::AwaitingContact => "awaiting-contact",
            Self::TooBig => "too-big",
            Self::TooBigBroadcast => "too-big-broadcast",
            Self::TooBigDatagram => "too-big-datagram",
            Self::ShortDatagram => "short-datagram",
            Self::UnknownSender => "unknown-sender",
            Self::Undecryptable => "undecryptable",
            Self::Replayed => "replayed",
            Self::MalformedDatagram => "malformed-datagram",
            Self::SendTooBig => "send-too-big",
            Self::SendFailed => "send-failed",
            Self::InjectFailed => "inject-failed",
            Self::CounterExhausted => "counter-exhausted",
            Self::EventQueueFull => "event-queue-full",
        }
    }
}

/// What one thread counts. Others may read at any time.
#[derive(Default)]
pub struct Counters {
    drops: [AtomicU64; DropReason::ALL.len()],
    /// Frames taken from the TAP or out of datagrams, super-frames counted once.
    pub frames_in: AtomicU64,
    /// Writes to the TAP.
    pub frames_injected: AtomicU64,
    /// Datagrams received.
    pub datagrams_in: AtomicU64,
    /// Receive calls that gave datagrams; the kernel merges several into one where it can.
    pub receive_buffers: AtomicU64,
    /// Datagrams that came one by one although they came in trains.
    pub datagrams_unmerged: AtomicU64,
    /// Datagrams sent.
    pub datagrams_out: AtomicU64,
    /// UDP payload bytes received.
    pub bytes_in: AtomicU64,
    /// UDP payload bytes sent.
    pub bytes_out: AtomicU64,
}

impl Counters {
    /// Counts a drop, and logs it whenever its count is a power of two: floods stay readable.
    pub fn count(&self, reason: DropReason) {
        self.count_all(reason, 1);
    }

    /// Counts so many drops for one reason, and logs them whenever their count passes a power of two.
    pub fn count_all(&self, reason: DropReason, drops: u64) {
        let before = self.drops[reason as usize].fetch_add(drops, Relaxed);
        let total = before + drops;
        if total.checked_ilog2() != before.checked_ilog2() {
            tracing::debug!(reason = reason.as_str(), total, "dropped");
        }
    }

    /// Counts datagrams that the kernel took.
    pub fn sent(&self, datagrams: u64, bytes: usize) {
        self.datagrams_out.fetch_add(datagrams, Relaxed);
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    /// Drops for one reason so far.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
