//! The closed list of tunnel kinds: what each is called, what its lane needs, what it is probed with
//! and what it reports. A new kind is a module of its own, a variant of each enum here and of
//! [`Machine`](crate::machine::Machine), and an arm in the data plane.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use wire::LinkId;

use crate::protection::Protection;
use crate::sleeve::lane::{SleeveEvent, SleeveLane, SleeveProbe};
use crate::sleeve::pmtu;
#[cfg(any(test, feature = "trial"))]
use crate::trial::{self, TrialEvent, TrialLane, TrialProbe};
use crate::tunnel::Signal;

/// Kinds of tunnel, by the names announced in the handshake. The order is that of preference; new
/// ones come before `fastdp` (spec/fastdp.md 1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One that only tests have.
    #[cfg(any(test, feature = "trial"))]
    Trial,
    /// WireGuard between Weft peers.
    Wireguard,
    /// VXLAN in the kernel.
    Fastdp,
    /// Datagrams in user space.
    Sleeve,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: &[Self] = &[
        #[cfg(any(test, feature = "trial"))]
        Self::Trial,
        Self::Wireguard,
        Self::Fastdp,
        Self::Sleeve,
    ];
    /// What a peer has that announces no list.
    pub const COMPATIBLE: Self = Self::Sleeve;

    /// The name both ends know it by.
    pub const fn name(self) -> &'static str {
        match self {
            #[cfg(any(test, feature = "trial"))]
            Self::Trial => "trial",
            Self::Wireguard => "wireguard",
            Self::Fastdp => "fastdp",
            Self::Sleeve => "sleeve",
        }
    }

    /// Whether its tunnels find the path's MTU, and whether fragments pass, by themselves. The others
    /// take what they are given.
    pub const fn searches_path(self) -> bool {
        match self {
            #[cfg(any(test, feature = "trial"))]
            Self::Trial => false,
            Self::Wireguard | Self::Fastdp => false,
            Self::Sleeve => true,
        }
    }
}

/// What the data plane needs to know to reach a neighbour by one kind of tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lane {
    /// Of sleeve.
    Sleeve(SleeveLane),
    /// Of the kind that only tests have.
    #[cfg(any(test, feature = "trial"))]
    Trial(TrialLane),
}

impl Lane {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Sleeve(_) => Kind::Sleeve,
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(_) => Kind::Trial,
        }
    }

    /// Where its datagrams go, once known.
    pub const fn remote_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Sleeve(lane) => lane.remote_address,
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(lane) => lane.remote_address,
        }
    }

    /// Largest overlay IP packet, bytes (frame length minus 14).
    pub const fn mtu_bytes(&self) -> usize {
        match self {
            Self::Sleeve(lane) => lane.mtu_bytes,
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(_) => trial::MTU_BYTES,
        }
    }

    /// Largest UDP payload of a datagram that must not be fragmented, bytes.
    pub const fn max_payload_bytes(&self) -> usize {
        match self {
            Self::Sleeve(lane) => lane.max_payload_bytes,
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(lane) => lane.max_payload_bytes(),
        }
    }

    /// Bytes from an overlay IP packet to the underlay one that takes it to this address.
    pub fn overhead_bytes(&self, remote: IpAddr) -> usize {
        match self {
            Self::Sleeve(lane) => pmtu::overhead_bytes(remote, lane.protection.cipher().is_some()),
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(lane) => lane.overhead_bytes(),
        }
    }

    /// How its datagrams are sealed.
    pub const fn protection(&self) -> &Protection {
        match self {
            Self::Sleeve(lane) => &lane.protection,
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(lane) => &lane.protection,
        }
    }

    /// Whether datagrams are sealed.
    pub const fn is_sealed(&self) -> bool {
        self.protection().cipher().is_some()
    }

    /// Whether datagrams that the network fragments were seen to arrive.
    pub const fn may_be_fragmented(&self) -> bool {
        match self {
            Self::Sleeve(lane) => lane.stack_frag,
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(_) => false,
        }
    }

    /// The lane if it is one of sleeve.
    pub const fn sleeve(&self) -> Option<&SleeveLane> {
        match self {
            Self::Sleeve(lane) => Some(lane),
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(_) => None,
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
        self.get(Kind::Sleeve)?.sleeve()
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
    /// Of the kind that only tests have.
    #[cfg(any(test, feature = "trial"))]
    Trial(TrialProbe),
}

impl LaneProbe {
    /// The kind of its lane.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Sleeve(_) => Kind::Sleeve,
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(_) => Kind::Trial,
        }
    }

    /// The probe for the lane of this link.
    pub const fn on(self, link: LinkId) -> Probe {
        Probe { link, probe: self }
    }

    /// What the far end's data plane reports when it arrives from this address.
    pub const fn heard(self, from: SocketAddr) -> LaneEvent {
        match self {
            Self::Sleeve(probe) => LaneEvent::Sleeve(SleeveEvent::Special {
                from,
                kind: probe.arrives_as(),
            }),
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(TrialProbe { connection_uid }) => LaneEvent::Trial(TrialEvent::Heard {
                from,
                connection_uid,
            }),
        }
    }

    /// The connection it names, if it is a heartbeat.
    pub const fn connection_uid(self) -> Option<u64> {
        match self {
            Self::Sleeve(probe) => probe.connection_uid(),
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(probe) => Some(probe.connection_uid),
        }
    }

    /// Length of its frame.
    pub const fn frame_bytes(self) -> usize {
        match self {
            Self::Sleeve(probe) => probe.frame_bytes(),
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(probe) => probe.frame_bytes(),
        }
    }

    /// Whether the network may fragment it.
    pub const fn may_be_fragmented(self) -> bool {
        match self {
            Self::Sleeve(probe) => probe.may_be_fragmented(),
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(_) => false,
        }
    }

    /// The probe if it is one of sleeve.
    pub const fn sleeve(self) -> Option<SleeveProbe> {
        match self {
            Self::Sleeve(probe) => Some(probe),
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(_) => None,
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
    /// Of the kind that only tests have.
    #[cfg(any(test, feature = "trial"))]
    Trial(TrialEvent),
}

impl LaneEvent {
    /// What a lane of this kind reports of a signal; `None` if it has no word for it. What arrives
    /// comes from this address.
    pub const fn of(kind: Kind, signal: Signal, from: SocketAddr) -> Option<Self> {
        match kind {
            #[cfg(any(test, feature = "trial"))]
            Kind::Trial => match TrialEvent::of(signal, from) {
                Some(event) => Some(Self::Trial(event)),
                None => None,
            },
            Kind::Wireguard | Kind::Fastdp => None,
            Kind::Sleeve => Some(Self::Sleeve(SleeveEvent::of(signal, from))),
        }
    }

    /// The kind of its lane.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Sleeve(_) => Kind::Sleeve,
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(_) => Kind::Trial,
        }
    }

    /// The event of the lane of this link.
    pub const fn on(self, link: LinkId) -> TunnelEvent {
        TunnelEvent { link, event: self }
    }
}

impl SleeveProbe {
    /// The probe for the lane of this link.
    pub const fn on(self, link: LinkId) -> Probe {
        LaneProbe::Sleeve(self).on(link)
    }
}

impl SleeveEvent {
    /// The event of the lane of this link.
    pub const fn on(self, link: LinkId) -> TunnelEvent {
        LaneEvent::Sleeve(self).on(link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_names_come_before_those_that_old_peers_know() {
        let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert!(names.ends_with(&["fastdp", "sleeve"]), "{names:?}");
        assert!(Kind::ALL.is_sorted());
    }

    #[test]
    fn each_lane_is_found_by_its_kind() {
        let lanes = Kind::ALL.iter().enumerate();
        assert!(lanes.into_iter().all(|(n, kind)| *kind as usize == n));
        let trial = Lane::Trial(TrialLane {
            protection: Protection::Clear,
            remote_address: None,
        });
        let lanes = Lanes::from_iter([trial.clone()]);
        assert_eq!(lanes.get(Kind::Trial).map(|lane| &**lane), Some(&trial));
        assert_eq!(lanes.get(Kind::Sleeve), None);
        assert!(lanes.sleeve().is_none());
    }

    #[test]
    fn a_lane_reports_only_what_its_kind_has_a_word_for() {
        let from = SocketAddr::from(([192, 0, 2, 2], 6783));
        let heard = Signal::Heartbeat { connection_uid: 7 };
        let too_big = Signal::TooBig {
            path_mtu_bytes: 1400,
        };
        for kind in [Kind::Trial, Kind::Sleeve] {
            let event = LaneEvent::of(kind, heard, from).unwrap();
            assert_eq!(event.kind(), kind);
        }
        let probe = LaneProbe::Trial(TrialProbe { connection_uid: 7 });
        assert_eq!(
            LaneEvent::of(Kind::Trial, heard, from),
            Some(probe.heard(from))
        );
        assert!(LaneEvent::of(Kind::Sleeve, too_big, from).is_some());
        assert_eq!(LaneEvent::of(Kind::Trial, too_big, from), None);
        assert_eq!(LaneEvent::of(Kind::Fastdp, heard, from), None);
    }
}
