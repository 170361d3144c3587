//! What an allocator is told at start.

use std::time::Duration;

use wire::PeerName;

use crate::address::Subnet;

/// What an allocator is told at start and never changes.
#[derive(Debug, Clone)]
pub struct IpamConfig {
    /// Our name.
    pub name: PeerName,
    /// Our nickname, for messages and for what others show.
    pub nickname: String,
    /// A number drawn anew at each start; our identity in an election begun by this process.
    pub uid: u64,
    /// Everything the allocator manages, `--ipalloc-range`.
    pub universe: Subnet,
    /// Where addresses are allocated when no subnet is given, `--ipalloc-default-subnet`.
    pub default_subnet: Subnet,
    /// How the ring comes into being, `--ipalloc-init`.
    pub init: Init,
    /// After which absence the ranges of a peer may be taken over by vote, `--reclaim-after`.
    pub reclaim_after: Option<Duration>,
}

/// How the ring comes into being (spec/ipam.md 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Init {
    /// By election among this many peers; `None`: as many as we were told to connect to, and us.
    Consensus(Option<usize>),
    /// Divided at start among exactly these peers.
    Seed(Vec<PeerName>),
    /// Others decide.
    Observer,
}
