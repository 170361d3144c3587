//! The data plane allocates nothing per frame once it is warm: captured super-frames and small
//! frames are cut, batched and sealed by one host, relayed by a second, opened and merged by a
//! third, under an allocator that counts.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![allow(
    unsafe_code,
    reason = "an allocator is unsafe by nature; test code only"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, RwLock};

use nacl::SessionKey;
use overlay::forward::capture::CapturePath;
use overlay::forward::egress::Outlet;
use overlay::forward::program::{Compiler, Counters, Program};
use overlay::forward::receive::{ReceivePath, Scene};
use overlay::mac::MacTable;
use overlay::segment::{NEEDS_CHECKSUM, VnetHeader};
use overlay::table::{ForwardingTable, Tunnel, TunnelEvent, TunnelId};
use wire::PeerName;
use wire::ethernet::MacAddr;
use wire::sleeve::DatagramError;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct CountingAllocator;

fn count() {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
}

// SAFETY: everything is passed on to the system allocator unchanged; counting does not allocate.
unsafe impl GlobalAlloc for CountingAllocator {
    // SAFETY: the caller's promises are those of the system allocator.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: the caller's promises are those of the system allocator.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    // SAFETY: the caller's promises are those of the system allocator.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn name(n: u64) -> PeerName {
    PeerName::from_u64(n)
}

/// Datagrams and frames that came out, in buffers made beforehand.
struct Buffers {
    arena: Vec<u8>,
    /// Range and datagram size of each run.
    runs: Vec<(Range<usize>, usize)>,
    injected_frames: usize,
    injected_bytes: usize,
}

impl Buffers {
    fn new() -> Self {
        Self {
            arena: Vec::with_capacity(1 << 20),
            runs: Vec::with_capacity(1000),
            injected_frames: 0,
            injected_bytes: 0,
        }
    }
}

impl Outlet for Buffers {
    fn transmit(&mut self, _: &Tunnel, _: bool, bytes: &[u8], datagram_bytes: usize) {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        self.runs.push((start..self.arena.len(), datagram_bytes));
    }

    fn inject(&mut self, _: &VnetHeader, _: &[u8], parts: &[Range<usize>]) {
        self.injected_frames += 1;
        self.injected_bytes += parts.iter().map(ExactSizeIterator::len).sum::<usize>();
    }

    fn report(&mut self, event: TunnelEvent) {
        panic!("{event:?}");
    }

    fn complain(&mut self, sender: PeerName, error: DatagramError) {
        panic!("{sender}: {error}");
    }
}

/// Host `us` of a line 1 - 2 - 3, all tunnels encrypted.
struct Host {
    program: Program,
    macs: RwLock<MacTable>,
    counters: Counters,
    capture: CapturePath,
    receive: ReceivePath,
}

impl Host {
    fn new(us: u64) -> Self {
        let mut table = ForwardingTable {
            us: name(us),
            peers: (1..=3).map(name).collect(),
            ..ForwardingTable::default()
        };
        let near = [us - 1, us + 1].into_iter().filter(|n| (1..=3).contains(n));
        let near: Vec<u64> = near.collect();
        for &other in &near {
            let key = SessionKey::from_bytes([us.min(other) as u8; 32]);
            let tunnel = Tunnel {
                id: TunnelId(other),
                remote: name(other),
                key: Some(Arc::new(key)),
                outbound: us < other,
                remote_address: Some(address()),
                carries_traffic: true,
                mtu_bytes: 1414,
                max_payload_bytes: 1472,
                stack_frag: true,
            };
            table.tunnels.insert(name(other), Arc::new(tunnel));
        }
        for other in (1..=3).filter(|&n| n != us) {
            let next_hop = if other < us { us - 1 } else { us + 1 };
            table.unicast.insert(name(other), name(next_hop));
            let onward = near.iter().filter(|&&n| (n < us) != (other < us));
            table
                .broadcast
                .insert(name(other), onward.map(|&n| name(n)).collect());
        }
        table
            .broadcast
            .insert(name(us), near.iter().map(|&n| name(n)).collect());
        Self {
            program: Compiler::new().compile(Arc::new(table)),
            macs: RwLock::new(MacTable::new()),
            counters: Counters::default(),
            capture: CapturePath::new(),
            receive: ReceivePath::new(true),
        }
    }

    fn capture(&mut self, frames: &mut [(VnetHeader, Vec<u8>)], out: &mut Buffers) {
        let (program, macs, counters) = (&self.program, &self.macs, &self.counters);
        for (header, frame) in frames {
            self.capture
                .handle_frame(program, macs, 0, header, frame, counters, out);
        }
        self.capture.flush(program, counters, out);
    }

    fn receive(&mut self, input: &mut Buffers, out: &mut Buffers) {
        let scene = Scene {
            program: &self.program,
            macs: &self.macs,
            now_secs: 0,
            counters: &self.counters,
        };
        for (range, size) in input.runs.drain(..) {
            let arena = &mut input.arena;
            self.receive
                .handle_datagrams(scene, address(), arena, range, size, out);
        }
        self.receive.flush(scene, &mut input.arena, out);
        input.arena.clear();
    }
}

fn address() -> SocketAddr {
    "192.0.2.1:6783".parse().unwrap()
}

const SEGMENTS: usize = 44;
const SEGMENT_BYTES: usize = 1348;
const SMALL_BYTES: usize = 80;

/// A TCP super-frame with DF to address 3; checksums are left to the cutter.
fn super_frame() -> (VnetHeader, Vec<u8>) {
    let payload = SEGMENTS * SEGMENT_BYTES;
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
        segment_bytes: SEGMENT_BYTES as u16,
        checksum_start: 34,
        checksum_offset: 16,
    };
    (header, frame)
}

/// A short frame of an unknown type.
fn small_frame(destination: MacAddr) -> (VnetHeader, Vec<u8>) {
    let mut frame = destination.0.to_vec();
    frame.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.resize(SMALL_BYTES, 7);
    (VnetHeader::default(), frame)
}

#[test]
fn steady_state_allocates_nothing() {
    let mut hosts = [Host::new(1), Host::new(2), Host::new(3)];
    let far = MacAddr([2, 0, 0, 0, 0, 3]);
    for host in [0, 2] {
        hosts[host].macs.write().unwrap().learn(far, name(3), 0);
    }
    let mut frames = vec![
        super_frame(),
        super_frame(),
        small_frame(MacAddr::BROADCAST),
    ];
    frames.extend((0..30).map(|_| small_frame(far)));
    let (mut a, mut b, mut c) = (Buffers::new(), Buffers::new(), Buffers::new());
    let mut rounds = |count: usize| {
        let [one, two, three] = &mut hosts;
        for _ in 0..count {
            one.capture(&mut frames, &mut a);
            two.receive(&mut a, &mut b);
            three.receive(&mut b, &mut c);
        }
    };
    rounds(20);
    let before = ALLOCATIONS.with(Cell::get);
    rounds(20);
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
    // The counter works, and everything arrived, each super-frame whole again.
    drop(vec![0_u8; 100]);
    assert!(ALLOCATIONS.with(Cell::get) > before);
    assert_eq!(c.injected_frames, 40 * (2 + 31));
    let super_bytes = 54 + SEGMENTS * SEGMENT_BYTES;
    assert_eq!(c.injected_bytes, 40 * (2 * super_bytes + 31 * SMALL_BYTES));
    for host in &hosts {
        for reason in overlay::forward::DropReason::ALL {
            assert_eq!(host.counters.dropped(reason), 0, "{reason:?}");
        }
    }
}
