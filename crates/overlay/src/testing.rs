//! What the tests of the data half share.

use std::ops::Range;

use wire::ethernet::{fold, sum};

use crate::frame::segment::{Gso, NEEDS_CHECKSUM, VnetHeader};

/// Bytes of lower-case hex.
pub(crate) fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("vectors are hex"))
        .collect()
}

/// The vectors of one kind in `sleeve.json`.
pub(crate) fn sleeve_vectors(kind: &str) -> Vec<serde_json::Value> {
    vectors(include_str!("../testdata/sleeve.json"), kind)
}

/// The vectors of one kind in a vector file.
pub(crate) fn vectors(text: &str, kind: &str) -> Vec<serde_json::Value> {
    let file: serde_json::Value = serde_json::from_str(text).expect("vectors are JSON");
    let all = file["vectors"].as_array().expect("vectors are a list");
    all.iter()
        .filter(|vector| vector["kind"] == kind)
        .cloned()
        .collect()
}

/// A TCP or UDP super-frame as a kernel with these offloads hands it over: partial checksum.
#[derive(Debug, Clone)]
pub(crate) struct SuperFrameSpec {
    pub(crate) is_ipv4: bool,
    pub(crate) is_tcp: bool,
    pub(crate) tcp_flags: u8,
    pub(crate) option_words: usize,
    pub(crate) segment: usize,
    pub(crate) payload: Vec<u8>,
    pub(crate) sequence: u32,
    pub(crate) id: u16,
}

impl SuperFrameSpec {
    /// Header for the TAP and the frame.
    pub(crate) fn build(&self) -> (VnetHeader, Vec<u8>) {
        let mut transport = [0x1f, 0x90, 0xc3, 0x50].to_vec();
        if self.is_tcp {
            transport.extend(self.sequence.to_be_bytes());
            transport.extend([
                1,
                2,
                3,
                4,
                0x50 + 16 * self.option_words as u8,
                self.tcp_flags,
            ]);
            transport.extend([0x20, 0x00, 0, 0, 0, 0]);
            transport.extend((0..4 * self.option_words).map(|i| i as u8));
        } else {
            transport.extend([0; 4]);
        }
        let header_bytes = transport.len();
        transport.extend(&self.payload);
        if !self.is_tcp {
            let length = transport.len() as u16;
            transport[4..6].copy_from_slice(&length.to_be_bytes());
        }
        let protocol = if self.is_tcp { 6 } else { 17 };
        let (ip, addresses) = self.network(transport.len(), protocol);
        let field = if self.is_tcp { 16 } else { 6 };
        let pseudo = sum(&ip[addresses]) + u64::from(protocol) + transport.len() as u64;
        transport[field..field + 2].copy_from_slice(&(!fold(pseudo)).to_be_bytes());
        let ethertype: [u8; 2] = if self.is_ipv4 { [8, 0] } else { [0x86, 0xdd] };
        let frame = [
            &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1],
            &ethertype[..],
            &ip,
            &transport,
        ];
        let family = if self.is_ipv4 { Gso::Tcp4 } else { Gso::Tcp6 };
        let gso = if self.is_tcp { family } else { Gso::Udp };
        let is_single = self.payload.len() <= self.segment;
        let header = VnetHeader {
            flags: NEEDS_CHECKSUM,
            gso_type: if is_single { 0 } else { gso as u8 },
            header_bytes: (14 + ip.len() + header_bytes) as u16,
            segment_bytes: if is_single { 0 } else { self.segment as u16 },
            checksum_start: (14 + ip.len()) as u16,
            checksum_offset: field as u16,
        };
        (header, frame.concat())
    }

    fn network(&self, payload: usize, protocol: u8) -> (Vec<u8>, Range<usize>) {
        if self.is_ipv4 {
            let mut ip = [0x45, 0].to_vec();
            ip.extend(((20 + payload) as u16).to_be_bytes());
            ip.extend(self.id.to_be_bytes());
            ip.extend([0x40, 0, 64, protocol, 0, 0, 10, 32, 0, 1, 10, 40, 0, 1]);
            let check = fold(sum(&ip));
            ip[10..12].copy_from_slice(&check.to_be_bytes());
            (ip, 12..20)
        } else {
            let mut ip = [0x60, 0, 0, 0].to_vec();
            ip.extend((payload as u16).to_be_bytes());
            ip.extend([protocol, 64]);
            ip.extend((0..32).map(|i| i as u8));
            (ip, 8..40)
        }
    }
}
