//! Scenes: how a cluster of three begins, what is wished for in it, and what may go wrong.

use ipam::Init;
use ipam::address::Subnet;
use wire::PeerName;

/// Peers of a cluster.
pub const PEERS: usize = 3;
/// Everything that is managed.
pub fn universe() -> Subnet {
    Subnet::new(0x0a00_0000, 29).expect("eight addresses are a subnet")
}
/// Addresses that can be given out.
pub const HOSTS: usize = 6;

/// The name of a peer.
pub const fn name(peer: usize) -> PeerName {
    PeerName::from_u64(0x0200_0000_0a01 + peer as u64)
}

/// The number of a peer.
pub fn number(peer: PeerName) -> usize {
    (peer.to_u64() - name(0).to_u64()) as usize
}

/// What somebody wants of a peer, once.
#[derive(Debug, Clone, Copy)]
pub enum Wish {
    /// Any address, for a container named after the wish.
    Allocate {
        /// Of whom.
        peer: usize,
    },
    /// The address with this number in the universe.
    Claim {
        /// Of whom.
        peer: usize,
        /// Which, 1 to 6.
        host: u32,
    },
    /// That what an earlier wish got is given back.
    Free {
        /// Which wish.
        wish: usize,
    },
    /// That this peer hands over everything and stops.
    Leave {
        /// Who.
        peer: usize,
    },
    /// That this peer burns down. Nobody asks it for that, and it never comes back.
    Perish {
        /// Who.
        peer: usize,
    },
    /// That this peer takes what one that is down for good owns.
    TakeOver {
        /// Who takes.
        peer: usize,
        /// Whose.
        of: usize,
    },
}

impl Wish {
    /// Of whom it is asked.
    pub fn peer(self, scene: &Scene) -> usize {
        match self {
            Self::Allocate { peer }
            | Self::Claim { peer, .. }
            | Self::Leave { peer }
            | Self::Perish { peer }
            | Self::TakeOver { peer, .. } => peer,
            Self::Free { wish } => scene.wishes[wish].peer(scene),
        }
    }
}

/// A cluster and what may happen to it.
#[derive(Debug, Clone)]
pub struct Scene {
    /// For the command line.
    pub name: &'static str,
    /// How the ring comes into being, by peer.
    pub inits: [Init; PEERS],
    /// Whether the peers agree on the first shares before anything else happens.
    pub is_settled: bool,
    /// What is wished for; each wish at any time.
    pub wishes: Vec<Wish>,
    /// Times a peer dies and goes on from its rows.
    pub crashes: u8,
    /// Messages delivered twice.
    pub duplicates: u8,
    /// Times two peers lose sight of each other.
    pub cuts: u8,
    /// Timers of each peer that fire.
    pub timers: u8,
    /// Undelivered gossips kept between two peers; the oldest goes.
    pub gossips: usize,
}

impl Scene {
    /// All of them.
    pub fn all() -> Vec<Self> {
        vec![
            Self::seed(),
            Self::donations(),
            Self::consensus(),
            Self::observers(),
            Self::departure(),
            Self::takeover(),
        ]
    }

    /// Shares by seed: 0 has half of the universe, 1 and 2 a quarter each.
    fn seed() -> Self {
        Self {
            name: "seed",
            inits: everywhere(Init::Seed((0..PEERS).map(name).collect())),
            is_settled: false,
            wishes: vec![
                Wish::Allocate { peer: 0 },
                Wish::Allocate { peer: 2 },
                Wish::Allocate { peer: 2 },
                Wish::Claim { peer: 1, host: 3 },
                Wish::Free { wish: 1 },
            ],
            crashes: 1,
            duplicates: 1,
            cuts: 1,
            timers: 1,
            gossips: 2,
        }
    }

    /// One peer owns everything, two want some of it, the same address even.
    fn donations() -> Self {
        Self {
            name: "donations",
            inits: everywhere(Init::Seed(vec![name(0)])),
            is_settled: true,
            wishes: vec![
                Wish::Allocate { peer: 1 },
                Wish::Claim { peer: 1, host: 3 },
                Wish::Claim { peer: 2, host: 3 },
                Wish::Allocate { peer: 0 },
                Wish::Free { wish: 1 },
            ],
            crashes: 1,
            duplicates: 1,
            cuts: 1,
            timers: 1,
            gossips: 2,
        }
    }

    /// Three elect.
    fn consensus() -> Self {
        Self {
            name: "consensus",
            inits: everywhere(Init::Consensus(Some(PEERS))),
            is_settled: false,
            wishes: vec![
                Wish::Allocate { peer: 0 },
                Wish::Allocate { peer: 1 },
                Wish::Claim { peer: 2, host: 2 },
            ],
            crashes: 2,
            duplicates: 1,
            cuts: 1,
            timers: 2,
            gossips: 2,
        }
    }

    /// One elects alone, two wait for what comes of it.
    fn observers() -> Self {
        Self {
            name: "observers",
            inits: [Init::Consensus(Some(1)), Init::Observer, Init::Observer],
            is_settled: false,
            wishes: vec![
                Wish::Allocate { peer: 1 },
                Wish::Claim { peer: 2, host: 2 },
                Wish::Allocate { peer: 0 },
            ],
            crashes: 1,
            duplicates: 1,
            cuts: 1,
            timers: 1,
            gossips: 2,
        }
    }

    /// One hands everything over and goes.
    fn departure() -> Self {
        Self {
            name: "departure",
            inits: everywhere(Init::Seed((0..PEERS).map(name).collect())),
            is_settled: true,
            wishes: vec![
                Wish::Allocate { peer: 0 },
                Wish::Claim { peer: 1, host: 4 },
                Wish::Free { wish: 1 },
                Wish::Leave { peer: 0 },
                Wish::Allocate { peer: 2 },
            ],
            crashes: 1,
            duplicates: 1,
            cuts: 0,
            timers: 1,
            gossips: 2,
        }
    }

    /// One burns down, another takes what it had.
    fn takeover() -> Self {
        Self {
            name: "takeover",
            inits: everywhere(Init::Seed((0..PEERS).map(name).collect())),
            is_settled: true,
            wishes: vec![
                Wish::Allocate { peer: 0 },
                Wish::Allocate { peer: 2 },
                Wish::Allocate { peer: 2 },
                Wish::Perish { peer: 0 },
                Wish::TakeOver { peer: 1, of: 0 },
                Wish::Claim { peer: 2, host: 3 },
            ],
            crashes: 1,
            duplicates: 1,
            cuts: 0,
            timers: 1,
            gossips: 2,
        }
    }
}

fn everywhere(init: Init) -> [Init; PEERS] {
    std::array::from_fn(|_| init.clone())
}
