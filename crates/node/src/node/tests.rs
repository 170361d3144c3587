//! Tests of the composition: two nodes joined by perfect links and a data plane that only carries
//! special frames. Whole clusters and faults are the simulator's (`sim`).

mod allocation;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh::{DirectPeer, GossipContent, Password, TrustedSubnet};
use overlay::capabilities::Capability;
use overlay::kind::Probe;
use overlay::mac::{MacCorrection, Sighting};
use overlay::protection::Cipher;
use overlay::sleeve::lane::{SleeveEvent, SleeveLane};
use overlay::table::{ForwardingTable, Neighbour};
use wire::LinkId;
use wire::ethernet::MacAddr;

use super::*;

#[expect(clippy::disallowed_methods, reason = "base of virtual time")]
fn base() -> Instant {
    Instant::now()
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 6783))
}

fn config(n: u8, password: &str) -> Config {
    let name = PeerName::from_u64(0x0200_0000_0000 + u64::from(n));
    let mut mesh = MeshConfig::new(name, format!("host-{n}"));
    mesh.password = Password::new(password);
    Config::new(mesh)
}

fn node(n: u8, password: &str, now: Instant) -> Node {
    Node::new(config(n, password), [n; 32], now)
}

/// What is to be kept, and what is to be done then.
fn take(node: &mut Node) -> (Vec<Record>, Vec<Output>) {
    let mut kept = Vec::new();
    let outputs = node.take_turn().durable(|records| {
        kept = records;
        Ok::<(), Infallible>(())
    });
    (kept, outputs.unwrap().into())
}

fn drain(node: &mut Node) -> Vec<Output> {
    take(node).1
}

fn connect(n: u8, replace: bool) -> Command {
    let ip = address(n).ip();
    let text = ip.to_string();
    let peers = vec![DirectPeer {
        text,
        ip,
        port: None,
    }];
    Command::Connect(Connect { peers, replace })
}

fn command(node: &mut Node, command: Command, now: Instant) -> (Vec<Record>, Vec<Output>) {
    let id = RequestId(1);
    node.handle_input(Input::Command { id, command }, now);
    take(node)
}

/// Two nodes, the first of which dials the second.
struct Pair {
    nodes: [Node; 2],
    tables: [Arc<ForwardingTable>; 2],
    links: [LinkId; 2],
    closed: bool,
    /// What was made durable.
    rows: [BTreeMap<String, Vec<u8>>; 2],
    replies: Vec<(usize, RequestId, Reply)>,
    corrections: [Vec<MacCorrection>; 2],
    now: Instant,
}

impl Pair {
    fn new(configs: [Config; 2]) -> Self {
        let now = base();
        let mut seed = 0;
        let nodes = configs.map(|config| {
            seed += 1;
            Node::new(config, [seed; 32], now)
        });
        let mut pair = Self {
            nodes,
            tables: Default::default(),
            links: [LinkId::outbound(u64::MAX >> 1), LinkId::inbound(0)],
            closed: false,
            rows: Default::default(),
            replies: Vec::new(),
            corrections: Default::default(),
            now,
        };
        pair.input(
            0,
            Input::Command {
                id: RequestId(1),
                command: connect(2, false),
            },
        );
        pair
    }

    fn input(&mut self, n: usize, input: Input) {
        self.nodes[n].handle_input(input, self.now);
        self.settle();
    }

    /// Does what the nodes ask for until both are silent.
    fn settle(&mut self) {
        while let Some(n) = (0..2).find(|n| !self.nodes[*n].turn().is_empty()) {
            let (records, outputs) = take(&mut self.nodes[n]);
            for record in records {
                self.keep(n, record);
            }
            for output in outputs {
                self.follow(n, output);
            }
        }
    }

    fn keep(&mut self, n: usize, record: Record) {
        let Record::Rows(writes) = record else {
            return;
        };
        for write in writes {
            match write.value {
                Some(value) => self.rows[n].insert(write.name, value),
                None => self.rows[n].remove(&write.name),
            };
        }
    }

    fn follow(&mut self, n: usize, output: Output) {
        let now = self.now;
        match output {
            Output::Dial { link, remote } => {
                assert_eq!(
                    (n, remote),
                    (0, address(2)),
                    "only the direct peer is dialled"
                );
                self.links[0] = link;
                let (local, accepted) = (SocketAddr::from(([10, 0, 0, 1], 40_000)), self.links[1]);
                let connected = Input::LinkConnected {
                    link,
                    local,
                    remote,
                };
                let accepted = Input::LinkAccepted {
                    link: accepted,
                    local: remote,
                    remote: local,
                };
                self.nodes[0].handle_input(connected, now);
                self.nodes[1].handle_input(accepted, now);
            }
            Output::Send { link, bytes } => {
                assert_eq!(link, self.links[n]);
                let link = self.links[1 - n];
                self.nodes[1 - n].handle_input(Input::LinkBytes { link, bytes }, now);
                let link = self.links[n];
                self.nodes[n].handle_input(Input::LinkFlushed { link }, now);
            }
            Output::Close { .. } => {
                self.closed = true;
                let link = self.links[1 - n];
                let error = "connection reset by peer".to_owned();
                self.nodes[1 - n].handle_input(Input::LinkClosed { link, error }, now);
            }
            Output::Program(table) => self.tables[n] = table,
            Output::Correct(correction) => self.corrections[n].push(correction),
            Output::Probe(probe) => self.carry(n, &probe),
            Output::Reply { id, reply } => self.replies.push((n, id, reply)),
        }
    }

    fn carry(&mut self, n: usize, probe: &Probe) {
        let near = self.neighbour(n).expect("published before the probe");
        assert_eq!(near.link, probe.link);
        assert_ne!(self.lane(n).unwrap().remote_address, None);
        let what = probe.probe;
        if what.frame_bytes() > 1452 && !what.may_be_fragmented() {
            let event = SleeveEvent::TooBig {
                path_mtu_bytes: 1500,
            };
            let event = Input::Tunnel(event.on(near.link));
            return self.nodes[n].handle_input(event, self.now);
        }
        let Some(far) = self.neighbour(1 - n) else {
            return;
        };
        let from = address(n as u8 + 1);
        let event = what.heard(from).on(far.link);
        self.nodes[1 - n].handle_input(Input::Tunnel(event), self.now);
    }

    fn neighbour(&self, n: usize) -> Option<Arc<Neighbour>> {
        self.tables[n].neighbours.values().next().cloned()
    }

    fn lane(&self, n: usize) -> Option<SleeveLane> {
        self.neighbour(n)?.lanes.sleeve().cloned()
    }

    fn cipher(&self, n: usize) -> Option<Cipher> {
        self.lane(n)?.protection.cipher()
    }

    fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let due = self
                .nodes
                .iter()
                .filter_map(|node| node.poll_timeout())
                .min();
            let Some((at, _)) = due.filter(|(at, _)| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            for n in 0..2 {
                self.nodes[n].handle_timeout(self.now);
            }
            self.settle();
        }
        self.now = end;
    }
}

#[test]
fn a_new_node_first_publishes_that_it_knows_nobody() {
    let now = base();
    let mut node = node(1, "", now);
    let outputs = drain(&mut node);
    let [Output::Program(table)] = outputs.as_slice() else {
        panic!("{outputs:?}");
    };
    assert_eq!(table.us, node.name());
    assert_eq!(table.routes.peers, [node.name()]);
    assert!(table.neighbours.is_empty() && table.routes.unicast.is_empty());
    assert!(table.routes.broadcast.is_empty());
}

#[test]
fn direct_peers_are_persisted_before_they_are_dialled_and_the_reply_is_last() {
    let now = base();
    let mut node = node(1, "", now);
    drain(&mut node);
    let (records, outputs) = command(&mut node, connect(2, false), now);
    assert_eq!(records, [Record::DirectPeers(vec!["10.0.0.2".into()])]);
    assert!(
        outputs
            .iter()
            .any(|output| matches!(output, Output::Dial { .. }))
    );
    assert!(matches!(
        outputs.last(),
        Some(Output::Reply {
            id: RequestId(1),
            reply: Reply::Done
        })
    ));
    let peers = vec!["10.0.0.2".to_owned()];
    let (records, _) = command(&mut node, Command::Forget(Forget { peers }), now);
    assert_eq!(records, [Record::DirectPeers(Vec::new())]);
}

#[test]
fn two_nodes_establish_a_tunnel_with_a_verified_mtu() {
    let mut pair = Pair::new([config(1, ""), config(2, "")]);
    pair.run_for(Duration::from_secs(3));
    for n in 0..2 {
        let lane = pair.lane(n).unwrap();
        assert!(lane.protection.cipher().is_none() && lane.stack_frag);
        assert_eq!((lane.mtu_bytes, lane.outbound), (1438, n == 0));
        assert!(pair.neighbour(n).unwrap().carrier().is_some());
        let other = pair.nodes[1 - n].name();
        assert_eq!(
            pair.tables[n].routes.unicast,
            BTreeMap::from([(other, other)])
        );
        assert_eq!(
            pair.tables[n].routes.broadcast[&pair.nodes[n].name()],
            [other]
        );
        let status = pair.nodes[n].status(pair.now);
        assert_eq!(status.tunnels[0].link, pair.links[n]);
        assert_eq!(status.tunnels[0].reason.to_string(), "only-common");
        assert!(status.mesh.connections[0].established);
    }
}

#[test]
fn with_a_password_every_published_tunnel_has_the_same_key_at_both_ends() {
    let mut pair = Pair::new([config(1, "secret"), config(2, "secret")]);
    pair.run_for(Duration::from_secs(3));
    let keys = [0, 1].map(|n| {
        let lane = pair.lane(n).unwrap();
        *lane.protection.key().unwrap().expose_bytes()
    });
    assert_eq!(keys[0], keys[1]);
    assert_eq!(pair.lane(0).unwrap().mtu_bytes, 1414);
}

/// F28: else by the original's cipher.
#[test]
fn datagrams_are_sealed_by_aes_gcm_only_where_both_ends_offer_it() {
    for offers in [[true, true], [true, false], [false, true], [false, false]] {
        let mut n = 0;
        let configs = offers.map(|offers| {
            n += 1;
            let mut config = config(n, "secret");
            if offers {
                config.capabilities = Capability::ALL.into_iter().collect();
            }
            config
        });
        let mut pair = Pair::new(configs);
        pair.run_for(Duration::from_secs(3));
        let expected = if offers == [true, true] {
            Cipher::AesGcm
        } else {
            Cipher::Secretbox
        };
        for n in 0..2 {
            assert_eq!(pair.cipher(n), Some(expected), "{offers:?}");
            let status = pair.nodes[n].status(pair.now);
            assert_eq!(status.tunnels[0].cipher, Some(expected));
        }
    }
}

/// Its introduction has no room for the word.
#[test]
fn protocol_version_1_uses_the_cipher_of_the_original() {
    let mut configs = [config(1, "secret"), config(2, "secret")];
    for config in &mut configs {
        config.capabilities = Capability::ALL.into_iter().collect();
    }
    configs[1].mesh.max_protocol_version = 1;
    let mut pair = Pair::new(configs);
    pair.run_for(Duration::from_secs(3));
    for n in 0..2 {
        assert_eq!(pair.cipher(n), Some(Cipher::Secretbox));
    }
}

#[test]
fn a_weft_that_is_not_announced_uses_the_cipher_of_the_original() {
    let mut configs = [config(1, "secret"), config(2, "secret")];
    for config in &mut configs {
        config.capabilities = Capability::ALL.into_iter().collect();
    }
    configs[0].mesh.announce_weft = false;
    let mut pair = Pair::new(configs);
    pair.run_for(Duration::from_secs(3));
    for n in 0..2 {
        assert_eq!(pair.cipher(n), Some(Cipher::Secretbox));
    }
}

#[test]
fn only_mutual_trust_leaves_the_data_plane_in_clear() {
    for (trusting, expected) in [([true, true], false), ([true, false], true)] {
        let mut n = 0;
        let configs = trusting.map(|trusts| {
            n += 1;
            let mut config = config(n, "secret");
            if trusts {
                let subnet = TrustedSubnet::new([10, 0, 0, 0].into(), 24).unwrap();
                config.mesh.trusted_subnets = vec![subnet];
            }
            config
        });
        let mut pair = Pair::new(configs);
        pair.run_for(Duration::from_secs(3));
        for n in 0..2 {
            assert_eq!(pair.cipher(n).is_some(), expected);
            assert_eq!(
                pair.nodes[n].status(pair.now).tunnels[0].cipher.is_some(),
                expected
            );
        }
    }
}

#[test]
fn different_passwords_publish_no_tunnel() {
    let mut pair = Pair::new([config(1, "secret"), config(2, "other")]);
    assert!(pair.closed);
    assert!(pair.lane(0).is_none() && pair.lane(1).is_none());
    pair.closed = false;
}

#[test]
fn a_closed_link_takes_its_tunnel_along() {
    let mut pair = Pair::new([config(1, ""), config(2, "")]);
    pair.run_for(Duration::from_secs(3));
    let link = pair.links[1];
    let error = "EOF".to_owned();
    pair.nodes[1].handle_input(Input::LinkClosed { link, error }, pair.now);
    let outputs = drain(&mut pair.nodes[1]);
    let programs: Vec<_> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Program(table) => Some(table),
            Output::Dial { .. }
            | Output::Send { .. }
            | Output::Close { .. }
            | Output::Correct(_)
            | Output::Probe(_)
            | Output::Reply { .. } => None,
        })
        .collect();
    assert_eq!(programs.len(), 1, "one snapshot per input");
    assert!(programs[0].neighbours.is_empty());
}

#[test]
fn a_changed_tunnel_leaves_the_routes_the_very_same_and_touches_no_address() {
    let mut pair = Pair::new([config(1, ""), config(2, "")]);
    pair.run_for(Duration::from_secs(3));
    let (before, mtu_bytes) = (Arc::clone(&pair.tables[0]), pair.lane(0).unwrap().mtu_bytes);
    let link = pair.neighbour(0).unwrap().link;
    let narrower = SleeveEvent::TooBig {
        path_mtu_bytes: 1400,
    };
    pair.input(0, Input::Tunnel(narrower.on(link)));
    assert!(pair.lane(0).unwrap().mtu_bytes < mtu_bytes);
    assert!(Arc::ptr_eq(&before.routes, &pair.tables[0].routes));
    assert!(pair.corrections[0].is_empty());
}

#[test]
fn addresses_at_a_peer_that_is_gone_are_forgotten_also_when_learned_late() {
    let mut pair = Pair::new([config(1, ""), config(2, "")]);
    pair.run_for(Duration::from_secs(3));
    let (now, link) = (pair.now, pair.links[0]);
    let node = &mut pair.nodes[0];
    let sighting = |peer: u64| Sighting {
        mac: MacAddr([2, 0, 0, 0, 0, 9]),
        peer: PeerName::from_u64(0x0200_0000_0000 + peer),
    };
    let gone = |outputs: Vec<Output>| {
        let corrections = outputs.into_iter().filter_map(|output| match output {
            Output::Correct(correction) => Some(correction.gone),
            Output::Dial { .. }
            | Output::Send { .. }
            | Output::Close { .. }
            | Output::Program(_)
            | Output::Probe(_)
            | Output::Reply { .. } => None,
        });
        corrections.flatten().collect::<Vec<_>>()
    };
    node.handle_input(Input::Learned(vec![sighting(1), sighting(2)]), now);
    assert_eq!(gone(drain(node)), [], "both are known");
    let error = "EOF".to_owned();
    node.handle_input(Input::LinkClosed { link, error }, now);
    let mut outputs = drain(node);
    for seconds in 1..60 {
        node.handle_timeout(now + Duration::from_secs(seconds));
        outputs.extend(drain(node));
    }
    assert_eq!(gone(outputs), [sighting(2).peer]);
    node.handle_input(Input::Learned(vec![sighting(2)]), now);
    assert_eq!(gone(drain(node)), [sighting(2).peer], "by an older table");
}

#[test]
fn inputs_about_what_is_gone_are_ignored() {
    let now = base();
    let mut node = node(1, "", now);
    drain(&mut node);
    for link in [LinkId::inbound(9), LinkId::outbound(9)] {
        let bytes = b"weave\x01\x02".to_vec();
        let error = String::new();
        node.handle_input(Input::LinkBytes { link, bytes }, now);
        node.handle_input(Input::LinkFlushed { link }, now);
        let closed = error.clone();
        node.handle_input(
            Input::LinkClosed {
                link,
                error: closed,
            },
            now,
        );
        node.handle_input(Input::DialFailed { link, error }, now);
    }
    let event = SleeveEvent::CounterExhausted.on(LinkId::outbound(5));
    node.handle_input(Input::Tunnel(event), now);
    let outputs = drain(&mut node);
    assert!(outputs.is_empty(), "{outputs:?}");
}

#[test]
fn time_that_goes_backwards_stands_still() {
    let now = base() + Duration::from_secs(100);
    let mut node = node(1, "", now);
    drain(&mut node);
    node.handle_timeout(now - Duration::from_secs(50));
    command(&mut node, connect(2, false), now - Duration::from_secs(50));
    assert!(node.poll_timeout().is_some_and(|(at, _)| at >= now));
}
