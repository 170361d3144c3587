//! The ICMP answer to an IPv4 frame that is too big and must not be fragmented
//! (spec/sleeve.md 8.1).

use wire::ethernet::{ETHERNET_HEADER_BYTES as ETHERNET_BYTES, fold, sum};

/// Room an answer needs at most: Ethernet, IPv4, ICMP, and a quoted header with options and 8 bytes.
pub const ANSWER_BYTES_MAX: usize = ETHERNET_BYTES + 20 + 8 + 60 + 8;
const ICMP: u8 = 1;
/// ICMP types that report errors; answering those with an error could go on for ever.
const ERROR_TYPES: [u8; 5] = [3, 4, 5, 11, 12];

/// Builds "fragmentation needed" with this next-hop MTU for an IPv4 frame into `out`; returns its
/// length. `None`: nothing may be answered (malformed, a later fragment, or itself an ICMP error).
pub fn frag_needed(
    offending: &[u8],
    mtu_bytes: usize,
    out: &mut [u8; ANSWER_BYTES_MAX],
) -> Option<usize> {
    let ip = offending.get(ETHERNET_BYTES..)?;
    let header_bytes = usize::from(ip.first()? & 15) * 4;
    if ip[0] >> 4 != 4 || header_bytes < 20 || ip.len() < header_bytes {
        return None;
    }
    let offset = u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff;
    let is_error = ip[9] == ICMP
        && ip
            .get(header_bytes)
            .is_some_and(|t| ERROR_TYPES.contains(t));
    if offset != 0 || is_error {
        return None;
    }
    let quoted = &ip[..ip.len().min(header_bytes + 8)];
    let len = ETHERNET_BYTES + 28 + quoted.len();
    let answer = &mut out[..len];
    answer[..6].copy_from_slice(&offending[6..12]);
    answer[6..12].copy_from_slice(&offending[..6]);
    answer[12..14].copy_from_slice(&offending[12..14]);
    let (header, icmp) = answer[ETHERNET_BYTES..].split_at_mut(20);
    header.fill(0);
    header[0] = 0x45;
    header[1] = ip[1];
    header[2..4].copy_from_slice(&(((28 + quoted.len()) & 0xffff) as u16).to_be_bytes());
    header[8] = 64;
    header[9] = ICMP;
    header[12..16].copy_from_slice(&ip[16..20]);
    header[16..20].copy_from_slice(&ip[12..16]);
    let check = fold(sum(header)).to_be_bytes();
    header[10..12].copy_from_slice(&check);
    icmp[..8].fill(0);
    icmp[0] = 3;
    icmp[1] = 4;
    let mtu = u16::try_from(mtu_bytes).unwrap_or(u16::MAX);
    icmp[6..8].copy_from_slice(&mtu.to_be_bytes());
    icmp[8..].copy_from_slice(quoted);
    let check = fold(sum(icmp)).to_be_bytes();
    icmp[2..4].copy_from_slice(&check);
    Some(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{sleeve_vectors, unhex};

    #[test]
    fn vectors_of_the_original_are_reproduced() {
        let vectors = sleeve_vectors("icmp-frag-needed");
        assert_eq!(vectors.len(), 2);
        for vector in vectors {
            let frame = unhex(vector["input"]["frame_first_100"].as_str().unwrap());
            let mtu = vector["input"]["mtu"].as_u64().unwrap() as usize;
            let mut out = [0; ANSWER_BYTES_MAX];
            let len = frag_needed(&frame, mtu, &mut out).unwrap();
            assert_eq!(
                out[..len],
                unhex(vector["expect"].as_str().unwrap()),
                "{vector}"
            );
        }
    }

    #[test]
    fn errors_later_fragments_and_garbage_are_not_answered() {
        let vectors = sleeve_vectors("icmp-frag-needed");
        let frame = unhex(vectors[0]["input"]["frame_first_100"].as_str().unwrap());
        let answer = |frame: &[u8]| frag_needed(frame, 1414, &mut [0; ANSWER_BYTES_MAX]);
        let mut error = frame.clone();
        error[34] = 3;
        assert_eq!(answer(&error), None);
        let mut fragment = frame.clone();
        fragment[21] = 1;
        assert_eq!(answer(&fragment), None);
        for len in 0..34 {
            assert_eq!(answer(&frame[..len]), None);
        }
        for len in 34..frame.len() {
            assert!(answer(&frame[..len]).is_some());
        }
        let mut options = frame.clone();
        options[14] = 0x4f;
        assert_eq!(answer(&options), Some(ANSWER_BYTES_MAX));
    }
}
