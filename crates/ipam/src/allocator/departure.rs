//! Containers that die, we who leave, and peers that are gone for good (spec/ipam.md 6 and 7).

use std::time::Instant;

use tracing::info;
use wire::PeerName;

use super::Ipam;
use crate::address::Range;
use crate::{Answer, IpamOutput, Outcome, Refusal};

impl Ipam {
    /// A container stopped: its addresses are kept for a while, its requests are not.
    pub(super) fn container_died(&mut self, ident: &str, now: Instant) {
        self.displaced.remove_ident(ident);
        if self.holdings.mark_dead(ident, now) || self.holdings.cidrs(ident).is_empty() {
            self.cancel_ident(ident);
        }
    }

    /// Releases what containers held that are dead too long.
    pub(super) fn bury_dead(&mut self, now: Instant) {
        for ident in self.holdings.long_dead(now) {
            info!(ident, "releasing addresses of a dead container");
            self.release(&ident);
        }
    }

    /// Hands everything to an heir and ends.
    pub(super) fn leave(&mut self) -> Answer {
        self.event.is_leaving = true;
        self.cancel_all();
        if self.event.clone.is_some() {
            // What is ours by name may be in use at the other machine.
            info!("leaving without handing over: another machine uses our name");
            return Answer::Done;
        }
        let us = self.config.name;
        let Some(heir) = self.heir() else {
            return Answer::Done;
        };
        let universe = self.config.universe.range();
        for (ident, cidr) in self.holdings.held_in(universe) {
            self.holdings.remove(&ident, cidr.address);
        }
        self.space.clear();
        let given = self.ring.transfer(us, heir);
        if given.is_empty() {
            return Answer::Done;
        }
        info!(%heir, ranges = given.len(), "handing everything over");
        for range in given {
            self.disputes.lose(range);
        }
        self.ring_changed();
        self.effect(IpamOutput::Broadcast);
        if self.mesh.known.contains(&heir) {
            self.send_ring(heir);
        }
        Answer::Done
    }

    /// Who gets what we leave: an owner in reach, anybody in reach, any owner, anybody.
    fn heir(&self) -> Option<PeerName> {
        let us = self.config.name;
        let known = |peer: &PeerName| self.mesh.known.contains(peer);
        let owners = || {
            let entries = self.ring.entries().iter();
            entries.map(|entry| entry.peer).filter(|peer| *peer != us)
        };
        let named = || {
            let names = self.mesh.nicknames.keys().copied();
            names.filter(|peer| *peer != us)
        };
        owners()
            .find(known)
            .or_else(|| named().find(known))
            .or_else(|| owners().next())
            .or_else(|| named().next())
    }

    /// Takes the ranges of a peer that is gone for good.
    pub(super) fn take_over(&mut self, typed: &str) -> Outcome {
        let us = self.config.name;
        if let Some(text) = &self.event.clone {
            return Err(Refusal::NameTaken(text.clone()));
        }
        let Some(victim) = self.resolve(typed) else {
            self.warn(format_args!(
                "attempt to take over range from unknown peer '{typed}'"
            ));
            return Ok(Answer::TakenOver(0));
        };
        if victim == us {
            self.warn("attempt to take over range from ourself");
            return Ok(Answer::TakenOver(0));
        }
        if self.event.is_leaving {
            return Err(Refusal::Cancelled);
        }
        Ok(Answer::TakenOver(self.take_ranges(victim)))
    }

    /// Makes everything of another peer ours, and says how many addresses that was.
    pub(super) fn take_ranges(&mut self, victim: PeerName) -> u64 {
        let taken = self.ring.transfer(victim, self.config.name);
        if taken.is_empty() {
            return 0;
        }
        info!(%victim, ranges = taken.len(), "taking over");
        let mut count = 0;
        for &range in &taken {
            count += u64::from(range.size());
            self.space.own(range);
            self.disputes.taken.push(range);
        }
        self.ring_changed();
        self.effect(IpamOutput::Broadcast);
        self.hold_until_confirmed(&taken, victim);
        count
    }

    /// Anybody in reach may have been given some of it by the peer that is gone, and we not have
    /// heard. So it is not used until each of them tells a ring in which it is ours.
    fn hold_until_confirmed(&mut self, taken: &[Range], victim: PeerName) {
        let us = self.config.name;
        let known = self.mesh.known.iter().copied();
        for witness in known.filter(|peer| *peer != us && *peer != victim) {
            let held = taken.iter().map(|range| (*range, witness));
            self.disputes.fence.extend(held);
        }
        self.ask_former_owners();
        self.after_blocking_changed();
    }

    /// Finds a peer by nickname, or by name. Of several with one nickname, one that owns something
    /// and is out of reach.
    fn resolve(&self, typed: &str) -> Option<PeerName> {
        let owners = self.ring.owners();
        let named = self.mesh.nicknames.iter();
        let named = named.filter(|(_, nickname)| nickname.as_str() == typed);
        let best = named.map(|(peer, _)| *peer).min_by_key(|peer| {
            let is_owner = owners.contains(peer);
            let is_known = self.mesh.known.contains(peer);
            (!is_owner, is_known, *peer)
        });
        best.or_else(|| typed.parse().ok())
    }
}
