//! Merging the ring of another peer into ours (spec/ipam.md 2.2).
//!
//! Total: what others say never takes an address from us that is in use here. An entry that would
//! is left out and reported as a [`Contest`]; everything else is taken. Only a ring that is none, or
//! that belongs to another cluster, is an error, and then nothing is taken.
//!
//! Entries of one token are ordered: the higher version wins; of equal versions, which differ only
//! after two peers took over the same range, the one with more addresses free, then the lower peer
//! name. The original keeps its own entry where free counts are equal too, and so never settles.

use std::cmp::Reverse;
use std::net::Ipv4Addr;
use std::sync::Arc;

use wire::PeerName;

use super::{ENTRIES_MAX, Entry, Ring, RingError, check};
use crate::address::Range;

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Merged {
    /// Whether our ring is another than before.
    pub changed: bool,
    /// What became ours, ascending.
    pub gained: Vec<Gain>,
    /// What was ours, ascending. Nothing in it is in use.
    pub lost: Vec<Range>,
    /// Entries left out because addresses in use here are at stake, ascending by token.
    pub contests: Vec<Contest>,
}

/// Addresses that became ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gain {
    /// Which.
    pub range: Range,
    /// Whose they were by our ring; `None` if it was empty.
    pub from: Option<PeerName>,
}

/// An entry that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contest {
    /// What we would lose: ours by our ring, and at least one address is in use. It reaches from
    /// the entry's token to the next; where that wraps there is one contest for either part.
    pub range: Range,
    /// We.
    pub ours: PeerName,
    /// Who owns it by the ring received.
    pub theirs: PeerName,
    /// Version of the entry received.
    pub version: u32,
    /// Whether the entry received beats ours, so that everybody else will believe it. If not, the
    /// others come round to our view by themselves.
    pub is_lost: bool,
    /// The whole matter, in the words of the original.
    pub text: String,
}

impl Ring {
    /// Merges a ring received. `is_free` says whether no address of a range of ours is in use.
    pub fn merge(
        &mut self,
        theirs: &wire::ipam::Ring,
        is_free: impl Fn(Range) -> bool,
    ) -> Result<Merged, RingError> {
        self.check_received(theirs)?;
        // Almost always it is the ring we have.
        let knows_seeds = theirs.seeds.is_empty() || !self.seeds.is_empty();
        let is_known = theirs.entries == *self.entries && knows_seeds;
        if theirs.entries.is_empty() || is_known {
            return Ok(Merged::default());
        }
        let (entries, contests) = Walk::new(self, is_free).run(&theirs.entries);
        if entries.len() > ENTRIES_MAX {
            return Err(RingError::TooManyEntries(entries.len()));
        }
        let seeds = if self.seeds.is_empty() {
            theirs.seeds.clone()
        } else {
            self.seeds.clone()
        };
        let after = Self {
            entries: Arc::new(entries),
            seeds,
            ..Self::new(self.universe, self.us)
        };
        after.assert_invariants();
        let (gained, lost) = self.difference(&after);
        let changed = *self != after;
        *self = after;
        Ok(Merged {
            changed,
            gained,
            lost,
            contests,
        })
    }

    /// What must hold before anything is taken, in the order of spec/ipam.md 2.2.
    fn check_received(&self, theirs: &wire::ipam::Ring) -> Result<(), RingError> {
        let range = Range::new(theirs.start, theirs.end);
        check(range, &theirs.entries)?;
        let is_seeded = !theirs.seeds.is_empty() && !self.seeds.is_empty();
        if is_seeded && theirs.seeds != self.seeds {
            return Err(RingError::DifferentSeeds {
                received: theirs.seeds.clone(),
                ours: self.seeds.clone(),
            });
        }
        if range != self.universe {
            return Err(RingError::DifferentRange {
                received: range,
                ours: self.universe,
            });
        }
        Ok(())
    }

    /// What we own in `after` and not here, and the reverse.
    fn difference(&self, after: &Self) -> (Vec<Gain>, Vec<Range>) {
        let us = self.us;
        let unowned = (self.universe, None);
        let before = self.segments().map(|(range, owner)| (range, Some(owner)));
        let mut before = before.chain(self.is_empty().then_some(unowned)).peekable();
        let mut after = after.segments().peekable();
        let mut gained: Vec<Gain> = Vec::new();
        let mut lost: Vec<Range> = Vec::new();
        while let (Some((old, from)), Some((new, to))) = (before.peek(), after.peek()) {
            let (old, from, new, to) = (*old, *from, *new, *to);
            let range = Range::new(old.start.max(new.start), old.end.min(new.end));
            if to == us && from != Some(us) {
                match gained.last_mut() {
                    Some(last) if last.range.end == range.start && last.from == from => {
                        last.range.end = range.end;
                    }
                    _ => gained.push(Gain { range, from }),
                }
            }
            if from == Some(us) && to != us {
                match lost.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => lost.push(range),
                }
            }
            if old.end == range.end {
                before.next();
            }
            if new.end == range.end {
                after.next();
            }
        }
        (gained, lost)
    }
}

/// The walk over both rings, from the last token down.
///
/// Downwards, because what an entry would take from us ends at the next token of the *result*, and
/// whether a token of theirs is in the result depends on what is above it.
struct Walk<'a, F> {
    ring: &'a Ring,
    is_free: F,
    /// The result so far, descending.
    entries: Vec<Entry>,
    contests: Vec<Contest>,
    /// Where an entry that comes next ends in the result.
    kept: End,
    /// Where it ends by the ring received, entries left out included.
    said: End,
    /// First token of ours that we gave up, and how many.
    given_up: Option<(u32, usize)>,
}

/// Where an entry ends: at a token, or at the end of the universe and then at a token again.
#[derive(Debug, Clone, Copy)]
struct End {
    head: u32,
    /// Equal to the start of the universe if the entry does not wrap.
    tail: u32,
}

impl<'a, F: Fn(Range) -> bool> Walk<'a, F> {
    fn new(ring: &'a Ring, is_free: F) -> Self {
        let end = End {
            head: ring.universe.end,
            tail: ring.universe.start,
        };
        Self {
            ring,
            is_free,
            entries: Vec::with_capacity(ring.entries.len()),
            contests: Vec::new(),
            kept: end,
            said: end,
            given_up: None,
        }
    }

    fn run(mut self, theirs: &[Entry]) -> (Vec<Entry>, Vec<Contest>) {
        let ours = &self.ring.entries;
        let (Some(first), Some(last)) = (ours.first(), ours.last()) else {
            return (theirs.to_vec(), self.contests);
        };
        // What is below our first token is cut out of our last entry, like what is above its token.
        let below = theirs.partition_point(|e| e.token < first.token);
        let (below, mut rest) = theirs.split_at(below);
        self.pass(first.token);
        for entry in below.iter().rev() {
            self.consider_new(*entry, last.peer);
        }
        let below = std::mem::take(&mut self.entries);
        self.wrap();
        for mine in ours.iter().rev() {
            while let Some((entry, before)) = rest.split_last()
                && entry.token > mine.token
            {
                self.consider_new(*entry, mine.peer);
                rest = before;
            }
            let entry = match rest.split_last() {
                Some((entry, before)) if entry.token == mine.token => {
                    rest = before;
                    self.choose(self.clipped(*mine), self.clipped(*entry))
                }
                _ => *mine,
            };
            self.keep(entry);
        }
        if let Some((token, count)) = self.given_up {
            let token = Ipv4Addr::from_bits(token);
            tracing::info!(%token, count, "ring: repair inconsistent data by accepting token");
        }
        self.entries.extend(below);
        self.entries.reverse();
        self.contests.sort_by_key(|c| c.range);
        (self.entries, self.contests)
    }

    /// An entry of theirs whose token we do not have, inside an entry of `owner`.
    fn consider_new(&mut self, theirs: Entry, owner: PeerName) {
        let is_taken = owner == self.ring.us && theirs.peer != self.ring.us;
        if is_taken && !self.is_free_from(theirs.token) {
            let text = format!(
                "Peer {} says it owns the IP range from {}, which I think I own",
                theirs.peer,
                Ipv4Addr::from_bits(theirs.token)
            );
            self.contest(theirs, true, &text);
            self.said = self.end_at(theirs.token);
            return;
        }
        if is_taken {
            self.give_up(theirs.token);
        }
        self.keep(theirs);
    }

    /// Which of two entries of one token stays.
    fn choose(&mut self, mine: Entry, theirs: Entry) -> Entry {
        if mine.peer != self.ring.us {
            return rank_max(mine, theirs);
        }
        if theirs.version < mine.version {
            return mine;
        }
        if theirs.peer == mine.peer {
            // We did that and forgot it. The content is ours to say; the version must beat theirs.
            let is_newer = theirs.version > mine.version;
            let version = theirs.version.saturating_add(u32::from(is_newer));
            return Entry { version, ..mine };
        }
        let winner = rank_max(mine, theirs);
        let is_lost = winner == theirs;
        if !self.is_free_from(mine.token) {
            let text = contest_text(mine, theirs);
            self.contest(theirs, is_lost, &text);
            return mine;
        }
        if is_lost {
            self.give_up(mine.token);
        }
        winner
    }

    /// Whether no address of ours would be lost to an entry that begins here.
    fn is_free_from(&self, token: u32) -> bool {
        let mut ranges = self.ranges(token, self.kept).into_iter();
        ranges.all(|range| range.is_empty() || (self.is_free)(range))
    }

    fn contest(&mut self, theirs: Entry, is_lost: bool, text: &str) {
        let ranges = self.ranges(theirs.token, self.said).into_iter();
        for range in ranges.filter(|range| !range.is_empty()) {
            self.contests.push(Contest {
                range,
                ours: self.ring.us,
                theirs: theirs.peer,
                version: theirs.version,
                is_lost,
                text: text.to_owned(),
            });
        }
    }

    fn give_up(&mut self, token: u32) {
        let count = self.given_up.map_or(0, |(_, count)| count);
        self.given_up = Some((token, count + 1));
    }

    fn keep(&mut self, entry: Entry) {
        self.entries.push(self.clipped(entry));
        self.pass(entry.token);
    }

    /// An entry that reports no more free addresses than it has in the result. Its version stays:
    /// every peer that knows the same tokens clips alike. Entries of others need it too, as one that
    /// is taken over is not cut where its old owner had cut it unheard.
    fn clipped(&self, entry: Entry) -> Entry {
        let distance = self.ranges(entry.token, self.kept).map(Range::size);
        Entry {
            free: entry.free.min(distance.iter().sum()),
            ..entry
        }
    }

    /// What comes next ends here.
    fn pass(&mut self, token: u32) {
        self.kept = self.end_at(token);
        self.said = self.kept;
    }

    /// What comes next ends at the end of the universe, and then where the last one began.
    fn wrap(&mut self) {
        let end = self.ring.universe.end;
        let around = |tail: u32| End { head: end, tail };
        self.kept = around(self.kept.head);
        self.said = around(self.said.head);
    }

    const fn end_at(&self, token: u32) -> End {
        End {
            head: token,
            tail: self.ring.universe.start,
        }
    }

    const fn ranges(&self, token: u32, end: End) -> [Range; 2] {
        let start = self.ring.universe.start;
        [Range::new(start, end.tail), Range::new(token, end.head)]
    }
}

/// The entry everybody believes in the end.
fn rank_max(a: Entry, b: Entry) -> Entry {
    let rank = |e: &Entry| (e.version, e.free, Reverse(e.peer));
    if rank(&b) > rank(&a) { b } else { a }
}

fn contest_text(mine: Entry, theirs: Entry) -> String {
    let token = Ipv4Addr::from_bits(mine.token);
    if theirs.version == mine.version {
        return format!(
            "Inconsistent entries for {token}: owned by {} but incoming message says {}",
            mine.peer, theirs.peer
        );
    }
    format!(
        "Received update for IP range I own at {token} v{}: incoming message says owner {} v{}",
        mine.version, theirs.peer, theirs.version
    )
}

#[cfg(test)]
mod tests;
