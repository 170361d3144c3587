//! Saying only what changed of an entry: those who know an earlier version are told the difference.
//! Not part of what originals understand; the messages are in `wire::delta`.

use wire::PeerName;
use wire::delta::{EntryContent, EntryNews};
use wire::topology::ConnectionSummary;

use super::address::RemoteAddress;
use super::entry::{Adjacency, Peer};
use super::history::Base;
use super::shortid::SHORT_IDS;

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
        if self.history.is_dated() {
            return;
        }
        let version = self.version;
        let old = old.filter(|old| old.uid == self.uid && (1..version).contains(&old.version));
        self.history
            .begin(version, old.map_or(0, |old| old.version));
        let Some(old) = old else {
            for adjacency in self.adjacencies.values_mut() {
                adjacency.changed_at = version;
            }
            return;
        };
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
        self.history.restore(remote);
    }

    /// Removes one connection, as of the present version.
    pub(crate) fn remove_adjacency(&mut self, remote: PeerName) {
        self.adjacencies.remove(&remote);
        // Somebody may have it whom we told nothing yet, even if we never had.
        self.history.remove(remote, self.version);
    }

    /// What somebody who knows a version has to be told, if anything.
    pub(super) fn news_since(&self, name: PeerName, base: Base) -> Option<EntryNews> {
        if self.version == 0 || base == self.base() {
            return None;
        }
        let can_differ = base.uid == self.uid && base.version > 0;
        let content = if can_differ && self.history.knows(base.version) {
            if base.version > self.version {
                return None;
            }
            EntryContent::Change {
                base: base.version,
                check: self.check(),
                connections: self.connections(|adjacency| adjacency.changed_at > base.version),
                removed: self.history.removed_since(base.version),
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
    pub(super) fn changed(
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

fn mix_bytes(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(1, |sum, byte| mix(sum ^ u64::from(*byte)))
}

/// Finaliser of splitmix64.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}
