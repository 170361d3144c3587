//! Where a frame goes: decisions over routes made ready for lookups, without I/O and without state
//! (spec/sleeve.md 9). Data-plane threads and the simulator decide with the same functions.
//!
//! A captured frame: [`decide_captured`]. A frame out of a datagram: [`decide_received`]. Each costs
//! the same whether ten peers are known or a thousand.

use std::collections::HashMap;

use wire::PeerName;
use wire::ethernet::{EthernetView, MacAddr};

use crate::frame::counters::DropReason;
use crate::mac::MacTable;
use crate::routes::Routes;

/// A neighbour to hand a frame to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// Its name.
    pub peer: PeerName,
    index: u32,
}

impl NextHop {
    /// Its place among all hops.
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

/// Routes by peer, each hop with its place.
#[derive(Debug, Default)]
pub struct Ways {
    us: PeerName,
    peers: HashMap<PeerName, Way>,
    hops: usize,
}

/// What is known about one peer.
#[derive(Debug, Default)]
struct Way {
    /// Whether the routes list it.
    is_listed: bool,
    /// Itself as a hop, if it is one.
    hop: Option<NextHop>,
    /// The hop towards it.
    next: Option<NextHop>,
    /// The hops that get a copy of its broadcasts.
    copies: Box<[NextHop]>,
}

impl Ways {
    /// Makes routes ready. `neighbours` are the peers we may have a tunnel to.
    pub fn new(
        us: PeerName,
        routes: &Routes,
        neighbours: impl IntoIterator<Item = PeerName>,
    ) -> Self {
        let mut ways = Self {
            us,
            peers: HashMap::with_capacity(routes.peers.len()),
            hops: 0,
        };
        for peer in neighbours {
            ways.add_hop(peer);
        }
        for &peer in &routes.peers {
            ways.peers.entry(peer).or_default().is_listed = true;
        }
        for (&peer, &hop) in &routes.unicast {
            let hop = ways.add_hop(hop);
            ways.peers.entry(peer).or_default().next = Some(hop);
        }
        for (&origin, hops) in &routes.broadcast {
            let copies = hops.iter().map(|&hop| ways.add_hop(hop)).collect();
            ways.peers.entry(origin).or_default().copies = copies;
        }
        ways
    }

    fn add_hop(&mut self, peer: PeerName) -> NextHop {
        let way = self.peers.entry(peer).or_default();
        *way.hop.get_or_insert_with(|| {
            let index = u32::try_from(self.hops).expect("fewer hops than addresses");
            self.hops += 1;
            NextHop { peer, index }
        })
    }

    /// Our own name.
    pub const fn us(&self) -> PeerName {
        self.us
    }

    /// How many hops there are; their places are below.
    pub const fn hops(&self) -> usize {
        self.hops
    }

    /// A peer as a hop.
    pub fn hop(&self, peer: PeerName) -> Option<NextHop> {
        self.peers.get(&peer)?.hop
    }

    /// The hop towards a peer.
    pub fn next(&self, peer: PeerName) -> Option<NextHop> {
        self.peers.get(&peer)?.next
    }

    fn copies(&self, origin: PeerName) -> &[NextHop] {
        self.peers.get(&origin).map_or(&[], |way| &way.copies)
    }

    fn listed(&self, peer: PeerName) -> Option<&Way> {
        self.peers.get(&peer).filter(|way| way.is_listed)
    }
}

/// Who a frame is from and for, as its header in the datagram says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// Where it entered the overlay.
    pub origin: PeerName,
    /// Where it leaves.
    pub destination: PeerName,
}

/// What a frame out of a datagram is to its kind of tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class<S> {
    /// What containers say to each other.
    Traffic,
    /// What the ends of the tunnel say to each other.
    Special(S),
    /// Looks like a special frame and is none.
    Spoilt,
}

/// What to do with a frame captured on our bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Captured<'w> {
    /// Not ours to carry.
    Drop(DropReason),
    /// One copy to this peer, over this neighbour; origin is us.
    Unicast {
        /// Destination in the frame header.
        destination: PeerName,
        /// Neighbour to hand it to.
        next_hop: NextHop,
    },
    /// One copy to each of these neighbours, each being its own copy's destination; origin is us.
    Broadcast(&'w [NextHop]),
}

/// What to do with a frame out of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received<'w, S> {
    /// Not to be passed on.
    Drop(DropReason),
    /// For the control half.
    Special(S),
    /// Hand on, keeping origin and destination.
    Relay {
        /// Neighbour to hand it to.
        next_hop: NextHop,
    },
    /// Inject into our bridge after learning its source address at the origin, and pass a copy to
    /// each of these neighbours, each being its own copy's destination.
    Deliver {
        /// Neighbours that get a copy; empty unless this is a broadcast.
        pass_on: &'w [NextHop],
    },
}

/// Decides about a captured frame by its addresses. The caller then learns `source` at us.
pub fn decide_captured<'w>(
    ways: &'w Ways,
    macs: &MacTable,
    source: MacAddr,
    destination: MacAddr,
) -> Captured<'w> {
    if macs.lookup(source).is_some_and(|peer| peer != ways.us) {
        return Captured::Drop(DropReason::Injected);
    }
    if destination == MacAddr::SPANNING_TREE {
        return Captured::Drop(DropReason::SpanningTree);
    }
    match macs.lookup(destination) {
        Some(peer) if peer == ways.us => Captured::Drop(DropReason::LocalDestination),
        Some(peer) => match ways.next(peer) {
            Some(next_hop) => Captured::Unicast {
                destination: peer,
                next_hop,
            },
            None => Captured::Drop(DropReason::NoRoute),
        },
        None => Captured::Broadcast(ways.copies(ways.us)),
    }
}

/// Decides about a frame of this class that came in a datagram of the neighbour `via`.
pub fn decide_received<'w, S>(
    ways: &'w Ways,
    macs: &MacTable,
    via: PeerName,
    envelope: Envelope,
    frame: &[u8],
    class: Class<S>,
) -> Received<'w, S> {
    let Some(ethernet) = EthernetView::new(frame) else {
        return Received::Drop(DropReason::MalformedFrame);
    };
    let Envelope {
        origin,
        destination,
    } = envelope;
    let (Some(from), Some(to)) = (ways.listed(origin), ways.listed(destination)) else {
        return Received::Drop(DropReason::UnknownPeer);
    };
    match class {
        Class::Traffic => {}
        Class::Special(special) if origin == via && destination == ways.us => {
            return Received::Special(special);
        }
        Class::Special(_) | Class::Spoilt => return Received::Drop(DropReason::ForeignSpecial),
    }
    if origin == ways.us {
        return Received::Drop(DropReason::OwnOrigin);
    }
    if destination != ways.us {
        return match to.next {
            None => Received::Drop(DropReason::NoRoute),
            Some(next_hop) if next_hop.peer == via => Received::Drop(DropReason::RelayLoop),
            Some(next_hop) => Received::Relay { next_hop },
        };
    }
    let is_local = macs.lookup(ethernet.destination()) == Some(ways.us);
    Received::Deliver {
        pass_on: if is_local { &[] } else { &from.copies },
    }
}
