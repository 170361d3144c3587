//! The introduction of two peers: header, encryption flag and features (spec/mesh.md 3).

use crate::PeerName;

/// What one peer tells the other about itself, as typed values of the features map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// `Name`.
    pub name: PeerName,
    /// `NickName`: free text.
    pub nickname: String,
    /// `UID`: random per process start, 0 never occurs for a live peer.
    pub uid: u64,
    /// `ConnID`: random per connection and side.
    pub conn_id: u64,
    /// `ShortID`, if the peer has one (version 2 only); at most 4095.
    pub short_id: Option<u16>,
    /// `Trusted`: the sender regards the receiver's address as trusted (version 2 only).
    pub trusted: bool,
    /// `Overlays` in the sender's order; `None` means compatibility mode (version 2 only).
    pub overlays: Option<Vec<String>>,
    /// `PublicKey`: only in version 1 with a password; 32 raw bytes.
    pub public_key: Option<[u8; 32]>,
    /// `Weft`: present when the peer is a Weft of any version (design D2; version 2 only).
    pub weft: Option<WeftFeature>,
}

/// Value of the `Weft` feature: `1` followed by blank-separated capability words, for example
/// `1 ipv6 pmtu-low`. Format version 1 is frozen; later versions only append words; unknown words
/// are kept and ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WeftFeature {
    /// Format version; 1.
    pub version: u32,
    /// Capability words, sorted, unknown ones included.
    pub capabilities: Vec<String>,
}
