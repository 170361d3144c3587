//! Gossip: what messages bring, what we spread, and to whom (spec/mesh.md 4.4 and 7).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use tracing::{debug, info};
use wire::delta::DeltaError;
use wire::gob::GobError;
use wire::message::{Delivery, Message};
use wire::{LinkId, PeerName};

use super::news::{NEWS, Spread};
use super::outputs::Outputs;
use super::table::LinkTable;
use super::topology::Topology;
use crate::MeshOutput;
use crate::gossip::{Channels, GOSSIP_INTERVAL, TOPOLOGY, choose_neighbours};
use crate::link::CONGESTED_BYTES;
use crate::link::outbox::{Item, Topic};
use crate::peers::{Changes, EncodedLately, Merged, Novelty, Teller};

/// What gossip keeps from one input to the next.
pub(super) struct GossipState {
    pub(super) channels: Channels,
    encoded_lately: EncodedLately,
    /// News for those who understand deltas.
    pub(super) spread: Spread,
    /// When every channel's complete state goes to some neighbours.
    next_round: Instant,
}

impl GossipState {
    /// Gossip that has nothing to say yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            channels: Channels::default(),
            encoded_lately: EncodedLately::default(),
            spread: Spread::default(),
            next_round: now + GOSSIP_INTERVAL,
        }
    }

    /// When complete state is gossiped next.
    pub(super) fn round_due(&self) -> Instant {
        self.next_round
    }

    /// When topology news are passed on or compared next.
    pub(super) fn news_due(&self) -> Option<Instant> {
        self.spread.due()
    }
}

/// Gossip at work: sees the topology, and links as far as it sends on them. It neither makes nor ends
/// one.
pub(super) struct Gossip<'a> {
    pub(super) us: PeerName,
    pub(super) state: &'a mut GossipState,
    pub(super) topology: &'a mut Topology,
    pub(super) links: &'a mut LinkTable,
    pub(super) rng: &'a mut StdRng,
    pub(super) outputs: &'a mut Outputs,
}

/// What came by a link is malformed: it has to end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    /// A gossip envelope or a topology payload.
    #[error(transparent)]
    Gob(#[from] GobError),
    /// Topology news.
    #[error(transparent)]
    News(#[from] DeltaError),
}

/// What to gossip on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GossipContent {
    /// The channel's complete state, asked for by `ChannelStateWanted` when the link can take it.
    State,
    /// These bytes. Should too many wait for a slow link they become `State`.
    Payload(Vec<u8>),
}

/// A unicast could not be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnicastError {
    /// No route to the destination.
    #[error("unknown relay destination: {0}")]
    UnknownDestination(PeerName),
    /// The next hop is not connected to us.
    #[error("unable to find connection to relay peer {0}")]
    NoConnection(PeerName),
    /// The link to the next hop does not drain.
    #[error("link to relay peer {0} is congested")]
    Congested(PeerName),
}

impl From<GossipContent> for Item {
    fn from(content: GossipContent) -> Self {
        match content {
            GossipContent::State => Self::State,
            GossipContent::Payload(payload) => Self::payload(payload.into()),
        }
    }
}

impl Gossip<'_> {
    /// The state of a channel, from its owner, for everybody who is to get it.
    pub(super) fn provide_state(&mut self, channel: &str, state: Option<&[u8]>) {
        let wanted = self.state.channels.take_wanted(channel);
        if let Some(state) = state {
            for (link, topic) in wanted {
                self.send_gossip(link, &topic, state);
            }
        }
    }

    /// Sends a payload to one other peer.
    pub(super) fn unicast(
        &mut self,
        channel: &str,
        destination: PeerName,
        payload: Vec<u8>,
    ) -> Result<(), UnicastError> {
        let message = Message::GossipUnicast {
            channel: channel.to_owned(),
            source: self.us,
            destination,
            payload,
        };
        self.relay_unicast(channel, destination, &message.encode())
    }

    /// A link became a connection. Both ends tell everything if it may be news.
    pub(super) fn welcome(&mut self, id: LinkId, is_news: bool) {
        let understands_news = self.links.understands_news(id);
        if is_news {
            for channel in self.all_channels() {
                if &*channel != TOPOLOGY || !understands_news {
                    self.queue(id, Topic::Neighbour(channel), Item::State);
                }
            }
        }
        if understands_news {
            self.greet(id, is_news);
        }
    }

    /// Tells the other end of a link that is refused what we know of its name, which another
    /// incarnation told. Nothing if that name is ours.
    pub(super) fn tell_of_itself(&mut self, id: LinkId) {
        let name = self.links.introduced(id).remote();
        if name != self.us {
            let topic = Topic::Neighbour(TOPOLOGY.into());
            self.send_topology(id, &topic, &BTreeSet::from([name]));
        }
    }

    /// Tag 4, from a link that is parting. Whoever is connected to us by the name of its other end
    /// hears what came; usually nobody is told his own news.
    pub(super) fn receive_last(
        &mut self,
        id: LinkId,
        name: PeerName,
        message: Message,
        now: Instant,
    ) -> Result<(), Malformed> {
        let Message::GossipNeighbour {
            channel, payload, ..
        } = message
        else {
            return Ok(());
        };
        if name == self.us || channel != TOPOLOGY && channel != NEWS {
            return Ok(());
        }
        self.receive_neighbour(id, channel, payload, now)?;
        let uid = self.links.introduced(id).features.uid;
        let entry = self.topology.peers.get(name);
        if let Some(survivor) = self.links.connection_to(name)
            && entry.is_some_and(|entry| entry.uid == uid)
        {
            let topic = Topic::Neighbour(TOPOLOGY.into());
            self.send_topology(survivor, &topic, &BTreeSet::from([name]));
        }
        Ok(())
    }

    /// Tag 4.
    pub(super) fn receive_neighbour(
        &mut self,
        id: LinkId,
        channel: String,
        payload: Vec<u8>,
        now: Instant,
    ) -> Result<(), Malformed> {
        let Some(neighbour) = self.links.remote(id) else {
            return Ok(());
        };
        if channel == TOPOLOGY {
            self.receive_topology(id, neighbour, &payload, now)?;
        } else if channel == NEWS && self.links.understands_news(id) {
            self.receive_news(id, &payload, now)?;
        } else if self.state.channels.is_owned(&channel) {
            self.hand_over(id, channel, Delivery::Neighbour(neighbour), payload);
        } else {
            let payload: Arc<[u8]> = payload.into();
            let surrogate = self.state.channels.surrogate(&channel, now);
            let Some((channel, surrogate, is_new)) = surrogate else {
                return Ok(());
            };
            let is_repeated = surrogate.has_seen(&payload, now);
            log_surrogate(&channel, is_new);
            if !is_repeated {
                self.queue_subset(&channel, Some(neighbour), &Item::payload(payload));
            }
        }
        Ok(())
    }

    /// Topology from a neighbour: merges it and passes on what it improved.
    fn receive_topology(
        &mut self,
        id: LinkId,
        neighbour: PeerName,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Malformed> {
        let novelty = self.topology.merged_lately.look_up(payload, neighbour);
        if novelty == Novelty::None {
            self.topology.collect_soon(now);
            return Ok(());
        }
        let (merged, improved) = self.merge_topology(id, payload, now)?;
        if novelty == Novelty::New {
            self.topology.merged_lately.contest(merged.contested);
        }
        if !improved.is_empty() {
            self.pass_on(improved, Some(neighbour), now);
        }
        Ok(())
    }

    /// Tag 5; `raw` is the message as it came, to be relayed unchanged.
    pub(super) fn receive_unicast(
        &mut self,
        id: LinkId,
        (source, destination): (PeerName, PeerName),
        channel: String,
        payload: Vec<u8>,
        raw: &[u8],
    ) {
        if destination != self.us {
            if let Err(error) = self.relay_unicast(&channel, destination, raw) {
                info!(%error, channel, "cannot relay unicast");
            }
        } else if channel == TOPOLOGY {
            info!(%source, bytes = payload.len(), "unexpected topology gossip unicast");
        } else if self.state.channels.is_owned(&channel) {
            self.hand_over(id, channel, Delivery::Unicast(source), payload);
        }
    }

    /// Tag 6.
    pub(super) fn receive_broadcast(
        &mut self,
        id: LinkId,
        channel: String,
        source: PeerName,
        payload: Vec<u8>,
        now: Instant,
    ) -> Result<(), Malformed> {
        if source == self.us {
            debug!(channel, "our own broadcast came back");
        } else if channel == TOPOLOGY {
            let (merged, _) = self.merge_topology(id, &payload, now)?;
            if !merged.received.is_empty() {
                let received = Item::Names(merged.received);
                self.queue_broadcast(&channel.into(), source, &received);
            }
        } else if self.state.channels.is_owned(&channel) {
            self.hand_over(id, channel, Delivery::Broadcast(source), payload);
        } else if let Some((channel, _, is_new)) = self.state.channels.surrogate(&channel, now) {
            log_surrogate(&channel, is_new);
            self.queue_broadcast(&channel, source, &Item::payload(payload.into()));
        }
        Ok(())
    }

    /// Gossip of a channel for its owner.
    fn hand_over(&mut self, link: LinkId, channel: String, delivery: Delivery, payload: Vec<u8>) {
        self.outputs.push(MeshOutput::Gossip {
            link,
            channel,
            delivery,
            payload,
        });
    }

    /// Merges a topology payload: what came of it, and what was before.
    fn merge_topology(
        &mut self,
        id: LinkId,
        payload: &[u8],
        now: Instant,
    ) -> Result<(Merged, Changes), Malformed> {
        let update = wire::topology::decode(payload)?;
        let teller = self.teller(id);
        let topology = &mut *self.topology;
        let names = update.iter().map(|summary| summary.name);
        let before = topology.peers.bases(names);
        let merged = topology.peers.merge_from(teller, &update, now);
        if merged.outran {
            topology.announce_soon(now);
        }
        if !merged.improved.is_empty() {
            topology.request_routes(now);
        }
        topology.contest_short_id(now, self.rng);
        topology.collect_soon(now);
        let improved = merged.improved.iter();
        let changes = improved.map(|name| (*name, before.get(name).copied().unwrap_or_default()));
        let changes = changes.collect();
        Ok((merged, changes))
    }

    /// Who the other end of a link says it is.
    pub(super) fn teller(&self, id: LinkId) -> Teller {
        let features = &self.links.introduced(id).features;
        Teller {
            name: features.name,
            uid: features.uid,
        }
    }

    /// Hands a unicast to the next hop, as it is.
    fn relay_unicast(
        &mut self,
        channel: &str,
        destination: PeerName,
        message: &[u8],
    ) -> Result<(), UnicastError> {
        let next_hop = self.topology.gossip_unicast().get(&destination).copied();
        let next_hop = next_hop.filter(|hop| !hop.is_unknown());
        let next_hop = next_hop.ok_or(UnicastError::UnknownDestination(destination))?;
        let link = self.links.connection_to(next_hop);
        let link = link.filter(|link| self.links.may_hear(*link, channel));
        let link = link.ok_or(UnicastError::NoConnection(next_hop))?;
        if self.is_congested(link) {
            return Err(UnicastError::Congested(next_hop));
        }
        self.links.send_encoded(link, message, self.outputs);
        Ok(())
    }

    /// Whether too much waits in the shell for a link, or it is gone.
    pub(super) fn is_congested(&self, id: LinkId) -> bool {
        let link = self.links.get(id);
        link.is_none_or(|link| link.unflushed_bytes > CONGESTED_BYTES)
    }

    /// Every channel's complete state to some neighbours.
    pub(super) fn spread_everything(&mut self, now: Instant) {
        self.state.next_round = now + GOSSIP_INTERVAL;
        // Who goes on saying what we did not believe shall be heard again.
        self.topology.merged_lately.clear();
        for channel in self.all_channels() {
            if &*channel != TOPOLOGY {
                self.queue_subset(&channel, None, &Item::State);
            }
        }
        for (_, link) in self.chosen_links() {
            if self.links.understands_news(link) {
                self.send_digest_of_all(link);
            } else {
                self.queue(link, Topic::Neighbour(TOPOLOGY.into()), Item::State);
            }
        }
    }

    /// Our own entry, and those of peers connected since last time, to some neighbours.
    pub(super) fn announce(&mut self) {
        let names = self.topology.take_announced();
        for (_, link) in self.chosen_links() {
            if !self.links.understands_news(link) {
                let names = Item::Names(names.clone());
                self.queue(link, Topic::Neighbour(TOPOLOGY.into()), names);
            }
        }
        self.announce_change();
    }

    fn all_channels(&self) -> Vec<Arc<str>> {
        std::iter::once(TOPOLOGY.into())
            .chain(self.state.channels.owned())
            .collect()
    }

    /// A random choice of neighbours (spec/mesh.md 7.5).
    fn chosen_neighbours(&mut self, except: Option<PeerName>) -> Vec<PeerName> {
        choose_neighbours(self.topology.gossip_unicast(), except, self.rng)
    }

    /// The same, with the links to them.
    pub(super) fn chosen_links(&mut self) -> Vec<(PeerName, LinkId)> {
        let chosen = self.chosen_neighbours(None).into_iter();
        let links = chosen.filter_map(|name| Some((name, self.links.connection_to(name)?)));
        links.collect()
    }

    /// To a random choice of neighbours.
    pub(super) fn queue_subset(
        &mut self,
        channel: &Arc<str>,
        except: Option<PeerName>,
        item: &Item,
    ) {
        for neighbour in self.chosen_neighbours(except) {
            if let Some(link) = self.links.connection_to(neighbour) {
                self.queue(link, Topic::Neighbour(Arc::clone(channel)), item.clone());
            }
        }
    }

    /// Along the broadcast tree of `origin`.
    pub(super) fn queue_broadcast(&mut self, channel: &Arc<str>, origin: PeerName, item: &Item) {
        for neighbour in self.topology.gossip_broadcast().broadcast(origin) {
            if let Some(link) = self.links.connection_to(neighbour) {
                let topic = Topic::Broadcast(Arc::clone(channel), origin);
                self.queue(link, topic, item.clone());
            }
        }
    }

    pub(super) fn queue(&mut self, id: LinkId, topic: Topic, item: Item) {
        let channel = topic.channel();
        if !self.links.may_hear(id, channel) {
            return;
        }
        let has_state = &**channel == TOPOLOGY || self.state.channels.is_owned(channel);
        self.links.queue(id, topic, item, has_state);
    }

    /// Sends what waits for links whose bytes the shell has all written.
    pub(super) fn send_waiting(&mut self) {
        for id in self.links.take_queued() {
            for (topic, item) in self.links.take_waiting(id) {
                self.send_item(id, topic, item);
            }
        }
    }

    fn send_item(&mut self, id: LinkId, topic: Topic, item: Item) {
        match item {
            Item::Payloads(payloads) => {
                for payload in payloads {
                    self.send_gossip(id, &topic, &payload);
                }
            }
            Item::Names(names) => self.send_topology(id, &topic, &names),
            Item::Changes(changes) => self.send_changes(id, &topic, changes),
            Item::State if &**topic.channel() == TOPOLOGY => {
                let names = self.topology.peers.names().collect();
                self.send_topology(id, &topic, &names);
            }
            Item::State => {
                let channel = topic.channel().to_string();
                if self.state.channels.want_state(id, topic) {
                    self.outputs
                        .push(MeshOutput::ChannelStateWanted { channel });
                }
            }
        }
    }

    fn send_topology(&mut self, id: LinkId, topic: &Topic, names: &BTreeSet<PeerName>) {
        let encoded = &mut self.state.encoded_lately;
        for payload in encoded.encode(&self.topology.peers, names) {
            self.send_gossip(id, topic, &payload);
        }
    }

    pub(super) fn send_gossip(&mut self, id: LinkId, topic: &Topic, payload: &[u8]) {
        let (channel, payload) = (topic.channel().to_string(), payload.to_vec());
        let message = match *topic {
            Topic::Neighbour(_) => Message::GossipNeighbour {
                channel,
                sender: self.us,
                payload,
            },
            Topic::Broadcast(_, source) => Message::GossipBroadcast {
                channel,
                source,
                payload,
            },
        };
        self.links.send_message(id, &message, self.outputs);
    }
}

fn log_surrogate(channel: &str, is_new: bool) {
    if is_new {
        info!(channel, "created surrogate channel");
    }
}
