//! Messages on an established link: one tag byte and a body (spec/mesh.md 4.4).

use crate::PeerName;

/// One protocol message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Tag 0.
    Heartbeat,
    /// Tags 1, 2 and 3, and tag 7: a control message of an overlay.
    Overlay(OverlayControl),
    /// Tag 4: gossip from a neighbour.
    GossipNeighbour {
        /// Channel name.
        channel: String,
        /// The neighbour that sent it.
        sender: PeerName,
        /// Channel-specific bytes.
        payload: Vec<u8>,
    },
    /// Tag 5: gossip for one peer, relayed unchanged.
    GossipUnicast {
        /// Channel name.
        channel: String,
        /// Originator.
        source: PeerName,
        /// Destination.
        destination: PeerName,
        /// Channel-specific bytes.
        payload: Vec<u8>,
    },
    /// Tag 6: gossip for everybody.
    GossipBroadcast {
        /// Channel name.
        channel: String,
        /// Originator, kept at every hop.
        source: PeerName,
        /// Channel-specific bytes.
        payload: Vec<u8>,
    },
    /// Any other tag: logged and ignored.
    Unknown(u8),
}

/// A control message of an overlay, as it travels on the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayControl {
    /// Index into the common overlay list (tag 7), or `None` in compatibility mode (tags 1 to 3).
    pub index: Option<u8>,
    /// Overlay-specific tag.
    pub tag: u8,
    /// Overlay-specific body.
    pub body: Vec<u8>,
}
