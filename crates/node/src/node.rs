//! The composition: mesh outputs that concern tunnels go to the overlay, those that concern addresses
//! to the allocator, overlay outputs that concern links go to the mesh, and what is left is for the
//! shell.

mod allocation;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use allocation::Allocation;
use ipam::Ipam;
use mesh::{Connection, Mesh, MeshConfig, MeshOutput, TrustedSubnet};
use overlay::kind::{Kind, Probe};
use overlay::mac::{MacCorrection, Sighting};
use overlay::protection::{Cipher, Protection};
use overlay::table::{ForwardingTable, Routes};
use overlay::{ConnectionParams, Overlay, OverlayOutput};
use wire::PeerName;

use crate::{
    Command, Connect, Container, Forget, Input, NodeStatus, Output, Record, Reply, RequestId,
};

/// What a node is told at start and never changes. Holds the passphrase, hence no `Debug`.
pub struct Config {
    /// The mesh's part. Its `overlays` are set from `tunnels`.
    pub mesh: MeshConfig,
    /// Tunnel kinds in order of preference; empty means compatibility mode with everybody.
    pub tunnels: Vec<Kind>,
    /// Address allocation, as the shell restored it. Without, what others say about addresses is
    /// only passed on.
    pub ipam: Option<Ipam>,
}

impl Config {
    /// The defaults around a mesh configuration: sleeve only, no address allocation.
    pub fn new(mesh: MeshConfig) -> Self {
        Self {
            mesh,
            tunnels: vec![Kind::Sleeve],
            ipam: None,
        }
    }
}

/// One Weft peer: mesh, overlay and address allocation composed. Performs no I/O, reads no clock, draws no randomness
/// but from its seed.
///
/// # Contract
///
/// Call [`Self::handle_input`] for each thing that happened and [`Self::handle_timeout`] when
/// [`Self::poll_timeout`] is due. After each call drain [`Self::poll_output`] until it returns
/// `None` and do each output **in order**, each one finished before the next is begun where that can
/// be seen from outside:
///
/// - a `Persist` is durable before any output behind it is done;
/// - a `Program` is what the data plane forwards by before a `Probe` behind it is sent; at most one
///   `Program` comes out of one input, and only if something in it changed;
/// - a `Close` discards what is queued on the link, and no later input may name the link;
/// - a `Reply` comes after everything its command caused. That to `Command::Ipam` may come out of any
///   later input instead; exactly one comes.
///
/// All `Persist`s of one input come before everything else of it. So a shell may also handle several
/// inputs first, then make all their `Persist`s durable at once, then do the other outputs in order.
///
/// A `Dial` is answered by exactly one of `LinkConnected` and `DialFailed`, unless a `Close` came
/// first. Inputs about links or tunnels that are gone are ignored. Time should not go backwards; if
/// it does, the node stays at the latest time it was told.
///
/// Hostile input never panics; a broken invariant of ours does.
pub struct Node {
    mesh: Mesh,
    overlay: Overlay,
    allocation: Option<Allocation>,
    us: PeerName,
    encrypts: bool,
    /// Whether we announce that datagrams to us may be sealed by AES-256-GCM.
    offers_aes_gcm: bool,
    trusted_subnets: Vec<TrustedSubnet>,
    /// Shared with the tables published; replaced when it changes.
    routes: Arc<Routes>,
    routes_stale: bool,
    table_stale: bool,
    probes: Vec<Probe>,
    /// Peers at which the data plane may believe addresses to be, and that are gone.
    gone: BTreeSet<PeerName>,
    /// When the overlay wants to be called. Asking it means looking at every tunnel, and most inputs
    /// are none of its business.
    overlay_due: Option<(Instant, &'static str)>,
    /// Whether that may be outdated.
    overlay_touched: bool,
    outputs: VecDeque<Output>,
    now: Instant,
}

impl Node {
    /// A peer without links. The seed feeds every random choice and key. The first output is a
    /// `Program` that knows nobody but us.
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Self {
        let Config {
            mesh: mut mesh_config,
            tunnels,
            ipam,
        } = config;
        mesh_config.overlays = Overlay::announced(&tunnels);
        let us = mesh_config.name;
        let encrypts = mesh_config.password.is_some();
        let words = &mesh_config.weft_capabilities;
        let offers_aes_gcm =
            mesh_config.announce_weft && words.iter().any(|word| word == Cipher::AES_GCM_WORD);
        let trusted_subnets = mesh_config.trusted_subnets.clone();
        let mut mesh = Mesh::new(mesh_config, seed, now);
        let allocation = ipam.map(|ipam| Allocation::new(ipam, &mut mesh));
        let mut node = Self {
            us,
            encrypts,
            offers_aes_gcm,
            trusted_subnets,
            mesh,
            allocation,
            overlay: Overlay::new(tunnels),
            routes: Arc::default(),
            routes_stale: true,
            table_stale: true,
            probes: Vec::new(),
            gone: BTreeSet::new(),
            overlay_due: None,
            overlay_touched: true,
            outputs: VecDeque::new(),
            now,
        };
        node.settle();
        node
    }

    /// Something happened.
    pub fn handle_input(&mut self, input: Input, now: Instant) {
        let now = self.advance(now);
        match input {
            Input::LinkAccepted {
                link,
                local,
                remote,
            } => self.mesh.handle_link_accepted(link, local, remote, now),
            Input::LinkConnected {
                link,
                local,
                remote,
            } => self.mesh.handle_link_connected(link, local, remote, now),
            Input::DialFailed { link, error } => self.mesh.handle_dial_failed(link, &error, now),
            Input::LinkBytes { link, bytes } => self.mesh.handle_link_bytes(link, &bytes, now),
            Input::LinkFlushed { link } => self.mesh.handle_link_flushed(link, now),
            Input::LinkClosed { link, error } => self.mesh.handle_link_closed(link, &error, now),
            Input::Tunnel(event) => self.overlay_mut().handle_tunnel_event(event, now),
            Input::Learned(sightings) => self.check_sightings(&sightings),
            Input::Command { id, command } => return self.handle_command(id, command, now),
            Input::Cancelled(id) => {
                if let Some(allocation) = &mut self.allocation {
                    allocation.cancel(id, now);
                }
            }
        }
        self.settle();
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.advance(now);
        self.mesh.handle_timeout(now);
        if self.overlay_due.is_some_and(|(at, _)| at <= now) {
            self.overlay_mut().handle_timeout(now);
        }
        if let Some(allocation) = &mut self.allocation {
            allocation.handle_timeout(now);
        }
        self.settle();
    }

    /// When [`Self::handle_timeout`] wants to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let allocation = self.allocation.as_ref().and_then(Allocation::poll_timeout);
        let timeouts = [self.mesh.poll_timeout(), self.overlay_due, allocation];
        timeouts.into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Our own name.
    pub fn name(&self) -> PeerName {
        self.us
    }

    /// The mesh part, to be looked at.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// A copy of the state, as `Command::Status` gives it.
    pub fn status(&self, now: Instant) -> NodeStatus {
        NodeStatus {
            mesh: self.mesh.status(now),
            tunnels: self.overlay.status(),
            ipam: self.allocation.as_ref().map(Allocation::status),
            clone_text: self.mesh.clone_text().map(str::to_owned),
        }
    }

    /// The address allocator, to be looked at.
    pub fn ipam(&self) -> Option<&Ipam> {
        self.allocation.as_ref().map(Allocation::ipam)
    }

    fn overlay_mut(&mut self) -> &mut Overlay {
        self.overlay_touched = true;
        &mut self.overlay
    }

    /// The first count of what is kept that is beyond its limit: name, count and limit. Never any.
    pub fn excess(&self) -> Option<(&'static str, usize, usize)> {
        let excess = self.mesh.footprint().excess(&self.mesh.footprint_limits());
        let (tunnels, connections) = (self.overlay.len(), self.mesh.footprint().connections);
        let of_tunnels = || (tunnels > connections).then_some(("tunnels", tunnels, connections));
        let of_requests = || self.allocation.as_ref().and_then(Allocation::excess);
        excess.or_else(of_tunnels).or_else(of_requests)
    }

    fn advance(&mut self, now: Instant) -> Instant {
        self.now = self.now.max(now);
        self.now
    }

    fn handle_command(&mut self, id: RequestId, command: Command, now: Instant) {
        let reply = match command {
            Command::Connect(Connect { peers, replace }) => {
                self.mesh.connect(peers, replace, now);
                Some(Reply::Done)
            }
            Command::Forget(Forget { peers }) => {
                self.mesh.forget(&peers, now);
                Some(Reply::Done)
            }
            Command::Status => Some(Reply::Status(Box::new(self.status(now)))),
            Command::Ipam(request) => self.ask(id, request, now),
            Command::Container(Container { ident, event }) => {
                if let Some(allocation) = &mut self.allocation {
                    allocation.ipam_mut().handle_container(&ident, event, now);
                }
                Some(Reply::Done)
            }
            Command::Running(containers) => {
                if let Some(allocation) = &mut self.allocation {
                    allocation.ipam_mut().handle_running(containers, now);
                }
                Some(Reply::Done)
            }
        };
        self.settle();
        let reply = reply.map(|reply| Output::Reply { id, reply });
        self.outputs.extend(reply);
    }

    /// Lets the machines talk to each other until both are silent, then publishes what changed.
    fn settle(&mut self) {
        let mut persist_at = self.outputs.len();
        loop {
            // The allocator first: its state is gossiped only with all its rows on their way.
            if let Some(output) = self.poll_allocation() {
                self.follow_allocation(output, &mut persist_at);
            } else if let Some(output) = self.mesh.poll_output() {
                self.follow_mesh(output, &mut persist_at);
            } else if let Some(output) = self.overlay.poll_output() {
                self.follow_overlay(output);
            } else if !self.tell_allocation() {
                break;
            }
        }
        if std::mem::take(&mut self.overlay_touched) {
            self.overlay_due = self.overlay.poll_timeout();
        }
        if std::mem::take(&mut self.routes_stale) {
            self.follow_routes();
        }
        if std::mem::take(&mut self.table_stale) {
            let table = Arc::new(self.table());
            self.outputs.push_back(Output::Program(table));
        }
        // Behind the table by which nothing more is learned there.
        if !self.gone.is_empty() {
            let gone = std::mem::take(&mut self.gone);
            self.outputs
                .push_back(Output::Correct(MacCorrection { gone }));
        }
        // A later part of the same input may have ended a tunnel.
        let live = self
            .probes
            .drain(..)
            .filter(|probe| self.overlay.is_registered(probe.link));
        self.outputs.extend(live.map(Output::Probe));
    }

    /// `persist_at` is where the outputs of this input begin: a `Persist` goes in front of them.
    fn follow_mesh(&mut self, output: MeshOutput, persist_at: &mut usize) {
        let now = self.now;
        if let Some(allocation) = &mut self.allocation {
            allocation.watch(&output);
        }
        match output {
            MeshOutput::Dial { link, remote } => {
                self.outputs.push_back(Output::Dial { link, remote });
            }
            MeshOutput::Send { link, bytes } => {
                self.outputs.push_back(Output::Send { link, bytes });
            }
            MeshOutput::Close { link } => self.outputs.push_back(Output::Close { link }),
            MeshOutput::ConnectionAdded(connection) => self.add_connection(*connection),
            MeshOutput::ConnectionRemoved { link } => {
                self.overlay_mut().handle_connection_removed(link);
            }
            MeshOutput::OverlayControl { link, control } => {
                self.overlay_mut().handle_control(link, &control, now);
            }
            MeshOutput::RoutesChanged
            | MeshOutput::PeersRemoved(_)
            | MeshOutput::ShortIdsChanged => self.routes_stale = true,
            MeshOutput::DirectPeersChanged(peers) => {
                self.persist(Record::DirectPeers(peers), persist_at);
            }
            MeshOutput::Gossip {
                channel,
                delivery,
                payload,
                link: _,
            } => self.receive_gossip(&channel, delivery, &payload),
            MeshOutput::ChannelStateWanted { channel } => {
                let state = match &self.allocation {
                    Some(allocation) if channel == ipam::CHANNEL => {
                        allocation.ipam().gossip_state()
                    }
                    Some(_) | None => None,
                };
                self.mesh.provide_channel_state(&channel, state, now);
            }
        }
    }

    fn persist(&mut self, record: Record, persist_at: &mut usize) {
        self.outputs.insert(*persist_at, Output::Persist(record));
        *persist_at += 1;
    }

    fn follow_overlay(&mut self, output: OverlayOutput) {
        let now = self.now;
        match output {
            OverlayOutput::SendControl { link, control } => {
                self.mesh.send_overlay_control(link, control);
            }
            OverlayOutput::Established { link } => self.mesh.connection_established(link, now),
            OverlayOutput::Failed { link, error } => {
                self.mesh.connection_failed(link, &error.to_string(), now);
            }
            OverlayOutput::Probe(probe) => self.probes.push(probe),
            OverlayOutput::NeighboursChanged => self.table_stale = true,
        }
    }

    fn add_connection(&mut self, connection: Connection) {
        let trusted = connection.features.trusted && self.trusts(&connection);
        assert!(
            connection.data_key.is_some() || !self.encrypts || trusted,
            "a data plane that should be encrypted has a key"
        );
        let weft = connection.features.weft.as_ref();
        let both_offer =
            self.offers_aes_gcm && weft.is_some_and(|weft| weft.has(Cipher::AES_GCM_WORD));
        let cipher = if both_offer {
            Cipher::AesGcm
        } else {
            Cipher::Secretbox
        };
        let params = ConnectionParams {
            link: connection.link,
            remote: connection.remote,
            remote_label: format!("{}({})", connection.remote, connection.remote_nickname),
            remote_address: connection.remote_address,
            outbound: connection.link.is_outbound(),
            uid: connection.uid,
            protection: connection
                .data_key
                .map_or(Protection::Clear, |key| Protection::Sealed(key, cipher)),
            overlays: connection.features.overlays,
        };
        let now = self.now;
        self.overlay_mut().handle_connection_added(params, now);
    }

    fn trusts(&self, connection: &Connection) -> bool {
        let ip = connection.remote_address.ip();
        self.trusted_subnets
            .iter()
            .any(|subnet| subnet.contains(ip))
    }

    fn table(&mut self) -> ForwardingTable {
        ForwardingTable {
            us: self.us,
            routes: Arc::clone(&self.routes),
            neighbours: self.overlay.neighbours(),
        }
    }

    /// Computes the routes anew. Equal ones stay the very same.
    fn follow_routes(&mut self) {
        let routes = routes(&self.mesh, self.us);
        if routes == *self.routes {
            return;
        }
        let old = std::mem::replace(&mut self.routes, Arc::new(routes));
        let gone = old.peers.iter().filter(|peer| !self.routes.knows(**peer));
        self.gone.extend(gone);
        self.table_stale = true;
    }

    /// The data plane learned these, perhaps by a table older than the newest.
    fn check_sightings(&mut self, sightings: &[Sighting]) {
        let peers = sightings.iter().map(|sighting| sighting.peer);
        self.gone
            .extend(peers.filter(|peer| !self.routes.knows(*peer)));
    }
}

fn routes(mesh: &Mesh, us: PeerName) -> Routes {
    let peers: Vec<_> = mesh.peers().collect();
    let mut unicast = mesh.unicast_established().clone();
    unicast.remove(&us);
    let broadcast = peers.iter().filter_map(|&origin| {
        let copies = mesh.broadcast_established(origin);
        (!copies.is_empty()).then_some((origin, copies))
    });
    Routes {
        broadcast: broadcast.collect(),
        unicast,
        peers,
        short_ids: mesh.short_ids(),
    }
}

#[cfg(test)]
mod tests;
