//! Topology among peers that understand deltas (`wire::delta`): who is told what, and when.
//!
//! A peer tells each change of its own entry to all its neighbours, as the difference to what it told
//! them last. So whoever hears of a change passes it on only to those that the changed peer is not
//! connected to. What got lost is found by comparing digests: over each new connection, now and then
//! after changes, and whenever complete state would be gossiped. Originals get what they always got.

use std::time::{Duration, Instant};

use wire::delta::{EntryContent, EntryNews, KnownEntry, TopologyNews};
use wire::{LinkId, PeerName};

use super::{COLLECT_DELAY, Mesh};
use crate::gossip::{TOPOLOGY, choose_neighbours};
use crate::link::outbox::{Item, Topic};
use crate::link::{CONGESTED_BYTES, Introduced};
use crate::maker::Ending;
use crate::peers::{Applied, Base, Changes, Teller};

/// The gossip channel of these messages.
pub(super) const NEWS: &str = "weft-topology";
/// The capability word of those who understand them.
pub(super) const CAPABILITY: &str = "delta";
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

impl Mesh {
    /// Whether the other end of a link understands these messages.
    pub(super) fn understands_news(&self, id: LinkId) -> bool {
        let introduced = self.links.get(&id).and_then(|link| link.introduced());
        self.config.announce_weft && introduced.is_some_and(hears_deltas)
    }

    /// A new connection: both ends tell what they are connected to, if that may be news, and the end
    /// that dialled asks whether both know the same.
    pub(super) fn greet(&mut self, id: LinkId, is_news: bool) {
        if is_news {
            self.queue_changes(id, Changes::from([(self.config.name, Base::default())]));
        }
        if id.is_outbound() {
            self.send_digest(id);
        }
    }

    /// Tells all neighbours that understand deltas what became of our own entry.
    pub(super) fn announce_change(&mut self) {
        let own = self.peers.own();
        let base = Base {
            uid: own.uid,
            version: self.spread.announced,
        };
        self.spread.announced = own.version;
        let changes = Changes::from([(self.config.name, base)]);
        let links: Vec<LinkId> = self.connections.values().copied().collect();
        for link in links {
            if self.understands_news(link) {
                self.queue_changes(link, changes.clone());
            }
        }
    }

    /// A message of the channel, from a neighbour that may send it.
    pub(super) fn receive_news(&mut self, id: LinkId, payload: &[u8], now: Instant) {
        let news = match TopologyNews::decode(payload) {
            Ok(news) => news,
            Err(error) => return self.end_link(id, &error.to_string(), Ending::Ordinary, now),
        };
        let features = &self.introduced(id).features;
        let teller = Teller {
            name: features.name,
            uid: features.uid,
        };
        match news {
            TopologyNews::Digest(theirs) => {
                let ours = [
                    self.peers.digest_for(teller.name),
                    self.peers.digest_of_all(),
                ];
                if !ours.contains(&theirs) {
                    let entries = self.peers.known_entries();
                    let complete = true;
                    self.send_news(id, &TopologyNews::Have { complete, entries });
                }
            }
            TopologyNews::Have { complete, entries } => {
                let (lacking, applied) = self.peers.compare(teller, &entries, complete, now);
                if !lacking.is_empty() {
                    self.queue_changes(id, lacking);
                }
                self.follow_news(id, applied, now);
            }
            TopologyNews::Entries(entries) => {
                let applied = self.peers.apply(teller, entries, now);
                self.timers.collect.get_or_insert(now + COLLECT_DELAY);
                self.follow_news(id, applied, now);
            }
        }
    }

    fn follow_news(&mut self, id: LinkId, applied: Applied, now: Instant) {
        if !applied.wanted.is_empty() {
            let (complete, entries): (bool, Vec<KnownEntry>) = (false, applied.wanted);
            self.send_news(id, &TopologyNews::Have { complete, entries });
        }
        if applied.outran {
            self.schedule_announcement(now);
        }
        if !applied.improved.is_empty() {
            self.request_routes(now);
            self.contest_short_id(now);
            let teller = self.introduced(id).remote();
            self.pass_on(applied.improved, Some(teller), now);
        }
    }

    /// Passes news on: at once, or together with what comes soon after the last round.
    pub(super) fn pass_on(&mut self, changes: Changes, teller: Option<PeerName>, now: Instant) {
        self.spread.compare.get_or_insert(now + COMPARE_DELAY);
        self.spread.fresh.push((changes, teller));
        let waiting: usize = self.spread.fresh.iter().map(|(c, _)| c.len()).sum();
        if self.spread.next.is_none_or(|next| next <= now) || waiting > WAITING_MAX {
            self.spread_round(now);
        }
    }

    /// Does what is due.
    pub(super) fn tend_news(&mut self, now: Instant) {
        if self.spread.next.is_some_and(|next| next <= now) && !self.spread.fresh.is_empty() {
            self.spread_round(now);
        }
        if self.spread.compare.is_some_and(|at| at <= now) {
            self.spread.compare = None;
            self.compare_digests();
        }
    }

    /// Compares digests with some neighbours.
    fn compare_digests(&mut self) {
        for (_, link) in self.chosen_links().into_iter().take(COMPARED) {
            if self.understands_news(link) {
                self.send_digest(link);
            }
        }
    }

    /// Lets a neighbour look whether it knows the same, about both of us too.
    pub(super) fn send_digest_of_all(&mut self, id: LinkId) {
        let digest = self.peers.digest_of_all();
        self.send_news(id, &TopologyNews::Digest(digest));
    }

    /// Lets a neighbour look whether it knows the same.
    pub(super) fn send_digest(&mut self, id: LinkId) {
        let digest = self.peers.digest_for(self.introduced(id).remote());
        self.send_news(id, &TopologyNews::Digest(digest));
    }

    /// A random choice of neighbours (spec/mesh.md 7.5).
    pub(super) fn chosen_neighbours(&mut self, except: Option<PeerName>) -> Vec<PeerName> {
        self.gossip_unicast_routes();
        let unicast = self.routes.gossip_unicast.as_ref();
        let unicast = unicast.expect("was just calculated");
        choose_neighbours(unicast, except, &mut self.rng)
    }

    /// The same, with the links to them.
    pub(super) fn chosen_links(&mut self) -> Vec<(PeerName, LinkId)> {
        let chosen = self.chosen_neighbours(None).into_iter();
        let links = chosen.filter_map(|name| Some((name, *self.connections.get(&name)?)));
        links.collect()
    }

    fn spread_round(&mut self, now: Instant) {
        self.spread.next = Some(now + SPREAD_INTERVAL);
        let fresh = std::mem::take(&mut self.spread.fresh);
        let has_originals = {
            let mut links = self.connections.values();
            links.any(|link| !self.understands_news(*link))
        };
        let needs_help = |mesh: &Self, name: &PeerName| {
            let mut others = mesh.connections.keys();
            others.any(|other| !mesh.hears_from(*other, *name))
        };
        let is_hearsay = |mesh: &Self, name: &PeerName, teller: &Option<PeerName>| {
            *teller != Some(*name) && mesh.connections.contains_key(name)
        };
        let fresh: Vec<_> = fresh
            .into_iter()
            .filter(|(changes, teller)| {
                let mut names = changes.keys();
                let helps = |name| needs_help(self, name) || is_hearsay(self, name, teller);
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
            if self.understands_news(link) {
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
        let entry = self.peers.get(name);
        neighbour == name
            || entry
                .is_some_and(|entry| entry.is_told() && entry.adjacencies.contains_key(&neighbour))
    }

    fn queue_changes(&mut self, id: LinkId, changes: Changes) {
        self.queue(id, Topic::Neighbour(NEWS.into()), Item::Changes(changes));
    }

    /// Tells one neighbour what it lacks.
    pub(super) fn send_changes(&mut self, id: LinkId, topic: &Topic, changes: Changes) {
        let revision = self.peers.revision();
        let cached = self.spread.encoded.take();
        let cached = cached.filter(|(at, of, _)| *at == revision && *of == changes);
        let (_, changes, messages) = cached.unwrap_or_else(|| {
            let messages = batches(self.peers.news_since(&changes));
            (revision, changes, messages)
        });
        for message in &messages {
            self.send_gossip(id, topic, message);
        }
        self.spread.encoded = Some((revision, changes, messages));
    }

    fn send_news(&mut self, id: LinkId, news: &TopologyNews) {
        let link = self.links.get(&id);
        if link.is_some_and(|link| link.unflushed_bytes <= CONGESTED_BYTES) {
            self.send_gossip(id, &Topic::Neighbour(NEWS.into()), &news.encode());
        }
    }
}

/// Whether somebody announced that it understands deltas.
fn hears_deltas(introduced: &Introduced) -> bool {
    let weft = introduced.features.weft.as_ref();
    weft.is_some_and(|weft| weft.has(CAPABILITY))
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
