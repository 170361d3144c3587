//! What costs: topology of a large mesh, gossip messages, the frames of a datagram, checksums.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wire::PeerName;
use wire::ethernet::checksum;
use wire::message::Message;
use wire::sleeve::{FRAME_HEADER_BYTES, Frames, write_frame_header};
use wire::topology::{self, ConnectionSummary, PeerSummary};

const PEERS: u64 = 1000;
const CONNECTIONS: u64 = 30;

fn peers() -> Vec<PeerSummary> {
    let connection = |n| ConnectionSummary {
        remote: PeerName::from_u64(n),
        remote_address: format!("10.0.{}.{}:6783", n >> 8, n & 0xff),
        outbound: n & 1 == 0,
        established: true,
    };
    let peer = |n| PeerSummary {
        name: PeerName::from_u64(n),
        nickname: format!("host-{n}"),
        uid: 0x1234_5678_9abc_def0 + n,
        version: n,
        short_id: Some(7),
        connections: (n..n + CONNECTIONS).map(connection).collect(),
    };
    (0..PEERS).map(peer).collect()
}

fn topology_payload(criterion: &mut Criterion) {
    let peers = peers();
    let payload = topology::encode(&peers);
    let mut group = criterion.benchmark_group("topology of 1000 peers with 30 connections");
    group.throughput(Throughput::Bytes(payload.len() as u64));
    group.bench_function("encode", |b| b.iter(|| topology::encode(black_box(&peers))));
    group.bench_function("decode", |b| {
        b.iter(|| topology::decode(black_box(&payload)))
    });
    group.finish();
    let one = topology::encode(&peers[..1]);
    criterion.bench_function("topology of one peer/decode", |b| {
        b.iter(|| topology::decode(black_box(&one)));
    });
}

fn gossip_message(criterion: &mut Criterion) {
    let message = Message::GossipBroadcast {
        channel: "nameserver".to_owned(),
        source: PeerName::from_u64(7),
        payload: vec![1; 1000],
    };
    let bytes = message.encode();
    criterion.bench_function("message/encode", |b| {
        b.iter(|| black_box(&message).encode())
    });
    criterion.bench_function("message/decode", |b| {
        b.iter(|| Message::decode(black_box(&bytes)))
    });
}

fn datagram(criterion: &mut Criterion) {
    let mut header = [0; FRAME_HEADER_BYTES];
    write_frame_header(
        &mut header,
        PeerName::from_u64(1),
        PeerName::from_u64(2),
        66,
    );
    let body = [&header[..], &[0x55; 66]].concat().repeat(17);
    criterion.bench_function("datagram of 17 frames/split", |b| {
        b.iter(|| Frames::new(black_box(&body)).filter(Result::is_ok).count());
    });
    let mut group = criterion.benchmark_group("checksum");
    for bytes in [64, 1420, 65_000] {
        let data = vec![0xa5; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(bytes.to_string(), |b| b.iter(|| checksum(black_box(&data))));
    }
    group.finish();
}

criterion_group!(benches, topology_payload, gossip_message, datagram);
criterion_main!(benches);
