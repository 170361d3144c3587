//! Requests that wait (spec/ipam.md 5): primes, claims and allocations.

use std::time::Instant;

use wire::PeerName;

use crate::address::{Cidr, Subnet};
use crate::{PATIENCE, Patience, Ticket};

/// Most requests that wait at a time, of all kinds together.
pub(super) const WAITING_MAX: usize = 16 * 1024;

/// A request that could not be served yet.
#[derive(Debug, Clone)]
pub(super) struct Waiting<T> {
    /// Whom to answer; `None` once that was done and it is only tried on.
    pub(super) ticket: Option<Ticket>,
    /// When to give up and say why.
    pub(super) deadline: Option<Instant>,
    /// What is asked.
    pub(super) what: T,
}

impl<T> Waiting<T> {
    pub(super) fn new(ticket: Ticket, patience: Patience, what: T, now: Instant) -> Self {
        let deadline = match patience {
            Patience::Short => Some(now + PATIENCE),
            Patience::Forever => None,
        };
        Self {
            ticket: Some(ticket),
            deadline,
            what,
        }
    }
}

/// Waits for a ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prime;

/// Waits for any address.
#[derive(Debug, Clone)]
pub(super) struct Allocation {
    pub(super) ident: String,
    pub(super) subnet: Subnet,
    pub(super) is_container: bool,
}

/// Waits for one address.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) ident: String,
    pub(super) cidr: Cidr,
    pub(super) is_container: bool,
    pub(super) no_error_on_unknown: bool,
    /// Whether the address is in use here already and was lost by a takeover.
    pub(super) is_recovery: bool,
    /// The owner that was asked in this round.
    pub(super) asked: Option<PeerName>,
    /// Whether that failed already.
    pub(super) has_failed: bool,
    /// In how many rounds the owner could not be asked.
    pub(super) failures: u32,
}

/// All that wait, in the order they came.
#[derive(Debug, Clone, Default)]
pub(super) struct Queues {
    pub(super) primes: Vec<Waiting<Prime>>,
    pub(super) claims: Vec<Waiting<Claim>>,
    pub(super) allocations: Vec<Waiting<Allocation>>,
}

impl Queues {
    pub(super) fn len(&self) -> usize {
        self.primes.len() + self.claims.len() + self.allocations.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first moment at which a request is given up.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let primes = self.primes.iter().filter_map(|w| w.deadline);
        let claims = self.claims.iter().filter_map(|w| w.deadline);
        let allocations = self.allocations.iter().filter_map(|w| w.deadline);
        primes.chain(claims).chain(allocations).min()
    }
}
