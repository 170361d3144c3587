//! The table of peers: who exists, who is linked to whom as they say it, and which entries are kept.
//!
//! Our own entry is one of them; it changes only by what we do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::Rng;
use wire::PeerName;
use wire::handshake::Features;
use wire::topology::PeerSummary;

use super::doubts::Doubts;
use super::entry::{NICKNAME_BYTES_MAX, Peer, peer_label, truncated};
use super::shortid::{SHORT_IDS, ShortIds};

/// Most entries gossip may bring us to; there are no more short ids than that. Peers connected to us
/// are always admitted.
pub(crate) const PEERS_MAX: usize = 4096;
/// Most adjacencies of all peers together: a full mesh of 362 peers.
pub(crate) const ADJACENCIES_MAX: usize = 131_072;
/// An entry of our name that another incarnation tells, greater than ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rival {
    /// Its incarnation.
    pub(crate) uid: u64,
    /// Its version.
    pub(crate) version: u64,
}

/// All peers known, ourselves included.
#[derive(Debug)]
pub(crate) struct PeerTable {
    us: PeerName,
    /// Shared with the snapshots made of it: an entry is copied only if it changes while one is kept.
    peers: BTreeMap<PeerName, Arc<Peer>>,
    short_ids: ShortIds,
    doubts: Doubts,
    /// Sum over all peers but ourselves.
    adjacency_count: usize,
    /// Counts changes of entries.
    revision: u64,
    /// The greatest entry of our name that another incarnation told since last asked.
    rival: Option<Rival>,
}

impl PeerTable {
    /// A table with ourselves alone, at version 0.
    pub(crate) fn new(us: PeerName, nickname: &str, uid: u64, short_id: u16) -> Self {
        assert!(!us.is_unknown(), "our name must not be the reserved one");
        let mut own = Peer {
            nickname: truncated(nickname, NICKNAME_BYTES_MAX),
            uid,
            short_id: Some(short_id),
            ..Peer::placeholder()
        };
        // Our entry is whole from the beginning, and our neighbours hear of each change from us.
        own.history.told = true;
        let mut short_ids = ShortIds::default();
        short_ids.add(short_id, us);
        Self {
            us,
            peers: BTreeMap::from([(us, Arc::new(own))]),
            short_ids,
            doubts: Doubts::default(),
            adjacency_count: 0,
            revision: 0,
            rival: None,
        }
    }

    /// Our own name.
    pub(crate) fn us(&self) -> PeerName {
        self.us
    }

    /// Our own entry.
    pub(crate) fn own(&self) -> &Peer {
        self.peers.get(&self.us).expect("we are in our own table")
    }

    /// Somebody else tells an entry of our name that was greater than ours.
    pub(crate) fn note_rival(&mut self, rival: Rival) {
        if self.rival.is_none_or(|known| known.version < rival.version) {
            self.rival = Some(rival);
        }
    }

    /// What was noted since last asked.
    pub(crate) fn take_rival(&mut self) -> Option<Rival> {
        self.rival.take()
    }

    /// Changes whenever an entry does.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Our own entry, to be changed: counts as a new version.
    pub(crate) fn change_own(&mut self) -> &mut Peer {
        self.revision += 1;
        let own = self.peers.get_mut(&self.us);
        let own = Arc::make_mut(own.expect("we are in our own table"));
        own.version = own.version.saturating_add(1);
        own.revision = self.revision;
        own
    }

    /// The entry of a peer.
    pub(crate) fn get(&self, name: PeerName) -> Option<&Peer> {
        self.peers.get(&name).map(|peer| &**peer)
    }

    /// All entries, ascending by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PeerName, &Peer)> {
        self.peers.iter().map(|(name, peer)| (*name, &**peer))
    }

    /// All entries as they are, ascending by name.
    pub(crate) fn snapshot(&self) -> Vec<(PeerName, Arc<Peer>)> {
        let entries = self.peers.iter();
        entries
            .map(|(name, peer)| (*name, Arc::clone(peer)))
            .collect()
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    /// All names, ascending.
    pub(crate) fn names(&self) -> impl Iterator<Item = PeerName> + '_ {
        self.peers.keys().copied()
    }

    /// Short ids and their owners.
    pub(crate) fn short_ids(&mut self) -> &mut ShortIds {
        &mut self.short_ids
    }

    /// What is doubtful about the entries.
    pub(crate) fn doubts(&mut self) -> &mut Doubts {
        &mut self.doubts
    }

    /// Every short id in use and its owner.
    pub(crate) fn short_id_owners(&self) -> BTreeMap<u16, PeerName> {
        self.short_ids.owners()
    }

    /// The owner of a short id.
    pub(crate) fn short_id_owner(&self, id: u16) -> Option<PeerName> {
        self.short_ids.owner(id)
    }

    /// `name(nickname)`, as log lines and error texts name a peer.
    pub(crate) fn label(&self, name: PeerName) -> String {
        peer_label(name, self.get(name).map_or("", |peer| &peer.nickname))
    }

    /// Holds a peer's entry for the life of a connection, made from the introduction if there is
    /// none (spec/mesh.md 3.5 step 2).
    pub(crate) fn hold(&mut self, features: &Features) {
        if !self.peers.contains_key(&features.name) {
            let entry = Peer {
                nickname: truncated(&features.nickname, NICKNAME_BYTES_MAX),
                uid: features.uid,
                short_id: features.short_id.filter(|id| *id < SHORT_IDS),
                ..Peer::placeholder()
            };
            self.put(features.name, entry);
        }
        let entry = self.peers.get_mut(&features.name);
        let entry = Arc::make_mut(entry.expect("was there or was put there"));
        entry.references += 1;
    }

    /// Ends a hold.
    pub(crate) fn release(&mut self, name: PeerName) {
        let entry = self.peers.get_mut(&name);
        let entry = Arc::make_mut(entry.expect("a held entry is not collected"));
        entry.references = entry
            .references
            .checked_sub(1)
            .expect("release follows hold");
    }

    /// Inserts or replaces an entry other than ours, keeping its references and the counts right.
    fn put(&mut self, name: PeerName, mut entry: Peer) {
        assert_ne!(name, self.us, "our entry changes only by what we do");
        self.revision += 1;
        self.adjacency_count += entry.adjacencies.len();
        entry.date(self.get(name));
        entry.revision = self.revision;
        if let Some(old) = self.peers.get(&name) {
            self.adjacency_count -= old.adjacencies.len();
            entry.references = old.references;
            if let Some(id) = old.short_id.filter(|id| Some(*id) != entry.short_id) {
                self.short_ids.remove(id, name);
            }
        }
        if let Some(id) = entry.short_id {
            self.short_ids.add(id, name);
        }
        self.peers.insert(name, Arc::new(entry));
    }

    /// Notes whether a peer itself tells all its neighbours of the present version.
    pub(crate) fn set_told(&mut self, name: PeerName, told: bool) {
        let entry = self.peers.get_mut(&name);
        if let Some(entry) = entry.filter(|entry| entry.history.told != told) {
            Arc::make_mut(entry).history.told = told;
        }
    }

    /// Takes over what gossip says about a peer, if there is room. Whether it was taken.
    pub(crate) fn accept(&mut self, name: PeerName, entry: Peer) -> bool {
        let old = self.peers.get(&name);
        if old.is_none() && self.peers.len() >= PEERS_MAX {
            return false;
        }
        let kept = self.adjacency_count - old.map_or(0, |old| old.adjacencies.len());
        if kept + entry.adjacencies.len() > ADJACENCIES_MAX {
            return false;
        }
        self.put(name, entry);
        true
    }

    /// Makes sure that the peers a peer is connected to have entries, as far as there is room.
    pub(crate) fn add_placeholders(&mut self, name: PeerName) {
        let Some(peer) = self.peers.get(&name) else {
            return;
        };
        let missing: Vec<PeerName> = peer
            .adjacencies
            .keys()
            .filter(|n| !self.peers.contains_key(n))
            .copied()
            .collect();
        let room = PEERS_MAX.saturating_sub(self.peers.len());
        for remote in missing.into_iter().take(room) {
            self.put(remote, Peer::placeholder());
        }
    }

    /// Takes another short id if a lower-named peer claims ours. Whether our entry changed.
    pub(crate) fn contest_short_id(&mut self, rng: &mut impl Rng) -> bool {
        let ours = self.own().short_id.expect("we always have a short id");
        if self.short_ids.owner(ours) == Some(self.us) {
            return false;
        }
        let Some(free) = self.short_ids.choose_free(rng) else {
            return false;
        };
        self.short_ids.remove(ours, self.us);
        self.short_ids.add(free, self.us);
        self.change_own().short_id = Some(free);
        true
    }

    /// Drops every entry that is neither reachable from us nor held (spec/mesh.md 8.5), and returns
    /// the names and labels of what was dropped.
    pub(crate) fn collect_garbage(&mut self) -> Vec<(PeerName, String)> {
        let reachable = self.reachable();
        let doomed: Vec<(PeerName, String)> = self
            .peers
            .iter()
            .filter(|(name, peer)| peer.references == 0 && !reachable.contains(name))
            .map(|(name, peer)| (*name, peer_label(*name, &peer.nickname)))
            .collect();
        self.revision += 1;
        for (name, _) in &doomed {
            let entry = self.peers.remove(name).expect("was just listed");
            self.doubts.forget(*name);
            self.adjacency_count -= entry.adjacencies.len();
            if let Some(id) = entry.short_id {
                self.short_ids.remove(id, *name);
            }
        }
        doomed
    }

    /// Everybody found by following connections outwards from us, in the direction listed.
    fn reachable(&self) -> BTreeSet<PeerName> {
        let mut reached = BTreeSet::from([self.us]);
        let mut open = vec![self.us];
        while let Some(name) = open.pop() {
            let Some(peer) = self.peers.get(&name) else {
                continue;
            };
            for remote in peer.adjacencies.keys() {
                if self.peers.contains_key(remote) && reached.insert(*remote) {
                    open.push(*remote);
                }
            }
            if reached.len() == self.peers.len() {
                break;
            }
        }
        reached
    }

    /// Adjacencies of all peers together.
    pub(crate) fn adjacency_count(&self) -> usize {
        self.adjacency_count + self.own().adjacencies.len()
    }

    /// How many doubts about entries are remembered.
    pub(crate) fn doubt_count(&self) -> usize {
        self.doubts.len()
    }

    /// The named entries in the form that travels. Names without an entry are left out.
    pub(crate) fn summaries<'a>(
        &self,
        names: impl IntoIterator<Item = &'a PeerName>,
    ) -> Vec<PeerSummary> {
        let entries = names
            .into_iter()
            .filter_map(|name| Some((*name, self.peers.get(name)?)));
        entries.map(|(name, peer)| peer.to_summary(name)).collect()
    }

    /// Whether the counts and claims agree with the entries.
    #[cfg(test)]
    pub(crate) fn assert_consistent(&self) {
        let others = self.peers.iter().filter(|(name, _)| **name != self.us);
        let count: usize = others.map(|(_, peer)| peer.adjacencies.len()).sum();
        assert_eq!(count, self.adjacency_count);
        for (name, peer) in &self.peers {
            if let Some(id) = peer.short_id {
                assert!(self.short_ids.owner(id).is_some_and(|owner| owner <= *name));
            }
        }
    }
}
