//! The state machine: inputs and time go in, outputs come out.
//!
//! `Mesh` owns the parts and sequences them; it has no rules of its own. Each part at work is a view
//! that borrows what it may see:
//!
//! ```text
//!   Links   makes and ends links      all but gossip's state
//!   Gossip  hears and spreads         topology; links only to send on them
//!   Timers  says what is due          deadlines, to be read
//! ```
//!
//! What one of them has to tell another comes back as a value, and `Mesh` passes it on.

mod clones;
mod dials;
mod duplicates;
mod footprint;
mod gossiping;
mod links;
mod news;
mod operator;
mod outputs;
mod snapshot;
mod table;
mod timers;
mod topology;

use std::net::SocketAddr;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use wire::message::{Message, MessageError, OverlayControl};
use wire::{LinkId, PeerName};

use crate::keys::KeySource;
use crate::link::Received;
use crate::maker::{Ending, Maker};
use crate::peers::{PeerTable, SHORT_IDS};
use crate::{MeshConfig, MeshOutput};
use clones::Clones;
use dials::Dials;
use duplicates::Superseded;
use gossiping::{Gossip, GossipState, Malformed};
use links::{Links, Progress};
use outputs::Outputs;
use table::LinkTable;
use timers::{Duty, Timers};
use topology::Topology;

pub use gossiping::{GossipContent, UnicastError};
pub use snapshot::MeshSnapshot;

/// One peer's part of the mesh. Performs no I/O.
///
/// Call a method, then drain `poll_output` until it returns `None`, doing each output in order, then
/// sleep until `poll_timeout` or the next input. Time must not go backwards. Inputs that name a link
/// already closed are ignored.
pub struct Mesh {
    config: MeshConfig,
    rng: StdRng,
    keys: KeySource,
    topology: Topology,
    table: LinkTable,
    dials: Dials,
    superseded: Superseded,
    /// Others with our name.
    clones: Clones,
    gossip: GossipState,
    outputs: Outputs,
}

impl Mesh {
    /// A mesh without connections. The seed feeds every random choice and every ephemeral key, so it
    /// must be secret and used once.
    pub fn new(config: MeshConfig, seed: [u8; 32], now: Instant) -> Self {
        let versions = config.min_protocol_version..=config.max_protocol_version;
        assert!(
            !versions.is_empty() && (1..=2).contains(versions.end()),
            "versions are 1 and 2"
        );
        let mut first = StdRng::from_seed(seed);
        let uid = first.random_range(1..=u64::MAX);
        let short_id = first.random_range(0..SHORT_IDS);
        let keys = KeySource::seeded_by(&mut first);
        let mut rng = StdRng::from_rng(&mut first);
        let peers = PeerTable::new(config.name, &config.nickname, uid, short_id);
        Self {
            dials: Dials::new(Maker::new(config.port, config.discovery)),
            config,
            topology: Topology::new(peers, &mut rng),
            rng,
            keys,
            table: LinkTable::default(),
            superseded: Superseded::default(),
            clones: Clones::default(),
            gossip: GossipState::new(now),
            outputs: Outputs::default(),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<MeshOutput> {
        self.outputs.pop()
    }

    /// When `handle_timeout` wants to be called next, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timers().next()
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        for duty in Duty::ALL {
            if self.timers().is_due(duty, now) {
                self.perform(duty, now);
            }
        }
        self.settle(now);
    }

    /// The shell accepted a TCP connection and numbered it.
    pub fn handle_link_accepted(
        &mut self,
        link: LinkId,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) {
        self.links().accept(link, local, remote, now);
        self.settle(now);
    }

    /// A dial succeeded.
    pub fn handle_link_connected(
        &mut self,
        link: LinkId,
        local: SocketAddr,
        _remote: SocketAddr,
        now: Instant,
    ) {
        self.links().connected(link, local, now);
        self.settle(now);
    }

    /// A dial failed; `error` is what the operator should read.
    pub fn handle_dial_failed(&mut self, link: LinkId, error: &str, now: Instant) {
        self.dials.fail(link, error, now, &mut self.rng);
        self.settle(now);
    }

    /// Bytes arrived on a link, cut anywhere.
    pub fn handle_link_bytes(&mut self, link: LinkId, bytes: &[u8], now: Instant) {
        match self.links().push(link, bytes, now) {
            Progress::Awaited => {}
            Progress::Messages => self.receive_all(link, now),
            Progress::Joined { is_news } => {
                self.gossip().welcome(link, is_news);
                self.topology.contest_short_id(now, &mut self.rng);
                self.receive_all(link, now);
            }
            Progress::Parting => {
                self.gossip().tell_of_itself(link);
                self.receive_all(link, now);
            }
        }
        self.settle(now);
    }

    /// Everything queued on a link has been written.
    pub fn handle_link_flushed(&mut self, link: LinkId, now: Instant) {
        if self.table.flushed(link) {
            self.settle(now);
        }
    }

    /// A link ended: end of file (`EOF`) or an error.
    pub fn handle_link_closed(&mut self, link: LinkId, error: &str, now: Instant) {
        self.links().closed(link, error, now);
        self.settle(now);
    }

    /// The overlay says the path of a connection works.
    pub fn connection_established(&mut self, link: LinkId, now: Instant) {
        self.links().established(link, now);
        self.settle(now);
    }

    /// The overlay, or the owner of a gossip channel, gives a connection up: its link is closed.
    pub fn connection_failed(&mut self, link: LinkId, error: &str, now: Instant) {
        self.links().end(link, error, Ending::Ordinary, now);
        self.settle(now);
    }

    /// How log lines name a link: `->[10.0.0.1:6783|02:00:00:00:0a:01(alpha)]`. Empty for a link
    /// that ended.
    pub fn log_label(&self, link: LinkId) -> String {
        self.table.label(link)
    }

    /// Sends a control message of a connection's overlay.
    pub fn send_overlay_control(&mut self, link: LinkId, control: OverlayControl) {
        let Some(introduced) = self.table.find_introduced(link) else {
            return;
        };
        assert_eq!(
            control.index.is_some(),
            introduced.uses_control_index,
            "compatibility mode knows no index"
        );
        let message = Message::Overlay(control);
        self.table.send_message(link, &message, &mut self.outputs);
    }

    /// Declares that we own a gossip channel: its messages come out as `Gossip`, its state is asked
    /// for by `ChannelStateWanted`. Panics if it is taken, as `topology` is.
    pub fn register_channel(&mut self, channel: &str) {
        self.gossip.channels.register(channel);
    }

    /// Answers `ChannelStateWanted`; `None` if there is nothing to say yet.
    pub fn provide_channel_state(&mut self, channel: &str, state: Option<Vec<u8>>, now: Instant) {
        self.gossip().provide_state(channel, state.as_deref());
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
        let sent = self.gossip().unicast(channel, destination, payload);
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
        let item = content.into();
        self.gossip()
            .queue_broadcast(&channel.into(), origin, &item);
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
        let item = content.into();
        self.gossip().queue_subset(&channel.into(), except, &item);
        self.settle(now);
    }

    fn links(&mut self) -> Links<'_> {
        Links {
            config: &self.config,
            topology: &mut self.topology,
            table: &mut self.table,
            dials: &mut self.dials,
            clones: &mut self.clones,
            superseded: &mut self.superseded,
            keys: &mut self.keys,
            rng: &mut self.rng,
            outputs: &mut self.outputs,
        }
    }

    fn gossip(&mut self) -> Gossip<'_> {
        Gossip {
            us: self.config.name,
            state: &mut self.gossip,
            topology: &mut self.topology,
            links: &mut self.table,
            rng: &mut self.rng,
            outputs: &mut self.outputs,
        }
    }

    fn timers(&self) -> Timers<'_> {
        Timers {
            links: &self.table,
            dials: &self.dials,
            clones: &self.clones,
            topology: &self.topology,
            gossip: &self.gossip,
        }
    }

    /// Does what is due.
    fn perform(&mut self, duty: Duty, now: Instant) {
        let (rng, outputs) = (&mut self.rng, &mut self.outputs);
        match duty {
            Duty::Links => self.links().tend(now),
            Duty::Dials => self.dials.give_up(now, rng, outputs),
            Duty::Clone => self.clones.forget(self.config.name),
            Duty::Routes => self.calculate_routes(),
            Duty::Collection => self.topology.collect_as_due(now, rng, outputs),
            Duty::Announcement => self.gossip().announce(),
            Duty::News => self.gossip().tend_news(now),
            Duty::Gossip => self.gossip().spread_everything(now),
            Duty::Targets => self.dials.look_again(),
        }
    }

    fn calculate_routes(&mut self) {
        self.topology.calculate_routes(&mut self.outputs);
        // Whoever is new in the topology may be worth a connection.
        self.dials.look_again();
    }

    /// Takes every message that is complete from a link.
    fn receive_all(&mut self, id: LinkId, now: Instant) {
        while let Some(link) = self.table.get_mut(id) {
            let error = match link.next_message(now) {
                Ok(Some(received)) => match self.receive(id, received, now) {
                    Ok(()) => continue,
                    Err(malformed) => malformed.to_string(),
                },
                Ok(None) => return,
                Err(error) => error.to_string(),
            };
            self.links().end(id, &error, Ending::Ordinary, now);
        }
    }

    /// A message arrived.
    fn receive(&mut self, id: LinkId, received: Received, now: Instant) -> Result<(), Malformed> {
        let Received { message, raw } = received;
        if let Some(remote) = self.table.parting(id) {
            return match message {
                Ok(message) => self.gossip().receive_last(id, remote, message, now),
                Err(_) => Ok(()),
            };
        }
        match message {
            Ok(Message::Heartbeat) => {}
            Ok(Message::Overlay(control)) => {
                self.table.receive_control(id, control, &mut self.outputs);
            }
            Ok(Message::GossipNeighbour {
                channel, payload, ..
            }) => self.gossip().receive_neighbour(id, channel, payload, now)?,
            Ok(Message::GossipUnicast {
                channel,
                source,
                destination,
                payload,
            }) => {
                let raw = raw.expect("kept for unicasts");
                let ends = (source, destination);
                self.gossip()
                    .receive_unicast(id, ends, channel, payload, &raw);
            }
            Ok(Message::GossipBroadcast {
                channel,
                source,
                payload,
            }) => self
                .gossip()
                .receive_broadcast(id, channel, source, payload, now)?,
            Ok(Message::Unknown(tag)) => {
                let text = format!("ignoring unknown protocol tag: {tag}");
                self.table.log_oddity(id, &text);
            }
            Err(MessageError::Blank) => self.table.log_oddity(id, "ignoring blank msg"),
            Err(MessageError::Envelope(error)) => return Err(error.into()),
        }
        Ok(())
    }

    /// What follows every input: dial, tell about short ids, send what waits.
    fn settle(&mut self, now: Instant) {
        self.links().judge_rivals(now);
        if self.dials.take_stale() {
            self.links().dial(now);
        }
        if self.topology.peers.short_ids().take_changed() {
            self.outputs.push(MeshOutput::ShortIdsChanged);
        }
        self.gossip().send_waiting();
    }
}
