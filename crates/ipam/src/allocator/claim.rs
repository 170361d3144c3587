//! One address asked for by number (spec/ipam.md 5).

use std::time::Instant;

use wire::PeerName;
use wire::ipam::Unicast;

use super::Ipam;
use super::holdings::keeper;
use super::waiting::Claim;
use crate::address::Range;
use crate::refusal::Stance;
use crate::{ANONYMOUS, Answer, IpamOutput, Outcome, Refusal};

/// How often the owner of an address may be out of reach before a claim fails. It is asked once
/// per tick.
const FAILURES_MAX: u32 = 5;

impl Ipam {
    /// Takes the address, or asks its owner for it and returns nothing.
    pub(super) fn try_claim(&mut self, claim: &mut Claim, now: Instant) -> Option<Outcome> {
        if self.event.is_leaving {
            return Some(Err(Refusal::Cancelled));
        }
        let cidr = claim.cidr;
        let address = cidr.address.to_bits();
        let is_inside = self.config.universe.contains(address);
        if let Some(outcome) = self.claim_held(claim, is_inside) {
            return Some(outcome);
        }
        if let Some(text) = &self.event.clone {
            return Some(Err(Refusal::NameTaken(text.clone())));
        }
        if !is_inside {
            let ident = keeper(&claim.ident, cidr.address);
            self.record(&ident, cidr, claim.is_container);
            self.say(format_args!(
                "Address {cidr} claimed by {ident} - not in our range"
            ));
            return Some(Ok(Answer::Done));
        }
        if let Some(user) = self.displaced.user(cidr.address)
            && !claim.is_recovery
            && user != claim.ident
            && claim.ident != ANONYMOUS
        {
            let holder = user.to_owned();
            return Some(Err(Refusal::OwnedHere { cidr, holder }));
        }
        self.establish();
        let owner = self.ring.owner(address)?;
        if owner != self.config.name {
            return self.ask_owner(claim, owner, now);
        }
        if !self.space.claim(address) {
            // Ours, not in use and yet not to be had: it is disputed, which ends.
            return None;
        }
        let ident = keeper(&claim.ident, cidr.address);
        self.record(&ident, cidr, claim.is_container);
        Some(Ok(Answer::Done))
    }

    /// The answer if the address has a holder on this host.
    fn claim_held(&mut self, claim: &Claim, is_inside: bool) -> Option<Outcome> {
        let cidr = claim.cidr;
        let holder = self.holdings.holder(cidr.address)?.to_owned();
        let is_anonymous = claim.ident == ANONYMOUS;
        if is_anonymous || holder == claim.ident {
            self.holdings.mark_alive(&holder);
            self.holdings.flag(&holder, claim.is_container);
            return Some(Ok(Answer::Done));
        }
        let refusal = if !is_inside {
            if self.holdings.is_dead(&holder) {
                self.holdings.remove(&holder, cidr.address);
                return None;
            }
            let holder = Some(holder);
            Refusal::InUse { cidr, holder }
        } else if holder == cidr.address.to_string() {
            Refusal::InUse { cidr, holder: None }
        } else {
            Refusal::OwnedHere { cidr, holder }
        };
        Some(Err(refusal))
    }

    /// Asks the owner for just this address, once per tick.
    fn ask_owner(&mut self, claim: &mut Claim, owner: PeerName, now: Instant) -> Option<Outcome> {
        if claim.asked == Some(owner) {
            return None;
        }
        claim.asked = Some(owner);
        claim.has_failed = false;
        if !self.mesh.known.contains(&owner) {
            let error = format!("unknown relay destination: {owner}");
            return self.owner_unreachable(claim, owner, &error);
        }
        let wanted = Range::single(claim.cidr.address.to_bits());
        self.donors.ask(owner, wanted, now);
        let request = Unicast::SpaceRequest(wire::ipam::Range {
            start: wanted.start,
            end: wanted.end,
        });
        self.effect(IpamOutput::Unicast {
            to: owner,
            payload: request.encode(),
        });
        None
    }

    /// The owner could not be asked; too often, and the claim fails.
    fn owner_unreachable(
        &self,
        claim: &mut Claim,
        owner: PeerName,
        error: &str,
    ) -> Option<Outcome> {
        if std::mem::replace(&mut claim.has_failed, true) {
            return None;
        }
        claim.failures += 1;
        if claim.is_recovery || claim.failures <= FAILURES_MAX {
            return None;
        }
        let error = error.to_owned();
        Some(Err(self.owned_by_other(
            claim,
            owner,
            Stance::NotAsked { error },
        )))
    }

    pub(super) fn owned_by_other(&self, claim: &Claim, owner: PeerName, stance: Stance) -> Refusal {
        Refusal::OwnedElsewhere {
            cidr: claim.cidr,
            owner: self.mention(owner),
            stance,
        }
    }

    /// A request for space, or our ring, could not be sent.
    pub(super) fn unicast_failed(&mut self, to: PeerName, error: &str) {
        self.owe_ring(to);
        if self.donors.turned_down(to) {
            self.event.should_retry = true;
        }
        for mut claim in std::mem::take(&mut self.queues.claims) {
            let outcome = if claim.what.asked == Some(to) {
                self.owner_unreachable(&mut claim.what, to, error)
            } else {
                None
            };
            match outcome {
                Some(outcome) => self.claim_ended(&claim, outcome),
                None => self.queues.claims.push(claim),
            }
        }
    }

    /// A peer has nothing to give inside a range: claims of its addresses there fail.
    pub(super) fn denied(&mut self, from: PeerName, range: Range, now: Instant) {
        if self.donors.turned_down(from) {
            self.event.should_retry = true;
        }
        for claim in std::mem::take(&mut self.queues.claims) {
            let address = claim.what.cidr.address.to_bits();
            let is_meant = range.contains(address) && self.ring.owner(address) == Some(from);
            if !is_meant {
                self.queues.claims.push(claim);
                continue;
            }
            let refusal = self.owned_by_other(&claim.what, from, Stance::Denies);
            if claim.what.is_recovery {
                self.recovery_denied(&claim.what, &refusal, now);
            } else {
                self.claim_ended(&claim, Err(refusal));
            }
        }
    }
}
