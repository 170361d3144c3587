//! Sealing and opening in place by either cipher: a full-size datagram (1420 bytes) and a small one (64).

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use nacl::{DirectionKey, GcmKeys, SessionKey, TAG_BYTES};

const PAYLOAD_BYTES: [usize; 2] = [64, 1420];

fn secretbox(criterion: &mut Criterion) {
    let key = DirectionKey::new(&SessionKey::from_bytes([7; 32]), [0x80; 16]);
    measure(
        criterion,
        "secretbox",
        |counter, buf| key.seal_in_place(counter, buf),
        |buf| key.open_in_place(0, buf).is_ok(),
    );
}

fn gcm(criterion: &mut Criterion) {
    let key = GcmKeys::new(&SessionKey::from_bytes([7; 32]), true);
    measure(
        criterion,
        "gcm",
        |counter, buf| key.seal_in_place(counter, buf),
        |buf| key.open_in_place(0, buf).is_ok(),
    );
}

fn measure(
    criterion: &mut Criterion,
    name: &str,
    seal: impl Fn(u64, &mut [u8]),
    open: impl Fn(&mut [u8]) -> bool,
) {
    for bytes in PAYLOAD_BYTES {
        let mut group = criterion.benchmark_group(format!("{name}/{bytes}"));
        group.throughput(Throughput::Bytes(bytes as u64));
        let mut buf = vec![1; TAG_BYTES + bytes];
        let mut counter = 0;
        group.bench_function("seal", |bencher| {
            bencher.iter(|| {
                counter += 1;
                seal(counter, black_box(&mut buf));
            });
        });
        let mut sealed = vec![1; TAG_BYTES + bytes];
        seal(0, &mut sealed);
        group.bench_function("open", |bencher| {
            bencher.iter_batched_ref(
                || sealed.clone(),
                |sealed| open(black_box(sealed)),
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, secretbox, gcm);
criterion_main!(benches);
