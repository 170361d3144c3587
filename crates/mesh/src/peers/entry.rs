//! One entry of the table: a peer and its connections, as that peer sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use wire::PeerName;
use wire::quote::printable;
use wire::topology::{ConnectionSummary, PeerSummary};

use super::address::RemoteAddress;
use super::history::History;
use super::shortid::SHORT_IDS;

/// Longest nickname kept, bytes; host names have at most 64.
pub(crate) const NICKNAME_BYTES_MAX: usize = 255;
/// Longest address text kept, bytes: an IPv6 address with zone and port.
pub(crate) const ADDRESS_BYTES_MAX: usize = 64;

/// One peer as far as we know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) nickname: String,
    /// Process incarnation; 0 for a placeholder.
    pub(crate) uid: u64,
    /// Change counter of this entry.
    pub(crate) version: u64,
    pub(crate) short_id: Option<u16>,
    /// By the other end's name.
    pub(crate) adjacencies: BTreeMap<PeerName, Adjacency>,
    pub(super) history: History,
    /// Revision of the table that brought the present version.
    pub(crate) revision: u64,
    /// Connections of ours to this peer; an entry in use is never collected.
    pub(super) references: u32,
}

/// One connection of a peer, as that peer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Adjacency {
    pub(crate) remote_address: RemoteAddress,
    /// The version of the peer's entry that brought it.
    pub(crate) changed_at: u64,
    pub(crate) outbound: bool,
    pub(crate) established: bool,
}

impl Adjacency {
    /// A connection of our own.
    pub(crate) fn new(remote: SocketAddr, outbound: bool) -> Self {
        Self {
            remote_address: RemoteAddress::new(&remote.to_string()),
            changed_at: 0,
            outbound,
            established: false,
        }
    }

    pub(crate) fn from_summary(summary: &ConnectionSummary) -> Self {
        let text = truncated(&summary.remote_address, ADDRESS_BYTES_MAX);
        Self {
            remote_address: RemoteAddress::new(&text),
            changed_at: 0,
            outbound: summary.outbound,
            established: summary.established,
        }
    }
}

impl Adjacency {
    /// Whether another one says the same, whenever it was said.
    pub(crate) fn says(&self, other: &Self) -> bool {
        (self.outbound, self.established) == (other.outbound, other.established)
            && self.remote_address == other.remote_address
    }

    fn to_summary(&self, remote: PeerName) -> ConnectionSummary {
        ConnectionSummary {
            remote,
            remote_address: self.remote_address.text(),
            outbound: self.outbound,
            established: self.established,
        }
    }
}

impl Peer {
    /// An entry from what gossip says, cut to sensible sizes.
    pub(crate) fn from_summary(summary: &PeerSummary) -> Self {
        let known = summary
            .connections
            .iter()
            .filter(|c| !c.remote.is_unknown());
        Self {
            nickname: truncated(&summary.nickname, NICKNAME_BYTES_MAX),
            uid: summary.uid,
            version: summary.version,
            short_id: usable_short_id(summary),
            adjacencies: known
                .map(|c| (c.remote, Adjacency::from_summary(c)))
                .collect(),
            history: History::default(),
            revision: 0,
            references: 0,
        }
    }

    pub(super) fn placeholder() -> Self {
        Self {
            nickname: String::new(),
            uid: 0,
            version: 0,
            short_id: None,
            adjacencies: BTreeMap::new(),
            history: History::default(),
            revision: 0,
            references: 0,
        }
    }

    /// Whether the peer itself tells all its neighbours that understand deltas of this version.
    pub(crate) fn is_told(&self) -> bool {
        self.history.told
    }

    /// Whether a connection of ours leads to it.
    pub(crate) fn is_held(&self) -> bool {
        self.references > 0
    }

    /// Whether an entry from gossip lists the same connections in the same states.
    pub(crate) fn says(&self, summary: &PeerSummary) -> bool {
        let theirs: BTreeSet<_> = summary
            .connections
            .iter()
            .map(|c| (c.remote, c.established))
            .collect();
        let ours = self.adjacencies.iter();
        ours.map(|(remote, adjacency)| (*remote, adjacency.established))
            .eq(theirs)
    }

    /// Whether an entry from gossip is this one.
    pub(crate) fn is_as_told(&self, summary: &PeerSummary) -> bool {
        let is_there = |told: &ConnectionSummary| {
            self.adjacencies.get(&told.remote).is_some_and(|ours| {
                (ours.outbound, ours.established) == (told.outbound, told.established)
                    && ours.remote_address == RemoteAddress::new(&told.remote_address)
            })
        };
        (self.uid, self.version) == (summary.uid, summary.version)
            && self.short_id == usable_short_id(summary)
            && self.nickname == summary.nickname
            && self.adjacencies.len() == summary.connections.len()
            && summary.connections.iter().all(is_there)
    }

    /// The connections that fulfil a condition, in the form that travels.
    pub(crate) fn connections(
        &self,
        wanted: impl Fn(&Adjacency) -> bool,
    ) -> Vec<ConnectionSummary> {
        let all = self.adjacencies.iter();
        all.filter(|(_, adjacency)| wanted(adjacency))
            .map(|(remote, adjacency)| adjacency.to_summary(*remote))
            .collect()
    }

    /// The form that travels.
    pub(crate) fn to_summary(&self, name: PeerName) -> PeerSummary {
        PeerSummary {
            name,
            nickname: self.nickname.clone(),
            uid: self.uid,
            version: self.version,
            short_id: self.short_id,
            connections: self.connections(|_| true),
        }
    }
}

/// The short id a peer claims, if it has the twelve bits it must have.
pub(crate) fn usable_short_id(summary: &PeerSummary) -> Option<u16> {
    summary.short_id.filter(|id| *id < SHORT_IDS)
}

/// `name(nickname)`. What a foreign nickname could do to a terminal does not reach our logs.
pub(crate) fn peer_label(name: PeerName, nickname: &str) -> String {
    format!("{name}({})", printable(nickname))
}

pub(crate) fn truncated(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}
