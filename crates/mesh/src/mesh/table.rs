//! The links that stand, and which of them are the connections of our peer entry. Knows how to send
//! on a link and what may be sent; who is told what is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use tracing::{debug, info, warn};
use wire::message::{Message, OverlayControl};
use wire::{LinkId, PeerName};

use super::outputs::Outputs;
use crate::MeshOutput;
use crate::link::outbox::{Item, Topic};
use crate::link::{HEARTBEAT_INTERVAL, Introduced, Link, Phase};
use crate::status::Footprint;

/// Links by number, and connections by the peer at their other end.
#[derive(Default)]
pub(super) struct LinkTable {
    /// TCP connections that stand.
    links: BTreeMap<LinkId, Link>,
    /// The connections of our peer entry. Invariant: the same names as its adjacencies.
    connections: BTreeMap<PeerName, LinkId>,
    /// Before that no link has missed its deadline or needs a heartbeat: both move only later.
    due: Option<Instant>,
    /// Links something was queued for since outboxes were last looked at.
    queued: BTreeSet<LinkId>,
}

impl LinkTable {
    /// Adds a link.
    pub(super) fn insert(&mut self, id: LinkId, link: Link) {
        self.due_at(link.due());
        self.links.insert(id, link);
    }

    pub(super) fn remove(&mut self, id: LinkId) -> Option<Link> {
        self.links.remove(&id)
    }

    pub(super) fn get(&self, id: LinkId) -> Option<&Link> {
        self.links.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links.iter().map(|(id, link)| (*id, link))
    }

    /// What is known of a link whose introduction is over.
    pub(super) fn introduced(&self, id: LinkId) -> &Introduced {
        let introduced = self.find_introduced(id);
        introduced.expect("only called for links whose introduction is over")
    }

    /// The same, if there is such a link.
    pub(super) fn find_introduced(&self, id: LinkId) -> Option<&Introduced> {
        self.links.get(&id).and_then(Link::introduced)
    }

    /// The other end of a link, once it is known.
    pub(super) fn remote(&self, id: LinkId) -> Option<PeerName> {
        self.find_introduced(id).map(Introduced::remote)
    }

    /// How log lines name a link; empty for one that ended.
    pub(super) fn label(&self, id: LinkId) -> String {
        self.links.get(&id).map(Link::label).unwrap_or_default()
    }

    /// Makes a link the connection to a peer.
    pub(super) fn join(&mut self, name: PeerName, id: LinkId) {
        self.connections.insert(name, id);
        let introduced = self.links.get_mut(&id).and_then(Link::introduced_mut);
        introduced.expect("a connection is introduced").added = true;
    }

    /// There is no more connection to a peer.
    pub(super) fn leave(&mut self, name: PeerName) -> Option<LinkId> {
        self.connections.remove(&name)
    }

    /// Our connection to a peer.
    pub(super) fn connection_to(&self, name: PeerName) -> Option<LinkId> {
        self.connections.get(&name).copied()
    }

    /// All our connections, ascending by peer.
    pub(super) fn connections(&self) -> impl Iterator<Item = (PeerName, LinkId)> + '_ {
        self.connections.iter().map(|(name, id)| (*name, *id))
    }

    pub(super) fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Who a link leads to that is refused already. Only what it says about the topology still
    /// counts, and nothing if it has our name.
    pub(super) fn parting(&self, id: LinkId) -> Option<PeerName> {
        let link = self.links.get(&id)?;
        link.farewell.as_ref()?;
        link.introduced().map(Introduced::remote)
    }

    /// Whether the other end of a link understands topology news.
    pub(super) fn understands_news(&self, id: LinkId) -> bool {
        self.find_introduced(id)
            .is_some_and(Introduced::understands_deltas)
    }

    /// Whether the other end of a link may get gossip of a channel: originals never see ours.
    pub(super) fn may_hear(&self, id: LinkId, channel: &str) -> bool {
        !crate::link::is_for_wefts(channel)
            || self
                .find_introduced(id)
                .is_some_and(|introduced| introduced.between_wefts)
    }

    /// When a link misses its deadline or needs a heartbeat; not too late, maybe too early.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A deadline moved to an earlier time.
    pub(super) fn due_at(&mut self, at: Instant) {
        self.due = self.due.into_iter().chain([at]).min();
    }

    /// Links that have missed their deadline.
    pub(super) fn overdue(&self, now: Instant) -> Vec<LinkId> {
        let overdue = self.links.iter().filter(|(_, link)| link.deadline <= now);
        overdue.map(|(id, _)| *id).collect()
    }

    /// Sends the heartbeats that are due, and looks when the next ones are.
    pub(super) fn beat(&mut self, now: Instant, outputs: &mut Outputs) {
        let mut due = Vec::new();
        for (id, link) in &mut self.links {
            if let Some(introduced) = link.introduced_mut()
                && introduced.heartbeat_at <= now
            {
                introduced.heartbeat_at = now + HEARTBEAT_INTERVAL;
                due.push(*id);
            }
        }
        for id in due {
            self.send_message(id, &Message::Heartbeat, outputs);
        }
        self.due = self.links.values().map(Link::due).min();
    }

    /// The shell has written everything for a link. Whether there is such a link.
    pub(super) fn flushed(&mut self, id: LinkId) -> bool {
        let Some(link) = self.links.get_mut(&id) else {
            return false;
        };
        link.unflushed_bytes = 0;
        self.queued.insert(id);
        true
    }

    /// Adds gossip to what waits for a link. `has_state` says whether the channel can be asked for
    /// its state.
    pub(super) fn queue(&mut self, id: LinkId, topic: Topic, item: Item, has_state: bool) {
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

    /// Links something was queued for since this was last asked.
    pub(super) fn take_queued(&mut self) -> BTreeSet<LinkId> {
        std::mem::take(&mut self.queued)
    }

    /// What waits for a link, if the shell has written everything before.
    pub(super) fn take_waiting(&mut self, id: LinkId) -> BTreeMap<Topic, Item> {
        let link = self.links.get_mut(&id);
        let link = link.filter(|link| link.unflushed_bytes == 0);
        link.map(|link| link.outbox.take()).unwrap_or_default()
    }

    pub(super) fn send_message(&mut self, id: LinkId, message: &Message, outputs: &mut Outputs) {
        self.send_encoded(id, &message.encode(), outputs);
    }

    pub(super) fn send_encoded(&mut self, id: LinkId, message: &[u8], outputs: &mut Outputs) {
        let introduced = self.links.get_mut(&id).and_then(Link::introduced_mut);
        let Some(introduced) = introduced else {
            return;
        };
        match introduced.session.seal(message) {
            Ok(frame) => self.send(id, frame, outputs),
            Err(error) => {
                let conn = self.label(id);
                warn!(%conn, %error, "message not sent");
            }
        }
    }

    /// Gives bytes for a link to the shell.
    pub(super) fn send(&mut self, id: LinkId, bytes: Vec<u8>, outputs: &mut Outputs) {
        if bytes.is_empty() {
            return;
        }
        if let Some(link) = self.links.get_mut(&id) {
            link.unflushed_bytes += bytes.len();
            outputs.push_bytes(id, bytes);
        }
    }

    /// A control message for the overlay of a connection.
    pub(super) fn receive_control(
        &mut self,
        id: LinkId,
        control: OverlayControl,
        outputs: &mut Outputs,
    ) {
        let introduced = self.find_introduced(id);
        if introduced.is_some_and(|i| i.uses_control_index == control.index.is_some()) {
            outputs.push(MeshOutput::OverlayControl { link: id, control });
        } else {
            let tag = control.index.map_or(control.tag, |_| 7);
            self.log_oddity(id, &format!("ignoring unknown protocol tag: {tag}"));
        }
    }

    /// Logs the first odd message of a link for the operator, later ones for whoever looks closely.
    pub(super) fn log_oddity(&mut self, id: LinkId, text: &str) {
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

    /// Counts what is kept of links.
    pub(super) fn count(&self, footprint: &mut Footprint) {
        footprint.links = self.links.len();
        footprint.connections = self.connections.len();
        for (id, link) in &self.links {
            match &link.phase {
                Phase::Handshake(handshake) => {
                    footprint.inbound_handshakes += usize::from(!id.is_outbound());
                    footprint.outbound_handshakes += usize::from(id.is_outbound());
                    let bytes = &mut footprint.handshake_bytes_max;
                    *bytes = handshake.buffered_bytes().max(*bytes);
                }
                Phase::Introduced(introduced) => {
                    let bytes = &mut footprint.receive_bytes_max;
                    *bytes = introduced.session.buffered_bytes().max(*bytes);
                }
            }
            let (items, bytes) = link.outbox.footprint();
            footprint.outbox_items_max = items.max(footprint.outbox_items_max);
            footprint.outbox_bytes_max = bytes.max(footprint.outbox_bytes_max);
            footprint.unflushed_bytes_max = link.unflushed_bytes.max(footprint.unflushed_bytes_max);
        }
    }
}
