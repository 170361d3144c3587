//! Any free address (spec/ipam.md 5), and whom to ask for space (2.3).

use std::time::Instant;

use wire::ipam::Unicast;

use super::Ipam;
use super::holdings::keeper;
use super::waiting::Allocation;
use crate::address::{Cidr, Range};
use crate::{ANONYMOUS, Answer, IpamOutput, Outcome, Refusal};

impl Ipam {
    /// Gives out an address, or asks for space and returns nothing.
    pub(super) fn try_allocate(&mut self, what: &Allocation, now: Instant) -> Option<Outcome> {
        if self.event.is_leaving {
            return Some(Err(Refusal::Cancelled));
        }
        if let Some(cidr) = self.held_already(what) {
            let cidr = what.subnet.cidr(cidr.address.to_bits());
            return Some(Ok(Answer::Address(cidr)));
        }
        if let Some(text) = &self.event.clone {
            return Some(Err(Refusal::NameTaken(text.clone())));
        }
        let universe = self.config.universe;
        if !what.subnet.range().overlaps(universe.range()) {
            let subnet = what.subnet;
            return Some(Err(Refusal::OutOfRange { subnet, universe }));
        }
        self.establish();
        if self.ring.is_empty() {
            return None;
        }
        let hosts = what.subnet.host_range().intersection(universe.range());
        if let Some(address) = hosts.and_then(|hosts| self.space.allocate(hosts)) {
            let cidr = what.subnet.cidr(address);
            let ident = keeper(&what.ident, cidr.address);
            self.record(&ident, cidr, what.is_container);
            return Some(Ok(Answer::Address(cidr)));
        }
        self.request_space(what.subnet.range(), now);
        None
    }

    /// What somebody holds in the subnet already. Whoever asks lives.
    fn held_already(&mut self, what: &Allocation) -> Option<Cidr> {
        if what.ident == ANONYMOUS {
            return None;
        }
        let range = what.subnet.range();
        let held = self.holdings.first_in(&what.ident, range);
        if held.is_some() {
            self.holdings.mark_alive(&what.ident);
            self.holdings.flag(&what.ident, what.is_container);
            return held;
        }
        // A container keeps the address it uses while its new owner is asked for it; one that is
        // known to clash is given another.
        self.displaced.settle(&what.ident, range)
    }

    /// Notes that an address, taken from the space if it is in the universe, has a holder.
    pub(super) fn record(&mut self, ident: &str, cidr: Cidr, is_container: bool) {
        self.displaced.remove_address(cidr.address);
        self.holdings.add(ident, cidr, is_container);
        self.holdings.mark_alive(ident);
        self.event.is_space_dirty = true;
    }

    /// Asks somebody who reports free addresses there, unless an answer is awaited.
    fn request_space(&mut self, range: Range, now: Instant) {
        let universe = self.config.universe.range();
        let Some(wanted) = range.intersection(universe) else {
            return;
        };
        if self.donors.is_asked(range) {
            return;
        }
        let mut donors = self.ring.choose_donors(wanted, &mut self.rng);
        donors.retain(|donor| self.mesh.known.contains(donor) && *donor != self.config.name);
        let fresh = donors.iter().find(|donor| !self.donors.avoids(**donor));
        let again = || donors.iter().find(|donor| self.donors.was_silent(**donor));
        let Some(&donor) = fresh.or_else(again) else {
            return;
        };
        self.donors.ask(donor, range, now);
        let payload = Unicast::SpaceRequest(wire::ipam::Range {
            start: range.start,
            end: range.end,
        });
        self.effect(IpamOutput::Unicast {
            to: donor,
            payload: payload.encode(),
        });
    }
}
