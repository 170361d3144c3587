//! Tests of sealing and opening datagrams.

use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Barrier};

use nacl::SessionKey;
use proptest::prelude::*;
use wire::LinkId;
use wire::sleeve::Frames;

use super::*;
use crate::frame::plan::UdpPath;
use crate::frame::train::{FrameTooBig, Train};
use crate::testing::{sleeve_vectors, unhex, vectors};

const US: PeerName = PeerName::from_u64(0x0200_0000_0a01);
const REMOTE: PeerName = PeerName::from_u64(0x0200_0000_0b02);
const FRAMING: SleeveFraming = SleeveFraming { us: US };

const fn between(origin: PeerName, destination: PeerName) -> Envelope {
    Envelope {
        origin,
        destination,
    }
}

fn key(hex: &str) -> Arc<SessionKey> {
    Arc::new(SessionKey::from_bytes(unhex(hex).try_into().unwrap()))
}

fn lane(key: Option<Arc<SessionKey>>, outbound: bool) -> SleeveLane {
    SleeveLane {
        protection: key.map_or(Protection::Clear, |key| {
            Protection::Sealed(key, Cipher::default())
        }),
        outbound,
        remote_address: None,
        mtu_bytes: 1414,
        max_payload_bytes: 1472,
        exceeds_kernel_mtu: false,
        stack_frag: true,
    }
}

fn tunnel_of(lane: &SleeveLane) -> SleeveTunnel {
    SleeveTunnel::new(lane)
}

fn path(lane: &SleeveLane) -> UdpPath {
    UdpPath {
        link: LinkId::outbound(1),
        to: "192.0.2.2:6783".parse().unwrap(),
        max_payload_bytes: lane.max_payload_bytes,
        exceeds_kernel_mtu: lane.exceeds_kernel_mtu,
    }
}

fn name(value: &serde_json::Value) -> PeerName {
    PeerName::from_bytes(unhex(value.as_str().unwrap()).try_into().unwrap())
}

/// A train that serves a new tunnel of this lane.
fn train(lane: SleeveLane, is_df: bool) -> (Train<SleeveFraming>, Arc<SleeveTunnel>) {
    let tunnel = Arc::new(tunnel_of(&lane));
    let mut train = Train::new();
    train.begin(&FRAMING, &tunnel, path(&lane), is_df);
    (train, tunnel)
}

/// All datagrams of a train, and how many calls they took.
fn flush(train: &mut Train<SleeveFraming>) -> (Vec<Vec<u8>>, usize) {
    let mut datagrams = Vec::new();
    let mut calls = 0;
    assert!(train.flush(|_, _, bytes, size| {
        datagrams.extend(bytes.chunks(size).map(<[u8]>::to_vec));
        calls += 1;
    }));
    (datagrams, calls)
}

fn append(train: &mut Train<SleeveFraming>, frame: &[u8]) -> Result<(), FrameTooBig> {
    train.append(between(US, REMOTE), frame.len(), |out| {
        out.copy_from_slice(frame)
    })
}

/// Builds the datagram of a vector's frames.
fn build(train: &mut Train<SleeveFraming>, input: &serde_json::Value) -> Vec<u8> {
    for frame in input["frames"].as_array().unwrap() {
        let bytes = unhex(frame["frame"].as_str().unwrap());
        let (src, dst) = (name(&frame["src"]), name(&frame["dst"]));
        train
            .append(between(src, dst), bytes.len(), |out| {
                out.copy_from_slice(&bytes)
            })
            .unwrap();
    }
    let (datagrams, _) = flush(train);
    assert_eq!(datagrams.len(), 1);
    datagrams.concat()
}

#[test]
fn vectors_in_clear_are_built_and_read_as_the_original_does() {
    let vectors = sleeve_vectors("sleeve-plain");
    assert_eq!(vectors.len(), 5);
    for vector in vectors {
        let (mut train, tunnel) = train(lane(None, true), true);
        let mut datagram = build(&mut train, &vector["input"]);
        assert_eq!(
            datagram,
            unhex(vector["expect"].as_str().unwrap()),
            "{vector}"
        );
        assert_eq!(tunnel.open(&mut datagram), Ok(true));
        let frames = Frames::new(&datagram[tunnel.header_bytes()..]);
        let expected = vector["input"]["frames"].as_array().unwrap();
        assert_eq!(frames.count(), expected.len());
    }
}

/// F47: nonces are a prefix and a counter that starts anew.
#[test]
fn encrypted_vectors_are_built_and_opened_as_the_original_does() {
    let vectors = sleeve_vectors("sleeve-encrypted");
    assert_eq!(vectors.len(), 8);
    for vector in vectors {
        let input = &vector["input"];
        let key = key(input["session_key"].as_str().unwrap());
        let outbound = input["sender_outbound"].as_bool().unwrap();
        let is_df = input["df"].as_bool().unwrap();
        let sender = lane(Some(Arc::clone(&key)), outbound);
        let number = input["sequence"].as_u64().unwrap();
        let tunnel = Arc::new(tunnel_of(&sender).with_counters_at(number));
        let mut train = Train::new();
        train.begin(&FRAMING, &tunnel, path(&sender), is_df);
        let mut datagram = build(&mut train, input);
        assert_eq!(
            datagram,
            unhex(vector["expect"]["packet"].as_str().unwrap()),
            "{vector}"
        );
        let receiver = tunnel_of(&lane(Some(key), !outbound));
        assert_eq!(receiver.open(&mut datagram), Ok(true));
        let plaintext = unhex(vector["expect"]["plaintext"].as_str().unwrap());
        assert_eq!(datagram[receiver.header_bytes()..], plaintext);
    }
}

/// F42: a datagram counts once.
#[test]
fn replayed_packets_are_told_from_fresh_ones() {
    let text = include_str!("../../../testdata/sleeve_replay.json");
    let vector = vectors(text, "replay-packets").remove(0);
    let input = &vector["input"];
    let key = key(input["session_key"].as_str().unwrap());
    let receiver = tunnel_of(&lane(
        Some(key),
        input["receiver_outbound"].as_bool().unwrap(),
    ));
    let packets = input["packets"].as_array().unwrap();
    for (packet, expect) in packets.iter().zip(vector["expect"].as_array().unwrap()) {
        let mut packet = unhex(packet.as_str().unwrap());
        assert_eq!(
            receiver.open(&mut packet),
            Ok(expect == "delivered"),
            "{vector}"
        );
    }
}

/// F26: what was not sealed by the neighbour is dropped.
#[test]
fn tampered_short_and_foreign_datagrams_do_not_open() {
    let key = key(&"42".repeat(32));
    let (mut train, _) = train(lane(Some(Arc::clone(&key)), true), true);
    append(&mut train, &[7; 100]).unwrap();
    let (datagrams, _) = flush(&mut train);
    let receiver = tunnel_of(&lane(Some(key), false));
    for at in 6..datagrams[0].len() {
        let mut bad = datagrams[0].clone();
        bad[at] ^= 1;
        assert_eq!(receiver.open(&mut bad), Err(DatagramError::Undecryptable));
    }
    for len in 6..30 {
        assert!(
            receiver.open(&mut datagrams[0][..len].to_vec()).is_err(),
            "{len}"
        );
    }
    assert_eq!(receiver.open(&mut datagrams[0].clone()), Ok(true));
}

#[test]
fn small_frames_share_a_datagram_up_to_the_limits() {
    let (mut train, _) = train(lane(None, true), true);
    for _ in 0..250 {
        append(&mut train, &[1; 1]).unwrap();
    }
    let (datagrams, _) = flush(&mut train);
    let counts: Vec<_> = datagrams
        .iter()
        .map(|d| Frames::new(&d[6..]).count())
        .collect();
    assert_eq!(counts, [97, 97, 56]);
    assert!(datagrams.iter().all(|d| d.len() <= 1472));
}

#[test]
fn frame_beyond_the_limit_of_its_path_is_refused() {
    let (mut df, _) = train(lane(None, true), true);
    let limit = 1472 - 6 - 14;
    assert_eq!(append(&mut df, &vec![0; limit]), Ok(()));
    assert_eq!(
        append(&mut df, &vec![0; limit + 1]),
        Err(FrameTooBig { limit_bytes: 1472 })
    );
    let (mut non_df, _) = train(lane(None, true), false);
    assert_eq!(append(&mut non_df, &[0; 65_487]), Ok(()));
    assert_eq!(
        append(&mut non_df, &[0; 65_488]),
        Err(FrameTooBig {
            limit_bytes: 65_507
        })
    );
    assert!(!non_df.has_room(100));
    flush(&mut non_df);
    // Sharing is limited to the DF size on either path.
    let (mut non_df, _) = train(lane(None, true), false);
    append(&mut non_df, &[0; 1400]).unwrap();
    append(&mut non_df, &[0; 100]).unwrap();
    let (datagrams, _) = flush(&mut non_df);
    assert_eq!(datagrams.len(), 2);
}

#[test]
fn equal_datagrams_leave_in_one_call_and_a_shorter_one_ends_it() {
    let (mut train, _) = train(lane(None, true), true);
    for size in [1000, 1000, 1000, 900, 1000, 1200, 1200] {
        append(&mut train, &vec![0; size]).unwrap();
        train.close();
    }
    let (datagrams, calls) = flush(&mut train);
    assert_eq!(datagrams.len(), 7);
    assert_eq!(calls, 3);
}

#[test]
fn full_train_is_one_full_call() {
    let (mut train, _) = train(lane(None, true), true);
    let mut frames = 0;
    while train.has_room(1452) {
        append(&mut train, &[0; 1452]).unwrap();
        frames += 1;
    }
    assert_eq!(frames, 44);
    assert_eq!(flush(&mut train).1, 1);
}

/// F48: no number is used twice, not even at the end.
#[test]
fn numbers_end_before_the_space_does() {
    let lane = lane(Some(key(&"42".repeat(32))), true);
    let tunnel = Arc::new(tunnel_of(&lane).with_counters_at(COUNTER_MAX - 1));
    let mut train = Train::new();
    for expected in [1, 0] {
        train.begin(&FRAMING, &tunnel, path(&lane), true);
        for _ in 0..3 {
            append(&mut train, &[0; 60]).unwrap();
            train.close();
        }
        let mut sent = 0;
        let is_all = train.flush(|_, _, bytes, size| sent += bytes.chunks(size).count());
        assert_eq!((is_all, sent), (false, expected));
        assert!(train.is_idle());
    }
}

fn gcm_lane(key: &Arc<SessionKey>, outbound: bool) -> SleeveLane {
    SleeveLane {
        protection: Protection::Sealed(Arc::clone(key), Cipher::AesGcm),
        ..lane(Some(Arc::clone(key)), outbound)
    }
}

/// F28, F47: the vectors were made by another implementation of AES-GCM and HKDF (docs/sleeve-cipher.md).
#[test]
fn datagrams_between_wefts_are_built_and_opened_as_recorded() {
    let vectors: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../../../testdata/sleeve-aes-gcm.json")).unwrap();
    assert_eq!(vectors.len(), 5);
    for vector in vectors {
        let key = key(vector["key"].as_str().unwrap());
        let outbound = vector["dialler"].as_bool().unwrap();
        let is_df = vector["df"].as_bool().unwrap();
        let sender = gcm_lane(&key, outbound);
        let number = vector["number"].as_u64().unwrap();
        let tunnel = Arc::new(tunnel_of(&sender).with_counters_at(number));
        let mut train = Train::new();
        train.begin(&FRAMING, &tunnel, path(&sender), is_df);
        let frame = unhex(vector["frame"].as_str().unwrap());
        append(&mut train, &frame).unwrap();
        let (mut datagrams, _) = flush(&mut train);
        let expected = unhex(vector["datagram"].as_str().unwrap());
        assert_eq!(datagrams, [expected], "{vector}");
        let receiver = tunnel_of(&gcm_lane(&key, !outbound));
        if number >> 36 > 1 {
            // Nobody has heard of the keys in between.
            let refused = Err(DatagramError::Undecryptable);
            assert_eq!(receiver.open(&mut datagrams[0]), refused);
            continue;
        }
        assert_eq!(receiver.open(&mut datagrams[0]), Ok(true));
        let body = &datagrams[0][receiver.header_bytes()..];
        let frames: Vec<_> = Frames::new(body).map(|f| f.unwrap().frame).collect();
        assert_eq!(frames, [&frame[..]]);
    }
}

/// F26, F28, F45: also under the cipher between Wefts.
#[test]
fn datagrams_between_wefts_open_once_whole_and_in_their_direction() {
    let key = key(&"42".repeat(32));
    let (mut train, tunnel) = train(gcm_lane(&key, true), true);
    append(&mut train, &[7; 100]).unwrap();
    let (datagrams, _) = flush(&mut train);
    let fresh = || datagrams[0].clone();
    assert_eq!(
        tunnel.open(&mut fresh()),
        Err(DatagramError::Undecryptable),
        "its own, sent back"
    );
    let as_original = tunnel_of(&lane(Some(Arc::clone(&key)), false));
    assert_eq!(
        as_original.open(&mut fresh()),
        Err(DatagramError::Undecryptable)
    );
    let receiver = tunnel_of(&gcm_lane(&key, false));
    for at in 6..datagrams[0].len() {
        let mut bad = fresh();
        bad[at] ^= 1;
        assert_eq!(receiver.open(&mut bad), Err(DatagramError::Undecryptable));
    }
    for len in 6..30 {
        assert!(receiver.open(&mut fresh()[..len]).is_err(), "{len}");
    }
    assert_eq!(receiver.open(&mut fresh()), Ok(true));
    assert_eq!(receiver.open(&mut fresh()), Ok(false));
}

/// F48: a receiver follows its sender from key to key, and no stranger's claims.
#[test]
fn keys_follow_one_another_without_a_word() {
    let key = key(&"42".repeat(32));
    let receiver = tunnel_of(&gcm_lane(&key, false));
    for epoch in [0, 1, 2, 3, 1023] {
        let lane = gcm_lane(&key, true);
        let tunnel = Arc::new(tunnel_of(&lane).with_counters_at(epoch << 36));
        let mut train = Train::new();
        train.begin(&FRAMING, &tunnel, path(&lane), epoch % 2 == 0);
        append(&mut train, &[7; 100]).unwrap();
        let (mut datagrams, _) = flush(&mut train);
        let expected = match epoch {
            1023 => Err(DatagramError::Undecryptable),
            _ => Ok(true),
        };
        assert_eq!(receiver.open(&mut datagrams[0]), expected, "{epoch}");
    }
}

/// Takes numbers until each of two threads was often enough interrupted by the other, or so many are
/// taken that it must have been; the runs of consecutive numbers that it got.
fn take_numbers(tunnel: &SleeveTunnel, is_df: bool, mixed: &AtomicUsize) -> Vec<Range<u64>> {
    const RUNS: usize = 1000;
    const NUMBERS: u64 = 200_000_000;
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut is_mixed = false;
    for _ in 0..NUMBERS {
        let number = tunnel.next_number(is_df).unwrap();
        match runs.last_mut().filter(|run| run.end == number) {
            Some(run) => run.end += 1,
            None => runs.push(number..number + 1),
        }
        if !is_mixed && runs.len() == RUNS {
            is_mixed = true;
            mixed.fetch_add(1, Relaxed);
        }
        if is_mixed && mixed.load(Relaxed) == 2 {
            break;
        }
    }
    runs
}

/// F48: a load and a store in place of the one step would hand out many twice.
#[test]
fn numbers_of_two_threads_never_meet() {
    for is_df in [true, false] {
        let tunnel = tunnel_of(&lane(Some(key(&"42".repeat(32))), true));
        let (start, mixed) = (Barrier::new(2), AtomicUsize::new(0));
        let take = || {
            start.wait();
            take_numbers(&tunnel, is_df, &mixed)
        };
        let mut all = std::thread::scope(|scope| {
            let other = scope.spawn(take);
            let mut ours = take();
            ours.extend(other.join().unwrap());
            ours
        });
        all.sort_unstable_by_key(|run| run.start);
        let mut next = 0;
        for run in all {
            assert_eq!(run.start, next, "each number once");
            next = run.end;
        }
    }
}

/// F48, F49: keys change long before AES-GCM wears off, and end before the space does.
#[test]
fn numbers_under_aes_gcm_end_with_the_last_key() {
    let lane = gcm_lane(&key(&"42".repeat(32)), true);
    let tunnel = tunnel_of(&lane).with_counters_at(GcmKeys::NUMBERS - 1);
    for is_df in [true, false] {
        assert_eq!(tunnel.next_number(is_df), Some(GcmKeys::NUMBERS - 1));
        assert_eq!(tunnel.next_number(is_df), None);
    }
    let seconds_per_year = 365 * 24 * 3600;
    assert!(GcmKeys::NUMBERS / 1_500_000 / seconds_per_year >= 1);
    for number in [GcmKeys::NUMBERS, COUNTER_MAX, u64::MAX >> 1] {
        for field in [number, number | COUNTER_DF_BIT] {
            let mut datagram = [0; 100];
            datagram[6..14].copy_from_slice(&field.to_be_bytes());
            assert_eq!(
                tunnel.open(&mut datagram),
                Err(DatagramError::Undecryptable)
            );
        }
    }
}

/// F49: at 1.5 million datagrams per second.
#[test]
fn numbers_last_longer_than_any_session() {
    let seconds_per_year = 365 * 24 * 3600;
    let years = COUNTER_MAX / 1_500_000 / seconds_per_year;
    assert!(
        years > 190_000,
        "{years} years in each of two sequence spaces"
    );
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1400), 1..44),
        encrypted: bool,
        is_df: bool,
    ) {
        let key = encrypted.then(|| key(&"42".repeat(32)));
        let (mut train, _) = train(lane(key.clone(), true), is_df);
        let receiver = tunnel_of(&lane(key, false));
        for frame in &frames {
            append(&mut train, frame).unwrap();
        }
        let (datagrams, _) = flush(&mut train);
        let mut received = Vec::new();
        for mut datagram in datagrams {
            prop_assert!(datagram.len() <= 1472);
            prop_assert_eq!(receiver.open(&mut datagram), Ok(true));
            let body = &datagram[receiver.header_bytes()..];
            received.extend(Frames::new(body).map(|frame| frame.unwrap().frame.to_vec()));
        }
        prop_assert_eq!(received, frames);
    }

    #[test]
    fn train_with_room_takes_a_frame_of_any_size(
        sizes in prop::collection::vec(prop_oneof![0_usize..1500, 60_000_usize..=65_487], 1..40),
        is_df: bool,
    ) {
        let lane = SleeveLane { max_payload_bytes: 65_507, ..lane(None, true) };
        let tunnel = Arc::new(tunnel_of(&lane));
            let mut train = Train::new();
        let mut received = Vec::new();
        let frames = |datagrams: Vec<Vec<u8>>| {
            let sizes = |d: &Vec<u8>| -> Vec<usize> {
                Frames::new(&d[6..]).map(|frame| frame.unwrap().frame.len()).collect()
            };
            datagrams.iter().flat_map(sizes).collect::<Vec<usize>>()
        };
        for &size in &sizes {
            if train.is_idle() || !train.has_room(size) {
                received.extend(frames(flush(&mut train).0));
                train.begin(&FRAMING, &tunnel, path(&lane), is_df);
            }
            append(&mut train, &vec![0; size]).unwrap();
        }
        received.extend(frames(flush(&mut train).0));
        prop_assert_eq!(received, sizes);
    }

    #[test]
    fn any_datagram_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let key = key(&"42".repeat(32));
        let _ = tunnel_of(&lane(Some(key), false)).open(&mut bytes);
        let _ = tunnel_of(&lane(None, false)).open(&mut bytes);
    }
}
