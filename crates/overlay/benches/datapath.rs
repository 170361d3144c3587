//! The data plane without its system calls: what one TCP super-frame of 44 segments costs where it
//! is captured, relayed and received, in clear and encrypted, and by another framing; and what a small
//! frame costs of which none goes where the last one went, among ten peers and among a thousand. Each
//! step's time includes a copy of its output, which stands for the kernel's.

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use overlay::frame::egress::Outlet;
use overlay::frame::framing::Framing;
use overlay::frame::path::Limits;
use overlay::frame::segment::VnetHeader;
use overlay::protection::Protection;
use support::{BEHIND_MAX, Buffers, Host, ip_frame, name, super_frame};
use wire::ethernet::MacAddr;

const SEGMENTS: usize = 44;
const SEGMENT_BYTES: usize = 1362;

/// Small frames of one round of scattered traffic.
const SCATTERED: usize = 64;

/// Sends frames along the line `iterations` times; the time each host took.
fn rounds<F: Framing>(
    hosts: &mut [Host<F>; 3],
    frames: &mut [(VnetHeader, Vec<u8>)],
    iterations: u64,
) -> [Duration; 3]
where
    Buffers: Outlet<F>,
{
    let mut buffers = [0; 3].map(|_| Buffers::new(false));
    let mut times = [Duration::ZERO; 3];
    let [one, two, three] = hosts;
    for _ in 0..iterations {
        let [a, b, c] = &mut buffers;
        let (start, frames) = (now(), black_box(&mut *frames));
        one.capture(frames, a);
        let captured = now();
        two.receive(a, b);
        let relayed = now();
        three.receive(b, c);
        times[0] += captured - start;
        times[1] += relayed - captured;
        times[2] += relayed.elapsed();
        c.clear();
    }
    assert!(buffers[2].injected_frames as u64 >= iterations);
    times
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn now() -> Instant {
    Instant::now()
}

fn super_frames(criterion: &mut Criterion) {
    for kind in ["plain", "encrypted"] {
        let mut hosts = [1, 2, 3].map(|n| {
            Host::new(n, |_, lane| {
                if kind == "plain" {
                    lane.protection = Protection::Clear;
                }
            })
        });
        bench_super_frame(criterion, kind, &mut hosts);
    }
    let limits = Limits {
        mtu_bytes: 1388,
        may_be_fragmented: true,
    };
    let mut hosts = [1, 2, 3].map(|n| Host::wireguard(n, limits));
    bench_super_frame(criterion, "wireguard", &mut hosts);
}

fn bench_super_frame<F: Framing>(criterion: &mut Criterion, kind: &str, hosts: &mut [Host<F>; 3])
where
    Buffers: Outlet<F>,
{
    learn(hosts, 3, 3);
    // All kinds carry what the smallest tunnel takes.
    let segment_bytes = if kind == "wireguard" {
        1348
    } else {
        SEGMENT_BYTES
    };
    let mut frames = [super_frame(SEGMENTS, segment_bytes)];
    bench_line(
        criterion,
        &format!("super-frame/{kind}"),
        SEGMENTS,
        hosts,
        &mut frames,
    );
}

/// Tells all hosts that address `n` is at a peer.
fn learn<F: Framing>(hosts: &[Host<F>; 3], n: u8, at: u64) {
    for host in hosts {
        let mut macs = host.macs.write().expect("nobody panics");
        macs.learn(MacAddr([2, 0, 0, 0, 0, n]), name(at), 0);
    }
}

fn bench_line<F: Framing>(
    criterion: &mut Criterion,
    name: &str,
    elements: usize,
    hosts: &mut [Host<F>; 3],
    frames: &mut [(VnetHeader, Vec<u8>)],
) where
    Buffers: Outlet<F>,
{
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(elements as u64));
    for (step, what) in ["capture", "relay", "receive"].into_iter().enumerate() {
        group.bench_function(what, |bencher| {
            bencher.iter_custom(|iterations| rounds(hosts, frames, iterations)[step]);
        });
    }
    group.finish();
}

/// Frames to the last host of the line and to peers behind it, in turn.
fn scattered(criterion: &mut Criterion) {
    for peers in [10, 1000] {
        let mut hosts = [1, 2, 3].map(|n| Host::among(peers, n, |_, _| ()));
        let ends = 3..=BEHIND_MAX;
        for end in ends.clone() {
            learn(&hosts, end as u8, end);
        }
        let mut frames: Vec<_> = ends
            .cycle()
            .take(SCATTERED)
            .map(|end| {
                let mut frame = ip_frame(60, true);
                frame[5] = end as u8;
                (VnetHeader::default(), frame)
            })
            .collect();
        let name = format!("scattered/{peers}-peers");
        bench_line(criterion, &name, SCATTERED, &mut hosts, &mut frames);
    }
}

criterion_group!(benches, super_frames, scattered);
criterion_main!(benches);
