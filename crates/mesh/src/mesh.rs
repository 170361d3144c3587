//! The state machine: inputs and time go in, outputs come out.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;
use wire::PeerName;
use wire::message::OverlayControl;

use crate::status::MeshStatus;
use crate::{DirectPeer, LinkId, MeshConfig, MeshOutput};

/// One peer's part of the mesh. Performs no I/O.
///
/// Call a method, then drain `poll_output` until it returns `None`, doing each output in order, then
/// sleep until `poll_timeout` or the next input. Time must not go backwards. Inputs that name a link
/// already closed are ignored.
pub struct Mesh {
    config: MeshConfig,
    rng: StdRng,
    outputs: VecDeque<MeshOutput>,
    routes: BTreeMap<PeerName, PeerName>,
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

impl Mesh {
    /// A mesh without connections. The seed feeds every random choice and every ephemeral key.
    pub fn new(config: MeshConfig, seed: [u8; 32], now: Instant) -> Self {
        let _ = now;
        Self {
            config,
            rng: StdRng::from_seed(seed),
            outputs: VecDeque::new(),
            routes: BTreeMap::new(),
        }
    }

    /// The shell accepted a TCP connection and numbered it.
    pub fn handle_link_accepted(
        &mut self,
        link: LinkId,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) {
        let _ = (link, local, remote, now, &self.config, &self.rng);
    }

    /// A dial succeeded.
    pub fn handle_link_connected(
        &mut self,
        link: LinkId,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) {
        let _ = (link, local, remote, now);
    }

    /// A dial failed; `error` is what the operator should read.
    pub fn handle_dial_failed(&mut self, link: LinkId, error: &str, now: Instant) {
        let _ = (link, error, now);
    }

    /// Bytes arrived on a link, cut anywhere.
    pub fn handle_link_bytes(&mut self, link: LinkId, bytes: &[u8], now: Instant) {
        let _ = (link, bytes, now);
    }

    /// Everything queued on a link has been written.
    pub fn handle_link_flushed(&mut self, link: LinkId, now: Instant) {
        let _ = (link, now);
    }

    /// A link ended: end of file (`EOF`) or an error.
    pub fn handle_link_closed(&mut self, link: LinkId, error: &str, now: Instant) {
        let _ = (link, error, now);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When `handle_timeout` wants to be called next, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<MeshOutput> {
        self.outputs.pop_front()
    }

    /// Adds direct peers; with `replace` forgets all earlier ones first.
    pub fn connect(&mut self, peers: Vec<DirectPeer>, replace: bool, now: Instant) {
        let _ = (peers, replace, now);
    }

    /// Removes direct peers by the text they were given as. Connections stay.
    pub fn forget(&mut self, peers: &[String], now: Instant) {
        let _ = (peers, now);
    }

    /// The overlay says the path of a connection works.
    pub fn connection_established(&mut self, link: LinkId, now: Instant) {
        let _ = (link, now);
    }

    /// The overlay, or the owner of a gossip channel, gives a connection up: its link is closed.
    pub fn connection_failed(&mut self, link: LinkId, error: &str, now: Instant) {
        let _ = (link, error, now);
    }

    /// Sends a control message of a connection's overlay.
    pub fn send_overlay_control(&mut self, link: LinkId, control: OverlayControl) {
        let _ = (link, control);
    }

    /// How log lines name a link: `->[10.0.0.1:6783|02:00:00:00:0a:01(alpha)]`.
    pub fn log_label(&self, link: LinkId) -> String {
        let _ = link;
        String::new()
    }

    /// Declares that we own a gossip channel: its messages come out as `Gossip`, its state is asked
    /// for by `ChannelStateWanted`. `topology` is taken.
    pub fn register_channel(&mut self, channel: &str) {
        let _ = channel;
    }

    /// Answers `ChannelStateWanted`; `None` if there is nothing to say yet.
    pub fn provide_channel_state(&mut self, channel: &str, state: Option<Vec<u8>>, now: Instant) {
        let _ = (channel, state, now);
    }

    /// Sends a payload to one peer.
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
        let _ = (channel, payload, now);
        Err(UnicastError::UnknownDestination(destination))
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
        let _ = (channel, origin, content, now);
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
        let _ = (channel, except, content, now);
    }

    /// Our own name.
    pub fn name(&self) -> PeerName {
        self.config.name
    }

    /// All peers known, ourselves included, ascending.
    pub fn peers(&self) -> impl Iterator<Item = PeerName> + '_ {
        std::iter::once(self.config.name)
    }

    /// Destination to next hop over established symmetric connections; ourselves map to the unknown
    /// name (spec/mesh.md 12.1).
    pub fn unicast_established(&self) -> &BTreeMap<PeerName, PeerName> {
        &self.routes
    }

    /// The neighbours that get a copy of what `origin` broadcasts (spec/mesh.md 12.2).
    pub fn broadcast_established(&self, origin: PeerName) -> Vec<PeerName> {
        let _ = origin;
        Vec::new()
    }

    /// The short id of a peer, if it has one.
    pub fn short_id(&self, peer: PeerName) -> Option<u16> {
        let _ = peer;
        None
    }

    /// The peer that owns a short id.
    pub fn short_id_owner(&self, short_id: u16) -> Option<PeerName> {
        let _ = short_id;
        None
    }

    /// A copy of everything status and report print.
    pub fn status(&self, now: Instant) -> MeshStatus {
        let _ = now;
        MeshStatus::default()
    }
}
