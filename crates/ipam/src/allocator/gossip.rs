//! What others say about the ring, and what we say (spec/ipam.md 2.2 and 9).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tracing::{debug, warn};
use wire::PeerName;
use wire::ipam::{GossipState, Unicast, decode_state, encode_state};
use wire::message::Delivery;

use super::Ipam;
use crate::IpamOutput;
use crate::address::{Range, merge_ranges};
use crate::ring::{Merged, Ring};

/// Most nicknames kept, of whomever.
const NICKNAMES_MAX: usize = 16 * 1024;
/// Most bytes of a nickname that are kept.
const NICKNAME_MAX: usize = 256;
/// Most peers that are owed our ring.
const OWED_MAX: usize = 64;
/// How often a ring is merged again after we yielded to it. Each round gives up whole entries.
const YIELDS_MAX: usize = 8;

impl Ipam {
    /// What we say periodically and in broadcasts on [`crate::CHANNEL`]. Take all outputs first:
    /// it tells only what is durable by then.
    pub fn gossip_state(&self) -> Option<Vec<u8>> {
        Some(encode_state(&self.state()))
    }

    fn state(&self) -> GossipState {
        let has_ring = !self.ring.is_empty();
        let votes = || self.election.gossip_state();
        GossipState {
            now: 0,
            nicknames: BTreeMap::clone(&self.mesh.nicknames),
            paxos: (!has_ring && self.is_elector()).then(votes),
            ring: has_ring.then(|| self.ring.to_wire()),
        }
    }

    pub(super) fn receive(&mut self, delivery: Delivery, payload: &[u8], now: Instant) {
        let sender = delivery.sender();
        if sender == self.config.name {
            return debug!("ignoring gossip of our own name");
        }
        if !matches!(delivery, Delivery::Unicast(_)) {
            match decode_state(payload) {
                Ok(state) => self.receive_state(delivery, state, now),
                Err(error) => warn!(%sender, %error, "cannot read allocation gossip"),
            }
            return;
        }
        match Unicast::decode(payload) {
            Ok(Unicast::SpaceRequest(range)) => {
                self.donate(sender, Range::new(range.start, range.end));
            }
            Ok(Unicast::RingUpdate(state)) => self.receive_state(delivery, state, now),
            Ok(Unicast::Denied(range)) => {
                self.denied(sender, Range::new(range.start, range.end), now);
            }
            Ok(Unicast::Unknown(kind)) => debug!(%sender, kind, "ignoring unknown message"),
            Err(error) => warn!(%sender, %error, "cannot read allocation message"),
        }
    }

    fn receive_state(&mut self, delivery: Delivery, state: GossipState, now: Instant) {
        let sender = delivery.sender();
        self.learn_nicknames(state.nicknames);
        if let Some(theirs) = state.ring {
            let Some(teller) = self.teller(delivery, &theirs) else {
                return debug!(%sender, peer = %theirs.peer, "ignoring the ring of an unknown peer");
            };
            self.receive_ring(teller, &theirs, now);
        } else if !self.ring.is_empty() {
            // Periodic gossip does not say who needs the ring.
            if !matches!(delivery, Delivery::Neighbour(_)) {
                self.send_ring(sender);
            }
        } else if let Some(votes) = state.paxos {
            self.receive_votes(&votes);
        } else if matches!(delivery, Delivery::Broadcast(_)) && self.is_elector() {
            self.establish();
        }
    }

    /// Whose word a ring is. Whoever passes a broadcast on puts its own ring in place of the one
    /// it got, so there the ring itself must tell.
    fn teller(&self, delivery: Delivery, theirs: &wire::ipam::Ring) -> Option<PeerName> {
        let sender = delivery.sender();
        if !matches!(delivery, Delivery::Broadcast(_)) || theirs.peer == sender {
            return Some(sender);
        }
        let is_other = theirs.peer != self.config.name;
        (is_other && self.mesh.known.contains(&theirs.peer)).then_some(theirs.peer)
    }

    fn learn_nicknames(&mut self, nicknames: BTreeMap<PeerName, String>) {
        for (peer, nickname) in nicknames {
            let is_full = self.mesh.nicknames.len() >= NICKNAMES_MAX;
            let known = self.mesh.nicknames.get(&peer);
            let (is_known, is_news) = (known.is_some(), known != Some(&nickname));
            let is_us = peer == self.config.name;
            let fits = nickname.len() <= NICKNAME_MAX && (is_known || !is_full);
            if !is_us && is_news && fits {
                Arc::make_mut(&mut self.mesh.nicknames).insert(peer, nickname);
            }
        }
    }

    /// Keeps the nicknames of those known to the mesh or in the ring.
    fn prune_nicknames(&mut self) {
        let owners = self.ring.owners();
        let known = &self.mesh.known;
        let is_kept = |peer: &PeerName| known.contains(peer) || owners.contains(peer);
        Arc::make_mut(&mut self.mesh.nicknames).retain(|peer, _| is_kept(peer));
    }

    /// Sends our state to one peer.
    pub(super) fn send_ring(&mut self, to: PeerName) {
        // The ring may change until this event is over; what is sent must be durable by then, so
        // it is encoded with the free counts that will be stored.
        self.report_free();
        let payload = Unicast::RingUpdate(self.state()).encode();
        self.effect(IpamOutput::Unicast { to, payload });
    }

    /// Notes that a peer did not get what we sent it; it gets our ring when the mesh knows it.
    pub(super) fn owe_ring(&mut self, to: PeerName) {
        if !self.mesh.known.contains(&to) && self.mesh.owed.len() < OWED_MAX {
            self.mesh.owed.insert(to);
        }
    }

    /// Sends our ring to those who can be reached by now.
    fn settle_owed(&mut self) {
        let owed = std::mem::take(&mut self.mesh.owed);
        for to in owed {
            if !self.mesh.known.contains(&to) {
                self.mesh.owed.insert(to);
            } else if !self.ring.is_empty() {
                self.send_ring(to);
            }
        }
    }

    /// Asks those for their ring whose word about fenced ranges we lack: a state without a ring is
    /// answered with one.
    pub(super) fn ask_former_owners(&mut self) {
        if self.disputes.ask_again() {
            self.after_blocking_changed();
        }
        let formers = self.disputes.fence.iter().map(|(_, former)| *former);
        let formers: BTreeSet<PeerName> = formers.collect();
        for to in formers {
            let payload = Unicast::RingUpdate(GossipState::default()).encode();
            self.effect(IpamOutput::Unicast { to, payload });
        }
    }

    /// Merges a ring, and works out what came of it.
    fn receive_ring(&mut self, teller: PeerName, theirs: &wire::ipam::Ring, now: Instant) {
        for _ in 0..YIELDS_MAX {
            let space = &self.space;
            let merged = match self.ring.merge(theirs, |range| space.is_free_range(range)) {
                Ok(merged) => merged,
                Err(error) => {
                    let text = error.describe(|peer| self.nickname(peer).to_owned());
                    if self.disputes.refuse(teller, &text) {
                        self.warn(format_args!(
                            "ring of {} refused: {text}",
                            self.label(teller)
                        ));
                    }
                    return;
                }
            };
            self.merged(teller, &merged, now);
            if self.yield_to(theirs, &merged.contests, now) {
                continue;
            }
            for contest in &merged.contests {
                debug!(%teller, text = contest.text, "contest");
            }
            if self.disputes.tell(teller, merged.contests) {
                let count = self.disputes.contested().len();
                warn!(%teller, count, "contested ranges changed");
                self.after_blocking_changed();
            }
            break;
        }
        self.hear_consent(teller, theirs);
    }

    /// Takes what a merge gave and lets go of what it took.
    fn merged(&mut self, teller: PeerName, merged: &Merged, now: Instant) {
        let mut is_fence_new = false;
        for lost in &merged.lost {
            self.space.disown(*lost);
            is_fence_new |= self.disputes.lose(*lost);
        }
        for gain in &merged.gained {
            self.space.own(gain.range);
            self.donors.close_overlapping(gain.range);
            let former = gain
                .from
                .filter(|former| self.may_object(*former, teller, gain.range));
            if let Some(former) = former {
                warn!(range = %gain.range, %former, %teller, "range held until its owner agrees");
                self.disputes.fence.push((gain.range, former));
                is_fence_new = true;
            }
        }
        if is_fence_new {
            self.after_blocking_changed();
        }
        if merged.changed {
            self.ring_changed();
            self.prune_nicknames();
        }
        let _ = now;
    }

    /// Whether a range the teller says is ours may still be in use by its former owner.
    fn may_object(&self, former: PeerName, teller: PeerName, range: Range) -> bool {
        former != teller && self.mesh.known.contains(&former) && !self.donors.answers(teller, range)
    }

    /// A former owner whose own ring says that a range is ours opens our fence around it.
    fn hear_consent(&mut self, teller: PeerName, theirs: &wire::ipam::Ring) {
        let us = self.config.name;
        self.disputes.answered(teller);
        if !self
            .disputes
            .fence
            .iter()
            .any(|(_, former)| *former == teller)
        {
            return;
        }
        let universe = self.config.universe.range();
        let entries = theirs.entries.clone();
        let Ok(theirs) = Ring::restore(universe, teller, entries, Vec::new()) else {
            return;
        };
        if self.disputes.consent(teller, us, &theirs) {
            self.after_blocking_changed();
        }
        self.give_back(&theirs);
    }

    /// Gives fenced ranges back to a former owner whose own ring says that they are its own still:
    /// it never agreed, nothing of them was used here, and it may have addresses in use there.
    fn give_back(&mut self, theirs: &Ring) {
        if self.event.is_leaving || self.event.clone.is_some() {
            return;
        }
        let former = theirs.us();
        let claimed = theirs.owned_ranges(former);
        let fence = self.disputes.fence.iter();
        let fenced = fence.filter(|(_, owner)| *owner == former);
        let objected = fenced
            .flat_map(|(fenced, _)| claimed.iter().filter_map(|c| c.intersection(*fenced)))
            .filter(|range| self.space.is_free_range(*range));
        let objected = merge_ranges(objected.collect());
        if objected.is_empty() {
            return;
        }
        for range in objected {
            warn!(%range, %former, "giving a range back that its owner did not give");
            self.space.disown(range);
            self.ring.grant(range, former);
            self.disputes.lose(range);
        }
        self.ring_changed();
        self.after_blocking_changed();
        self.effect(IpamOutput::Broadcast);
        self.send_ring(former);
    }

    /// The mesh reaches others than before.
    pub(super) fn peers_changed(&mut self, known: BTreeMap<PeerName, String>) {
        let us = self.config.name;
        let mut names: BTreeSet<PeerName> = known.keys().copied().collect();
        names.insert(us);
        let has_new = names.iter().any(|name| !self.mesh.known.contains(name));
        let gone = self.mesh.known.iter().filter(|name| !names.contains(name));
        for gone in gone.copied().collect::<Vec<_>>() {
            self.event.should_retry |= self.donors.turned_down(gone);
        }
        self.mesh.known = Arc::new(names);
        self.learn_nicknames(known);
        self.prune_nicknames();
        if self.disputes.forget_others(&self.mesh.known) {
            self.after_blocking_changed();
        }
        if has_new {
            self.settle_owed();
            self.donors.forgive();
            for claim in &mut self.queues.claims {
                claim.what.asked = None;
            }
            self.event.should_retry = true;
        }
    }
}
