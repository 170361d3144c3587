//! A shell around a node that does nothing but hold the node to its contract.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh::status::TargetCounts;
use mesh::{DirectPeer, MeshConfig, Password, TrustedSubnet};
use node::{Command, Config, Connect, Input, Node, NodeStatus, Output, RequestId};
use overlay::table::ForwardingTable;
use wire::handshake::Features;
use wire::{LinkId, PeerName};

use crate::remote::{Manner, PASSWORD, Remote};

/// The node under test.
pub(crate) const US: PeerName = PeerName::from_u64(0x0200_0000_0a01);
/// More outputs than any single input may cause.
const OUTPUTS_MAX: usize = 20_000;
/// Attempts the connection maker has under way at most.
const DIALS_MAX: usize = 64;
/// Peers gossip may bring a node to, and how large their entries may be (`mesh`, peers.rs).
const PEERS_MAX: usize = 4096;
const ADJACENCIES_MAX: usize = 131_072;
const NICKNAME_BYTES_MAX: usize = 255;
const ADDRESS_BYTES_MAX: usize = 64;
/// How much longer a text is shown than kept, at most: a control character becomes four.
const ESCAPED: usize = 4;
const SHORT_IDS: u16 = 4096;

/// How the node under test is configured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// Whether it has the password.
    pub(crate) has_password: bool,
    /// Whether it trusts 10.0.0.0/24.
    pub(crate) trusts: bool,
    /// Whether it announces no overlays.
    pub(crate) is_compatible: bool,
    /// Most connections.
    pub(crate) conn_limit: usize,
}

impl Setting {
    /// The usual one.
    pub(crate) const fn new(has_password: bool) -> Self {
        Self {
            has_password,
            trusts: false,
            is_compatible: false,
            conn_limit: 200,
        }
    }
}

/// A link that stands, as the shell knows it.
#[derive(Default)]
pub(crate) struct OpenLink {
    /// What the node sent and nobody has taken.
    sent: Vec<u8>,
}

pub(crate) struct Shell {
    pub(crate) node: Node,
    pub(crate) now: Instant,
    pub(crate) links: BTreeMap<LinkId, OpenLink>,
    pub(crate) dials: BTreeMap<LinkId, SocketAddr>,
    pub(crate) table: Arc<ForwardingTable>,
    /// What heartbeats of each tunnel carry, as far as it was probed.
    pub(crate) uids: BTreeMap<LinkId, u64>,
    setting: Setting,
    accepted: u64,
    dialled: BTreeSet<LinkId>,
    is_waiting_for: Option<RequestId>,
}

/// The beginning of virtual time.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had in no other way; the targets depend on differences alone"
)]
pub(crate) fn base() -> Instant {
    Instant::now()
}

/// The n-th address of the world.
pub(crate) fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, n >> 4, n], 6783))
}

impl Shell {
    pub(crate) fn new(setting: Setting) -> Self {
        let mut mesh = MeshConfig::new(US, "ours");
        mesh.password = setting
            .has_password
            .then(|| Password::new(PASSWORD))
            .flatten();
        mesh.conn_limit = setting.conn_limit;
        if setting.trusts {
            mesh.trusted_subnets = TrustedSubnet::new([10, 0, 0, 0].into(), 24)
                .into_iter()
                .collect();
        }
        let mut config = Config::new(mesh);
        if setting.is_compatible {
            config.tunnels.clear();
        }
        let now = base();
        let mut shell = Self {
            node: Node::new(config, [7; 32], now),
            now,
            links: BTreeMap::new(),
            dials: BTreeMap::new(),
            table: Arc::default(),
            uids: BTreeMap::new(),
            setting,
            accepted: 0,
            dialled: BTreeSet::new(),
            is_waiting_for: None,
        };
        shell.drain();
        assert_eq!(shell.table.us, US);
        shell
    }

    /// Tells the node something and does what it asks for.
    pub(crate) fn input(&mut self, input: Input) {
        self.node.handle_input(input, self.now);
        self.drain();
    }

    /// Bytes on a link.
    pub(crate) fn bytes(&mut self, link: LinkId, bytes: &[u8]) {
        let bytes = bytes.to_vec();
        self.input(Input::LinkBytes { link, bytes });
    }

    /// A stranger connects from the n-th address.
    pub(crate) fn accept(&mut self, n: u8) -> LinkId {
        let link = LinkId::inbound(self.accepted);
        self.accepted += 1;
        let remote = SocketAddr::new(address(n).ip(), 40_000);
        let local = address(0);
        self.links.insert(link, OpenLink::default());
        self.input(Input::LinkAccepted {
            link,
            local,
            remote,
        });
        link
    }

    /// The operator asks for a connection to the n-th address; the link, if it was dialled.
    pub(crate) fn connect(&mut self, n: u8) -> Option<LinkId> {
        let peer = DirectPeer {
            text: format!("peer-{n}"),
            ip: address(n).ip(),
            port: None,
        };
        let peers = vec![peer];
        self.command(Command::Connect(Connect {
            peers,
            replace: false,
        }));
        let wanted = |(_, remote): &(&LinkId, &SocketAddr)| **remote == address(n);
        let link = self.dials.iter().find(wanted).map(|(link, _)| *link)?;
        self.answer_dial(link, true);
        Some(link)
    }

    /// Ends a dial one way or the other.
    pub(crate) fn answer_dial(&mut self, link: LinkId, succeeds: bool) {
        let Some(remote) = self.dials.remove(&link) else {
            return;
        };
        if !succeeds {
            let error = "connection refused".to_owned();
            return self.input(Input::DialFailed { link, error });
        }
        self.links.insert(link, OpenLink::default());
        let local = SocketAddr::new(address(0).ip(), 50_000);
        self.input(Input::LinkConnected {
            link,
            local,
            remote,
        });
    }

    /// Gives the node a request; it must answer at once.
    pub(crate) fn command(&mut self, command: Command) {
        let id = RequestId(self.accepted + 1);
        self.is_waiting_for = Some(id);
        self.input(Input::Command { id, command });
        assert_eq!(self.is_waiting_for, None, "every command is answered");
    }

    /// Time passes, and the node does what becomes due, in order.
    pub(crate) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        for _ in 0..OUTPUTS_MAX {
            let due = self.node.poll_timeout().map(|(at, _)| at);
            let Some(at) = due.filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            self.node.handle_timeout(self.now);
            self.drain();
        }
        panic!("timers never come to rest: {:?}", self.node.poll_timeout());
    }

    /// The links' queues are empty again.
    pub(crate) fn flush(&mut self, link: LinkId) {
        if self.links.contains_key(&link) {
            self.input(Input::LinkFlushed { link });
        }
    }

    /// What the node sent on a link since last asked.
    pub(crate) fn take_sent(&mut self, link: LinkId) -> Vec<u8> {
        let open = self.links.get_mut(&link);
        open.map(|open| std::mem::take(&mut open.sent))
            .unwrap_or_default()
    }

    /// Introduces a remote on a link; `None` if the node refused it.
    pub(crate) fn introduce(
        &mut self,
        link: LinkId,
        manner: Manner,
        features: Features,
    ) -> Option<Remote> {
        let mut remote = Remote::new(manner, features);
        let greeting = remote.greeting();
        self.bytes(link, &greeting);
        for _ in 0..4 {
            let sent = self.take_sent(link);
            let answer = remote.receive(&sent);
            if !answer.is_empty() {
                self.bytes(link, &answer);
            }
        }
        (self.links.contains_key(&link) && remote.is_introduced()).then_some(remote)
    }

    /// Delivers what the node sent on a link to its remote, which checks it.
    pub(crate) fn deliver(&mut self, link: LinkId, remote: &mut Remote) {
        let sent = self.take_sent(link);
        let answer = remote.receive(&sent);
        assert!(answer.is_empty(), "one introduction per link");
        self.flush(link);
    }

    fn drain(&mut self) {
        let turn = self.node.take_turn();
        let outputs = turn.durable(|_| Ok::<(), Infallible>(()));
        let outputs = outputs.expect("nothing fails");
        let count = outputs.len();
        assert!(
            count <= OUTPUTS_MAX,
            "one input caused more than {OUTPUTS_MAX} outputs: {count}"
        );
        let is_program = |output: &&Output| matches!(output, Output::Program(_));
        let programs = outputs.iter().filter(is_program).count();
        assert!(programs <= 1, "one snapshot per input");
        for output in outputs {
            self.follow(output);
        }
    }

    fn follow(&mut self, output: Output) {
        match output {
            Output::Dial { link, remote } => {
                assert!(
                    link.is_outbound() && self.dialled.insert(link),
                    "numbers are used once"
                );
                self.dials.insert(link, remote);
                assert!(self.dials.len() <= DIALS_MAX, "attempts are bounded");
            }
            Output::Send { link, bytes } => {
                let open = self
                    .links
                    .get_mut(&link)
                    .expect("sends on links that stand");
                assert!(!bytes.is_empty());
                open.sent.extend(bytes);
            }
            Output::Close { link } => {
                let stood = self.links.remove(&link).is_some();
                let was_dialled = self.dials.remove(&link).is_some();
                assert!(stood || was_dialled, "closes links that stand");
            }
            Output::Program(table) => {
                self.check_table(&table);
                self.table = table;
            }
            Output::Correct(correction) => assert!(
                correction
                    .gone
                    .iter()
                    .all(|peer| !self.table.routes.knows(*peer)),
                "only who is gone is forgotten"
            ),
            Output::Probe(probe) => {
                let known = self.table.neighbour(probe.link).is_some();
                assert!(known, "a tunnel is published before it is probed");
                if let Some(connection_uid) = probe.probe.connection_uid() {
                    self.uids.insert(probe.link, connection_uid);
                }
            }
            Output::Reply { id, .. } => assert_eq!(self.is_waiting_for.take(), Some(id)),
        }
    }

    fn check_table(&self, table: &ForwardingTable) {
        assert_eq!(table.us, US);
        assert!(table.routes.peers.is_sorted() && table.routes.knows(US));
        for (remote, neighbour) in &table.neighbours {
            assert_eq!(*remote, neighbour.remote);
            for lane in neighbour.lanes.iter() {
                assert!(lane.mtu_bytes() <= 65_535);
                assert!(lane.max_payload_bytes() <= 65_507);
                let is_sealed = lane.is_sealed();
                assert!(is_sealed == self.setting.has_password || self.setting.trusts);
            }
        }
        assert!(!table.routes.unicast.contains_key(&US));
    }

    /// Lets everything come to rest that follows a change, then holds routes against peers.
    pub(crate) fn settle(&mut self) {
        // A link whose time is up ends meanwhile, and what follows from that takes time too.
        let mut links = usize::MAX;
        while links != self.links.len() {
            links = self.links.len();
            self.pass(Duration::from_secs(3));
        }
        let table = &self.table;
        for (to, hop) in &table.routes.unicast {
            assert!(table.routes.knows(*to) && table.routes.knows(*hop));
            assert!(table.neighbours.contains_key(hop), "{hop} is no neighbour");
        }
        for (origin, copies) in &table.routes.broadcast {
            assert!(table.routes.knows(*origin));
            assert!(copies.iter().all(|hop| table.neighbours.contains_key(hop)));
        }
        self.check();
    }

    /// What must hold at any time.
    pub(crate) fn check(&self) {
        let status = self.node.status(self.now);
        self.check_status(&status);
        self.check_counts(&status);
        if let Some((at, what)) = self.node.poll_timeout() {
            assert!(
                at <= self.now + Duration::from_secs(3600),
                "{what} is far off"
            );
        }
    }

    /// Metrics say what the status does.
    fn check_counts(&self, status: &NodeStatus) {
        let (counts, mesh) = (self.node.counts(), &status.mesh);
        assert_eq!(counts.peers, mesh.peers.len());
        assert_eq!(counts.termination_count, mesh.termination_count);
        let classes = counts.connections.iter();
        let established = classes.filter(|(class, _)| class.established);
        let established: u64 = established.map(|(_, count)| count).sum();
        let shown = mesh.connections.iter();
        let shown_established = shown.filter(|connection| connection.established).count();
        assert_eq!(established, shown_established as u64);
        let all: u64 = counts.connections.values().sum();
        assert_eq!(all, mesh.connections.len() as u64);
        let TargetCounts {
            connecting,
            retrying,
            failed,
            waiting,
        } = counts.targets;
        let targets = connecting + retrying + failed + waiting;
        assert_eq!(targets, mesh.targets.len() as u64);
    }

    fn check_status(&self, status: &NodeStatus) {
        let mesh = &status.mesh;
        assert_eq!(mesh.name, US);
        assert!(mesh.peers.is_sorted_by(|a, b| a.name < b.name));
        assert!(mesh.peers.len() <= PEERS_MAX + mesh.connections.len() + 1);
        let adjacencies: usize = mesh.peers.iter().map(|peer| peer.connections.len()).sum();
        assert!(adjacencies <= ADJACENCIES_MAX + mesh.connections.len());
        for peer in &mesh.peers {
            assert!(!peer.name.is_unknown());
            assert!(peer.nickname.len() <= ESCAPED * NICKNAME_BYTES_MAX);
            assert!(!peer.nickname.contains(char::is_control));
            assert!(peer.short_id.is_none_or(|id| id < SHORT_IDS));
            for connection in &peer.connections {
                let address = &connection.remote_address;
                assert!(address.len() <= ESCAPED * ADDRESS_BYTES_MAX);
                assert!(!address.contains(char::is_control));
            }
            if peer.name == US {
                let names: Vec<_> = peer.connections.iter().map(|c| c.remote).collect();
                let ours: BTreeSet<_> = mesh.connections.iter().map(|c| c.remote).collect();
                assert_eq!(
                    names,
                    ours.into_iter().collect::<Vec<_>>(),
                    "our entry is the truth"
                );
            }
        }
        assert!(self.setting.conn_limit == 0 || mesh.connections.len() <= self.setting.conn_limit);
        for connection in &mesh.connections {
            assert!(self.links.contains_key(&connection.link));
        }
        for tunnel in &status.tunnels {
            assert!(self.links.contains_key(&tunnel.link));
        }
    }
}
