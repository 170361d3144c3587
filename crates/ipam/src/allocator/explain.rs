//! What an operator sees: status (spec/ipam.md 12), and why a request is not served.

use std::collections::BTreeMap;

use wire::PeerName;

use super::Ipam;
use super::waiting::{Allocation, Claim};
use crate::address::Range;
use crate::status::{ElectionStatus, EntryStatus, IpamStatus, OwnerStatus};

/// Most owners named in a reason.
const OWNERS_NAMED_MAX: usize = 8;

impl Ipam {
    /// What an operator sees.
    pub fn status(&self) -> IpamStatus {
        let has_ring = !self.ring.is_empty();
        let us = self.config.name;
        let (known_nodes, quorum) = self.election.census();
        let claims = self.queues.claims.iter().map(|waiting| &waiting.what);
        let allocations = self.queues.allocations.iter().map(|waiting| &waiting.what);
        let fence = self.disputes.fence.iter();
        let election = ElectionStatus {
            is_elector: self.is_elector(),
            known_nodes,
            quorum,
        };
        IpamStatus {
            summary: self.summary(),
            universe: self.config.universe,
            default_subnet: self.config.default_subnet,
            active: self.space.active(),
            entries: has_ring.then(|| self.entry_statuses()),
            owners: self.owner_statuses(us),
            election: (!has_ring && self.election.is_awaiting()).then_some(election),
            pending_claims: claims.map(|c| (c.ident.clone(), c.cidr)).collect(),
            pending_allocates: allocations.map(|a| (a.ident.clone(), a.subnet)).collect(),
            contested: self.disputes.contested(),
            unconfirmed: fence.map(|(range, _)| *range).collect(),
            displaced: self.displaced.status(),
            refused: self.disputes.refused(),
        }
    }

    fn summary(&self) -> String {
        if !self.ring.is_empty() {
            let mut owners = self.ring.entries().iter().map(|entry| entry.peer);
            return if !owners.any(|owner| self.mesh.known.contains(&owner)) {
                "all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead"
            } else if !self.queues.allocations.is_empty() {
                "waiting for IP(s) to become available"
            } else {
                "ready"
            }
            .to_owned();
        }
        if !self.election.is_awaiting() {
            return "idle".to_owned();
        }
        if !self.is_elector() {
            return "priming".to_owned();
        }
        let (known, quorum) = self.election.census();
        format!("awaiting consensus (quorum: {quorum}, known: {known})")
    }

    fn entry_statuses(&self) -> Vec<EntryStatus> {
        let entries = self.ring.entries();
        let last = entries.last().map_or(0, |entry| entry.version);
        let version = |start: u32| {
            let found = entries.binary_search_by_key(&start, |entry| entry.token);
            found.map_or(last, |index| entries[index].version)
        };
        let segments = self.ring.segments();
        segments
            .map(|(range, peer)| EntryStatus {
                token: range.start,
                size: range.size(),
                peer,
                nickname: self.nickname(peer).to_owned(),
                is_known: self.mesh.known.contains(&peer),
                version: version(range.start),
            })
            .collect()
    }

    fn owner_statuses(&self, us: PeerName) -> Vec<OwnerStatus> {
        let mut owned: BTreeMap<PeerName, u64> = BTreeMap::new();
        for (range, peer) in self.ring.segments() {
            *owned.entry(peer).or_default() += u64::from(range.size());
        }
        let mut owners: Vec<OwnerStatus> = owned
            .into_iter()
            .map(|(peer, addresses)| OwnerStatus {
                peer,
                nickname: self.nickname(peer).to_owned(),
                addresses,
                is_known: self.mesh.known.contains(&peer),
            })
            .collect();
        owners.sort_by_key(|owner| (owner.peer != us, owner.peer));
        owners
    }

    /// Why there is no ring.
    pub(super) fn no_ring_reason(&self) -> String {
        if let Some(text) = &self.event.clone {
            return text.clone();
        }
        if !self.is_elector() {
            return "no ring yet: this peer is an observer and waits for others to divide the range"
                .to_owned();
        }
        let (nodes, quorum) = self.election.census();
        let size = self.cluster_size().max(quorum);
        let known = nodes.max(1);
        format!("no majority: {known} of {size} peers known, {quorum} must agree")
    }

    /// Why an address is not given out.
    pub(super) fn allocation_reason(&self, what: &Allocation) -> String {
        if self.ring.is_empty() {
            return self.no_ring_reason();
        }
        let universe = self.config.universe.range();
        let Some(wanted) = what.subnet.host_range().intersection(universe) else {
            return format!("no address of {} is managed", what.subnet);
        };
        let owners = self.free_by_owner(wanted);
        let (subnet, us) = (what.subnet, self.config.name);
        let blocked = self.disputed_in(wanted);
        let is_blocked = !blocked.is_empty() && owners.get(&us).is_some_and(|o| o.free > 0);
        if is_blocked {
            return blocked;
        }
        let others = || {
            owners
                .iter()
                .filter(|(peer, owner)| **peer != us && owner.free > 0)
        };
        let is_known = |peer: &PeerName| self.mesh.known.contains(peer);
        let silent: Vec<String> = others()
            .filter(|(peer, _)| is_known(peer))
            .map(|(peer, owner)| format!("{} {}", self.label(*peer), owner.free))
            .collect();
        if !silent.is_empty() {
            let named = named(silent);
            return format!("no answer yet from peers with free addresses in {subnet}: {named}");
        }
        let unreachable: Vec<String> = others()
            .map(|(peer, owner)| format!("{} {}", self.label(*peer), owner.free))
            .collect();
        if !unreachable.is_empty() {
            let named = named(unreachable);
            return format!(
                "free addresses in {subnet} are owned by peers which cannot be reached: {named}"
            );
        }
        let used: u64 = owners.values().map(|owner| owner.size - owner.free).sum();
        let owners = owners
            .iter()
            .map(|(peer, owner)| format!("{} {}", self.label(*peer), owner.size));
        let named = named(owners.collect());
        format!("space exhausted in {subnet}: {used} used, owners {named}")
    }

    /// By owner, how many addresses of a range it has and how many it reports free. What an entry
    /// that is partly inside reports is taken to be inside as far as it fits.
    fn free_by_owner(&self, wanted: Range) -> BTreeMap<PeerName, Share> {
        let entries = self.ring.entries();
        let last = entries.last().map_or(0, |entry| entry.free);
        let us = self.config.name;
        let mut owners: BTreeMap<PeerName, Share> = BTreeMap::new();
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
    pub(super) fn claim_reason(&self, claim: &Claim) -> String {
        let address = claim.cidr.address.to_bits();
        let Some(owner) = self.ring.owner(address) else {
            return self.no_ring_reason();
        };
        if owner == self.config.name {
            return self.disputed_in(Range::single(address));
        }
        let text = self.owned_by_other(claim, owner);
        if self.mesh.known.contains(&owner) {
            format!("{text} which has not answered yet")
        } else {
            format!("{text} which cannot be reached")
        }
    }

    /// What is disputed inside a range, in words; empty if nothing is.
    fn disputed_in(&self, wanted: Range) -> String {
        let contested = self.disputes.contested();
        let contest = contested.iter().find(|c| c.range.overlaps(wanted));
        if let Some(contest) = contest {
            let theirs = self.mention(contest.theirs);
            let teller = self.mention(contest.teller);
            return format!(
                "range contested: {} is ours, but belongs to {theirs} by the ring of {teller}",
                contest.range
            );
        }
        let mut fence = self.disputes.fence.iter();
        let Some((range, former)) = fence.find(|(range, _)| range.overlaps(wanted)) else {
            return String::new();
        };
        let former = self.mention(*former);
        format!("range contested: {range} was given to us, but {former} has not agreed yet")
    }
}

/// A peer's part of a range.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    size: u64,
    free: u64,
}

/// A list, cut short if it is long.
fn named(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(OWNERS_NAMED_MAX);
    names.truncate(OWNERS_NAMED_MAX);
    let mut text = names.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}
