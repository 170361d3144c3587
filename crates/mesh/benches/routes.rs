//! What a change of one peer costs its neighbour until new routes are there, by size of the mesh:
//! decoding, merging, route calculation, choice of whom to dial.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on may panic")]

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mesh::{Mesh, MeshConfig};
use wire::handshake::{FLAG_PLAIN, Features, encode_header};
use wire::message::{Message, encode_frame};
use wire::topology::{ConnectionSummary, PeerSummary};
use wire::{LinkId, PeerName};

/// Most connections a peer has: the default limit, and what a table takes of a thousand peers.
const CONNECTIONS_MAX: usize = 199;
const ADJACENCIES_MAX: usize = 120_000;

const fn name(n: usize) -> PeerName {
    PeerName::from_u64(0x0200_0000_0000 + n as u64)
}

fn entry(n: usize, peers: usize, version: u64) -> PeerSummary {
    let count = CONNECTIONS_MAX.min(peers - 1).min(ADJACENCIES_MAX / peers);
    // Neighbours on both sides of a ring: a full mesh as long as there are few.
    let remotes = (1..=count).map(|k| {
        let step = if k % 2 == 0 {
            k / 2
        } else {
            peers - k.div_ceil(2)
        };
        1 + (n - 1 + step) % peers
    });
    PeerSummary {
        name: name(n),
        nickname: format!("host-{n}"),
        uid: n as u64,
        version,
        short_id: Some(u16::try_from(n).unwrap()),
        connections: remotes
            .map(|remote| ConnectionSummary {
                remote: name(remote),
                remote_address: format!("10.0.{}.{}:6783", remote / 250, remote % 250),
                outbound: true,
                established: remote != version as usize % 7,
            })
            .collect(),
    }
}

struct Bench {
    mesh: Mesh,
    link: LinkId,
    now: Instant,
}

impl Bench {
    #[expect(clippy::disallowed_methods, reason = "base of virtual time")]
    fn new(peers: usize) -> Self {
        let now = Instant::now();
        let config = MeshConfig {
            discovery: false,
            ..MeshConfig::new(name(9999), "us")
        };
        let (mesh, link) = (Mesh::new(config, [1; 32], now), LinkId::inbound(1));
        let mut bench = Self { mesh, link, now };
        let (local, remote) = ("10.1.0.1:6783", "10.0.0.1:50000");
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        bench.mesh.handle_link_accepted(link, local, remote, now);
        let features = Features {
            name: name(1),
            nickname: "host-1".to_owned(),
            uid: 1,
            conn_id: 1,
            short_id: None,
            trusted: false,
            overlays: Some(vec!["sleeve".to_owned()]),
            public_key: None,
            weft: None,
        };
        let mut bytes = encode_header(1, 2).to_vec();
        bytes.push(FLAG_PLAIN);
        bytes.extend(encode_frame(&features.encode_v2()).unwrap());
        bench.feed(&bytes);
        let all: Vec<_> = (1..=peers).map(|n| entry(n, peers, 1)).collect();
        for some in all.chunks(100) {
            bench.gossip(some);
        }
        bench
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.mesh.handle_link_bytes(self.link, bytes, self.now);
        while self.mesh.poll_output().is_some() {}
        self.mesh.handle_link_flushed(self.link, self.now);
    }

    fn gossip(&mut self, entries: &[PeerSummary]) {
        let message = Message::GossipNeighbour {
            channel: "topology".to_owned(),
            sender: name(1),
            payload: wire::topology::encode(entries),
        };
        self.feed(&encode_frame(&message.encode()).unwrap());
    }

    fn calculate(&mut self) {
        self.now += Duration::from_millis(100);
        self.mesh.handle_timeout(self.now);
        while self.mesh.poll_output().is_some() {}
    }
}

fn routes(c: &mut Criterion) {
    let mut group = c.benchmark_group("change of one peer to new routes");
    for peers in [50, 100, 200, 500, 1000] {
        let mut bench = Bench::new(peers);
        bench.calculate();
        assert!(bench.mesh.peers().count() >= peers);
        let mut version = 1;
        group.bench_function(BenchmarkId::from_parameter(peers), |b| {
            b.iter(|| {
                version += 1;
                bench.gossip(&[entry(peers / 2, peers, version)]);
                bench.calculate();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, routes);
criterion_main!(benches);
