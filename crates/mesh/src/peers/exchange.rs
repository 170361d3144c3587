//! Neighbours that understand deltas compare what they hold, and tell each other the difference
//! (`wire::delta`).

use std::time::Instant;

use wire::PeerName;
use wire::delta::{EntryContent, EntryNews, KnownEntry};
use wire::topology::PeerSummary;

use super::delta::mix;
use super::doubts::{Teller, age};
use super::entry::Peer;
use super::history::{Base, Changes};
use super::table::PeerTable;

/// What news brought.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Entries we knew an older version of, or none.
    pub(crate) improved: Changes,
    /// Entries of which we know too little to make use of the difference.
    pub(crate) wanted: Vec<KnownEntry>,
    /// Whether we outran an entry left over from an earlier run of ours.
    pub(crate) outran: bool,
}

impl PeerTable {
    /// A hash over the versions of all entries but our own and a neighbour's, which tell each other
    /// of theirs anyway.
    pub(crate) fn digest_for(&self, neighbour: PeerName) -> u64 {
        self.digest(|name| name != neighbour && name != self.us())
    }

    /// A hash over the versions of all entries. Now and then both ends compare this one, so that
    /// each learns what the other was told about it, true or not.
    pub(crate) fn digest_of_all(&self) -> u64 {
        self.digest(|_| true)
    }

    fn digest(&self, counts: impl Fn(PeerName) -> bool) -> u64 {
        let entries = self.iter();
        let entries = entries.filter(|(name, peer)| peer.version > 0 && counts(*name));
        entries.fold(0, |sum, (name, peer)| {
            let mixed = mix(name.to_u64() ^ mix(peer.uid ^ mix(peer.version)));
            sum.wrapping_add(mixed)
        })
    }

    /// Which version of each entry we have. Entries nobody told us about are left out.
    pub(crate) fn known_entries(&self) -> Vec<KnownEntry> {
        let entries = self.iter().filter(|(_, peer)| peer.version > 0);
        let known = entries.map(|(name, peer)| KnownEntry {
            name,
            uid: peer.uid,
            version: peer.version,
        });
        known.collect()
    }

    /// Which versions of some entries we have.
    pub(crate) fn bases(&self, names: impl Iterator<Item = PeerName>) -> Changes {
        let known = names.filter_map(|name| Some((name, self.get(name)?.base())));
        known.collect()
    }

    /// What those who know these versions have to be told.
    pub(crate) fn news_since(&self, changes: &Changes) -> Vec<EntryNews> {
        let news = changes
            .iter()
            .filter_map(|(name, base)| self.get(*name)?.news_since(*name, *base));
        news.collect()
    }

    /// Compares what a neighbour has with what we have: what it lacks, and what we lack. `complete`
    /// says that it has no other entries.
    pub(crate) fn compare(
        &mut self,
        teller: Teller,
        theirs: &[KnownEntry],
        complete: bool,
        now: Instant,
    ) -> (Changes, Applied) {
        let mut lacking = Changes::new();
        let mut applied = Applied::default();
        if complete {
            let ours = self.iter().filter(|(_, peer)| peer.version > 0);
            lacking.extend(ours.map(|(name, _)| (name, Base::default())));
        }
        for entry in theirs.iter().filter(|entry| !entry.name.is_unknown()) {
            let known = self.get(entry.name).map(Peer::base).unwrap_or_default();
            let (our_age, their_age) =
                (age(known.version, known.uid), age(entry.version, entry.uid));
            if our_age > their_age {
                let base = Base {
                    uid: entry.uid,
                    version: entry.version,
                };
                lacking.insert(entry.name, base);
            } else {
                lacking.remove(&entry.name);
            }
            if entry.name == self.us() {
                applied.outran |= self.outrun_known(entry);
            } else if complete && (our_age < their_age || self.is_doubted(teller, entry, now)) {
                // What contradicts ours is wanted whole: it is judged like any gossip.
                let version = if our_age < their_age {
                    known.version
                } else {
                    0
                };
                applied.wanted.push(KnownEntry {
                    version,
                    uid: known.uid,
                    ..*entry
                });
            }
        }
        (lacking, applied)
    }

    /// Takes over what a neighbour tells.
    pub(crate) fn apply(&mut self, teller: Teller, news: Vec<EntryNews>, now: Instant) -> Applied {
        let mut applied = Applied::default();
        for entry in news {
            let before = self.get(entry.name).map(Peer::base).unwrap_or_default();
            let (name, told) = (entry.name, entry.told);
            let improved = match entry.content {
                EntryContent::Whole {
                    nickname,
                    connections,
                } => {
                    let summary = PeerSummary {
                        name,
                        nickname,
                        uid: entry.uid,
                        version: entry.version,
                        short_id: entry.short_id,
                        connections,
                    };
                    let merged = self.merge_from(teller, &[summary], now);
                    applied.outran |= merged.outran;
                    merged.improved.contains(&name)
                }
                EntryContent::Change { .. } if name == self.us() => {
                    applied.outran |= self.outrun_known(&KnownEntry {
                        name,
                        uid: entry.uid,
                        version: entry.version,
                    });
                    continue;
                }
                EntryContent::Change { .. } => match self.judge_change(teller, &entry) {
                    Change::Useless => continue,
                    Change::Unusable(wanted) => {
                        applied.wanted.push(wanted);
                        continue;
                    }
                    Change::Usable(new) => self.take_change(teller, name, new, now),
                },
            };
            if improved {
                self.set_told(name, told);
                applied.improved.insert(name, before);
            }
        }
        applied
    }
}

/// What can be done with a change of an entry.
enum Change {
    /// We know as much.
    Useless,
    /// We do not know what it was made from: this has to be asked for.
    Unusable(KnownEntry),
    /// The entry after it.
    Usable(Peer),
}

impl PeerTable {
    fn judge_change(&self, teller: Teller, news: &EntryNews) -> Change {
        let EntryContent::Change {
            base,
            check,
            connections,
            removed,
        } = &news.content
        else {
            return Change::Useless;
        };
        let name = news.name;
        let known = self.get(name);
        let before = known.map(Peer::base).unwrap_or_default();
        let ask_since = |version| {
            Change::Unusable(KnownEntry {
                name,
                uid: before.uid,
                version,
            })
        };
        let (age_now, age_then) = (age(news.version, news.uid), age(before.version, before.uid));
        let is_first_hand = teller.name == name && teller.uid == news.uid;
        if age_now <= age_then {
            let agrees = age_now == age_then && known.is_none_or(|known| known.check() == *check);
            // What it says of itself is wanted whole if what we were told is something else.
            let is_contradiction = is_first_hand && !agrees;
            return if is_contradiction {
                ask_since(0)
            } else {
                Change::Useless
            };
        }
        let is_usable = before.uid == news.uid && (*base..news.version).contains(&before.version);
        let Some(known) = known.filter(|_| is_usable && before.version > 0) else {
            return ask_since(before.version);
        };
        let new = known.changed(news, connections, removed);
        if new.check() == *check {
            Change::Usable(new)
        } else {
            ask_since(0)
        }
    }
}

#[cfg(test)]
mod tests;
