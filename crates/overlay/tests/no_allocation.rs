//! The data plane allocates nothing per frame once it is warm: captured super-frames and small
//! frames are cut, batched and sealed by one host, relayed by a second, opened and merged by a
//! third, under an allocator that counts.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![allow(
    unsafe_code,
    reason = "an allocator is unsafe by nature; test code only"
)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use overlay::segment::VnetHeader;
use support::{Buffers, Host, name, super_frame};
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

#[test]
fn steady_state_allocates_nothing() {
    let mut hosts = [1, 2, 3].map(|n| Host::new(n, |_, _| ()));
    let far = MacAddr([2, 0, 0, 0, 0, 3]);
    for host in [0, 2] {
        hosts[host].macs.write().unwrap().learn(far, name(3), 0);
    }
    let mut frames = vec![
        super_frame(SEGMENTS, SEGMENT_BYTES),
        super_frame(SEGMENTS, SEGMENT_BYTES),
        small_frame(MacAddr::BROADCAST),
    ];
    frames.extend((0..30).map(|_| small_frame(far)));
    let (mut a, mut b, mut c) = (
        Buffers::new(false),
        Buffers::new(false),
        Buffers::new(false),
    );
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
        assert_eq!(host.drops(), []);
    }
}
