//! The way of datagrams to the bridge, or on to the next neighbour (spec/sleeve.md 9).

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use wire::PeerName;
use wire::ethernet::{EthernetView, MacAddr};
use wire::sleeve::{FRAME_HEADER_BYTES, FrameClass, Frames, classify_frame, parse_datagram};

use crate::datagram::Session;
use crate::forward::egress::{Egress, Envelope, Outgoing, Outlet};
use crate::forward::program::{Counters, Program};
use crate::forward::{DropReason, ETHERNET_BYTES, IpClass, Received, decide_received};
use crate::fragment::Fragmenter;
use crate::icmp;
use crate::mac::{Learned, MacTable, Sighting};
use crate::merge::Merger;
use crate::mss;
use crate::segment::VnetHeader;
use crate::sleeve::lane::{SleeveEvent, SleeveLane};
use crate::table::Neighbour;

/// What a batch of datagrams is judged by.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// Where frames go.
    pub program: &'a Program,
    /// Who is where.
    pub macs: &'a RwLock<MacTable>,
    /// Coarse monotonic time, seconds.
    pub now_secs: u32,
    /// What the thread counts.
    pub counters: &'a Counters,
}

/// Addresses of the last frame of this batch that was for our bridge alone.
#[derive(PartialEq, Eq)]
struct Recent {
    via: PeerName,
    origin: PeerName,
    addresses: [u8; 12],
}

/// The last frame of this batch that went on to a neighbour.
struct Relayed {
    via: PeerName,
    envelope: Envelope,
    next_hop: PeerName,
}

/// State of the thread that reads the UDP sockets.
pub struct ReceivePath {
    egress: Egress,
    merger: Merger,
    recent: Option<Recent>,
    relayed: Option<Relayed>,
    /// Largest IP packet the bridge takes, bytes.
    bridge_mtu_bytes: usize,
    /// Room for a piece of a frame that is larger.
    piece: Vec<u8>,
}

impl ReceivePath {
    /// With all buffers allocated. `merge_udp`: the TAP takes UDP super-frames.
    pub fn new(merge_udp: bool) -> Self {
        Self {
            egress: Egress::new(),
            merger: Merger::new(merge_udp),
            recent: None,
            relayed: None,
            bridge_mtu_bytes: usize::MAX,
            piece: Vec::new(),
        }
    }

    /// For a bridge of this MTU: what is larger it would drop without a word.
    #[must_use]
    pub fn with_bridge_mtu(mut self, mtu_bytes: usize) -> Self {
        self.bridge_mtu_bytes = mtu_bytes;
        self
    }

    /// Takes what one receive call gave: datagrams of `datagram_bytes` each (the last may be
    /// shorter) at `range` of the arena, which must stay untouched until `flush`.
    pub fn handle_datagrams(
        &mut self,
        scene: Scene<'_>,
        from: SocketAddr,
        arena: &mut [u8],
        range: Range<usize>,
        datagram_bytes: usize,
        outlet: &mut impl Outlet,
    ) {
        // Nearly always all are of one sender.
        let mut last = None;
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + datagram_bytes.max(1));
            let via = find_sender(scene, from, &arena[start..end], last);
            if let Some(via) = via {
                self.handle_datagram(scene, via, arena, start..end, outlet);
            }
            last = via;
            start = end;
        }
    }

    /// Ends a batch: everything leaves.
    pub fn flush(&mut self, scene: Scene<'_>, arena: &mut [u8], outlet: &mut impl Outlet) {
        self.recent = None;
        self.relayed = None;
        self.merger
            .flush(arena, &mut |header: &_, arena: &_, parts: &_| {
                outlet.inject(header, arena, parts);
            });
        self.egress.flush(scene.counters, outlet);
    }

    fn handle_datagram(
        &mut self,
        scene: Scene<'_>,
        via: Via<'_>,
        arena: &mut [u8],
        range: Range<usize>,
        outlet: &mut impl Outlet,
    ) {
        let (session, sender) = (via.session, via.neighbour.remote);
        match session.open(&mut arena[range.clone()]) {
            Ok(true) => {}
            Ok(false) => return scene.counters.count(DropReason::Replayed),
            Err(error) => {
                scene.counters.count(DropReason::Undecryptable);
                return outlet.complain(sender, error);
            }
        }
        let mut start = range.start + session.header_bytes().min(range.len());
        while let Some(next) = Frames::new(&arena[start..range.end]).next() {
            let frame = match next {
                Ok(frame) => frame,
                Err(error) => {
                    scene.counters.count(DropReason::MalformedDatagram);
                    return outlet.complain(sender, error);
                }
            };
            let envelope = (frame.origin, frame.destination);
            let bytes = start + FRAME_HEADER_BYTES..start + FRAME_HEADER_BYTES + frame.frame.len();
            start = bytes.end;
            // What comes back takes this tunnel.
            mss::clamp(&mut arena[bytes.clone()], via.lane.mtu_bytes);
            self.handle_frame(scene, via, envelope, arena, bytes, outlet);
        }
    }

    fn handle_frame(
        &mut self,
        scene: Scene<'_>,
        via: Via<'_>,
        (origin, destination): (PeerName, PeerName),
        arena: &mut [u8],
        range: Range<usize>,
        outlet: &mut impl Outlet,
    ) {
        let Scene {
            program, counters, ..
        } = scene;
        let table = &program.table;
        if destination == table.us && self.is_recent(via, origin, &arena[range.clone()]) {
            return self.deliver(scene, origin, arena, range, outlet);
        }
        let frame = &arena[range.clone()];
        let envelope = Envelope {
            origin,
            destination,
            is_copy: false,
        };
        let verdict = if let Some(next_hop) = self.relayed_to(via, envelope, frame) {
            Received::Relay { next_hop }
        } else {
            let macs = scene.macs.read().unwrap_or_else(PoisonError::into_inner);
            decide_received(table, &macs, via.neighbour, origin, destination, frame)
        };
        match verdict {
            Received::Drop(reason) => counters.count(reason),
            Received::Special(kind) => {
                let event = SleeveEvent::Special {
                    from: via.from,
                    kind,
                };
                outlet.report(event.on(via.session.link));
            }
            Received::Relay { next_hop } => {
                if mss::is_syn(frame)
                    && let Ok(hop) = program.hop(next_hop)
                {
                    mss::clamp(&mut arena[range.clone()], hop.lane.mtu_bytes);
                }
                let frame = &arena[range];
                self.relayed = Some(Relayed {
                    via: via.neighbour.remote,
                    envelope,
                    next_hop,
                });
                self.relay(scene, next_hop, envelope, frame, outlet);
            }
            Received::Deliver { pass_on } => {
                self.hand_in(scene, via, origin, pass_on, arena, range, outlet);
            }
        }
    }

    /// Takes a frame for our bridge, and passes copies on.
    #[expect(clippy::too_many_arguments, reason = "the thread's state, spelled out")]
    fn hand_in(
        &mut self,
        scene: Scene<'_>,
        via: Via<'_>,
        origin: PeerName,
        pass_on: &[PeerName],
        arena: &mut [u8],
        range: Range<usize>,
        outlet: &mut impl Outlet,
    ) {
        let frame = &arena[range.clone()];
        learn(scene, origin, frame, outlet);
        for &hop in pass_on.iter().filter(|hop| **hop != via.neighbour.remote) {
            let envelope = Envelope {
                origin,
                destination: hop,
                is_copy: true,
            };
            self.relay(scene, hop, envelope, frame, outlet);
        }
        if pass_on.is_empty()
            && let Some(addresses) = frame.first_chunk()
        {
            self.recent = Some(Recent {
                via: via.neighbour.remote,
                origin,
                addresses: *addresses,
            });
        }
        self.deliver(scene, origin, arena, range, outlet);
    }

    /// Whether the frame has the addresses of the last one delivered to the bridge alone.
    fn is_recent(&self, via: Via<'_>, origin: PeerName, frame: &[u8]) -> bool {
        let (Some(recent), Some(header)) = (&self.recent, frame.first_chunk::<14>()) else {
            return false;
        };
        recent.via == via.neighbour.remote
            && recent.origin == origin
            && recent.addresses == header[..12]
    }

    /// Where the last frame went on to, if this one is of the same kind.
    fn relayed_to(&self, via: Via<'_>, envelope: Envelope, frame: &[u8]) -> Option<PeerName> {
        let last = self.relayed.as_ref()?;
        let is_same = last.via == via.neighbour.remote
            && last.envelope == envelope
            && classify_frame(frame) == FrameClass::Ordinary;
        is_same.then_some(last.next_hop)
    }

    fn deliver(
        &mut self,
        scene: Scene<'_>,
        origin: PeerName,
        arena: &mut [u8],
        range: Range<usize>,
        outlet: &mut impl Outlet,
    ) {
        if range.len() > self.bridge_mtu_bytes.saturating_add(ETHERNET_BYTES) {
            match IpClass::of(&arena[range.clone()]) {
                IpClass::DontFragment => {
                    return self.refuse(scene, origin, &arena[range], outlet);
                }
                IpClass::MayFragment => return self.deliver_pieces(scene, &arena[range], outlet),
                IpClass::NonIp => {}
            }
        }
        self.merger
            .push(arena, range, &mut |header: &_, arena: &_, parts: &_| {
                outlet.inject(header, arena, parts);
            });
    }

    /// A frame with DF is larger than our bridge takes: its sender, on a host with a larger bridge,
    /// is told so.
    fn refuse(
        &mut self,
        scene: Scene<'_>,
        origin: PeerName,
        frame: &[u8],
        outlet: &mut impl Outlet,
    ) {
        let is_group = frame.first().is_some_and(|byte| byte & 1 == 1);
        if is_group {
            return scene.counters.count(DropReason::TooBigBroadcast);
        }
        scene.counters.count(DropReason::TooBig);
        let mut answer = [0; icmp::ANSWER_BYTES_MAX];
        if let Some(len) = icmp::frag_needed(frame, self.bridge_mtu_bytes, &mut answer) {
            let back = Envelope {
                origin: scene.program.table.us,
                destination: origin,
                is_copy: false,
            };
            self.answer(scene, back, &answer[..len], outlet);
        }
    }

    /// One without DF is cut as a router would.
    fn deliver_pieces(&mut self, scene: Scene<'_>, frame: &[u8], outlet: &mut impl Outlet) {
        let Some(mut cut) = Fragmenter::new(frame, self.bridge_mtu_bytes) else {
            return scene.counters.count(DropReason::MalformedFrame);
        };
        while let Some(len) = cut.next_bytes() {
            self.piece.resize(len, 0);
            cut.write_next(frame, &mut self.piece);
            let part = 0..len;
            outlet.inject(&VnetHeader::default(), &self.piece, &[part]);
        }
    }

    fn relay(
        &mut self,
        scene: Scene<'_>,
        next_hop: PeerName,
        envelope: Envelope,
        frame: &[u8],
        outlet: &mut impl Outlet,
    ) {
        let Scene {
            program, counters, ..
        } = scene;
        let us = program.table.us;
        let hop = match program.hop(next_hop) {
            Ok(hop) => hop,
            Err(reason) => return counters.count(reason),
        };
        let outgoing = Outgoing { frame, cut: None };
        let Some(answer) = self
            .egress
            .send(us, hop, envelope, outgoing, counters, outlet)
        else {
            return;
        };
        // As if the destination had sent it: back to the origin, which is never us.
        let back = Envelope {
            origin: envelope.destination,
            destination: envelope.origin,
            is_copy: false,
        };
        self.answer(scene, back, answer.frame(), outlet);
    }

    /// Sends a frame of our own making to where its envelope says.
    fn answer(&mut self, scene: Scene<'_>, back: Envelope, frame: &[u8], outlet: &mut impl Outlet) {
        let Scene {
            program, counters, ..
        } = scene;
        let us = program.table.us;
        let Some(hop) = program.table.routes.unicast.get(&back.destination) else {
            return counters.count(DropReason::NoRoute);
        };
        match program.hop(*hop) {
            Ok(hop) => {
                let outgoing = Outgoing { frame, cut: None };
                self.egress.send(us, hop, back, outgoing, counters, outlet);
            }
            Err(reason) => counters.count(reason),
        }
    }
}

/// Where a datagram came from.
#[derive(Clone, Copy)]
struct Via<'a> {
    session: &'a Arc<Session>,
    neighbour: &'a Neighbour,
    lane: &'a SleeveLane,
    from: SocketAddr,
}

/// The tunnel a datagram says it belongs to; `last` is that of the datagram before.
fn find_sender<'a>(
    scene: Scene<'a>,
    from: SocketAddr,
    datagram: &[u8],
    last: Option<Via<'a>>,
) -> Option<Via<'a>> {
    let Ok((sender, _)) = parse_datagram(datagram) else {
        scene.counters.count(DropReason::ShortDatagram);
        return None;
    };
    if let Some(via) = last.filter(|via| via.neighbour.remote == sender) {
        return Some(via);
    }
    let program = scene.program;
    let known = || {
        let neighbour = program.table.neighbours.get(&sender)?;
        Some(Via {
            session: program.session(sender)?,
            neighbour,
            lane: neighbour.lanes.sleeve()?,
            from,
        })
    };
    let via = known();
    if via.is_none() {
        scene.counters.count(DropReason::UnknownSender);
    }
    via
}

fn learn(scene: Scene<'_>, origin: PeerName, frame: &[u8], outlet: &mut impl Outlet) {
    let Some(mac) = EthernetView::new(frame).map(EthernetView::source) else {
        return;
    };
    let is_current = {
        let macs = scene.macs.read().unwrap_or_else(PoisonError::into_inner);
        macs.is_current(mac, origin, scene.now_secs)
    };
    if is_current {
        return;
    }
    let learned = {
        let mut macs = scene.macs.write().unwrap_or_else(PoisonError::into_inner);
        macs.learn(mac, origin, scene.now_secs)
    };
    log_learned(mac, origin, learned);
    if learned != Learned::Known {
        outlet.learned(Sighting { mac, peer: origin });
    }
}

fn log_learned(mac: MacAddr, peer: PeerName, learned: Learned) {
    match learned {
        Learned::Known => {}
        Learned::New => tracing::debug!(%mac, %peer, "discovered remote MAC"),
        Learned::Moved { from } => {
            tracing::debug!(%mac, %peer, was_at = %from, "discovered remote MAC");
        }
    }
}
