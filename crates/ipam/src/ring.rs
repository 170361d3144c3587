//! The ring: which peer owns which addresses (spec/ipam.md 2).
//!
//! A ring is a sorted list of entries over a universe. An entry owns the addresses from its token
//! to the next token; the last entry also owns what lies below the first token. Every peer holds a
//! copy. Only the owner of an entry changes it, and each change raises its version, so copies are
//! merged entry by entry ([`Ring::merge`]). Tokens are never removed.
//!
//! Which of our addresses are in use is not known here; [`crate::space`] knows.

mod merge;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use rand::{Rng, RngExt};
use wire::PeerName;
pub use wire::ipam::Entry;

use crate::address::{Range, merge_ranges};
pub use merge::{Contest, Gain, Merged};

/// Most entries a ring may grow to by what others say. Each address given to another peer by name
/// costs two; a ring of this size still fits into a message of 10 MB.
pub const ENTRIES_MAX: usize = 1 << 18;
/// What a transfer adds to versions, so that it beats the small steps its old owner makes meanwhile.
const TRANSFER_STEP: u32 = 100;

/// Who owns what, as one peer knows it.
///
/// Invariants: tokens ascend strictly and lie in the universe; no entry reports more free addresses
/// than it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    universe: Range,
    us: PeerName,
    /// Shared with snapshots; copied if they change while one is kept.
    entries: Arc<Vec<Entry>>,
    seeds: Vec<PeerName>,
}

/// Why a ring is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Tokens do not ascend.
    #[error("Ring not sorted")]
    NotSorted,
    /// Two entries begin at the same address.
    #[error("Token appears twice in ring")]
    TokenTwice,
    /// An entry begins outside of the universe.
    #[error("Token is out of range")]
    TokenOutOfRange,
    /// An entry reports more free addresses than it has.
    #[error("Entry {}-{} reporting too much free space: {free} > {distance}",
        Ipv4Addr::from_bits(*.token), Ipv4Addr::from_bits(*.next))]
    TooMuchFree {
        /// Where the entry begins.
        token: u32,
        /// Where the next entry begins.
        next: u32,
        /// What it reports.
        free: u32,
        /// How many addresses it has.
        distance: u32,
    },
    /// More than [`ENTRIES_MAX`] entries.
    #[error("ring with {0} entries, at most {ENTRIES_MAX} are kept")]
    TooManyEntries(usize),
    /// The ring was first divided among others.
    #[error("{}", seeds_text(received, ours, &|_| String::new()))]
    DifferentSeeds {
        /// By the ring received.
        received: Vec<PeerName>,
        /// By ours.
        ours: Vec<PeerName>,
    },
    /// The ring is one of another universe.
    #[error("Incompatible IP allocation ranges (received: {}, ours: {})",
        Prefix(*received), Prefix(*ours))]
    DifferentRange {
        /// By the ring received; not validated.
        received: Range,
        /// By ours.
        ours: Range,
    },
}

impl RingError {
    /// The text with the nicknames of the peers in it.
    pub fn describe(&self, nickname: impl Fn(PeerName) -> String) -> String {
        if let Self::DifferentSeeds { received, ours } = self {
            return seeds_text(received, ours, &nickname);
        }
        self.to_string()
    }
}

impl Ring {
    /// A ring without entries: nobody owns anything yet.
    pub fn new(universe: Range, us: PeerName) -> Self {
        assert!(!universe.is_empty(), "a universe has addresses");
        Self {
            universe,
            us,
            entries: Arc::default(),
            seeds: Vec::new(),
        }
    }

    /// A ring as it was stored.
    pub fn restore(
        universe: Range,
        us: PeerName,
        entries: Vec<Entry>,
        seeds: Vec<PeerName>,
    ) -> Result<Self, RingError> {
        check(universe, &entries)?;
        Ok(Self {
            entries: Arc::new(entries),
            seeds,
            ..Self::new(universe, us)
        })
    }

    /// Whether nobody owns anything yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries, ascending by token.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The peers among which the ring was first divided, ascending; empty if that is not known.
    pub fn seeds(&self) -> &[PeerName] {
        &self.seeds
    }

    /// All addresses the ring is about.
    pub const fn universe(&self) -> Range {
        self.universe
    }

    /// Whose copy this is.
    pub const fn us(&self) -> PeerName {
        self.us
    }

    /// The ring as it is sent.
    pub fn to_wire(&self) -> wire::ipam::Ring {
        wire::ipam::Ring {
            start: self.universe.start,
            end: self.universe.end,
            peer: self.us,
            entries: self.entries.to_vec(),
            seeds: self.seeds.clone(),
        }
    }

    /// Who owns the address; `None` outside of the universe and while the ring is empty.
    pub fn owner(&self, address: u32) -> Option<PeerName> {
        if !self.universe.contains(address) {
            return None;
        }
        let after = self.entries.partition_point(|e| e.token <= address);
        let last = self.entries.last()?;
        let inside = after.checked_sub(1).map_or(last, |i| &self.entries[i]);
        Some(inside.peer)
    }

    /// Everybody who owns addresses.
    pub fn owners(&self) -> BTreeSet<PeerName> {
        self.entries.iter().map(|e| e.peer).collect()
    }

    /// What a peer owns, entry by entry, ascending. An entry that wraps is two ranges.
    pub fn owned_ranges(&self, peer: PeerName) -> Vec<Range> {
        let owned = self.segments().filter(|(_, owner)| *owner == peer);
        owned.map(|(range, _)| range).collect()
    }

    /// The whole universe, ascending: what each entry owns and who it is. An entry that wraps is two
    /// ranges. Nothing while the ring is empty.
    pub fn segments(&self) -> impl Iterator<Item = (Range, PeerName)> {
        let wrapped = self.entries.first().zip(self.entries.last());
        let wrapped = wrapped.map(|(first, last)| {
            let below = Range::new(self.universe.start, first.token);
            (below, last.peer)
        });
        let ends = self.entries.iter().skip(1).map(|e| e.token);
        let ends = ends.chain([self.universe.end]);
        let entries = self.entries.iter().zip(ends);
        let entries = entries.map(|(e, end)| (Range::new(e.token, end), e.peer));
        wrapped
            .into_iter()
            .filter(|(range, _)| !range.is_empty())
            .chain(entries)
    }

    /// Divides an empty ring among peers: halves of peers share halves of the universe, down to
    /// one peer or one address.
    pub fn claim_for_peers(&mut self, peers: &[PeerName]) {
        assert!(self.is_empty(), "only an empty ring is divided");
        let peers: BTreeSet<PeerName> = peers.iter().copied().collect();
        let peers: Vec<PeerName> = peers.into_iter().collect();
        assert!(!peers.is_empty(), "a ring is divided among somebody");
        self.divide(self.universe, &peers);
        self.seeds = peers;
        self.assert_invariants();
    }

    fn divide(&mut self, range: Range, peers: &[PeerName]) {
        let size = range.size();
        if peers.len() == 1 || size == 1 {
            Arc::make_mut(&mut self.entries).push(Entry {
                token: range.start,
                peer: peers[0],
                version: 0,
                free: size,
            });
            return;
        }
        let middle = range.start + size / 2;
        let (lower, upper) = peers.split_at(peers.len() / 2);
        self.divide(Range::new(range.start, middle), lower);
        self.divide(Range::new(middle, range.end), upper);
    }

    /// Gives addresses of ours to another peer. None of them may be in use.
    ///
    /// The caller persists the ring before anybody hears of it.
    pub fn grant(&mut self, range: Range, to: PeerName) {
        assert!(!range.is_empty(), "something is granted");
        assert!(self.universe.encloses(range), "{range} is in the universe");
        assert!(self.owns(range), "{range} is ours to grant");

        // The upper cut first: then every other length can be read from the list.
        let after = if range.end == self.universe.end {
            self.universe.start
        } else {
            range.end
        };
        if after != range.start && self.position(after).is_err() {
            self.insert(after, self.us);
        }
        let first = match self.position(range.start) {
            Ok(index) => index,
            Err(_) => self.split(range.start, to),
        };
        let granted = self.entries[first..].iter();
        let count = granted.take_while(|e| e.token < range.end).count();
        for index in first..first + count {
            let distance = self.distance(index);
            let entry = &mut Arc::make_mut(&mut self.entries)[index];
            if entry.peer == to {
                continue;
            }
            entry.peer = to;
            entry.version = entry.version.saturating_add(1);
            entry.free = if index == first {
                distance
            } else {
                entry.free.min(distance)
            };
        }
        self.assert_invariants();
    }

    /// Inserts an entry, all free, where none begins. What it cuts off is not taken note of.
    fn insert(&mut self, token: u32, peer: PeerName) -> usize {
        let index = self.position(token).expect_err("no entry begins here");
        let entry = Entry {
            token,
            peer,
            version: 0,
            free: 0,
        };
        Arc::make_mut(&mut self.entries).insert(index, entry);
        let distance = self.distance(index);
        Arc::make_mut(&mut self.entries)[index].free = distance;
        index
    }

    /// Inserts an entry into one of ours, which is changed by that.
    fn split(&mut self, token: u32, peer: PeerName) -> usize {
        let index = self.insert(token, peer);
        let before = index.checked_sub(1).unwrap_or(self.entries.len() - 1);
        let distance = self.distance(before);
        let entry = &mut Arc::make_mut(&mut self.entries)[before];
        assert_eq!(entry.peer, self.us, "only entries of ours are split");
        entry.version = entry.version.saturating_add(1);
        entry.free = distance;
        index
    }

    /// Takes over how many addresses are free in each range of ours, and raises the version of
    /// each entry where that changed. True if anything changed.
    pub fn report_free(&mut self, free_in: impl Fn(Range) -> u32) -> bool {
        self.report_free_except(&[], free_in)
    }

    /// The same, but entries that begin in a `frozen` range stay as they are: we are about to lose
    /// them ([`Contest::is_lost`]), and a higher version would say otherwise.
    pub fn report_free_except(&mut self, frozen: &[Range], free_in: impl Fn(Range) -> u32) -> bool {
        let frozen = merge_ranges(frozen.to_vec());
        let is_frozen = |token: u32| {
            let after = frozen.partition_point(|range| range.start <= token);
            after > 0 && frozen[after - 1].contains(token)
        };
        let below = self.below_first();
        let last = self.entries.len().saturating_sub(1);
        let mut changed = false;
        for index in 0..self.entries.len() {
            let Entry {
                token,
                peer,
                free: told,
                ..
            } = self.entries[index];
            if peer != self.us || is_frozen(token) {
                continue;
            }
            let mut free = free_in(Range::new(token, self.end_of(index)));
            if index == last && !below.is_empty() {
                free += free_in(below);
            }
            let distance = self.distance(index);
            assert!(free <= distance, "{free} addresses free of {distance}");
            if told != free {
                let entry = &mut Arc::make_mut(&mut self.entries)[index];
                entry.free = free;
                entry.version = entry.version.saturating_add(1);
                changed = true;
            }
        }
        changed
    }

    /// Makes everything of one peer another's, and says what that was, ascending.
    pub fn transfer(&mut self, from: PeerName, to: PeerName) -> Vec<Range> {
        let ranges = self.owned_ranges(from);
        let entries = Arc::make_mut(&mut self.entries).iter_mut();
        for entry in entries.filter(|e| e.peer == from) {
            entry.peer = to;
            entry.version = entry.version.saturating_add(TRANSFER_STEP);
        }
        ranges
    }

    /// Whom to ask for space in `wanted`, best first: others who report free addresses there. Who
    /// has more is likelier to come first (spec/ipam.md 2.3).
    pub fn choose_donors(&self, wanted: Range, rng: &mut impl Rng) -> Vec<PeerName> {
        let mut free: BTreeMap<PeerName, u64> = BTreeMap::new();
        let below = self.below_first();
        for (index, entry) in self.entries.iter().enumerate() {
            let range = Range::new(entry.token, self.end_of(index));
            let wraps = index + 1 == self.entries.len() && below.overlaps(wanted);
            let is_donor = entry.peer != self.us && entry.free > 0;
            if is_donor && (wraps || range.overlaps(wanted)) {
                *free.entry(entry.peer).or_default() += u64::from(entry.free);
            }
        }
        let weighed = free.into_iter().map(|(peer, free)| {
            let weight = free as f64 * rng.random::<f64>();
            (weight, peer)
        });
        let mut weighed: Vec<(f64, PeerName)> = weighed.collect();
        weighed.sort_by(|a, b| b.0.total_cmp(&a.0));
        weighed.into_iter().map(|(_, peer)| peer).collect()
    }

    /// Panics if this is no ring.
    pub fn assert_invariants(&self) {
        if let Err(error) = check(self.universe, &self.entries) {
            panic!("broken ring of {}: {error}", self.us);
        }
    }

    /// Whether all of the range is ours.
    fn owns(&self, range: Range) -> bool {
        let inside = self.segments().filter(|(r, _)| r.overlaps(range));
        let mut inside = inside.peekable();
        inside.peek().is_some() && inside.all(|(_, owner)| owner == self.us)
    }

    /// Index of the entry that begins at `token`, or where it would be inserted.
    fn position(&self, token: u32) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&token, |e| e.token)
    }

    /// What lies below the first token and belongs to the last entry; often nothing.
    fn below_first(&self) -> Range {
        let end = self
            .entries
            .first()
            .map_or(self.universe.start, |e| e.token);
        Range::new(self.universe.start, end)
    }

    /// Where an entry ends, wrapping left aside.
    fn end_of(&self, index: usize) -> u32 {
        let next = self.entries.get(index + 1);
        next.map_or(self.universe.end, |e| e.token)
    }

    /// How many addresses an entry has.
    fn distance(&self, index: usize) -> u32 {
        distance_after(self.universe, &self.entries, index)
    }
}

/// How many addresses lie between an entry and the next, around the end of the universe.
fn distance_after(universe: Range, entries: &[Entry], index: usize) -> u32 {
    let from = entries[index].token;
    let to = entries.get(index + 1).unwrap_or(&entries[0]).token;
    if to > from {
        return to - from;
    }
    (universe.end - from) + (to - universe.start)
}

/// Whether entries make a ring, tested in the order of spec/ipam.md 2.
fn check(universe: Range, entries: &[Entry]) -> Result<(), RingError> {
    let in_order = |test: fn(&u32, &u32) -> bool| {
        let mut pairs = entries.windows(2);
        pairs.all(|pair| test(&pair[0].token, &pair[1].token))
    };
    if !in_order(u32::le) {
        return Err(RingError::NotSorted);
    }
    if !in_order(u32::lt) {
        return Err(RingError::TokenTwice);
    }
    if !entries.iter().all(|e| universe.contains(e.token)) {
        return Err(RingError::TokenOutOfRange);
    }
    for (index, entry) in entries.iter().enumerate() {
        let distance = distance_after(universe, entries, index);
        if entry.free > distance {
            return Err(RingError::TooMuchFree {
                token: entry.token,
                next: entries.get(index + 1).unwrap_or(&entries[0]).token,
                free: entry.free,
                distance,
            });
        }
    }
    Ok(())
}

/// A range as a prefix, or by its ends where it is none.
struct Prefix(Range);

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_cidr() {
            Some(cidr) => cidr.fmt(f),
            None => self.0.fmt(f),
        }
    }
}

/// Most seeds a text names; of a longer list the rest is left out.
const SEEDS_SHOWN_MAX: usize = 32;

fn seeds_text(
    received: &[PeerName],
    ours: &[PeerName],
    nickname: &dyn Fn(PeerName) -> String,
) -> String {
    let list = |peers: &[PeerName]| {
        let shown = peers.iter().take(SEEDS_SHOWN_MAX);
        let shown = shown.map(|peer| format!("{peer}({})", nickname(*peer)));
        let rest = (peers.len() > SEEDS_SHOWN_MAX).then(|| "...".to_owned());
        shown.chain(rest).collect::<Vec<_>>().join(" ")
    };
    format!(
        "IP allocation was seeded by different peers (received: [{}], ours: [{}])",
        list(received),
        list(ours)
    )
}

#[cfg(test)]
mod tests;
