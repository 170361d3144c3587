//! How entries heal that somebody forged (spec/mesh.md 8.3 knows no such thing).
//!
//! The rule of the protocol is that the greater version of an entry wins. Whoever claims version
//! 2^64-1 for another peer would pin that entry for ever. Three rules of ours undo this without any
//! other peer noticing:
//!
//! - A version nobody reaches by counting changes loses against any that can be reached.
//! - What a neighbour says about itself wins over what others say about it, once it has said so for
//!   longer than honest news can overtake each other.
//! - What somebody goes on saying for long although we hold a greater version wins: honest older
//!   news die out within a gossip interval or two. The entry that lost is not taken again for a
//!   while, so that those who still hold it cannot bring it back before they have let go of it too.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::time::{Duration, Instant};

use wire::PeerName;

use super::entry::Peer;

/// Versions from here on cannot be reached by counting: a million changes per second for eight years.
pub(crate) const PLAUSIBLE_VERSIONS: u64 = 1 << 48;
/// We go past forged versions of our own entry by far only below this, so that there is room above.
pub(crate) const OUTRUN_VERSIONS: u64 = 1 << 47;
/// A lead somebody may have forged that we go past even so.
const SMALL_LEAD: u64 = 1 << 20;
/// How long a neighbour has to contradict what we hold about it.
const PATIENCE_FIRST_HAND: Duration = Duration::from_secs(15);
/// How long anybody else has to.
const PATIENCE_HEARSAY: Duration = Duration::from_secs(90);
/// How long an entry that lost is refused: longer than all others need to let go of it.
const REFUSED_FOR: Duration = Duration::from_secs(900);

/// What decides between two entries of one peer; the greater wins.
pub(crate) fn age(version: u64, uid: u64) -> (u8, u64, u64) {
    let rank = match version {
        // Placeholders, and entries made from an introduction.
        0 => 0,
        PLAUSIBLE_VERSIONS.. => 1,
        _ => 2,
    };
    (rank, version, uid)
}

/// Whether our entry may go past a version somebody forged.
pub(crate) fn can_outrun(own: u64, forged: u64) -> bool {
    let is_near = forged <= own.saturating_add(SMALL_LEAD);
    forged < OUTRUN_VERSIONS || is_near && forged < PLAUSIBLE_VERSIONS - SMALL_LEAD
}

/// Who tells us about the topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Teller {
    /// The neighbour.
    pub(crate) name: PeerName,
    /// Its incarnation, as it introduced itself.
    pub(crate) uid: u64,
}

/// Whose word contradicts an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Witness {
    /// The peer's own.
    FirstHand,
    /// Somebody's.
    Hearsay,
}

/// Entries that are contradicted, and those that lost. At most a few per entry of the table.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    contradicted_since: BTreeMap<(PeerName, Witness), Instant>,
    refused: BTreeMap<PeerName, Refused>,
}

#[derive(Debug)]
struct Refused {
    digest: u64,
    /// From here on nothing is believed: no peer gets there by itself.
    ceiling: Option<(u8, u64, u64)>,
    until: Instant,
}

impl Doubts {
    /// Somebody says less than we hold. Whether it has been said for so long that it wins.
    pub(crate) fn contradict(&mut self, name: PeerName, witness: Witness, now: Instant) -> bool {
        let since = *self
            .contradicted_since
            .entry((name, witness))
            .or_insert(now);
        let patience = match witness {
            Witness::FirstHand => PATIENCE_FIRST_HAND,
            Witness::Hearsay => PATIENCE_HEARSAY,
        };
        now.saturating_duration_since(since) >= patience
    }

    /// An entry was replaced, so nothing contradicts it yet.
    pub(crate) fn settle(&mut self, name: PeerName) {
        self.contradicted_since.remove(&(name, Witness::FirstHand));
        self.contradicted_since.remove(&(name, Witness::Hearsay));
    }

    /// An entry lost against a contradiction of a smaller version.
    pub(crate) fn refuse(&mut self, name: PeerName, entry: &Peer, winner: u64, now: Instant) {
        let (digest, until) = (digest(entry), now + REFUSED_FOR);
        let is_out_of_reach =
            entry.version >= OUTRUN_VERSIONS && entry.version > winner.saturating_add(SMALL_LEAD);
        let reach = OUTRUN_VERSIONS.max(winner.saturating_add(SMALL_LEAD));
        let found = is_out_of_reach.then(|| age(reach, 0));
        let earlier = self
            .refused
            .get(&name)
            .filter(|earlier| now < earlier.until);
        // Several forgeries may be under way: all that is out of reach is refused.
        let ceilings = [found, earlier.and_then(|earlier| earlier.ceiling)];
        let ceiling = ceilings.into_iter().flatten().min();
        let refused = Refused {
            digest,
            ceiling,
            until,
        };
        self.refused.insert(name, refused);
    }

    /// Whether an entry is one that lost lately.
    pub(crate) fn refuses(&self, name: PeerName, entry: &Peer, now: Instant) -> bool {
        let refused = self
            .refused
            .get(&name)
            .filter(|refused| now < refused.until);
        refused.is_some_and(|refused| {
            let is_above = |ceiling| age(entry.version, entry.uid) >= ceiling;
            refused.ceiling.is_some_and(is_above) || refused.digest == digest(entry)
        })
    }

    /// A peer is gone.
    pub(crate) fn forget(&mut self, name: PeerName) {
        self.settle(name);
        self.refused.remove(&name);
    }

    /// How much is remembered.
    pub(crate) fn len(&self) -> usize {
        self.contradicted_since.len() + self.refused.len()
    }
}

fn digest(entry: &Peer) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(entry.version);
    hasher.write_u64(entry.uid);
    for (remote, adjacency) in &entry.adjacencies {
        hasher.write_u64(remote.to_u64());
        hasher.write_u8(u8::from(adjacency.established));
    }
    hasher.finish()
}
