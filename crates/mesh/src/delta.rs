//! Saying only what changed: what a peer's entry was before, so that those who know an earlier
//! version are told the difference. Not part of what originals understand; the messages are in
//! `wire::delta`.

use std::collections::BTreeMap;
use std::time::Instant;

use wire::PeerName;
use wire::delta::{EntryContent, EntryNews, KnownEntry};
use wire::topology::{ConnectionSummary, PeerSummary};

use crate::address::RemoteAddress;
use crate::doubts::{Teller, age};
use crate::peers::{Adjacency, Peer, PeerTable};
use crate::shortid::SHORT_IDS;

/// Most connections gone that are remembered per entry; who knows an older version gets it whole.
const REMOVED_MAX: usize = 64;

/// What an entry was before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct History {
    /// The oldest version since which every change is known; 0 in entries fresh from gossip.
    floor: u64,
    /// One version before that from which the difference is known too, 0 if none: what was between
    /// the two we never saw.
    also: u64,
    /// Connections gone since then, with the version that no longer had them.
    removed: BTreeMap<PeerName, u64>,
    /// Whether the peer itself tells this version to all its neighbours that understand deltas.
    pub(crate) told: bool,
}

impl History {
    /// Forgets what was before a version: whoever knows an older one gets the entry whole.
    pub(crate) fn restart(&mut self, version: u64) {
        self.floor = version;
        self.also = 0;
        self.removed.clear();
    }

    fn remove(&mut self, remote: PeerName, version: u64) {
        self.removed.insert(remote, version);
        if self.removed.len() > REMOVED_MAX {
            let oldest = self.removed.values().min().copied().unwrap_or_default();
            self.removed.retain(|_, at| *at > oldest);
            self.floor = self.floor.max(oldest);
            if self.also < oldest {
                self.also = 0;
            }
        }
    }
}

/// An earlier version of an entry; of incarnation 0 if there was none worth mentioning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) uid: u64,
    pub(crate) version: u64,
}

impl Base {
    /// The base from which both differences can be told.
    pub(crate) fn meet(self, other: Self) -> Self {
        if self.uid != other.uid {
            return Self::default();
        }
        Self {
            uid: self.uid,
            version: self.version.min(other.version),
        }
    }
}

/// Names of entries that changed, and what they were before.
pub(crate) type Changes = BTreeMap<PeerName, Base>;

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

impl Peer {
    /// Which version this is.
    pub(crate) fn base(&self) -> Base {
        Base {
            uid: self.uid,
            version: self.version,
        }
    }

    /// Notes what became different since the entry this one replaces, unless that was done.
    pub(crate) fn date(&mut self, old: Option<&Self>) {
        if self.history.floor != 0 {
            return;
        }
        let version = self.version;
        self.history.floor = version;
        let old = old.filter(|old| old.uid == self.uid && (1..version).contains(&old.version));
        let Some(old) = old else {
            for adjacency in self.adjacencies.values_mut() {
                adjacency.changed_at = version;
            }
            return;
        };
        self.history.also = old.version;
        for (remote, adjacency) in &mut self.adjacencies {
            let before = old.adjacencies.get(remote);
            adjacency.changed_at = before
                .filter(|before| before.says(adjacency))
                .map_or(version, |before| before.changed_at);
        }
        for remote in old.adjacencies.keys() {
            if !self.adjacencies.contains_key(remote) {
                self.history.remove(*remote, version);
            }
        }
    }

    /// Sets one connection, as of the present version.
    pub(crate) fn set_adjacency(&mut self, remote: PeerName, mut adjacency: Adjacency) {
        adjacency.changed_at = self.version;
        self.adjacencies.insert(remote, adjacency);
        self.history.removed.remove(&remote);
    }

    /// Removes one connection, as of the present version.
    pub(crate) fn remove_adjacency(&mut self, remote: PeerName) {
        self.adjacencies.remove(&remote);
        // Somebody may have it whom we told nothing yet, even if we never had.
        self.history.remove(remote, self.version);
    }

    /// What somebody who knows a version has to be told, if anything.
    fn news_since(&self, name: PeerName, base: Base) -> Option<EntryNews> {
        if self.version == 0 || base == self.base() {
            return None;
        }
        let can_differ = base.uid == self.uid && base.version > 0;
        let is_known = base.version >= self.history.floor || base.version == self.history.also;
        let content = if can_differ && is_known {
            if base.version > self.version {
                return None;
            }
            let since = |at: u64| at > base.version;
            let removed = self.history.removed.iter();
            EntryContent::Change {
                base: base.version,
                check: self.check(),
                connections: self.connections(|adjacency| since(adjacency.changed_at)),
                removed: removed
                    .filter(|(_, at)| since(**at))
                    .map(|(n, _)| *n)
                    .collect(),
            }
        } else {
            EntryContent::Whole {
                nickname: self.nickname.clone(),
                connections: self.connections(|_| true),
            }
        };
        Some(EntryNews {
            name,
            uid: self.uid,
            version: self.version,
            short_id: self.short_id,
            told: self.history.told,
            content,
        })
    }

    /// A hash over the nickname and all connections, the same in every process.
    pub(crate) fn check(&self) -> u32 {
        let all = self.adjacencies.iter();
        let start = mix_bytes(self.nickname.as_bytes());
        let sum = all.fold(start, |sum, (remote, adjacency)| {
            let state = u64::from(adjacency.outbound) | u64::from(adjacency.established) << 1;
            let address = match &adjacency.remote_address {
                RemoteAddress::V4(address) => {
                    u64::from(address.ip().to_bits()) << 16 | u64::from(address.port())
                }
                RemoteAddress::Text(text) => mix_bytes(text.as_bytes()),
            };
            sum.wrapping_add(mix(mix(address) ^ (remote.to_u64() << 2 | state)))
        });
        // The low half is as good as any.
        mix(sum) as u32
    }

    /// The entry as it is after a change, without what it does not tell.
    fn changed(
        &self,
        news: &EntryNews,
        connections: &[ConnectionSummary],
        removed: &[PeerName],
    ) -> Self {
        let mut entry = self.clone();
        entry.version = news.version;
        entry.short_id = news.short_id.filter(|id| *id < SHORT_IDS);
        for remote in removed {
            entry.remove_adjacency(*remote);
        }
        for connection in connections.iter().filter(|c| !c.remote.is_unknown()) {
            entry.set_adjacency(connection.remote, Adjacency::from_summary(connection));
        }
        entry
    }
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

fn mix_bytes(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(1, |sum, byte| mix(sum ^ u64::from(*byte)))
}

/// Finaliser of splitmix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests;
