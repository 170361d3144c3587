//! Three hosts without sockets: a line 1 - 2 - 3.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, RwLock};

use nacl::SessionKey;
use overlay::datagram::UdpPath;
use overlay::forward::DropReason;
use overlay::forward::capture::CapturePath;
use overlay::forward::egress::Outlet;
use overlay::forward::program::{Compiler, Counters, Program};
use overlay::forward::receive::{ReceivePath, Scene};
use overlay::kind::{Kind, Lane, Lanes, TunnelEvent};
use overlay::mac::{MacTable, Sighting};
use overlay::protection::{Cipher, Protection};
use overlay::segment::{NEEDS_CHECKSUM, VnetHeader};
use overlay::sleeve::lane::SleeveLane;
use overlay::table::{ForwardingTable, Neighbour, Routes};
use wire::sleeve::DatagramError;
use wire::{LinkId, PeerName};

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
        }
    }

    pub(crate) fn clear(&mut self) {
        self.arena.clear();
        self.runs.clear();
    }
}

impl Outlet for Buffers {
    fn transmit(&mut self, path: &UdpPath, is_df: bool, bytes: &[u8], datagram_bytes: usize) {
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

    fn inject(&mut self, header: &VnetHeader, arena: &[u8], parts: &[Range<usize>]) {
        self.injected_frames += 1;
        self.injected_bytes += parts.iter().map(ExactSizeIterator::len).sum::<usize>();
        if let Some(injected) = &mut self.injected {
            let bytes = parts.iter().flat_map(|part| arena[part.clone()].to_vec());
            injected.push((*header, bytes.collect()));
        }
    }

    fn report(&mut self, event: TunnelEvent) {
        self.events.push(event);
    }

    fn learned(&mut self, sighting: Sighting) {
        self.learned.push(sighting);
    }

    fn complain(&mut self, _: PeerName, error: DatagramError) {
        self.complaints.push(error);
    }
}

/// A host's data plane without its system calls.
pub(crate) struct Host {
    pub(crate) program: Program,
    pub(crate) macs: RwLock<MacTable>,
    pub(crate) counters: Counters,
    pub(crate) capture: CapturePath,
    pub(crate) receive: ReceivePath,
}

impl Host {
    /// Host `us`; the lane to each neighbour as `change` leaves it.
    pub(crate) fn new(us: u64, change: impl Fn(PeerName, &mut SleeveLane)) -> Self {
        let mut routes = Routes {
            peers: (1..=3).map(name).collect(),
            ..Routes::default()
        };
        let near = [us - 1, us + 1].into_iter().filter(|n| (1..=3).contains(n));
        let near: Vec<u64> = near.collect();
        for other in (1..=3).filter(|&n| n != us) {
            let next_hop = if other < us { us - 1 } else { us + 1 };
            routes.unicast.insert(name(other), name(next_hop));
            let onward = near.iter().filter(|&&n| (n < us) != (other < us));
            let onward = onward.map(|&n| name(n)).collect();
            routes.broadcast.insert(name(other), onward);
        }
        let all = near.iter().map(|&n| name(n)).collect();
        routes.broadcast.insert(name(us), all);
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
        Self {
            program: Compiler::new().compile(Arc::new(table)),
            macs: RwLock::new(MacTable::new()),
            counters: Counters::default(),
            capture: CapturePath::new(),
            receive: ReceivePath::new(true),
        }
    }

    /// One batch from the TAP.
    pub(crate) fn capture(&mut self, frames: &mut [(VnetHeader, Vec<u8>)], out: &mut Buffers) {
        let (program, macs, counters) = (&self.program, &self.macs, &self.counters);
        for (header, frame) in frames {
            self.capture
                .handle_frame(program, macs, 0, header, frame, counters, out);
        }
        self.capture.flush(counters, out);
    }

    /// One batch of everything in `input`, whoever it was sent to.
    pub(crate) fn receive(&mut self, input: &mut Buffers, out: &mut Buffers) {
        let (program, macs, counters) = (&self.program, &self.macs, &self.counters);
        let scene = Scene {
            program,
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
    (1..=3)
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
