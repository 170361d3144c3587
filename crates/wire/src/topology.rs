//! Payload of the `topology` gossip channel (spec/mesh.md 8, spec/gob.md 6.2).

use crate::PeerName;

/// A peer's entry in a topology payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSummary {
    /// Identity.
    pub name: PeerName,
    /// Free text.
    pub nickname: String,
    /// Process incarnation; 0 for a placeholder.
    pub uid: u64,
    /// Change counter of this entry.
    pub version: u64,
    /// Short id, if the peer has one; at most 65535 on the wire, 4095 in use.
    pub short_id: Option<u16>,
    /// The peer's connections as it sees them.
    pub connections: Vec<ConnectionSummary>,
}

/// One connection of a peer, as that peer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionSummary {
    /// The other end.
    pub remote: PeerName,
    /// `ip:port` of the other end as this peer saw it; free text on the wire.
    pub remote_address: String,
    /// Whether this peer dialled.
    pub outbound: bool,
    /// Whether the data path was confirmed in this peer's direction.
    pub established: bool,
}
