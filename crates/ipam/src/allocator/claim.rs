//! One address asked for by number (spec/ipam.md 5).

use std::time::Instant;

use wire::PeerName;
use wire::ipam::Unicast;

use super::Ipam;
use super::holdings::keeper;
use super::waiting::Claim;
use crate::address::Range;
use crate::{ANONYMOUS, Answer, IpamOutput};

/// How often the owner of an address may be out of reach before a claim fails. It is asked once
/// per tick.
const FAILURES_MAX: u32 = 5;

impl Ipam {
    /// Takes the address, or asks its owner for it and returns nothing.
    pub(super) fn try_claim(&mut self, claim: &mut Claim, now: Instant) -> Option<Answer> {
        if self.event.is_leaving {
            return Some(Answer::Cancelled);
        }
        let cidr = claim.cidr;
        let address = cidr.address.to_bits();
        let is_inside = self.config.universe.contains(address);
        if let Some(answer) = self.claim_held(claim, is_inside) {
            return Some(answer);
        }
        if let Some(text) = &self.event.clone {
            return Some(Answer::Refused(text.clone()));
        }
        if !is_inside {
            let ident = keeper(&claim.ident, cidr.address);
            self.record(&ident, cidr, claim.is_container);
            self.say(format_args!(
                "Address {cidr} claimed by {ident} - not in our range"
            ));
            return Some(Answer::Done);
        }
        if let Some(user) = self.displaced.user(cidr.address)
            && !claim.is_recovery
            && user != claim.ident
            && claim.ident != ANONYMOUS
        {
            let text = format!("address {cidr} is already owned by {user}");
            return Some(Answer::Refused(text));
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
        Some(Answer::Done)
    }

    /// The answer if the address has a holder on this host.
    fn claim_held(&mut self, claim: &Claim, is_inside: bool) -> Option<Answer> {
        let cidr = claim.cidr;
        let holder = self.holdings.holder(cidr.address)?.to_owned();
        let is_anonymous = claim.ident == ANONYMOUS;
        if is_anonymous || holder == claim.ident {
            self.holdings.mark_alive(&holder);
            self.holdings.flag(&holder, claim.is_container);
            return Some(Answer::Done);
        }
        let text = if !is_inside {
            if self.holdings.is_dead(&holder) {
                self.holdings.remove(&holder, cidr.address);
                return None;
            }
            format!("address {cidr} already in use by {holder}")
        } else if holder == cidr.address.to_string() {
            format!("address {cidr} already in use")
        } else {
            format!("address {cidr} is already owned by {holder}")
        };
        Some(Answer::Refused(text))
    }

    /// Asks the owner for just this address, once per tick.
    fn ask_owner(&mut self, claim: &mut Claim, owner: PeerName, now: Instant) -> Option<Answer> {
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
    fn owner_unreachable(&self, claim: &mut Claim, owner: PeerName, error: &str) -> Option<Answer> {
        if std::mem::replace(&mut claim.has_failed, true) {
            return None;
        }
        claim.failures += 1;
        if claim.is_recovery || claim.failures <= FAILURES_MAX {
            return None;
        }
        let text = self.owned_by_other(claim, owner);
        Some(Answer::Refused(format!("{text} - {error}")))
    }

    /// `address … is owned by other peer …`.
    pub(super) fn owned_by_other(&self, claim: &Claim, owner: PeerName) -> String {
        let (cidr, owner) = (claim.cidr, self.mention(owner));
        format!("address {cidr} is owned by other peer {owner}")
    }

    /// A request for space, or our ring, could not be sent.
    pub(super) fn unicast_failed(&mut self, to: PeerName, error: &str) {
        self.owe_ring(to);
        if self.donors.turned_down(to) {
            self.event.should_retry = true;
        }
        for mut claim in std::mem::take(&mut self.queues.claims) {
            let answer = if claim.what.asked == Some(to) {
                self.owner_unreachable(&mut claim.what, to, error)
            } else {
                None
            };
            match answer {
                Some(answer) => self.claim_ended(&claim, answer),
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
            let text = self.owned_by_other(&claim.what, from);
            if claim.what.is_recovery {
                self.recovery_denied(&claim.what, text, now);
            } else {
                self.claim_ended(&claim, Answer::Refused(text));
            }
        }
    }
}
