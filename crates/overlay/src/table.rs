//! What the control plane publishes to the data plane.

use std::collections::BTreeMap;
use std::sync::Arc;

use wire::{LinkId, PeerName};

use crate::kind::{Kind, Lane, Lanes, TunnelEvent};
use crate::mac::Sighting;
pub use crate::routes::Routes;

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
    /// Where forwarders learned addresses since they last told, at least one of each peer.
    Learned(Vec<Sighting>),
}
