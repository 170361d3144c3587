//! Why a request is not served.
//!
//! Conditions, not advice: what to do about them is for the edge to say, in the words of whoever
//! reads it. Where the original has a text for one, `Display` is that text.

use std::fmt;
use std::net::Ipv4Addr;

use wire::PeerName;

use crate::address::{Cidr, Range, Subnet};

/// Most peers named in a text.
const PEERS_NAMED_MAX: usize = 8;

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its caller, its container or this peer is going away.
    #[error("cancelled")]
    Cancelled,
    /// This peer allocates no addresses. Said by who would have asked the allocator.
    #[error("address allocation is not enabled")]
    Disabled,
    /// Another live machine has our name: what the mesh says about it.
    #[error("{0}")]
    NameTaken(String),
    /// The subnet has nothing in common with what is managed.
    #[error("range {subnet} out of bounds: {universe}")]
    OutOfRange {
        /// What was asked for.
        subnet: Subnet,
        /// Everything that is managed.
        universe: Subnet,
    },
    /// Somebody here uses an address that is not managed, or somebody without a name one that is.
    #[error("address {cidr} already in use{}", by(holder.as_deref()))]
    InUse {
        /// The address.
        cidr: Cidr,
        /// Who; `None` is somebody without a name.
        holder: Option<String>,
    },
    /// Somebody else here holds the address.
    #[error("address {cidr} is already owned by {holder}")]
    OwnedHere {
        /// The address.
        cidr: Cidr,
        /// Who.
        holder: String,
    },
    /// The address is another peer's.
    #[error("address {cidr} is owned by other peer {owner}{stance}")]
    OwnedElsewhere {
        /// The address.
        cidr: Cidr,
        /// Whose it is.
        owner: Peer,
        /// What the owner says to our asking for it.
        stance: Stance,
    },
    /// Nothing to give back.
    #[error("Delete: no addresses for {ident}")]
    NothingHeld {
        /// Whose everything was meant.
        ident: String,
    },
    /// The address to give back is not held by its supposed holder.
    #[error("Free: address {address} not found for {ident}")]
    NotHeld {
        /// Who was said to hold it.
        ident: String,
        /// The address.
        address: Ipv4Addr,
    },
    /// Nobody has divided the range yet.
    #[error(transparent)]
    NoRing(#[from] NoRing),
    /// No address of the subnet that could be given out is managed.
    #[error("no address of {subnet} is managed")]
    NotManaged {
        /// What was asked for.
        subnet: Subnet,
    },
    /// Whose the range is has to be settled first.
    #[error(transparent)]
    Disputed(#[from] Dispute),
    /// Others were asked for space and have not answered.
    #[error(
        "no answer yet from peers with free addresses in {subnet}: {}",
        list(peers)
    )]
    PeersSilent {
        /// What was asked for.
        subnet: Subnet,
        /// Who, and how many addresses are free there.
        peers: Vec<Share>,
    },
    /// Those who have free addresses are out of reach.
    #[error(
        "free addresses in {subnet} are owned by peers which cannot be reached: {}",
        list(peers)
    )]
    PeersUnreachable {
        /// What was asked for.
        subnet: Subnet,
        /// Who, and how many addresses are free there.
        peers: Vec<Share>,
    },
    /// Nobody has a free address.
    #[error("space exhausted in {subnet}: {used} used, owners {}", list(owners))]
    Exhausted {
        /// What was asked for.
        subnet: Subnet,
        /// Addresses in use.
        used: u64,
        /// Whose they are, and how many.
        owners: Vec<Share>,
    },
    /// No more requests can wait.
    #[error("{limit} requests for addresses wait already")]
    TooManyWaiting {
        /// How many wait.
        limit: usize,
    },
}

/// Why there is no ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRing {
    /// Another live machine has our name, so we do not vote: what the mesh says about it.
    #[error("{0}")]
    NameTaken(String),
    /// We do not vote, and nobody told us.
    #[error("no ring yet: this peer is an observer and waits for others to divide the range")]
    Observer,
    /// Too few vote.
    #[error("no majority: {known} of {size} peers known, {quorum} must agree")]
    NoMajority {
        /// Peers heard of, us included.
        known: usize,
        /// Peers the cluster begins with.
        size: usize,
        /// Votes needed.
        quorum: usize,
    },
}

/// Why nobody may use a range that is ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Dispute {
    /// Another ring says that it is not ours.
    #[error("range contested: {range} is ours, but belongs to {theirs} by the ring of {teller}")]
    Contested {
        /// The range.
        range: Range,
        /// Its owner by the other ring.
        theirs: Peer,
        /// Whose ring that is.
        teller: Peer,
    },
    /// It was given to us, and its former owner may not know.
    #[error("range contested: {range} was given to us, but {former} has not agreed yet")]
    Unconfirmed {
        /// The range.
        range: Range,
        /// Its former owner.
        former: Peer,
    },
    /// By one of so many contests that this one is not kept.
    #[error("range contested: {range}")]
    Unlisted {
        /// The range.
        range: Range,
    },
}

/// What the owner of an address says to a request for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stance {
    /// It does not give it.
    Denies,
    /// It could not be asked, and not for the first time.
    NotAsked {
        /// Why.
        error: String,
    },
    /// Nothing yet.
    Silent,
    /// It is out of reach.
    OutOfReach,
}

/// A peer as people know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: PeerName,
    /// Its nickname, empty if never heard.
    pub nickname: String,
}

/// A peer, and how many addresses of a range it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Who.
    pub peer: Peer,
    /// How many.
    pub addresses: u64,
}

impl Refusal {
    /// The condition in one word that never changes, for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Disabled => "disabled",
            Self::NameTaken(_) => "name-taken",
            Self::OutOfRange { .. } => "out-of-range",
            Self::InUse { .. } => "in-use",
            Self::OwnedHere { .. } => "owned-here",
            Self::OwnedElsewhere { .. } => "owned-elsewhere",
            Self::NothingHeld { .. } => "nothing-held",
            Self::NotHeld { .. } => "not-held",
            Self::NoRing(_) => "no-ring",
            Self::NotManaged { .. } => "not-managed",
            Self::Disputed(_) => "disputed",
            Self::PeersSilent { .. } => "peers-silent",
            Self::PeersUnreachable { .. } => "peers-unreachable",
            Self::Exhausted { .. } => "exhausted",
            Self::TooManyWaiting { .. } => "too-many-waiting",
        }
    }

    /// Whether the same request may be served later: it was asked with little patience.
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::NoRing(_)
            | Self::NotManaged { .. }
            | Self::Disputed(_)
            | Self::PeersSilent { .. }
            | Self::PeersUnreachable { .. }
            | Self::Exhausted { .. }
            | Self::TooManyWaiting { .. } => true,
            Self::OwnedElsewhere { stance, .. } => {
                matches!(stance, Stance::Silent | Stance::OutOfReach)
            }
            Self::Cancelled
            | Self::Disabled
            | Self::NameTaken(_)
            | Self::OutOfRange { .. }
            | Self::InUse { .. }
            | Self::OwnedHere { .. }
            | Self::NothingHeld { .. }
            | Self::NotHeld { .. } => false,
        }
    }
}

/// Begins with a blank or is empty: what follows the owner's name.
impl fmt::Display for Stance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denies => Ok(()),
            Self::NotAsked { error } => write!(f, " - {error}"),
            Self::Silent => f.write_str(" which has not answered yet"),
            Self::OutOfReach => f.write_str(" which cannot be reached"),
        }
    }
}

/// `name (nickname)`, or the name alone, as sentences have it.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nickname.as_str() {
            "" => self.name.fmt(f),
            nickname => write!(f, "{} ({nickname})", self.name),
        }
    }
}

/// `name(nickname) count`, as lists have it.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Peer { name, nickname } = &self.peer;
        write!(f, "{name}({nickname}) {}", self.addresses)
    }
}

fn by(holder: Option<&str>) -> String {
    holder
        .map(|holder| format!(" by {holder}"))
        .unwrap_or_default()
}

/// A list, cut short if it is long.
fn list(shares: &[Share]) -> String {
    let named = shares.iter().take(PEERS_NAMED_MAX).map(Share::to_string);
    let text = named.collect::<Vec<_>>().join(", ");
    match shares.len().saturating_sub(PEERS_NAMED_MAX) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
