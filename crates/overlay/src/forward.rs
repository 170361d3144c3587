//! Where a frame goes: decisions over a forwarding snapshot, without I/O and without state
//! (spec/sleeve.md 5, 8 and 9). Data-plane threads and the simulator decide with the same functions.
//!
//! A captured frame: `decide_captured`. A frame out of a datagram: `decide_received`. Each copy to a
//! neighbour: `carrier_to`, then `choose_path`.

pub mod capture;
pub mod egress;
pub mod merging;
pub mod program;
pub mod receive;

use std::net::SocketAddr;
use std::sync::Arc;

use wire::PeerName;
use wire::ethernet::{ETHERNET_HEADER_BYTES, EthernetView, MacAddr};
use wire::sleeve::{FrameClass, classify_frame, is_all_zero};

use crate::kind::Lane;
use crate::mac::MacTable;
use crate::sleeve::lane::{SleeveLane, SpecialKind};
use crate::table::{ForwardingTable, Neighbour};

/// Length of an Ethernet header, bytes.
pub const ETHERNET_BYTES: usize = ETHERNET_HEADER_BYTES;

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

/// What to do with a frame captured on our bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Captured<'t> {
    /// Not ours to carry.
    Drop(DropReason),
    /// One copy to this peer, over this neighbour; origin is us.
    Unicast {
        /// Destination in the frame header.
        destination: PeerName,
        /// Neighbour to hand it to.
        next_hop: PeerName,
    },
    /// One copy to each of these neighbours, each being its own copy's destination; origin is us.
    Broadcast(&'t [PeerName]),
}

/// What to do with a frame out of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received<'t> {
    /// Not to be passed on.
    Drop(DropReason),
    /// For the control half.
    Special(SpecialKind),
    /// Hand on, keeping origin and destination.
    Relay {
        /// Neighbour to hand it to.
        next_hop: PeerName,
    },
    /// Inject into our bridge after learning its source address at the origin, and pass a copy to
    /// each of these neighbours, each being its own copy's destination.
    Deliver {
        /// Neighbours that get a copy; empty unless this is a broadcast.
        pass_on: &'t [PeerName],
    },
}

/// Decides about a captured frame by its addresses. The caller then learns `source` at us.
pub fn decide_captured<'t>(
    table: &'t ForwardingTable,
    macs: &MacTable,
    source: MacAddr,
    destination: MacAddr,
) -> Captured<'t> {
    if macs.lookup(source).is_some_and(|peer| peer != table.us) {
        return Captured::Drop(DropReason::Injected);
    }
    if destination == MacAddr::SPANNING_TREE {
        return Captured::Drop(DropReason::SpanningTree);
    }
    match macs.lookup(destination) {
        Some(peer) if peer == table.us => Captured::Drop(DropReason::LocalDestination),
        Some(peer) => match table.routes.unicast.get(&peer) {
            Some(&next_hop) => Captured::Unicast {
                destination: peer,
                next_hop,
            },
            None => Captured::Drop(DropReason::NoRoute),
        },
        None => Captured::Broadcast(table.routes.copies(table.us)),
    }
}

/// Decides about a frame that came in a datagram over `via` with this origin and destination.
pub fn decide_received<'t>(
    table: &'t ForwardingTable,
    macs: &MacTable,
    via: &Neighbour,
    origin: PeerName,
    destination: PeerName,
    frame: &[u8],
) -> Received<'t> {
    let Some(ethernet) = EthernetView::new(frame) else {
        return Received::Drop(DropReason::MalformedFrame);
    };
    if !table.routes.knows(origin) || !table.routes.knows(destination) {
        return Received::Drop(DropReason::UnknownPeer);
    }
    if let Some(special) = classify_special(frame) {
        let is_ours = origin == via.remote && destination == table.us;
        return match special {
            Some(kind) if is_ours => Received::Special(kind),
            _ => Received::Drop(DropReason::ForeignSpecial),
        };
    }
    if origin == table.us {
        return Received::Drop(DropReason::OwnOrigin);
    }
    if destination != table.us {
        return match table.routes.unicast.get(&destination) {
            None => Received::Drop(DropReason::NoRoute),
            Some(&next_hop) if next_hop == via.remote => Received::Drop(DropReason::RelayLoop),
            Some(&next_hop) => Received::Relay { next_hop },
        };
    }
    let is_local = macs.lookup(ethernet.destination()) == Some(table.us);
    Received::Deliver {
        pass_on: if is_local {
            &[]
        } else {
            table.routes.copies(origin)
        },
    }
}

/// `None` for traffic; `Some(None)` for a special frame whose bytes are not all zero as they must be.
fn classify_special(frame: &[u8]) -> Option<Option<SpecialKind>> {
    let zero = |kind| is_all_zero(frame).then_some(kind);
    match classify_frame(frame) {
        FrameClass::Runt | FrameClass::Ordinary => None,
        FrameClass::Heartbeat { connection_uid } => {
            Some(Some(SpecialKind::Heartbeat { connection_uid }))
        }
        FrameClass::FragmentationTest => Some(zero(SpecialKind::FragmentationTest)),
        FrameClass::MtuTest { frame_bytes } => Some(zero(SpecialKind::MtuTest { frame_bytes })),
    }
}

/// A next hop and the lane that carries a frame there now.
#[derive(Debug, Clone, Copy)]
pub struct Carrier<'t> {
    /// The next hop.
    pub neighbour: &'t Arc<Neighbour>,
    /// The chosen lane.
    pub lane: &'t Lane,
    /// Where its datagrams go.
    pub to: SocketAddr,
}

/// The way to a next hop, if it may carry a frame now.
pub fn carrier_to(table: &ForwardingTable, next_hop: PeerName) -> Result<Carrier<'_>, DropReason> {
    let neighbour = table.neighbours.get(&next_hop);
    let neighbour = neighbour.ok_or(DropReason::NoTunnel)?;
    let lane = &**neighbour.carrier().ok_or(DropReason::NoTunnel)?;
    let to = lane.remote_address().ok_or(DropReason::AwaitingContact)?;
    Ok(Carrier {
        neighbour,
        lane,
        to,
    })
}

/// What the IP layer of a frame says about fragmentation (VLAN-tagged frames count as non-IP).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpClass {
    /// IPv4 with the DF bit.
    DontFragment,
    /// IPv4 without it.
    MayFragment,
    /// Anything else.
    NonIp,
}

impl IpClass {
    /// Class of a frame. An IPv4 header that is cut short or malformed counts as non-IP.
    pub fn of(frame: &[u8]) -> Self {
        match EthernetView::new(frame).and_then(EthernetView::ipv4) {
            Some(ip) if ip.dont_fragment() => Self::DontFragment,
            Some(_) => Self::MayFragment,
            None => Self::NonIp,
        }
    }
}

/// How one copy of a frame travels (spec/sleeve.md 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// In a DF datagram.
    Df,
    /// In a datagram the network may fragment.
    NonDf,
    /// As IP fragments of our own making, each in a DF datagram.
    Fragment,
    /// Dropped, and ICMP "fragmentation needed" goes back.
    AnswerTooBig,
    /// Dropped.
    Drop(DropReason),
}

/// Chooses the path of a frame of `frame_bytes` over `lane`.
pub fn choose_path(class: IpClass, frame_bytes: usize, lane: &SleeveLane, is_copy: bool) -> Path {
    let fits = frame_bytes <= lane.mtu_bytes.saturating_add(ETHERNET_BYTES);
    match class {
        IpClass::DontFragment if fits => Path::Df,
        IpClass::DontFragment if is_copy => Path::Drop(DropReason::TooBigBroadcast),
        IpClass::DontFragment => Path::AnswerTooBig,
        IpClass::NonIp => Path::NonDf,
        IpClass::MayFragment if lane.stack_frag => Path::NonDf,
        IpClass::MayFragment if fits => Path::Df,
        IpClass::MayFragment => Path::Fragment,
    }
}

#[cfg(test)]
mod tests;
