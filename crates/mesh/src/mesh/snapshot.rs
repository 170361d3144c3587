//! What a status is made of: parts of the mesh, shared with it as far as they are large.
//!
//! The mesh makes one in a moment; the copying and the formatting are left to whoever reads it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use wire::handshake::Features;
use wire::quote::printable;
use wire::topology::PeerSummary;
use wire::{LinkId, PeerName};

use crate::TrustedSubnet;
use crate::maker::Target;
use crate::peers::Peer;
use crate::status::{ConnectionStatus, MeshStatus, TargetStatus};

/// The state of a mesh at one moment.
#[derive(Debug, Clone)]
pub struct MeshSnapshot {
    pub(crate) name: PeerName,
    pub(crate) protocol_versions: (u8, u8),
    pub(crate) encryption: bool,
    pub(crate) discovery: bool,
    /// Ascending by name, ourselves included.
    pub(crate) peers: Vec<(PeerName, Arc<Peer>)>,
    pub(crate) connections: Vec<SharedConnection>,
    /// In all states.
    pub(crate) targets: Vec<(SocketAddr, Target)>,
    pub(crate) direct_peers: Vec<String>,
    pub(crate) termination_count: u64,
    pub(crate) trusted_subnets: Vec<TrustedSubnet>,
}

/// One live connection.
#[derive(Debug, Clone)]
pub(crate) struct SharedConnection {
    pub(crate) link: LinkId,
    /// Of the other end.
    pub(crate) features: Arc<Features>,
    pub(crate) remote_address: SocketAddr,
    pub(crate) data_encrypted: bool,
    pub(crate) protocol_version: u8,
}

impl MeshSnapshot {
    /// The status as of this snapshot, times to come counted from `now`. Routes over established
    /// symmetric connections come from whoever keeps them: destination to next hop, ourselves
    /// included, and the neighbours that get a copy of what an origin broadcasts.
    pub fn status(
        &self,
        unicast: &BTreeMap<PeerName, PeerName>,
        copies: impl Fn(PeerName) -> Vec<PeerName>,
        now: Instant,
    ) -> MeshStatus {
        let own = self.own();
        let names = self.peers.iter().map(|(name, _)| *name);
        let connections = self.connections.iter();
        MeshStatus {
            name: self.name,
            nickname: own.nickname.clone(),
            uid: own.uid,
            protocol_versions: self.protocol_versions,
            encryption: self.encryption,
            discovery: self.discovery,
            peers: self.peers.iter().map(shown_peer).collect(),
            unicast_routes: unicast.iter().map(|(to, hop)| (*to, *hop)).collect(),
            broadcast_routes: names.map(|name| (name, copies(name))).collect(),
            connections: connections
                .map(|connection| connection.status(own))
                .collect(),
            targets: self
                .targets
                .iter()
                .filter_map(|(address, target)| {
                    let state = target.shown(now)?;
                    let address = *address;
                    Some(TargetStatus { address, state })
                })
                .collect(),
            direct_peers: self.direct_peers.clone(),
            termination_count: self.termination_count,
            trusted_subnets: self
                .trusted_subnets
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }

    fn own(&self) -> &Peer {
        let found = self
            .peers
            .binary_search_by_key(&self.name, |(name, _)| *name);
        &self.peers[found.expect("we are in our own table")].1
    }
}

impl SharedConnection {
    fn status(&self, own: &Peer) -> ConnectionStatus {
        let features = &self.features;
        let adjacency = own.adjacencies.get(&features.name);
        ConnectionStatus {
            link: self.link,
            remote: features.name,
            remote_nickname: printable(&features.nickname),
            remote_address: self.remote_address,
            outbound: self.link.is_outbound(),
            established: adjacency.is_some_and(|adjacency| adjacency.established),
            data_encrypted: self.data_encrypted,
            protocol_version: self.protocol_version,
            weft: features.weft.as_ref().map(|weft| {
                let words = weft.capabilities.iter();
                words.map(|word| printable(word)).collect()
            }),
        }
    }
}

/// An entry as users may see it: peers choose their texts.
fn shown_peer((name, peer): &(PeerName, Arc<Peer>)) -> PeerSummary {
    let mut shown = peer.to_summary(*name);
    shown.nickname = printable(&shown.nickname);
    for connection in &mut shown.connections {
        connection.remote_address = printable(&connection.remote_address);
    }
    shown
}
