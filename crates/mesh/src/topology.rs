//! Merging what others say about the topology (spec/mesh.md 8.3). Never fails: what makes no sense
//! is left out, and no link is closed for it.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::time::Instant;

use wire::PeerName;
use wire::delta::KnownEntry;
use wire::topology::PeerSummary;

use crate::doubts::{Teller, Witness, age, can_outrun};
use crate::mesh::Rival;
use crate::peers::{Peer, PeerTable, usable_short_id};

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
    /// Neighbours of whom we hold something else after it: they may say the same of themselves.
    pub(crate) contested: Vec<PeerName>,
}

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
    /// Merges a payload that a neighbour sent.
    pub(crate) fn merge_from(
        &mut self,
        teller: Teller,
        update: &[PeerSummary],
        now: Instant,
    ) -> Merged {
        let mut merged = Merged::default();
        for summary in update.iter().filter(|summary| !summary.name.is_unknown()) {
            if summary.name == self.us() {
                merged.received.insert(summary.name);
                merged.outran |= self.outrun(summary);
                continue;
            }
            let is_news = self.is_news(teller, summary, now);
            if is_news && self.accept(summary.name, Peer::from_summary(summary)) {
                self.doubts().settle(summary.name);
                merged.improved.insert(summary.name);
            }
            if let Some(known) = self.get(summary.name) {
                merged.received.insert(summary.name);
                if known.is_held() && teller.name != summary.name && !known.is_as_told(summary) {
                    merged.contested.push(summary.name);
                }
            }
        }
        for name in &merged.improved {
            self.add_placeholders(*name);
        }
        merged
    }

    /// Whether an entry is to replace what we hold: because it is younger, or because what we hold
    /// has been contradicted for too long.
    fn is_news(&mut self, teller: Teller, summary: &PeerSummary, now: Instant) -> bool {
        let name = summary.name;
        let Some(known) = self.get(name) else {
            return true;
        };
        let is_first_hand = teller.name == name && teller.uid == summary.uid;
        if supersedes(summary, known) {
            let new = Peer::from_summary(summary);
            return is_first_hand || !self.doubts().refuses(name, &new, now);
        }
        let ages = (
            age(summary.version, summary.uid),
            age(known.version, known.uid),
        );
        if is_first_hand && ages.0 == ages.1 {
            // Somebody guessed its next version before it came.
            return known.check() != Peer::from_summary(summary).check();
        }
        let is_less = ages.0 < ages.1;
        let is_real = summary.version > 0 && summary.uid != 0;
        let witness = match (is_first_hand, known.is_held()) {
            (true, _) => Witness::FirstHand,
            (false, false) => Witness::Hearsay,
            // Of a neighbour we shall hear from itself.
            (false, true) => return false,
        };
        if !is_less || !is_real || !self.doubts().contradict(name, witness, now) {
            return false;
        }
        let known = self.get(name).cloned().expect("was there just now");
        self.doubts().refuse(name, &known, summary.version, now);
        true
    }

    /// Whether an entry a neighbour claims to have has contradicted ours for so long that it shall
    /// be heard.
    pub(crate) fn is_doubted(&mut self, teller: Teller, entry: &KnownEntry, now: Instant) -> bool {
        let Some(known) = self.get(entry.name) else {
            return false;
        };
        let is_less = age(entry.version, entry.uid) < age(known.version, known.uid);
        let is_real = entry.version > 0 && entry.uid != 0;
        let is_first_hand = teller.name == entry.name && teller.uid == entry.uid;
        let witness = match (is_first_hand, known.is_held()) {
            (true, _) => Witness::FirstHand,
            (false, false) => Witness::Hearsay,
            (false, true) => return false,
        };
        is_less && is_real && self.doubts().contradict(entry.name, witness, now)
    }

    /// Goes past a version of our own entry that somebody has and we never had.
    pub(crate) fn outrun_known(&mut self, entry: &KnownEntry) -> bool {
        let own = self.own();
        let is_known = (entry.version, entry.uid) == (own.version, own.uid);
        if is_known || entry.version < own.version || !can_outrun(own.version, entry.version) {
            return false;
        }
        self.note_other(entry.uid, entry.version);
        self.rise_above(entry.version);
        true
    }

    /// What outran us is not always ours.
    fn note_other(&mut self, uid: u64, version: u64) {
        if uid != self.own().uid {
            self.note_rival(Rival { uid, version });
        }
    }

    /// Replaces an entry by a younger one made from it, unless that one lost lately.
    pub(crate) fn take_change(
        &mut self,
        teller: Teller,
        name: PeerName,
        new: Peer,
        now: Instant,
    ) -> bool {
        let is_first_hand = teller.name == name && teller.uid == new.uid;
        if !is_first_hand && self.doubts().refuses(name, &new, now) || !self.accept(name, new) {
            return false;
        }
        self.doubts().settle(name);
        self.add_placeholders(name);
        true
    }

    /// Goes past what an earlier incarnation of ours left behind, or somebody forged. A version out
    /// of all reason is not followed: it loses against ours everywhere but at originals, which
    /// nothing can help against the greatest of all.
    fn outrun(&mut self, summary: &PeerSummary) -> bool {
        let own = self.own();
        let is_ours = summary.uid == own.uid;
        let is_past = summary.version < own.version
            || is_ours && summary.version == own.version && own.says(summary);
        if is_past || !can_outrun(own.version, summary.version) {
            return false;
        }
        self.note_other(summary.uid, summary.version);
        self.rise_above(summary.version);
        true
    }

    /// Makes the version of our entry the next one. What was before is not told any more: nobody
    /// knows what others hold under that version.
    fn rise_above(&mut self, version: u64) {
        let own = self.change_own();
        own.version = version + 1;
        own.history.restart(version + 1);
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

/// Whether an entry replaces the known one: greater version, then greater incarnation, or the short
/// id the known one lacks.
fn supersedes(new: &PeerSummary, known: &Peer) -> bool {
    let (new_age, known_age) = (age(new.version, new.uid), age(known.version, known.uid));
    let gains_short_id = usable_short_id(new).is_some() && known.short_id.is_none();
    new_age > known_age || new_age == known_age && gains_short_id
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
