//! The threads of the data plane: TAP to UDP, UDP to TAP, or both on one thread where there is one
//! core to run on, so that an acknowledgement does not cost two changes of thread.
//!
//! A direction knows whether its descriptor may have more for it: it reads until the kernel says no,
//! until a batch is full, or until it has the one packet that was expected (see `rhythm`), and is
//! then left alone until the lookout names it again.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use linux::tap::{READ_BYTES, Tap};
use linux::udp::{RECEIVE_BYTES, Received, UdpPair};
use overlay::frame::capture::CapturePath;
use overlay::frame::counters::{Counters, DropReason};
use overlay::frame::merging::{MergeWatch, ReceiveBuffer};
use overlay::frame::receive::{ReceivePath, Scene};
use overlay::frame::segment::VnetHeader;
use overlay::sleeve::framing::SleeveFraming;

use crate::clock;
use crate::events::Ended;
use crate::lookout::{Lookout, Source, Wait};
use crate::outlet::{Port, Sockets};
use crate::rhythm::{Batch, Expect, Rhythm, Way};
use crate::shared::Shared;

/// Frames read from the TAP before their datagrams leave.
const CAPTURE_FRAMES_MAX: usize = 64;
/// A frame of this size fills a batch by itself.
const LARGE_FRAME_BYTES: usize = 32 << 10;
/// Receive calls on one socket before frames are injected.
const RECEIVE_CALLS_MAX: usize = 64;
/// Room for what those calls give; a batch ends when another full one might not fit.
const ARENA_BYTES: usize = 8 * RECEIVE_BYTES;
/// How often the MAC table is swept.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Batches of a busy thread before it looks at the descriptors it believes idle.
const BATCHES_UNTIL_LOOK: u32 = 8;
/// Looks for an answer before one at the TAP.
const LOOKS_UNTIL_TAP: u32 = 4;

/// Starts the threads between these two ports: one per direction, or one for both if this process
/// may use one core only.
pub(crate) fn spawn_all(
    shared: &Arc<Shared>,
    tx: Port,
    rx: Port,
) -> io::Result<Vec<JoinHandle<()>>> {
    let (capture, receive) = (Capture::new(tx), Receive::new(rx, shared.bridge_mtu_bytes));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores == 1 {
        let both = spawn("weft-data", shared, 0, Some(capture), Some(receive))?;
        return Ok(vec![both]);
    }
    let tx = spawn("weft-tx", shared, 0, Some(capture), None)?;
    let rx = spawn("weft-rx", shared, 1, None, Some(receive))
        .inspect_err(|_| shared.stop(Ended::Stopped))?;
    Ok(vec![tx, rx])
}

/// Runs directions on a named thread. When it ends, so does the other, and with both the event queue.
fn spawn(
    name: &'static str,
    shared: &Arc<Shared>,
    waker: usize,
    capture: Option<Capture>,
    receive: Option<Receive>,
) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    Builder::new().name(name.to_owned()).spawn(move || {
        let why = run_to_its_end(name, || work(&shared, waker, capture, receive));
        shared.stop(why);
    })
}

/// Why a thread ended: by itself, by an error, or by a panic.
fn run_to_its_end(thread: &'static str, work: impl FnOnce() -> io::Result<()>) -> Ended {
    // What a panic leaves half-done is dropped with the thread, or is behind a lock or an atomic.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => Ended::Stopped,
        Ok(Err(error)) => Ended::Failed {
            thread,
            source: Arc::new(error),
        },
        Err(panic) => {
            let message = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            Ended::Panicked { thread, message }
        }
    }
}

fn work(
    shared: &Shared,
    waker: usize,
    mut capture: Option<Capture>,
    mut receive: Option<Receive>,
) -> io::Result<()> {
    let lookout = lookout(shared, waker, capture.as_ref(), receive.as_ref())?;
    let mut rhythm = Rhythm::new();
    let mut batches = 0;
    while !shared.is_stopped() {
        let now = clock::now();
        if let Some(capture) = capture.as_mut().filter(|capture| capture.is_ready) {
            let batch = capture.run_batch(shared, rhythm.expects(Way::Out, now))?;
            rhythm.took(Way::Out, batch, now);
        }
        if let Some(receive) = receive.as_mut().filter(|receive| receive.is_ready()) {
            let batch = receive.run_batch(shared, rhythm.expects(Way::In, now));
            rhythm.took(Way::In, batch, now);
            if let Some(capture) = capture.as_mut().filter(|_| !batch.is_lone()) {
                // What was just injected has often been answered by now.
                capture.is_ready = true;
            }
        }
        batches += 1;
        if batches >= BATCHES_UNTIL_LOOK {
            batches = 0;
            look(shared, &lookout, Wait::Never, &mut capture, &mut receive)?;
        }
        let is_idle = capture.as_ref().is_none_or(|capture| !capture.is_ready)
            && receive.as_ref().is_none_or(|receive| !receive.is_ready());
        if !is_idle {
            continue;
        }
        if let (Some(capture), Some(receive)) = (&mut capture, &mut receive)
            && await_answer(shared, &mut rhythm, capture, receive)?
        {
            continue;
        }
        batches = 0;
        let wait = Wait::UntilSeen;
        look(shared, &lookout, wait, &mut capture, &mut receive)?;
    }
    Ok(())
}

/// In a conversation, looks for the answer to what was just sent for a moment; whether something
/// came.
fn await_answer(
    shared: &Shared,
    rhythm: &mut Rhythm,
    capture: &mut Capture,
    receive: &mut Receive,
) -> io::Result<bool> {
    let mut before = clock::now();
    let Some(due) = rhythm.answer_due(before) else {
        return Ok(false);
    };
    for look in 1.. {
        receive.try_again();
        let answer = receive.run_batch(shared, Expect::One);
        let frame = if answer.items == 0 && look % LOOKS_UNTIL_TAP == 0 {
            capture.run_batch(shared, Expect::One)?
        } else {
            Batch::default()
        };
        let now = clock::now();
        rhythm.took(Way::In, answer, now);
        rhythm.took(Way::Out, frame, now);
        if answer.items + frame.items > 0 {
            return Ok(true);
        }
        if now >= due {
            rhythm.in_vain();
            return Ok(false);
        }
        if rhythm.is_held_up(before, now) || shared.is_stopped() {
            return Ok(false);
        }
        before = now;
    }
    Ok(false)
}

/// The place where the thread of these directions waits.
fn lookout(
    shared: &Shared,
    waker: usize,
    capture: Option<&Capture>,
    receive: Option<&Receive>,
) -> io::Result<Lookout> {
    let mut lookout = Lookout::new(shared.wakers[waker].as_fd())?;
    if let Some(capture) = capture {
        lookout.add(Source::Tap, capture.tap.as_fd())?;
    }
    if let Some(receive) = receive {
        let pairs = receive.sockets.pairs();
        for (source, pair) in [Source::V4, Source::V6].into_iter().zip(pairs) {
            if let Some(pair) = pair {
                lookout.add(source, pair.as_fd())?;
            }
        }
        lookout.add_sweep(SWEEP_EVERY)?;
    }
    Ok(lookout)
}

/// Finds out which descriptors have something.
fn look(
    shared: &Shared,
    lookout: &Lookout,
    wait: Wait,
    capture: &mut Option<Capture>,
    receive: &mut Option<Receive>,
) -> io::Result<()> {
    let seen = |source| match (source, &mut *capture, &mut *receive) {
        (Source::Tap, Some(capture), _) => capture.is_ready = true,
        (Source::V4, _, Some(receive)) => receive.ready[0] = true,
        (Source::V6, _, Some(receive)) => receive.ready[1] = true,
        (Source::Sweep, _, Some(_)) => sweep(shared),
        (_, None, _) | (_, _, None) => {}
    };
    lookout.look(wait, seen)?;
    Ok(())
}

/// Lets old addresses expire.
fn sweep(shared: &Shared) {
    let mut macs = shared.macs.write().unwrap_or_else(PoisonError::into_inner);
    macs.expire(shared.now_secs());
}

/// The way from the TAP to the sockets.
struct Capture {
    port: Port,
    tap: Arc<Tap>,
    counters: Arc<Counters>,
    path: CapturePath<SleeveFraming>,
    buffer: Box<[u8]>,
    /// Whether frames may be waiting.
    is_ready: bool,
}

impl Capture {
    fn new(port: Port) -> Self {
        Self {
            tap: Arc::clone(&port.tap),
            counters: Arc::clone(&port.counters),
            port,
            path: CapturePath::new(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            is_ready: true,
        }
    }

    /// Reads some frames and sends them on.
    fn run_batch(&mut self, shared: &Shared, expect: Expect) -> io::Result<Batch> {
        let mut batch = Batch::default();
        let plan = shared.plan.load();
        let now_secs = shared.now_secs();
        let (counters, macs) = (&*self.counters, &shared.macs);
        for _ in 0..CAPTURE_FRAMES_MAX {
            let bytes = match self.tap.read(&mut self.buffer) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_ready = false;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            counters.frames_in.fetch_add(1, Relaxed);
            batch.add(bytes);
            let Some((header, frame)) = self.buffer[..bytes].split_first_chunk_mut() else {
                counters.count(DropReason::MalformedFrame);
                continue;
            };
            let header = VnetHeader::from_bytes(header);
            let port = &mut self.port;
            self.path
                .handle_frame(&plan, macs, now_secs, &header, frame, counters, port);
            if bytes >= LARGE_FRAME_BYTES {
                break;
            }
            if expect == Expect::One {
                self.is_ready = false;
                break;
            }
        }
        self.path.flush(counters, &mut self.port);
        Ok(batch)
    }
}

/// The way from the sockets to the TAP, or to other sockets.
struct Receive {
    port: Port,
    sockets: Arc<Sockets>,
    counters: Arc<Counters>,
    path: ReceivePath<SleeveFraming>,
    arena: Box<[u8]>,
    merge_watch: MergeWatch,
    /// Whether datagrams may be waiting, per family.
    ready: [bool; 2],
    /// The family that gave something last.
    recent: usize,
}

impl Receive {
    fn new(port: Port, bridge_mtu_bytes: usize) -> Self {
        let sockets = Arc::clone(&port.sockets);
        Self {
            ready: sockets.pairs().map(|pair| pair.is_some()),
            sockets,
            counters: Arc::clone(&port.counters),
            path: ReceivePath::new(port.tap.takes_udp_super_frames())
                .with_bridge_mtu(bridge_mtu_bytes),
            port,
            arena: vec![0; ARENA_BYTES].into_boxed_slice(),
            merge_watch: MergeWatch::new(),
            recent: 0,
        }
    }

    const fn is_ready(&self) -> bool {
        self.ready[0] || self.ready[1]
    }

    /// The family that gave something last may have more.
    const fn try_again(&mut self) {
        self.ready[self.recent] = true;
    }

    /// Receives some datagrams from each family that has any, and passes their frames on.
    fn run_batch(&mut self, shared: &Shared, expect: Expect) -> Batch {
        let mut batch = Batch::default();
        let plan = shared.plan.load();
        let scene = Scene {
            plan: &plan,
            macs: &shared.macs,
            now_secs: shared.now_secs(),
            counters: &self.counters,
        };
        // Where both families have something each gets half of the room, so that a flood on one
        // does not starve the other.
        let is_shared = self.ready == [true; 2];
        let room = if is_shared {
            ARENA_BYTES / 2
        } else {
            ARENA_BYTES
        };
        let mut filled = 0;
        let families = self.sockets.pairs().into_iter().zip(&mut self.ready);
        for (family, (pair, is_ready)) in families.enumerate() {
            let Some(pair) = pair.filter(|_| *is_ready) else {
                continue;
            };
            let limit = filled + room;
            for _ in 0..RECEIVE_CALLS_MAX {
                let Some(buffer) = self.arena[filled..limit].get_mut(..RECEIVE_BYTES) else {
                    break;
                };
                let Some(got) = receive_from(pair, buffer) else {
                    *is_ready = false;
                    self.merge_watch.pause();
                    break;
                };
                let range = filled..filled + got.bytes;
                count_received(scene, &mut self.merge_watch, got);
                let size = got.datagram_bytes;
                let (arena, port) = (&mut self.arena, &mut self.port);
                self.path
                    .handle_datagrams(scene, got.from, arena, range, size, port);
                filled += got.bytes;
                self.recent = family;
                batch.add(got.bytes);
                if expect == Expect::One {
                    *is_ready = false;
                    break;
                }
            }
        }
        self.path.flush(scene, &mut self.arena, &mut self.port);
        batch
    }
}

/// Counts what one receive call gave, and says when the kernel stopped merging.
fn count_received(scene: Scene<'_, SleeveFraming>, watch: &mut MergeWatch, got: Received) {
    let datagrams = got.bytes.div_ceil(got.datagram_bytes.max(1)) as u64;
    let counters = scene.counters;
    counters.receive_buffers.fetch_add(1, Relaxed);
    counters.datagrams_in.fetch_add(datagrams, Relaxed);
    counters.bytes_in.fetch_add(got.bytes as u64, Relaxed);
    let buffer = ReceiveBuffer {
        from: got.from,
        datagram_bytes: got.datagram_bytes,
        datagrams,
    };
    let Some(found) = watch.take(buffer, scene.now_secs) else {
        return;
    };
    counters
        .datagrams_unmerged
        .fetch_add(found.datagrams, Relaxed);
    if found.is_worth_saying {
        tracing::warn!(
            from = %got.from,
            "datagrams arrive one by one, which costs much throughput; \
             is receive offload of the interface off (ethtool -K … gro on)?"
        );
    }
}

/// One receive call. Errors are those of earlier sends, of strangers, or of a network that went
/// away: none is a reason to stop.
fn receive_from(pair: &UdpPair, buffer: &mut [u8]) -> Option<Received> {
    for _ in 0..8 {
        match pair.receive(buffer) {
            Ok(got) => return Some(got),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => tracing::trace!(%error, "receiving"),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_a_thread_says_which_and_why() {
        let said = |work: fn() -> io::Result<()>| run_to_its_end("weft-rx", work).to_string();
        assert_eq!(said(|| Ok(())), "the data plane was stopped");
        assert_eq!(
            said(|| Err(io::Error::other("file descriptor in bad state"))),
            "data-plane thread weft-rx: file descriptor in bad state"
        );
        assert_eq!(
            said(|| panic!("{} is not a tunnel", 7)),
            "data-plane thread weft-rx panicked: 7 is not a tunnel"
        );
    }
}
