//! The books of our addresses beside a naive model.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const fn range(start: u32, end: u32) -> Range {
    Range { start, end }
}

fn owning(ranges: &[Range]) -> Space {
    let mut space = Space::new();
    for &range in ranges {
        space.own(range);
    }
    space
}

#[test]
fn the_lowest_free_address_is_given_out_first() {
    let mut space = owning(&[range(10, 14), range(20, 22)]);
    assert_eq!(space.allocate(range(11, 30)), Some(11));
    assert_eq!(space.allocate(range(0, 30)), Some(10));
    assert!(space.free(11) && !space.free(11) && !space.free(12));
    assert_eq!(space.allocate(range(0, 30)), Some(11));
    assert_eq!(space.allocate(range(0, 13)), Some(12));
    assert_eq!(space.allocate(range(0, 13)), None);
    assert_eq!(space.allocate(range(14, 20)), None);
    assert_eq!(space.allocate(range(0, 30)), Some(13));
    assert_eq!(space.allocate(range(0, 30)), Some(20));
    assert_eq!((space.active(), space.free_in(range(0, 100))), (5, 1));
    space.assert_matches(&[range(20, 22), range(10, 12), range(12, 14)]);
}

#[test]
fn an_address_is_claimed_once_and_only_if_it_is_ours() {
    let mut space = owning(&[range(10, 14)]);
    assert!(space.claim(12) && !space.claim(12) && !space.claim(14));
    assert!(!space.is_free_range(range(0, 100)) && space.is_free_range(range(13, 100)));
    assert_eq!(space.in_use_in(range(0, 100)), 1);
}

#[test]
fn nothing_is_given_out_or_away_where_it_is_blocked() {
    let mut space = owning(&[range(0, 16)]);
    assert!(space.claim(5));
    space.block(vec![range(0, 8), range(12, 20)]);
    assert_eq!(space.allocate(range(0, 16)), Some(8));
    assert!(!space.claim(4) && !space.claim(13));
    assert_eq!(space.largest_free_block(range(0, 16)), Some(range(10, 12)));
    assert_eq!(space.donate(range(0, 16)), Some(range(11, 12)));
    assert_eq!(space.largest_free_block(range(0, 8)), None);
    assert!(space.free(5), "what is in use there can be given back");
    space.block(Vec::new());
    assert_eq!(space.allocate(range(0, 16)), Some(0));
}

#[test]
fn an_address_found_in_use_is_marked_where_it_is_blocked() {
    let mut space = owning(&[range(0, 16)]);
    space.block(vec![range(0, 8)]);
    assert!(space.mark(5) && !space.mark(5) && !space.mark(16));
    assert!(space.is_used(5));
}

#[test]
fn a_whole_ring_gives_its_top_quarter_once_an_address_is_in_use() {
    // 10.32.0.0/12 less its first address: as observed (spec/ipam.md 3).
    let mut space = owning(&[range(0x0a20_0000, 0x0a30_0000)]);
    assert_eq!(
        space.allocate(range(0x0a20_0001, 0x0a2f_ffff)),
        Some(0x0a20_0001)
    );
    let given = space.donate(range(0x0a20_0000, 0x0a30_0000));
    assert_eq!(given, Some(range(0x0a2c_0000, 0x0a30_0000)));
}

#[test]
fn the_last_of_equal_blocks_is_given() {
    let mut space = owning(&[range(64, 192)]);
    assert_eq!(
        space.largest_free_block(range(0, 256)),
        Some(range(128, 192))
    );
    assert_eq!(space.donate(range(0, 256)), Some(range(128, 192)));
    assert_eq!(space.donate(range(0, 256)), Some(range(96, 128)));
    let mut space = owning(&[range(8, 12), range(32, 36)]);
    assert_eq!(space.donate(range(0, 256)), Some(range(32, 36)));
}

#[test]
fn a_single_address_can_be_given() {
    let mut space = owning(&[range(7, 8)]);
    assert_eq!(space.donate(range(0, 7)), None);
    assert_eq!(space.donate(range(7, 8)), Some(range(7, 8)));
    assert_eq!(space, Space::new());
}

#[test]
#[should_panic(expected = "in use and cannot be given away")]
fn what_is_in_use_is_never_given_away() {
    let mut space = owning(&[range(0, 8)]);
    assert!(space.claim(3));
    space.disown(range(0, 4));
}

#[test]
#[should_panic(expected = "the space is not what the ring says")]
fn books_that_are_not_those_of_the_ring_are_found_out() {
    owning(&[range(0, 8)]).assert_matches(&[range(0, 7)]);
}

/// Addresses in sets, and every question answered by looking at each of them.
#[derive(Default)]
struct Model {
    owned: BTreeSet<u32>,
    used: BTreeSet<u32>,
    blocked: BTreeSet<u32>,
}

/// All addresses of the model.
const END: u32 = 64;

impl Model {
    fn is_usable(&self, address: u32) -> bool {
        self.owned.contains(&address)
            && !self.used.contains(&address)
            && !self.blocked.contains(&address)
    }

    fn is_free_range(&self, range: Range) -> bool {
        (range.start..range.end).all(|address| !self.used.contains(&address))
    }

    fn largest_free_block(&self, range: Range) -> Option<Range> {
        let blocks = (0..=6).flat_map(|bits| {
            let size = 1 << bits;
            (0..END).step_by(size as usize).map(move |start| Range {
                start,
                end: start + size,
            })
        });
        let fits = |block: &Range| {
            block.start >= range.start
                && block.end <= range.end
                && (block.start..block.end).all(|address| self.is_usable(address))
        };
        blocks
            .filter(fits)
            .max_by_key(|block| (block.end - block.start, block.start))
    }
}

#[derive(Debug, Clone)]
enum Step {
    Own(Range),
    Disown(Range),
    Block(Vec<Range>),
    Allocate(Range),
    Claim(u32),
    Mark(u32),
    Free(u32),
    Donate(Range),
}

fn any_range() -> impl Strategy<Value = Range> {
    (0..=END, 0..=END).prop_map(|(a, b)| range(a.min(b), a.max(b)))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any_range().prop_map(Step::Own),
        2 => any_range().prop_map(Step::Disown),
        1 => vec(any_range(), 0..3).prop_map(Step::Block),
        6 => any_range().prop_map(Step::Allocate),
        2 => (0..END).prop_map(Step::Claim),
        1 => (0..END).prop_map(Step::Mark),
        3 => (0..END).prop_map(Step::Free),
        1 => any_range().prop_map(Step::Donate),
    ]
}

fn take(space: &mut Space, model: &mut Model, step: Step) {
    match step {
        Step::Own(range) => {
            space.own(range);
            model.owned.extend(range.start..range.end);
        }
        Step::Disown(range) => {
            if model.is_free_range(range) {
                space.disown(range);
                model
                    .owned
                    .retain(|address| !(range.start..range.end).contains(address));
            }
        }
        Step::Block(ranges) => {
            model.blocked = ranges
                .iter()
                .flat_map(|range| range.start..range.end)
                .collect();
            space.block(ranges);
        }
        Step::Allocate(range) => {
            let lowest = (range.start..range.end).find(|&address| model.is_usable(address));
            assert_eq!(space.allocate(range), lowest);
            model.used.extend(lowest);
        }
        Step::Claim(address) => {
            assert_eq!(space.claim(address), model.is_usable(address));
            if model.is_usable(address) {
                model.used.insert(address);
            }
        }
        Step::Mark(address) => {
            let can_mark = model.owned.contains(&address) && !model.used.contains(&address);
            assert_eq!(space.mark(address), can_mark);
            if can_mark {
                model.used.insert(address);
            }
        }
        Step::Free(address) => assert_eq!(space.free(address), model.used.remove(&address)),
        Step::Donate(range) => donate(space, model, range),
    }
}

fn donate(space: &mut Space, model: &mut Model, range: Range) {
    let largest = model.largest_free_block(range);
    assert_eq!(space.largest_free_block(range), largest);
    let usable = (range.start..range.end)
        .filter(|&address| model.is_usable(address))
        .count();
    let given = space.donate(range);
    assert_eq!(given.is_some(), largest.is_some());
    let Some(given) = given else { return };
    let size = given.end - given.start;
    assert!(
        size.is_power_of_two() && given.start.is_multiple_of(size),
        "not one prefix"
    );
    assert!(
        size as usize <= usable.div_ceil(2),
        "more than half was given"
    );
    assert_eq!(Some(given.end), largest.map(|largest| largest.end));
    for address in given.start..given.end {
        assert!(model.is_usable(address));
        model.owned.remove(&address);
    }
}

proptest! {
    #[test]
    fn the_space_is_two_sets_of_addresses(steps in vec(step(), 0..60), asked in any_range()) {
        let (mut space, mut model) = (Space::new(), Model::default());
        for step in steps {
            take(&mut space, &mut model, step);
            let owned: Vec<Range> = model.owned.iter().map(|&address| one(address)).collect();
            space.assert_matches(&owned);
            prop_assert_eq!(space.active(), model.used.len() as u64);
            let inside = |set: &BTreeSet<u32>| set.range(asked.start..asked.end).count();
            let used = inside(&model.used);
            prop_assert_eq!(space.in_use_in(asked) as usize, used);
            prop_assert_eq!(space.free_in(asked) as usize, inside(&model.owned) - used);
            prop_assert_eq!(space.is_free_range(asked), used == 0);
        }
        for address in 0..END {
            prop_assert_eq!(space.is_used(address), model.used.contains(&address));
            prop_assert_eq!(space.is_blocked(address), model.blocked.contains(&address));
        }
    }
}
