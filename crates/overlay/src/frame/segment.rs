//! Cutting a super-frame of the kernel into ordinary frames, and completing partial checksums.
//!
//! A TAP with virtio headers hands over TCP and UDP data in frames of up to 64 KiB together with a
//! [`VnetHeader`] that says how to cut them. Cutting repeats the headers in front of each piece and
//! fixes lengths, IPv4 id, TCP sequence and flags, and checksums. The reverse is `merge`.

use wire::ethernet::{ETHERNET_HEADER_BYTES as ETHERNET_BYTES, fold, sum};

/// Length of a virtio network header in front of each frame on the TAP, bytes.
pub const VNET_HEADER_BYTES: usize = 10;
/// Header flag: the checksum at `checksum_start + checksum_offset` is partial.
pub const NEEDS_CHECKSUM: u8 = 1;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const CWR: u8 = 0x80;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const VLAN_TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
const VLAN_TAG_BYTES: usize = 4;

/// Kinds of super-frame, as numbered by virtio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gso {
    /// TCP over IPv4.
    Tcp4 = 1,
    /// TCP over IPv6.
    Tcp6 = 4,
    /// UDP over either: datagrams of equal size.
    Udp = 5,
}

/// What the kernel says about a frame it hands over, and what we say about one we hand back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// `NEEDS_CHECKSUM` or 0; other bits mean nothing here.
    pub flags: u8,
    /// Low bits: a `Gso` number or 0; bit 7: TCP with ECN.
    pub gso_type: u8,
    /// Bytes of all headers, a hint.
    pub header_bytes: u16,
    /// Payload bytes of each segment.
    pub segment_bytes: u16,
    /// Offset of the transport header from the start of the frame.
    pub checksum_start: u16,
    /// Offset of the checksum within the transport header.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// From the TAP's bytes (host byte order, as the device is configured).
    pub fn from_bytes(b: &[u8; VNET_HEADER_BYTES]) -> Self {
        let word = |i: usize| u16::from_ne_bytes([b[i], b[i + 1]]);
        Self {
            flags: b[0],
            gso_type: b[1],
            header_bytes: word(2),
            segment_bytes: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    /// To the TAP's bytes.
    pub fn to_bytes(self) -> [u8; VNET_HEADER_BYTES] {
        let [h0, h1] = self.header_bytes.to_ne_bytes();
        let [s0, s1] = self.segment_bytes.to_ne_bytes();
        let [c0, c1] = self.checksum_start.to_ne_bytes();
        let [o0, o1] = self.checksum_offset.to_ne_bytes();
        [self.flags, self.gso_type, h0, h1, s0, s1, c0, c1, o0, o1]
    }

    /// The kind of super-frame; `Err` for kinds we never asked for, `Ok(None)` for ordinary frames.
    fn gso(&self) -> Result<Option<Gso>, BadSuperFrame> {
        match self.gso_type & 0x7f {
            0 => Ok(None),
            1 => Ok(Some(Gso::Tcp4)),
            4 => Ok(Some(Gso::Tcp6)),
            5 => Ok(Some(Gso::Udp)),
            _ => Err(BadSuperFrame),
        }
    }
}

/// A super-frame or partial checksum whose headers contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed super-frame")]
pub struct BadSuperFrame;

/// Completes the checksum of an ordinary frame that was handed over with a partial one.
pub fn complete_checksum(header: &VnetHeader, frame: &mut [u8]) -> Result<(), BadSuperFrame> {
    if header.flags & NEEDS_CHECKSUM == 0 {
        return Ok(());
    }
    let start = usize::from(header.checksum_start);
    let field = start + usize::from(header.checksum_offset);
    if field + 2 > frame.len() {
        return Err(BadSuperFrame);
    }
    let mut check = fold(sum(&frame[start..])).to_be_bytes();
    if check == [0, 0] {
        // Zero means "none" for UDP; both forms of zero are valid for TCP.
        check = [0xff, 0xff];
    }
    frame[field..field + 2].copy_from_slice(&check);
    Ok(())
}

/// How to cut one super-frame. Offsets are from the start of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuperFrame {
    is_ipv4: bool,
    is_tcp: bool,
    network: usize,
    transport: usize,
    headers: usize,
    payload: usize,
    segment: usize,
    /// Sum of addresses and protocol, the constant part of the pseudo-header.
    pseudo: u64,
}

impl SuperFrame {
    /// Checks the headers of a captured frame. `Ok(None)`: an ordinary frame.
    pub fn parse(header: &VnetHeader, frame: &[u8]) -> Result<Option<Self>, BadSuperFrame> {
        let Some(gso) = header.gso()? else {
            return Ok(None);
        };
        let (is_ipv4, network) = network_layer(frame).ok_or(BadSuperFrame)?;
        let ip = &frame[network..];
        let transport = usize::from(header.checksum_start);
        let minimum = if is_ipv4 { 20 } else { 40 };
        let tcp_family = if is_ipv4 { Gso::Tcp4 } else { Gso::Tcp6 };
        let is_tcp = gso != Gso::Udp;
        if ip.len() < minimum || (is_tcp && gso != tcp_family) || transport < network + minimum {
            return Err(BadSuperFrame);
        }
        if is_ipv4 && transport != network + usize::from(ip[0] & 15) * 4 {
            return Err(BadSuperFrame);
        }
        let header_bytes = match frame.get(transport + 12) {
            Some(offset) if is_tcp => usize::from(offset >> 4) * 4,
            _ => 8,
        };
        let headers = transport + header_bytes;
        let segment = usize::from(header.segment_bytes);
        if header_bytes < (if is_tcp { 20 } else { 8 }) || headers >= frame.len() || segment == 0 {
            return Err(BadSuperFrame);
        }
        let addresses = if is_ipv4 { &ip[12..20] } else { &ip[8..40] };
        let protocol = if is_tcp { TCP } else { UDP };
        let pseudo = sum(addresses) + u64::from(protocol);
        let payload = frame.len() - headers;
        Ok(Some(Self {
            is_ipv4,
            is_tcp,
            network,
            transport,
            headers,
            payload,
            segment,
            pseudo,
        }))
    }

    /// How many frames it becomes.
    pub fn count(&self) -> usize {
        self.payload.div_ceil(self.segment)
    }

    /// Length of the largest of them, bytes.
    pub fn frame_bytes(&self) -> usize {
        self.headers + self.segment.min(self.payload)
    }

    /// Length of the `index`-th of them, bytes.
    pub fn frame_bytes_of(&self, index: usize) -> usize {
        self.headers + self.segment.min(self.payload - index * self.segment)
    }

    /// Writes the `index`-th of them to the front of `out`, which must have room for
    /// `frame_bytes()`; returns its length.
    pub fn write(&self, frame: &[u8], index: usize, out: &mut [u8]) -> usize {
        let start = index * self.segment;
        let end = (start + self.segment).min(self.payload);
        let is_last = end == self.payload;
        let len = self.headers + end - start;
        let out = &mut out[..len];
        let payload = &frame[self.headers + start..self.headers + end];
        out[..self.headers].copy_from_slice(&frame[..self.headers]);
        out[self.headers..].copy_from_slice(payload);
        self.fix_network(out, index);
        let transport_bytes = to_u16(len - self.transport);
        let field = if self.is_tcp {
            fix_tcp(&mut out[self.transport..], start, index == 0, is_last);
            self.transport + 16
        } else {
            let length = self.transport + 4;
            out[length..length + 2].copy_from_slice(&transport_bytes.to_be_bytes());
            self.transport + 6
        };
        out[field..field + 2].fill(0);
        // Transport headers are an even number of bytes, so the sum may be made in two parts; that of
        // the payload from where it was read, not from where it was written a moment ago.
        let header = sum(&out[self.transport..self.headers]);
        let total = self.pseudo + u64::from(transport_bytes) + header + sum(payload);
        let check = fold(total).to_be_bytes();
        let check = if check == [0, 0] && !self.is_tcp {
            [0xff, 0xff]
        } else {
            check
        };
        out[field..field + 2].copy_from_slice(&check);
        len
    }

    fn fix_network(&self, out: &mut [u8], index: usize) {
        let len = out.len();
        let ip = &mut out[self.network..self.transport];
        if self.is_ipv4 {
            ip[2..4].copy_from_slice(&to_u16(len - self.network).to_be_bytes());
            let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add((index & 0xffff) as u16);
            ip[4..6].copy_from_slice(&id.to_be_bytes());
            ip[10..12].fill(0);
            let check = fold(sum(ip)).to_be_bytes();
            ip[10..12].copy_from_slice(&check);
        } else {
            ip[4..6].copy_from_slice(&to_u16(len - self.network - 40).to_be_bytes());
        }
    }
}

/// Sequence number and flags of one TCP segment that starts `offset` bytes into the super-frame.
fn fix_tcp(tcp: &mut [u8], offset: usize, is_first: bool, is_last: bool) {
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    let sequence = sequence.wrapping_add((offset & 0xffff_ffff) as u32);
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    if !is_last {
        tcp[13] &= !(FIN | PSH);
    }
    if !is_first {
        tcp[13] &= !CWR;
    }
}

/// Whether the frame carries IPv4 (else IPv6), and where; skips up to two VLAN tags.
fn network_layer(frame: &[u8]) -> Option<(bool, usize)> {
    let mut offset = ETHERNET_BYTES;
    for _ in 0..3 {
        let kind = [*frame.get(offset - 2)?, *frame.get(offset - 1)?];
        if kind == IPV4 {
            return (frame.len() > offset).then_some((true, offset));
        } else if kind == IPV6 {
            return (frame.len() > offset).then_some((false, offset));
        } else if !VLAN_TAGS.contains(&kind) {
            return None;
        }
        offset += VLAN_TAG_BYTES;
    }
    None
}

/// A length that the 16-bit fields of a frame below 64 KiB always hold; cut off otherwise.
pub(crate) fn to_u16(bytes: usize) -> u16 {
    (bytes & 0xffff) as u16
}
