//! Inputs in any order about anything: links that are unknown, closed or not open yet, tunnels that
//! never were, bytes that mean nothing. Nothing of it is a panic, and what comes out is bounded.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mesh::{DirectPeer, MeshConfig, Password};
use node::{Command, Config, Connect, Forget, Input, Node, Output, RequestId};
use overlay::kind::TunnelEvent;
use overlay::sleeve::lane::{SleeveEvent, SpecialKind};
use wire::{LinkId, PeerName};

/// Outputs one input may cause here, with few links.
const OUTPUTS_MAX: usize = 64;
/// Openings of what strangers say.
const OPENINGS: [&[u8]; 6] = [
    b"",
    b"weave",
    b"weave\x01\x02",
    b"weave\x01\x02\x00",
    b"weave\x01\x02\x01",
    b"weave\x01\x01",
];

#[expect(clippy::disallowed_methods, reason = "base of virtual time")]
fn base() -> Instant {
    Instant::now()
}

fn node(n: u8, password: &str, now: Instant) -> Node {
    let name = PeerName::from_u64(0x0200_0000_0000 + u64::from(n));
    let mut mesh = MeshConfig::new(name, format!("host-{n}"));
    mesh.password = Password::new(password);
    Node::new(Config::new(mesh), [n; 32], now)
}

/// Small and predictable.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(11);
        self.0 >> 29
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn bytes(&mut self, max: u64) -> Vec<u8> {
        (0..self.below(max)).map(|_| self.next() as u8).collect()
    }

    fn address(&mut self) -> SocketAddr {
        let n = self.below(4) as u8;
        SocketAddr::from(([10, 0, 0, n], [0, 6783, 40_000][self.below(3) as usize]))
    }

    /// Any link: accepted, dialled, closed or never heard of.
    fn link(&mut self, accepted: u64) -> LinkId {
        match self.below(4) {
            0 => LinkId::outbound(self.below(12)),
            1 => LinkId::inbound(accepted + self.below(3)),
            _ => LinkId::inbound(self.below(accepted + 1)),
        }
    }

    fn tunnel_event(&mut self) -> TunnelEvent {
        let link = LinkId::outbound([self.below(8), self.next() >> 1][self.below(2) as usize]);
        let kind = match self.below(5) {
            0 => return SleeveEvent::CounterExhausted.on(link),
            1 => {
                let path_mtu_bytes = self.below(70_000) as usize;
                return SleeveEvent::TooBig { path_mtu_bytes }.on(link);
            }
            2 => SpecialKind::Heartbeat {
                connection_uid: self.next(),
            },
            3 => SpecialKind::FragmentationTest,
            _ => SpecialKind::MtuTest {
                frame_bytes: self.below(100_000) as usize,
            },
        };
        let from = self.address();
        SleeveEvent::Special { from, kind }.on(link)
    }

    fn input(&mut self, accepted: &mut u64) -> Input {
        match self.below(14) {
            0 => {
                *accepted += 1;
                let (link, local, remote) =
                    (LinkId::inbound(*accepted), self.address(), self.address());
                Input::LinkAccepted {
                    link,
                    local,
                    remote,
                }
            }
            1 => {
                let (link, local, remote) = (self.link(*accepted), self.address(), self.address());
                // The shell never reports an accepted link as dialled.
                let link = if link.is_outbound() {
                    link
                } else {
                    LinkId::outbound(99)
                };
                Input::LinkConnected {
                    link,
                    local,
                    remote,
                }
            }
            2 => Input::DialFailed {
                link: self.link(*accepted),
                error: "\u{1b}x".to_owned(),
            },
            3..7 => {
                let mut bytes = OPENINGS[self.below(6) as usize].to_vec();
                bytes.extend(self.bytes(200));
                Input::LinkBytes {
                    link: self.link(*accepted),
                    bytes,
                }
            }
            7 => Input::LinkFlushed {
                link: self.link(*accepted),
            },
            8 => Input::LinkClosed {
                link: self.link(*accepted),
                error: "EOF".to_owned(),
            },
            9 => Input::Command {
                id: RequestId(self.next()),
                command: Command::Forget(Forget { peers: Vec::new() }),
            },
            10 => {
                let address = self.address();
                let peer = DirectPeer {
                    text: address.to_string(),
                    ip: address.ip(),
                    port: Some(address.port()).filter(|port| *port != 0),
                };
                let command = Command::Connect(Connect {
                    peers: vec![peer],
                    replace: self.below(4) == 0,
                });
                Input::Command {
                    id: RequestId(self.next()),
                    command,
                }
            }
            _ => Input::Tunnel(self.tunnel_event()),
        }
    }
}

fn drain(node: &mut Node, outputs_max: usize) -> Vec<Output> {
    let kept = node.take_turn().durable(|_| Ok::<(), Infallible>(()));
    let outputs: Vec<Output> = kept.expect("nothing fails").into();
    assert!(outputs.len() <= outputs_max, "{} outputs", outputs.len());
    assert_eq!(node.excess(), None);
    outputs
}

#[test]
fn inputs_in_any_order_about_anything_are_survived() {
    for seed in 0..60 {
        let mut draw = Draw(seed);
        let mut now = base();
        let mut node = node(1, if seed % 2 == 0 { "" } else { "secret" }, now);
        let mut accepted = 0;
        for _ in 0..400 {
            if draw.below(8) == 0 {
                now += Duration::from_millis(draw.below(20_000));
                node.handle_timeout(now);
            } else {
                let input = draw.input(&mut accepted);
                node.handle_input(input, now);
            }
            drain(&mut node, OUTPUTS_MAX + 4);
        }
        for link in 0..=accepted {
            let error = "EOF".to_owned();
            node.handle_input(
                Input::LinkClosed {
                    link: LinkId::inbound(link),
                    error,
                },
                now,
            );
            drain(&mut node, OUTPUTS_MAX);
        }
        let status = node.status(now);
        assert!(status.mesh.connections.is_empty() && status.tunnels.is_empty());
    }
}

/// Two nodes and what is under way between them.
struct Pair {
    nodes: [Node; 2],
    far_ends: BTreeMap<(usize, LinkId), LinkId>,
    under_way: Vec<(usize, Input)>,
    accepted: u64,
}

impl Pair {
    fn new(password: &str, now: Instant) -> Self {
        let peer = DirectPeer {
            text: "b".to_owned(),
            ip: [10, 0, 0, 2].into(),
            port: None,
        };
        let peers = vec![peer];
        let command = Command::Connect(Connect {
            peers,
            replace: false,
        });
        let id = RequestId(1);
        Self {
            nodes: [node(1, password, now), node(2, password, now)],
            far_ends: BTreeMap::new(),
            under_way: vec![(0, Input::Command { id, command })],
            accepted: 0,
        }
    }

    /// What happens next, perhaps not in order and not as it was sent.
    fn next(&mut self, draw: &mut Draw, is_hostile: bool) -> Option<(usize, Input)> {
        let count = self.under_way.len();
        if count == 0 {
            return None;
        }
        let is_early = is_hostile && draw.below(12) == 0;
        let at = if is_early {
            draw.below(count as u64) as usize
        } else {
            0
        };
        let (n, mut input) = self.under_way.remove(at);
        if let Input::LinkBytes { link, bytes } = &mut input
            && is_hostile
            && draw.below(6) == 0
        {
            let at = draw.below(bytes.len() as u64) as usize;
            match draw.below(3) {
                0 => bytes[at] ^= 1 << draw.below(8),
                1 => bytes.truncate(at),
                _ => {
                    let (link, bytes) = (*link, bytes.clone());
                    self.under_way.push((n, Input::LinkBytes { link, bytes }));
                }
            }
        }
        Some((n, input))
    }

    fn carry_all(&mut self) {
        for n in [0, 1] {
            for output in drain(&mut self.nodes[n], OUTPUTS_MAX) {
                self.carry(n, output);
            }
        }
    }

    fn carry(&mut self, n: usize, output: Output) {
        match output {
            Output::Dial { link, remote } => self.dial(n, link, remote),
            Output::Send { link, bytes } => {
                if let Some(far) = self.far_ends.get(&(n, link)) {
                    let input = Input::LinkBytes { link: *far, bytes };
                    self.under_way.push((1 - n, input));
                }
                self.under_way.push((n, Input::LinkFlushed { link }));
            }
            Output::Close { link } => {
                if let Some(far) = self.far_ends.get(&(n, link)) {
                    let (link, error) = (*far, "EOF".to_owned());
                    self.under_way
                        .push((1 - n, Input::LinkClosed { link, error }));
                }
            }
            Output::Program(_) | Output::Correct(_) | Output::Probe(_) | Output::Reply { .. } => {}
        }
    }

    fn dial(&mut self, n: usize, link: LinkId, remote: SocketAddr) {
        if remote.ip() != IpAddr::from([10, 0, 0, 2 - n as u8]) {
            let error = "refused".to_owned();
            return self.under_way.push((n, Input::DialFailed { link, error }));
        }
        self.accepted += 1;
        let theirs = LinkId::inbound(self.accepted);
        let near = SocketAddr::from(([10, 0, 0, 1 + n as u8], 40_000));
        self.far_ends.insert((n, link), theirs);
        self.far_ends.insert((1 - n, theirs), link);
        let accepted = Input::LinkAccepted {
            link: theirs,
            local: remote,
            remote: near,
        };
        self.under_way.push((1 - n, accepted));
        let connected = Input::LinkConnected {
            link,
            local: near,
            remote,
        };
        self.under_way.push((n, connected));
    }

    fn is_connected(&self, now: Instant) -> bool {
        let mut nodes = self.nodes.iter();
        nodes.all(|node| node.status(now).mesh.connections.len() == 1)
    }
}

/// Two nodes that want to connect; what they say arrives cut, doubled, changed, late and after the
/// end, and the data plane tells lies.
#[test]
fn a_conversation_in_disorder_is_survived_and_the_next_one_works() {
    for seed in 0..60 {
        let mut draw = Draw(seed + 1000);
        let mut now = base();
        let mut pair = Pair::new(if seed % 2 == 0 { "" } else { "secret" }, now);
        let mut is_connected = false;
        for step in 0..3000 {
            let is_hostile = step < 1500;
            match pair.next(&mut draw, is_hostile) {
                Some((n, input)) => {
                    pair.nodes[n].handle_input(input, now);
                    if is_hostile && draw.below(10) == 0 {
                        pair.nodes[n].handle_input(Input::Tunnel(draw.tunnel_event()), now);
                    }
                }
                None => {
                    now += Duration::from_millis(300);
                    let nodes = pair.nodes.iter_mut();
                    nodes.for_each(|node| node.handle_timeout(now));
                }
            }
            pair.carry_all();
            is_connected = !is_hostile && pair.is_connected(now);
            if is_connected {
                break;
            }
        }
        assert!(is_connected, "seed {seed}: they connect in the end");
    }
}
