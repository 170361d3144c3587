//! Merging what others say about the topology (spec/mesh.md 8.3). Never fails: what makes no sense
//! is left out, and no link is closed for it.

use std::collections::BTreeSet;

use wire::PeerName;
use wire::topology::PeerSummary;

use crate::peers::{Peer, PeerTable};

/// Bytes of one topology message we aim to stay below; more peers than that go into several.
const MESSAGE_BYTES_AIM: usize = 4 << 20;
/// Generous bound of what one peer takes besides its texts: gob overhead and numbers.
const PEER_BYTES: usize = 64;

/// What a payload changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Merged {
    /// Everybody the payload described: what a broadcast passes on.
    pub(crate) received: BTreeSet<PeerName>,
    /// Those it told us something new about: what gossip passes on.
    pub(crate) improved: BTreeSet<PeerName>,
    /// Whether we outran an entry left over from an earlier run of ours.
    pub(crate) outran: bool,
}

impl PeerTable {
    /// Merges a payload.
    pub(crate) fn merge(&mut self, update: &[PeerSummary]) -> Merged {
        let mut merged = Merged::default();
        for summary in update.iter().filter(|summary| !summary.name.is_unknown()) {
            if summary.name == self.us() {
                merged.received.insert(summary.name);
                merged.outran |= self.outrun(summary);
                continue;
            }
            let entry = Peer::from_summary(summary);
            let known = self.get(summary.name);
            let wanted = known.is_none_or(|known| supersedes(&entry, known));
            let (taken, known) = (
                wanted && self.accept(summary.name, entry),
                known_now(self, summary.name),
            );
            if taken {
                merged.improved.insert(summary.name);
            }
            if known {
                merged.received.insert(summary.name);
            }
        }
        for name in &merged.improved {
            self.add_placeholders(*name);
        }
        merged
    }

    /// Goes past what an earlier incarnation of ours left behind.
    fn outrun(&mut self, summary: &PeerSummary) -> bool {
        let own = self.own();
        if summary.uid == own.uid || summary.version < own.version {
            return false;
        }
        self.change_own().version = summary.version.saturating_add(1);
        true
    }

    /// The named entries as messages of bounded size. At least one, possibly empty.
    pub(crate) fn encode_topology(&self, names: &BTreeSet<PeerName>) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for summary in self.summaries(names) {
            let size = summary_bytes(&summary);
            if bytes + size > MESSAGE_BYTES_AIM && !batch.is_empty() {
                messages.push(wire::topology::encode(&batch));
                batch.clear();
                bytes = 0;
            }
            bytes += size;
            batch.push(summary);
        }
        messages.push(wire::topology::encode(&batch));
        messages
    }
}

fn known_now(peers: &PeerTable, name: PeerName) -> bool {
    peers.get(name).is_some()
}

/// Whether an entry replaces the known one: greater version, then greater incarnation, or the short
/// id the known one lacks.
fn supersedes(new: &Peer, known: &Peer) -> bool {
    let (new_age, known_age) = ((new.version, new.uid), (known.version, known.uid));
    new_age > known_age
        || new_age == known_age && new.short_id.is_some() && known.short_id.is_none()
}

fn summary_bytes(summary: &PeerSummary) -> usize {
    let connections = summary
        .connections
        .iter()
        .map(|c| PEER_BYTES + c.remote_address.len());
    PEER_BYTES + summary.nickname.len() + connections.sum::<usize>()
}

#[cfg(test)]
mod tests;
