//! Read-only views of the headers inside a frame: Ethernet, IPv4, IPv6, TCP, UDP; and the Internet
//! checksum (RFC 1071).
//!
//! A view is made from bytes once, with all lengths checked; its accessors then cannot fail. Views
//! check lengths, not meaning: checksums, TTLs and flags are the caller's business.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::str::FromStr;

use crate::quote::{clipped, quote};

/// Bytes of an Ethernet header, without VLAN tags.
pub const ETHERNET_HEADER_BYTES: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4_HEADER_BYTES: usize = 20;
/// Bytes of an IPv6 header without extension headers.
pub const IPV6_HEADER_BYTES: usize = 40;
/// Bytes of a TCP header without options.
pub const TCP_HEADER_BYTES: usize = 20;
/// Bytes of a UDP header.
pub const UDP_HEADER_BYTES: usize = 8;

/// Values of the Ethernet type field.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// A VLAN tag follows.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// Values of the IP protocol field.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
}

/// Bits of the TCP flags byte.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// ECN echo.
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced.
    pub const CWR: u8 = 0x80;
}

/// An Ethernet address, of 48 bits; peer names have this form as well.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All ones.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// All zeros.
    pub const ZERO: Self = Self([0; 6]);
    /// Where bridges send spanning tree frames; never forwarded.
    pub const SPANNING_TREE: Self = Self([0x01, 0x80, 0xc2, 0, 0, 0]);

    /// Turns six arbitrary bytes into a locally administered unicast address.
    pub const fn local_unicast(mut bytes: [u8; 6]) -> Self {
        bytes[0] = bytes[0] & 0xfe | 0x02;
        Self(bytes)
    }

    /// Whether this is the broadcast address.
    #[inline]
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// Whether this is a group address: multicast or broadcast.
    #[inline]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this is a multicast address other than broadcast.
    #[inline]
    pub fn is_multicast(self) -> bool {
        self.is_group() && !self.is_broadcast()
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six pairs of hexadecimal digits; holds its beginning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid MAC address: {}", quote(.0))]
pub struct ParseMacAddrError(pub String);

impl FromStr for MacAddr {
    type Err = ParseMacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseMacAddrError(clipped(text));
        let mut bytes = [0; 6];
        let mut parts = text.trim().split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            Err(bad())
        } else {
            Ok(Self(bytes))
        }
    }
}

/// The `N` bytes at `at` of a slice a view has checked.
#[inline]
fn chunk<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

#[inline]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(chunk(bytes, at))
}

#[inline]
fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(chunk(bytes, at))
}

/// An Ethernet frame.
#[derive(Debug, Clone, Copy)]
pub struct EthernetView<'a>(&'a [u8]);

impl<'a> EthernetView<'a> {
    /// A view of `frame`; `None` when it is shorter than the header.
    #[inline]
    pub fn new(frame: &'a [u8]) -> Option<Self> {
        (frame.len() >= ETHERNET_HEADER_BYTES).then_some(Self(frame))
    }

    /// Destination address.
    #[inline]
    pub fn destination(self) -> MacAddr {
        MacAddr(chunk(self.0, 0))
    }

    /// Source address.
    #[inline]
    pub fn source(self) -> MacAddr {
        MacAddr(chunk(self.0, 6))
    }

    /// Type, or length if below 1536.
    #[inline]
    pub fn ethertype(self) -> u16 {
        be16(self.0, 12)
    }

    /// What follows the header.
    #[inline]
    pub fn payload(self) -> &'a [u8] {
        &self.0[ETHERNET_HEADER_BYTES..]
    }

    /// The IPv4 packet inside, if the type says so and its header is sound.
    #[inline]
    pub fn ipv4(self) -> Option<Ipv4View<'a>> {
        if self.ethertype() == ethertype::IPV4 {
            Ipv4View::new(self.payload())
        } else {
            None
        }
    }

    /// The IPv6 packet inside, if the type says so and its header is sound.
    #[inline]
    pub fn ipv6(self) -> Option<Ipv6View<'a>> {
        if self.ethertype() == ethertype::IPV6 {
            Ipv6View::new(self.payload())
        } else {
            None
        }
    }
}

/// An IPv4 packet, possibly followed by Ethernet padding or cut short.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4View<'a>(&'a [u8]);

impl<'a> Ipv4View<'a> {
    /// A view of `packet`; `None` unless it starts with a complete version 4 header, options
    /// included, whose total length covers the header.
    #[inline]
    pub fn new(packet: &'a [u8]) -> Option<Self> {
        if packet.len() < IPV4_HEADER_BYTES || packet[0] >> 4 != 4 {
            return None;
        }
        let view = Self(packet);
        let header = view.header_bytes();
        let sound = header >= IPV4_HEADER_BYTES
            && header <= packet.len()
            && usize::from(view.total_bytes()) >= header;
        sound.then_some(view)
    }

    /// Length of the header, options included.
    #[inline]
    pub fn header_bytes(self) -> usize {
        usize::from(self.0[0] & 0xf) * 4
    }

    /// The header, options included.
    #[inline]
    pub fn header(self) -> &'a [u8] {
        &self.0[..self.header_bytes()]
    }

    /// Type of service.
    #[inline]
    pub fn tos(self) -> u8 {
        self.0[1]
    }

    /// Length of the packet as its header gives it; a packet cut short or a super-packet may
    /// differ.
    #[inline]
    pub fn total_bytes(self) -> u16 {
        be16(self.0, 2)
    }

    /// Identification.
    #[inline]
    pub fn id(self) -> u16 {
        be16(self.0, 4)
    }

    /// Whether "don't fragment" is set.
    #[inline]
    pub fn dont_fragment(self) -> bool {
        self.0[6] & 0x40 != 0
    }

    /// Whether more fragments follow.
    #[inline]
    pub fn more_fragments(self) -> bool {
        self.0[6] & 0x20 != 0
    }

    /// Fragment offset, units of eight bytes.
    #[inline]
    pub fn fragment_offset(self) -> u16 {
        be16(self.0, 6) & 0x1fff
    }

    /// Whether this is one piece of a fragmented packet.
    #[inline]
    pub fn is_fragment(self) -> bool {
        be16(self.0, 6) & 0x3fff != 0
    }

    /// Time to live.
    #[inline]
    pub fn ttl(self) -> u8 {
        self.0[8]
    }

    /// Protocol of the payload.
    #[inline]
    pub fn protocol(self) -> u8 {
        self.0[9]
    }

    /// Header checksum as received.
    #[inline]
    pub fn checksum(self) -> u16 {
        be16(self.0, 10)
    }

    /// Source address.
    #[inline]
    pub fn source(self) -> Ipv4Addr {
        Ipv4Addr::from(chunk::<4>(self.0, 12))
    }

    /// Destination address.
    #[inline]
    pub fn destination(self) -> Ipv4Addr {
        Ipv4Addr::from(chunk::<4>(self.0, 16))
    }

    /// What follows the header, without padding beyond the total length.
    #[inline]
    pub fn payload(self) -> &'a [u8] {
        let end = usize::from(self.total_bytes()).min(self.0.len());
        &self.0[self.header_bytes()..end]
    }

    /// Sum of the pseudo header of a payload of `payload_bytes`, to start a TCP or UDP checksum.
    #[inline]
    pub fn pseudo_header_sum(self, payload_bytes: usize) -> u64 {
        sum(&self.0[12..20]) + u64::from(self.protocol()) + payload_bytes as u64
    }
}

/// An IPv6 packet, possibly followed by Ethernet padding or cut short.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6View<'a>(&'a [u8]);

impl<'a> Ipv6View<'a> {
    /// A view of `packet`; `None` unless it starts with a complete version 6 header.
    #[inline]
    pub fn new(packet: &'a [u8]) -> Option<Self> {
        (packet.len() >= IPV6_HEADER_BYTES && packet[0] >> 4 == 6).then_some(Self(packet))
    }

    /// Version, traffic class and flow label.
    #[inline]
    pub fn version_class_flow(self) -> u32 {
        be32(self.0, 0)
    }

    /// Length of what follows the header, as the header gives it.
    #[inline]
    pub fn payload_bytes(self) -> u16 {
        be16(self.0, 4)
    }

    /// Type of what follows; extension headers are not skipped.
    #[inline]
    pub fn next_header(self) -> u8 {
        self.0[6]
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(self) -> u8 {
        self.0[7]
    }

    /// Source address.
    #[inline]
    pub fn source(self) -> Ipv6Addr {
        Ipv6Addr::from(chunk::<16>(self.0, 8))
    }

    /// Destination address.
    #[inline]
    pub fn destination(self) -> Ipv6Addr {
        Ipv6Addr::from(chunk::<16>(self.0, 24))
    }

    /// What follows the header, without padding beyond the length the header gives.
    #[inline]
    pub fn payload(self) -> &'a [u8] {
        let end = (IPV6_HEADER_BYTES + usize::from(self.payload_bytes())).min(self.0.len());
        &self.0[IPV6_HEADER_BYTES..end]
    }

    /// Sum of the pseudo header of an upper-layer packet, to start a TCP or UDP checksum.
    #[inline]
    pub fn pseudo_header_sum(self, payload_bytes: usize) -> u64 {
        sum(&self.0[8..40]) + u64::from(self.next_header()) + payload_bytes as u64
    }
}

/// A TCP segment.
#[derive(Debug, Clone, Copy)]
pub struct TcpView<'a>(&'a [u8]);

impl<'a> TcpView<'a> {
    /// A view of `segment`; `None` unless it starts with a complete header, options included.
    #[inline]
    pub fn new(segment: &'a [u8]) -> Option<Self> {
        if segment.len() < TCP_HEADER_BYTES {
            return None;
        }
        let view = Self(segment);
        (TCP_HEADER_BYTES..=segment.len())
            .contains(&view.header_bytes())
            .then_some(view)
    }

    /// Source port.
    #[inline]
    pub fn source_port(self) -> u16 {
        be16(self.0, 0)
    }

    /// Destination port.
    #[inline]
    pub fn destination_port(self) -> u16 {
        be16(self.0, 2)
    }

    /// Sequence number.
    #[inline]
    pub fn sequence(self) -> u32 {
        be32(self.0, 4)
    }

    /// Acknowledgement number.
    #[inline]
    pub fn acknowledgement(self) -> u32 {
        be32(self.0, 8)
    }

    /// Length of the header, options included.
    #[inline]
    pub fn header_bytes(self) -> usize {
        usize::from(self.0[12] >> 4) * 4
    }

    /// Flags; see [`tcp_flag`].
    #[inline]
    pub fn flags(self) -> u8 {
        self.0[13]
    }

    /// Window.
    #[inline]
    pub fn window(self) -> u16 {
        be16(self.0, 14)
    }

    /// Checksum as received.
    #[inline]
    pub fn checksum(self) -> u16 {
        be16(self.0, 16)
    }

    /// Options, as bytes.
    #[inline]
    pub fn options(self) -> &'a [u8] {
        &self.0[TCP_HEADER_BYTES..self.header_bytes()]
    }

    /// What follows the header.
    #[inline]
    pub fn payload(self) -> &'a [u8] {
        &self.0[self.header_bytes()..]
    }
}

/// A UDP datagram.
#[derive(Debug, Clone, Copy)]
pub struct UdpView<'a>(&'a [u8]);

impl<'a> UdpView<'a> {
    /// A view of `datagram`; `None` when it is shorter than the header.
    #[inline]
    pub fn new(datagram: &'a [u8]) -> Option<Self> {
        (datagram.len() >= UDP_HEADER_BYTES).then_some(Self(datagram))
    }

    /// Source port.
    #[inline]
    pub fn source_port(self) -> u16 {
        be16(self.0, 0)
    }

    /// Destination port.
    #[inline]
    pub fn destination_port(self) -> u16 {
        be16(self.0, 2)
    }

    /// Length of header and payload as the header gives it.
    #[inline]
    pub fn length_bytes(self) -> u16 {
        be16(self.0, 4)
    }

    /// Checksum as received; 0 means none.
    #[inline]
    pub fn checksum(self) -> u16 {
        be16(self.0, 6)
    }

    /// What follows the header.
    #[inline]
    pub fn payload(self) -> &'a [u8] {
        &self.0[UDP_HEADER_BYTES..]
    }
}

/// Unfolded sum of `bytes` as big-endian 16-bit words, a last odd byte padded with zero. Sums of
/// pieces that each start at an even offset may be added before [`fold`].
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    // Words are added eight bytes at a time in native order; the sum does not care about byte
    // order until it is folded (RFC 1071 2 B).
    let (chunks, tail) = bytes.as_chunks::<8>();
    let mut total = 0_u64;
    for chunk in chunks {
        let word = u64::from_ne_bytes(*chunk);
        total += (word & 0xffff_ffff) + (word >> 32);
    }
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    let word = u64::from_ne_bytes(last);
    total += (word & 0xffff_ffff) + (word >> 32);
    u64::from(u16::from_be(folded(total)))
}

/// The Internet checksum of an accumulated [`sum`].
#[inline]
pub const fn fold(sum: u64) -> u16 {
    !folded(sum)
}

/// The Internet checksum of `bytes`.
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    fold(sum(bytes))
}

#[inline]
const fn folded(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let [.., high, low] = sum.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// Where the checksum of a transport header stands, relative to its start.
pub const TCP_CHECKSUM: Range<usize> = 16..18;
/// See [`TCP_CHECKSUM`].
pub const UDP_CHECKSUM: Range<usize> = 6..8;
/// Where the checksum of an IPv4 header stands.
pub const IPV4_CHECKSUM: Range<usize> = 10..12;
