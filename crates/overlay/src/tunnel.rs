//! What the control machines of all kinds of tunnel have in common: what they are told about their
//! connection and what they ask for. Knows no kind; each kind's machine stands on this, and the
//! switch on the machines.

use std::net::{IpAddr, SocketAddr};

use crate::protection::Protection;

/// What a tunnel needs to know about its connection.
#[derive(Debug, Clone)]
pub struct TunnelConfig {
    /// For log lines: `name(nick)` of the remote.
    pub remote_label: String,
    /// TCP address of the remote; where datagrams go if we dialled.
    pub remote_address: SocketAddr,
    /// Whether we dialled.
    pub outbound: bool,
    /// Connection UID; a heartbeat must carry it.
    pub uid: u64,
    /// How datagrams are sealed.
    pub protection: Protection,
}

/// What a tunnel's control machine wants done or known, in order. `P` is what its kind sends over
/// its lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelOutput<P> {
    /// Send a control message to the other end's machine.
    Control {
        /// The kind's own tag.
        tag: u8,
        /// Body.
        body: Vec<u8>,
    },
    /// Send this over the lane.
    Probe(P),
    /// The far end hears us; said once and never withdrawn.
    Established,
    /// It cannot carry traffic for now.
    OnHold,
    /// It can again.
    Released,
    /// Its lane changed: publish before later probes.
    Changed,
    /// Dead for good, and why; nothing follows.
    Failed(String),
}

impl<P> TunnelOutput<P> {
    /// The same with what is sent seen as something else.
    pub fn map_probe<Q>(self, map: impl FnOnce(P) -> Q) -> TunnelOutput<Q> {
        match self {
            Self::Control { tag, body } => TunnelOutput::Control { tag, body },
            Self::Probe(probe) => TunnelOutput::Probe(map(probe)),
            Self::Established => TunnelOutput::Established,
            Self::OnHold => TunnelOutput::OnHold,
            Self::Released => TunnelOutput::Released,
            Self::Changed => TunnelOutput::Changed,
            Self::Failed(why) => TunnelOutput::Failed(why),
        }
    }
}

/// Why a kind of tunnel cannot be had for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Nobody has built its machine.
    #[error("not part of this build")]
    NotBuilt,
    /// The kind needs IPv4.
    #[error("IP address {0} is not IPv4")]
    NotIpv4(IpAddr),
}

/// What happens to tunnels of any kind, for those who tell of it without knowing the kind. A kind
/// takes what it has a word for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// A heartbeat arrived.
    Heartbeat {
        /// Connection UID it carried.
        connection_uid: u64,
    },
    /// A frame arrived that the network may have fragmented.
    FragmentationTest,
    /// A test of the path's MTU arrived.
    MtuTest {
        /// Whole frame length.
        frame_bytes: usize,
    },
    /// A datagram that must not be fragmented was refused.
    TooBig {
        /// The kernel's path MTU towards the peer: bytes of IP packet, header included.
        path_mtu_bytes: usize,
    },
    /// The lane cannot send any more, ever.
    Exhausted,
}
