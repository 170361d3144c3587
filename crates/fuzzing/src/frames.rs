//! Ethernet frames as containers send them, out of fuzz input: ARP-like, TCP and UDP over both
//! families, super-frames, sometimes damaged.

use arbitrary::{Result, Unstructured};
use overlay::frame::segment::{Gso, NEEDS_CHECKSUM, VnetHeader};
use wire::ethernet::{ethertype, fold, protocol, sum};

/// What a TCP or UDP frame is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recipe {
    pub(crate) is_ipv4: bool,
    pub(crate) is_tcp: bool,
    pub(crate) dont_fragment: bool,
    /// Last byte of both addresses of the flow; the source port too.
    pub(crate) flow: u8,
    pub(crate) tcp_flags: u8,
    pub(crate) option_words: u8,
    pub(crate) id: u16,
    pub(crate) sequence: u32,
    pub(crate) payload_bytes: usize,
    /// Payload of each segment, for a super-frame; 0 for an ordinary frame with a full checksum.
    pub(crate) segment_bytes: u16,
}

impl Recipe {
    pub(crate) fn from(input: &mut Unstructured<'_>) -> Result<Self> {
        let bits: u8 = input.arbitrary()?;
        let more: u8 = input.arbitrary()?;
        let is_super = bits & 8 != 0;
        let flags: u8 = if more & 0x80 != 0 {
            input.arbitrary()?
        } else {
            0x10
        };
        Ok(Self {
            is_ipv4: bits & 1 != 0,
            is_tcp: bits & 2 != 0,
            dont_fragment: bits & 4 != 0,
            flow: more & 3,
            tcp_flags: flags,
            option_words: (more >> 2) % 11,
            id: input.arbitrary()?,
            sequence: input.arbitrary()?,
            payload_bytes: if is_super {
                input.int_in_range(0..=16_000)?
            } else {
                input.int_in_range(0..=1460)?
            },
            segment_bytes: if is_super {
                input.int_in_range(1..=1460)?
            } else {
                0
            },
        })
    }

    /// Header for the TAP and the frame.
    pub(crate) fn build(&self) -> (VnetHeader, Vec<u8>) {
        let (field, protocol) = if self.is_tcp {
            (16, protocol::TCP)
        } else {
            (6, protocol::UDP)
        };
        let mut transport = self.transport();
        let header_bytes = transport.len();
        let pattern = self.sequence.to_le_bytes();
        transport.extend((0..self.payload_bytes).map(|at| pattern[at % 4] ^ (at / 7) as u8));
        if !self.is_tcp {
            let length = transport.len() as u16;
            transport[4..6].copy_from_slice(&length.to_be_bytes());
        }
        let ip = self.network(transport.len(), protocol);
        let addresses = if self.is_ipv4 {
            &ip[12..20]
        } else {
            &ip[8..40]
        };
        let pseudo = sum(addresses) + u64::from(protocol) + transport.len() as u64;
        let is_super = self.segment_bytes != 0 && self.payload_bytes > self.segment_bytes.into();
        let check = if is_super {
            !fold(pseudo)
        } else {
            match fold(pseudo + sum(&transport)) {
                0 if !self.is_tcp => 0xffff,
                check => check,
            }
        };
        transport[field..field + 2].copy_from_slice(&check.to_be_bytes());
        let kind = if self.is_ipv4 {
            ethertype::IPV4
        } else {
            ethertype::IPV6
        };
        let addresses = [2, 0, 0, 0, 0, self.flow ^ 3, 2, 0, 0, 0, 0, self.flow];
        let frame = [&addresses, &kind.to_be_bytes()[..], &ip, &transport].concat();
        if !is_super {
            return (VnetHeader::default(), frame);
        }
        let gso = match (self.is_tcp, self.is_ipv4) {
            (false, _) => Gso::Udp,
            (true, true) => Gso::Tcp4,
            (true, false) => Gso::Tcp6,
        };
        let header = VnetHeader {
            flags: NEEDS_CHECKSUM,
            gso_type: gso as u8,
            header_bytes: (14 + ip.len() + header_bytes) as u16,
            segment_bytes: self.segment_bytes,
            checksum_start: (14 + ip.len()) as u16,
            checksum_offset: field as u16,
        };
        (header, frame)
    }

    /// The transport header, checksum and UDP length zero.
    fn transport(&self) -> Vec<u8> {
        let mut out = vec![0x1f, self.flow, 0xc3, 0x50];
        if !self.is_tcp {
            out.extend([0; 4]);
            return out;
        }
        out.extend(self.sequence.to_be_bytes());
        out.extend([1, 2, 3, 4, 0x50 + 16 * self.option_words, self.tcp_flags]);
        out.extend([0x20, 0, 0, 0, 0, 0]);
        out.extend((0..4 * self.option_words).map(|at| at ^ self.flow));
        out
    }

    fn network(&self, payload_bytes: usize, protocol: u8) -> Vec<u8> {
        if self.is_ipv4 {
            let mut ip = vec![0x45, 0];
            ip.extend(((20 + payload_bytes) as u16).to_be_bytes());
            ip.extend(self.id.to_be_bytes());
            ip.extend([
                if self.dont_fragment { 0x40 } else { 0 },
                0,
                64,
                protocol,
                0,
                0,
            ]);
            ip.extend([10, 32, 0, self.flow, 10, 40, 0, self.flow ^ 3]);
            let check = fold(sum(&ip));
            ip[10..12].copy_from_slice(&check.to_be_bytes());
            ip
        } else {
            let mut ip = vec![0x60, 0, 0, 0];
            ip.extend((payload_bytes as u16).to_be_bytes());
            ip.extend([protocol, 64]);
            ip.extend((0..32).map(|at| at ^ self.flow));
            ip
        }
    }
}

/// Some frame as a TAP hands it over; whether it is as its recipe says, undamaged.
pub(crate) fn frame(input: &mut Unstructured<'_>) -> Result<(VnetHeader, Vec<u8>, bool)> {
    match input.int_in_range(0..=7)? {
        0 => {
            let header = VnetHeader::from_bytes(&input.arbitrary()?);
            let length = input.int_in_range(0..=200)?;
            let frame = input.bytes(usize::min(length, input.len()))?.to_vec();
            Ok((header, frame, false))
        }
        1 => {
            let (mut header, mut frame) = Recipe::from(input)?.build();
            for _ in 0..input.int_in_range(1..=3)? {
                let at = input.int_in_range(0..=99_usize)?;
                let byte: u8 = input.arbitrary()?;
                if at >= 90 {
                    let mut bytes = header.to_bytes();
                    bytes[at - 90] = byte;
                    header = VnetHeader::from_bytes(&bytes);
                } else if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            Ok((header, frame, false))
        }
        _ => {
            let (header, frame) = Recipe::from(input)?.build();
            Ok((header, frame, true))
        }
    }
}
