//! The data plane allocates nothing per frame once it is warm: captured super-frames and small
//! frames are cut, batched and sealed by one host, relayed by a second, opened and merged by a
//! third, under an allocator that counts. So it is with either framing, and on the ways that frames
//! take which do not fit.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![allow(
    unsafe_code,
    reason = "an allocator is unsafe by nature; test code only"
)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use overlay::frame::counters::DropReason;
use overlay::frame::egress::Outlet;
use overlay::frame::framing::Framing;
use overlay::frame::path::Limits;
use overlay::frame::receive::ReceivePath;
use overlay::frame::segment::VnetHeader;
use support::{Buffers, Host, ip_frame, name, super_frame};
use wire::ethernet::MacAddr;

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

const SEGMENTS: usize = 44;
const SEGMENT_BYTES: usize = 1348;
const SMALL_BYTES: usize = 80;

/// A short frame of an unknown type.
fn small_frame(destination: MacAddr) -> (VnetHeader, Vec<u8>) {
    let mut frame = destination.0.to_vec();
    frame.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.resize(SMALL_BYTES, 7);
    (VnetHeader::default(), frame)
}

/// What one round leaves behind.
struct Steady {
    /// Allocations of twenty rounds, after as many to warm up.
    allocations: u64,
    /// Frames and bytes that each round injected at the end of the line, or all the way.
    injected: [(usize, usize); 3],
}

/// Sends frames down the line again and again. What one host sends back up goes the other way.
fn steady<F: Framing>(hosts: &mut [Host<F>; 3], frames: &mut [(VnetHeader, Vec<u8>)]) -> Steady
where
    Buffers: Outlet<F>,
{
    const ROUNDS: usize = 20;
    let mut out = [0; 3].map(|_| Buffers::new(false));
    let mut back = [0; 2].map(|_| Buffers::new(false));
    let mut rounds = || {
        let [one, two, three] = &mut *hosts;
        let [a, b, c] = &mut out;
        let [to_one, rest] = &mut back;
        for _ in 0..ROUNDS {
            one.capture(frames, a);
            two.receive(a, b);
            b.split_off(name(1), to_one);
            one.receive(to_one, rest);
            three.receive(b, c);
            c.split_off(name(2), to_one);
            two.receive(to_one, rest);
            rest.split_off(name(1), to_one);
            one.receive(to_one, rest);
            rest.clear();
        }
    };
    rounds();
    let before = ALLOCATIONS.with(Cell::get);
    rounds();
    let allocations = ALLOCATIONS.with(Cell::get) - before;
    // The counter works.
    drop(vec![0_u8; 100]);
    assert!(ALLOCATIONS.with(Cell::get) > before + allocations);
    let per_round = |frames: usize, bytes: usize| (frames / 2 / ROUNDS, bytes / 2 / ROUNDS);
    let of = |buffers: &Buffers| per_round(buffers.injected_frames, buffers.injected_bytes);
    Steady {
        allocations,
        injected: [of(&back[1]), of(&out[1]), of(&out[2])],
    }
}

const FAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

/// Tells both ends of the line where the far address is.
fn know_far<F: Framing>(hosts: &[Host<F>; 3], at: u64) {
    for host in hosts {
        host.macs.write().unwrap().learn(FAR, name(at), 0);
    }
}

/// Super-frames, small frames and a broadcast.
fn traffic() -> Vec<(VnetHeader, Vec<u8>)> {
    let mut frames = vec![
        super_frame(SEGMENTS, SEGMENT_BYTES),
        super_frame(SEGMENTS, SEGMENT_BYTES),
        small_frame(MacAddr::BROADCAST),
    ];
    frames.extend((0..30).map(|_| small_frame(FAR)));
    frames
}

/// Everything arrives, each super-frame whole again.
fn assert_all_arrives<F: Framing>(mut hosts: [Host<F>; 3])
where
    Buffers: Outlet<F>,
{
    know_far(&hosts, 3);
    let steady = steady(&mut hosts, &mut traffic());
    assert_eq!(steady.allocations, 0);
    let super_bytes = 54 + SEGMENTS * SEGMENT_BYTES;
    let expected = (2 + 31, 2 * super_bytes + 31 * SMALL_BYTES);
    assert_eq!(steady.injected[2], expected);
    for host in &hosts {
        assert_eq!(host.drops(), []);
    }
}

#[test]
fn steady_state_allocates_nothing() {
    assert_all_arrives([1, 2, 3].map(|n| Host::new(n, |_, _| ())));
}

#[test]
fn steady_state_of_another_framing_allocates_nothing() {
    let limits = Limits {
        mtu_bytes: 1388,
        may_be_fragmented: true,
    };
    assert_all_arrives([1, 2, 3].map(|n| Host::wireguard(n, limits)));
}

/// One frame without DF, too big for the tunnels, and one with.
fn too_big(payload: usize) -> Vec<(VnetHeader, Vec<u8>)> {
    [false, true]
        .map(|has_df| (VnetHeader::default(), ip_frame(payload, has_df)))
        .to_vec()
}

/// Frames too big for what comes are cut and answered at the start of the line, by its middle, and
/// at its end.
fn assert_misfits_allocate_nothing<F: Framing>(make: impl Fn(u64, usize) -> Host<F>)
where
    Buffers: Outlet<F>,
{
    let (wide, narrow) = (1380, 1000);
    // Of the first tunnel and of the second.
    for (first, second) in [(narrow, wide), (wide, narrow)] {
        let mut hosts = [make(1, first), make(2, first), make(3, second)];
        hosts[1] = make(2, second);
        know_far(&hosts, 3);
        let steady = steady(&mut hosts, &mut too_big(1200));
        assert_eq!(steady.allocations, 0, "{first} {second}");
        let too_big = hosts
            .iter()
            .map(|host| host.counters.dropped(DropReason::TooBig));
        assert_eq!(too_big.sum::<u64>(), 40, "answered");
        assert_eq!(steady.injected[2].0, 2, "pieces of the one without DF");
    }
    // Into the bridge at the end.
    let mut hosts = [1, 2, 3].map(|n| make(n, wide));
    hosts[2].receive = ReceivePath::new(true).with_bridge_mtu(narrow);
    know_far(&hosts, 3);
    let steady = steady(&mut hosts, &mut too_big(1200));
    assert_eq!(steady.allocations, 0);
    assert_eq!(hosts[2].counters.dropped(DropReason::TooBig), 40);
    assert_eq!(steady.injected[2].0, 2, "pieces");
    assert_eq!(
        steady.injected[0].0, 1,
        "the answer arrives where it is due"
    );
}

#[test]
fn frames_that_do_not_fit_are_cut_and_answered_without_allocating() {
    assert_misfits_allocate_nothing(|n, mtu_bytes| {
        Host::new(n, |_, lane| {
            lane.mtu_bytes = mtu_bytes;
            lane.stack_frag = false;
        })
    });
}

#[test]
fn frames_that_do_not_fit_another_framing_are_cut_and_answered_without_allocating() {
    assert_misfits_allocate_nothing(|n, mtu_bytes| {
        let limits = Limits {
            mtu_bytes,
            may_be_fragmented: false,
        };
        Host::wireguard(n, limits)
    });
}
