//! An ordered set of addresses, kept as intervals that neither overlap nor touch.

use std::collections::BTreeMap;
use std::fmt;

use crate::address::Range;

/// Start of each interval, and its end.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Intervals {
    ends: BTreeMap<u32, u32>,
    total: u64,
}

impl Intervals {
    /// Adds all of `range`.
    pub(super) fn insert(&mut self, range: Range) {
        if range.start >= range.end {
            return;
        }
        let Range { mut start, mut end } = range;
        if let Some((&before, &until)) = self.ends.range(..=start).next_back()
            && until >= start
        {
            start = before;
            end = end.max(until);
        }
        while let Some((&next, &until)) = self.ends.range(start..=end).next() {
            self.ends.remove(&next);
            self.total -= u64::from(until - next);
            end = end.max(until);
        }
        self.put(start, end);
    }

    /// Removes all of `range`.
    pub(super) fn remove(&mut self, range: Range) {
        if range.start >= range.end {
            return;
        }
        if let Some((&before, &until)) = self.ends.range(..range.start).next_back()
            && until > range.start
        {
            self.ends.insert(before, range.start);
            self.total -= u64::from(until - range.start);
            if until > range.end {
                self.put(range.end, until);
            }
        }
        while let Some((&next, &until)) = self.ends.range(range.start..range.end).next() {
            self.ends.remove(&next);
            self.total -= u64::from(until - next);
            if until > range.end {
                self.put(range.end, until);
            }
        }
    }

    pub(super) fn contains(&self, address: u32) -> bool {
        let before = self.ends.range(..=address).next_back();
        before.is_some_and(|(_, &until)| until > address)
    }

    /// Whether all of `range`, which is not empty, is in the set.
    pub(super) fn contains_all(&self, range: Range) -> bool {
        let before = self.ends.range(..=range.start).next_back();
        before.is_some_and(|(_, &until)| until >= range.end)
    }

    /// The parts of the set inside `range`, ascending.
    pub(super) fn within(&self, range: Range) -> impl Iterator<Item = Range> + '_ {
        let before = self.ends.range(..range.start).next_back();
        let first = before.filter(|(_, until)| **until > range.start);
        let inside = self.ends.range(range.start..range.end.max(range.start));
        first
            .into_iter()
            .chain(inside)
            .map(move |(&start, &end)| Range {
                start: start.max(range.start),
                end: end.min(range.end),
            })
            .filter(|part| part.start < part.end)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.ends.iter().map(|(&start, &end)| Range { start, end })
    }

    /// Addresses of the set inside `range`.
    pub(super) fn count_in(&self, range: Range) -> u32 {
        self.within(range).map(|part| part.end - part.start).sum()
    }

    /// Addresses of the set.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn assert_invariants(&self) {
        let mut previous = None;
        let mut total = 0;
        for Range { start, end } in self.iter() {
            assert!(start < end, "an empty interval at {start}");
            assert!(
                previous.is_none_or(|until| until < start),
                "intervals touch at {start}"
            );
            previous = Some(end);
            total += u64::from(end - start);
        }
        assert_eq!(total, self.total, "intervals are counted wrong");
    }

    fn put(&mut self, start: u32, end: u32) {
        self.ends.insert(start, end);
        self.total += u64::from(end - start);
    }
}

impl fmt::Debug for Intervals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// What `parts`, ascending and inside `range`, leave of it.
pub(super) fn all_but(range: Range, parts: impl Iterator<Item = Range>) -> Vec<Range> {
    let mut gaps = Vec::new();
    let mut start = range.start;
    for part in parts {
        if start < part.start {
            gaps.push(Range {
                start,
                end: part.start,
            });
        }
        start = part.end;
    }
    if start < range.end {
        gaps.push(Range {
            start,
            end: range.end,
        });
    }
    gaps
}
