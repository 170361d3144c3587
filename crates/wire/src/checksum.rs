//! The Internet checksum (RFC 1071), in pieces: sums of slices, folded and complemented at the end.
//!
//! A partial sum is kept in memory byte order, unfolded; `finish` gives the bytes to store.
//! Every slice but the last must have an even length.

/// Sum of the 16-bit words of `bytes`; an odd last byte is padded with zero.
pub fn sum(bytes: &[u8]) -> u64 {
    // Four independent accumulators of 32-bit words: cannot overflow below 2^34 bytes each.
    let mut acc = [0_u64; 4];
    let mut chunks = bytes.chunks_exact(16);
    for chunk in &mut chunks {
        for (i, slot) in acc.iter_mut().enumerate() {
            let word = [
                chunk[4 * i],
                chunk[4 * i + 1],
                chunk[4 * i + 2],
                chunk[4 * i + 3],
            ];
            *slot += u64::from(u32::from_ne_bytes(word));
        }
    }
    let mut total = acc.iter().sum::<u64>();
    let mut pairs = chunks.remainder().chunks_exact(2);
    for pair in &mut pairs {
        total += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
    }
    if let [last] = pairs.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

/// Contribution of one 16-bit value as it would stand in the packet.
pub fn word(value: u16) -> u64 {
    u64::from(u16::from_ne_bytes(value.to_be_bytes()))
}

/// Folds to 16 bits without complementing; the two bytes as they stand in the packet.
pub fn fold(mut total: u64) -> [u8; 2] {
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    u16::try_from(total)
        .expect("folded three times")
        .to_ne_bytes()
}

/// Folds and complements: the two checksum bytes to store.
pub fn finish(total: u64) -> [u8; 2] {
    let [a, b] = fold(total);
    [!a, !b]
}

/// Whether data including its checksum field sums to all ones.
pub fn is_valid(total: u64) -> bool {
    fold(total) == [0xff, 0xff]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(bytes: &[u8]) -> u16 {
        let mut total = 0_u32;
        for pair in bytes.chunks(2) {
            total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            total = (total & 0xffff) + (total >> 16);
        }
        !u16::try_from(total).unwrap()
    }

    #[test]
    fn known_header_has_known_checksum() {
        let mut header = [
            0x45, 0, 0, 0x3c, 0x12, 0x34, 0, 0, 0x40, 1, 0, 0, 10, 32, 0, 1, 10, 40, 0, 1,
        ];
        let check = finish(sum(&header));
        assert_eq!(check, [0x54, 0x44]);
        header[10..12].copy_from_slice(&check);
        assert!(is_valid(sum(&header)));
    }

    #[test]
    fn fast_sum_equals_slow_sum_for_every_length() {
        let bytes: Vec<u8> = (0..300_u32).map(|i| (i * 197 % 251) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(
                finish(sum(&bytes[..len])),
                slow(&bytes[..len]).to_be_bytes(),
                "{len}"
            );
        }
        let ones = vec![0xff; 65536];
        assert_eq!(finish(sum(&ones)), slow(&ones).to_be_bytes());
    }

    #[test]
    fn sums_of_even_pieces_add_up() {
        let bytes: Vec<u8> = (0..101_u8).collect();
        let pieces = sum(&bytes[..40]) + word(0x1234) + sum(&bytes[40..]);
        let mut whole = bytes[..40].to_vec();
        whole.extend([0x12, 0x34]);
        whole.extend(&bytes[40..]);
        assert_eq!(fold(pieces), fold(sum(&whole)));
    }
}
