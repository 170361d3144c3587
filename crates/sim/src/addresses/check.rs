//! What has to be true of a cluster of allocators: some of it after every step, the rest when it has
//! come to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipam::address::Range;
use ipam::{Allocate, Answer, Claim, Holding, IpamOutput, PATIENCE, Request, Ticket};

use super::peer::{Fate, Peer, is_short};
use super::plan::Plan;
use super::world::World;
use crate::world::Violation;

/// How much later than promised an answer may come: rounding of skewed clocks.
const LATE_MAX: Duration = Duration::from_millis(1);
/// The ticket of the checker's own questions.
const OURS: Ticket = Ticket(u64::MAX);

/// Which peer uses an address of the universe, whether it runs or is down with its containers alive.
pub struct Users {
    universe: Range,
    by_address: BTreeMap<u32, usize>,
    by_peer: Vec<Vec<u32>>,
    /// What peers use that no rule binds; perhaps others use it too.
    outlawed: Vec<Vec<u32>>,
}

impl Users {
    /// Nobody uses anything.
    pub fn new(plan: &Plan) -> Self {
        Self {
            universe: plan.universe.range(),
            by_address: BTreeMap::new(),
            by_peer: vec![Vec::new(); plan.sites.len()],
            outlawed: vec![Vec::new(); plan.sites.len()],
        }
    }

    /// How many addresses of a range are used.
    pub fn count_in(&self, range: Range) -> usize {
        let outlawed = self.outlawed.iter().flatten();
        let outlawed = outlawed.filter(|address| !self.by_address.contains_key(address));
        let outlawed: BTreeSet<&u32> = outlawed.filter(|a| range.contains(**a)).collect();
        self.by_address.range(range.start..range.end).count() + outlawed.len()
    }

    /// What a peer uses now that no rule binds.
    pub fn outlaw(&mut self, n: usize, addresses: Vec<u32>) {
        self.replace(n, &[]);
        self.outlawed[n] = addresses;
    }

    /// What one peer uses now; the first address another one uses too, and that one.
    pub fn replace(&mut self, n: usize, addresses: &[u32]) -> Option<(u32, usize)> {
        for address in std::mem::take(&mut self.by_peer[n]) {
            if self.by_address.get(&address) == Some(&n) {
                self.by_address.remove(&address);
            }
        }
        let mut clash = None;
        for &address in addresses.iter().filter(|a| self.universe.contains(**a)) {
            match self.by_address.insert(address, n) {
                Some(other) if other != n => clash = clash.or(Some((address, other))),
                _ => self.by_peer[n].push(address),
            }
        }
        clash
    }
}

/// What a peer owns by its own ring.
pub fn owned(peer: &Peer) -> Vec<Range> {
    let status = peer.ipam.as_ref().map(ipam::Ipam::status);
    let entries = status.and_then(|status| status.entries).unwrap_or_default();
    let own = entries.iter().filter(|entry| entry.peer == peer.site.name);
    let ranges = own.map(|entry| Range::new(entry.token, entry.token + entry.size));
    ipam::address::merge_ranges(ranges.collect())
}

impl World<'_> {
    /// The rules for each step of a peer.
    pub(super) fn check_peer(&mut self, n: usize) -> Result<(), Violation> {
        let now = self.now();
        let peer = &mut self.peers[n];
        let local = peer.local(now);
        let Some(ipam) = &mut peer.ipam else {
            return Ok(());
        };
        ipam.assert_invariants();
        let late = peer.waiting.values().find(|waiting| {
            is_short(&waiting.request)
                && local.saturating_duration_since(waiting.since) > PATIENCE + LATE_MAX
        });
        if let Some(waiting) = late {
            return Err(format!("{n} does not answer {:?} in time", waiting.request));
        }
        peer.promises.expire(local);
        if !std::mem::take(&mut peer.is_touched) || peer.fate != Fate::Here {
            return Ok(());
        }
        ipam.handle_request(OURS, Request::List, local);
        let holdings = match (ipam.poll_output(), ipam.poll_output()) {
            (
                Some(IpamOutput::Answer {
                    ticket: OURS,
                    outcome: Ok(Answer::List(holdings)),
                }),
                None,
            ) => holdings,
            outputs => return Err(format!("{n} answers a question by {outputs:?}")),
        };
        self.check_holdings(n, &holdings)
    }

    fn check_holdings(&mut self, n: usize, holdings: &[Holding]) -> Result<(), Violation> {
        self.note_absence();
        let cidrs = holdings.iter().flat_map(|holding| &holding.cidrs);
        let mut addresses: Vec<u32> = cidrs.map(|cidr| u32::from(cidr.address)).collect();
        addresses.sort_unstable();
        if self.peers[n].is_outlaw {
            self.peers[n].promises.clear();
            self.users.outlaw(n, addresses);
            return Ok(());
        }
        if let Some((ident, address)) = self.peers[n].promises.broken(holdings) {
            let address = Ipv4Addr::from(address);
            return Err(format!("{n} lost {address} of {ident}"));
        }
        let universe = self.plan.universe.range();
        let twice = addresses
            .windows(2)
            .find(|two| two[0] == two[1] && universe.contains(two[0]));
        if let Some(twice) = twice {
            // One holder may have it with two prefix lengths.
            let address = Ipv4Addr::from(twice[0]);
            let holds = |holding: &&Holding| holding.cidrs.iter().any(|c| c.address == address);
            if holdings.iter().filter(holds).count() > 1 {
                return Err(format!("{n} gave {address} to two"));
            }
            addresses.dedup();
        }
        match self.users.replace(n, &addresses) {
            Some((_, other)) if self.peers[other].is_outlaw => Ok(()),
            Some((address, other)) => {
                let address = Ipv4Addr::from(address);
                Err(format!("{address} is in use at {n} and {other}"))
            }
            None => Ok(()),
        }
    }

    /// No address is owned by two running peers, unless one of them does not use it until others
    /// agree.
    pub(super) fn check_owned(&mut self, n: usize) -> Result<(), Violation> {
        self.note_absence();
        if self.peers[n].is_outlaw || self.is_disputed {
            return Ok(());
        }
        let ours = &self.peers[n].owned;
        let is_bound = |other: &&Peer| other.is_running() && !other.is_outlaw;
        let others = self.peers.iter().filter(is_bound);
        for other in others.filter(|other| other.number != n) {
            for range in &other.owned {
                let both = ours.iter().filter_map(|our| our.intersection(*range));
                let mut used =
                    both.filter(|both| !self.peers[n].holds(*both) && !other.holds(*both));
                if let Some(both) = used.next() {
                    let other = other.number;
                    return Err(format!("{n} and {other} both own {both}"));
                }
            }
        }
        Ok(())
    }

    /// The rules for a cluster that has come to rest.
    ///
    /// # Errors
    ///
    /// What is not right yet.
    pub fn check_rest(&self) -> Result<(), Violation> {
        let here: Vec<&Peer> = self.peers.iter().filter(|peer| peer.is_running()).collect();
        for peer in &here {
            if peer.known.len() + 1 != here.len() {
                return Err(format!("{} does not know everybody", peer.number));
            }
        }
        self.rings_agree(&here)?;
        if !self.has_ring() {
            return if self.can_elect() {
                Err("there is no ring".to_owned())
            } else {
                Ok(())
            };
        }
        for peer in &here {
            let status = peer.ipam.as_ref().expect("it runs").status();
            if !status.contested.is_empty() || !status.unconfirmed.is_empty() {
                return Err(format!(
                    "{} still has ranges it may not use: {:?} {:?}",
                    peer.number, status.contested, status.unconfirmed
                ));
            }
            for waiting in peer.waiting.values() {
                if self.can_be_served(&waiting.request) {
                    return Err(format!(
                        "{} does not serve {:?}",
                        peer.number, waiting.request
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether all these peers have the same ring, or none.
    pub(super) fn rings_agree(&self, peers: &[&Peer]) -> Result<(), Violation> {
        let ring = |peer: &Peer| {
            let status = peer.ipam.as_ref().map(ipam::Ipam::status);
            let entries = status.and_then(|status| status.entries)?;
            let entries = entries.into_iter().map(|e| (e.token, e.peer, e.version));
            Some(entries.collect::<Vec<_>>())
        };
        let Some((first, rest)) = peers.split_first() else {
            return Ok(());
        };
        let expected = ring(first);
        match rest.iter().find(|peer| ring(peer) != expected) {
            None => Ok(()),
            Some(other) => Err(format!(
                "the rings of {} and {} differ: {expected:?} and {:?}",
                first.number,
                other.number,
                ring(other)
            )),
        }
    }

    /// Whether anybody knows a ring.
    pub fn has_ring(&self) -> bool {
        self.peers.iter().any(Peer::has_ring)
    }

    /// Whether enough voters run for an election, and anybody waits for one.
    fn can_elect(&self) -> bool {
        let voters = self.peers.iter().filter(|peer| peer.is_voter());
        let quorum = voters.clone().count() / 2 + 1;
        let waits = self.peers.iter().any(|peer| !peer.waiting.is_empty());
        waits && voters.filter(|peer| peer.is_running()).count() >= quorum
    }

    /// Whether there is a free address for a request that somebody who runs owns.
    fn can_be_served(&self, request: &Request) -> bool {
        let subnet = match request {
            Request::Allocate(Allocate { subnet, .. }) => {
                subnet.unwrap_or(self.plan.default_subnet)
            }
            Request::Prime(_) => return true,
            Request::Claim(Claim { cidr, .. }) => {
                let owned = self.peers.iter().flat_map(|peer| &peer.owned);
                let address = u32::from(cidr.address);
                return owned.into_iter().any(|range| range.contains(address));
            }
            Request::Lookup(_)
            | Request::List
            | Request::Free(_)
            | Request::Delete(_)
            | Request::Leave
            | Request::TakeOver(_) => return true,
        };
        let owned = self.peers.iter().flat_map(|peer| &peer.owned);
        let wanted = owned.filter_map(|range| range.intersection(subnet.host_range()));
        let free = |range: Range| range.size() as usize > self.users.count_in(range);
        wanted.into_iter().any(free)
    }
}
