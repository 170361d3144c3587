//! What a status is made of: parts of an allocator, shared with it as far as they are large.
//!
//! The allocator makes one in a moment; looking at every entry of the ring is left to whoever reads
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wire::PeerName;

use crate::address::{Cidr, Range, Subnet};
use crate::ring::Ring;
use crate::status::{
    ContestStatus, DisplacedStatus, ElectionStatus, EntryStatus, IpamStatus, OwnerStatus, Phase,
};

/// The state of an allocator at one moment.
#[derive(Debug, Clone)]
pub struct IpamSnapshot {
    pub(crate) us: PeerName,
    pub(crate) universe: Subnet,
    pub(crate) default_subnet: Subnet,
    pub(crate) active: u64,
    pub(crate) shares: Shares,
    pub(crate) nicknames: Arc<BTreeMap<PeerName, String>>,
    /// While the election waits for others.
    pub(crate) election: Option<ElectionStatus>,
    pub(crate) pending_claims: Vec<(String, Cidr)>,
    pub(crate) pending_allocates: Vec<(String, Subnet)>,
    pub(crate) contested: Vec<ContestStatus>,
    pub(crate) unconfirmed: Vec<Range>,
    pub(crate) displaced: Vec<DisplacedStatus>,
    pub(crate) refused: Vec<(PeerName, String)>,
}

/// Counts for metrics. Taking them looks at no entry of the ring.
#[derive(Debug, Clone)]
pub struct IpamCounts {
    /// Addresses in use here, inside the universe.
    pub active: u64,
    /// Addresses that are managed.
    pub universe: u64,
    /// Where addresses are allocated by default.
    pub default_subnet: Subnet,
    /// Claims that wait.
    pub pending_claims: usize,
    /// Allocations that wait.
    pub pending_allocates: usize,
    /// Ranges nobody here may use because two peers say they own them.
    pub contested: usize,
    /// Ranges we do not use until their former owner agrees or is gone.
    pub unconfirmed: usize,
    /// Addresses of running containers whose range was taken over.
    pub displaced: usize,
    /// To be counted by who reads it.
    pub shares: Shares,
}

/// Who owns what, and who of them can be reached.
#[derive(Debug, Clone)]
pub struct Shares {
    pub(crate) ring: Ring,
    /// Whom the mesh can reach, us included.
    pub(crate) known: Arc<BTreeSet<PeerName>>,
}

/// What peers own that cannot be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unreachable {
    /// How many peers that are.
    pub peers: usize,
    /// How many addresses they own.
    pub addresses: u64,
}

impl Shares {
    /// Entries of the ring; one that wraps counts twice.
    pub fn entries(&self) -> usize {
        self.ring.segments().count()
    }

    /// What those own that cannot be reached.
    pub fn unreachable(&self) -> Unreachable {
        let owned = self.owned().into_iter();
        let lost = owned.filter(|(peer, _)| !self.known.contains(peer));
        lost.fold(Unreachable::default(), |sum, (_, addresses)| Unreachable {
            peers: sum.peers + 1,
            addresses: sum.addresses + addresses,
        })
    }

    fn owned(&self) -> BTreeMap<PeerName, u64> {
        let mut owned: BTreeMap<PeerName, u64> = BTreeMap::new();
        for (range, peer) in self.ring.segments() {
            *owned.entry(peer).or_default() += u64::from(range.size());
        }
        owned
    }

    fn is_somebody_here(&self) -> bool {
        let mut entries = self.ring.entries().iter();
        entries.any(|entry| self.known.contains(&entry.peer))
    }
}

impl IpamSnapshot {
    /// The status as of this snapshot.
    pub fn status(&self) -> IpamStatus {
        let has_ring = !self.shares.ring.is_empty();
        IpamStatus {
            phase: self.phase(),
            universe: self.universe,
            default_subnet: self.default_subnet,
            active: self.active,
            entries: has_ring.then(|| self.entries()),
            owners: self.owners(),
            election: self.election.filter(|_| !has_ring),
            pending_claims: self.pending_claims.clone(),
            pending_allocates: self.pending_allocates.clone(),
            contested: self.contested.clone(),
            unconfirmed: self.unconfirmed.clone(),
            displaced: self.displaced.clone(),
            refused: self.refused.clone(),
        }
    }

    fn phase(&self) -> Phase {
        if !self.shares.ring.is_empty() {
            return if !self.shares.is_somebody_here() {
                Phase::OwnersUnreachable
            } else if !self.pending_allocates.is_empty() {
                Phase::AwaitingSpace
            } else {
                Phase::Ready
            };
        }
        match self.election {
            None => Phase::Idle,
            Some(election) if !election.is_elector => Phase::Priming,
            Some(election) => Phase::AwaitingConsensus {
                quorum: election.quorum,
                known: election.known_nodes,
            },
        }
    }

    fn entries(&self) -> Vec<EntryStatus> {
        let entries = self.shares.ring.entries();
        let last = entries.last().map_or(0, |entry| entry.version);
        let version = |start: u32| {
            let found = entries.binary_search_by_key(&start, |entry| entry.token);
            found.map_or(last, |index| entries[index].version)
        };
        let segments = self.shares.ring.segments();
        segments
            .map(|(range, peer)| EntryStatus {
                token: range.start,
                size: range.size(),
                peer,
                nickname: self.nickname(peer),
                is_known: self.shares.known.contains(&peer),
                version: version(range.start),
            })
            .collect()
    }

    fn owners(&self) -> Vec<OwnerStatus> {
        let mut owners: Vec<OwnerStatus> = self
            .shares
            .owned()
            .into_iter()
            .map(|(peer, addresses)| OwnerStatus {
                peer,
                nickname: self.nickname(peer),
                addresses,
                is_known: self.shares.known.contains(&peer),
            })
            .collect();
        owners.sort_by_key(|owner| (owner.peer != self.us, owner.peer));
        owners
    }

    fn nickname(&self, peer: PeerName) -> String {
        self.nicknames.get(&peer).cloned().unwrap_or_default()
    }
}
