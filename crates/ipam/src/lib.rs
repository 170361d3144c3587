//! Unique addresses on any host, without a store: the ring of Weave Net 2.8 and what runs on it. A
//! pure state machine; see [`Ipam`]. The wire contract is spec/ipam.md.
//!
//! Who owns which range is the ring's business ([`ring`]); which of our own addresses are free is
//! the space's ([`space`]); who gets the first shares is decided by election ([`paxos`]). [`Ipam`]
//! ties them together and serves requests.

#![forbid(unsafe_code)]

pub mod address;
mod allocator;
pub mod paxos;
pub mod ring;
pub mod rows;
pub mod space;
pub mod status;

pub use allocator::Ipam;

use std::net::Ipv4Addr;
use std::time::Duration;

use wire::PeerName;

use address::{Cidr, Range, Subnet};

/// The gossip channel of address allocation (spec/ipam.md 9).
pub const CHANNEL: &str = "IPallocation";
/// The gossip channel of what only Wefts say to each other about allocation: votes on ranges of
/// peers that are gone. Originals do not know it and pass it on untouched.
pub const WEFT_CHANNEL: &str = "weft-ipam";
/// Identifier of callers that do not say who they are: an address is then kept under its own text.
pub const ANONYMOUS: &str = "_";
/// How long a request waits before it is told why it is not served: so that it knows within 5 s.
pub const PATIENCE: Duration = Duration::from_millis(4_500);
/// How often pending requests are tried again and dead containers looked at.
pub const TICK: Duration = Duration::from_secs(5);
/// How long the addresses of a container that died are kept for it.
pub const GRACE: Duration = Duration::from_secs(30);

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

/// Correlates a request with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Whether a request that cannot be served now is answered with the reason or kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Answered within [`PATIENCE`].
    Short,
    /// Kept until it can be served or is cancelled.
    Forever,
}

/// What can be asked (spec/ipam.md 5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Complete when a ring exists.
    Prime(Patience),
    /// Give out the lowest free address.
    Allocate {
        /// For whom.
        ident: String,
        /// Where; `None` is the default subnet.
        subnet: Option<Subnet>,
        /// Whether `ident` is a container whose death frees the address.
        is_container: bool,
        /// How long to wait.
        patience: Patience,
    },
    /// Take exactly this address.
    Claim {
        /// For whom.
        ident: String,
        /// The address and its prefix.
        cidr: Cidr,
        /// Whether `ident` is a container whose death frees the address.
        is_container: bool,
        /// Answer at once with success while there is no ring, and keep trying.
        no_error_on_unknown: bool,
        /// How long to wait.
        patience: Patience,
    },
    /// What somebody holds in a subnet; `None` is the default subnet.
    Lookup {
        /// Who.
        ident: String,
        /// Where.
        subnet: Option<Subnet>,
    },
    /// Who holds what.
    List,
    /// Give one address back.
    Free {
        /// Who held it.
        ident: String,
        /// The address.
        address: Ipv4Addr,
    },
    /// Give everything back.
    Delete {
        /// Who held it.
        ident: String,
    },
    /// Hand all our ranges to an heir and serve nobody any more (`DELETE /peer`).
    Leave,
    /// Take the ranges of a peer that is gone (`rmpeer`).
    TakeOver {
        /// Nickname or name, as typed.
        peer: String,
    },
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing to say.
    Done,
    /// The address given out or found, with the prefix length of the subnet asked for.
    Address(Cidr),
    /// Answer to `Lookup`.
    Addresses(Vec<Cidr>),
    /// Answer to `List`, by identifier.
    List(Vec<Holding>),
    /// Answer to `TakeOver`: how many addresses were gained.
    TakenOver(u64),
    /// Not served because its caller, its container or this peer is going away.
    Cancelled,
    /// Refused for good: the text says why.
    Refused(String),
    /// Cannot be served now: the text says what is missing. Only for `Patience::Short`.
    Unavailable(String),
}

/// What one identifier holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Container id, `weave:expose`, or the address itself for anonymous callers.
    pub ident: String,
    /// Whether its death frees the addresses.
    pub is_container: bool,
    /// Its addresses.
    pub cidrs: Vec<Cidr>,
}

/// What happened to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerEvent {
    /// It runs.
    Started,
    /// It stopped; it may be started again.
    Died,
    /// It is gone for good.
    Destroyed,
}

/// What must be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IpamOutput {
    /// Make these rows durable, all or none, before anything behind it is done.
    Persist(Vec<rows::RowWrite>),
    /// Send to one peer on [`CHANNEL`]; report a failure with `handle_unicast_failed`.
    Unicast {
        /// Whom.
        to: PeerName,
        /// Kind byte and gob.
        payload: Vec<u8>,
    },
    /// Broadcast our state on [`CHANNEL`], encoded when it is sent ([`Ipam::gossip_state`]).
    Broadcast,
    /// Send to one peer on [`WEFT_CHANNEL`]; a failure need not be reported.
    WeftUnicast {
        /// Whom.
        to: PeerName,
        /// As `Ipam::handle_weft` takes it.
        payload: Vec<u8>,
    },
    /// Broadcast on [`WEFT_CHANNEL`].
    WeftBroadcast(Vec<u8>),
    /// Answer a request. Exactly one per ticket.
    Answer {
        /// Which.
        ticket: Ticket,
        /// How it ended.
        answer: Answer,
    },
    /// The ranges we own changed (range trackers, spec/ipam.md 10): all of them, merged, ascending.
    RangesChanged(Vec<Range>),
}
