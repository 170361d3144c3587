//! What giving out an address costs, in subnets of three sizes: while they are empty, when only the
//! last address is left, and when every other one is in use.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ipam::address::Range;
use ipam::space::Space;

const START: u32 = 0x0a20_0000;
const PREFIX_LENGTHS: [u32; 3] = [20, 16, 12];

fn subnet(prefix_len: u32) -> (Range, Range) {
    let range = Range {
        start: START,
        end: START + (1 << (32 - prefix_len)),
    };
    let hosts = Range {
        start: range.start + 1,
        end: range.end - 1,
    };
    (range, hosts)
}

/// A subnet of which all addresses but one are in use, in one piece.
fn full(prefix_len: u32) -> (Space, Range) {
    let (range, hosts) = subnet(prefix_len);
    let mut space = Space::new();
    space.own(range);
    for _ in 1..hosts.end - hosts.start {
        space.allocate(hosts);
    }
    (space, hosts)
}

/// A subnet of which every other address is in use.
fn scattered(prefix_len: u32) -> (Space, Range) {
    let (range, hosts) = subnet(prefix_len);
    let mut space = Space::new();
    space.own(range);
    for address in (hosts.start..hosts.end).step_by(2) {
        space.claim(address);
    }
    (space, hosts)
}

fn allocation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("give out and take back");
    for prefix_len in PREFIX_LENGTHS {
        let (range, hosts) = subnet(prefix_len);
        let mut empty = Space::new();
        empty.own(range);
        let cases = [
            ("empty", (empty, hosts)),
            ("all but one in use", full(prefix_len)),
            ("every other in use", scattered(prefix_len)),
        ];
        for (name, (mut space, hosts)) in cases {
            group.bench_function(BenchmarkId::new(name, format!("/{prefix_len}")), |b| {
                b.iter(|| {
                    let address = space.allocate(black_box(hosts));
                    space.free(address.expect("one is left"));
                });
            });
        }
    }
    group.finish();
}

fn books(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("count what is free");
    for prefix_len in PREFIX_LENGTHS {
        let (range, _) = subnet(prefix_len);
        for (name, (space, _)) in [
            ("all but one in use", full(prefix_len)),
            ("every other in use", scattered(prefix_len)),
        ] {
            group.bench_function(BenchmarkId::new(name, format!("/{prefix_len}")), |b| {
                b.iter(|| space.free_in(black_box(range)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, allocation, books);
criterion_main!(benches);
