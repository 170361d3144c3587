//! Merging consecutive frames of one TCP or UDP flow into a super-frame for the kernel: the reverse
//! of `segment`, by the rules of generic receive offload.
//!
//! Frames stay where they are, in the caller's receive buffer (the *arena*); a super-frame is a list
//! of ranges: first frame, then payloads. Only headers of the first are rewritten. A frame whose
//! checksum is wrong, or that differs in anything but what segmentation makes differ, goes out
//! alone and untouched. Order within a flow is kept.

use std::ops::Range;

use wire::ethernet::{
    ETHERNET_HEADER_BYTES, EthernetView, TcpView, UdpView, fold, protocol, sum, tcp_flag,
};

use crate::frame::segment::{Gso, NEEDS_CHECKSUM, VnetHeader, to_u16};

/// Flows open for merging at the same time; more make the oldest go out earlier.
const FLOWS: usize = 8;
/// Frames merged at most: what kernels accept for UDP.
pub const PARTS_MAX: usize = 64;
/// Largest merged frame, bytes. Below the `gso_max_size` of container interfaces, or the kernel
/// would cut it again in software.
const MERGED_BYTES_MAX: usize = 60_200;

/// What two frames of one flow have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct FlowKey {
    source: [u8; 16],
    destination: [u8; 16],
    ports: [u8; 4],
    protocol: u8,
    is_ipv4: bool,
}

/// A TCP or UDP frame that is not an IP fragment. Offsets are from the start of the frame.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    key: FlowKey,
    transport: usize,
    headers: usize,
    /// Payload bytes.
    payload: usize,
    sequence: u32,
    id: u16,
    /// Ends a super-frame.
    is_push: bool,
    is_mergeable: bool,
}

impl Candidate {
    fn parse(frame: &[u8], merge_udp: bool) -> Option<Self> {
        let ethernet = EthernetView::new(frame)?;
        if let Some(ip) = ethernet.ipv4() {
            if ip.is_fragment() {
                return None;
            }
            let mut key = FlowKey {
                is_ipv4: true,
                protocol: ip.protocol(),
                ..FlowKey::default()
            };
            key.source[..4].copy_from_slice(&ip.source().octets());
            key.destination[..4].copy_from_slice(&ip.destination().octets());
            let transport = ETHERNET_HEADER_BYTES + ip.header_bytes();
            let pseudo = |bytes| ip.pseudo_header_sum(bytes);
            let mut found = Self::transport(frame, transport, key, merge_udp, pseudo)?;
            found.id = ip.id();
            let is_exact = usize::from(ip.total_bytes()) == ethernet.payload().len();
            let is_sound = ip.header_bytes() == 20 && is_exact && fold(sum(ip.header())) == 0;
            found.is_mergeable &= is_sound;
            Some(found)
        } else {
            let ip = ethernet.ipv6()?;
            let mut key = FlowKey {
                protocol: ip.next_header(),
                ..FlowKey::default()
            };
            key.source = ip.source().octets();
            key.destination = ip.destination().octets();
            let transport = ETHERNET_HEADER_BYTES + 40;
            let pseudo = |bytes| ip.pseudo_header_sum(bytes);
            let mut found = Self::transport(frame, transport, key, merge_udp, pseudo)?;
            found.is_mergeable &= usize::from(ip.payload_bytes()) + 40 == ethernet.payload().len();
            Some(found)
        }
    }

    fn transport(
        frame: &[u8],
        transport: usize,
        mut key: FlowKey,
        merge_udp: bool,
        pseudo: impl Fn(usize) -> u64,
    ) -> Option<Self> {
        let bytes = frame.get(transport..)?;
        let is_valid = || fold(pseudo(bytes.len()) + sum(bytes)) == 0;
        let mut found = match key.protocol {
            protocol::TCP => {
                let tcp = TcpView::new(bytes)?;
                let plain = tcp.flags() & !(tcp_flag::PSH | tcp_flag::ECE) == tcp_flag::ACK;
                let headers = transport + tcp.header_bytes();
                Self {
                    key,
                    transport,
                    headers,
                    payload: frame.len() - headers,
                    sequence: tcp.sequence(),
                    id: 0,
                    is_push: tcp.flags() & tcp_flag::PSH != 0,
                    is_mergeable: plain && frame.len() > headers && is_valid(),
                }
            }
            protocol::UDP => {
                let udp = UdpView::new(bytes)?;
                let is_exact = usize::from(udp.length_bytes()) == bytes.len() && bytes.len() > 8;
                Self {
                    key,
                    transport,
                    headers: transport + 8,
                    payload: bytes.len() - 8,
                    sequence: 0,
                    id: 0,
                    is_push: false,
                    is_mergeable: merge_udp && is_exact && udp.checksum() != 0 && is_valid(),
                }
            }
            _ => return None,
        };
        key.ports.copy_from_slice(&bytes[..4]);
        found.key = key;
        Some(found)
    }
}

/// A super-frame under construction.
#[derive(Debug)]
struct Flow {
    first: Candidate,
    /// The first frame whole, then payloads; ranges of the arena.
    parts: Vec<Range<usize>>,
    bytes: usize,
    next_sequence: u32,
    last_id: u16,
    age: u64,
}

/// Collects frames of one batch; everything is out after `flush`.
#[derive(Debug)]
pub struct Merger {
    flows: Vec<Flow>,
    /// Part lists of finished flows, kept for the next ones.
    spare: Vec<Vec<Range<usize>>>,
    merge_udp: bool,
    clock: u64,
}

/// Receives merged and single frames: header, arena, ranges.
pub trait Inject: FnMut(&VnetHeader, &[u8], &[Range<usize>]) {}
impl<F: FnMut(&VnetHeader, &[u8], &[Range<usize>])> Inject for F {}

impl Merger {
    /// An empty merger. `merge_udp`: the device takes UDP super-frames.
    pub fn new(merge_udp: bool) -> Self {
        let spare = (0..FLOWS).map(|_| Vec::with_capacity(PARTS_MAX)).collect();
        Self {
            flows: Vec::with_capacity(FLOWS),
            spare,
            merge_udp,
            clock: 0,
        }
    }

    /// Takes the frame at `range` of the arena. Its bytes must stay there until `flush`.
    pub fn push(&mut self, arena: &mut [u8], range: Range<usize>, inject: &mut impl Inject) {
        let frame = &arena[range.clone()];
        let Some(candidate) = Candidate::parse(frame, self.merge_udp) else {
            return inject(&VnetHeader::default(), arena, &[range]);
        };
        if let Some(index) = self
            .flows
            .iter()
            .position(|flow| flow.first.key == candidate.key)
        {
            let flow = &mut self.flows[index];
            if candidate.is_mergeable && flow.accepts(arena, &candidate, range.start) {
                if flow.append(&candidate, range) {
                    self.emit(index, arena, inject);
                }
                return;
            }
            self.emit(index, arena, inject);
        }
        if !candidate.is_mergeable || candidate.is_push {
            return inject(&VnetHeader::default(), arena, &[range]);
        }
        if self.flows.len() == FLOWS {
            let oldest = (0..FLOWS).min_by_key(|&i| self.flows[i].age).unwrap_or(0);
            self.emit(oldest, arena, inject);
        }
        let mut parts = self.spare.pop().unwrap_or_default();
        let bytes = range.len();
        parts.push(range);
        self.clock += 1;
        self.flows.push(Flow {
            first: candidate,
            parts,
            bytes,
            next_sequence: candidate.sequence.wrapping_add(low32(candidate.payload)),
            last_id: candidate.id,
            age: self.clock,
        });
    }

    /// Hands out everything held back.
    pub fn flush(&mut self, arena: &mut [u8], inject: &mut impl Inject) {
        while !self.flows.is_empty() {
            self.emit(0, arena, inject);
        }
    }

    fn emit(&mut self, index: usize, arena: &mut [u8], inject: &mut impl Inject) {
        let mut flow = self.flows.remove(index);
        let header = if flow.parts.len() == 1 {
            VnetHeader::default()
        } else {
            flow.complete(arena)
        };
        inject(&header, arena, &flow.parts);
        flow.parts.clear();
        self.spare.push(flow.parts);
    }
}

impl Flow {
    /// Whether `next`, whose frame starts at `start`, continues this flow as segmentation would.
    fn accepts(&self, arena: &[u8], next: &Candidate, start: usize) -> bool {
        let first = &self.first;
        if next.headers != first.headers
            || next.transport != first.transport
            || next.payload > first.payload
            || self.bytes + next.payload > MERGED_BYTES_MAX
        {
            return false;
        }
        let a = &arena[self.parts[0].start..][..first.headers];
        let b = &arena[start..][..first.headers];
        let is_network_same = if first.key.is_ipv4 {
            let follows = next.id == self.last_id.wrapping_add(1);
            let is_fixed = next.id == self.last_id && a[20] & 0x40 != 0;
            (follows || is_fixed) && a[..16] == b[..16] && a[20..24] == b[20..24]
        } else {
            a[..18] == b[..18] && a[20..22] == b[20..22]
        };
        let (a, b) = (&a[first.transport..], &b[first.transport..]);
        let is_transport_same = first.key.protocol == protocol::UDP
            || (next.sequence == self.next_sequence
                && a[8..13] == b[8..13]
                && a[13] & !tcp_flag::PSH == b[13] & !tcp_flag::PSH
                && a[14..16] == b[14..16]
                && a[18..] == b[18..]);
        is_network_same && is_transport_same
    }

    /// Adds a frame `accepts` agreed to; true when nothing can follow it.
    fn append(&mut self, next: &Candidate, range: Range<usize>) -> bool {
        self.parts.push(range.start + next.headers..range.end);
        self.bytes += next.payload;
        self.next_sequence = self.next_sequence.wrapping_add(low32(next.payload));
        self.last_id = next.id;
        self.first.is_push |= next.is_push;
        next.is_push || next.payload < self.first.payload || self.parts.len() == PARTS_MAX
    }

    /// Rewrites the first frame's headers for the whole and describes it to the kernel.
    fn complete(&self, arena: &mut [u8]) -> VnetHeader {
        let first = &self.first;
        let headers = &mut arena[self.parts[0].start..][..first.headers];
        let ip_bytes = self.bytes - ETHERNET_HEADER_BYTES;
        let (ip, transport) =
            headers[ETHERNET_HEADER_BYTES..].split_at_mut(first.transport - ETHERNET_HEADER_BYTES);
        let transport_bytes = self.bytes - first.transport;
        let addresses = if first.key.is_ipv4 {
            ip[2..4].copy_from_slice(&to_u16(ip_bytes).to_be_bytes());
            ip[10..12].fill(0);
            let check = fold(sum(ip));
            ip[10..12].copy_from_slice(&check.to_be_bytes());
            &ip[12..20]
        } else {
            ip[4..6].copy_from_slice(&to_u16(ip_bytes - 40).to_be_bytes());
            &ip[8..40]
        };
        let pseudo = sum(addresses) + u64::from(first.key.protocol) + transport_bytes as u64;
        let partial = !fold(pseudo);
        let (gso, checksum_offset) = if first.key.protocol == protocol::UDP {
            transport[4..6].copy_from_slice(&to_u16(transport_bytes).to_be_bytes());
            (Gso::Udp, 6)
        } else {
            if first.is_push {
                transport[13] |= tcp_flag::PSH;
            }
            (
                if first.key.is_ipv4 {
                    Gso::Tcp4
                } else {
                    Gso::Tcp6
                },
                16,
            )
        };
        let field: Range<usize> = checksum_offset..checksum_offset + 2;
        transport[field].copy_from_slice(&partial.to_be_bytes());
        VnetHeader {
            flags: NEEDS_CHECKSUM,
            gso_type: gso as u8,
            header_bytes: to_u16(first.headers),
            segment_bytes: to_u16(first.payload),
            checksum_start: to_u16(first.transport),
            checksum_offset: to_u16(checksum_offset),
        }
    }
}

/// The low 32 bits of a length, for sequence arithmetic.
const fn low32(bytes: usize) -> u32 {
    (bytes & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests;
