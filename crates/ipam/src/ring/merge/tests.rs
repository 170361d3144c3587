//! What a merge takes, leaves out and refuses. Rings are written as in `ring/tests.rs`.

use super::*;
use crate::ring::tests::{A, B, BASE, C, D, UNIVERSE, entries, range, ring, written};

/// A ring received from B.
fn received(text: &str) -> wire::ipam::Ring {
    wire::ipam::Ring {
        start: UNIVERSE.start,
        end: UNIVERSE.end,
        peer: B,
        entries: entries(text),
        seeds: vec![A, B],
    }
}

/// Merges a ring received into one of A, which has these addresses in use.
fn merge(ours: &str, theirs: &str, in_use: &[u32]) -> (String, Merged) {
    let mut ring = ring(ours);
    let merged = merge_into(&mut ring, &received(theirs), in_use);
    (written(&ring), merged)
}

fn merge_into(ring: &mut Ring, theirs: &wire::ipam::Ring, in_use: &[u32]) -> Merged {
    let before = ring.clone();
    let is_free = |range: Range| {
        assert!(!range.is_empty(), "no question about nothing");
        let mut owned = before.owned_ranges(A).into_iter();
        assert!(owned.any(|r| r.overlaps(range)), "questions are about ours");
        !in_use.iter().any(|n| range.contains(BASE + n))
    };
    let merged = ring.merge(theirs, is_free).unwrap();
    for n in in_use {
        if before.owner(BASE + n) == Some(A) {
            assert_eq!(ring.owner(BASE + n), Some(A), "{n} is in use");
        }
    }
    merged
}

fn texts(merged: &Merged) -> Vec<&str> {
    merged.contests.iter().map(|c| c.text.as_str()).collect()
}

fn refused(ours: &Ring, theirs: &wire::ipam::Ring) -> String {
    let mut ring = ours.clone();
    let error = ring.merge(theirs, |_| true).unwrap_err();
    assert_eq!(ring, *ours, "a refused ring changes nothing");
    error.to_string()
}

#[test]
fn a_ring_that_is_none_is_refused_before_its_seeds_are_looked_at() {
    let ours = ring("0 A v0 f256");
    for (text, error) in [
        ("64 A v0 f1, 0 A v0 f1", "Ring not sorted"),
        ("0 A v0 f1, 0 A v0 f1", "Token appears twice in ring"),
        ("0 A v0 f1, 256 A v0 f1", "Token is out of range"),
        (
            "0 A v0 f65, 64 A v0 f1",
            "Entry 10.0.0.0-10.0.0.64 reporting too much free space: 65 > 64",
        ),
    ] {
        let mut theirs = received(text);
        theirs.seeds = vec![C];
        assert_eq!(refused(&ours, &theirs), error);
    }
}

#[test]
fn a_ring_seeded_by_others_is_refused_before_its_range_is_looked_at() {
    let ours = ring("0 A v0 f256");
    let mut theirs = received("0 A v0 f256");
    theirs.seeds = vec![B, C];
    theirs.end += 256;
    assert_eq!(
        refused(&ours, &theirs),
        "IP allocation was seeded by different peers (received: [00:00:00:00:00:0b() \
         00:00:00:00:00:0c()], ours: [00:00:00:00:00:0a() 00:00:00:00:00:0b()])"
    );
}

#[test]
fn a_ring_of_another_universe_is_refused() {
    let ours = ring("0 A v0 f256");
    let mut theirs = received("0 A v0 f256");
    theirs.end += 256;
    assert_eq!(
        refused(&ours, &theirs),
        "Incompatible IP allocation ranges (received: 10.0.0.0/23, ours: 10.0.0.0/24)"
    );
    theirs.end += 1;
    assert_eq!(
        refused(&ours, &theirs),
        "Incompatible IP allocation ranges (received: 10.0.0.0-10.0.2.0, ours: 10.0.0.0/24)"
    );
    for (start, end) in [(0, 0), (BASE + 256, BASE), (u32::MAX, 0)] {
        theirs = received("");
        (theirs.start, theirs.end) = (start, end);
        assert!(refused(&ours, &theirs).starts_with("Incompatible IP allocation ranges"));
    }
}

#[test]
fn an_empty_ring_takes_everything_and_its_seeds() {
    let mut ring = Ring::new(UNIVERSE, A);
    let merged = merge_into(&mut ring, &received("16 B v3 f9, 64 A v1 f2"), &[]);
    assert_eq!(written(&ring), "16 B v3 f9, 64 A v1 f2");
    assert_eq!(ring.seeds(), [A, B]);
    assert!(merged.changed && merged.lost.is_empty() && merged.contests.is_empty());
    let gain = |start, end| Gain {
        range: range(start, end),
        from: None,
    };
    assert_eq!(merged.gained, [gain(0, 16), gain(64, 256)]);
}

#[test]
fn a_ring_without_entries_says_nothing_and_seeds_nothing() {
    let mut ring = Ring::new(UNIVERSE, A);
    assert_eq!(merge_into(&mut ring, &received(""), &[]), Merged::default());
    assert!(ring.seeds().is_empty());
    let ours = "0 A v0 f256";
    assert_eq!(merge(ours, "", &[1]), (ours.to_owned(), Merged::default()));
}

#[test]
fn seeds_we_do_not_know_are_adopted() {
    let mut ring = Ring::restore(UNIVERSE, A, entries("0 A v0 f256"), Vec::new()).unwrap();
    let merged = merge_into(&mut ring, &received("0 A v0 f256"), &[]);
    assert!(merged.changed);
    assert_eq!(ring.seeds(), [A, B]);
    let mut theirs = received("0 A v0 f256");
    theirs.seeds.clear();
    assert!(!merge_into(&mut ring, &theirs, &[]).changed);
    assert_eq!(ring.seeds(), [A, B]);
}

#[test]
fn the_same_ring_changes_nothing() {
    let ours = "0 A v3 f7, 64 B v2 f9, 128 A v0 f128";
    let (after, merged) = merge(ours, ours, &[1, 200]);
    assert_eq!(after, ours);
    assert_eq!(merged, Merged::default());
}

#[test]
fn tokens_only_we_have_are_kept() {
    let ours = "0 A v1 f32, 32 C v0 f32, 64 A v0 f64, 128 B v0 f128";
    let (after, merged) = merge(ours, "0 A v0 f128, 128 B v0 f128", &[1, 70]);
    assert_eq!(after, ours);
    assert_eq!(merged, Merged::default());
}

#[test]
fn tokens_only_they_have_are_inserted_into_the_ranges_of_others() {
    let (after, merged) = merge(
        "0 A v0 f128, 128 B v0 f128",
        "0 A v0 f128, 128 B v1 f32, 160 C v0 f32, 192 A v0 f32, 224 B v0 f32",
        &[1],
    );
    assert_eq!(
        after,
        "0 A v0 f128, 128 B v1 f32, 160 C v0 f32, 192 A v0 f32, 224 B v0 f32"
    );
    assert_eq!(
        merged.gained,
        [Gain {
            range: range(192, 224),
            from: Some(B)
        }]
    );
    assert!(merged.changed && merged.lost.is_empty() && merged.contests.is_empty());
}

#[test]
fn a_token_that_splits_our_range_is_contested_while_addresses_behind_it_are_in_use() {
    let ours = "0 A v0 f128, 128 B v0 f128";
    let (after, merged) = merge(ours, "0 A v0 f64, 64 C v4 f64, 128 B v0 f128", &[100]);
    assert_eq!(after, ours);
    assert_eq!(
        merged.contests,
        [Contest {
            range: range(64, 128),
            ours: A,
            theirs: C,
            version: 4,
            is_lost: true,
            text: "Peer 00:00:00:00:00:0c says it owns the IP range from 10.0.0.64, which I \
                   think I own"
                .to_owned(),
        }]
    );
    assert!(!merged.changed && merged.lost.is_empty() && merged.gained.is_empty());
}

#[test]
fn a_token_that_splits_our_range_is_given_in_to_when_nothing_behind_it_is_in_use() {
    let (after, merged) = merge(
        "0 A v0 f120, 128 B v0 f128",
        "0 A v0 f64, 64 C v4 f64, 128 B v0 f128",
        &[0, 63],
    );
    assert_eq!(after, "0 A v0 f64, 64 C v4 f64, 128 B v0 f128");
    assert_eq!(merged.lost, [range(64, 128)]);
    assert!(merged.changed && merged.contests.is_empty());
}

#[test]
fn a_token_behind_our_last_one_gets_the_same_test() {
    let ours = "0 B v0 f128, 128 A v0 f128";
    let theirs = "0 B v0 f128, 128 A v0 f64, 192 C v0 f64";
    let (after, merged) = merge(ours, theirs, &[130, 250]);
    assert_eq!(after, ours);
    assert_eq!(merged.contests[0].range, range(192, 256));
    let (after, merged) = merge(ours, theirs, &[130]);
    assert_eq!(after, "0 B v0 f128, 128 A v0 f64, 192 C v0 f64");
    assert_eq!(merged.lost, [range(192, 256)]);
}

#[test]
fn a_token_below_our_first_one_is_inside_our_last_range() {
    let ours = "64 B v0 f64, 128 A v0 f192";
    let theirs = "32 C v0 f32, 64 B v0 f64, 128 A v0 f160";
    let (after, merged) = merge(ours, theirs, &[40]);
    assert_eq!(after, ours);
    assert_eq!(merged.contests[0].range, range(32, 64));
    let (after, merged) = merge(ours, theirs, &[31, 200]);
    assert_eq!(after, "32 C v0 f32, 64 B v0 f64, 128 A v0 f160");
    assert_eq!(merged.lost, [range(32, 64)]);
}

#[test]
fn what_a_token_would_take_wraps_around_the_end() {
    let ours = "64 B v0 f64, 128 A v0 f192";
    let theirs = "64 B v0 f64, 128 A v0 f64, 192 C v5 f128";
    let (after, merged) = merge(ours, theirs, &[3]);
    assert_eq!(after, ours);
    let ranges: Vec<Range> = merged.contests.iter().map(|c| c.range).collect();
    assert_eq!(ranges, [range(0, 64), range(192, 256)]);
    let (after, merged) = merge(ours, theirs, &[130]);
    assert_eq!(after, "64 B v0 f64, 128 A v0 f64, 192 C v5 f128");
    assert_eq!(merged.lost, [range(0, 64), range(192, 256)]);
}

#[test]
fn a_token_takes_no_more_than_up_to_the_next_token_that_stays() {
    // The stretch behind 96 remains ours by their own word, so what is in use there does no harm.
    let (after, merged) = merge(
        "0 A v0 f128, 128 B v0 f128",
        "0 A v0 f64, 64 C v0 f32, 96 A v0 f32, 128 B v0 f128",
        &[100],
    );
    assert_eq!(after, "0 A v0 f64, 64 C v0 f32, 96 A v0 f32, 128 B v0 f128");
    assert_eq!(merged.lost, [range(64, 96)]);
    assert!(merged.contests.is_empty());
}

#[test]
fn a_token_left_out_leaves_nothing_to_the_one_before_it() {
    // Were 64 taken without 96, its new owner would get the address in use at 100.
    let ours = "0 A v0 f128, 128 B v0 f128";
    let theirs = "0 A v0 f64, 64 C v0 f32, 96 D v0 f32, 128 B v0 f128";
    let (after, merged) = merge(ours, theirs, &[100]);
    assert_eq!(after, ours);
    let contests = merged.contests.iter();
    let contests: Vec<_> = contests.map(|c| (c.range, c.theirs)).collect();
    assert_eq!(contests, [(range(64, 96), C), (range(96, 128), D)]);
}

#[test]
fn one_contest_does_not_hold_up_the_rest() {
    let (after, merged) = merge(
        "0 A v0 f64, 64 B v0 f64, 128 A v0 f128",
        "0 C v5 f64, 64 B v1 f32, 96 C v0 f32, 128 A v0 f64, 192 C v0 f64",
        &[5],
    );
    assert_eq!(
        after,
        "0 A v0 f64, 64 B v1 f32, 96 C v0 f32, 128 A v0 f64, 192 C v0 f64"
    );
    assert_eq!(merged.contests.len(), 1);
    assert_eq!(merged.lost, [range(192, 256)]);
}

#[test]
fn our_own_forgotten_tokens_are_taken_back() {
    let (after, merged) = merge("0 A v0 f250", "0 A v5 f64, 64 A v3 f192", &[1, 100]);
    assert_eq!(after, "0 A v6 f64, 64 A v3 f192");
    assert!(merged.gained.is_empty() && merged.lost.is_empty() && merged.contests.is_empty());
}

#[test]
fn equal_versions_of_two_owners_are_inconsistent_while_addresses_are_in_use() {
    let ours = "0 A v2 f100, 128 B v0 f128";
    for (free, is_lost) in [(99, false), (101, true)] {
        let theirs = format!("0 C v2 f{free}, 128 B v0 f128");
        let (after, merged) = merge(ours, &theirs, &[1]);
        assert_eq!(after, ours);
        assert_eq!(
            texts(&merged),
            [
                "Inconsistent entries for 10.0.0.0: owned by 00:00:00:00:00:0a but incoming \
                 message says 00:00:00:00:00:0c"
            ]
        );
        assert_eq!(merged.contests[0].is_lost, is_lost);
        assert_eq!(merged.contests[0].range, range(0, 128));
    }
}

#[test]
fn of_equal_versions_the_one_with_more_free_addresses_wins() {
    let ours = "0 A v2 f100, 128 D v2 f100";
    let (after, _) = merge(ours, "0 C v2 f101, 128 B v2 f99", &[]);
    assert_eq!(after, "0 C v2 f101, 128 D v2 f100");
    let (after, _) = merge(ours, "0 C v2 f99, 128 B v2 f101", &[]);
    assert_eq!(after, "0 A v2 f100, 128 B v2 f101");
}

#[test]
fn of_equal_versions_and_free_counts_the_lower_name_wins() {
    let (after, _) = merge("0 A v2 f9, 128 D v2 f9", "0 C v2 f9, 128 B v2 f9", &[]);
    assert_eq!(after, "0 A v2 f9, 128 B v2 f9");
}

#[test]
fn entries_of_ours_that_are_newer_are_kept() {
    let ours = "0 A v2 f9, 128 D v2 f9";
    let (after, merged) = merge(ours, "0 C v1 f128, 128 A v1 f128", &[1]);
    assert_eq!(after, ours);
    assert_eq!(merged, Merged::default());
}

#[test]
fn newer_entries_of_others_are_taken() {
    let (after, merged) = merge(
        "0 A v0 f128, 128 B v2 f9, 192 C v0 f64",
        "0 A v0 f128, 128 C v3 f1, 192 A v1 f64",
        &[1],
    );
    assert_eq!(after, "0 A v0 f128, 128 C v3 f1, 192 A v1 f64");
    assert_eq!(
        merged.gained,
        [Gain {
            range: range(192, 256),
            from: Some(C)
        }]
    );
}

#[test]
fn a_newer_version_of_our_own_entry_is_outbid_and_its_content_ignored() {
    let (after, merged) = merge("0 A v2 f200", "0 A v9 f3", &[1]);
    assert_eq!(after, "0 A v10 f200");
    assert!(merged.changed);
    let (again, merged) = merge(&after, "0 A v9 f3", &[1]);
    assert_eq!(again, after);
    assert!(!merged.changed);
}

#[test]
fn the_highest_version_cannot_be_outbid_and_does_no_harm() {
    let (after, _) = merge("0 A v2 f200", "0 A v4294967295 f3", &[1]);
    assert_eq!(after, "0 A v4294967295 f200");
    assert!(!merge(&after, "0 A v4294967295 f3", &[1]).1.changed);
}

#[test]
fn a_newer_entry_that_takes_our_range_is_accepted_when_nothing_is_in_use() {
    let (after, merged) = merge(
        "0 A v2 f128, 128 A v0 f120",
        "0 C v3 f128, 128 A v0 f128",
        &[200],
    );
    assert_eq!(after, "0 C v3 f128, 128 A v0 f120");
    assert_eq!(merged.lost, [range(0, 128)]);
    assert!(merged.contests.is_empty());
}

#[test]
fn a_newer_entry_that_takes_our_range_is_contested_while_addresses_are_in_use() {
    let ours = "0 A v2 f120, 128 A v0 f128";
    let (after, merged) = merge(ours, "0 C v3 f128, 128 A v0 f128", &[5]);
    assert_eq!(after, ours);
    assert_eq!(
        texts(&merged),
        [
            "Received update for IP range I own at 10.0.0.0 v2: incoming message says owner \
             00:00:00:00:00:0c v3"
        ]
    );
    assert!(merged.contests[0].is_lost);
}

#[test]
fn a_contest_is_gone_as_soon_as_the_addresses_are_free() {
    let mut ring = ring("0 A v2 f120, 128 B v0 f128");
    let theirs = received("0 C v3 f128, 128 B v0 f128");
    assert_eq!(merge_into(&mut ring, &theirs, &[5]).contests.len(), 1);
    let merged = merge_into(&mut ring, &theirs, &[]);
    assert!(merged.contests.is_empty());
    assert_eq!(merged.lost, [range(0, 128)]);
}

#[test]
fn free_counts_are_cut_to_the_new_lengths() {
    let (after, _) = merge(
        "0 A v0 f128, 128 B v100 f128",
        "0 A v0 f64, 64 A v0 f64, 128 C v1 f32, 160 D v0 f96",
        &[],
    );
    assert_eq!(
        after,
        "0 A v0 f64, 64 A v0 f64, 128 B v100 f32, 160 D v0 f96"
    );
}

#[test]
fn a_ring_of_single_addresses_is_merged_address_by_address() {
    let peers = ["B", "C", "D"];
    let theirs: Vec<String> = (0..256)
        .map(|n| format!("{n} {} v9 f1", peers[n % 3]))
        .collect();
    let (after, merged) = merge("0 A v0 f256", &theirs.join(", "), &[0, 77]);
    // 77 stays with A, and with it all that has no other cut in front of it.
    assert_eq!(after.split(',').count(), 256 - 77);
    assert!(after.starts_with("0 A v0 f78, 78 B v9 f1, 79 C v9 f1"));
    assert_eq!(merged.lost, [range(78, 256)]);
    assert_eq!(merged.contests.len(), 78);
}

#[test]
fn more_entries_than_anybody_needs_are_refused() {
    let universe = Range::new(0, 1 << 24);
    let entry = |token| Entry {
        token,
        peer: B,
        version: 0,
        free: 1,
    };
    let mut ring = Ring::restore(universe, A, vec![entry(1 << 23)], vec![B]).unwrap();
    let count = u32::try_from(ENTRIES_MAX).unwrap();
    let mut theirs = wire::ipam::Ring {
        entries: (0..count).map(entry).collect(),
        ..ring.to_wire()
    };
    let before = ring.clone();
    let refused = ring.merge(&theirs, |_| true);
    assert_eq!(refused, Err(RingError::TooManyEntries(ENTRIES_MAX + 1)));
    assert_eq!(ring, before);
    theirs.entries.pop();
    assert!(ring.merge(&theirs, |_| true).unwrap().changed);
}
