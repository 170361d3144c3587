//! Payloads of topology gossip: those merged lately, those encoded lately, and how many peers go into
//! one.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use wire::PeerName;
use wire::topology::PeerSummary;

use super::table::PeerTable;

/// Bytes of one topology message we aim to stay below; more peers than that go into several.
const MESSAGE_BYTES_AIM: usize = 4 << 20;
/// Generous bound of what one peer takes besides its texts: gob overhead and numbers.
const PEER_BYTES: usize = 64;

/// Payloads merged lately. A flood brings the same one from many neighbours; merging it again would
/// change nothing, unless it comes from somebody whose own word it is about itself.
#[derive(Debug)]
pub(crate) struct MergedLately {
    /// Makes the hashes unpredictable: nobody can make us take a new payload for an old one.
    secret: u64,
    payloads: VecDeque<MergedPayload>,
}

/// What a payload may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Novelty {
    /// Anything.
    New,
    /// What we hold of the neighbour who sent it: others sent it before.
    OwnWord,
    /// Nothing.
    None,
}

#[derive(Debug)]
struct MergedPayload {
    hash: u64,
    /// Neighbours of whom it says something else than we hold, and who did not send it yet.
    contested: Vec<PeerName>,
}

impl MergedLately {
    /// How many payloads are remembered.
    const MAX: usize = 256;
    /// How many contested neighbours of each; others have to wait until it is forgotten.
    const CONTESTED_MAX: usize = 64;

    /// A memory without payloads.
    pub(crate) fn new(secret: u64) -> Self {
        Self {
            secret,
            payloads: VecDeque::new(),
        }
    }

    /// What a payload from a neighbour may change. It counts as merged from now on.
    pub(crate) fn look_up(&mut self, payload: &[u8], teller: PeerName) -> Novelty {
        let hash = self.hash(payload);
        let Some(known) = self.payloads.iter_mut().find(|known| known.hash == hash) else {
            self.payloads.truncate(Self::MAX - 1);
            let contested = Vec::new();
            self.payloads.push_front(MergedPayload { hash, contested });
            return Novelty::New;
        };
        let Some(own) = known.contested.iter().position(|name| *name == teller) else {
            return Novelty::None;
        };
        known.contested.swap_remove(own);
        Novelty::OwnWord
    }

    /// Notes about whom the payload that was new last says something else than we hold, except the
    /// neighbour who sent it.
    pub(crate) fn contest(&mut self, mut contested: Vec<PeerName>) {
        contested.truncate(Self::CONTESTED_MAX);
        if let Some(newest) = self.payloads.front_mut() {
            newest.contested = contested;
        }
    }

    fn hash(&self, payload: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.secret);
        hasher.write(payload);
        hasher.finish()
    }

    /// Entries were dropped: what was merged before may be news again.
    pub(crate) fn clear(&mut self) {
        self.payloads.clear();
    }
}

/// The last topology payloads encoded. What goes to several neighbours is encoded once.
#[derive(Debug, Default)]
pub(crate) struct EncodedLately {
    revision: u64,
    names: BTreeSet<PeerName>,
    payloads: Vec<Arc<[u8]>>,
}

impl EncodedLately {
    /// The named entries, as they are now, as payloads of bounded size.
    pub(crate) fn encode(
        &mut self,
        peers: &PeerTable,
        names: &BTreeSet<PeerName>,
    ) -> Vec<Arc<[u8]>> {
        if self.revision != peers.revision() || self.names != *names || self.payloads.is_empty() {
            let payloads = peers.encode_topology(names);
            self.payloads = payloads.into_iter().map(Arc::from).collect();
            self.revision = peers.revision();
            self.names.clone_from(names);
        }
        self.payloads.clone()
    }
}

impl PeerTable {
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

fn summary_bytes(summary: &PeerSummary) -> usize {
    let connections = summary
        .connections
        .iter()
        .map(|c| PEER_BYTES + c.remote_address.len());
    PEER_BYTES + summary.nickname.len() + connections.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use wire::topology::decode;

    use super::*;
    use crate::testing::connections;

    fn everything(table: &PeerTable) -> Vec<PeerSummary> {
        let names: Vec<PeerName> = table.names().collect();
        table.summaries(&names)
    }

    #[test]
    fn a_large_topology_goes_in_several_messages_that_together_say_the_same() {
        let mut table = PeerTable::new(PeerName::from_u64(0x0200_0000_0a01), "alpha", 9, 1);
        let peers: Vec<PeerSummary> = (1..=400)
            .map(|n| PeerSummary {
                name: PeerName::from_u64(n),
                nickname: "peer".to_owned(),
                uid: n,
                version: 1,
                short_id: None,
                connections: connections(1, 300),
            })
            .collect();
        table.merge(&peers);
        let names = table.names().collect();
        let messages = table.encode_topology(&names);
        assert!(messages.len() > 1);
        assert!(
            messages
                .iter()
                .all(|message| message.len() < 2 * MESSAGE_BYTES_AIM)
        );
        let mut copy = PeerTable::new(PeerName::from_u64(0x7777), "copy", 1, 2);
        for message in &messages {
            copy.merge(&decode(message).unwrap());
        }
        let without_copy = everything(&copy)
            .into_iter()
            .filter(|p| p.nickname != "copy");
        assert_eq!(without_copy.collect::<Vec<_>>(), everything(&table));
    }

    #[test]
    fn a_payload_merged_lately_is_recognised_until_something_was_dropped() {
        let mut lately = MergedLately::new(1);
        let is_new = |lately: &mut MergedLately, payload: &[u8]| {
            lately.look_up(payload, PeerName::from_u64(0x9999)) == Novelty::New
        };
        assert!(is_new(&mut lately, b"one"));
        assert!(!is_new(&mut lately, b"one"));
        lately.clear();
        assert!(is_new(&mut lately, b"one"));
        for n in 0..1000_u32 {
            assert!(is_new(&mut lately, &n.to_be_bytes()));
        }
        assert!(is_new(&mut lately, b"one"));
    }

    #[test]
    fn a_payload_is_merged_once_more_for_each_neighbour_it_contests() {
        let mut lately = MergedLately::new(1);
        let names: Vec<PeerName> = (1..=100).map(PeerName::from_u64).collect();
        assert_eq!(lately.look_up(b"one", names[0]), Novelty::New);
        lately.contest(names[1..].to_vec());
        let novelties: Vec<Novelty> = names.iter().map(|n| lately.look_up(b"one", *n)).collect();
        let own_words = novelties.iter().filter(|n| **n == Novelty::OwnWord).count();
        assert_eq!(
            (novelties[0], novelties[1]),
            (Novelty::None, Novelty::OwnWord)
        );
        assert_eq!(own_words, MergedLately::CONTESTED_MAX);
        for name in names {
            assert_eq!(lately.look_up(b"one", name), Novelty::None);
        }
    }

    #[test]
    fn what_is_encoded_once_is_encoded_again_after_a_change() {
        let mut table = PeerTable::new(PeerName::from_u64(0x0200_0000_0a01), "alpha", 9, 1);
        let names = table.names().collect();
        let mut lately = EncodedLately::default();
        let first = lately.encode(&table, &names);
        assert_eq!(*lately.encode(&table, &names), *first);
        table.change_own();
        assert_ne!(*lately.encode(&table, &names), *first);
        assert_eq!(
            lately.encode(&table, &BTreeSet::new()),
            [Arc::from(&[][..])]
        );
    }
}
