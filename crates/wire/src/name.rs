//! Peer names: 48-bit identities written like MAC addresses.

use std::fmt;
use std::str::FromStr;

use crate::quote::{clipped, quote};

/// Bytes of a peer name in binary form.
pub const NAME_BYTES: usize = 6;

/// Identity of a peer: a 48-bit value, printed as six hex groups. Zero means "unknown / nobody".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PeerName(u64);

/// The text is not a peer name; holds its beginning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid peer name format: {}", quote(.0))]
pub struct ParsePeerNameError(pub String);

impl PeerName {
    /// The reserved name "nobody".
    pub const UNKNOWN: Self = Self(0);

    /// The name with this integer value; bits above the 48th are cut off.
    pub const fn from_u64(value: u64) -> Self {
        Self(value & 0xffff_ffff_ffff)
    }

    /// The 48-bit integer value, as gob envelopes carry it.
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// The name from its binary form, most significant byte first.
    pub const fn from_bytes(b: [u8; 6]) -> Self {
        Self(u64::from_be_bytes([
            0, 0, b[0], b[1], b[2], b[3], b[4], b[5],
        ]))
    }

    /// The binary form, most significant byte first.
    pub const fn to_bytes(self) -> [u8; 6] {
        let b = self.0.to_be_bytes();
        [b[2], b[3], b[4], b[5], b[6], b[7]]
    }

    /// Whether this is the reserved name "nobody".
    pub const fn is_unknown(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = self.to_bytes();
        write!(
            f,
            "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
            b[0], b[1], b[2], b[3], b[4], b[5]
        )
    }
}

impl fmt::Debug for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerName {
    type Err = ParsePeerNameError;

    /// Parses the full form and the `::` shortened forms (spec/mesh.md 2.1). Blanks in front of a
    /// group are tolerated, as the original does.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text)
            .map(Self::from_bytes)
            .ok_or_else(|| ParsePeerNameError(clipped(text)))
    }
}

/// Groups that `::` may stand between, both sides together.
const SHORTENED_GROUPS: std::ops::RangeInclusive<usize> = 1..=4;

fn parse(text: &str) -> Option<[u8; NAME_BYTES]> {
    let mut bytes = [0; NAME_BYTES];
    let Some((left, right)) = text.split_once("::") else {
        return (parse_groups(groups(text), &mut bytes)? == NAME_BYTES).then_some(bytes);
    };
    let left_count = parse_groups(groups(left), &mut bytes)?;
    let mut tail = [0; NAME_BYTES];
    let right_count = parse_groups(groups(right), &mut tail)?;
    if !SHORTENED_GROUPS.contains(&(left_count + right_count)) {
        return None;
    }
    bytes[NAME_BYTES - right_count..].copy_from_slice(&tail[..right_count]);
    Some(bytes)
}

/// The groups of one side of a name; no groups at all in an empty text.
fn groups(side: &str) -> impl Iterator<Item = &str> {
    side.split(':').skip(usize::from(side.is_empty()))
}

/// Parses groups into the front of `bytes` and returns how many there were.
fn parse_groups<'a>(
    groups: impl Iterator<Item = &'a str>,
    bytes: &mut [u8; NAME_BYTES],
) -> Option<usize> {
    let mut count = 0;
    for group in groups {
        let digits = group.trim_start_matches([' ', '\t']);
        let well_formed =
            matches!(digits.len(), 1 | 2) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if !well_formed {
            return None;
        }
        *bytes.get_mut(count)? = u8::from_str_radix(digits, 16).ok()?;
        count += 1;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_by_their_integer_value() {
        let low = PeerName::from_u64(0x02_00_00_00_0a_01);
        let high = PeerName::from_u64(0x02_00_00_00_0b_02);
        assert!(low < high && PeerName::UNKNOWN < low);
    }

    #[test]
    fn only_the_listed_group_counts_may_be_shortened() {
        for text in [
            "::",
            "1:2:3:4::5",
            "1:2:3:4:5::",
            "::1:2:3:4:5",
            "1::2::3",
            ":::1",
            "1:::",
            ":1::",
        ] {
            assert!(text.parse::<PeerName>().is_err(), "{text}");
        }
        assert_eq!(
            "1: 2::3".parse(),
            Ok(PeerName::from_bytes([1, 2, 0, 0, 0, 3]))
        );
    }

    #[test]
    fn an_endless_name_is_cut_in_its_error() {
        let error = "x"
            .repeat(100_000)
            .parse::<PeerName>()
            .expect_err("not a name");
        assert!(error.to_string().len() < 300);
    }
}
