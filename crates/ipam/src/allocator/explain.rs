//! What an operator sees: status (spec/ipam.md 12), and why a request is not served.

use std::collections::BTreeMap;
use std::sync::Arc;

use wire::PeerName;

use super::Ipam;
use super::waiting::{Allocation, Claim};
use crate::Refusal;
use crate::address::Range;
use crate::refusal::{Dispute, NoRing, Share, Stance};
use crate::snapshot::{IpamCounts, IpamSnapshot, Shares};
use crate::status::{ElectionStatus, IpamStatus};

impl Ipam {
    /// What an operator sees.
    pub fn status(&self) -> IpamStatus {
        self.snapshot().status()
    }

    /// What a status is made of, by whoever wants one. The ring and the names are shared, so it
    /// costs little even if there are thousands of entries.
    pub fn snapshot(&self) -> IpamSnapshot {
        let (known_nodes, quorum) = self.election.census();
        let election = ElectionStatus {
            is_elector: self.is_elector(),
            known_nodes,
            quorum,
        };
        let claims = self.queues.claims.iter().map(|waiting| &waiting.what);
        let allocations = self.queues.allocations.iter().map(|waiting| &waiting.what);
        let fence = self.disputes.fence.iter();
        IpamSnapshot {
            us: self.config.name,
            universe: self.config.universe,
            default_subnet: self.config.default_subnet,
            active: self.space.active(),
            shares: self.shares(),
            nicknames: Arc::clone(&self.mesh.nicknames),
            election: self.election.is_awaiting().then_some(election),
            pending_claims: claims.map(|c| (c.ident.clone(), c.cidr)).collect(),
            pending_allocates: allocations.map(|a| (a.ident.clone(), a.subnet)).collect(),
            contested: self.disputes.contested(),
            unconfirmed: fence.map(|(range, _)| *range).collect(),
            displaced: self.displaced.status(),
            refused: self.disputes.refused(),
        }
    }

    /// Counts for metrics.
    pub fn counts(&self) -> IpamCounts {
        IpamCounts {
            active: self.space.active(),
            universe: self.config.universe.size(),
            default_subnet: self.config.default_subnet,
            pending_claims: self.queues.claims.len(),
            pending_allocates: self.queues.allocations.len(),
            contested: self.disputes.contested().len(),
            unconfirmed: self.disputes.fence.len(),
            displaced: self.displaced.len(),
            shares: self.shares(),
        }
    }

    fn shares(&self) -> Shares {
        Shares {
            ring: self.ring.clone(),
            known: Arc::clone(&self.mesh.known),
        }
    }

    /// Why there is no ring.
    pub(super) fn no_ring_reason(&self) -> NoRing {
        if let Some(text) = &self.event.clone {
            return NoRing::NameTaken(text.clone());
        }
        if !self.is_elector() {
            return NoRing::Observer;
        }
        let (nodes, quorum) = self.election.census();
        NoRing::NoMajority {
            known: nodes.max(1),
            size: self.cluster_size().max(quorum),
            quorum,
        }
    }

    /// Why an address is not given out.
    pub(super) fn allocation_reason(&self, what: &Allocation) -> Refusal {
        if self.ring.is_empty() {
            return self.no_ring_reason().into();
        }
        let (subnet, us) = (what.subnet, self.config.name);
        let universe = self.config.universe.range();
        let Some(wanted) = subnet.host_range().intersection(universe) else {
            return Refusal::NotManaged { subnet };
        };
        let owners = self.free_by_owner(wanted);
        let has_free = owners.get(&us).is_some_and(|owner| owner.free > 0);
        if let Some(dispute) = self.disputed_in(wanted).filter(|_| has_free) {
            return dispute.into();
        }
        let others = owners
            .iter()
            .filter(|(peer, owner)| **peer != us && owner.free > 0);
        let (silent, unreachable): (Vec<_>, Vec<_>) = others
            .map(|(peer, owner)| self.share(*peer, owner.free))
            .partition(|share| self.mesh.known.contains(&share.peer.name));
        if !silent.is_empty() {
            let peers = silent;
            return Refusal::PeersSilent { subnet, peers };
        }
        if !unreachable.is_empty() {
            let peers = unreachable;
            return Refusal::PeersUnreachable { subnet, peers };
        }
        let owned = owners.iter();
        Refusal::Exhausted {
            subnet,
            used: owners.values().map(|owner| owner.size - owner.free).sum(),
            owners: owned.map(|(peer, o)| self.share(*peer, o.size)).collect(),
        }
    }

    fn share(&self, peer: PeerName, addresses: u64) -> Share {
        let peer = self.mention(peer);
        Share { peer, addresses }
    }

    /// By owner, how many addresses of a range it has and how many it reports free. What an entry
    /// that is partly inside reports is taken to be inside as far as it fits.
    fn free_by_owner(&self, wanted: Range) -> BTreeMap<PeerName, Part> {
        let entries = self.ring.entries();
        let last = entries.last().map_or(0, |entry| entry.free);
        let us = self.config.name;
        let mut owners: BTreeMap<PeerName, Part> = BTreeMap::new();
        for (range, peer) in self.ring.segments() {
            let Some(inside) = range.intersection(wanted) else {
                continue;
            };
            let found = entries.binary_search_by_key(&range.start, |entry| entry.token);
            let reported = found.map_or(last, |index| entries[index].free);
            // Addresses of the entry outside of what is wanted are counted as free first: the
            // first and the last of a subnet are never given out.
            let outside = range.size() - inside.size();
            let free = if peer == us {
                self.space.free_in(inside)
            } else {
                reported.saturating_sub(outside).min(inside.size())
            };
            let share = owners.entry(peer).or_default();
            share.size += u64::from(inside.size());
            share.free += u64::from(free);
        }
        owners
    }

    /// Why a claim is not served.
    pub(super) fn claim_reason(&self, claim: &Claim) -> Refusal {
        let address = claim.cidr.address.to_bits();
        let Some(owner) = self.ring.owner(address) else {
            return self.no_ring_reason().into();
        };
        if owner == self.config.name {
            let range = Range::single(address);
            let dispute = self.disputed_in(range);
            return dispute.unwrap_or(Dispute::Unlisted { range }).into();
        }
        let stance = if self.mesh.known.contains(&owner) {
            Stance::Silent
        } else {
            Stance::OutOfReach
        };
        self.owned_by_other(claim, owner, stance)
    }

    /// What is disputed inside a range, if anything is.
    fn disputed_in(&self, wanted: Range) -> Option<Dispute> {
        let contested = self.disputes.contested();
        let contest = contested.iter().find(|c| c.range.overlaps(wanted));
        if let Some(contest) = contest {
            return Some(Dispute::Contested {
                range: contest.range,
                theirs: self.mention(contest.theirs),
                teller: self.mention(contest.teller),
            });
        }
        let mut fence = self.disputes.fence.iter();
        let (range, former) = fence.find(|(range, _)| range.overlaps(wanted))?;
        Some(Dispute::Unconfirmed {
            range: *range,
            former: self.mention(*former),
        })
    }
}

/// A peer's part of a range.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    size: u64,
    free: u64,
}
