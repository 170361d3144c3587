//! What can be asked of an allocator, and the type of each answer (spec/ipam.md 5).
//!
//! Each request is a type that knows its answer ([`Ask`]). [`Request`] and [`Answer`] are the closed
//! lists of them, in which they travel through a node.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::address::{Cidr, Subnet};
use crate::refusal::Refusal;

/// Identifier of callers that do not say who they are: an address is then kept under its own text.
pub const ANONYMOUS: &str = "_";
/// How long a request waits before it is told why it is not served: so that it knows within 5 s.
pub const PATIENCE: Duration = Duration::from_millis(4_500);

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

/// How a request ended: with its answer, or refused.
pub type Outcome = Result<Answer, Refusal>;

/// A request that knows the type of its answer.
pub trait Ask {
    /// What it is answered by, unless it is refused.
    type Answer;

    /// The request in the list of all.
    fn request(self) -> Request;

    /// Its answer out of the list of all; `None` if that is the answer to another request.
    fn read(answer: Answer) -> Option<Self::Answer>;
}

/// Complete when a ring exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prime(pub Patience);

/// Give out the lowest free address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocate {
    /// For whom.
    pub ident: String,
    /// Where; `None` is the default subnet.
    pub subnet: Option<Subnet>,
    /// Whether `ident` is a container whose death frees the address.
    pub is_container: bool,
    /// How long to wait.
    pub patience: Patience,
}

/// Take exactly this address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// For whom.
    pub ident: String,
    /// The address and its prefix.
    pub cidr: Cidr,
    /// Whether `ident` is a container whose death frees the address.
    pub is_container: bool,
    /// Answer at once with success while there is no ring, and keep trying.
    pub no_error_on_unknown: bool,
    /// How long to wait.
    pub patience: Patience,
}

/// What somebody holds in a subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// Who.
    pub ident: String,
    /// Where; `None` is the default subnet.
    pub subnet: Option<Subnet>,
}

/// Who holds what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct List;

/// Give one address back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Free {
    /// Who held it.
    pub ident: String,
    /// The address.
    pub address: Ipv4Addr,
}

/// Give everything back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// Who held it.
    pub ident: String,
}

/// Hand all our ranges to an heir and serve nobody any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave;

/// Take the ranges of a peer that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeOver {
    /// Nickname or name, as typed.
    pub peer: String,
}

/// Any request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// See [`Prime`].
    Prime(Patience),
    /// See [`Allocate`].
    Allocate(Allocate),
    /// See [`Claim`].
    Claim(Claim),
    /// See [`Lookup`].
    Lookup(Lookup),
    /// See [`List`].
    List,
    /// See [`Free`].
    Free(Free),
    /// See [`Delete`].
    Delete(Delete),
    /// See [`Leave`].
    Leave,
    /// See [`TakeOver`].
    TakeOver(TakeOver),
}

/// Any answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing to say.
    Done,
    /// The address given out, with the prefix length of the subnet asked for.
    Address(Cidr),
    /// Answer to [`Lookup`].
    Addresses(Vec<Cidr>),
    /// Answer to [`List`], by identifier.
    List(Vec<Holding>),
    /// Answer to [`TakeOver`]: how many addresses were gained.
    TakenOver(u64),
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

impl Answer {
    fn done(self) -> Option<()> {
        (self == Self::Done).then_some(())
    }
}

impl Ask for Prime {
    type Answer = ();

    fn request(self) -> Request {
        Request::Prime(self.0)
    }

    fn read(answer: Answer) -> Option<()> {
        answer.done()
    }
}

impl Ask for Allocate {
    type Answer = Cidr;

    fn request(self) -> Request {
        Request::Allocate(self)
    }

    fn read(answer: Answer) -> Option<Cidr> {
        if let Answer::Address(cidr) = answer {
            Some(cidr)
        } else {
            None
        }
    }
}

impl Ask for Claim {
    type Answer = ();

    fn request(self) -> Request {
        Request::Claim(self)
    }

    fn read(answer: Answer) -> Option<()> {
        answer.done()
    }
}

impl Ask for Lookup {
    type Answer = Vec<Cidr>;

    fn request(self) -> Request {
        Request::Lookup(self)
    }

    fn read(answer: Answer) -> Option<Vec<Cidr>> {
        if let Answer::Addresses(cidrs) = answer {
            Some(cidrs)
        } else {
            None
        }
    }
}

impl Ask for List {
    type Answer = Vec<Holding>;

    fn request(self) -> Request {
        Request::List
    }

    fn read(answer: Answer) -> Option<Vec<Holding>> {
        if let Answer::List(holdings) = answer {
            Some(holdings)
        } else {
            None
        }
    }
}

impl Ask for Free {
    type Answer = ();

    fn request(self) -> Request {
        Request::Free(self)
    }

    fn read(answer: Answer) -> Option<()> {
        answer.done()
    }
}

impl Ask for Delete {
    type Answer = ();

    fn request(self) -> Request {
        Request::Delete(self)
    }

    fn read(answer: Answer) -> Option<()> {
        answer.done()
    }
}

impl Ask for Leave {
    type Answer = ();

    fn request(self) -> Request {
        Request::Leave
    }

    fn read(answer: Answer) -> Option<()> {
        answer.done()
    }
}

impl Ask for TakeOver {
    type Answer = u64;

    fn request(self) -> Request {
        Request::TakeOver(self)
    }

    fn read(answer: Answer) -> Option<u64> {
        if let Answer::TakenOver(count) = answer {
            Some(count)
        } else {
            None
        }
    }
}
