//! What readers of a node's state are given: parts of it, shared as far as they are large.
//!
//! Taking one costs the caller of the node little; the copying, the counting and the formatting are
//! left to whoever reads it, on a thread of its own if it likes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use ipam::snapshot::{IpamCounts, IpamSnapshot};
use mesh::MeshSnapshot;
use mesh::status::TargetCounts;
use overlay::TunnelStatus;
use overlay::table::Routes;
use wire::{LinkId, PeerName};

use crate::status::NodeStatus;

/// The state of a node at one moment.
#[derive(Debug, Clone)]
pub struct NodeSnapshot {
    pub(crate) us: PeerName,
    pub(crate) mesh: MeshSnapshot,
    pub(crate) routes: Arc<Routes>,
    pub(crate) tunnels: Vec<TunnelStatus>,
    pub(crate) ipam: Option<IpamSnapshot>,
    pub(crate) clone_text: Option<String>,
}

/// Counts for metrics. Taking them looks at our own connections and targets, not at the peers and not
/// at the ring.
#[derive(Debug, Clone)]
pub struct NodeCounts {
    /// Peers known, ourselves included.
    pub peers: usize,
    /// Our live connections.
    pub connections: BTreeMap<ConnectionClass, u64>,
    /// Targets that are not connected.
    pub targets: TargetCounts,
    /// Ended connections, self connections excepted.
    pub termination_count: u64,
    /// Address allocation, if this peer takes part in it.
    pub ipam: Option<IpamCounts>,
    /// Whether another live peer has our name.
    pub has_clone: bool,
}

/// What connections are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionClass {
    /// Whether the overlay was confirmed.
    pub established: bool,
    /// Name of the overlay in use, or `none`.
    pub tunnel: &'static str,
    /// Whether what goes through it is sealed.
    pub encrypted: bool,
}

impl NodeSnapshot {
    /// The status as of this snapshot, times to come counted from `now`.
    pub fn status(&self, now: Instant) -> NodeStatus {
        let mut unicast = self.routes.unicast.clone();
        unicast.insert(self.us, PeerName::UNKNOWN);
        let copies = |origin| self.routes.copies(origin).to_vec();
        NodeStatus {
            mesh: self.mesh.status(&unicast, copies, now),
            tunnels: self.tunnels.clone(),
            ipam: self.ipam.as_ref().map(IpamSnapshot::status),
            clone_text: self.clone_text.clone(),
        }
    }
}

/// Counts connections, each with whether it is established, by what they have in common. `tunnels`
/// ascend by link.
pub(crate) fn by_class(
    connections: &[(LinkId, bool)],
    tunnels: &[TunnelStatus],
) -> BTreeMap<ConnectionClass, u64> {
    let mut counts = BTreeMap::new();
    for &(link, established) in connections {
        let found = tunnels.binary_search_by_key(&link, |tunnel| tunnel.link);
        let tunnel = found.ok().map(|index| &tunnels[index]);
        let class = ConnectionClass {
            established,
            tunnel: tunnel.map_or("none", |tunnel| tunnel.name),
            encrypted: tunnel.is_some_and(|tunnel| tunnel.cipher.is_some()),
        };
        *counts.entry(class).or_insert(0) += 1;
    }
    counts
}
