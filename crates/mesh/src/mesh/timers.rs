//! What waits for its time, and when that is.

use std::time::Instant;

use super::clones::Clones;
use super::dials::Dials;
use super::gossiping::GossipState;
use super::table::LinkTable;
use super::topology::Topology;

/// The deadlines of all parts of the mesh, to be read.
pub(super) struct Timers<'a> {
    pub(super) links: &'a LinkTable,
    pub(super) dials: &'a Dials,
    pub(super) clones: &'a Clones,
    pub(super) topology: &'a Topology,
    pub(super) gossip: &'a GossipState,
}

/// What can be due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    /// Links that were silent too long, and heartbeats.
    Links,
    /// Dials nobody answered.
    Dials,
    /// A clone there was no sign of.
    Clone,
    /// Routes of the data plane.
    Routes,
    /// Peers that cannot be reached.
    Collection,
    /// What changed in our own entry.
    Announcement,
    /// Topology news for those who understand them.
    News,
    /// Complete state of all channels.
    Gossip,
    /// Addresses to be dialled.
    Targets,
}

impl Duty {
    /// All of them, in the order in which they are done.
    pub(super) const ALL: [Self; 9] = [
        Self::Links,
        Self::Dials,
        Self::Clone,
        Self::Routes,
        Self::Collection,
        Self::Announcement,
        Self::News,
        Self::Gossip,
        Self::Targets,
    ];

    /// What the shell's log says it woke up for.
    fn reason(self) -> &'static str {
        match self {
            Self::Links => "heartbeat or deadline of a link",
            Self::Dials => "dial deadline",
            Self::Clone => "a clone that is gone",
            Self::Routes => "route calculation",
            Self::Collection => "garbage collection",
            Self::Announcement => "topology announcement",
            Self::News => "topology news",
            Self::Gossip => "gossip",
            Self::Targets => "dial",
        }
    }
}

impl Timers<'_> {
    /// When the next duty is due, and what it is.
    pub(super) fn next(&self) -> Option<(Instant, &'static str)> {
        let all = Duty::ALL.into_iter();
        let all = all.filter_map(|duty| Some((self.at(duty)?, duty.reason())));
        all.min_by_key(|(at, _)| *at)
    }

    /// Whether the time of a duty has come.
    pub(super) fn is_due(&self, duty: Duty, now: Instant) -> bool {
        self.at(duty).is_some_and(|at| at <= now)
    }

    fn at(&self, duty: Duty) -> Option<Instant> {
        let topology = self.topology.due();
        match duty {
            Duty::Links => self.links.due(),
            Duty::Dials => self.dials.deadline(),
            Duty::Clone => self.clones.due(self.links.connection_count() == 0),
            Duty::Routes => topology.routes,
            Duty::Collection => topology.collection,
            Duty::Announcement => topology.announcement,
            Duty::News => self.gossip.news_due(),
            Duty::Gossip => Some(self.gossip.round_due()),
            Duty::Targets => self.dials.maker.next_due(),
        }
    }
}
