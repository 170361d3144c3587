//! What the operator asks for and sees, and what the node reads.

use std::collections::BTreeMap;
use std::time::Instant;

use wire::quote::printable;
use wire::topology::PeerSummary;
use wire::{LinkId, PeerName};

use super::Mesh;
use crate::status::{ConnectionStatus, MeshStatus};
use crate::{DirectPeer, MeshOutput};

impl Mesh {
    /// Adds direct peers; with `replace` forgets all earlier ones first. Those not connected are
    /// dialled at once.
    pub fn connect(&mut self, peers: Vec<DirectPeer>, replace: bool, now: Instant) {
        let changed = self.maker.connect(peers, replace, now);
        self.direct_peers_touched(changed, now);
    }

    /// Removes direct peers by the text they were given as. Connections stay.
    pub fn forget(&mut self, peers: &[String], now: Instant) {
        let changed = self.maker.forget(peers);
        self.direct_peers_touched(changed, now);
    }

    fn direct_peers_touched(&mut self, changed: bool, now: Instant) {
        if changed {
            let texts = self.maker.direct_peers();
            self.outputs
                .push_back(MeshOutput::DirectPeersChanged(texts));
        }
        self.targets_stale = true;
        self.settle(now);
    }

    /// Our own name.
    pub fn name(&self) -> PeerName {
        self.config.name
    }

    /// Our process incarnation.
    pub fn uid(&self) -> u64 {
        self.peers.own().uid
    }

    /// All peers known, ourselves included, ascending.
    pub fn peers(&self) -> impl Iterator<Item = PeerName> + '_ {
        self.peers.names()
    }

    /// Everybody gossip can reach over the topology as it is, ourselves included, ascending.
    pub fn reachable(&mut self) -> Vec<PeerName> {
        self.gossip_unicast_routes().keys().copied().collect()
    }

    /// How many addresses the user asked for that are dialled or would be again (spec/ipam.md 4).
    pub fn active_targets(&self) -> usize {
        self.maker.active_direct_count()
    }

    /// The nickname of a peer, if it is known.
    pub fn nickname(&self, peer: PeerName) -> Option<&str> {
        self.peers.get(peer).map(|peer| peer.nickname.as_str())
    }

    /// Destination to next hop over established symmetric connections; ourselves map to the unknown
    /// name (spec/mesh.md 12.1). As of the last `RoutesChanged`.
    pub fn unicast_established(&self) -> &BTreeMap<PeerName, PeerName> {
        self.routes.established.unicast()
    }

    /// The neighbours that get a copy of what `origin` broadcasts (spec/mesh.md 12.2). As of the last
    /// `RoutesChanged`.
    pub fn broadcast_established(&self, origin: PeerName) -> Vec<PeerName> {
        self.routes.established.broadcast(origin)
    }

    /// The process incarnation of a peer, if it is known; 0 if only its name is.
    pub fn incarnation(&self, peer: PeerName) -> Option<u64> {
        self.peers.get(peer).map(|peer| peer.uid)
    }

    /// Whether a peer lists a connection to another one as established; `None` if it lists none.
    pub fn lists_established(&self, peer: PeerName, remote: PeerName) -> Option<bool> {
        let adjacencies = &self.peers.get(peer)?.adjacencies;
        adjacencies.get(&remote).map(|found| found.established)
    }

    /// The short id of a peer, if it has one.
    pub fn short_id(&self, peer: PeerName) -> Option<u16> {
        self.peers.get(peer)?.short_id
    }

    /// The peer that owns a short id.
    pub fn short_id_owner(&self, short_id: u16) -> Option<PeerName> {
        self.peers.short_id_owner(short_id)
    }

    /// A copy of everything status and report print.
    pub fn status(&self, now: Instant) -> MeshStatus {
        let config = &self.config;
        let names: Vec<PeerName> = self.peers.names().collect();
        let broadcast_routes = names
            .iter()
            .map(|name| (*name, self.broadcast_established(*name)));
        MeshStatus {
            name: config.name,
            nickname: self.peers.own().nickname.clone(),
            uid: self.uid(),
            protocol_versions: (config.min_protocol_version, config.max_protocol_version),
            encryption: config.password.is_some(),
            discovery: config.discovery,
            peers: self.shown_peers(&names),
            unicast_routes: self
                .unicast_established()
                .iter()
                .map(|(to, hop)| (*to, *hop))
                .collect(),
            broadcast_routes: broadcast_routes.collect(),
            connections: self
                .connections
                .values()
                .map(|id| self.connection_status(*id))
                .collect(),
            targets: self.maker.status(now),
            direct_peers: self.maker.direct_peers(),
            termination_count: self.maker.termination_count(),
            trusted_subnets: config
                .trusted_subnets
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }

    /// Entries as users may see them: peers choose their texts.
    fn shown_peers(&self, names: &[PeerName]) -> Vec<PeerSummary> {
        let mut peers = self.peers.summaries(names);
        for peer in &mut peers {
            peer.nickname = printable(&peer.nickname);
            for connection in &mut peer.connections {
                connection.remote_address = printable(&connection.remote_address);
            }
        }
        peers
    }

    fn connection_status(&self, id: LinkId) -> ConnectionStatus {
        let link = self.links.get(&id).expect("our connections have links");
        let introduced = link.introduced().expect("our connections are introduced");
        let features = &introduced.features;
        let adjacency = self.peers.own().adjacencies.get(&features.name);
        ConnectionStatus {
            link: id,
            remote: features.name,
            remote_nickname: printable(&features.nickname),
            remote_address: link.remote,
            outbound: id.is_outbound(),
            established: adjacency.is_some_and(|adjacency| adjacency.established),
            data_encrypted: introduced.encrypts_data(),
            protocol_version: introduced.version,
            weft: features.weft.as_ref().map(|weft| {
                let words = weft.capabilities.iter();
                words.map(|word| printable(word)).collect()
            }),
        }
    }
}
