//! Giving space to a peer that asks for it (spec/ipam.md 3).

use tracing::{debug, info};
use wire::PeerName;
use wire::ipam::Unicast;

use super::Ipam;
use crate::IpamOutput;
use crate::address::Range;

impl Ipam {
    /// Answers a request for space: with a part of ours, or with a denial.
    pub(super) fn donate(&mut self, to: PeerName, range: Range) {
        if self.ring.is_empty() {
            return debug!(%to, "no ring to give from yet");
        }
        if self.event.clone.is_some() {
            return debug!(%to, "nothing is given away under a contested name");
        }
        let wanted = self.useful_part(range);
        if let Some(block) = wanted.and_then(|wanted| self.space.donate(wanted)) {
            info!(%to, %block, "giving space");
            self.ring.grant(block, to);
            self.disputes.lose(block);
            self.ring_changed();
            self.effect(IpamOutput::Broadcast);
        } else if !self.is_better_asked_elsewhere(range) && !self.disputes.awaits(to, range) {
            let denied = Unicast::Denied(wire::ipam::Range {
                start: range.start,
                end: range.end,
            });
            let payload = denied.encode();
            self.effect(IpamOutput::Unicast { to, payload });
        }
        self.send_ring(to);
    }

    /// What of a range to give from. The first and the last address of a subnet serve nobody who
    /// allocates in it: where little is left they are kept, or two who wait would hand them back
    /// and forth for ever.
    fn useful_part(&self, range: Range) -> Option<Range> {
        let wanted = range.intersection(self.config.universe.range())?;
        let largest = self.space.largest_free_block(wanted)?;
        let subnet = range.as_cidr().and_then(|cidr| cidr.subnet().ok());
        match subnet {
            Some(subnet) if largest.size() <= 2 => wanted.intersection(subnet.host_range()),
            Some(_) | None => Some(wanted),
        }
    }

    /// Whether somebody asks for one address that is not ours: our ring tells whose it is, and a
    /// denial would end a claim the owner may grant.
    fn is_better_asked_elsewhere(&self, range: Range) -> bool {
        let is_one = range.size() == 1;
        let owner = self.ring.owner(range.start);
        is_one && owner.is_some_and(|owner| owner != self.config.name)
    }
}
