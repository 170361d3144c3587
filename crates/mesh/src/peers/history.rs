//! What an entry was before, and how changes are named.

use std::collections::BTreeMap;

use wire::PeerName;

/// Most connections gone that are remembered per entry; who knows an older version gets it whole.
const REMOVED_MAX: usize = 64;

/// What an entry was before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct History {
    /// The oldest version since which every change is known; 0 in entries fresh from gossip.
    floor: u64,
    /// One version before that from which the difference is known too, 0 if none: what was between
    /// the two we never saw.
    also: u64,
    /// Connections gone since then, with the version that no longer had them.
    removed: BTreeMap<PeerName, u64>,
    /// Whether the peer itself tells this version to all its neighbours that understand deltas.
    pub(super) told: bool,
}

impl History {
    /// Whether it is noted what became different since the entry before.
    pub(super) fn is_dated(&self) -> bool {
        self.floor != 0
    }

    /// Begins with a version, and what is different from one version before that.
    pub(super) fn begin(&mut self, version: u64, also: u64) {
        self.floor = version;
        self.also = also;
    }

    /// Whether every change since a version is known.
    pub(super) fn knows(&self, version: u64) -> bool {
        version >= self.floor || version == self.also
    }

    /// Connections gone since a version.
    pub(super) fn removed_since(&self, version: u64) -> Vec<PeerName> {
        let removed = self.removed.iter().filter(|(_, at)| **at > version);
        removed.map(|(name, _)| *name).collect()
    }

    /// A connection is there again.
    pub(super) fn restore(&mut self, remote: PeerName) {
        self.removed.remove(&remote);
    }

    /// Forgets what was before a version: whoever knows an older one gets the entry whole.
    pub(super) fn restart(&mut self, version: u64) {
        self.floor = version;
        self.also = 0;
        self.removed.clear();
    }

    /// A connection is gone as of a version.
    pub(super) fn remove(&mut self, remote: PeerName, version: u64) {
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
