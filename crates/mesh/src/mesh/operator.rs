//! What the operator asks for and sees, and what the node reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use wire::{LinkId, PeerName};

use super::Mesh;
use super::snapshot::{MeshSnapshot, SharedConnection};
use crate::status::{MeshCounts, MeshStatus};
use crate::{DirectPeer, MeshOutput};

impl Mesh {
    /// Adds direct peers; with `replace` forgets all earlier ones first. Those not connected are
    /// dialled at once.
    pub fn connect(&mut self, peers: Vec<DirectPeer>, replace: bool, now: Instant) {
        let changed = self.dials.maker.connect(peers, replace, now);
        self.direct_peers_touched(changed, now);
    }

    /// Removes direct peers by the text they were given as. Connections stay.
    pub fn forget(&mut self, peers: &[String], now: Instant) {
        let changed = self.dials.maker.forget(peers);
        self.direct_peers_touched(changed, now);
    }

    fn direct_peers_touched(&mut self, changed: bool, now: Instant) {
        if changed {
            let texts = self.dials.maker.direct_peers();
            self.outputs.push(MeshOutput::DirectPeersChanged(texts));
        }
        self.dials.look_again();
        self.settle(now);
    }

    /// While another live machine has our name: a sentence that says so and who it is.
    pub fn clone_text(&self) -> Option<&str> {
        self.clones.text()
    }

    /// Our own name.
    pub fn name(&self) -> PeerName {
        self.config.name
    }

    /// Our process incarnation.
    pub fn uid(&self) -> u64 {
        self.topology.peers.own().uid
    }

    /// All peers known, ourselves included, ascending.
    pub fn peers(&self) -> impl Iterator<Item = PeerName> + '_ {
        self.topology.peers.names()
    }

    /// Every short id in use and its owner (spec/mesh.md 9).
    pub fn short_ids(&self) -> BTreeMap<u16, PeerName> {
        self.topology.peers.short_id_owners()
    }

    /// Everybody gossip can reach over the topology as it is, ourselves included, ascending.
    pub fn reachable(&mut self) -> Vec<PeerName> {
        self.topology.gossip_unicast().keys().copied().collect()
    }

    /// How many addresses the user asked for that are dialled or would be again (spec/ipam.md 4).
    pub fn active_targets(&self) -> usize {
        self.dials.maker.active_direct_count()
    }

    /// The nickname of a peer, if it is known.
    pub fn nickname(&self, peer: PeerName) -> Option<&str> {
        self.topology
            .peers
            .get(peer)
            .map(|peer| peer.nickname.as_str())
    }

    /// Destination to next hop over established symmetric connections; ourselves map to the unknown
    /// name (spec/mesh.md 12.1). As of the last `RoutesChanged`.
    pub fn unicast_established(&self) -> &BTreeMap<PeerName, PeerName> {
        self.topology.established().unicast()
    }

    /// The neighbours that get a copy of what `origin` broadcasts (spec/mesh.md 12.2). As of the last
    /// `RoutesChanged`.
    pub fn broadcast_established(&self, origin: PeerName) -> Vec<PeerName> {
        self.topology.established().broadcast(origin)
    }

    /// The process incarnation of a peer, if it is known; 0 if only its name is.
    pub fn incarnation(&self, peer: PeerName) -> Option<u64> {
        self.topology.peers.get(peer).map(|peer| peer.uid)
    }

    /// Whether a peer lists a connection to another one as established; `None` if it lists none.
    pub fn lists_established(&self, peer: PeerName, remote: PeerName) -> Option<bool> {
        let adjacencies = &self.topology.peers.get(peer)?.adjacencies;
        adjacencies.get(&remote).map(|found| found.established)
    }

    /// The short id of a peer, if it has one.
    pub fn short_id(&self, peer: PeerName) -> Option<u16> {
        self.topology.peers.get(peer)?.short_id
    }

    /// The peer that owns a short id.
    pub fn short_id_owner(&self, short_id: u16) -> Option<PeerName> {
        self.topology.peers.short_id_owner(short_id)
    }

    /// A copy of everything status and report print.
    pub fn status(&self, now: Instant) -> MeshStatus {
        let unicast = self.unicast_established();
        let copies = |origin| self.broadcast_established(origin);
        self.snapshot().status(unicast, copies, now)
    }

    /// What a status is made of, by whoever wants one. Entries of peers are shared, so it costs
    /// little even if there are thousands.
    pub fn snapshot(&self) -> MeshSnapshot {
        let config = &self.config;
        let connections = self.table.connections();
        MeshSnapshot {
            name: config.name,
            protocol_versions: (config.min_protocol_version, config.max_protocol_version),
            encryption: config.password.is_some(),
            discovery: config.discovery,
            peers: self.topology.peers.snapshot(),
            connections: connections
                .map(|(_, id)| self.shared_connection(id))
                .collect(),
            targets: self.dials.maker.snapshot(),
            direct_peers: self.dials.maker.direct_peers(),
            termination_count: self.dials.maker.termination_count(),
            trusted_subnets: config.trusted_subnets.clone(),
        }
    }

    /// Counts for metrics.
    pub fn counts(&self) -> MeshCounts {
        let adjacencies = &self.topology.peers.own().adjacencies;
        let is_established = |name: PeerName| {
            let found = adjacencies.get(&name);
            found.is_some_and(|found| found.established)
        };
        let connections = self.table.connections();
        MeshCounts {
            peers: self.topology.peers.len(),
            connections: connections
                .map(|(name, id)| (id, is_established(name)))
                .collect(),
            targets: self.dials.maker.counts(),
            termination_count: self.dials.maker.termination_count(),
        }
    }

    fn shared_connection(&self, id: LinkId) -> SharedConnection {
        let link = self.table.get(id).expect("our connections have links");
        let introduced = link.introduced().expect("our connections are introduced");
        SharedConnection {
            link: id,
            features: Arc::clone(&introduced.features),
            remote_address: link.remote,
            data_encrypted: introduced.encrypts_data(),
            protocol_version: introduced.version,
        }
    }
}
