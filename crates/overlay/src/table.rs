//! What the control plane publishes to the data plane, and what comes back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use nacl::SessionKey;
use wire::{LinkId, PeerName};

/// Immutable snapshot the data plane forwards by (design D3).
///
/// Invariant: every next hop named in `unicast` or `broadcast` that is reachable by a tunnel has an
/// entry in `tunnels`; a hop without one is dropped and counted.
#[derive(Debug, Clone, Default)]
pub struct ForwardingTable {
    /// Our own name.
    pub us: PeerName,
    /// All peers known; frames from or to others are ignored.
    pub peers: Vec<PeerName>,
    /// One usable tunnel per neighbour, by the neighbour's name.
    pub tunnels: BTreeMap<PeerName, Arc<Tunnel>>,
    /// Destination to next hop over established symmetric connections (spec/mesh.md 12.1).
    pub unicast: BTreeMap<PeerName, PeerName>,
    /// Origin to the neighbours that get a copy (spec/mesh.md 12.2), established and symmetric.
    pub broadcast: BTreeMap<PeerName, Vec<PeerName>>,
}

/// What seals the datagrams of a connection. Links are always sealed as the original does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cipher {
    /// XSalsa20-Poly1305, the original's (spec/sleeve.md 3).
    #[default]
    Secretbox,
    /// AES-256-GCM, between two Wefts that both announce [`Cipher::AES_GCM_WORD`]
    /// (docs/sleeve-cipher.md).
    AesGcm,
}

impl Cipher {
    /// Capability word of a Weft that wants datagrams sealed by AES-256-GCM.
    pub const AES_GCM_WORD: &str = "aes-gcm";

    /// Name for `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Secretbox => "xsalsa20-poly1305",
            Self::AesGcm => "aes-256-gcm",
        }
    }
}

/// How to reach one neighbour by sleeve.
#[derive(Clone)]
pub struct Tunnel {
    /// Its connection; counters and replay windows are kept per link.
    pub link: LinkId,
    /// The neighbour.
    pub remote: PeerName,
    /// Session key, or `None` when the data plane is in clear (no password, or mutually trusted).
    pub key: Option<Arc<SessionKey>>,
    /// Which cipher the key is for.
    pub cipher: Cipher,
    /// Whether we dialled the connection: bit 7 of the nonce of what we send, or under AES-256-GCM
    /// which keys are ours.
    pub outbound: bool,
    /// Where datagrams go, once known (inbound connections learn it from the first heartbeat).
    pub remote_address: Option<SocketAddr>,
    /// Whether frames may be forwarded here (the switch's choice); specials are sent regardless.
    pub carries_traffic: bool,
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

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel")
            .field("link", &self.link)
            .field("remote", &self.remote)
            .field("encrypted", &self.key.is_some())
            .field("remote_address", &self.remote_address)
            .field("mtu_bytes", &self.mtu_bytes)
            .finish_non_exhaustive()
    }
}

/// A special frame the control half wants sent (spec/sleeve.md 5). Goes out even when the tunnel
/// does not carry traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Over which tunnel. The data plane must know it from a snapshot published before the probe.
    pub link: LinkId,
    /// What to send.
    pub kind: ProbeKind,
}

/// Kinds of special frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
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

/// What the data plane tells the control half. Special frames are reported only after the datagram
/// was authenticated, passed the replay window, and had origin = the neighbour, destination = us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelEvent {
    /// A special frame arrived.
    Special {
        /// The tunnel it belongs to.
        link: LinkId,
        /// Source address of the datagram.
        from: SocketAddr,
        /// What it was.
        kind: SpecialKind,
    },
    /// A DF send was refused: the kernel's path MTU towards the peer, bytes of IP packet.
    TooBig {
        /// The tunnel.
        link: LinkId,
        /// Path MTU in bytes, IP header included.
        path_mtu_bytes: usize,
    },
    /// A tunnel used up a counter space; its link must be closed.
    CounterExhausted {
        /// The tunnel.
        link: LinkId,
    },
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
