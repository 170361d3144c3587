//! Hosts without sockets: a line 1 - 2 - 3, and as many more peers as wanted.

#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod wireguard;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, RwLock};

use nacl::SessionKey;
use overlay::forward::{Compiler, ways_of};
use overlay::frame::capture::CapturePath;
use overlay::frame::counters::{Counters, DropReason};
use overlay::frame::egress::Outlet;
use overlay::frame::framing::Framing;
use overlay::frame::path::Limits;
use overlay::frame::plan::{Hop, Plan, UdpPath};
use overlay::frame::receive::{ReceivePath, Scene};
use overlay::frame::segment::{NEEDS_CHECKSUM, VnetHeader};
use overlay::kind::{Kind, Lane, Lanes, TunnelEvent};
use overlay::mac::{MacTable, Sighting};
use overlay::protection::{Cipher, Protection};
use overlay::sleeve::framing::SleeveFraming;
use overlay::sleeve::lane::{SleeveEvent, SleeveLane, SpecialKind};
use overlay::table::{ForwardingTable, Neighbour, Routes};
use wire::ethernet::{fold, sum};
use wire::sleeve::DatagramError;
use wire::{LinkId, PeerName};

use self::wireguard::{BadDatagram, Wireguard, WireguardTunnel};

/// The hosts of the line.
const LINE: u64 = 3;
/// Peers up to this one are behind the end of the line; those above are neighbours of everybody.
pub(crate) const BEHIND_MAX: u64 = 10;

/// Peer `n`.
pub(crate) fn name(n: u64) -> PeerName {
    PeerName::from_u64(n)
}

/// What came out of one host, in buffers made beforehand.
pub(crate) struct Buffers {
    /// Datagrams, one behind the other.
    pub(crate) arena: Vec<u8>,
    /// Where from, for whom, in which datagram size, and whether with DF.
    pub(crate) runs: Vec<Run>,
    /// Frames for the TAP; kept only when asked for.
    pub(crate) injected: Option<Vec<(VnetHeader, Vec<u8>)>>,
    pub(crate) injected_frames: usize,
    pub(crate) injected_bytes: usize,
    pub(crate) events: Vec<TunnelEvent>,
    pub(crate) learned: Vec<Sighting>,
    pub(crate) complaints: Vec<DatagramError>,
    pub(crate) refused: Vec<BadDatagram>,
}

/// One call to the kernel.
pub(crate) struct Run {
    pub(crate) to: PeerName,
    pub(crate) range: Range<usize>,
    pub(crate) datagram_bytes: usize,
    pub(crate) is_df: bool,
}

impl Buffers {
    pub(crate) fn new(keeps_frames: bool) -> Self {
        Self {
            arena: Vec::with_capacity(1 << 20),
            runs: Vec::with_capacity(1000),
            injected: keeps_frames.then(Vec::new),
            injected_frames: 0,
            injected_bytes: 0,
            events: Vec::new(),
            learned: Vec::new(),
            complaints: Vec::new(),
            refused: Vec::new(),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.arena.clear();
        self.runs.clear();
    }

    /// Moves what is for one peer to buffers of its own, which are emptied first.
    pub(crate) fn split_off(&mut self, peer: PeerName, other: &mut Self) {
        other.clear();
        let arena = &self.arena;
        self.runs.retain(|run| {
            if run.to != peer {
                return true;
            }
            let start = other.arena.len();
            other.arena.extend_from_slice(&arena[run.range.clone()]);
            other.runs.push(Run {
                to: run.to,
                range: start..other.arena.len(),
                datagram_bytes: run.datagram_bytes,
                is_df: run.is_df,
            });
            false
        });
    }
}

impl Buffers {
    fn keep_run(&mut self, path: &UdpPath, is_df: bool, bytes: &[u8], datagram_bytes: usize) {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        let range = start..self.arena.len();
        let to = far_end(path.link);
        self.runs.push(Run {
            to,
            range,
            datagram_bytes,
            is_df,
        });
    }

    fn keep_frame(&mut self, header: &VnetHeader, arena: &[u8], parts: &[Range<usize>]) {
        self.injected_frames += 1;
        self.injected_bytes += parts.iter().map(ExactSizeIterator::len).sum::<usize>();
        if let Some(injected) = &mut self.injected {
            let bytes = parts.iter().flat_map(|part| arena[part.clone()].to_vec());
            injected.push((*header, bytes.collect()));
        }
    }
}

impl Outlet<SleeveFraming> for Buffers {
    fn transmit(&mut self, path: &UdpPath, is_df: bool, bytes: &[u8], datagram_bytes: usize) {
        self.keep_run(path, is_df, bytes, datagram_bytes);
    }

    fn inject(&mut self, header: &VnetHeader, arena: &[u8], parts: &[Range<usize>]) {
        self.keep_frame(header, arena, parts);
    }

    fn special(&mut self, link: LinkId, from: SocketAddr, kind: SpecialKind) {
        self.events
            .push(SleeveEvent::Special { from, kind }.on(link));
    }

    fn exhausted(&mut self, link: LinkId) {
        self.events.push(SleeveEvent::CounterExhausted.on(link));
    }

    fn learned(&mut self, sighting: Sighting) {
        self.learned.push(sighting);
    }

    fn complain(&mut self, _: PeerName, error: DatagramError) {
        self.complaints.push(error);
    }
}

impl Outlet<Wireguard> for Buffers {
    fn transmit(&mut self, path: &UdpPath, is_df: bool, bytes: &[u8], datagram_bytes: usize) {
        self.keep_run(path, is_df, bytes, datagram_bytes);
    }

    fn inject(&mut self, header: &VnetHeader, arena: &[u8], parts: &[Range<usize>]) {
        self.keep_frame(header, arena, parts);
    }

    fn special(&mut self, _: LinkId, _: SocketAddr, never: std::convert::Infallible) {
        match never {}
    }

    fn exhausted(&mut self, link: LinkId) {
        panic!("{link:?} has no number left");
    }

    fn learned(&mut self, sighting: Sighting) {
        self.learned.push(sighting);
    }

    fn complain(&mut self, _: PeerName, error: BadDatagram) {
        self.refused.push(error);
    }
}

/// A host's data plane without its system calls.
pub(crate) struct Host<F: Framing = SleeveFraming> {
    pub(crate) plan: Plan<F>,
    pub(crate) macs: RwLock<MacTable>,
    pub(crate) counters: Counters,
    pub(crate) capture: CapturePath<F>,
    pub(crate) receive: ReceivePath<F>,
}

/// Who leads where for host `us` of the line, and its neighbours, among so many peers.
fn line(us: u64, peers: u64) -> (Routes, Vec<u64>) {
    let mut routes = Routes {
        peers: (1..=peers).map(name).collect(),
        ..Routes::default()
    };
    let end = |n: u64| n.min(LINE);
    let is_near = |n: u64| match n {
        _ if n == us => false,
        1..=LINE => n.abs_diff(us) == 1,
        ..=BEHIND_MAX => us == LINE,
        _ => true,
    };
    let near: Vec<u64> = (1..=peers).filter(|&n| is_near(n)).collect();
    for other in (1..=peers).filter(|&n| n != us) {
        let next_hop = match end(other).cmp(&us) {
            _ if is_near(other) => other,
            std::cmp::Ordering::Less => us - 1,
            std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => us + 1,
        };
        routes.unicast.insert(name(other), name(next_hop));
        let onward = near.iter().filter(|&&n| (n < us) != (other < us));
        let onward = onward.filter(|_| other <= LINE).map(|&n| name(n)).collect();
        routes.broadcast.insert(name(other), onward);
    }
    let all = near.iter().map(|&n| name(n)).collect();
    routes.broadcast.insert(name(us), all);
    (routes, near)
}

impl Host {
    /// Host `us` of the line; the lane to each neighbour as `change` leaves it.
    pub(crate) fn new(us: u64, change: impl Fn(PeerName, &mut SleeveLane)) -> Self {
        Self::among(LINE, us, change)
    }

    /// The same among so many peers.
    pub(crate) fn among(peers: u64, us: u64, change: impl Fn(PeerName, &mut SleeveLane)) -> Self {
        let (routes, near) = line(us, peers);
        let neighbour = |&other: &u64| {
            let mut lane = lane(us, other);
            change(name(other), &mut lane);
            let neighbour = Neighbour {
                link: LinkId::outbound(other),
                serial: other,
                remote: name(other),
                lanes: Lanes::from_iter([Lane::Sleeve(lane)]),
                chosen: Some(Kind::Sleeve),
            };
            (name(other), Arc::new(neighbour))
        };
        let table = ForwardingTable {
            us: name(us),
            routes: Arc::new(routes),
            neighbours: near.iter().map(neighbour).collect(),
        };
        Self::by(Compiler::new().compile(&table))
    }
}

impl Host<Wireguard> {
    /// Host `us` of the line, whose tunnels carry VXLAN in WireGuard's transport messages.
    pub(crate) fn wireguard(us: u64, limits: Limits) -> Self {
        let (routes, near) = line(us, LINE);
        let table = ForwardingTable {
            us: name(us),
            routes: Arc::new(routes),
            ..ForwardingTable::default()
        };
        let hop = |&other: &u64| Hop {
            link: LinkId::outbound(other),
            remote: name(other),
            tunnel: Arc::new(WireguardTunnel::between(us, other)),
            limits,
            path: Some(UdpPath {
                link: LinkId::outbound(other),
                to: address(),
                max_payload_bytes: 1472,
                exceeds_kernel_mtu: false,
            }),
            is_chosen: true,
        };
        let framing = Wireguard::of((1..=LINE).map(name));
        let hops: Vec<_> = near.iter().map(hop).collect();
        Self::by(Plan::new(framing, Arc::new(ways_of(&table)), hops))
    }
}

impl<F: Framing> Host<F> {
    fn by(plan: Plan<F>) -> Self {
        Self {
            plan,
            macs: RwLock::new(MacTable::new()),
            counters: Counters::default(),
            capture: CapturePath::new(),
            receive: ReceivePath::new(true),
        }
    }

    /// One batch from the TAP.
    pub(crate) fn capture(
        &mut self,
        frames: &mut [(VnetHeader, Vec<u8>)],
        out: &mut impl Outlet<F>,
    ) {
        let (plan, macs, counters) = (&self.plan, &self.macs, &self.counters);
        for (header, frame) in frames {
            self.capture
                .handle_frame(plan, macs, 0, header, frame, counters, out);
        }
        self.capture.flush(counters, out);
    }

    /// One batch of everything in `input`, whoever it was sent to.
    pub(crate) fn receive(&mut self, input: &mut Buffers, out: &mut impl Outlet<F>) {
        let (plan, macs, counters) = (&self.plan, &self.macs, &self.counters);
        let scene = Scene {
            plan,
            macs,
            now_secs: 0,
            counters,
        };
        for run in input.runs.drain(..) {
            let arena = &mut input.arena;
            let size = run.datagram_bytes;
            self.receive
                .handle_datagrams(scene, address(), arena, run.range, size, out);
        }
        self.receive.flush(scene, &mut input.arena, out);
        input.arena.clear();
    }

    /// Drops so far, without those that never happened.
    pub(crate) fn drops(&self) -> Vec<(DropReason, u64)> {
        let counted = DropReason::ALL.map(|reason| (reason, self.counters.dropped(reason)));
        counted
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// The encrypted lane of host `us`, good for an underlay of 1500: between the first two hosts as
/// the original does it, else as two Wefts do.
fn lane(us: u64, other: u64) -> SleeveLane {
    let key = Arc::new(SessionKey::from_bytes([us.min(other) as u8; 32]));
    let cipher = if us + other == 3 {
        Cipher::Secretbox
    } else {
        Cipher::AesGcm
    };
    SleeveLane {
        protection: Protection::Sealed(key, cipher),
        outbound: us < other,
        remote_address: Some(address()),
        mtu_bytes: 1414,
        max_payload_bytes: 1472,
        exceeds_kernel_mtu: false,
        stack_frag: true,
    }
}

/// The peer a link of these hosts leads to: its number.
fn far_end(link: LinkId) -> PeerName {
    (1..=1000)
        .map(name)
        .find(|peer| LinkId::outbound(peer.to_u64()) == link)
        .expect("a neighbour")
}

/// Where everybody is.
pub(crate) fn address() -> SocketAddr {
    "192.0.2.1:6783".parse().expect("an address")
}

/// A TCP super-frame with DF from address 1 to address 3; checksums are left to the cutter.
pub(crate) fn super_frame(segments: usize, segment_bytes: usize) -> (VnetHeader, Vec<u8>) {
    let payload = segments * segment_bytes;
    let mut frame = vec![2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    frame.extend(((40 + payload) as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 32, 0, 1, 10, 32, 0, 3]);
    frame.extend([
        0x10, 0, 0x20, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 9, 9, 0, 0, 0, 0,
    ]);
    frame.resize(54 + payload, 0x5a);
    let header = VnetHeader {
        flags: NEEDS_CHECKSUM,
        gso_type: 1,
        header_bytes: 54,
        segment_bytes: segment_bytes as u16,
        checksum_start: 34,
        checksum_offset: 16,
    };
    (header, frame)
}

/// An IPv4 frame from address 1 to address 3 with a payload of this size.
pub(crate) fn ip_frame(payload: usize, has_df: bool) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    frame.extend(((20 + payload) as u16).to_be_bytes());
    frame.extend([0, 1, if has_df { 0x40 } else { 0 }, 0, 64, 17, 0, 0]);
    frame.extend([10, 32, 0, 1, 10, 32, 0, 3]);
    let check = fold(sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    frame.extend((0..payload).map(|i| (i % 251) as u8));
    frame
}
