//! What an operator sees of an allocator (spec/ipam.md 12).

use std::fmt;

use wire::PeerName;

use crate::address::{Cidr, Range, Subnet};

/// A copy of the state, for status, report and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpamStatus {
    /// How far it is.
    pub phase: Phase,
    /// Everything that is managed.
    pub universe: Subnet,
    /// Where addresses are allocated by default.
    pub default_subnet: Subnet,
    /// Addresses in use here, inside the universe.
    pub active: u64,
    /// The ring by entry, ascending; `None` while there is none. A range that wraps is two entries.
    pub entries: Option<Vec<EntryStatus>>,
    /// The ring by owner: we first, then by name. Empty while there is no ring.
    pub owners: Vec<OwnerStatus>,
    /// The election, while it lasts.
    pub election: Option<ElectionStatus>,
    /// Claims that wait.
    pub pending_claims: Vec<(String, Cidr)>,
    /// Allocations that wait: who, and in which subnet.
    pub pending_allocates: Vec<(String, Subnet)>,
    /// Ranges nobody here may use because two peers say they own them.
    pub contested: Vec<ContestStatus>,
    /// Ranges a ring gave us that we do not use until their former owner agrees or is gone.
    pub unconfirmed: Vec<Range>,
    /// Addresses of running containers whose range was taken over while we were away.
    pub displaced: Vec<DisplacedStatus>,
    /// Peers whose ring cannot be merged with ours at all, and why: other seeds, another range.
    pub refused: Vec<(PeerName, String)>,
}

/// How far allocation is. `Display` is the one line the original shows of it, without its advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nobody here needed a ring yet.
    Idle,
    /// An observer waits for others to divide the range.
    Priming,
    /// An election is under way.
    AwaitingConsensus {
        /// Votes needed; 0 until it was fixed.
        quorum: usize,
        /// Nodes heard of.
        known: usize,
    },
    /// Somebody waits for an address.
    AwaitingSpace,
    /// No owner of a range is in reach.
    OwnersUnreachable,
    /// There is a ring, and nobody waits.
    Ready,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("idle"),
            Self::Priming => f.write_str("priming"),
            Self::AwaitingConsensus { quorum, known } => {
                write!(f, "awaiting consensus (quorum: {quorum}, known: {known})")
            }
            Self::AwaitingSpace => f.write_str("waiting for IP(s) to become available"),
            Self::OwnersUnreachable => f.write_str("all IP ranges owned by unreachable peers"),
            Self::Ready => f.write_str("ready"),
        }
    }
}

/// One entry of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryStatus {
    /// First address.
    pub token: u32,
    /// Addresses up to the next entry.
    pub size: u32,
    /// Owner.
    pub peer: PeerName,
    /// Its nickname, empty if never heard.
    pub nickname: String,
    /// Whether the mesh knows the owner.
    pub is_known: bool,
    /// Version of the entry.
    pub version: u32,
}

/// What one peer owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerStatus {
    /// Who.
    pub peer: PeerName,
    /// Its nickname, empty if never heard.
    pub nickname: String,
    /// Addresses owned.
    pub addresses: u64,
    /// Whether the mesh knows it; we know ourselves.
    pub is_known: bool,
}

/// An election under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElectionStatus {
    /// Whether we vote.
    pub is_elector: bool,
    /// Nodes heard of.
    pub known_nodes: usize,
    /// Votes needed; 0 until it was fixed.
    pub quorum: usize,
}

/// A range two peers say they own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContestStatus {
    /// The range.
    pub range: Range,
    /// The owner by our ring.
    pub ours: PeerName,
    /// The owner by the ring we were told.
    pub theirs: PeerName,
    /// Who told us.
    pub teller: PeerName,
}

/// An address used here whose range belongs to somebody else by now (we were taken over).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisplacedStatus {
    /// Who uses it here.
    pub ident: String,
    /// The address.
    pub cidr: Cidr,
    /// `None` while its owner is asked to let us keep it; otherwise what it clashes with.
    pub clash: Option<String>,
}
