//! Peer names: 48-bit identities written like MAC addresses.

use std::fmt;
use std::str::FromStr;

/// Identity of a peer: a 48-bit value, printed as six hex groups. Zero means "unknown / nobody".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PeerName(u64);

/// The text is not a peer name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid peer name format: {0:?}")]
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
        Self(u64::from_be_bytes([0, 0, b[0], b[1], b[2], b[3], b[4], b[5]]))
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
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2], b[3], b[4], b[5])
    }
}

impl fmt::Debug for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerName {
    type Err = ParsePeerNameError;

    /// Parses the full form and the `::` shortened forms (spec/mesh.md 2.1).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let _ = text;
        todo!("wire")
    }
}
