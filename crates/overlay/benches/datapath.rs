//! The data plane without its system calls: what one TCP super-frame of 44 segments costs where it
//! is captured, relayed and received, in clear and encrypted. Each step's time includes a copy of
//! its output, which stands for the kernel's.

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use overlay::protection::Protection;
use support::{Buffers, Host, name, super_frame};
use wire::ethernet::MacAddr;

const SEGMENTS: usize = 44;
const SEGMENT_BYTES: usize = 1362;

/// Sends the frame along the line `iterations` times; the time each host took.
fn rounds(hosts: &mut [Host; 3], iterations: u64) -> [Duration; 3] {
    let mut frames = vec![super_frame(SEGMENTS, SEGMENT_BYTES)];
    let mut buffers = [0; 3].map(|_| Buffers::new(false));
    let mut times = [Duration::ZERO; 3];
    let [one, two, three] = hosts;
    for _ in 0..iterations {
        let [a, b, c] = &mut buffers;
        let (start, frames) = (now(), black_box(&mut frames));
        one.capture(frames, a);
        let captured = now();
        two.receive(a, b);
        let relayed = now();
        three.receive(b, c);
        times[0] += captured - start;
        times[1] += relayed - captured;
        times[2] += relayed.elapsed();
    }
    assert_eq!(buffers[2].injected_frames as u64, iterations);
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
        let far = MacAddr([2, 0, 0, 0, 0, 3]);
        for host in [0, 2] {
            let mut macs = hosts[host].macs.write().expect("nobody panics");
            macs.learn(far, name(3), 0);
        }
        let mut group = criterion.benchmark_group(format!("super-frame/{kind}"));
        group.throughput(Throughput::Elements(SEGMENTS as u64));
        for (step, what) in ["capture", "relay", "receive"].into_iter().enumerate() {
            group.bench_function(what, |bencher| {
                bencher.iter_custom(|iterations| rounds(&mut hosts, iterations)[step]);
            });
        }
        group.finish();
    }
}

criterion_group!(benches, super_frames);
criterion_main!(benches);
