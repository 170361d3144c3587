//! Coming back after others took our ranges over.
//!
//! A peer that was away may find its ranges in other hands: somebody ran `rmpeer`, or they were
//! reclaimed. The new owner counts our addresses as free. We give the ranges up, and ask the new
//! owner for each address that is in use here. Until it answers the address is *displaced*; if it
//! says no, another container has it, and we say which two clash.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};
use wire::ipam::Entry;

use super::Ipam;
use super::waiting::{Claim, Waiting};
use crate::Refusal;
use crate::address::{Cidr, Range};
use crate::ring::{Contest, Ring};
use crate::status::DisplacedStatus;

/// By how much the version of an entry rises at least, as seen by its former owner, when it is
/// taken over: a hundred, less what the owner changed in the meantime unheard.
const TAKEOVER_STEP_MIN: u32 = 50;
/// After which time a clash is looked at again.
const CLASH_RETRY: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
struct Lost {
    ident: String,
    cidr: Cidr,
    is_container: bool,
    /// What the address clashes with, once the new owner said no.
    clash: Option<String>,
    /// When the new owner is asked again.
    retry_at: Option<Instant>,
}

/// Addresses in use here whose range is another's.
#[derive(Debug, Clone, Default)]
pub(super) struct Displaced {
    lost: BTreeMap<Ipv4Addr, Lost>,
    changed: BTreeSet<Cidr>,
}

impl Displaced {
    pub(super) fn is_empty(&self) -> bool {
        self.lost.is_empty()
    }

    pub(super) fn add(&mut self, ident: String, cidr: Cidr, is_container: bool) {
        self.changed.insert(cidr);
        self.lost.insert(
            cidr.address,
            Lost {
                ident,
                cidr,
                is_container,
                clash: None,
                retry_at: None,
            },
        );
    }

    /// Who uses an address.
    pub(super) fn user(&self, address: Ipv4Addr) -> Option<&str> {
        self.lost.get(&address).map(|lost| lost.ident.as_str())
    }

    /// Containers that use something.
    pub(super) fn containers(&self) -> Vec<String> {
        let containers = self.lost.values().filter(|lost| lost.is_container);
        containers.map(|lost| lost.ident.clone()).collect()
    }

    /// The address somebody goes on to use in a range; one that clashes is dropped instead.
    pub(super) fn settle(&mut self, ident: &str, range: Range) -> Option<Cidr> {
        let mut inside = self
            .lost
            .values()
            .filter(|lost| lost.ident == ident && range.contains(lost.cidr.address.to_bits()));
        let lost = inside.next()?;
        let (cidr, is_clash) = (lost.cidr, lost.clash.is_some());
        if is_clash {
            self.remove_address(cidr.address);
            return None;
        }
        Some(cidr)
    }

    /// Removes an address, if `ident` uses it.
    pub(super) fn remove(&mut self, ident: &str, address: Ipv4Addr) -> bool {
        self.user(address) == Some(ident) && self.remove_address(address)
    }

    pub(super) fn remove_address(&mut self, address: Ipv4Addr) -> bool {
        let lost = self.lost.remove(&address);
        self.changed.extend(lost.as_ref().map(|lost| lost.cidr));
        lost.is_some()
    }

    /// Removes everything somebody uses; returns whether that was something.
    pub(super) fn remove_ident(&mut self, ident: &str) -> bool {
        let of_ident = self.lost.values().filter(|lost| lost.ident == ident);
        let addresses: Vec<Ipv4Addr> = of_ident.map(|lost| lost.cidr.address).collect();
        for address in &addresses {
            self.remove_address(*address);
        }
        !addresses.is_empty()
    }

    /// What changed since the last call: each address with its user now, if it has one.
    pub(super) fn take_changes(&mut self) -> Vec<(Cidr, Option<(String, bool)>)> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        let state = |cidr: Cidr| {
            let lost = self.lost.get(&cidr.address)?;
            (lost.cidr == cidr).then(|| (lost.ident.clone(), lost.is_container))
        };
        changed.map(|cidr| (cidr, state(cidr))).collect()
    }

    /// How many addresses that are.
    pub(super) fn len(&self) -> usize {
        self.lost.len()
    }

    pub(super) fn status(&self) -> Vec<DisplacedStatus> {
        let lost = self.lost.values();
        lost.map(|lost| DisplacedStatus {
            ident: lost.ident.clone(),
            cidr: lost.cidr,
            clash: lost.clash.clone(),
        })
        .collect()
    }
}

impl Ipam {
    /// Gives up entries that were taken over, as a ring tells; returns whether there were any. The
    /// ring is then to be merged again, and will be taken where it was contested.
    pub(super) fn yield_to(
        &mut self,
        theirs: &wire::ipam::Ring,
        contests: &[Contest],
        now: Instant,
    ) -> bool {
        let lost = contests.iter().filter(|contest| contest.is_lost);
        let entries: BTreeSet<(Entry, Range)> = lost
            .filter_map(|contest| self.taken_over(contest, &theirs.entries))
            .collect();
        if entries.is_empty() {
            return false;
        }
        let (universe, us) = (self.config.universe.range(), self.config.name);
        let Ok(after) = Ring::restore(universe, us, theirs.entries.clone(), Vec::new()) else {
            return false;
        };
        let mut any = false;
        for (_, range) in entries {
            for (ident, cidr) in self.holdings.held_in(range) {
                let address = cidr.address.to_bits();
                let owner = after.owner(address);
                if owner == Some(us) {
                    continue;
                }
                any = true;
                let owner = owner.map(|owner| self.mention(owner).to_string());
                let owner = owner.unwrap_or_default();
                warn!(ident, %cidr, owner, "address was taken over while we were away");
                let is_container = self.holdings.is_container(&ident);
                self.holdings.remove(&ident, cidr.address);
                self.space.free(address);
                self.event.is_space_dirty = true;
                self.displaced.add(ident, cidr, is_container);
            }
        }
        if any {
            self.recover_displaced(now);
            self.event.should_retry = true;
        }
        any
    }

    /// Our entry a contest is about and its part of it, if by the entries received it was taken
    /// over.
    fn taken_over(&self, contest: &Contest, theirs: &[Entry]) -> Option<(Entry, Range)> {
        let address = contest.range.start;
        let ours = self.ring.entries();
        let after = ours.partition_point(|entry| entry.token <= address);
        let index = after.checked_sub(1).or_else(|| ours.len().checked_sub(1))?;
        let mine = ours[index];
        let found = theirs.binary_search_by_key(&mine.token, |entry| entry.token);
        let said = theirs[found.ok()?];
        let was_ours_by_takeover = self.disputes.taken.iter().any(|r| r.contains(address));
        let is_step = said.version >= mine.version.saturating_add(TAKEOVER_STEP_MIN);
        if said.peer == mine.peer || !(is_step || was_ours_by_takeover) {
            return None;
        }
        let mut parts = self.ring.segments().map(|(range, _)| range);
        let part = parts.find(|range| range.contains(address))?;
        Some((mine, part))
    }

    /// Asks for displaced addresses that nobody is asked for yet.
    pub(super) fn recover_displaced(&mut self, now: Instant) {
        let queues = &self.queues;
        let is_asked = |cidr: Cidr| {
            let mut claims = queues.claims.iter().map(|waiting| &waiting.what);
            claims.any(|claim| claim.is_recovery && claim.cidr == cidr)
        };
        let due = self
            .displaced
            .lost
            .values()
            .filter(|lost| lost.retry_at.is_none_or(|at| now >= at) && !is_asked(lost.cidr));
        let claims: Vec<Waiting<Claim>> = due
            .map(|lost| Waiting {
                ticket: None,
                deadline: None,
                what: Claim {
                    ident: lost.ident.clone(),
                    cidr: lost.cidr,
                    is_container: lost.is_container,
                    no_error_on_unknown: false,
                    is_recovery: true,
                    asked: None,
                    has_failed: false,
                    failures: 0,
                },
            })
            .collect();
        self.queues.claims.extend(claims);
    }

    /// Displaced addresses that are ours again are in use again, before anybody is given them.
    pub(super) fn recover_owned(&mut self) {
        if self.displaced.is_empty() {
            return;
        }
        let lost: Vec<Lost> = self.displaced.lost.values().cloned().collect();
        for lost in lost {
            if self.space.mark(lost.cidr.address.to_bits()) {
                let (ident, cidr) = (&lost.ident, lost.cidr);
                info!(ident, %cidr, "address is ours again");
                self.record(ident, cidr, lost.is_container);
            }
        }
        let displaced = &self.displaced;
        self.queues.claims.retain(|claim| {
            !claim.what.is_recovery || displaced.user(claim.what.cidr.address).is_some()
        });
    }

    /// The new owner of an address we use says that it is in use there.
    pub(super) fn recovery_denied(&mut self, claim: &Claim, refusal: &Refusal, now: Instant) {
        let Some(lost) = self.displaced.lost.get_mut(&claim.cidr.address) else {
            return;
        };
        lost.retry_at = Some(now + CLASH_RETRY);
        let text = refusal.to_string();
        if lost.clash.as_ref() == Some(&text) {
            return;
        }
        let (ident, cidr) = (&lost.ident, lost.cidr);
        error!(ident, %cidr, text, "address clashes: it was taken over and is in use there too");
        lost.clash = Some(text);
    }
}
