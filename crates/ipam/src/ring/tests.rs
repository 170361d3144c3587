//! The ring by itself, and the divisions on record.
//!
//! Rings are written `0 A v1 f32, 32 C v0 f32`: token as an offset into 10.0.0.0/24, owner, version,
//! free addresses.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;

use super::*;

pub(super) const BASE: u32 = 0x0a00_0000;
pub(super) const UNIVERSE: Range = Range::new(BASE, BASE + 256);
pub(super) const A: PeerName = PeerName::from_u64(0xa);
pub(super) const B: PeerName = PeerName::from_u64(0xb);
pub(super) const C: PeerName = PeerName::from_u64(0xc);
pub(super) const D: PeerName = PeerName::from_u64(0xd);

pub(super) fn range(start: u32, end: u32) -> Range {
    Range::new(BASE + start, BASE + end)
}

/// Entries from their written form.
pub(super) fn entries(text: &str) -> Vec<Entry> {
    let entry = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [token, peer, version, free] = words[..] else {
            panic!("an entry is four words: {text}");
        };
        Entry {
            token: BASE + token.parse::<u32>().unwrap(),
            peer: PeerName::from_u64(u64::from_str_radix(peer, 16).unwrap()),
            version: version.strip_prefix('v').unwrap().parse().unwrap(),
            free: free.strip_prefix('f').unwrap().parse().unwrap(),
        }
    };
    let entries = text.split(',').filter(|entry| !entry.trim().is_empty());
    entries.map(entry).collect()
}

/// The written form of entries.
pub(super) fn written(ring: &Ring) -> String {
    let entry = |e: &Entry| {
        let peer = e.peer.to_u64();
        format!("{} {peer:X} v{} f{}", e.token - BASE, e.version, e.free)
    };
    let entries: Vec<String> = ring.entries().iter().map(entry).collect();
    entries.join(", ")
}

/// The ring of A.
pub(super) fn ring(text: &str) -> Ring {
    Ring::restore(UNIVERSE, A, entries(text), vec![A, B]).unwrap()
}

fn refusal(text: &str) -> String {
    let refused = Ring::restore(UNIVERSE, A, entries(text), Vec::new());
    refused.unwrap_err().to_string()
}

fn recorded() -> Value {
    serde_json::from_str(include_str!("../../testdata/ring.json")).unwrap()
}

fn recorded_address(value: &Value) -> u32 {
    value
        .as_str()
        .unwrap()
        .parse::<Ipv4Addr>()
        .unwrap()
        .to_bits()
}

fn recorded_peers(value: &Value) -> Vec<PeerName> {
    let peers = value.as_array().unwrap().iter();
    peers
        .map(|p| p.as_str().unwrap().parse().unwrap())
        .collect()
}

fn recorded_entries(value: &Value) -> Vec<Entry> {
    let entry = |value: &Value| Entry {
        token: recorded_address(&value["token"]),
        peer: value["peer"].as_str().unwrap().parse().unwrap(),
        version: value["version"].as_u64().unwrap().try_into().unwrap(),
        free: value["free"].as_u64().unwrap().try_into().unwrap(),
    };
    value.as_array().unwrap().iter().map(entry).collect()
}

#[test]
fn a_range_is_divided_among_its_seeds_as_on_record() {
    for division in recorded()["divisions"].as_array().unwrap() {
        let start = recorded_address(&division["start"]);
        let end = recorded_address(&division["end_exclusive"]);
        let mut peers = recorded_peers(&division["peers"]);
        let mut ring = Ring::new(Range::new(start, end), peers[0]);
        peers.reverse();
        peers.push(peers[0]);
        ring.claim_for_peers(&peers);
        assert_eq!(ring.entries(), recorded_entries(&division["expect"]));
        assert_eq!(ring.seeds(), recorded_peers(&division["peers"]));
    }
}

#[test]
fn a_grant_raises_versions_as_on_record() {
    let granted = &recorded()["granted"];
    let seeds = recorded_peers(&granted["seeds"]);
    let start = recorded_address(&granted["start"]);
    let end = recorded_address(&granted["end_exclusive"]);
    let mut ring = Ring::new(Range::new(start, end), seeds[0]);
    ring.claim_for_peers(&seeds);
    let receiver = "02:00:00:00:0c:03".parse().unwrap();
    ring.grant(Range::new(start + 32, start + 64), receiver);
    assert_eq!(ring.entries(), recorded_entries(&granted["entries"]));
}

#[test]
fn an_empty_ring_has_no_owners() {
    let ring = Ring::new(UNIVERSE, A);
    assert!(ring.is_empty() && ring.owners().is_empty());
    assert_eq!(ring.owner(BASE), None);
    assert_eq!(ring.segments().count(), 0);
}

#[test]
fn what_is_no_ring_is_refused_with_the_reason() {
    assert_eq!(refusal("64 A v0 f64, 0 A v0 f64"), "Ring not sorted");
    assert_eq!(
        refusal("0 A v0 f64, 64 A v0 f9, 64 B v0 f9"),
        "Token appears twice in ring"
    );
    assert_eq!(refusal("0 A v0 f64, 256 B v0 f1"), "Token is out of range");
    assert_eq!(
        refusal("0 A v0 f64, 64 B v0 f193"),
        "Entry 10.0.0.64-10.0.0.0 reporting too much free space: 193 > 192"
    );
    assert_eq!(
        refusal("16 A v0 f49, 64 B v0 f208"),
        "Entry 10.0.0.16-10.0.0.64 reporting too much free space: 49 > 48"
    );
    let below = Entry {
        token: BASE - 1,
        ..entries("0 A v0 f1")[0]
    };
    assert_eq!(
        Ring::restore(UNIVERSE, A, vec![below], Vec::new()),
        Err(RingError::TokenOutOfRange)
    );
}

#[test]
fn a_lone_token_spans_the_whole_ring() {
    let ring = ring("100 A v0 f256");
    assert_eq!(ring.owned_ranges(A), [range(0, 100), range(100, 256)]);
    assert_eq!(ring.owner(BASE), Some(A));
    assert_eq!(
        refusal("100 A v0 f257"),
        "Entry 10.0.0.100-10.0.0.100 reporting too much free space: 257 > 256"
    );
}

#[test]
fn addresses_below_the_first_token_belong_to_the_last_entry() {
    let ring = ring("16 A v0 f48, 64 B v0 f208");
    assert_eq!(ring.owner(BASE + 15), Some(B));
    assert_eq!(ring.owner(BASE + 16), Some(A));
    assert_eq!(ring.owner(BASE + 63), Some(A));
    assert_eq!(ring.owner(BASE + 255), Some(B));
    assert_eq!(ring.owner(BASE + 256), None);
    assert_eq!(ring.owner(BASE - 1), None);
    assert_eq!(ring.owned_ranges(B), [range(0, 16), range(64, 256)]);
    assert_eq!(ring.owned_ranges(C), []);
}

#[test]
fn more_peers_than_addresses_leave_some_without() {
    let peers: Vec<PeerName> = (1..=9).map(PeerName::from_u64).collect();
    let mut ring = Ring::new(range(0, 4), A);
    ring.claim_for_peers(&peers);
    assert_eq!(written(&ring), "0 1 v0 f1, 1 3 v0 f1, 2 5 v0 f1, 3 7 v0 f1");
    assert_eq!(ring.seeds(), peers);
}

#[test]
fn every_share_of_a_division_is_a_prefix() {
    for count in 1..=100 {
        let peers: Vec<PeerName> = (1..=count).map(PeerName::from_u64).collect();
        let mut ring = Ring::new(UNIVERSE, A);
        ring.claim_for_peers(&peers);
        assert_eq!(ring.owners().len(), peers.len());
        assert!(ring.segments().all(|(range, _)| range.as_cidr().is_some()));
        assert_eq!(
            ring.segments().map(|(range, _)| range.size()).sum::<u32>(),
            256
        );
    }
}

#[test]
fn a_grant_at_an_existing_token_raises_its_version() {
    let mut ring = ring("0 A v7 f3, 64 B v0 f192");
    ring.grant(range(0, 64), C);
    assert_eq!(written(&ring), "0 C v8 f64, 64 B v0 f192");
}

#[test]
fn a_grant_takes_the_tokens_between_along() {
    let mut ring = ring("0 A v7 f64, 64 A v3 f20, 128 A v4 f128");
    ring.grant(range(32, 192), C);
    assert_eq!(
        written(&ring),
        "0 A v8 f32, 32 C v0 f32, 64 C v4 f20, 128 C v5 f64, 192 A v0 f64"
    );
}

#[test]
fn a_grant_up_to_the_end_needs_no_token_there() {
    let mut ring = ring("0 B v0 f128, 128 A v0 f128");
    ring.grant(range(192, 256), C);
    assert_eq!(written(&ring), "0 B v0 f128, 128 A v1 f64, 192 C v0 f64");
}

#[test]
fn a_grant_up_to_the_end_leaves_us_what_wraps() {
    let mut ring = ring("16 B v0 f112, 128 A v0 f144");
    ring.grant(range(192, 256), C);
    assert_eq!(
        written(&ring),
        "0 A v0 f16, 16 B v0 f112, 128 A v1 f64, 192 C v0 f64"
    );
}

#[test]
fn a_grant_below_the_first_token_cuts_the_last_entry() {
    let mut ring = ring("16 B v0 f112, 128 A v0 f144");
    ring.grant(range(4, 8), C);
    assert_eq!(
        written(&ring),
        "4 C v0 f4, 8 A v0 f8, 16 B v0 f112, 128 A v1 f132"
    );
    assert_eq!(
        ring.owned_ranges(A),
        [range(0, 4), range(8, 16), range(128, 256)]
    );
}

#[test]
fn a_grant_of_everything_is_possible() {
    let mut ring = ring("0 A v0 f256");
    ring.grant(UNIVERSE, C);
    assert_eq!(written(&ring), "0 C v1 f256");
    let mut wrapped = self::ring("100 A v0 f256");
    wrapped.grant(UNIVERSE, C);
    assert_eq!(wrapped.owned_ranges(C), [range(0, 100), range(100, 256)]);
}

#[test]
fn a_grant_of_one_address_adds_two_tokens() {
    let mut ring = ring("0 A v0 f256");
    ring.grant(range(5, 6), C);
    assert_eq!(written(&ring), "0 A v1 f5, 5 C v0 f1, 6 A v0 f250");
}

#[test]
#[should_panic(expected = "is ours to grant")]
fn a_grant_of_what_others_own_is_a_bug() {
    ring("0 A v0 f128, 128 B v0 f128").grant(range(64, 129), C);
}

#[test]
fn reported_free_counts_raise_versions_only_where_they_changed() {
    let mut ring = ring("0 A v0 f64, 64 B v0 f64, 128 A v0 f128");
    let free = |range: Range| range.size() - u32::from(range.contains(BASE + 200));
    assert!(ring.report_free(free));
    assert_eq!(written(&ring), "0 A v0 f64, 64 B v0 f64, 128 A v1 f127");
    assert!(!ring.report_free(free));
}

#[test]
fn free_addresses_of_a_wrapping_range_are_summed_on_its_entry() {
    let mut ring = ring("16 B v0 f112, 128 A v0 f144");
    let in_use = [BASE + 3, BASE + 200];
    let free = |range: Range| {
        let used = in_use.iter().filter(|address| range.contains(**address));
        range.size() - u32::try_from(used.count()).unwrap()
    };
    assert!(ring.report_free(free));
    assert_eq!(written(&ring), "16 B v0 f112, 128 A v1 f142");
}

#[test]
fn frozen_entries_report_nothing() {
    let mut ring = ring("0 A v0 f64, 64 B v0 f64, 128 A v0 f128");
    assert!(ring.report_free_except(&[range(100, 256)], |_| 0));
    assert_eq!(written(&ring), "0 A v1 f0, 64 B v0 f64, 128 A v0 f128");
}

#[test]
fn a_transfer_raises_versions_by_a_hundred() {
    let mut ring = ring("16 B v3 f48, 64 A v0 f64, 128 B v0 f144");
    assert_eq!(
        ring.transfer(B, A),
        [range(0, 16), range(16, 64), range(128, 256)]
    );
    assert_eq!(
        written(&ring),
        "16 A v103 f48, 64 A v0 f64, 128 A v100 f144"
    );
    assert_eq!(ring.transfer(B, A), []);
}

#[test]
fn versions_stop_at_the_highest_instead_of_beginning_anew() {
    let mut ring = ring("0 A v4294967295 f128, 128 A v4294967290 f128");
    ring.report_free(|_| 1);
    ring.transfer(A, B);
    assert_eq!(written(&ring), "0 B v4294967295 f1, 128 B v4294967295 f1");
}

#[test]
fn donors_are_others_with_free_addresses_in_the_wanted_range() {
    let ring = ring("8 A v0 f8, 16 B v0 f16, 32 C v0 f0, 64 B v0 f64, 128 D v0 f1");
    let rng = &mut StdRng::seed_from_u64(1);
    let mut donors = |start, end| {
        let mut donors = ring.choose_donors(range(start, end), rng);
        donors.sort();
        donors
    };
    assert_eq!(donors(0, 256), [B, D]);
    assert_eq!(donors(0, 8), [D], "it wraps");
    assert_eq!(donors(8, 16), []);
    assert_eq!(donors(32, 64), []);
    assert_eq!(donors(40, 65), [B]);
}

#[test]
fn donors_with_more_free_addresses_are_asked_first_more_often() {
    let ring = ring("0 B v0 f64, 64 C v0 f32, 128 B v0 f32, 192 A v0 f64");
    let rng = &mut StdRng::seed_from_u64(7);
    let mut first: BTreeMap<PeerName, u32> = BTreeMap::new();
    for _ in 0..10_000 {
        *first
            .entry(ring.choose_donors(UNIVERSE, rng)[0])
            .or_default() += 1;
    }
    // B wins unless its random factor, over that of C, is below a third: five times in six.
    let of_b = f64::from(first[&B]) / 10_000.0;
    assert!((of_b - 5.0 / 6.0).abs() < 0.02, "{of_b}");
}

#[test]
fn segments_cover_the_universe_once() {
    for text in [
        "0 A v0 f256",
        "100 A v0 f1",
        "3 A v0 f1, 4 B v0 f1, 255 C v0 f1",
    ] {
        let segments = ring(text).segments().map(|(range, _)| range).collect();
        assert_eq!(merge_ranges(segments), [UNIVERSE]);
    }
}

#[test]
fn errors_name_seeds_with_their_nicknames() {
    let error = RingError::DifferentSeeds {
        received: vec![B, C],
        ours: vec![A],
    };
    let nickname = |peer| {
        if peer == B {
            "host2".to_owned()
        } else {
            String::new()
        }
    };
    assert_eq!(
        error.describe(nickname),
        "IP allocation was seeded by different peers (received: [00:00:00:00:00:0b(host2) \
         00:00:00:00:00:0c()], ours: [00:00:00:00:00:0a()])"
    );
    let many = RingError::DifferentSeeds {
        received: vec![B; 4096],
        ours: Vec::new(),
    };
    assert!(many.to_string().len() < 1000);
}
