//! Ill will: strangers who talk nonsense, forged news of the data plane, and a peer that has the
//! passphrase and lies about everybody.

use std::net::SocketAddr;

use mesh::{DirectPeer, GossipContent, Mesh, MeshConfig, MeshOutput, Password};
use node::Input;
use overlay::kind::{Kind, LaneEvent};
use overlay::tunnel::Signal;
use rand::{Rng, RngExt};
use wire::topology::{ConnectionSummary, PeerSummary};
use wire::{LinkId, PeerName};

use super::{Violation, World};
use crate::plan::PORT;

/// Beginnings of what strangers say: each gets further before it turns to nonsense.
const OPENINGS: [&[u8]; 5] = [
    b"",
    b"weave",
    b"weave\x01\x01",
    b"weave\x01\x02\x00",
    b"weave\x01\x02\x00\x00\x00\x00\x40",
];

/// Versions liars like: some can be outrun, some are the last that is believed, some are beyond
/// reason.
const LIARS_VERSIONS: [u64; 7] = [
    1,
    1 << 20,
    (1 << 47) - 1,
    (1 << 48) - 1,
    1 << 48,
    u64::MAX - 1,
    u64::MAX,
];
/// Rounds in which a liar and its victim answer each other.
const TALK_ROUNDS_MAX: usize = 50;

/// A hostile peer: a real mesh that was let in, and says what it likes on the topology channel.
pub(super) struct Liar {
    mesh: Mesh,
    /// Whom it is connected to, and that router's run and name for the link.
    site: usize,
    run: u32,
    link: LinkId,
    /// What the router said since it was last listened to.
    heard: Vec<u8>,
    is_closed: bool,
}

impl World {
    /// A liar connects to a router, if none is, and tells it some lies.
    pub(super) fn lie(&mut self, site: usize) -> Result<(), Violation> {
        if self.hosts[site].node.is_none() {
            return Ok(());
        }
        let run = self.hosts[site].run;
        let is_there = |liar: &Liar| (liar.site, liar.run) == (site, run) && !liar.is_closed;
        let at = match self.liars.iter().position(is_there) {
            Some(at) => at,
            None => self.let_liar_in(site)?,
        };
        for _ in 0..self.rng.random_range(1..5) {
            let lies = self.draw_lies(at);
            let content = GossipContent::Payload(wire::topology::encode(&lies));
            let now = self.instant();
            let liar = &mut self.liars[at];
            liar.mesh
                .gossip_neighbour_subset("topology", None, content, now);
            self.talk(at)?;
        }
        Ok(())
    }

    /// All liars leave for good.
    pub(super) fn liars_leave(&mut self) -> Result<(), Violation> {
        for liar in std::mem::take(&mut self.liars) {
            if !liar.is_closed {
                let error = "EOF".to_owned();
                let input = Input::LinkClosed {
                    link: liar.link,
                    error,
                };
                self.input(liar.site, liar.run, input)?;
            }
        }
        Ok(())
    }

    /// A router hands over bytes for a link; whether a liar is at the other end.
    pub(super) fn tell_liar(&mut self, site: usize, link: LinkId, bytes: &[u8]) -> bool {
        let Some(liar) = self.liar_at(site, link) else {
            return false;
        };
        liar.heard.extend(bytes);
        true
    }

    /// A router closes a link; whether a liar is at the other end.
    pub(super) fn close_on_liar(&mut self, site: usize, link: LinkId) -> bool {
        let liar = self.liar_at(site, link);
        liar.map(|liar| liar.is_closed = true).is_some()
    }

    fn liar_at(&mut self, site: usize, link: LinkId) -> Option<&mut Liar> {
        let run = self.hosts[site].run;
        let mut liars = self.liars.iter_mut();
        liars.find(|liar| (liar.site, liar.run, liar.link) == (site, run, link))
    }

    fn let_liar_in(&mut self, site: usize) -> Result<usize, Violation> {
        let now = self.instant();
        let link = self.next_inbound(site);
        let host = &self.hosts[site];
        let (run, local) = (host.run, host.listen_address());
        let number = u64::try_from(self.liars.len()).expect("few liars");
        let name = PeerName::from_u64(0x0200_0000_ff00 + number);
        let mut config = MeshConfig::new(name, "a liar");
        config.password = host.site.password.and_then(Password::new);
        config.max_protocol_version = host.site.versions.1;
        config.discovery = false;
        config.announce_weft = self.rng.random();
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let remote = SocketAddr::new("203.0.113.66".parse().expect("an address"), 40_000);
        let mut mesh = Mesh::new(config, seed, now);
        let peer = DirectPeer {
            text: "victim".to_owned(),
            ip: local.ip(),
            port: Some(PORT),
        };
        mesh.connect(vec![peer], false, now);
        mesh.handle_link_connected(LinkId::outbound(0), remote, local, now);
        self.liars.push(Liar {
            mesh,
            site,
            run,
            link,
            heard: Vec::new(),
            is_closed: false,
        });
        let at = self.liars.len() - 1;
        self.accepted((site, run), link, (local, remote))?;
        self.talk(at)?;
        Ok(at)
    }

    /// Carries bytes between a liar and its victim until both are silent.
    fn talk(&mut self, at: usize) -> Result<(), Violation> {
        let now = self.instant();
        for _ in 0..TALK_ROUNDS_MAX {
            let liar = &mut self.liars[at];
            let (site, run, link) = (liar.site, liar.run, liar.link);
            let heard = std::mem::take(&mut liar.heard);
            let mut said = Vec::new();
            if !heard.is_empty() {
                liar.mesh
                    .handle_link_bytes(LinkId::outbound(0), &heard, now);
            }
            if liar.mesh.poll_timeout().is_some_and(|(due, _)| due <= now) {
                liar.mesh.handle_timeout(now);
            }
            while let Some(output) = liar.mesh.poll_output() {
                match output {
                    MeshOutput::Send { bytes, .. } => {
                        said.extend(bytes);
                        liar.mesh.handle_link_flushed(LinkId::outbound(0), now);
                    }
                    // It is not worth another try.
                    MeshOutput::Close { .. } => liar.is_closed = true,
                    MeshOutput::Dial { .. }
                    | MeshOutput::ConnectionAdded(_)
                    | MeshOutput::ConnectionRemoved { .. }
                    | MeshOutput::OverlayControl { .. }
                    | MeshOutput::Gossip { .. }
                    | MeshOutput::ChannelStateWanted { .. }
                    | MeshOutput::RoutesChanged
                    | MeshOutput::ShortIdsChanged
                    | MeshOutput::PeersRemoved(_)
                    | MeshOutput::DirectPeersChanged(_) => {}
                }
            }
            if !heard.is_empty() {
                self.input(site, run, Input::LinkFlushed { link })?;
            }
            if said.is_empty() && self.liars[at].heard.is_empty() {
                return Ok(());
            }
            if !said.is_empty() {
                self.input(site, run, Input::LinkBytes { link, bytes: said })?;
            }
        }
        Ok(())
    }

    /// Some entries of others, as they are not.
    fn draw_lies(&mut self, at: usize) -> Vec<PeerSummary> {
        let known = self.liars[at].mesh.status(self.instant()).peers;
        let names: Vec<PeerName> = self.hosts.iter().map(|host| host.site.name).collect();
        let count = self.rng.random_range(1..4);
        let mut lies = Vec::new();
        for _ in 0..count {
            let name = names[self.rng.random_range(0..names.len())];
            let real = known.iter().find(|peer| peer.name == name);
            let mut lie = real.cloned().unwrap_or_else(|| entry(name));
            if self.rng.random_bool(0.5) {
                lie.uid = [0, 1, self.rng.random(), u64::MAX][self.rng.random_range(0..4)];
            }
            lie.version = match self.rng.random_range(0..3) {
                0 => lie.version.saturating_add(self.rng.random_range(0..5)),
                _ => LIARS_VERSIONS[self.rng.random_range(0..LIARS_VERSIONS.len())],
            };
            if self.rng.random_bool(0.3) {
                lie.short_id = Some(self.rng.random_range(0..4200));
            }
            match self.rng.random_range(0..4) {
                0 => lie.connections.clear(),
                1 => lie
                    .connections
                    .iter_mut()
                    .for_each(|connection| connection.established = false),
                2 => {
                    // Ghosts, some of which have names that go before all others.
                    let ghost = PeerName::from_u64(self.rng.random_range(1..1 << 42));
                    lie.connections = vec![connection(ghost)];
                    lies.push(PeerSummary {
                        short_id: lie.short_id,
                        connections: vec![connection(name)],
                        ..entry(ghost)
                    });
                }
                _ => lie.nickname = "\u{1b}[2Jghost\n".repeat(30),
            }
            lies.push(lie);
        }
        lies
    }

    /// Somebody connects to a router, says something random and waits.
    pub(super) fn stranger(&mut self, site: usize) -> Result<(), Violation> {
        let link = self.next_inbound(site);
        let host = &self.hosts[site];
        let (run, local) = (host.run, host.listen_address());
        let remote = "203.0.113.77:4711".parse().expect("an address");
        self.accepted((site, run), link, (local, remote))?;
        let opening = self.rng.random_range(0..OPENINGS.len());
        let bytes = OPENINGS[opening].to_vec();
        self.input(site, run, Input::LinkBytes { link, bytes })?;
        let mut bytes = vec![0; self.rng.random_range(0..300)];
        self.rng.fill_bytes(&mut bytes);
        self.input(site, run, Input::LinkBytes { link, bytes })
    }

    /// News about a tunnel that exists, perhaps, but did not happen.
    pub(super) fn forgery(&mut self, site: usize) -> Result<(), Violation> {
        let host = &self.hosts[site];
        let run = host.run;
        let known: Vec<_> = host
            .forwarder
            .table
            .neighbours
            .values()
            .map(|neighbour| neighbour.link)
            .collect();
        for _ in 0..10 {
            let link = match known.len() {
                0 => LinkId::outbound(self.rng.random_range(0..4)),
                count => known[self.rng.random_range(0..count)],
            };
            let neighbour = self.hosts[site].forwarder.table.neighbour(link);
            let chosen = neighbour.and_then(|neighbour| neighbour.chosen);
            let kind = chosen.unwrap_or(Kind::COMPATIBLE);
            let from = "198.51.100.9:1".parse().expect("an address");
            if let Some(event) = LaneEvent::of(kind, self.forged_signal(), from) {
                self.input(site, run, Input::Tunnel(event.on(link)))?;
            }
        }
        Ok(())
    }

    fn forged_signal(&mut self) -> Signal {
        match self.rng.random_range(0..5) {
            0 => Signal::TooBig {
                path_mtu_bytes: self.rng.random_range(0..70_000),
            },
            1 => Signal::Exhausted,
            2 => Signal::Heartbeat {
                connection_uid: self.rng.random(),
            },
            3 => Signal::FragmentationTest,
            _ => Signal::MtuTest {
                frame_bytes: self.rng.random_range(0..100_000),
            },
        }
    }
}

fn entry(name: PeerName) -> PeerSummary {
    PeerSummary {
        name,
        nickname: String::new(),
        uid: 1,
        version: 1,
        short_id: None,
        connections: Vec::new(),
    }
}

fn connection(remote: PeerName) -> ConnectionSummary {
    ConnectionSummary {
        remote,
        remote_address: "203.0.113.99:6783".to_owned(),
        outbound: true,
        established: true,
    }
}
