//! Whom we asked for space lately (spec/ipam.md 2.3).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use wire::PeerName;

use crate::address::Range;

/// After which silence another peer is asked for space.
const ANSWER: Duration = Duration::from_secs(1);
/// How long space from a peer counts as an answer to our request.
const MEMORY: Duration = Duration::from_secs(30);
/// Most requests remembered.
const ASKS_MAX: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Ask {
    to: PeerName,
    range: Range,
    at: Instant,
    /// Whether the answer is still awaited.
    is_open: bool,
}

/// Requests for space under way, and peers not to be asked for a while.
#[derive(Debug, Clone, Default)]
pub(super) struct Donors {
    asks: Vec<Ask>,
    /// They denied or could not be reached since the last tick.
    avoid: BTreeSet<PeerName>,
    /// They did not answer in time since the last tick.
    silent: BTreeSet<PeerName>,
}

impl Donors {
    /// Notes a request just sent.
    pub(super) fn ask(&mut self, to: PeerName, range: Range, now: Instant) {
        if self.asks.len() >= ASKS_MAX {
            self.asks.remove(0);
        }
        self.asks.push(Ask {
            to,
            range,
            at: now,
            is_open: true,
        });
    }

    /// Whether an answer to a request for exactly this range is awaited.
    pub(super) fn is_asked(&self, range: Range) -> bool {
        let mut open = self.asks.iter().filter(|ask| ask.is_open);
        open.any(|ask| ask.range == range)
    }

    /// Whether what `from` gives of `range` answers a request of ours.
    pub(super) fn answers(&self, from: PeerName, range: Range) -> bool {
        let mut asked = self.asks.iter().filter(|ask| ask.to == from);
        asked.any(|ask| ask.range.encloses(range))
    }

    /// Space came: whoever was asked for some of it may be asked for more.
    pub(super) fn close_overlapping(&mut self, range: Range) {
        for ask in &mut self.asks {
            ask.is_open &= !ask.range.overlaps(range);
        }
    }

    /// A peer denied, could not be reached or is gone; returns whether its answer was awaited.
    pub(super) fn turned_down(&mut self, by: PeerName) -> bool {
        self.avoid.insert(by);
        let mut awaited = false;
        for ask in self.asks.iter_mut().filter(|ask| ask.to == by) {
            awaited |= ask.is_open;
            ask.is_open = false;
        }
        awaited
    }

    /// Whether a peer is not to be asked for now.
    pub(super) fn avoids(&self, peer: PeerName) -> bool {
        self.avoid.contains(&peer) || self.silent.contains(&peer)
    }

    /// Whether a peer may be asked once more if there is nobody else: it only did not answer.
    pub(super) fn was_silent(&self, peer: PeerName) -> bool {
        self.silent.contains(&peer) && !self.avoid.contains(&peer)
    }

    /// Everybody may be asked again.
    pub(super) fn forgive(&mut self) {
        self.avoid.clear();
        self.silent.clear();
    }

    /// When a silence has lasted too long.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let open = self.asks.iter().filter(|ask| ask.is_open);
        open.map(|ask| ask.at + ANSWER).min()
    }

    /// Stops waiting for peers silent too long; returns whether there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut any = false;
        for ask in &mut self.asks {
            if ask.is_open && now >= ask.at + ANSWER {
                ask.is_open = false;
                self.silent.insert(ask.to);
                any = true;
            }
        }
        self.asks.retain(|ask| ask.is_open || now < ask.at + MEMORY);
        any
    }
}
