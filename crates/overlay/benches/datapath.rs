//! The data plane without its system calls: what one TCP super-frame of 44 segments costs where it
//! is captured, relayed and received, in clear and encrypted. Each step's time includes a copy of
//! its output, which stands for the kernel's.

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use overlay::segment::{NEEDS_CHECKSUM, VnetHeader};
use support::{Buffers, Host, name};
use wire::ethernet::MacAddr;

const SEGMENTS: usize = 44;
const SEGMENT_BYTES: usize = 1362;

/// A TCP super-frame with DF to address 3; checksums are left to the cutter.
fn super_frame() -> (VnetHeader, Vec<u8>) {
    let payload = SEGMENTS * SEGMENT_BYTES;
    let mut frame = vec![2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    frame.extend(
        u16::try_from(40 + payload)
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    );
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 32, 0, 1, 10, 32, 0, 3]);
    frame.extend([
        0x10, 0, 0x20, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 9, 9, 0, 0, 0, 0,
    ]);
    frame.resize(54 + payload, 0x5a);
    let header = VnetHeader {
        flags: NEEDS_CHECKSUM,
        gso_type: 1,
        header_bytes: 54,
        segment_bytes: SEGMENT_BYTES as u16,
        checksum_start: 34,
        checksum_offset: 16,
    };
    (header, frame)
}

/// Sends the frame along the line `iterations` times; the time each host took.
fn rounds(hosts: &mut [Host; 3], iterations: u64) -> [Duration; 3] {
    let mut frames = vec![super_frame()];
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
            Host::new(n, |tunnel| {
                if kind == "plain" {
                    tunnel.key = None;
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
