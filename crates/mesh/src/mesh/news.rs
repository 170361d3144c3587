//! Topology among peers that understand deltas (`wire::delta`): who is told what, and when.
//!
//! A peer tells each change of its own entry to all its neighbours, as the difference to what it told
//! them last. So whoever hears of a change passes it on only to those that the changed peer is not
//! connected to. What got lost is found by comparing digests: over each new connection, now and then
//! after changes, and whenever complete state would be gossiped. Originals get what they always got.

use std::time::{Duration, Instant};

use wire::delta::{EntryContent, EntryNews, KnownEntry, TopologyNews};
use wire::{LinkId, PeerName};

use super::gossiping::{Gossip, Malformed};
use crate::gossip::TOPOLOGY;
use crate::link::outbox::{Item, Topic};
use crate::peers::{Applied, Base, Changes};

/// The gossip channel of these messages.
pub(super) const NEWS: &str = "weft-topology";
/// Least time between two rounds of passing news on; what comes meanwhile goes together.
const SPREAD_INTERVAL: Duration = Duration::from_millis(50);
/// How long after news digests are compared, in case something got lost.
const COMPARE_DELAY: Duration = Duration::from_secs(5);
/// With how many neighbours then.
const COMPARED: usize = 2;
/// Most entries that wait for a round; more than that do not.
const WAITING_MAX: usize = 2048;
/// Bytes of one message we aim to stay below.
const MESSAGE_BYTES_AIM: usize = 1 << 20;
/// Generous bound of what an entry takes besides its connections, and of one connection.
const ENTRY_BYTES: usize = 300;
const CONNECTION_BYTES: usize = 32;

/// News to be passed on.
#[derive(Default)]
pub(super) struct Spread {
    /// The entries, what they were before, and which neighbour told us.
    fresh: Vec<(Changes, Option<PeerName>)>,
    /// When the next round may be.
    next: Option<Instant>,
    /// When digests are to be compared.
    compare: Option<Instant>,
    /// Version of our own entry we told our neighbours last.
    announced: u64,
    /// The last messages encoded: what goes to several neighbours is encoded once.
    encoded: Option<(u64, Changes, Vec<Vec<u8>>)>,
}

impl Spread {
    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let round = self.next.filter(|_| !self.fresh.is_empty());
        [round, self.compare].into_iter().flatten().min()
    }
}

impl Gossip<'_> {
    /// A new connection: both ends tell what they are connected to, if that may be news, and the end
    /// that dialled asks whether both know the same.
    pub(super) fn greet(&mut self, id: LinkId, is_news: bool) {
        if is_news {
            self.queue_changes(id, Changes::from([(self.us, Base::default())]));
        }
        if id.is_outbound() {
            self.send_digest(id);
        }
    }

    /// Tells all neighbours that understand deltas what became of our own entry.
    pub(super) fn announce_change(&mut self) {
        let own = self.topology.peers.own();
        let base = Base {
            uid: own.uid,
            version: self.state.spread.announced,
        };
        self.state.spread.announced = own.version;
        let changes = Changes::from([(self.us, base)]);
        let links: Vec<LinkId> = self.links.connections().map(|(_, id)| id).collect();
        for link in links {
            if self.links.understands_news(link) {
                self.queue_changes(link, changes.clone());
            }
        }
    }

    /// A message of the channel, from a neighbour that may send it.
    pub(super) fn receive_news(
        &mut self,
        id: LinkId,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Malformed> {
        let news = TopologyNews::decode(payload)?;
        let teller = self.teller(id);
        match news {
            TopologyNews::Digest(theirs) => {
                let ours = [
                    self.topology.peers.digest_for(teller.name),
                    self.topology.peers.digest_of_all(),
                ];
                if !ours.contains(&theirs) {
                    let entries = self.topology.peers.known_entries();
                    let complete = true;
                    self.send_news(id, &TopologyNews::Have { complete, entries });
                }
            }
            TopologyNews::Have { complete, entries } => {
                let (lacking, applied) =
                    self.topology.peers.compare(teller, &entries, complete, now);
                if !lacking.is_empty() {
                    self.queue_changes(id, lacking);
                }
                self.follow_news(id, applied, now);
            }
            TopologyNews::Entries(entries) => {
                let applied = self.topology.peers.apply(teller, entries, now);
                self.topology.collect_soon(now);
                self.follow_news(id, applied, now);
            }
        }
        Ok(())
    }

    fn follow_news(&mut self, id: LinkId, applied: Applied, now: Instant) {
        if !applied.wanted.is_empty() {
            let (complete, entries): (bool, Vec<KnownEntry>) = (false, applied.wanted);
            self.send_news(id, &TopologyNews::Have { complete, entries });
        }
        if applied.outran {
            self.topology.announce_soon(now);
        }
        if !applied.improved.is_empty() {
            self.topology.request_routes(now);
            self.topology.contest_short_id(now, self.rng);
            let teller = self.links.introduced(id).remote();
            self.pass_on(applied.improved, Some(teller), now);
        }
    }

    /// Passes news on: at once, or together with what comes soon after the last round.
    pub(super) fn pass_on(&mut self, changes: Changes, teller: Option<PeerName>, now: Instant) {
        self.state.spread.compare.get_or_insert(now + COMPARE_DELAY);
        self.state.spread.fresh.push((changes, teller));
        let waiting: usize = self.state.spread.fresh.iter().map(|(c, _)| c.len()).sum();
        if self.state.spread.next.is_none_or(|next| next <= now) || waiting > WAITING_MAX {
            self.spread_round(now);
        }
    }

    /// Does what is due.
    pub(super) fn tend_news(&mut self, now: Instant) {
        if self.state.spread.next.is_some_and(|next| next <= now)
            && !self.state.spread.fresh.is_empty()
        {
            self.spread_round(now);
        }
        if self.state.spread.compare.is_some_and(|at| at <= now) {
            self.state.spread.compare = None;
            self.compare_digests();
        }
    }

    /// Compares digests with some neighbours.
    fn compare_digests(&mut self) {
        for (_, link) in self.chosen_links().into_iter().take(COMPARED) {
            if self.links.understands_news(link) {
                self.send_digest(link);
            }
        }
    }

    /// Lets a neighbour look whether it knows the same, about both of us too.
    pub(super) fn send_digest_of_all(&mut self, id: LinkId) {
        let digest = self.topology.peers.digest_of_all();
        self.send_news(id, &TopologyNews::Digest(digest));
    }

    /// Lets a neighbour look whether it knows the same.
    pub(super) fn send_digest(&mut self, id: LinkId) {
        let digest = self
            .topology
            .peers
            .digest_for(self.links.introduced(id).remote());
        self.send_news(id, &TopologyNews::Digest(digest));
    }

    fn spread_round(&mut self, now: Instant) {
        self.state.spread.next = Some(now + SPREAD_INTERVAL);
        let fresh = std::mem::take(&mut self.state.spread.fresh);
        let has_originals = {
            let mut links = self.links.connections();
            links.any(|(_, link)| !self.links.understands_news(link))
        };
        let needs_help = |name: &PeerName| {
            let mut others = self.links.connections();
            others.any(|(other, _)| !self.hears_from(other, *name))
        };
        let is_hearsay = |name: &PeerName, teller: &Option<PeerName>| {
            *teller != Some(*name) && self.links.connection_to(*name).is_some()
        };
        let fresh: Vec<_> = fresh
            .into_iter()
            .filter(|(changes, teller)| {
                let mut names = changes.keys();
                let helps = |name| needs_help(name) || is_hearsay(name, teller);
                has_originals || names.any(helps)
            })
            .collect();
        if fresh.is_empty() {
            return;
        }
        for (neighbour, link) in self.chosen_links() {
            let news = fresh
                .iter()
                .filter(|(_, teller)| *teller != Some(neighbour));
            if self.links.understands_news(link) {
                let mut changes = Changes::new();
                for (name, base) in news.flat_map(|(changes, _)| changes) {
                    // What others say of the neighbour itself it may have to correct.
                    if neighbour == *name || !self.hears_from(neighbour, *name) {
                        merge(&mut changes, *name, *base);
                    }
                }
                if !changes.is_empty() {
                    self.queue_changes(link, changes);
                }
            } else {
                let news = news.flat_map(|(changes, _)| changes);
                let names = Item::Names(news.map(|(name, _)| *name).collect());
                self.queue(link, Topic::Neighbour(TOPOLOGY.into()), names);
            }
        }
    }

    /// Whether a neighbour of ours hears of a peer's present version without our help.
    fn hears_from(&self, neighbour: PeerName, name: PeerName) -> bool {
        let entry = self.topology.peers.get(name);
        neighbour == name
            || entry
                .is_some_and(|entry| entry.is_told() && entry.adjacencies.contains_key(&neighbour))
    }

    fn queue_changes(&mut self, id: LinkId, changes: Changes) {
        self.queue(id, Topic::Neighbour(NEWS.into()), Item::Changes(changes));
    }

    /// Tells one neighbour what it lacks.
    pub(super) fn send_changes(&mut self, id: LinkId, topic: &Topic, changes: Changes) {
        let revision = self.topology.peers.revision();
        let cached = self.state.spread.encoded.take();
        let cached = cached.filter(|(at, of, _)| *at == revision && *of == changes);
        let (_, changes, messages) = cached.unwrap_or_else(|| {
            let messages = batches(self.topology.peers.news_since(&changes));
            (revision, changes, messages)
        });
        for message in &messages {
            self.send_gossip(id, topic, message);
        }
        self.state.spread.encoded = Some((revision, changes, messages));
    }

    fn send_news(&mut self, id: LinkId, news: &TopologyNews) {
        if !self.is_congested(id) {
            self.send_gossip(id, &Topic::Neighbour(NEWS.into()), &news.encode());
        }
    }
}

fn merge(changes: &mut Changes, name: PeerName, base: Base) {
    let merged = changes.get(&name).map_or(base, |other| other.meet(base));
    changes.insert(name, merged);
}

/// Entries as messages of bounded size.
fn batches(news: Vec<EntryNews>) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0;
    for entry in news {
        let (EntryContent::Whole { connections, .. } | EntryContent::Change { connections, .. }) =
            &entry.content;
        let size = ENTRY_BYTES + CONNECTION_BYTES * connections.len();
        if bytes + size > MESSAGE_BYTES_AIM && !batch.is_empty() {
            messages.push(TopologyNews::Entries(std::mem::take(&mut batch)).encode());
            bytes = 0;
        }
        bytes += size;
        batch.push(entry);
    }
    if !batch.is_empty() {
        messages.push(TopologyNews::Entries(batch).encode());
    }
    messages
}
