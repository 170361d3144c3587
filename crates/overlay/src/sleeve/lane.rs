//! What the two halves of sleeve tell each other: how to reach a neighbour, what special frames to
//! send, what came of it (spec/sleeve.md 5).

use std::net::SocketAddr;

use wire::sleeve::{FRAGMENTATION_TEST_BYTES, HEARTBEAT_BYTES};

use crate::protection::Protection;
use crate::tunnel::Signal;

/// How to reach one neighbour by sleeve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SleeveLane {
    /// How datagrams are sealed.
    pub protection: Protection,
    /// Whether we dialled the connection: bit 7 of the nonce of what we send, or under AES-256-GCM
    /// which keys are ours.
    pub outbound: bool,
    /// Where datagrams go, once known (inbound connections learn it from the first heartbeat).
    pub remote_address: Option<SocketAddr>,
    /// Largest overlay IP packet, bytes (frame length minus 14).
    pub mtu_bytes: usize,
    /// Largest UDP payload of a DF datagram, bytes.
    pub max_payload_bytes: usize,
    /// Whether the path was seen to carry more than the kernel believes: DF datagrams then heed
    /// only the interface's MTU.
    pub exceeds_kernel_mtu: bool,
    /// Whether IP fragmentation was seen to work end to end.
    pub stack_frag: bool,
}

/// Special frames to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SleeveProbe {
    /// 22 bytes: 14 zeros and the connection UID; DF.
    Heartbeat {
        /// Connection UID.
        connection_uid: u64,
    },
    /// 60001 zero bytes; not DF.
    FragmentationTest,
    /// `frame_bytes` zero bytes in all (60000 for the discovery probe, else candidate MTU + 14); DF.
    MtuTest {
        /// Whole frame length.
        frame_bytes: usize,
    },
}

impl SleeveProbe {
    /// What it is at the far end.
    pub const fn arrives_as(self) -> SpecialKind {
        match self {
            Self::Heartbeat { connection_uid } => SpecialKind::Heartbeat { connection_uid },
            Self::FragmentationTest => SpecialKind::FragmentationTest,
            Self::MtuTest { frame_bytes } => SpecialKind::MtuTest { frame_bytes },
        }
    }

    /// The connection it names, if it is a heartbeat.
    pub const fn connection_uid(self) -> Option<u64> {
        match self {
            Self::Heartbeat { connection_uid } => Some(connection_uid),
            Self::FragmentationTest | Self::MtuTest { .. } => None,
        }
    }

    /// Length of its frame.
    pub const fn frame_bytes(self) -> usize {
        match self {
            Self::Heartbeat { .. } => HEARTBEAT_BYTES,
            Self::FragmentationTest => FRAGMENTATION_TEST_BYTES,
            Self::MtuTest { frame_bytes } => frame_bytes,
        }
    }

    /// Whether the network may fragment it.
    pub const fn may_be_fragmented(self) -> bool {
        matches!(self, Self::FragmentationTest)
    }
}

/// What the data plane reports. Special frames are reported only after the datagram was
/// authenticated, passed the replay window, and had origin = the neighbour, destination = us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SleeveEvent {
    /// A special frame arrived.
    Special {
        /// Source address of the datagram.
        from: SocketAddr,
        /// What it was.
        kind: SpecialKind,
    },
    /// A DF send was refused.
    TooBig {
        /// The kernel's path MTU towards the peer: bytes of IP packet, header included.
        path_mtu_bytes: usize,
    },
    /// A counter space is used up; the link must be closed.
    CounterExhausted,
}

impl SleeveEvent {
    /// What a signal is here. What arrives comes from this address.
    pub const fn of(signal: Signal, from: SocketAddr) -> Self {
        let kind = match signal {
            Signal::Heartbeat { connection_uid } => SpecialKind::Heartbeat { connection_uid },
            Signal::FragmentationTest => SpecialKind::FragmentationTest,
            Signal::MtuTest { frame_bytes } => SpecialKind::MtuTest { frame_bytes },
            Signal::TooBig { path_mtu_bytes } => return Self::TooBig { path_mtu_bytes },
            Signal::Exhausted => return Self::CounterExhausted,
        };
        Self::Special { from, kind }
    }
}

/// Received special frames, told apart by length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialKind {
    /// 22 bytes.
    Heartbeat {
        /// Connection UID it carried.
        connection_uid: u64,
    },
    /// 60001 bytes, all zero.
    FragmentationTest,
    /// Any other length, all zero.
    MtuTest {
        /// Whole frame length.
        frame_bytes: usize,
    },
}
