//! What it costs whoever drives a node to show it to readers, in a mesh of a thousand peers that have
//! 120 connections each: 199 of our own, 800 addresses that cannot be reached, a ring of 2,000 entries.
//!
//! "Published" is what the driver does: it makes the view and lets go of the one before, which who
//! reads still holds. What the reader makes of it is measured beside it.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on may panic")]

use std::convert::Infallible;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ipam::{Init, Ipam, IpamConfig};
use mesh::{DirectPeer, MeshConfig};
use node::{Command, Config, Connect, Input, Node, Output, RequestId};
use wire::handshake::{FLAG_PLAIN, Features, encode_header};
use wire::ipam::{Entry, GossipState, Ring, encode_state};
use wire::message::{Message, encode_frame};
use wire::topology::{ConnectionSummary, PeerSummary};
use wire::{LinkId, PeerName};

const PEERS: usize = 1000;
/// Connections of each peer: what a table takes of a thousand.
const DEGREE: usize = 120;
/// Our own: the default limit, one left for the bench.
const NEIGHBOURS: usize = 199;
const UNREACHABLE: usize = 800;
const RING_ENTRIES: usize = 2000;

const fn name(n: usize) -> PeerName {
    PeerName::from_u64(0x0200_0000_0000 + n as u64)
}

fn address(n: usize) -> SocketAddr {
    let [_, _, high, low] = u32::try_from(n).unwrap().to_be_bytes();
    SocketAddr::from(([10, 1, high, low], 6783))
}

/// Neighbours on both sides of a ring.
fn entry(n: usize, version: u64) -> PeerSummary {
    let remotes = (1..=DEGREE / 2).flat_map(|step| [n + step, n + PEERS - step]);
    PeerSummary {
        name: name(n),
        nickname: format!("host-{n}"),
        uid: n as u64,
        version,
        short_id: Some(u16::try_from(n).unwrap()),
        connections: remotes
            .map(|remote| 1 + (remote - 1) % PEERS)
            .map(|remote| ConnectionSummary {
                remote: name(remote),
                remote_address: address(remote).to_string(),
                outbound: true,
                established: remote != version as usize % 7,
            })
            .collect(),
    }
}

struct Bench {
    node: Node,
    now: Instant,
    version: u64,
}

impl Bench {
    #[expect(clippy::disallowed_methods, reason = "base of virtual time")]
    fn new() -> Self {
        let (us, now) = (name(9999), Instant::now());
        let mut mesh = MeshConfig::new(us, "us");
        mesh.discovery = false;
        let universe = "10.32.0.0/12".parse().unwrap();
        let ipam = IpamConfig {
            name: us,
            nickname: "us".to_owned(),
            uid: 1,
            universe,
            default_subnet: universe,
            init: Init::Observer,
            reclaim_after: None,
        };
        let mut config = Config::new(mesh);
        config.ipam = Some(Ipam::new(ipam, Vec::new(), [1; 32], now).unwrap());
        let mut bench = Self {
            node: Node::new(config, [1; 32], now),
            now,
            version: 0,
        };
        for n in 1..=NEIGHBOURS {
            bench.introduce(n);
        }
        bench.change_all();
        bench.later(Duration::from_millis(200));
        bench.divide();
        bench.dial_in_vain();
        let status = bench.node.status(bench.now);
        assert_eq!(status.mesh.peers.len(), PEERS + 1);
        assert_eq!(status.mesh.connections.len(), NEIGHBOURS);
        assert_eq!(status.mesh.targets.len(), UNREACHABLE);
        assert_eq!(status.ipam.unwrap().entries.unwrap().len(), RING_ENTRIES);
        bench
    }

    fn input(&mut self, input: Input) -> Vec<LinkId> {
        self.node.handle_input(input, self.now);
        self.drain()
    }

    /// Forgets what the node says, but for whom it dials.
    fn drain(&mut self) -> Vec<LinkId> {
        let mut dialled = Vec::new();
        let turn = self.node.take_turn();
        for output in turn.durable(|_| Ok::<_, Infallible>(())).unwrap() {
            if let Output::Dial { link, .. } = output {
                dialled.push(link);
            }
        }
        dialled
    }

    fn later(&mut self, wait: Duration) -> Vec<LinkId> {
        self.now += wait;
        self.node.handle_timeout(self.now);
        self.drain()
    }

    fn bytes(&mut self, n: usize, bytes: Vec<u8>) {
        let link = LinkId::inbound(n as u64);
        self.input(Input::LinkBytes { link, bytes });
        self.input(Input::LinkFlushed { link });
    }

    /// Accepts a connection of a peer.
    fn introduce(&mut self, n: usize) {
        let (link, local) = (LinkId::inbound(n as u64), address(0));
        let remote = address(n);
        self.input(Input::LinkAccepted {
            link,
            local,
            remote,
        });
        let features = Features {
            name: name(n),
            nickname: format!("host-{n}"),
            uid: n as u64,
            conn_id: n as u64,
            short_id: None,
            trusted: false,
            overlays: Some(vec!["sleeve".to_owned()]),
            public_key: None,
            weft: None,
        };
        let mut bytes = encode_header(1, 2).to_vec();
        bytes.push(FLAG_PLAIN);
        bytes.extend(encode_frame(&features.encode_v2()).unwrap());
        self.bytes(n, bytes);
    }

    fn gossip(&mut self, channel: &str, payload: Vec<u8>) {
        let message = Message::GossipNeighbour {
            channel: channel.to_owned(),
            sender: name(1),
            payload,
        };
        self.bytes(1, encode_frame(&message.encode()).unwrap());
    }

    /// Each peer has something new to say of itself.
    fn change_all(&mut self) {
        self.version += 1;
        let all: Vec<_> = (1..=PEERS).map(|n| entry(n, self.version)).collect();
        for some in all.chunks(100) {
            self.gossip("topology", wire::topology::encode(some));
        }
    }

    /// One does.
    fn change_one(&mut self) {
        self.version += 1;
        let one = entry(PEERS / 2, self.version);
        self.gossip("topology", wire::topology::encode(&[one]));
    }

    fn divide(&mut self) {
        let (start, end) = (0x0a20_0000_u32, 0x0a30_0000_u32);
        let size = (end - start) / RING_ENTRIES as u32;
        let entries = (0..RING_ENTRIES).map(|n| Entry {
            token: start + n as u32 * size,
            peer: name(1 + n % PEERS),
            version: 1,
            free: 0,
        });
        let state = GossipState {
            now: 0,
            nicknames: (1..=PEERS)
                .map(|n| (name(n), format!("host-{n}")))
                .collect(),
            paxos: None,
            ring: Some(Ring {
                start,
                end,
                peer: name(1),
                entries: entries.collect(),
                seeds: vec![name(1)],
            }),
        };
        self.gossip(ipam::CHANNEL, encode_state(&state));
    }

    fn dial_in_vain(&mut self) {
        let peers = (0..UNREACHABLE).map(|n| DirectPeer {
            text: format!("nowhere-{n}"),
            ip: IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 + n as u32)),
            port: None,
        });
        let command = Command::Connect(Connect {
            peers: peers.collect(),
            replace: true,
        });
        let id = RequestId(1);
        let mut dialled = self.input(Input::Command { id, command });
        while !dialled.is_empty() {
            let mut more = Vec::new();
            for link in dialled {
                let error = "connect: no route to host".to_owned();
                more.extend(self.input(Input::DialFailed { link, error }));
            }
            more.extend(self.later(Duration::from_millis(20)));
            dialled = more;
        }
    }
}

fn status(c: &mut Criterion) {
    let mut bench = Bench::new();
    let mut group = c.benchmark_group("status of 1000 peers");
    let mut published = Arc::new(bench.node.snapshot());
    group.bench_function("published", |b| {
        b.iter(|| published = Arc::new(bench.node.snapshot()));
    });
    group.sample_size(10);
    group.bench_function("published after every peer changed", |b| {
        b.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                bench.change_all();
                // As long as a reader waits, it keeps the one before.
                let _stale = Arc::clone(&published);
                spent += timed(|| published = Arc::new(bench.node.snapshot()));
            }
            spent
        });
    });
    group.bench_function("made of it by the reader", |b| {
        b.iter_batched(
            || (),
            |()| black_box(published.status(bench.now)),
            BatchSize::PerIteration,
        );
    });
    group.finish();
    let mut group = c.benchmark_group("change of one of 1000 peers");
    group.sample_size(20);
    group.bench_function("while nobody reads", |b| b.iter(|| bench.change_one()));
    group.bench_function("with a status between each", |b| {
        b.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                published = Arc::new(bench.node.snapshot());
                spent += timed(|| bench.change_one());
            }
            spent
        });
    });
    group.finish();
}

fn scrape(c: &mut Criterion) {
    let mut bench = Bench::new();
    let mut group = c.benchmark_group("scrape of 1000 peers");
    let mut published = Arc::new(bench.node.counts());
    group.bench_function("published", |b| {
        b.iter(|| published = Arc::new(bench.node.counts()));
    });
    group.bench_function("published after a change", |b| {
        b.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                bench.change_one();
                spent += timed(|| published = Arc::new(bench.node.counts()));
            }
            spent
        });
    });
    group.bench_function("ring counted by the reader", |b| {
        let ipam = published.ipam.as_ref().unwrap();
        b.iter(|| black_box((ipam.shares.unreachable(), ipam.shares.entries())));
    });
    group.finish();
}

#[expect(clippy::disallowed_methods, reason = "the clock of the bench")]
fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

criterion_group!(benches, status, scrape);
criterion_main!(benches);
