//! IPv4 fragmentation of our own, for paths on which the network's is not trusted
//! (spec/sleeve.md 8.2).

use wire::ethernet::{ETHERNET_HEADER_BYTES as ETHERNET_BYTES, fold, sum};

const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// Cuts one IPv4 frame into pieces that fit an MTU.
#[derive(Debug, Clone, Copy)]
pub struct Fragmenter {
    header_bytes: usize,
    payload_bytes: usize,
    piece_bytes: usize,
    next: usize,
}

impl Fragmenter {
    /// Starts on a frame. `None`: not IPv4, cut short, or the MTU leaves no room for any payload.
    pub fn new(frame: &[u8], mtu_bytes: usize) -> Option<Self> {
        let ip = frame.get(ETHERNET_BYTES..)?;
        let header_bytes = usize::from(ip.first()? & 15) * 4;
        if ip[0] >> 4 != 4 || header_bytes < 20 || ip.len() < header_bytes {
            return None;
        }
        let total_bytes = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        if total_bytes < header_bytes || total_bytes > ip.len() {
            return None;
        }
        let piece_bytes = mtu_bytes.checked_sub(header_bytes)? & !7;
        let payload_bytes = total_bytes - header_bytes;
        (piece_bytes > 0).then_some(Self {
            header_bytes,
            payload_bytes,
            piece_bytes,
            next: 0,
        })
    }

    /// Length of the frame `write_next` will write. `None`: no more.
    pub fn next_bytes(&self) -> Option<usize> {
        let rest = self.payload_bytes - self.next;
        (rest > 0).then(|| ETHERNET_BYTES + self.header_bytes + rest.min(self.piece_bytes))
    }

    /// Writes the next piece of the same frame to the front of `out`, which must have room for
    /// MTU + 14 bytes; returns its length. `None`: no more.
    pub fn write_next(&mut self, frame: &[u8], out: &mut [u8]) -> Option<usize> {
        if self.next >= self.payload_bytes {
            return None;
        }
        let end = (self.next + self.piece_bytes).min(self.payload_bytes);
        let headers = ETHERNET_BYTES + self.header_bytes;
        let len = headers + end - self.next;
        let out = &mut out[..len];
        out[..headers].copy_from_slice(&frame[..headers]);
        out[headers..].copy_from_slice(&frame[headers + self.next..headers + end]);
        let ip = &mut out[ETHERNET_BYTES..headers];
        let total = ((self.header_bytes + end - self.next) & 0xffff) as u16;
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        let field = u16::from_be_bytes([ip[6], ip[7]]);
        let offset = (field & OFFSET_MASK).wrapping_add((self.next / 8) as u16) & OFFSET_MASK;
        let more = if end < self.payload_bytes {
            MORE_FRAGMENTS
        } else {
            0
        };
        let field = (field & !OFFSET_MASK) | offset | more;
        ip[6..8].copy_from_slice(&field.to_be_bytes());
        ip[10..12].fill(0);
        let check = fold(sum(ip)).to_be_bytes();
        ip[10..12].copy_from_slice(&check);
        self.next = end;
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::testing::{sleeve_vectors, unhex};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn vectors_of_the_original_are_reproduced() {
        let vectors = sleeve_vectors("ip-fragment");
        assert_eq!(vectors.len(), 3);
        for vector in vectors {
            let mut frame = unhex(vector["input"]["frame_header_34"].as_str().unwrap());
            let rule = vector["input"]["frame_rule"].as_str().unwrap();
            let echo = rule.split("echo header ").nth(1).unwrap();
            frame.extend(unhex(&echo[..16]));
            let len = vector["input"]["frame_len"].as_u64().unwrap() as usize;
            frame.extend((0..len - frame.len()).map(|i| i as u8));
            let mtu = vector["input"]["mtu"].as_u64().unwrap() as usize;
            let mut cut = Fragmenter::new(&frame, mtu).unwrap();
            let mut out = [0; 1500];
            for piece in vector["expect"].as_array().unwrap() {
                let len = cut.write_next(&frame, &mut out).unwrap();
                assert_eq!(len as u64, piece["len"].as_u64().unwrap(), "{vector}");
                assert_eq!(hex(&out[14..34]), piece["ip_header"].as_str().unwrap());
                assert_eq!(
                    hex(&Sha256::digest(&out[..len])),
                    piece["sha256"].as_str().unwrap()
                );
            }
            assert_eq!(cut.write_next(&frame, &mut out), None);
        }
    }

    #[test]
    fn padding_is_not_copied() {
        let vectors = sleeve_vectors("ip-fragment");
        let mut frame = unhex(vectors[0]["input"]["frame_header_34"].as_str().unwrap());
        frame[16..18].copy_from_slice(&60_u16.to_be_bytes());
        frame.resize(100, 0xee);
        let mut cut = Fragmenter::new(&frame, 1400).unwrap();
        assert_eq!(cut.write_next(&frame, &mut [0; 1500]), Some(74));
        assert_eq!(cut.write_next(&frame, &mut [0; 1500]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(
            mut frame in prop::collection::vec(any::<u8>(), 0..200),
            mtu in 0_usize..300,
            looks_like_ip in any::<bool>(),
        ) {
            if looks_like_ip && frame.len() > 20 {
                frame[14] = 0x40 | (frame[14] & 15);
                frame[16] = 0;
            }
            if let Some(mut cut) = Fragmenter::new(&frame, mtu) {
                let mut out = [0; 400];
                let mut pieces = 0;
                while let Some(len) = cut.write_next(&frame, &mut out) {
                    prop_assert!(len <= mtu + 14);
                    pieces += 1;
                    prop_assert!(pieces < 100);
                }
            }
        }
    }
}
