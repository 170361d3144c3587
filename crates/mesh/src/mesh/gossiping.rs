//! Messages of links: what they bring, and what we spread (spec/mesh.md 4.4 and 7).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tracing::{debug, info, warn};
use wire::message::{Delivery, Message, MessageError, OverlayControl};
use wire::{LinkId, PeerName};

use super::news::NEWS;
use super::{COLLECT_DELAY, Mesh};
use crate::MeshOutput;
use crate::gossip::TOPOLOGY;
use crate::link::outbox::{Item, Topic};
use crate::link::{CONGESTED_BYTES, Received};
use crate::maker::Ending;
use crate::peers::{Changes, Merged, Novelty, Teller};

/// How the names of channels begin that only those hear who announced themselves as Wefts.
const WEFT_CHANNELS: &str = "weft-";

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

impl Mesh {
    /// Sends a control message of a connection's overlay.
    pub fn send_overlay_control(&mut self, link: LinkId, control: OverlayControl) {
        let Some(introduced) = self.links.get(&link).and_then(|link| link.introduced()) else {
            return;
        };
        let uses_index = introduced.uses_control_index;
        assert_eq!(
            control.index.is_some(),
            uses_index,
            "compatibility mode knows no index"
        );
        self.send_message(link, &Message::Overlay(control));
    }

    /// Declares that we own a gossip channel: its messages come out as `Gossip`, its state is asked
    /// for by `ChannelStateWanted`. Panics if it is taken, as `topology` is.
    pub fn register_channel(&mut self, channel: &str) {
        self.channels.register(channel);
    }

    /// Answers `ChannelStateWanted`; `None` if there is nothing to say yet.
    pub fn provide_channel_state(&mut self, channel: &str, state: Option<Vec<u8>>, now: Instant) {
        let wanted = self.channels.take_wanted(channel);
        if let Some(state) = state {
            for (link, topic) in wanted {
                self.send_gossip(link, &topic, &state);
            }
        }
        self.settle(now);
    }

    /// Sends a payload to one other peer.
    ///
    /// # Errors
    ///
    /// When the mesh has no way to it (spec/mesh.md 7.3).
    pub fn gossip_unicast(
        &mut self,
        channel: &str,
        destination: PeerName,
        payload: Vec<u8>,
        now: Instant,
    ) -> Result<(), UnicastError> {
        let channel_name = channel;
        let (channel, source) = (channel.to_owned(), self.config.name);
        let message = Message::GossipUnicast {
            channel,
            source,
            destination,
            payload,
        };
        let sent = self.relay_unicast(channel_name, destination, &message.encode());
        self.settle(now);
        sent
    }

    /// Sends to everybody along the broadcast tree of `origin`: ourselves to originate, the origin
    /// received to pass on.
    pub fn gossip_broadcast(
        &mut self,
        channel: &str,
        origin: PeerName,
        content: GossipContent,
        now: Instant,
    ) {
        self.queue_broadcast(&channel.into(), origin, &content.into());
        self.settle(now);
    }

    /// Sends to a random choice of neighbours (spec/mesh.md 7.5), in our own name. `except` is the
    /// neighbour the news came from.
    pub fn gossip_neighbour_subset(
        &mut self,
        channel: &str,
        except: Option<PeerName>,
        content: GossipContent,
        now: Instant,
    ) {
        self.queue_subset(&channel.into(), except, &content.into());
        self.settle(now);
    }

    /// A message arrived.
    pub(super) fn receive(&mut self, id: LinkId, received: Received, now: Instant) {
        let Received { message, raw } = received;
        if let Some(remote) = self.is_parting(id) {
            if let Ok(Message::GossipNeighbour {
                channel, payload, ..
            }) = message
                && remote != self.config.name
                && (channel == TOPOLOGY || channel == NEWS)
            {
                self.receive_gossip(id, channel, payload, now);
                self.tell_survivor(id);
            }
            return;
        }
        match message {
            Ok(Message::Heartbeat) => {}
            Ok(Message::Overlay(control)) => self.receive_control(id, control),
            Ok(Message::GossipNeighbour {
                channel, payload, ..
            }) => {
                self.receive_gossip(id, channel, payload, now);
            }
            Ok(Message::GossipUnicast {
                channel,
                source,
                destination,
                payload,
            }) => {
                if destination == self.config.name {
                    self.receive_unicast(id, channel, source, payload);
                } else if let Err(error) =
                    self.relay_unicast(&channel, destination, &raw.expect("kept for unicasts"))
                {
                    info!(%error, channel, "cannot relay unicast");
                }
            }
            Ok(Message::GossipBroadcast {
                channel,
                source,
                payload,
            }) => {
                self.receive_broadcast(id, channel, source, payload, now);
            }
            Ok(Message::Unknown(tag)) => {
                self.log_oddity(id, &format!("ignoring unknown protocol tag: {tag}"));
            }
            Err(MessageError::Blank) => self.log_oddity(id, "ignoring blank msg"),
            Err(MessageError::Envelope(error)) => {
                self.end_link(id, &error.to_string(), Ending::Ordinary, now);
            }
        }
    }

    /// Logs the first odd message of a link for the operator, later ones for whoever looks closely.
    fn log_oddity(&mut self, id: LinkId, text: &str) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let conn = link.label();
        if std::mem::replace(&mut link.logged_oddity, true) {
            debug!(%conn, "{text}");
        } else {
            info!(%conn, "{text}");
        }
    }

    fn receive_control(&mut self, id: LinkId, control: OverlayControl) {
        let introduced = self.links.get(&id).and_then(|link| link.introduced());
        if introduced.is_some_and(|i| i.uses_control_index == control.index.is_some()) {
            self.outputs
                .push_back(MeshOutput::OverlayControl { link: id, control });
        } else {
            let tag = control.index.map_or(control.tag, |_| 7);
            self.log_oddity(id, &format!("ignoring unknown protocol tag: {tag}"));
        }
    }

    /// Tag 4.
    fn receive_gossip(&mut self, id: LinkId, channel: String, payload: Vec<u8>, now: Instant) {
        let Some(neighbour) = self.remote_of(id) else {
            return;
        };
        if channel == TOPOLOGY {
            let novelty = self.merged_lately.look_up(&payload, neighbour);
            if novelty == Novelty::None {
                self.timers.collect.get_or_insert(now + COLLECT_DELAY);
            } else if let Some((merged, improved)) = self.merge_topology(id, &payload, now) {
                if novelty == Novelty::New {
                    self.merged_lately.contest(merged.contested);
                }
                if !improved.is_empty() {
                    self.pass_on(improved, Some(neighbour), now);
                }
            }
        } else if channel == NEWS && self.understands_news(id) {
            self.receive_news(id, &payload, now);
        } else if self.channels.is_owned(&channel) {
            let delivery = Delivery::Neighbour(neighbour);
            self.outputs.push_back(MeshOutput::Gossip {
                link: id,
                channel,
                delivery,
                payload,
            });
        } else {
            let payload: Arc<[u8]> = payload.into();
            let Some((channel, surrogate, is_new)) = self.channels.surrogate(&channel, now) else {
                return;
            };
            let is_repeated = surrogate.has_seen(&payload, now);
            log_surrogate(&channel, is_new);
            if !is_repeated {
                self.queue_subset(&channel, Some(neighbour), &Item::payload(payload));
            }
        }
    }

    /// Tag 5, for us.
    fn receive_unicast(&mut self, id: LinkId, channel: String, source: PeerName, payload: Vec<u8>) {
        if channel == TOPOLOGY {
            info!(%source, bytes = payload.len(), "unexpected topology gossip unicast");
        } else if self.channels.is_owned(&channel) {
            let delivery = Delivery::Unicast(source);
            self.outputs.push_back(MeshOutput::Gossip {
                link: id,
                channel,
                delivery,
                payload,
            });
        }
    }

    /// Tag 6.
    fn receive_broadcast(
        &mut self,
        id: LinkId,
        channel: String,
        source: PeerName,
        payload: Vec<u8>,
        now: Instant,
    ) {
        if source == self.config.name {
            debug!(channel, "our own broadcast came back");
        } else if channel == TOPOLOGY {
            if let Some((merged, _)) = self.merge_topology(id, &payload, now)
                && !merged.received.is_empty()
            {
                let received = Item::Names(merged.received);
                self.queue_broadcast(&channel.into(), source, &received);
            }
        } else if self.channels.is_owned(&channel) {
            let delivery = Delivery::Broadcast(source);
            self.outputs.push_back(MeshOutput::Gossip {
                link: id,
                channel,
                delivery,
                payload,
            });
        } else if let Some((channel, _, is_new)) = self.channels.surrogate(&channel, now) {
            log_surrogate(&channel, is_new);
            self.queue_broadcast(&channel, source, &Item::payload(payload.into()));
        }
    }

    /// Merges a topology payload: what came of it, and what was before. `None` if it was malformed,
    /// which ends the link.
    fn merge_topology(
        &mut self,
        id: LinkId,
        payload: &[u8],
        now: Instant,
    ) -> Option<(Merged, Changes)> {
        let update = match wire::topology::decode(payload) {
            Ok(update) => update,
            Err(error) => {
                self.end_link(id, &error.to_string(), Ending::Ordinary, now);
                return None;
            }
        };
        let features = &self.introduced(id).features;
        let teller = Teller {
            name: features.name,
            uid: features.uid,
        };
        let before = self.peers.bases(update.iter().map(|summary| summary.name));
        let merged = self.peers.merge_from(teller, &update, now);
        if merged.outran {
            self.schedule_announcement(now);
        }
        if !merged.improved.is_empty() {
            self.request_routes(now);
        }
        self.contest_short_id(now);
        self.timers.collect.get_or_insert(now + COLLECT_DELAY);
        let improved = merged.improved.iter();
        let changes = improved.map(|name| (*name, before.get(name).copied().unwrap_or_default()));
        let changes = changes.collect();
        Some((merged, changes))
    }

    /// Hands a unicast to the next hop, as it is.
    fn relay_unicast(
        &mut self,
        channel: &str,
        destination: PeerName,
        message: &[u8],
    ) -> Result<(), UnicastError> {
        let next_hop = self.gossip_unicast_routes().get(&destination).copied();
        let next_hop = next_hop.filter(|hop| !hop.is_unknown());
        let next_hop = next_hop.ok_or(UnicastError::UnknownDestination(destination))?;
        let link = self.connections.get(&next_hop).copied();
        let link = link.filter(|link| self.may_hear(*link, channel));
        let link = link.ok_or(UnicastError::NoConnection(next_hop))?;
        if self
            .links
            .get(&link)
            .is_none_or(|link| link.unflushed_bytes > CONGESTED_BYTES)
        {
            return Err(UnicastError::Congested(next_hop));
        }
        self.send_encoded(link, message);
        Ok(())
    }

    /// Every channel's complete state to some neighbours.
    pub(super) fn gossip_everything(&mut self) {
        // Who goes on saying what we did not believe shall be heard again.
        self.merged_lately.clear();
        for channel in self.all_channels() {
            if &*channel != TOPOLOGY {
                self.queue_subset(&channel, None, &Item::State);
            }
        }
        for (_, link) in self.chosen_links() {
            if self.understands_news(link) {
                self.send_digest_of_all(link);
            } else {
                self.queue(link, Topic::Neighbour(TOPOLOGY.into()), Item::State);
            }
        }
    }

    /// Our own entry, and those of peers connected since last time, to some neighbours.
    pub(super) fn announce(&mut self) {
        self.timers.announce = None;
        let mut names = std::mem::take(&mut self.announced);
        names.insert(self.config.name);
        for (_, link) in self.chosen_links() {
            if !self.understands_news(link) {
                let names = Item::Names(names.clone());
                self.queue(link, Topic::Neighbour(TOPOLOGY.into()), names);
            }
        }
        self.announce_change();
    }

    pub(super) fn all_channels(&self) -> Vec<Arc<str>> {
        std::iter::once(TOPOLOGY.into())
            .chain(self.channels.owned())
            .collect()
    }

    fn queue_subset(&mut self, channel: &Arc<str>, except: Option<PeerName>, item: &Item) {
        for neighbour in self.chosen_neighbours(except) {
            if let Some(link) = self.connections.get(&neighbour).copied() {
                self.queue(link, Topic::Neighbour(Arc::clone(channel)), item.clone());
            }
        }
    }

    fn queue_broadcast(&mut self, channel: &Arc<str>, origin: PeerName, item: &Item) {
        for neighbour in self.gossip_broadcast_routes().broadcast(origin) {
            if let Some(link) = self.connections.get(&neighbour).copied() {
                self.queue(
                    link,
                    Topic::Broadcast(Arc::clone(channel), origin),
                    item.clone(),
                );
            }
        }
    }

    pub(super) fn queue(&mut self, id: LinkId, topic: Topic, item: Item) {
        if !self.may_hear(id, topic.channel()) {
            return;
        }
        let has_state = &**topic.channel() == TOPOLOGY || self.channels.is_owned(topic.channel());
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if !link.outbox.add(topic, item, has_state) {
            debug!(
                link = id.number(),
                "gossip dropped: the link does not drain"
            );
        }
        self.queued.insert(id);
    }

    /// Sends what waits for a link, if the shell has written everything before.
    pub(super) fn drain_outbox(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.unflushed_bytes > 0 {
            return;
        }
        for (topic, item) in link.outbox.take() {
            match item {
                Item::Payloads(payloads) => {
                    for payload in payloads {
                        self.send_gossip(id, &topic, &payload);
                    }
                }
                Item::Names(names) => self.send_topology(id, &topic, &names),
                Item::Changes(changes) => self.send_changes(id, &topic, changes),
                Item::State if &**topic.channel() == TOPOLOGY => {
                    let names = self.peers.names().collect();
                    self.send_topology(id, &topic, &names);
                }
                Item::State => {
                    let channel = topic.channel().to_string();
                    if self.channels.want_state(id, topic) {
                        self.outputs
                            .push_back(MeshOutput::ChannelStateWanted { channel });
                    }
                }
            }
        }
    }

    pub(super) fn send_topology(&mut self, id: LinkId, topic: &Topic, names: &BTreeSet<PeerName>) {
        for payload in self.encoded_lately.encode(&self.peers, names) {
            self.send_gossip(id, topic, &payload);
        }
    }

    pub(super) fn send_gossip(&mut self, id: LinkId, topic: &Topic, payload: &[u8]) {
        let (channel, payload) = (topic.channel().to_string(), payload.to_vec());
        let message = match *topic {
            Topic::Neighbour(_) => Message::GossipNeighbour {
                channel,
                sender: self.config.name,
                payload,
            },
            Topic::Broadcast(_, source) => Message::GossipBroadcast {
                channel,
                source,
                payload,
            },
        };
        self.send_message(id, &message);
    }

    pub(super) fn send_message(&mut self, id: LinkId, message: &Message) {
        self.send_encoded(id, &message.encode());
    }

    fn send_encoded(&mut self, id: LinkId, message: &[u8]) {
        let Some(introduced) = self
            .links
            .get_mut(&id)
            .and_then(|link| link.introduced_mut())
        else {
            return;
        };
        match introduced.session.seal(message) {
            Ok(frame) => self.send(id, frame),
            Err(error) => {
                let conn = self.log_label(id);
                warn!(%conn, %error, "message not sent");
            }
        }
    }

    /// Whether the other end of a link may get gossip of a channel: originals never see ours.
    fn may_hear(&self, id: LinkId, channel: &str) -> bool {
        if !channel.starts_with(WEFT_CHANNELS) {
            return true;
        }
        let introduced = self.links.get(&id).and_then(|link| link.introduced());
        let is_weft = introduced.is_some_and(|introduced| introduced.features.weft.is_some());
        self.config.announce_weft && is_weft
    }

    fn remote_of(&self, id: LinkId) -> Option<PeerName> {
        self.links
            .get(&id)?
            .introduced()
            .map(|introduced| introduced.remote())
    }
}

fn log_surrogate(channel: &str, is_new: bool) {
    if is_new {
        info!(channel, "created surrogate channel");
    }
}
