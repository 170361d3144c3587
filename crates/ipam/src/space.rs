//! Which of our own addresses are in use (spec/ipam.md 1 and 3).
//!
//! Who owns which range is for the ring to say; the space is told, and keeps two ordered sets of
//! intervals: what we own, and what of it is free. Whatever is owned and not free is in use. Every
//! step costs the logarithm of the number of intervals, however large the subnet.

mod intervals;

use std::fmt;

use crate::address::Range;
use intervals::{Intervals, all_but};

/// The addresses of one peer.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Space {
    owned: Intervals,
    /// Invariant: part of `owned`.
    free: Intervals,
    /// Where nothing may be given out or away, owned or not.
    blocked: Intervals,
}

impl Space {
    /// A peer that owns nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a range that is ours now. What of it was ours before stays as it is, the rest is free.
    pub fn own(&mut self, range: Range) {
        let gained = all_but(range, self.owned.within(range));
        for gap in gained {
            self.owned.insert(gap);
            self.free.insert(gap);
        }
    }

    /// Lets go of a range, whether it was ours or not.
    ///
    /// Panics if one of its addresses is in use.
    pub fn disown(&mut self, range: Range) {
        assert!(
            self.is_free_range(range),
            "{}..{} is in use and cannot be given away",
            range.start,
            range.end
        );
        self.free.remove(range);
        self.owned.remove(range);
    }

    /// Forgets everything but what is blocked, in use or not; for a peer that leaves.
    pub fn clear(&mut self) {
        self.owned = Intervals::default();
        self.free = Intervals::default();
    }

    /// Sets where nothing may be given out or away, in place of what was blocked before. Addresses
    /// in use there stay in use.
    pub fn block(&mut self, ranges: Vec<Range>) {
        self.blocked = Intervals::default();
        for range in ranges {
            self.blocked.insert(range);
        }
    }

    /// Whether nothing may be given out at this address.
    pub fn is_blocked(&self, address: u32) -> bool {
        self.blocked.contains(address)
    }

    /// Takes the lowest address inside `range` that is ours, free and not blocked.
    pub fn allocate(&mut self, range: Range) -> Option<u32> {
        let address = self.usable(range).next()?.start;
        self.free.remove(one(address));
        Some(address)
    }

    /// Takes this address, if it is ours, free and not blocked.
    pub fn claim(&mut self, address: u32) -> bool {
        let can_take = self.free.contains(address) && !self.is_blocked(address);
        if can_take {
            self.free.remove(one(address));
        }
        can_take
    }

    /// Marks an address as in use, blocked or not, because it was in use all along; for addresses
    /// found at start. False if it is not ours or in use already.
    pub fn mark(&mut self, address: u32) -> bool {
        let is_free = self.free.contains(address);
        if is_free {
            self.free.remove(one(address));
        }
        is_free
    }

    /// Gives an address back. False if it was not in use.
    pub fn free(&mut self, address: u32) -> bool {
        let was_used = self.is_used(address);
        if was_used {
            self.free.insert(one(address));
        }
        was_used
    }

    /// Whether the address is ours.
    pub fn is_owned(&self, address: u32) -> bool {
        self.owned.contains(address)
    }

    /// Whether the address is ours and in use.
    pub fn is_used(&self, address: u32) -> bool {
        self.owned.contains(address) && !self.free.contains(address)
    }

    /// Whether no address inside `range` is in use.
    pub fn is_free_range(&self, range: Range) -> bool {
        // Both sets are merged: what is owned in one piece is free in one piece, or not free.
        self.owned
            .within(range)
            .all(|owned| self.free.contains_all(owned))
    }

    /// Our addresses inside `range` that are not in use, blocked ones included.
    pub fn free_in(&self, range: Range) -> u32 {
        self.free.count_in(range)
    }

    /// Our addresses inside `range` that are in use.
    pub fn in_use_in(&self, range: Range) -> u32 {
        self.owned.count_in(range) - self.free.count_in(range)
    }

    /// The largest block of usable addresses inside `range` that is one prefix; the last of several.
    pub fn largest_free_block(&self, range: Range) -> Option<Range> {
        let blocks = self.usable(range).map(largest_aligned);
        blocks.max_by_key(|block| block.end - block.start)
    }

    /// Picks what to give to a peer that needs space inside `range`, and lets go of it: the largest
    /// block, or its upper half if it is more than half of what is usable there.
    pub fn donate(&mut self, range: Range) -> Option<Range> {
        let mut block = self.largest_free_block(range)?;
        let size = block.end - block.start;
        let usable: u32 = self.usable(range).map(|part| part.end - part.start).sum();
        if size > 1 && size > usable / 2 {
            block.start += size / 2;
        }
        self.disown(block);
        Some(block)
    }

    /// What we own: merged, ascending.
    pub fn owned_ranges(&self) -> Vec<Range> {
        self.owned.iter().collect()
    }

    /// How many addresses are in use.
    pub fn active(&self) -> u64 {
        self.owned.total() - self.free.total()
    }

    /// Panics unless we own exactly these ranges, in any order and touching or not, and the books
    /// agree.
    pub fn assert_matches(&self, ranges: &[Range]) {
        let mut expected = Intervals::default();
        for &range in ranges {
            expected.insert(range);
        }
        assert_eq!(self.owned, expected, "the space is not what the ring says");
        self.owned.assert_invariants();
        self.free.assert_invariants();
        assert!(
            self.free.iter().all(|free| self.owned.contains_all(free)),
            "an address is free that is not ours"
        );
    }

    /// What is free inside `range` and not blocked, ascending.
    fn usable(&self, range: Range) -> impl Iterator<Item = Range> + '_ {
        self.free
            .within(range)
            .flat_map(|free| all_but(free, self.blocked.within(free)))
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space")
            .field("owned", &self.owned)
            .field("free", &self.free)
            .field("blocked", &self.blocked)
            .finish()
    }
}

const fn one(address: u32) -> Range {
    // A universe that ends at 2^32 is refused, so the last address is never ours.
    Range {
        start: address,
        end: address.saturating_add(1),
    }
}

/// The largest block inside `range`, which is not empty, that is one prefix; the last of several.
fn largest_aligned(range: Range) -> Range {
    for bits in (0..u32::BITS).rev() {
        let mask = (1_u64 << bits) - 1;
        let start = (u64::from(range.end) & !mask).checked_sub(mask + 1);
        if let Some(start) = start.and_then(|start| u32::try_from(start).ok())
            && start >= range.start
        {
            let size = 1 << bits;
            return Range {
                start,
                end: start + size,
            };
        }
    }
    range
}

#[cfg(test)]
mod tests;
