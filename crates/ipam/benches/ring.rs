//! What a ring received costs by its number of tokens: nothing new in it, as almost always; one
//! entry changed; all of it new, as at a peer that joins.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on may panic")]

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipam::address::Range;
use ipam::ring::{Entry, Ring};
use wire::PeerName;

const UNIVERSE: Range = Range::new(0x0a20_0000, 0x0a30_0000);
/// Peers among which the entries are spread; we are the first.
const PEERS: u32 = 50;

fn name(peer: u32) -> PeerName {
    PeerName::from_u64(1 + u64::from(peer))
}

fn ring(tokens: u32) -> Ring {
    let length = UNIVERSE.size() / tokens;
    let entry = |n| Entry {
        token: UNIVERSE.start + n * length,
        peer: name(n % PEERS),
        version: n,
        free: length / 2,
    };
    let entries = (0..tokens).map(entry).collect();
    Ring::restore(UNIVERSE, name(0), entries, vec![name(0)]).unwrap()
}

fn merge(c: &mut Criterion) {
    let mut group = c.benchmark_group("merge");
    for tokens in [10, 100, 1_000, 10_000] {
        group.throughput(Throughput::Elements(u64::from(tokens)));
        let ours = ring(tokens);
        let same = ours.to_wire();
        let mut newer = ours.to_wire();
        let last = newer.entries.last_mut().unwrap();
        last.version += 1;
        let id = |what| BenchmarkId::new(what, tokens);
        group.bench_function(id("nothing_new"), |b| {
            let mut ring = ours.clone();
            b.iter(|| ring.merge(&same, |_| true).unwrap());
        });
        group.bench_function(id("one_changed"), |b| {
            b.iter_batched_ref(
                || ours.clone(),
                |ring| ring.merge(&newer, |_| true).unwrap(),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(id("all_new"), |b| {
            b.iter_batched_ref(
                || Ring::new(UNIVERSE, name(0)),
                |ring| ring.merge(&same, |_| true).unwrap(),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, merge);
criterion_main!(benches);
