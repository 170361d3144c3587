//! The closed list of tunnel kinds: what each is called, what its lane needs, what it is probed with
//! and what it reports. A new kind is a variant here, a control machine, and an arm in the data plane.

use std::net::SocketAddr;
use std::sync::Arc;

use wire::LinkId;

use crate::sleeve::lane::{SleeveEvent, SleeveLane, SleeveProbe};

/// Kinds of tunnel, by the names announced in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// WireGuard between Weft peers.
    Wireguard,
    /// VXLAN in the kernel.
    Fastdp,
    /// Datagrams in user space.
    Sleeve,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Wireguard, Self::Fastdp, Self::Sleeve];

    /// The name both ends know it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wireguard => "wireguard",
            Self::Fastdp => "fastdp",
            Self::Sleeve => "sleeve",
        }
    }
}

/// What the data plane needs to know to reach a neighbour by one kind of tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lane {
    /// Of sleeve.
    Sleeve(SleeveLane),
}

impl Lane {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Sleeve(_) => Kind::Sleeve,
        }
    }

    /// Where its datagrams go, once known.
    pub const fn remote_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Sleeve(lane) => lane.remote_address,
        }
    }

    /// Largest overlay IP packet, bytes (frame length minus 14).
    pub const fn mtu_bytes(&self) -> usize {
        match self {
            Self::Sleeve(lane) => lane.mtu_bytes,
        }
    }

    /// Whether datagrams are sealed.
    pub const fn is_sealed(&self) -> bool {
        match self {
            Self::Sleeve(lane) => lane.protection.cipher().is_some(),
        }
    }

    /// Whether datagrams that the network fragments were seen to arrive.
    pub const fn may_be_fragmented(&self) -> bool {
        match self {
            Self::Sleeve(lane) => lane.stack_frag,
        }
    }
}

/// The lanes to one neighbour, at most one per kind. Snapshots share what did not change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lanes([Option<Arc<Lane>>; Kind::ALL.len()]);

impl Lanes {
    /// The lane of a kind.
    pub fn get(&self, kind: Kind) -> Option<&Arc<Lane>> {
        self.0[kind as usize].as_ref()
    }

    /// Sets the lane of its kind.
    pub fn insert(&mut self, lane: Lane) {
        let slot = &mut self.0[lane.kind() as usize];
        *slot = Some(Arc::new(lane));
    }

    /// All lanes there are, in the order of their kinds.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.0.iter().flatten()
    }

    /// The lane of sleeve.
    pub fn sleeve(&self) -> Option<&SleeveLane> {
        self.get(Kind::Sleeve).map(|lane| match &**lane {
            Lane::Sleeve(lane) => lane,
        })
    }
}

impl FromIterator<Lane> for Lanes {
    fn from_iter<I: IntoIterator<Item = Lane>>(lanes: I) -> Self {
        let mut all = Self::default();
        lanes.into_iter().for_each(|lane| all.insert(lane));
        all
    }
}

/// Something the control half wants sent over one lane, whether or not it carries traffic. The data
/// plane knows the lane from a snapshot published before the probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Over whose lane.
    pub link: LinkId,
    /// What to send, and so over which lane.
    pub probe: LaneProbe,
}

/// What is sent, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneProbe {
    /// Of sleeve.
    Sleeve(SleeveProbe),
}

impl LaneProbe {
    /// What the far end's data plane reports when it arrives from this address.
    pub const fn heard(self, from: SocketAddr) -> LaneEvent {
        match self {
            Self::Sleeve(probe) => LaneEvent::Sleeve(SleeveEvent::Special {
                from,
                kind: probe.arrives_as(),
            }),
        }
    }
}

/// What the data plane tells the control half about one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelEvent {
    /// Whose lane.
    pub link: LinkId,
    /// What happened, and so on which lane.
    pub event: LaneEvent,
}

/// What happened, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneEvent {
    /// Of sleeve.
    Sleeve(SleeveEvent),
}
