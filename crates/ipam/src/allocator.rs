//! The allocator itself: ties ring, space and election together and serves requests.
//!
//! Every call from outside is one event: it changes the books, collects what is to be sent and
//! answered, and ends in [`Ipam::finish`], which makes rows of what changed and puts them before
//! everything else. So nothing leaves that a restart could forget.

mod allocate;
mod claim;
mod departure;
mod disputes;
mod donate;
mod donors;
mod establish;
mod explain;
mod gossip;
mod holdings;
mod reclaim;
mod requests;
mod store;
mod takeback;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tracing::{info, warn};
use wire::PeerName;
use wire::message::Delivery;

use crate::address::{Cidr, Range, merge_ranges};
use crate::refusal::Peer;
use crate::ring::Ring;
use crate::rows::RestoreError;
use crate::space::Space;
use crate::{ContainerEvent, Init, IpamConfig, IpamOutput, Outcome, Request, Ticket};
use disputes::Disputes;
use donors::Donors;
use establish::Election;
use holdings::Holdings;
use reclaim::Reclaim;
use store::{Foreign, Saved, Store, damaged};
use takeback::Displaced;
use waiting::Queues;

/// How often pending requests are tried again and dead containers looked at.
const TICK: Duration = Duration::from_secs(5);

/// One peer's address allocator (spec/ipam.md).
///
/// Neither advances time nor touches the network on its own. Call any `handle_*`, then take
/// everything from `poll_output` **in order** and carry it out, then wait until `poll_timeout` at
/// most and call `handle_timeout`. An `IpamOutput::Persist` must be durable before what comes
/// behind it is done.
#[derive(Debug)]
pub struct Ipam {
    config: IpamConfig,
    rng: StdRng,
    ring: Ring,
    /// Invariant: owns what the ring says is ours; in use is what `holdings` says is held of it.
    space: Space,
    holdings: Holdings,
    displaced: Displaced,
    election: Election,
    mesh: MeshView,
    queues: Queues,
    donors: Donors,
    disputes: Disputes,
    reclaim: Reclaim,
    event: Event,
}

/// What the mesh told us about others. Snapshots share the large parts.
#[derive(Debug, Clone, Default)]
struct MeshView {
    /// Whom it can reach, us included.
    known: Arc<BTreeSet<PeerName>>,
    /// Of everybody known or in the ring, and who else was gossiped about since we last tidied up.
    nicknames: Arc<BTreeMap<PeerName, String>>,
    /// Peers that were to get our ring and could not be reached: those who join ask before the mesh
    /// knows a way to them.
    owed: BTreeSet<PeerName>,
}

/// What an event has done so far, and what came of the events before.
#[derive(Debug, Clone, Default)]
struct Event {
    store: Store,
    /// To be sent and answered once the rows are on their way.
    effects: Vec<IpamOutput>,
    outputs: VecDeque<IpamOutput>,
    /// Whether the ring may be another than the one stored.
    is_ring_dirty: bool,
    /// Whether we may own another part of the ring than before.
    is_share_dirty: bool,
    /// Whether free counts may have changed.
    is_space_dirty: bool,
    /// Whether what waits should be tried again.
    should_retry: bool,
    /// What we own, as it was told last.
    told_ranges: Vec<Range>,
    /// When the next tick is due; `None` while nothing waits for one.
    next_tick: Option<Instant>,
    /// Whether we handed everything over and serve nobody any more.
    is_leaving: bool,
    /// Set while another machine claims our name: what the mesh says about it.
    clone: Option<String>,
}

impl Ipam {
    /// An allocator over what was stored: all rows whose name begins with `ipam/`, or none. The
    /// seed feeds every random choice.
    pub fn new(
        config: IpamConfig,
        rows: Vec<(String, Vec<u8>)>,
        seed: [u8; 32],
        now: Instant,
    ) -> Result<Self, RestoreError> {
        let (store, saved) = Store::open(rows, config.name, config.universe)?;
        let (saved, foreign) = match saved {
            Ok(saved) => (saved, None),
            Err(foreign) => (Saved::default(), Some(foreign)),
        };
        let universe = config.universe.range();
        let mut ipam = Self {
            rng: StdRng::from_seed(seed),
            ring: Ring::new(universe, config.name),
            space: Space::new(),
            holdings: Holdings::default(),
            displaced: Displaced::default(),
            election: Election::new(config.uid),
            mesh: MeshView::default(),
            queues: Queues::default(),
            donors: Donors::default(),
            disputes: Disputes::default(),
            reclaim: Reclaim::default(),
            event: Event {
                store,
                ..Event::default()
            },
            config,
        };
        let (name, nickname) = (ipam.config.name, ipam.config.nickname.clone());
        Arc::make_mut(&mut ipam.mesh.known).insert(name);
        Arc::make_mut(&mut ipam.mesh.nicknames).insert(name, nickname);
        ipam.restore(saved)?;
        ipam.begin(foreign);
        ipam.finish(now);
        Ok(ipam)
    }

    /// Takes up what was stored.
    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        let universe = self.config.universe.range();
        let us = self.config.name;
        self.ring = Ring::restore(universe, us, saved.entries, saved.seeds)
            .map_err(|error| damaged("ipam/ring", error))?;
        for range in self.ring.owned_ranges(us) {
            self.space.own(range);
        }
        self.disputes.fence = saved.fence;
        for held in saved.owned {
            let address = held.cidr.address.to_bits();
            let row = format!("ipam/owned/{}", held.cidr);
            if universe.contains(address) && !self.space.mark(address) {
                return Err(damaged(&row, "the address is not ours by the stored ring"));
            }
            if self.holdings.holder(held.cidr.address).is_some() {
                return Err(damaged(&row, "the address has another holder"));
            }
            self.holdings.add(&held.ident, held.cidr, held.is_container);
        }
        self.holdings.take_changes();
        for held in saved.displaced {
            let (ident, cidr) = (held.ident, held.cidr);
            self.displaced.add(ident, cidr, held.is_container);
        }
        self.displaced.take_changes();
        if let Some(votes) = saved.votes {
            self.reclaim.restore(&votes)?;
        }
        if self.ring.is_empty()
            && let Some(saved) = saved.election
        {
            self.election.restore(us, saved);
        }
        Ok(())
    }

    /// Says how we begin, and divides the ring if we were told how.
    fn begin(&mut self, foreign: Option<Foreign>) {
        match foreign {
            Some(Foreign::Peer(peer)) => {
                self.say(format_args!("Deleting persisted data for peername {peer}"));
            }
            Some(Foreign::Range(range)) => self.say(format_args!(
                "Deleting persisted data for IPAM range {range}; our range is {}",
                self.config.universe
            )),
            None if self.ring.is_empty() => self.say("No valid persisted data"),
            None => {}
        }
        let has_ring = !self.ring.is_empty();
        match self.config.init.clone() {
            Init::Seed(_) if has_ring => {
                self.say("Found persisted IPAM data, ignoring supplied IPAM seed");
            }
            _ if has_ring => self.say("Initialising with persisted data"),
            Init::Seed(peers) => {
                self.say("Initialising with supplied IPAM seed");
                self.create_ring(&peers);
            }
            Init::Consensus(_) => self.say("Initialising via deferred consensus"),
            Init::Observer => {
                self.say("Initialising as observer - awaiting IPAM data from another peer");
            }
        }
        self.after_blocking_changed();
        self.event.told_ranges = merge_ranges(self.ring.owned_ranges(self.config.name));
        if !self.event.told_ranges.is_empty() {
            let ranges = self.event.told_ranges.clone();
            self.effect(IpamOutput::RangesChanged(ranges));
        }
    }

    /// A copy that makes other random choices from here on, for those who explore what can happen.
    /// What is printed of an allocator (`Debug`) is all that decides what it does next, but for
    /// these choices.
    #[must_use]
    pub fn fork(&self, seed: [u8; 32]) -> Self {
        Self {
            config: self.config.clone(),
            rng: StdRng::from_seed(seed),
            ring: self.ring.clone(),
            space: self.space.clone(),
            holdings: self.holdings.clone(),
            displaced: self.displaced.clone(),
            election: self.election.clone(),
            mesh: self.mesh.clone(),
            queues: self.queues.clone(),
            donors: self.donors.clone(),
            disputes: self.disputes.clone(),
            reclaim: self.reclaim.clone(),
            event: self.event.clone(),
        }
    }

    /// A request. Answered by exactly one `IpamOutput::Answer` with its ticket.
    pub fn handle_request(&mut self, ticket: Ticket, request: Request, now: Instant) {
        self.serve(ticket, request, now);
        self.finish(now);
    }

    /// The caller of a request is gone. It is refused as `Refusal::Cancelled`, unless it was answered
    /// already.
    pub fn handle_cancel(&mut self, ticket: Ticket, now: Instant) {
        self.cancel_ticket(ticket);
        self.finish(now);
    }

    /// Gossip of [`crate::CHANNEL`]: for a unicast kind byte and payload, else a gossip state.
    /// Hostile bytes change nothing.
    pub fn handle_gossip(&mut self, delivery: Delivery, payload: &[u8], now: Instant) {
        self.receive(delivery, payload, now);
        self.finish(now);
    }

    /// Gossip of [`crate::WEFT_CHANNEL`], unicast or broadcast.
    pub fn handle_weft(&mut self, from: PeerName, payload: &[u8], now: Instant) {
        self.receive_weft(from, payload, now);
        self.finish(now);
    }

    /// Everybody the mesh can reach, with nicknames; we are among them. To be told at start and at
    /// each change.
    pub fn handle_peers(&mut self, known: BTreeMap<PeerName, String>, now: Instant) {
        self.peers_changed(known);
        self.note_absences(now);
        self.finish(now);
    }

    /// How many addresses we were told to connect to and do not refuse to retry.
    pub fn handle_targets(&mut self, active: usize) {
        self.election.targets = active;
    }

    /// Something happened to a container.
    pub fn handle_container(&mut self, ident: &str, event: ContainerEvent, now: Instant) {
        match event {
            ContainerEvent::Started => self.holdings.mark_alive(ident),
            ContainerEvent::Died => self.container_died(ident, now),
            ContainerEvent::Destroyed => {
                self.cancel_ident(ident);
                self.release(ident);
            }
        }
        self.finish(now);
    }

    /// At start: the containers that run. What is kept for others is released.
    pub fn handle_running(&mut self, containers: BTreeSet<String>, now: Instant) {
        let mut kept = self.holdings.containers();
        kept.extend(self.displaced.containers());
        for ident in kept.iter().filter(|ident| !containers.contains(*ident)) {
            info!(ident, "releasing addresses of a container that is gone");
            self.release(ident);
        }
        self.finish(now);
    }

    /// While two machines claim our name, what the mesh says about it: nothing new is given out or
    /// donated, and requests are refused with it. `None` when that is over.
    pub fn handle_clone(&mut self, text: Option<String>, now: Instant) {
        self.event.clone = text;
        self.event.should_retry = true;
        self.finish(now);
    }

    /// An `IpamOutput::Unicast` could not be sent, and why.
    pub fn handle_unicast_failed(&mut self, to: PeerName, error: &str, now: Instant) {
        self.unicast_failed(to, error);
        self.finish(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.event.next_tick.is_some_and(|at| now >= at) {
            self.event.next_tick = None;
            self.tick(now);
        }
        if self.donors.expire(now) {
            self.event.should_retry = true;
        }
        self.retry(now);
        self.give_up_late(now);
        self.finish(now);
    }

    /// When `handle_timeout` must be called next, if nothing else happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timers = [
            self.event.next_tick,
            self.queues.next_deadline(),
            self.donors.next_timeout(),
        ];
        timers.into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<IpamOutput> {
        self.event.outputs.pop_front()
    }

    /// What an identifier holds.
    pub fn owned(&self, ident: &str) -> Vec<Cidr> {
        self.holdings.cidrs(ident).to_vec()
    }

    /// Panics if our books contradict each other.
    pub fn assert_invariants(&self) {
        let us = self.config.name;
        self.ring.assert_invariants();
        self.holdings.assert_invariants();
        self.space.assert_matches(&self.ring.owned_ranges(us));
        let held = self.holdings.held_in(self.config.universe.range());
        for (ident, cidr) in &held {
            let address = cidr.address.to_bits();
            assert!(self.space.is_used(address), "{cidr} of {ident} is in use");
        }
        let (held, active) = (held.len() as u64, self.space.active());
        assert_eq!(held, active, "what is in use has a holder");
        assert_eq!(self.event.store.ring(), self.ring.entries(), "stored ring");
    }

    /// Queues something to be done after the rows of this event.
    fn effect(&mut self, output: IpamOutput) {
        self.event.effects.push(output);
    }

    fn answer(&mut self, ticket: Option<Ticket>, outcome: Outcome) {
        if let Some(ticket) = ticket {
            self.effect(IpamOutput::Answer { ticket, outcome });
        }
    }

    /// The ring was divided, merged into, or given from: nobody is elected any more, and what
    /// waits is tried again.
    fn ring_changed(&mut self) {
        self.event.is_ring_dirty = true;
        self.event.is_share_dirty = true;
        self.event.is_space_dirty = true;
        self.event.should_retry = true;
        if !self.ring.is_empty() {
            self.election.close();
        }
    }

    /// What is disputed changed.
    fn after_blocking_changed(&mut self) {
        let blocked = self.disputes.blocked();
        self.space.block(blocked);
        // What was frozen while it was contested is reported again.
        self.event.is_space_dirty = true;
        self.event.should_retry = true;
    }

    /// Every 5 s while something waits or somebody is dead.
    fn tick(&mut self, now: Instant) {
        self.bury_dead(now);
        self.donors.forgive();
        self.recover_displaced(now);
        for claim in &mut self.queues.claims {
            claim.what.asked = None;
        }
        self.propose_again();
        if self.disputes.open_abandoned(&self.mesh.known, now) {
            self.after_blocking_changed();
        }
        self.ask_former_owners();
        self.note_absences(now);
        self.reclaim_long_gone(now);
        self.event.should_retry = true;
    }

    fn needs_tick(&self) -> bool {
        !self.queues.is_empty()
            || self.holdings.has_dead()
            || self.election.is_awaiting()
            || !self.displaced.is_empty()
            || !self.disputes.fence.is_empty()
            || (self.config.reclaim_after.is_some() && !self.ring.is_empty())
    }

    /// Ends an event: what waits is tried again, free counts are reported, rows come first.
    fn finish(&mut self, now: Instant) {
        self.retry(now);
        self.report_free();
        self.collect_rows();
        let changes = self.event.store.take_changes();
        if !changes.is_empty() {
            self.event.outputs.push_back(IpamOutput::Persist(changes));
        }
        let effects = std::mem::take(&mut self.event.effects);
        self.event.outputs.extend(effects);
        if !self.needs_tick() {
            self.event.next_tick = None;
        } else if self.event.next_tick.is_none() {
            self.event.next_tick = Some(now + TICK);
        }
    }

    /// Tells the ring how many addresses are free, if that may have changed.
    fn report_free(&mut self) {
        if std::mem::take(&mut self.event.is_space_dirty) {
            let (space, lost) = (&self.space, self.disputes.lost());
            let free_in = |range| space.free_in(range);
            self.event.is_ring_dirty |= self.ring.report_free_except(&lost, free_in);
        }
    }

    fn collect_rows(&mut self) {
        let us = self.config.name;
        let store = &mut self.event.store;
        for (cidr, holder) in self.holdings.take_changes() {
            store.put_owned(cidr, holder);
        }
        for (cidr, holder) in self.displaced.take_changes() {
            store.put_displaced(cidr, holder);
        }
        store.put_fence(&self.disputes.fence);
        store.put_election(self.election.to_save());
        if let Some(votes) = self.reclaim.take_changed() {
            store.put_votes(votes);
        }
        let is_first = !store.has_header() && store.has_changes();
        if std::mem::take(&mut self.event.is_ring_dirty) || is_first {
            let entries = self.ring.entries();
            store.put_ring(us, self.config.universe, entries, self.ring.seeds());
        }
        if std::mem::take(&mut self.event.is_share_dirty) {
            let ranges = self.ring.owned_ranges(us);
            self.space.assert_matches(&ranges);
            let ranges = merge_ranges(ranges);
            if ranges != self.event.told_ranges {
                self.event.told_ranges.clone_from(&ranges);
                self.effect(IpamOutput::RangesChanged(ranges));
            }
        }
    }

    /// Logs in the words of the original.
    fn say(&self, text: impl std::fmt::Display) {
        info!("[allocator {}] {text}", self.config.name);
    }

    /// As [`Self::say`], for what is odd.
    fn warn(&self, text: impl std::fmt::Display) {
        warn!("[allocator {}] {text}", self.config.name);
    }

    fn nickname(&self, peer: PeerName) -> &str {
        self.mesh.nicknames.get(&peer).map_or("", String::as_str)
    }

    /// `name(nickname)`, as lists have it.
    fn label(&self, peer: PeerName) -> String {
        format!("{peer}({})", self.nickname(peer))
    }

    /// As sentences have it.
    fn mention(&self, name: PeerName) -> Peer {
        let nickname = self.nickname(name).to_owned();
        Peer { name, nickname }
    }
}
