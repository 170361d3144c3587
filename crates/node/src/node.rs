//! The composition: mesh outputs that concern tunnels go to the overlay, overlay outputs that
//! concern links go to the mesh, and what is left is for the shell.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use mesh::{Connection, LinkId, Mesh, MeshConfig, MeshOutput, TrustedSubnet};
use overlay::switch::TunnelKind;
use overlay::table::{ForwardingTable, Probe};
use overlay::{ConnectionId, ConnectionParams, Overlay, OverlayOutput, Protection};
use tracing::debug;
use wire::PeerName;

use crate::{Command, Input, NodeStatus, Output, Record, Reply, RequestId, TunnelStatus};

/// What a node is told at start and never changes. Holds the passphrase, hence no `Debug`.
pub struct Config {
    /// The mesh's part. Its `overlays` are set from `tunnels`.
    pub mesh: MeshConfig,
    /// Tunnel kinds in order of preference; empty means compatibility mode with everybody.
    pub tunnels: Vec<TunnelKind>,
}

impl Config {
    /// The defaults around a mesh configuration: sleeve only.
    pub fn new(mesh: MeshConfig) -> Self {
        Self {
            mesh,
            tunnels: vec![TunnelKind::Sleeve],
        }
    }
}

/// One Weft peer: mesh and overlay composed. Performs no I/O, reads no clock, draws no randomness
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
/// - a `Reply` comes after everything its command caused.
///
/// A `Dial` is answered by exactly one of `LinkConnected` and `DialFailed`, unless a `Close` came
/// first. Inputs about links or tunnels that are gone are ignored. Time should not go backwards; if
/// it does, the node stays at the latest time it was told.
///
/// Hostile input never panics; a broken invariant of ours does.
pub struct Node {
    mesh: Mesh,
    overlay: Overlay,
    us: PeerName,
    encrypts: bool,
    trusted_subnets: Vec<TrustedSubnet>,
    links: BTreeMap<ConnectionId, LinkId>,
    routes: Routes,
    routes_stale: bool,
    table_stale: bool,
    probes: Vec<Probe>,
    /// When the overlay wants to be called. Asking it means looking at every tunnel, and most inputs
    /// are none of its business.
    overlay_due: Option<(Instant, &'static str)>,
    /// Whether that may be outdated.
    overlay_touched: bool,
    outputs: VecDeque<Output>,
    now: Instant,
}

/// The routing part of a forwarding table, kept between recalculations.
#[derive(Default, PartialEq)]
struct Routes {
    peers: Vec<PeerName>,
    unicast: BTreeMap<PeerName, PeerName>,
    broadcast: BTreeMap<PeerName, Vec<PeerName>>,
}

impl Node {
    /// A peer without links. The seed feeds every random choice and key. The first output is a
    /// `Program` that knows nobody but us.
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Self {
        let Config { mut mesh, tunnels } = config;
        mesh.overlays = Overlay::announced(&tunnels);
        let mut node = Self {
            us: mesh.name,
            encrypts: mesh.password.is_some(),
            trusted_subnets: mesh.trusted_subnets.clone(),
            mesh: Mesh::new(mesh, seed, now),
            overlay: Overlay::new(tunnels),
            links: BTreeMap::new(),
            routes: Routes::default(),
            routes_stale: true,
            table_stale: true,
            probes: Vec::new(),
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
            Input::Command { id, command } => return self.handle_command(id, command, now),
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
        self.settle();
    }

    /// When [`Self::handle_timeout`] wants to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let timeouts = [self.mesh.poll_timeout(), self.overlay_due];
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
        let tunnels = self
            .overlay
            .status()
            .into_iter()
            .map(|tunnel| TunnelStatus {
                link: *self.links.get(&tunnel.id).expect("each tunnel has a link"),
                remote: tunnel.remote,
                name: tunnel.name.to_owned(),
                encrypted: tunnel.encrypted,
                mtu_bytes: tunnel.mtu_bytes,
                reason: tunnel.reason,
            });
        NodeStatus {
            mesh: self.mesh.status(now),
            tunnels: tunnels.collect(),
        }
    }

    fn overlay_mut(&mut self) -> &mut Overlay {
        self.overlay_touched = true;
        &mut self.overlay
    }

    /// The first count of what is kept that is beyond its limit: name, count and limit. Never any.
    pub fn excess(&self) -> Option<(&'static str, usize, usize)> {
        let excess = self.mesh.footprint().excess(&self.mesh.footprint_limits());
        let (tunnels, connections) = (self.links.len(), self.mesh.footprint().connections);
        let of_tunnels = || (tunnels > connections).then_some(("tunnels", tunnels, connections));
        excess.or_else(of_tunnels)
    }

    fn advance(&mut self, now: Instant) -> Instant {
        self.now = self.now.max(now);
        self.now
    }

    fn handle_command(&mut self, id: RequestId, command: Command, now: Instant) {
        let reply = match command {
            Command::Connect { peers, replace } => {
                self.mesh.connect(peers, replace, now);
                Reply::Done
            }
            Command::Forget { peers } => {
                self.mesh.forget(&peers, now);
                Reply::Done
            }
            Command::Status => Reply::Status(Box::new(self.status(now))),
        };
        self.settle();
        self.outputs.push_back(Output::Reply { id, reply });
    }

    /// Lets the machines talk to each other until both are silent, then publishes what changed.
    fn settle(&mut self) {
        let mut persist_at = self.outputs.len();
        loop {
            if let Some(output) = self.mesh.poll_output() {
                self.follow_mesh(output, &mut persist_at);
            } else if let Some(output) = self.overlay.poll_output() {
                self.follow_overlay(output);
            } else {
                break;
            }
        }
        if std::mem::take(&mut self.overlay_touched) {
            self.overlay_due = self.overlay.poll_timeout();
        }
        if std::mem::take(&mut self.routes_stale) {
            let routes = Routes::of(&self.mesh, self.us);
            self.table_stale |= routes != self.routes;
            self.routes = routes;
        }
        if std::mem::take(&mut self.table_stale) {
            let table = Arc::new(self.table());
            self.outputs.push_back(Output::Program(table));
        }
        // A later part of the same input may have ended a tunnel.
        let live = self
            .probes
            .drain(..)
            .filter(|probe| self.overlay.has_tunnel(probe.tunnel));
        self.outputs.extend(live.map(Output::Probe));
    }

    /// `persist_at` is where the outputs of this input begin: a `Persist` goes in front of them.
    fn follow_mesh(&mut self, output: MeshOutput, persist_at: &mut usize) {
        let now = self.now;
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
                let id = connection_id(link);
                self.overlay_mut().handle_connection_removed(id);
                self.links.remove(&id);
            }
            MeshOutput::OverlayControl { link, control } => {
                self.overlay_mut()
                    .handle_control(connection_id(link), &control, now);
            }
            MeshOutput::RoutesChanged | MeshOutput::PeersRemoved(_) => self.routes_stale = true,
            // Only the fast datapath keys flows by short id.
            MeshOutput::ShortIdsChanged => {}
            MeshOutput::DirectPeersChanged(peers) => {
                let persist = Output::Persist(Record::DirectPeers(peers));
                self.outputs.insert(*persist_at, persist);
                *persist_at += 1;
            }
            // No channel is registered yet; the mesh relays what it does not own by itself.
            MeshOutput::Gossip { channel, .. } | MeshOutput::ChannelStateWanted { channel } => {
                debug!(channel, "gossip channel without an owner");
            }
        }
    }

    fn follow_overlay(&mut self, output: OverlayOutput) {
        let now = self.now;
        match output {
            OverlayOutput::SendControl {
                connection,
                control,
            } => {
                if let Some(&link) = self.links.get(&connection) {
                    self.mesh.send_overlay_control(link, control);
                }
            }
            OverlayOutput::Established { connection } => {
                if let Some(&link) = self.links.get(&connection) {
                    self.mesh.connection_established(link, now);
                }
            }
            OverlayOutput::Failed { connection, error } => {
                if let Some(&link) = self.links.get(&connection) {
                    self.mesh.connection_failed(link, &error.to_string(), now);
                }
            }
            OverlayOutput::Probe(probe) => self.probes.push(probe),
            OverlayOutput::TunnelsChanged => self.table_stale = true,
        }
    }

    fn add_connection(&mut self, connection: Connection) {
        let trusted = connection.features.trusted && self.trusts(&connection);
        assert!(
            connection.data_key.is_some() || !self.encrypts || trusted,
            "a data plane that should be encrypted has a key"
        );
        let id = connection_id(connection.link);
        self.links.insert(id, connection.link);
        let params = ConnectionParams {
            id,
            remote: connection.remote,
            remote_label: format!("{}({})", connection.remote, connection.remote_nickname),
            remote_address: connection.remote_address,
            outbound: connection.link.is_outbound(),
            uid: connection.uid,
            protection: connection
                .data_key
                .map_or(Protection::Clear, Protection::Sealed),
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

    fn table(&self) -> ForwardingTable {
        ForwardingTable {
            us: self.us,
            peers: self.routes.peers.clone(),
            tunnels: self.overlay.tunnels(),
            unicast: self.routes.unicast.clone(),
            broadcast: self.routes.broadcast.clone(),
        }
    }
}

impl Routes {
    fn of(mesh: &Mesh, us: PeerName) -> Self {
        let peers: Vec<_> = mesh.peers().collect();
        let mut unicast = mesh.unicast_established().clone();
        unicast.remove(&us);
        let broadcast = peers.iter().filter_map(|&origin| {
            let copies = mesh.broadcast_established(origin);
            (!copies.is_empty()).then_some((origin, copies))
        });
        Self {
            broadcast: broadcast.collect(),
            unicast,
            peers,
        }
    }
}

fn connection_id(link: LinkId) -> ConnectionId {
    ConnectionId(link.number())
}

#[cfg(test)]
mod tests;
