//! How one copy of a frame travels, by what it says about fragmentation and what fits the tunnel
//! (spec/sleeve.md 8).

use wire::ethernet::{ETHERNET_HEADER_BYTES as ETHERNET_BYTES, EthernetView};

use crate::frame::counters::DropReason;

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

/// What fits a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest overlay IP packet, bytes (frame length minus 14).
    pub mtu_bytes: usize,
    /// Whether datagrams that the network fragments were seen to arrive.
    pub may_be_fragmented: bool,
}

/// Chooses the path of a frame of `frame_bytes` through a tunnel.
pub fn choose_path(class: IpClass, frame_bytes: usize, limits: Limits, is_copy: bool) -> Path {
    let fits = frame_bytes <= limits.mtu_bytes.saturating_add(ETHERNET_BYTES);
    match class {
        IpClass::DontFragment if fits => Path::Df,
        IpClass::DontFragment if is_copy => Path::Drop(DropReason::TooBigBroadcast),
        IpClass::DontFragment => Path::AnswerTooBig,
        IpClass::NonIp => Path::NonDf,
        IpClass::MayFragment if limits.may_be_fragmented => Path::NonDf,
        IpClass::MayFragment if fits => Path::Df,
        IpClass::MayFragment => Path::Fragment,
    }
}
