//! Which of two links to one peer survives (spec/mesh.md 6).
//!
//! The original keeps the smaller connection UID, so that both ends decide alike. That alone lets a
//! link whose other end is gone keep a returning peer out until its read deadline, a minute later.
//! So we look first whether the old link can still be alive; both rules agree whenever it is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use wire::PeerName;

use crate::link::{HEARTBEAT_INTERVAL, Introduced, Link};

/// A live link is never silent for longer: everybody sends a heartbeat whatever else is sent.
const SILENCE_MAX: Duration = HEARTBEAT_INTERVAL.saturating_add(Duration::from_secs(5));
/// Most incarnations remembered.
pub(super) const SUPERSEDED_MAX: usize = 256;

/// Who survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Survivor {
    /// The link that was there.
    Old,
    /// The link that was just introduced.
    New,
    /// Equal connection UIDs: nobody.
    Neither,
}

/// Incarnations of peers that gave way to another one of the same name. One that comes back was not
/// restarted: two live peers share the name, and neither may displace the other for ever.
#[derive(Debug, Default)]
pub(super) struct Superseded {
    latest_first: VecDeque<(PeerName, u64)>,
}

impl Superseded {
    fn note(&mut self, name: PeerName, uid: u64) {
        if !self.has(name, uid) {
            self.latest_first.truncate(SUPERSEDED_MAX - 1);
            self.latest_first.push_front((name, uid));
        }
    }

    fn has(&self, name: PeerName, uid: u64) -> bool {
        self.latest_first.contains(&(name, uid))
    }

    /// Judges two introduced links to the same name, `old` being our connection to it.
    pub(super) fn judge(&mut self, old: &Link, new: &Introduced, now: Instant) -> Survivor {
        let is_silent = old.silence(now) > SILENCE_MAX;
        let old = old.introduced().expect("our connections are introduced");
        let (name, old_uid, new_uid) = (new.remote(), old.features.uid, new.features.uid);
        let is_restarted = old_uid != new_uid && !self.has(name, new_uid);
        let survivor = match new.uid.cmp(&old.uid) {
            _ if is_restarted || is_silent => Survivor::New,
            std::cmp::Ordering::Less => Survivor::New,
            std::cmp::Ordering::Equal => Survivor::Neither,
            std::cmp::Ordering::Greater => Survivor::Old,
        };
        if survivor == Survivor::New && old_uid != new_uid {
            self.note(name, old_uid);
        }
        survivor
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.latest_first.len()
    }
}
