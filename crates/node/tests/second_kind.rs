//! A second kind of tunnel plugs in: two nodes, joined by perfect links and a data plane in memory
//! that carries each kind by an arm of its own, negotiate it, prefer it, hold it, lose it and climb
//! back to it. Neither the node nor the switch knows it by name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh::{DirectPeer, MeshConfig};
use node::{Command, Config, Connect, Input, Node, Output, RequestId};
use overlay::Overlay;
use overlay::forward::carrier_to;
use overlay::kind::{Kind, Lane, LaneEvent, LaneProbe, Probe};
use overlay::table::{ForwardingTable, Neighbour};
use overlay::tunnel::Signal;
use wire::{LinkId, PeerName};

/// The second kind and the one that everybody has.
const BOTH: &[Kind] = &[Kind::Trial, Kind::Sleeve];
/// From the last heartbeat to being on hold, and a little.
const HOLD: Duration = Duration::from_secs(62);
/// From one heartbeat to the next, and a little.
const HEARTBEAT: Duration = Duration::from_secs(11);

#[expect(clippy::disallowed_methods, reason = "base of virtual time")]
fn base() -> Instant {
    Instant::now()
}

fn name(n: usize) -> PeerName {
    PeerName::from_u64(0x0200_0000_0001 + n as u64)
}

/// The network between the two data planes.
#[derive(Default)]
struct Loopback {
    tables: [Arc<ForwardingTable>; 2],
    /// Kinds of which nothing arrives.
    blocked: BTreeSet<Kind>,
    /// Probes sent so far.
    probes: BTreeMap<Kind, usize>,
}

impl Loopback {
    fn neighbour(&self, n: usize) -> Option<&Arc<Neighbour>> {
        self.tables[n].neighbours.get(&name(1 - n))
    }

    /// What the far data plane reports of a probe that leaves at `n`.
    fn probe(&mut self, n: usize, probe: &Probe, from: SocketAddr) -> Option<Input> {
        let near = self.neighbour(n).expect("published before it is probed");
        let kind = probe.probe.kind();
        let lane = near.lanes.get(kind).expect("a lane of that kind");
        assert_eq!(near.link, probe.link);
        assert!(lane.remote_address().is_some());
        *self.probes.entry(kind).or_default() += 1;
        if self.blocked.contains(&kind) {
            return None;
        }
        let far = self.neighbour(1 - n)?;
        let event = match probe.probe {
            LaneProbe::Sleeve(_) => probe.probe.heard(from),
            LaneProbe::Trial(_) => probe.probe.heard(from),
        };
        Some(Input::Tunnel(event.on(far.link)))
    }

    /// The kind that takes a frame from `n` to the other, if it arrives.
    fn carry(&self, n: usize) -> Option<Kind> {
        let carrier = carrier_to(&self.tables[n], name(1 - n)).ok()?;
        let kind = match carrier.lane {
            Lane::Sleeve(_) => Kind::Sleeve,
            Lane::Trial(_) => Kind::Trial,
        };
        (!self.blocked.contains(&kind)).then_some(kind)
    }
}

/// Two nodes, the first of which dials the second.
struct Pair {
    nodes: [Node; 2],
    plane: Loopback,
    addresses: [SocketAddr; 2],
    links: [LinkId; 2],
    closed: bool,
    now: Instant,
}

impl Pair {
    fn new(tunnels: [&[Kind]; 2]) -> Self {
        Self::at(tunnels, ["10.0.0.1", "10.0.0.2"])
    }

    fn at(tunnels: [&[Kind]; 2], ips: [&str; 2]) -> Self {
        let now = base();
        let mut n = 0;
        let nodes = tunnels.map(|tunnels| {
            let mut config = Config::new(MeshConfig::new(name(n), format!("host-{n}")));
            config.tunnels = tunnels.to_vec();
            n += 1;
            Node::new(config, [n as u8; 32], now)
        });
        Self {
            nodes,
            plane: Loopback::default(),
            addresses: ips.map(|ip| SocketAddr::new(ip.parse().expect("an address"), 6783)),
            links: [LinkId::outbound(u64::MAX >> 1), LinkId::inbound(0)],
            closed: false,
            now,
        }
    }

    fn connected(mut self) -> Self {
        let ip = self.addresses[1].ip();
        let peers = vec![DirectPeer {
            text: ip.to_string(),
            ip,
            port: None,
        }];
        let command = Command::Connect(Connect {
            peers,
            replace: false,
        });
        let id = RequestId(1);
        self.input(0, Input::Command { id, command });
        self.run_for(Duration::from_secs(3));
        self
    }

    fn input(&mut self, n: usize, input: Input) {
        self.nodes[n].handle_input(input, self.now);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(n) = (0..2).find(|n| !self.nodes[*n].turn().is_empty()) {
            let turn = self.nodes[n].take_turn();
            let outputs = turn.durable(|_| Ok::<(), ()>(()));
            for output in outputs.expect("memory keeps everything") {
                self.follow(n, output);
            }
        }
    }

    fn follow(&mut self, n: usize, output: Output) {
        let now = self.now;
        match output {
            Output::Dial { link, remote } if !self.closed => {
                self.links[0] = link;
                let local = SocketAddr::new(self.addresses[0].ip(), 40_000);
                let connected = Input::LinkConnected {
                    link,
                    local,
                    remote,
                };
                let accepted = Input::LinkAccepted {
                    link: self.links[1],
                    local: remote,
                    remote: local,
                };
                self.nodes[0].handle_input(connected, now);
                self.nodes[1].handle_input(accepted, now);
            }
            Output::Send { bytes, .. } => {
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
            Output::Program(table) => self.plane.tables[n] = table,
            Output::Probe(probe) => {
                if let Some(input) = self.plane.probe(n, &probe, self.addresses[n]) {
                    self.nodes[1 - n].handle_input(input, now);
                }
            }
            Output::Dial { .. } | Output::Correct(_) | Output::Reply { .. } => {}
        }
    }

    fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let due = self.nodes.iter().filter_map(Node::poll_timeout).min();
            let Some((at, _)) = due.filter(|(at, _)| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            for n in 0..2 {
                self.nodes[n].handle_timeout(self.now);
                self.settle();
            }
        }
    }

    /// The lane of a kind breaks at one end.
    fn break_lane(&mut self, n: usize, kind: Kind) {
        let event = LaneEvent::of(kind, Signal::Exhausted, self.addresses[1 - n]);
        let link = self.plane.neighbour(n).expect("a tunnel").link;
        self.input(n, Input::Tunnel(event.expect("it can break").on(link)));
    }

    /// What carries traffic at one end, and why.
    fn tunnel(&self, n: usize) -> (&'static str, String) {
        let tunnels = self.nodes[n].status(self.now).tunnels;
        (tunnels[0].name, tunnels[0].reason.to_string())
    }

    /// Both ends use this, for this reason, and frames arrive by it.
    fn assert_both(&self, kind: Kind, reason: &str) {
        assert!(!self.closed);
        for n in 0..2 {
            assert_eq!(self.tunnel(n), (kind.name(), reason.to_owned()), "end {n}");
            assert_eq!(self.plane.carry(n), Some(kind), "end {n}");
        }
    }
}

#[test]
fn a_kind_that_is_not_configured_is_not_announced() {
    let config = Config::new(MeshConfig::new(name(0), "host"));
    assert_eq!(Overlay::announced(&config.tunnels), ["sleeve"]);
    assert_eq!(Overlay::announced(BOTH), ["trial", "sleeve"]);
}

#[test]
fn a_kind_that_both_ends_announce_is_negotiated_and_preferred() {
    let pair = Pair::new([BOTH, BOTH]).connected();
    pair.assert_both(Kind::Trial, "preferred");
}

#[test]
fn a_kind_that_one_end_lacks_is_not_used() {
    for tunnels in [[BOTH, &BOTH[1..]], [&BOTH[1..], BOTH], [BOTH, &[]]] {
        let pair = Pair::new(tunnels).connected();
        let reason = ["only-common", "compatibility"][usize::from(tunnels[1].is_empty())];
        pair.assert_both(Kind::Sleeve, reason);
        assert_eq!(pair.plane.probes.get(&Kind::Trial), None);
    }
}

#[test]
fn a_kind_alone_carries_a_connection() {
    let pair = Pair::new([&BOTH[..1], BOTH]).connected();
    pair.assert_both(Kind::Trial, "only-common");
}

#[test]
fn what_was_not_heard_to_work_waits_behind_what_was() {
    let mut pair = Pair::new([BOTH, BOTH]);
    pair.plane.blocked.insert(Kind::Trial);
    let mut pair = pair.connected();
    pair.assert_both(Kind::Sleeve, "trial-not-established");
    pair.plane.blocked.clear();
    pair.run_for(HEARTBEAT);
    pair.assert_both(Kind::Trial, "preferred");
}

#[test]
fn silence_puts_it_on_hold_and_it_is_probed_for_ever_and_climbs_back() {
    let mut pair = Pair::new([BOTH, BOTH]).connected();
    for _ in 0..2 {
        pair.plane.blocked.insert(Kind::Trial);
        pair.run_for(HOLD);
        pair.assert_both(Kind::Sleeve, "trial-on-hold");
        let before = pair.plane.probes[&Kind::Trial];
        pair.run_for(Duration::from_secs(24 * 3600));
        let sent = pair.plane.probes[&Kind::Trial] - before;
        assert!((17_000..18_000).contains(&sent), "{sent} probes in a day");
        pair.assert_both(Kind::Sleeve, "trial-on-hold");
        pair.plane.blocked.clear();
        pair.run_for(HEARTBEAT);
        pair.assert_both(Kind::Trial, "preferred");
    }
}

#[test]
fn an_end_whose_lane_fails_falls_back_for_good_and_the_other_for_its_own_reason() {
    let mut pair = Pair::new([BOTH, BOTH]).connected();
    pair.break_lane(0, Kind::Trial);
    assert_eq!(pair.tunnel(0), ("sleeve", "trial-unusable".to_owned()));
    assert_eq!(pair.tunnel(1), ("trial", "preferred".to_owned()));
    assert_eq!(pair.plane.carry(0), Some(Kind::Sleeve));
    assert_eq!(pair.plane.carry(1), Some(Kind::Trial));
    pair.run_for(HOLD + HEARTBEAT);
    assert_eq!(pair.tunnel(0), ("sleeve", "trial-unusable".to_owned()));
    assert_eq!(pair.tunnel(1), ("sleeve", "trial-on-hold".to_owned()));
    pair.run_for(Duration::from_secs(3600));
    assert_eq!(pair.tunnel(0), ("sleeve", "trial-unusable".to_owned()));
    assert!(!pair.closed);
}

#[test]
fn a_kind_that_cannot_be_prepared_keeps_its_index_and_carries_nothing() {
    let pair = Pair::at([BOTH, BOTH], ["fd00::1", "fd00::2"]).connected();
    pair.assert_both(Kind::Sleeve, "trial-unusable");
    assert_eq!(pair.plane.probes.get(&Kind::Trial), None);
}

#[test]
fn a_preferred_kind_outlives_the_one_it_would_fall_back_to() {
    let mut pair = Pair::new([BOTH, BOTH]).connected();
    pair.break_lane(0, Kind::Sleeve);
    assert_eq!(pair.tunnel(0), ("trial", "preferred".to_owned()));
    assert!(!pair.closed);
    pair.plane.blocked.insert(Kind::Trial);
    pair.run_for(HOLD);
    assert!(pair.closed, "no tunnel is left");
}

#[test]
fn a_connection_whose_only_tunnel_is_on_hold_ends() {
    let mut pair = Pair::new([&BOTH[..1], &BOTH[..1]]).connected();
    pair.plane.blocked.insert(Kind::Trial);
    pair.run_for(HOLD - Duration::from_secs(15));
    assert!(!pair.closed);
    pair.run_for(Duration::from_secs(15));
    assert!(pair.closed);
}
