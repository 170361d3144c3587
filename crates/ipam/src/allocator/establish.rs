//! How a ring comes into being (spec/ipam.md 4).

use std::collections::BTreeMap;

use wire::PeerName;
use wire::ipam::{NodeClaims, NodeId};

use super::Ipam;
use super::store::SavedElection;
use crate::paxos::Paxos;
use crate::{Init, IpamOutput};

/// The election of those who get the first shares.
#[derive(Debug, Clone)]
pub(super) struct Election {
    /// Tells us from what we were before a restart that forgot our promises.
    uid: u64,
    /// How many addresses we were told to connect to.
    pub(super) targets: usize,
    /// Our votes, once there is something to vote on. Never that of an observer.
    paxos: Option<Paxos>,
    /// Whether somebody here needs a ring.
    is_awaiting: bool,
    /// Whether the quorum is settled: it must not change once we proposed.
    is_quorum_fixed: bool,
}

impl Election {
    pub(super) const fn new(uid: u64) -> Self {
        Self {
            uid,
            targets: 0,
            paxos: None,
            is_awaiting: false,
            is_quorum_fixed: false,
        }
    }

    /// Goes on where it stopped: as the same node, bound by its promises.
    pub(super) fn restore(&mut self, us: PeerName, saved: SavedElection) {
        let node = NodeId {
            name: us,
            uid: saved.uid,
        };
        self.uid = saved.uid;
        self.is_quorum_fixed = true;
        self.paxos = Some(Paxos::restore(node, saved.quorum, saved.claims));
    }

    /// What must survive a restart.
    pub(super) fn to_save(&self) -> Option<(u64, usize, &BTreeMap<NodeId, NodeClaims>)> {
        let paxos = self.paxos.as_ref()?;
        paxos.ours()?;
        Some((self.uid, paxos.quorum(), paxos.gossip_state()))
    }

    /// What is told to others while there is no ring.
    pub(super) fn gossip_state(&self) -> BTreeMap<NodeId, NodeClaims> {
        let paxos = self.paxos.as_ref();
        paxos.map_or_else(BTreeMap::new, |paxos| paxos.gossip_state().clone())
    }

    /// There is a ring.
    pub(super) fn close(&mut self) {
        self.paxos = None;
        self.is_awaiting = false;
    }

    /// Whether somebody here waits for a ring.
    pub(super) const fn is_awaiting(&self) -> bool {
        self.is_awaiting
    }

    /// Nodes heard of, and votes needed; 0 until that is settled.
    pub(super) fn census(&self) -> (usize, usize) {
        let paxos = self.paxos.as_ref();
        let quorum = |paxos: &Paxos| {
            if self.is_quorum_fixed {
                paxos.quorum()
            } else {
                0
            }
        };
        paxos.map_or((0, 0), |paxos| (paxos.known_nodes(), quorum(paxos)))
    }
}

impl Ipam {
    /// Whether we take part in elections.
    pub(super) const fn is_elector(&self) -> bool {
        !matches!(self.config.init, Init::Observer)
    }

    /// How many peers the cluster begins with, as far as we were told.
    pub(super) const fn cluster_size(&self) -> usize {
        match self.config.init {
            Init::Consensus(Some(size)) => size,
            Init::Consensus(None) | Init::Seed(_) | Init::Observer => self.election.targets + 1,
        }
    }

    /// Somebody needs a ring. Does nothing if there is one or it is awaited already.
    pub(super) fn establish(&mut self) {
        let is_barred = self.event.is_leaving || self.event.clone.is_some();
        if !self.ring.is_empty() || self.election.is_awaiting || is_barred {
            return;
        }
        self.election.is_awaiting = true;
        if self.is_elector() && !self.election.is_quorum_fixed {
            let quorum = self.cluster_size() / 2 + 1;
            if matches!(self.config.init, Init::Consensus(None)) {
                self.say(format_args!("Assuming quorum size of {quorum}"));
            }
            self.paxos().set_quorum(quorum);
            self.election.is_quorum_fixed = true;
        }
        self.propose();
    }

    /// Calls another ballot if one is awaited; an observer asks again.
    pub(super) fn propose_again(&mut self) {
        if self.election.is_awaiting && self.ring.is_empty() && self.event.clone.is_none() {
            self.propose();
        }
    }

    fn propose(&mut self) {
        if self.is_elector() {
            self.paxos().propose();
        }
        self.effect(IpamOutput::Broadcast);
        self.conclude();
    }

    /// Learns how others vote, and votes.
    pub(super) fn receive_votes(&mut self, received: &BTreeMap<NodeId, NodeClaims>) {
        let is_barred = self.event.is_leaving || self.event.clone.is_some();
        if !self.is_elector() || received.is_empty() || is_barred {
            return;
        }
        if !self.paxos().update(received) {
            return;
        }
        if self.paxos().think() {
            self.effect(IpamOutput::Broadcast);
        }
        self.conclude();
    }

    /// Divides the ring if it was chosen among whom. Not before our own quorum is settled: until
    /// then nobody here needs one, and whoever does sends us theirs.
    fn conclude(&mut self) {
        if !self.election.is_quorum_fixed {
            return;
        }
        let chosen = self.election.paxos.as_ref().and_then(Paxos::consensus);
        if let Some(peers) = chosen {
            self.create_ring(&peers);
        }
    }

    /// Divides the empty ring.
    pub(super) fn create_ring(&mut self, peers: &[PeerName]) {
        if peers.is_empty() || !self.ring.is_empty() {
            return;
        }
        self.ring.claim_for_peers(peers);
        for range in self.ring.owned_ranges(self.config.name) {
            self.space.own(range);
        }
        self.ring_changed();
        self.effect(IpamOutput::Broadcast);
    }

    fn paxos(&mut self) -> &mut Paxos {
        let node = NodeId {
            name: self.config.name,
            uid: self.election.uid,
        };
        let quorum = self.cluster_size() / 2 + 1;
        self.election
            .paxos
            .get_or_insert_with(|| Paxos::new(node, quorum))
    }
}
