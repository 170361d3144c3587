//! The way of datagrams to the bridge, or on to the next neighbour (spec/sleeve.md 9).

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use wire::PeerName;
use wire::ethernet::{ETHERNET_HEADER_BYTES as ETHERNET_BYTES, EthernetView, MacAddr};

use crate::frame::counters::{Counters, DropReason};
use crate::frame::egress::{Egress, Outgoing, Outlet};
use crate::frame::fragment::Fragmenter;
use crate::frame::framing::Framing;
use crate::frame::icmp;
use crate::frame::merge::Merger;
use crate::frame::mss;
use crate::frame::path::IpClass;
use crate::frame::plan::{Hop, Plan};
use crate::frame::segment::VnetHeader;
use crate::frame::ways::{Class, Envelope, NextHop, Received, decide_received};
use crate::mac::{Learned, MacTable, Sighting};

/// What a batch of datagrams is judged by.
pub struct Scene<'a, F: Framing> {
    /// Where frames go.
    pub plan: &'a Plan<F>,
    /// Who is where.
    pub macs: &'a RwLock<MacTable>,
    /// Coarse monotonic time, seconds.
    pub now_secs: u32,
    /// What the thread counts.
    pub counters: &'a Counters,
}

impl<F: Framing> Clone for Scene<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Framing> Copy for Scene<'_, F> {}

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
    next_hop: NextHop,
}

/// State of the thread that reads the UDP sockets.
pub struct ReceivePath<F: Framing> {
    egress: Egress<F>,
    merger: Merger,
    recent: Option<Recent>,
    relayed: Option<Relayed>,
    /// Largest IP packet the bridge takes, bytes.
    bridge_mtu_bytes: usize,
    /// Room for a piece of a frame that is larger.
    piece: Vec<u8>,
}

impl<F: Framing> ReceivePath<F> {
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
        scene: Scene<'_, F>,
        from: SocketAddr,
        arena: &mut [u8],
        range: Range<usize>,
        datagram_bytes: usize,
        outlet: &mut impl Outlet<F>,
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
    pub fn flush(&mut self, scene: Scene<'_, F>, arena: &mut [u8], outlet: &mut impl Outlet<F>) {
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
        scene: Scene<'_, F>,
        via: Via<'_, F>,
        arena: &mut [u8],
        range: Range<usize>,
        outlet: &mut impl Outlet<F>,
    ) {
        let body = match F::open(&via.hop.tunnel, &mut arena[range.clone()]) {
            Ok(Some(body)) => range.start + body.start..range.start + body.end,
            Ok(None) => return scene.counters.count(DropReason::Replayed),
            Err(error) => {
                scene.counters.count(DropReason::Undecryptable);
                return outlet.complain(via.hop.remote, error);
            }
        };
        let framing = &scene.plan.framing;
        let mut start = body.start;
        while let Some(next) = framing.first_frame(&arena[start..body.end]) {
            let part = match next {
                Ok(part) => part,
                Err(error) => {
                    scene.counters.count(DropReason::MalformedDatagram);
                    return outlet.complain(via.hop.remote, error);
                }
            };
            let frame = start + part.frame.start..start + part.frame.end;
            start += part.next;
            // What comes back takes this tunnel.
            mss::clamp(&mut arena[frame.clone()], via.hop.limits.mtu_bytes);
            self.handle_frame(scene, via, part.envelope, arena, frame, outlet);
        }
    }

    fn handle_frame(
        &mut self,
        scene: Scene<'_, F>,
        via: Via<'_, F>,
        envelope: Envelope,
        arena: &mut [u8],
        range: Range<usize>,
        outlet: &mut impl Outlet<F>,
    ) {
        let Scene { plan, counters, .. } = scene;
        let Envelope {
            origin,
            destination,
        } = envelope;
        if destination == plan.us() && self.is_recent(via, origin, &arena[range.clone()]) {
            return self.deliver(scene, origin, arena, range, outlet);
        }
        let frame = &arena[range.clone()];
        let verdict = if let Some(next_hop) = self.relayed_to(via, envelope, frame) {
            Received::Relay { next_hop }
        } else {
            let class = F::classify(frame);
            let macs = scene.macs.read().unwrap_or_else(PoisonError::into_inner);
            decide_received(plan.ways(), &macs, via.hop.remote, envelope, frame, class)
        };
        match verdict {
            Received::Drop(reason) => counters.count(reason),
            Received::Special(special) => outlet.special(via.hop.link, via.from, special),
            Received::Relay { next_hop } => {
                if mss::is_syn(frame)
                    && let Ok((hop, _)) = plan.way(next_hop)
                {
                    mss::clamp(&mut arena[range.clone()], hop.limits.mtu_bytes);
                }
                let frame = &arena[range];
                self.relayed = Some(Relayed {
                    via: via.hop.remote,
                    envelope,
                    next_hop,
                });
                let outgoing = Outgoing {
                    frame,
                    cut: None,
                    is_copy: false,
                };
                self.relay(scene, next_hop, envelope, outgoing, outlet);
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
        scene: Scene<'_, F>,
        via: Via<'_, F>,
        origin: PeerName,
        pass_on: &[NextHop],
        arena: &mut [u8],
        range: Range<usize>,
        outlet: &mut impl Outlet<F>,
    ) {
        let frame = &arena[range.clone()];
        learn(scene, origin, frame, outlet);
        let remote = via.hop.remote;
        for &hop in pass_on.iter().filter(|hop| hop.peer != remote) {
            let envelope = Envelope {
                origin,
                destination: hop.peer,
            };
            let outgoing = Outgoing {
                frame,
                cut: None,
                is_copy: true,
            };
            self.relay(scene, hop, envelope, outgoing, outlet);
        }
        if pass_on.is_empty()
            && let Some(addresses) = frame.first_chunk()
        {
            self.recent = Some(Recent {
                via: via.hop.remote,
                origin,
                addresses: *addresses,
            });
        }
        self.deliver(scene, origin, arena, range, outlet);
    }

    /// Whether the frame has the addresses of the last one delivered to the bridge alone.
    fn is_recent(&self, via: Via<'_, F>, origin: PeerName, frame: &[u8]) -> bool {
        let (Some(recent), Some(header)) = (&self.recent, frame.first_chunk::<14>()) else {
            return false;
        };
        recent.via == via.hop.remote && recent.origin == origin && recent.addresses == header[..12]
    }

    /// Where the last frame went on to, if this one is of the same kind.
    fn relayed_to(&self, via: Via<'_, F>, envelope: Envelope, frame: &[u8]) -> Option<NextHop> {
        let last = self.relayed.as_ref()?;
        let is_same = last.via == via.hop.remote
            && last.envelope == envelope
            && frame.len() >= ETHERNET_BYTES
            && matches!(F::classify(frame), Class::Traffic);
        is_same.then_some(last.next_hop)
    }

    fn deliver(
        &mut self,
        scene: Scene<'_, F>,
        origin: PeerName,
        arena: &mut [u8],
        range: Range<usize>,
        outlet: &mut impl Outlet<F>,
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
        scene: Scene<'_, F>,
        origin: PeerName,
        frame: &[u8],
        outlet: &mut impl Outlet<F>,
    ) {
        let is_group = frame.first().is_some_and(|byte| byte & 1 == 1);
        if is_group {
            return scene.counters.count(DropReason::TooBigBroadcast);
        }
        scene.counters.count(DropReason::TooBig);
        let mut answer = [0; icmp::ANSWER_BYTES_MAX];
        if let Some(len) = icmp::frag_needed(frame, self.bridge_mtu_bytes, &mut answer) {
            let back = Envelope {
                origin: scene.plan.us(),
                destination: origin,
            };
            self.answer(scene, back, &answer[..len], outlet);
        }
    }

    /// One without DF is cut as a router would.
    fn deliver_pieces(&mut self, scene: Scene<'_, F>, frame: &[u8], outlet: &mut impl Outlet<F>) {
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
        scene: Scene<'_, F>,
        next_hop: NextHop,
        envelope: Envelope,
        outgoing: Outgoing<'_>,
        outlet: &mut impl Outlet<F>,
    ) {
        let Scene { plan, counters, .. } = scene;
        let way = match plan.way(next_hop) {
            Ok(way) => way,
            Err(reason) => return counters.count(reason),
        };
        let framing = &plan.framing;
        let answer = self
            .egress
            .send(framing, way, envelope, outgoing, counters, outlet);
        let Some(answer) = answer else { return };
        // As if the destination had sent it: back to the origin, which is never us.
        let back = Envelope {
            origin: envelope.destination,
            destination: envelope.origin,
        };
        self.answer(scene, back, answer.frame(), outlet);
    }

    /// Sends a frame of our own making to where its envelope says.
    fn answer(
        &mut self,
        scene: Scene<'_, F>,
        back: Envelope,
        frame: &[u8],
        outlet: &mut impl Outlet<F>,
    ) {
        let Scene { plan, counters, .. } = scene;
        let Some(next) = plan.ways().next(back.destination) else {
            return counters.count(DropReason::NoRoute);
        };
        match plan.way(next) {
            Ok(way) => {
                let outgoing = Outgoing {
                    frame,
                    cut: None,
                    is_copy: false,
                };
                let framing = &plan.framing;
                self.egress
                    .send(framing, way, back, outgoing, counters, outlet);
            }
            Err(reason) => counters.count(reason),
        }
    }
}

/// Where a datagram came from.
struct Via<'a, F: Framing> {
    sender: F::Sender,
    hop: &'a Hop<F>,
    from: SocketAddr,
}

impl<F: Framing> Clone for Via<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Framing> Copy for Via<'_, F> {}

/// The tunnel a datagram says it belongs to; `last` is that of the datagram before.
fn find_sender<'a, F: Framing>(
    scene: Scene<'a, F>,
    from: SocketAddr,
    datagram: &[u8],
    last: Option<Via<'a, F>>,
) -> Option<Via<'a, F>> {
    let Some(sender) = F::sender(datagram) else {
        scene.counters.count(DropReason::ShortDatagram);
        return None;
    };
    if let Some(via) = last.filter(|via| via.sender == sender) {
        return Some(via);
    }
    let Some(hop) = scene.plan.sender(sender) else {
        scene.counters.count(DropReason::UnknownSender);
        return None;
    };
    Some(Via { sender, hop, from })
}

fn learn<F: Framing>(
    scene: Scene<'_, F>,
    origin: PeerName,
    frame: &[u8],
    outlet: &mut impl Outlet<F>,
) {
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
