//! Another live machine with our name: a copied disk, or one `--name` given twice.
//!
//! A link that introduces itself with our name and is not us is proof. So is an entry of our name in
//! the topology, but only one that goes on growing: what an earlier incarnation of ours left behind
//! is outrun once, perhaps once more where it lay longest, and then no more. Whoever answers each of
//! our versions with a greater one is alive.
//!
//! Neighbours of both help: a link that is refused because its peer is connected already, as another
//! incarnation, is told who that is before it ends, so that both hear of each other.

use std::time::{Duration, Instant};

use tracing::{error, info};
use wire::PeerName;

use crate::peers::Rival;

/// How often an entry must have outgrown ours before we believe that somebody is behind it.
const GROWTHS: u32 = 3;
/// What comes sooner after the last growth counts as the same one: copies of one entry on several
/// ways.
const GROWTH_GAP: Duration = Duration::from_millis(500);
/// Growths further apart do not belong together.
const GROWTH_WINDOW: Duration = Duration::from_secs(300);
/// After so long without a sign a clone is gone. Namesakes we know the address of are dialled more
/// often than that.
const GONE_AFTER: Duration = Duration::from_secs(150);
/// The same while we have no connection, by which we could hear of it: attempts are rare by then.
const GONE_AFTER_ALONE: Duration = Duration::from_secs(900);
/// How long we go on dialling as usual after we learned of a clone, so that it learns of us.
const INTRODUCTION: Duration = Duration::from_secs(60);

/// What is known about others with our name.
#[derive(Debug, Default)]
pub(super) struct Clones {
    suspect: Option<Suspect>,
    found: Option<Found>,
}

#[derive(Debug)]
struct Found {
    /// Who it is, in a sentence.
    text: String,
    since: Instant,
    /// When we last had a sign.
    seen_at: Instant,
}

#[derive(Debug)]
struct Suspect {
    rival: Rival,
    growths: u32,
    since: Instant,
    grown_at: Instant,
}

impl Clones {
    /// While another live machine has our name: a sentence that says so and who it is.
    pub(super) fn text(&self) -> Option<&str> {
        self.found.as_ref().map(|found| found.text.as_str())
    }

    /// Whether both have had the time to hear of each other, so that displacing each other at peers
    /// between them is of no more use.
    pub(super) fn knows_well(&self, now: Instant) -> bool {
        let found = self.found.as_ref();
        found.is_some_and(|found| now.saturating_duration_since(found.since) > INTRODUCTION)
    }

    /// There is a sign of somebody else with our name. Whether it is the first.
    pub(super) fn find(&mut self, name: PeerName, whom: &str, now: Instant) -> bool {
        let earlier = self.found.as_ref().map(|found| found.since);
        if earlier.is_none() {
            error!(%name, whom, "another machine has our peer name");
        }
        let text = format!("another machine has our peer name {name}: {whom}");
        self.found = Some(Found {
            text,
            since: earlier.unwrap_or(now),
            seen_at: now,
        });
        earlier.is_none()
    }

    /// There was no sign of anybody for long.
    pub(super) fn forget(&mut self, name: PeerName) {
        info!(%name, "nobody else has our peer name any more");
        *self = Self::default();
    }

    /// Somebody outgrew our entry. Whether that was once too often.
    pub(super) fn hear(&mut self, rival: Rival, now: Instant) -> bool {
        let fresh = Suspect {
            rival,
            growths: 1,
            since: now,
            grown_at: now,
        };
        let known = self.suspect.as_mut().filter(|known| {
            known.rival.uid == rival.uid
                && now.saturating_duration_since(known.since) < GROWTH_WINDOW
        });
        let Some(known) = known else {
            self.suspect = Some(fresh);
            return false;
        };
        let is_same = now.saturating_duration_since(known.grown_at) < GROWTH_GAP;
        if rival.version > known.rival.version && !is_same {
            known.growths += 1;
            known.grown_at = now;
            if known.growths >= GROWTHS {
                // Every further one counts.
                known.since = now;
            }
        }
        known.rival.version = known.rival.version.max(rival.version);
        known.growths >= GROWTHS && known.grown_at == now
    }

    /// When the last sign is too old.
    pub(super) fn due(&self, is_alone: bool) -> Option<Instant> {
        let wait = if is_alone {
            GONE_AFTER_ALONE
        } else {
            GONE_AFTER
        };
        self.found.as_ref().map(|found| found.seen_at + wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::base;

    fn rival(version: u64) -> Rival {
        Rival { uid: 7, version }
    }

    #[test]
    fn what_an_earlier_run_left_in_several_places_is_no_clone() {
        let mut clones = Clones::default();
        let at = |secs| base() + Duration::from_secs(secs);
        let start = at(0);
        assert!(!clones.hear(rival(10), start));
        // Other copies, older and newer, in one burst.
        for version in [4, 12, 13, 9] {
            assert!(!clones.hear(rival(version), start + Duration::from_millis(version)));
        }
        assert!(!clones.hear(rival(15), start + Duration::from_secs(40)));
    }

    #[test]
    fn who_answers_each_of_our_versions_is_alive() {
        let mut clones = Clones::default();
        let start = base();
        let hear = |clones: &mut Clones, version, secs| {
            clones.hear(rival(version), start + Duration::from_secs(secs))
        };
        assert!(!hear(&mut clones, 10, 0));
        assert!(!hear(&mut clones, 12, 2));
        assert!(hear(&mut clones, 14, 4));
        assert!(hear(&mut clones, 16, 200));
        assert!(hear(&mut clones, 18, 450), "every further sign counts");
        assert!(!hear(&mut clones, 20, 1_000), "too long ago");
    }
}
