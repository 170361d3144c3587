//! Several meshes in one process: carries bytes between them in virtual time, without latency.

#![allow(dead_code, reason = "each test file uses its part")]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mesh::{Connection, DirectPeer, Mesh, MeshConfig, MeshOutput, Password};
use wire::handshake::{FLAG_PLAIN, Features, encode_header};
use wire::message::{Delivery, Message, OverlayControl, encode_frame};
use wire::quote::printable;
use wire::{LinkId, PeerName};

thread_local! {
    /// The mesh that is at work, for whoever listens to the logs.
    pub(crate) static SPEAKER: Cell<usize> = const { Cell::new(0) };
}

/// Port everybody listens on.
pub(crate) const PORT: u16 = 6783;

/// A start of virtual time.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had in no other way"
)]
pub(crate) fn base() -> Instant {
    Instant::now()
}

/// Name of the n-th peer.
pub(crate) fn name(n: usize) -> PeerName {
    PeerName::from_u64(0x0200_0000_0000 + n as u64 + 1)
}

/// Address of the n-th peer.
pub(crate) fn ip(n: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(n + 1).unwrap()).into()
}

/// The n-th peer with the usual settings.
pub(crate) fn config(n: usize) -> MeshConfig {
    MeshConfig::new(name(n), format!("peer{n}"))
}

/// The same with a passphrase.
pub(crate) fn encrypted(n: usize) -> MeshConfig {
    MeshConfig {
        password: Password::new("wfvlwt7sn"),
        ..config(n)
    }
}

/// The n-th peer as the user would name it.
pub(crate) fn direct(n: usize) -> DirectPeer {
    DirectPeer {
        text: ip(n).to_string(),
        ip: ip(n),
        port: None,
    }
}

/// What a mesh told its node.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) connections: BTreeMap<LinkId, Connection>,
    pub(crate) added: usize,
    pub(crate) removed: Vec<LinkId>,
    pub(crate) closed: Vec<LinkId>,
    pub(crate) gossip: Vec<(String, Delivery, Vec<u8>)>,
    pub(crate) controls: Vec<(LinkId, OverlayControl)>,
    pub(crate) peers_removed: Vec<PeerName>,
    pub(crate) direct_peers: Option<Vec<String>>,
    pub(crate) routes_changed: usize,
    pub(crate) short_ids_changed: usize,
    pub(crate) dials: usize,
    pub(crate) states_wanted: usize,
}

struct End {
    mesh: usize,
    link: LinkId,
}

enum Event {
    Bytes {
        mesh: usize,
        link: LinkId,
        bytes: Vec<u8>,
    },
    Flushed {
        mesh: usize,
        link: LinkId,
    },
    Closed {
        mesh: usize,
        link: LinkId,
    },
}

/// Meshes and the wires between them.
pub(crate) struct Net {
    pub(crate) now: Instant,
    pub(crate) meshes: Vec<Mesh>,
    pub(crate) seen: Vec<Seen>,
    /// Bytes per delivery; everything at once if absent.
    pub(crate) chunk: Option<usize>,
    /// Whether overlays confirm every connection at once.
    pub(crate) establish: bool,
    /// Hosts whose listener refuses.
    pub(crate) unreachable: BTreeSet<usize>,
    /// Hosts whose links take bytes but never say so.
    pub(crate) stuck: BTreeSet<usize>,
    /// Hosts whose dials are never answered.
    pub(crate) unanswered: BTreeSet<usize>,
    /// Links whose far end is gone without a word.
    half_open: BTreeSet<(usize, LinkId)>,
    /// Whether what is sent into a half-open link is answered by a reset.
    pub(crate) answers_half_open: bool,
    /// Whether closing a link destroys what is under way on it, as a TCP reset may.
    pub(crate) reset: bool,
    /// State of registered channels.
    pub(crate) states: BTreeMap<(usize, String), Vec<u8>>,
    /// Bytes each mesh sent.
    pub(crate) sent_bytes: Vec<usize>,
    wires: BTreeMap<(usize, LinkId), End>,
    events: VecDeque<Event>,
    accepted: u64,
}

impl Net {
    pub(crate) fn new(configs: Vec<MeshConfig>) -> Self {
        let now = base();
        let mut net = Self {
            now,
            meshes: Vec::new(),
            seen: Vec::new(),
            chunk: None,
            establish: true,
            unreachable: BTreeSet::new(),
            stuck: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            half_open: BTreeSet::new(),
            answers_half_open: true,
            reset: false,
            states: BTreeMap::new(),
            sent_bytes: Vec::new(),
            wires: BTreeMap::new(),
            events: VecDeque::new(),
            accepted: 0,
        };
        for config in configs {
            net.add(config);
        }
        net
    }

    /// One more mesh, on the next address.
    pub(crate) fn add(&mut self, config: MeshConfig) -> usize {
        let n = self.meshes.len();
        let seed = [u8::try_from(n).unwrap() + 1; 32];
        self.meshes.push(Mesh::new(config, seed, self.now));
        self.seen.push(Seen::default());
        self.sent_bytes.push(0);
        n
    }

    /// A host loses its process and starts another on the same address.
    pub(crate) fn restart(&mut self, n: usize, config: MeshConfig, seed: u8) {
        let links: Vec<LinkId> = self
            .wires
            .keys()
            .filter(|(mesh, _)| *mesh == n)
            .map(|(_, link)| *link)
            .collect();
        for link in links {
            self.cut(n, link);
        }
        self.events.retain(|event| {
            !matches!(event,
            Event::Bytes { mesh, .. } | Event::Flushed { mesh, .. } | Event::Closed { mesh, .. }
                if *mesh == n)
        });
        self.meshes[n] = Mesh::new(config, [seed; 32], self.now);
        self.seen[n] = Seen::default();
        self.settle();
    }

    /// The far ends of a peer's links learn nothing of their end.
    pub(crate) fn vanish(&mut self, n: usize) {
        let near = self.wires.iter().filter(|((mesh, _), _)| *mesh == n);
        let far: Vec<_> = near.map(|(_, far)| (far.mesh, far.link)).collect();
        self.wires
            .retain(|(mesh, _), far| *mesh != n && far.mesh != n);
        self.half_open.extend(far);
    }

    /// A peer leaves for good: its links break, its listener is gone, and nothing is left of it but
    /// a mesh that nobody tells anything.
    pub(crate) fn leave(&mut self, n: usize) {
        self.unreachable.insert(n);
        self.restart(n, config(n), 250);
    }

    /// Fails if a mesh keeps more than it may, or shows anything that drives a terminal.
    pub(crate) fn assert_bounded(&self, n: usize) {
        let mesh = &self.meshes[n];
        let excess = mesh.footprint().excess(&mesh.footprint_limits());
        assert_eq!(excess, None, "what, how much, and how much it may be");
    }

    /// Fails if a mesh shows anything that could drive a terminal.
    pub(crate) fn assert_printable(&self, n: usize) {
        let status = self.meshes[n].status(self.now);
        let texts = status.peers.iter().flat_map(|peer| {
            let addresses = peer.connections.iter().map(|c| &c.remote_address);
            addresses.chain([&peer.nickname])
        });
        let connections = status.connections.iter();
        let labels = connections.map(|connection| &connection.remote_nickname);
        for text in texts.chain(labels) {
            assert_eq!(*text, printable(text));
        }
        let targets = format!("{:?}", status.targets);
        assert_eq!(targets, printable(&targets));
    }

    /// `from` is told to connect to `to`.
    pub(crate) fn connect(&mut self, from: usize, to: usize) {
        SPEAKER.set(from);
        self.meshes[from].connect(vec![direct(to)], false, self.now);
        self.settle();
    }

    /// Carries everything that is under way.
    pub(crate) fn settle(&mut self) {
        for rounds in 0.. {
            assert!(rounds < 100_000, "the meshes talk for ever");
            let mut idle = true;
            for n in 0..self.meshes.len() {
                while let Some(output) = self.meshes[n].poll_output() {
                    idle = false;
                    self.carry_out(n, output);
                }
            }
            if let Some(event) = self.events.pop_front() {
                idle = false;
                self.deliver(event);
            }
            if idle {
                return;
            }
        }
    }

    /// Lets virtual time pass.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut at_once = 0;
        loop {
            self.settle();
            let next = self
                .meshes
                .iter()
                .filter_map(|mesh| Some(mesh.poll_timeout()?.0))
                .min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            at_once = if next > self.now { 0 } else { at_once + 1 };
            assert!(
                at_once < 100,
                "a timer does not go away: {:?}",
                self.timers()
            );
            self.now = self.now.max(next);
            for n in 0..self.meshes.len() {
                if self.meshes[n]
                    .poll_timeout()
                    .is_some_and(|(at, _)| at <= self.now)
                {
                    SPEAKER.set(n);
                    self.meshes[n].handle_timeout(self.now);
                }
            }
        }
        self.now = end;
    }

    fn timers(&self) -> Vec<Option<(Instant, &'static str)>> {
        self.meshes.iter().map(Mesh::poll_timeout).collect()
    }

    /// Ends a TCP connection under both ends.
    pub(crate) fn cut(&mut self, n: usize, link: LinkId) {
        if let Some(far) = self.wires.remove(&(n, link)) {
            self.wires.remove(&(far.mesh, far.link));
            for (mesh, link) in [(n, link), (far.mesh, far.link)] {
                self.events.push_back(Event::Closed { mesh, link });
            }
        }
    }

    /// Puts bytes on a link as if its far end had sent them.
    pub(crate) fn inject(&mut self, n: usize, link: LinkId, bytes: &[u8]) {
        SPEAKER.set(n);
        self.meshes[n].handle_link_bytes(link, bytes, self.now);
        self.settle();
    }

    /// A TCP connection from nowhere to a mesh; what the mesh sends into it is lost.
    pub(crate) fn accept_stranger(&mut self, n: usize, from: &str) -> LinkId {
        let link = self.next_inbound();
        let local = SocketAddr::new(ip(n), PORT);
        self.meshes[n].handle_link_accepted(link, local, from.parse().unwrap(), self.now);
        self.settle();
        link
    }

    fn next_inbound(&mut self) -> LinkId {
        self.accepted += 1;
        LinkId::inbound(self.accepted)
    }

    fn deliver(&mut self, event: Event) {
        let now = self.now;
        let (Event::Bytes { mesh, .. } | Event::Flushed { mesh, .. } | Event::Closed { mesh, .. }) =
            &event;
        SPEAKER.set(*mesh);
        match event {
            Event::Bytes { mesh, link, bytes } => {
                if !self.reset || self.wires.contains_key(&(mesh, link)) {
                    self.meshes[mesh].handle_link_bytes(link, &bytes, now);
                }
            }
            Event::Flushed { mesh, link } => self.meshes[mesh].handle_link_flushed(link, now),
            Event::Closed { mesh, link } => self.meshes[mesh].handle_link_closed(link, "EOF", now),
        }
    }

    fn carry_out(&mut self, n: usize, output: MeshOutput) {
        SPEAKER.set(n);
        let seen = &mut self.seen[n];
        match output {
            MeshOutput::Dial { link, remote } => {
                seen.dials += 1;
                self.dial(n, link, remote);
            }
            MeshOutput::Send { link, bytes } => self.send(n, link, &bytes),
            MeshOutput::Close { link } => {
                seen.closed.push(link);
                if let Some(far) = self.wires.remove(&(n, link)) {
                    self.events.push_back(Event::Closed {
                        mesh: far.mesh,
                        link: far.link,
                    });
                    self.wires.remove(&(far.mesh, far.link));
                }
            }
            MeshOutput::ConnectionAdded(connection) => {
                let link = connection.link;
                seen.added += 1;
                let earlier = seen
                    .connections
                    .values()
                    .any(|c| c.remote == connection.remote);
                assert!(!earlier, "two connections to one peer");
                assert!(seen.connections.insert(link, *connection).is_none());
                if self.establish {
                    self.meshes[n].connection_established(link, self.now);
                }
            }
            MeshOutput::ConnectionRemoved { link } => {
                assert!(
                    seen.connections.remove(&link).is_some(),
                    "removed but never added"
                );
                seen.removed.push(link);
            }
            MeshOutput::OverlayControl { link, control } => {
                assert!(
                    seen.connections.contains_key(&link),
                    "control before the connection"
                );
                seen.controls.push((link, control));
            }
            MeshOutput::Gossip {
                channel,
                delivery,
                payload,
                ..
            } => {
                seen.gossip.push((channel, delivery, payload));
            }
            MeshOutput::ChannelStateWanted { channel } => {
                seen.states_wanted += 1;
                let state = self.states.get(&(n, channel.clone())).cloned();
                self.meshes[n].provide_channel_state(&channel, state, self.now);
            }
            MeshOutput::RoutesChanged => seen.routes_changed += 1,
            MeshOutput::ShortIdsChanged => seen.short_ids_changed += 1,
            MeshOutput::PeersRemoved(names) => seen.peers_removed.extend(names),
            MeshOutput::DirectPeersChanged(texts) => seen.direct_peers = Some(texts),
        }
    }

    fn dial(&mut self, n: usize, link: LinkId, remote: SocketAddr) {
        if self.unanswered.contains(&n) {
            return;
        }
        let far = (0..self.meshes.len()).find(|m| ip(*m) == remote.ip());
        let far = far.filter(|m| remote.port() == PORT && !self.unreachable.contains(m));
        let Some(far) = far else {
            self.meshes[n].handle_dial_failed(link, "connect: connection refused", self.now);
            return;
        };
        let accepted = self.next_inbound();
        let local = SocketAddr::new(ip(n), 40_000 + u16::try_from(self.accepted).unwrap());
        self.wires.insert(
            (n, link),
            End {
                mesh: far,
                link: accepted,
            },
        );
        self.wires.insert((far, accepted), End { mesh: n, link });
        self.meshes[n].handle_link_connected(link, local, remote, self.now);
        SPEAKER.set(far);
        self.meshes[far].handle_link_accepted(accepted, remote, local, self.now);
    }

    fn send(&mut self, n: usize, link: LinkId, bytes: &[u8]) {
        assert!(!bytes.is_empty());
        self.sent_bytes[n] += bytes.len();
        if self.stuck.contains(&n) {
            return;
        }
        if self.answers_half_open && self.half_open.remove(&(n, link)) {
            self.events.push_back(Event::Closed { mesh: n, link });
            return;
        }
        if let Some(far) = self.wires.get(&(n, link)) {
            for chunk in bytes.chunks(self.chunk.unwrap_or(usize::MAX)) {
                let bytes = chunk.to_vec();
                self.events.push_back(Event::Bytes {
                    mesh: far.mesh,
                    link: far.link,
                    bytes,
                });
            }
        }
        self.events.push_back(Event::Flushed { mesh: n, link });
    }

    /// Names a mesh has a connection to, with whether it is established.
    pub(crate) fn neighbours(&self, n: usize) -> Vec<(PeerName, bool)> {
        let status = self.meshes[n].status(self.now);
        status
            .connections
            .iter()
            .map(|c| (c.remote, c.established))
            .collect()
    }

    /// The one connection of a mesh.
    pub(crate) fn only_link(&self, n: usize) -> LinkId {
        let links: Vec<&LinkId> = self.seen[n].connections.keys().collect();
        assert_eq!(links.len(), 1, "peer {n} has not one connection");
        *links[0]
    }

    /// Checks that all meshes describe the same world.
    pub(crate) fn assert_agreement(&self) {
        self.assert_agreement_of(self.meshes.len());
    }

    /// Checks that the first so many meshes do.
    pub(crate) fn assert_agreement_of(&self, count: usize) {
        let first = self.meshes[0].status(self.now).peers;
        for mesh in &self.meshes[1..count] {
            assert_eq!(mesh.status(self.now).peers, first);
        }
    }
}

/// A peer made by hand, on an accepted link of a mesh: speaks version 2 in clear.
pub(crate) struct Stranger {
    pub(crate) n: usize,
    pub(crate) link: LinkId,
}

impl Stranger {
    /// What the usual stranger says about itself.
    pub(crate) fn features() -> Features {
        Features {
            name: name(100),
            nickname: "stranger".to_owned(),
            uid: 4711,
            conn_id: 42,
            short_id: None,
            trusted: false,
            overlays: Some(vec!["sleeve".to_owned()]),
            public_key: None,
            weft: None,
        }
    }

    /// Connects to a mesh and is introduced.
    pub(crate) fn introduce(net: &mut Net, n: usize, features: &Features) -> Self {
        let link = net.accept_stranger(n, "10.9.9.9:50000");
        net.inject(n, link, &Self::introduction(features));
        Self { n, link }
    }

    /// The bytes of an introduction.
    pub(crate) fn introduction(features: &Features) -> Vec<u8> {
        let mut bytes = encode_header(1, 2).to_vec();
        bytes.push(FLAG_PLAIN);
        bytes.extend(encode_frame(&features.encode_v2()).unwrap());
        bytes
    }

    /// Sends a message.
    pub(crate) fn say(&self, net: &mut Net, message: &Message) {
        self.say_raw(net, &message.encode());
    }

    /// Sends a frame of these bytes.
    pub(crate) fn say_raw(&self, net: &mut Net, message: &[u8]) {
        net.inject(self.n, self.link, &encode_frame(message).unwrap());
    }

    /// Sends neighbour gossip.
    pub(crate) fn gossip(&self, net: &mut Net, channel: &str, payload: Vec<u8>) {
        let channel = channel.to_owned();
        self.say(
            net,
            &Message::GossipNeighbour {
                channel,
                sender: name(100),
                payload,
            },
        );
    }

    /// Whether the mesh closed the link.
    pub(crate) fn is_closed(&self, net: &Net) -> bool {
        net.seen[self.n].closed.contains(&self.link)
    }
}

/// A second.
pub(crate) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
