//! The composition: hands each input to the part it concerns, lets the parts talk until all are silent,
//! and collects what is left for the shell. What the parts say to each other is `tunnels`' (mesh and
//! overlay), `allocation`'s (mesh and allocator) and `forwarding`'s (all of them and the data plane).

use std::sync::Arc;
use std::time::Instant;

use ipam::{Ipam, Refusal};
use mesh::{Mesh, MeshConfig, MeshOutput};
use overlay::Overlay;
use overlay::capabilities::Capabilities;
use overlay::kind::Kind;
use tracing::debug;
use wire::PeerName;
use wire::message::Delivery;

use crate::allocation::Allocation;
use crate::channels::Owner;
use crate::command::{Command, Connect, Container, Forget, Reply, RequestId};
use crate::forwarding::Forwarding;
use crate::input::Input;
use crate::output::{Output, Record};
use crate::snapshot::{NodeCounts, NodeSnapshot, by_class};
use crate::status::NodeStatus;
use crate::tunnels::Tunnels;
use crate::turn::Turn;

/// What a node is told at start and never changes. Holds the passphrase, hence no `Debug`.
pub struct Config {
    /// The mesh's part. Its `overlays` are set from `tunnels`, and its `weft_capabilities` from
    /// `capabilities`.
    pub mesh: MeshConfig,
    /// Tunnel kinds in order of preference; empty means compatibility mode with everybody.
    pub tunnels: Vec<Kind>,
    /// What we offer to do where the other end offers it too, if we are announced as a Weft at all.
    pub capabilities: Capabilities,
    /// Address allocation, as the shell restored it. Without, what others say about addresses is
    /// only passed on.
    pub ipam: Option<Ipam>,
}

impl Config {
    /// The defaults around a mesh configuration: the kind that everybody has, nothing offered, no
    /// address allocation.
    pub fn new(mesh: MeshConfig) -> Self {
        Self {
            mesh,
            tunnels: vec![Kind::COMPATIBLE],
            capabilities: Capabilities::default(),
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
/// [`Self::poll_timeout`] is due. After each call, or after several, take the [`Turn`], make its
/// records durable, and do the outputs it gives out for that **in order**, each one finished before the
/// next is begun where that can be seen from outside:
///
/// - a `Program` is what the data plane forwards by before a `Probe` behind it is sent; at most one
///   `Program` comes out of one input, and only if something in it changed;
/// - a `Close` discards what is queued on the link, and no later input may name the link;
/// - a `Reply` comes after everything its command caused. That to `Command::Ipam` may come out of any
///   later input instead; exactly one comes.
///
/// A `Dial` is answered by exactly one of `LinkConnected` and `DialFailed`, unless a `Close` came
/// first. Inputs about links or tunnels that are gone are ignored. Time should not go backwards; if
/// it does, the node stays at the latest time it was told.
///
/// Hostile input never panics; a broken invariant of ours does.
pub struct Node {
    us: PeerName,
    mesh: Mesh,
    tunnels: Tunnels,
    allocation: Option<Allocation>,
    forwarding: Forwarding,
    turn: Turn,
    now: Instant,
}

impl Node {
    /// A peer without links. The seed feeds every random choice and key. The first output is a
    /// `Program` that knows nobody but us.
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Self {
        let Config {
            mesh: mut mesh_config,
            tunnels: kinds,
            capabilities,
            ipam,
        } = config;
        mesh_config.overlays = Overlay::announced(&kinds);
        mesh_config.weft_capabilities = capabilities.words();
        let us = mesh_config.name;
        let tunnels = Tunnels::new(kinds, capabilities, &mesh_config);
        let mut mesh = Mesh::new(mesh_config, seed, now);
        let allocation = ipam.map(|ipam| Allocation::new(ipam, &mut mesh));
        let mut node = Self {
            us,
            mesh,
            tunnels,
            allocation,
            forwarding: Forwarding::new(us),
            turn: Turn::default(),
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
            Input::Tunnel(event) => self.tunnels.handle_event(event, now),
            Input::Learned(sightings) => self.forwarding.check_sightings(&sightings),
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
        self.tunnels.handle_timeout(now);
        if let Some(allocation) = &mut self.allocation {
            allocation.handle_timeout(now);
        }
        self.settle();
    }

    /// When [`Self::handle_timeout`] wants to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let allocation = self.allocation.as_ref().and_then(Allocation::poll_timeout);
        let timeouts = [
            self.mesh.poll_timeout(),
            self.tunnels.poll_timeout(),
            allocation,
        ];
        timeouts.into_iter().flatten().min()
    }

    /// What is to be done by now.
    pub fn take_turn(&mut self) -> Turn {
        std::mem::take(&mut self.turn)
    }

    /// The same, to be looked at.
    pub fn turn(&self) -> &Turn {
        &self.turn
    }

    /// Our own name.
    pub fn name(&self) -> PeerName {
        self.us
    }

    /// The mesh part, to be looked at.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// A copy of the state.
    pub fn status(&self, now: Instant) -> NodeStatus {
        self.snapshot().status(now)
    }

    /// What a status is made of, by whoever wants one.
    pub fn snapshot(&self) -> NodeSnapshot {
        NodeSnapshot {
            us: self.us,
            mesh: self.mesh.snapshot(),
            routes: Arc::clone(self.forwarding.routes()),
            tunnels: self.tunnels.status(),
            ipam: self.ipam().map(Ipam::snapshot),
            clone_text: self.mesh.clone_text().map(str::to_owned),
        }
    }

    /// Counts for metrics.
    pub fn counts(&self) -> NodeCounts {
        let mesh = self.mesh.counts();
        NodeCounts {
            peers: mesh.peers,
            connections: by_class(&mesh.connections, &self.tunnels.status()),
            targets: mesh.targets,
            termination_count: mesh.termination_count,
            ipam: self.ipam().map(Ipam::counts),
            has_clone: self.mesh.clone_text().is_some(),
        }
    }

    /// The address allocator, to be looked at.
    pub fn ipam(&self) -> Option<&Ipam> {
        self.allocation.as_ref().map(Allocation::ipam)
    }

    /// The first count of what is kept that is beyond its limit: name, count and limit. Never any.
    pub fn excess(&self) -> Option<(&'static str, usize, usize)> {
        let excess = self.mesh.footprint().excess(&self.mesh.footprint_limits());
        let (tunnels, connections) = (self.tunnels.len(), self.mesh.footprint().connections);
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
            Command::Ipam(request) => match &mut self.allocation {
                Some(allocation) => allocation.ask(&mut self.mesh, id, request, now),
                None => Some(Reply::Ipam(Err(Refusal::Disabled))),
            },
            Command::Container(Container { ident, event }) => {
                if let Some(allocation) = &mut self.allocation {
                    allocation.handle_container(&ident, event, now);
                }
                Some(Reply::Done)
            }
            Command::Running(containers) => {
                if let Some(allocation) = &mut self.allocation {
                    allocation.handle_running(containers, now);
                }
                Some(Reply::Done)
            }
        };
        self.settle();
        if let Some(reply) = reply {
            self.turn.push(Output::Reply { id, reply });
        }
    }

    /// Lets the parts talk to each other until all are silent, then publishes what changed.
    fn settle(&mut self) {
        // The allocator first: its state is gossiped only with all its rows on their way.
        while self.follow_allocation()
            || self.follow_mesh()
            || self.follow_tunnels()
            || self.tell_allocation()
        {}
        self.tunnels.settle();
        let overlay = self.tunnels.overlay();
        self.forwarding.publish(&self.mesh, overlay, &mut self.turn);
    }

    fn follow_allocation(&mut self) -> bool {
        let (mesh, turn, now) = (&mut self.mesh, &mut self.turn, self.now);
        let allocation = self.allocation.as_mut();
        allocation.is_some_and(|allocation| allocation.follow(mesh, turn, now))
    }

    fn tell_allocation(&mut self) -> bool {
        let allocation = self.allocation.as_mut();
        allocation.is_some_and(|allocation| allocation.tell(&mut self.mesh, self.now))
    }

    fn follow_tunnels(&mut self) -> bool {
        let (mesh, forwarding) = (&mut self.mesh, &mut self.forwarding);
        self.tunnels.follow(mesh, forwarding, self.now)
    }

    fn follow_mesh(&mut self) -> bool {
        let Some(output) = self.mesh.poll_output() else {
            return false;
        };
        let now = self.now;
        if let Some(allocation) = &mut self.allocation {
            allocation.watch(&output);
        }
        match output {
            MeshOutput::Dial { link, remote } => self.turn.push(Output::Dial { link, remote }),
            MeshOutput::Send { link, bytes } => self.turn.push(Output::Send { link, bytes }),
            MeshOutput::Close { link } => self.turn.push(Output::Close { link }),
            MeshOutput::ConnectionAdded(connection) => self.tunnels.add(*connection, now),
            MeshOutput::ConnectionRemoved { link } => self.tunnels.remove(link),
            MeshOutput::OverlayControl { link, control } => {
                self.tunnels.handle_control(link, &control, now);
            }
            MeshOutput::RoutesChanged | MeshOutput::PeersRemoved(_) => {
                self.forwarding.routes_changed();
            }
            MeshOutput::ShortIdsChanged => self.forwarding.short_ids_changed(),
            MeshOutput::DirectPeersChanged(peers) => self.turn.keep(Record::DirectPeers(peers)),
            MeshOutput::Gossip {
                channel,
                delivery,
                payload,
                link: _,
            } => self.receive_gossip(&channel, delivery, &payload),
            MeshOutput::ChannelStateWanted { channel } => {
                let state = self.channel_state(&channel);
                self.mesh.provide_channel_state(&channel, state, now);
            }
        }
        true
    }

    /// Gossip goes to who owns its channel.
    fn receive_gossip(&mut self, channel: &str, delivery: Delivery, payload: &[u8]) {
        let now = self.now;
        match (Owner::of(channel), &mut self.allocation) {
            (Some(Owner::Allocation(channel)), Some(allocation)) => {
                allocation.receive(&mut self.mesh, channel, delivery, payload, now);
            }
            (Some(Owner::Allocation(_)), None) | (None, _) => {
                debug!(channel, "gossip channel without an owner");
            }
        }
    }

    fn channel_state(&self, channel: &str) -> Option<Vec<u8>> {
        match Owner::of(channel)? {
            Owner::Allocation(channel) => self.allocation.as_ref()?.state(channel),
        }
    }
}

#[cfg(test)]
mod tests;
