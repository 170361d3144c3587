//! Merging what others say about the topology (spec/mesh.md 8.3). Never fails: what makes no sense
//! is left out, and no link is closed for it.

use std::collections::BTreeSet;
use std::time::Instant;

use wire::PeerName;
use wire::delta::KnownEntry;
use wire::topology::PeerSummary;

use super::doubts::{Teller, Witness, age, can_outrun};
use super::entry::{Peer, usable_short_id};
use super::table::{PeerTable, Rival};

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
}

/// Whether an entry replaces the known one: greater version, then greater incarnation, or the short
/// id the known one lacks.
fn supersedes(new: &PeerSummary, known: &Peer) -> bool {
    let (new_age, known_age) = (age(new.version, new.uid), age(known.version, known.uid));
    let gains_short_id = usable_short_id(new).is_some() && known.short_id.is_none();
    new_age > known_age || new_age == known_age && gains_short_id
}

#[cfg(test)]
mod tests;
