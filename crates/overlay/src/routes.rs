//! Who there is, and which neighbour leads there.

use std::collections::BTreeMap;

use wire::PeerName;

/// Who there is and which neighbour leads there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// All peers known, ascending; frames from or to others are ignored.
    pub peers: Vec<PeerName>,
    /// Destination to next hop over established symmetric connections (spec/mesh.md 12.1).
    pub unicast: BTreeMap<PeerName, PeerName>,
    /// Origin to the neighbours that get a copy (spec/mesh.md 12.2), established and symmetric.
    pub broadcast: BTreeMap<PeerName, Vec<PeerName>>,
    /// Who owns each short id in use (spec/mesh.md 9).
    pub short_ids: BTreeMap<u16, PeerName>,
}

impl Routes {
    /// Whether a peer is known.
    pub fn knows(&self, peer: PeerName) -> bool {
        self.peers.binary_search(&peer).is_ok()
    }

    /// The neighbours that get a copy of a broadcast of this origin.
    pub fn copies(&self, origin: PeerName) -> &[PeerName] {
        self.broadcast.get(&origin).map_or(&[], Vec::as_slice)
    }
}
