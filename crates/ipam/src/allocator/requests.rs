//! Requests in, answers out, and what waits in between (spec/ipam.md 5).

use std::net::Ipv4Addr;
use std::time::Instant;

use tracing::info;

use super::Ipam;
use super::holdings::keeper;
use super::waiting::{Allocation, Claim, Prime, WAITING_MAX, Waiting};
use crate::address::Subnet;
use crate::{Answer, Delete, Free, Lookup, Outcome, Patience, Refusal, Request, TakeOver, Ticket};

/// How often what waits is tried again within one event. Trying may create the ring, which is
/// reason to try everything once more.
const ROUNDS_MAX: usize = 4;

impl Ipam {
    pub(super) fn serve(&mut self, ticket: Ticket, request: Request, now: Instant) {
        let outcome = match request {
            Request::Prime(patience) => return self.prime(ticket, patience, now),
            Request::Allocate(wanted) => {
                let what = Allocation {
                    ident: wanted.ident,
                    subnet: wanted.subnet.unwrap_or(self.config.default_subnet),
                    is_container: wanted.is_container,
                };
                let waiting = Waiting::new(ticket, wanted.patience, what, now);
                return self.begin_allocation(waiting, now);
            }
            Request::Claim(wanted) => {
                let what = Claim {
                    ident: wanted.ident,
                    cidr: wanted.cidr,
                    is_container: wanted.is_container,
                    no_error_on_unknown: wanted.no_error_on_unknown,
                    is_recovery: false,
                    asked: None,
                    has_failed: false,
                    failures: 0,
                };
                return self.begin_claim(Waiting::new(ticket, wanted.patience, what, now), now);
            }
            Request::Lookup(Lookup { ident, subnet }) => Ok(self.look_up(&ident, subnet)),
            Request::List => Ok(Answer::List(self.holdings.list())),
            Request::Free(Free { ident, address }) => self.free(&ident, address),
            Request::Delete(Delete { ident }) => self.delete(ident),
            Request::Leave => Ok(self.leave()),
            Request::TakeOver(TakeOver { peer }) => self.take_over(&peer),
        };
        self.answer(Some(ticket), outcome);
    }

    fn look_up(&self, ident: &str, subnet: Option<Subnet>) -> Answer {
        let range = subnet.unwrap_or(self.config.default_subnet).host_range();
        let held = self.holdings.cidrs(ident).iter().copied();
        let inside = held.filter(|cidr| range.contains(cidr.address.to_bits()));
        Answer::Addresses(inside.collect())
    }

    fn delete(&mut self, ident: String) -> Outcome {
        if self.release(&ident) {
            Ok(Answer::Done)
        } else {
            Err(Refusal::NothingHeld { ident })
        }
    }

    fn prime(&mut self, ticket: Ticket, patience: Patience, now: Instant) {
        if self.event.is_leaving {
            return self.answer(Some(ticket), Err(Refusal::Cancelled));
        }
        self.establish();
        if !self.ring.is_empty() {
            return self.answer(Some(ticket), Ok(Answer::Done));
        }
        if self.has_room(ticket) {
            let waiting = Waiting::new(ticket, patience, Prime, now);
            self.queues.primes.push(waiting);
        }
    }

    fn begin_allocation(&mut self, waiting: Waiting<Allocation>, now: Instant) {
        if let Some(outcome) = self.try_allocate(&waiting.what, now) {
            return self.answer(waiting.ticket, outcome);
        }
        if waiting.ticket.is_some_and(|ticket| self.has_room(ticket)) {
            self.queues.allocations.push(waiting);
        }
    }

    fn begin_claim(&mut self, mut waiting: Waiting<Claim>, now: Instant) {
        let universe = self.config.universe;
        let is_inside = universe.contains(waiting.what.cidr.address.to_bits());
        if self.ring.is_empty() && is_inside && !self.event.is_leaving {
            self.say(format_args!(
                "Claim {} for {}: is in the range {universe}, but the allocator is not \
                 initialized yet; will try later.",
                waiting.what.cidr, waiting.what.ident
            ));
        }
        if let Some(outcome) = self.try_claim(&mut waiting.what, now) {
            return self.answer(waiting.ticket, outcome);
        }
        if !waiting.ticket.is_some_and(|ticket| self.has_room(ticket)) {
            return;
        }
        if waiting.what.no_error_on_unknown && self.ring.is_empty() {
            self.answer(waiting.ticket.take(), Ok(Answer::Done));
            waiting.deadline = None;
        }
        self.queues.claims.push(waiting);
    }

    /// Whether one more request may wait; if not, it is told so.
    fn has_room(&mut self, ticket: Ticket) -> bool {
        let has_room = self.queues.len() < WAITING_MAX;
        if !has_room {
            let limit = WAITING_MAX;
            self.answer(Some(ticket), Err(Refusal::TooManyWaiting { limit }));
        }
        has_room
    }

    /// Gives one address back.
    fn free(&mut self, ident: &str, address: Ipv4Addr) -> Outcome {
        let ident = &keeper(ident, address);
        let was_displaced = self.displaced.remove(ident, address);
        let was_waiting =
            self.forget_claims(|claim| claim.ident == *ident && claim.cidr.address == address);
        if self.holdings.remove(ident, address).is_some() {
            self.space_free(address);
        } else if !was_displaced && !was_waiting {
            let ident = ident.to_owned();
            return Err(Refusal::NotHeld { ident, address });
        }
        Ok(Answer::Done)
    }

    /// Gives back everything somebody holds; returns whether that was something.
    pub(super) fn release(&mut self, ident: &str) -> bool {
        let was_displaced = self.displaced.remove_ident(ident);
        let was_waiting = self.forget_claims(|claim| claim.ident == ident);
        let cidrs = self.holdings.remove_all(ident);
        for cidr in &cidrs {
            self.space_free(cidr.address);
        }
        was_displaced || was_waiting || !cidrs.is_empty()
    }

    /// Drops claims that were answered before they could be decided; whether there were any.
    fn forget_claims(&mut self, is_meant: impl Fn(&Claim) -> bool) -> bool {
        let before = self.queues.claims.len();
        let claims = &mut self.queues.claims;
        claims.retain(|waiting| waiting.ticket.is_some() || !is_meant(&waiting.what));
        self.queues.claims.len() < before
    }

    /// An address has no holder any more.
    fn space_free(&mut self, address: Ipv4Addr) {
        let address = address.to_bits();
        if self.config.universe.contains(address) {
            let was_used = self.space.free(address);
            assert!(was_used, "what is held is in use");
            self.event.is_space_dirty = true;
            self.event.should_retry = true;
        }
    }

    /// Tries everything that waits again, if there is reason to: primes, claims, allocations.
    pub(super) fn retry(&mut self, now: Instant) {
        for _ in 0..ROUNDS_MAX {
            if !std::mem::take(&mut self.event.should_retry) {
                return;
            }
            self.retry_once(now);
        }
    }

    fn retry_once(&mut self, now: Instant) {
        self.recover_owned();
        if !self.queues.primes.is_empty() {
            self.establish();
            let is_over = !self.ring.is_empty() || self.event.is_leaving;
            let primes = std::mem::take(&mut self.queues.primes);
            for prime in primes {
                if !is_over {
                    self.queues.primes.push(prime);
                } else if self.event.is_leaving {
                    self.answer(prime.ticket, Err(Refusal::Cancelled));
                } else {
                    self.answer(prime.ticket, Ok(Answer::Done));
                }
            }
        }
        for mut claim in std::mem::take(&mut self.queues.claims) {
            match self.try_claim(&mut claim.what, now) {
                Some(outcome) => self.claim_ended(&claim, outcome),
                None => self.queues.claims.push(claim),
            }
        }
        for allocation in std::mem::take(&mut self.queues.allocations) {
            match self.try_allocate(&allocation.what, now) {
                Some(outcome) => self.answer(allocation.ticket, outcome),
                None => self.queues.allocations.push(allocation),
            }
        }
    }

    /// Answers a claim that waited; one that was answered before is only logged.
    pub(super) fn claim_ended(&mut self, claim: &Waiting<Claim>, outcome: Outcome) {
        if claim.ticket.is_none()
            && let Err(refusal) = &outcome
            && *refusal != Refusal::Cancelled
        {
            let (ident, cidr) = (&claim.what.ident, claim.what.cidr);
            self.warn(format_args!("Claim {cidr} for {ident}: {refusal}"));
        }
        self.answer(claim.ticket, outcome);
    }

    /// Tells those that waited long enough why they were not served.
    pub(super) fn give_up_late(&mut self, now: Instant) {
        let is_late = |deadline: Option<Instant>| deadline.is_some_and(|at| now >= at);
        let primes = std::mem::take(&mut self.queues.primes);
        for prime in primes {
            if is_late(prime.deadline) {
                let reason = self.no_ring_reason();
                self.answer(prime.ticket, Err(reason.into()));
            } else {
                self.queues.primes.push(prime);
            }
        }
        for claim in std::mem::take(&mut self.queues.claims) {
            if is_late(claim.deadline) {
                let reason = self.claim_reason(&claim.what);
                self.answer(claim.ticket, Err(reason));
            } else {
                self.queues.claims.push(claim);
            }
        }
        for allocation in std::mem::take(&mut self.queues.allocations) {
            if is_late(allocation.deadline) {
                let reason = self.allocation_reason(&allocation.what);
                self.answer(allocation.ticket, Err(reason));
            } else {
                self.queues.allocations.push(allocation);
            }
        }
    }

    /// Cancels the request with this ticket, if it waits.
    pub(super) fn cancel_ticket(&mut self, ticket: Ticket) {
        self.cancel_where(|_, of| of == Some(ticket));
    }

    /// Cancels what waits for somebody.
    pub(super) fn cancel_ident(&mut self, ident: &str) {
        self.cancel_where(|of, _| of == Some(ident));
    }

    /// Cancels everything that waits.
    pub(super) fn cancel_all(&mut self) {
        self.cancel_where(|_, _| true);
    }

    /// Cancels what waits where `is_meant` says so of its identifier and ticket.
    fn cancel_where(&mut self, is_meant: impl Fn(Option<&str>, Option<Ticket>) -> bool) {
        let mut cancelled = Vec::new();
        self.queues.primes.retain(|w| {
            let is_meant = is_meant(None, w.ticket);
            if is_meant {
                cancelled.extend(w.ticket);
            }
            !is_meant
        });
        self.queues.claims.retain(|w| {
            let is_meant = is_meant(Some(&w.what.ident), w.ticket);
            if is_meant {
                info!("Claim request for {} cancelled", w.what.ident);
                cancelled.extend(w.ticket);
            }
            !is_meant
        });
        self.queues.allocations.retain(|w| {
            let is_meant = is_meant(Some(&w.what.ident), w.ticket);
            if is_meant {
                info!("Allocate request for {} cancelled", w.what.ident);
                cancelled.extend(w.ticket);
            }
            !is_meant
        });
        for ticket in cancelled {
            self.answer(Some(ticket), Err(Refusal::Cancelled));
        }
    }
}
