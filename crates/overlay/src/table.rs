//! What the control plane publishes to the data plane.

use std::collections::BTreeMap;
use std::sync::Arc;

use wire::{LinkId, PeerName};

use crate::kind::{Kind, Lane, Lanes, TunnelEvent};
use crate::mac::Sighting;

/// Immutable snapshot the data plane forwards by (design D3).
///
/// Invariant: a next hop named in the routes that can be reached has an entry in `neighbours`; a hop
/// without one is dropped and counted.
#[derive(Debug, Clone, Default)]
pub struct ForwardingTable {
    /// Our own name.
    pub us: PeerName,
    /// Where frames go. Snapshots that differ in their neighbours only share it.
    pub routes: Arc<Routes>,
    /// Each peer we have a tunnel to.
    pub neighbours: BTreeMap<PeerName, Arc<Neighbour>>,
}

impl ForwardingTable {
    /// The neighbour of a link.
    pub fn neighbour(&self, link: LinkId) -> Option<&Arc<Neighbour>> {
        self.neighbours
            .values()
            .find(|neighbour| neighbour.link == link)
    }
}

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

/// A peer with a connection of its own, and the ways to send to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The connection. A new one to the same peer has another link, and with it new counters and
    /// replay windows.
    pub link: LinkId,
    /// Which connection to be published this is: no two have the same number, and a snapshot never
    /// has one for the first time that is not above all in the snapshots before.
    pub serial: u64,
    /// The peer.
    pub remote: PeerName,
    /// What each kind of tunnel needs.
    pub lanes: Lanes,
    /// The kind that carries traffic; probes are sent regardless.
    pub chosen: Option<Kind>,
}

impl Neighbour {
    /// The lane that carries traffic.
    pub fn carrier(&self) -> Option<&Arc<Lane>> {
        self.lanes.get(self.chosen?)
    }
}

/// What the data plane tells the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaneEvent {
    /// Something happened on one lane.
    Tunnel(TunnelEvent),
    /// What forwarders learned since they last told, in order.
    Learned(Vec<Sighting>),
}
