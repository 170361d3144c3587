//! The two loops: TAP to UDP, UDP to TAP.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::thread::{Builder, JoinHandle};

use linux::tap::READ_BYTES;
use linux::udp::{RECEIVE_BYTES, Received, UdpPair};
use overlay::forward::DropReason;
use overlay::forward::capture::CapturePath;
use overlay::forward::receive::{ReceivePath, Scene};
use overlay::segment::VnetHeader;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Shared;
use super::outlet::Port;

/// Frames read from the TAP before their datagrams leave.
const CAPTURE_FRAMES_MAX: usize = 64;
/// A frame of this size fills a batch by itself.
const LARGE_FRAME_BYTES: usize = 32 << 10;
/// Receive calls before frames are injected.
const RECEIVE_CALLS_MAX: usize = 64;
/// Room for what those calls give; a batch ends when another full one might not fit.
const ARENA_BYTES: usize = 8 * RECEIVE_BYTES;
/// How often the MAC table is swept, seconds.
const SWEEP_SECS: u32 = 60;

/// Starts the thread from the TAP to the sockets.
pub(super) fn spawn_tx(shared: Arc<Shared>, port: Port) -> io::Result<JoinHandle<()>> {
    spawn("weft-tx", shared, move |shared| capture(shared, port))
}

/// Starts the thread from the sockets to the TAP.
pub(super) fn spawn_rx(shared: Arc<Shared>, port: Port) -> io::Result<JoinHandle<()>> {
    spawn("weft-rx", shared, move |shared| receive(shared, port))
}

/// Runs a loop on a named thread. When it ends, so does the other, and with both the event queue.
fn spawn(
    name: &'static str,
    shared: Arc<Shared>,
    body: impl FnOnce(&Shared) -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(move || {
        let stop = StopOthers(&shared);
        if let Err(error) = body(&shared) {
            tracing::error!(thread = name, %error, "data plane failed");
        }
        drop(stop);
    })
}

/// Stops the data plane when dropped, also by a panic.
struct StopOthers<'a>(&'a Shared);

impl Drop for StopOthers<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn capture(shared: &Shared, mut port: Port) -> io::Result<()> {
    let mut path = CapturePath::new();
    let mut buffer = vec![0; READ_BYTES].into_boxed_slice();
    let (tap, counters) = (Arc::clone(&port.tap), Arc::clone(&port.counters));
    while !shared.is_stopped() {
        let program = shared.program.load();
        let now_secs = shared.now_secs();
        let mut is_idle = false;
        for _ in 0..CAPTURE_FRAMES_MAX {
            let bytes = match tap.read(&mut buffer) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    is_idle = true;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            counters.frames_in.fetch_add(1, Relaxed);
            let Some((header, frame)) = buffer[..bytes].split_first_chunk_mut() else {
                counters.count(DropReason::MalformedFrame);
                continue;
            };
            let header = VnetHeader::from_bytes(header);
            let macs = &shared.macs;
            path.handle_frame(
                &program, macs, now_secs, &header, frame, &counters, &mut port,
            );
            if bytes >= LARGE_FRAME_BYTES {
                break;
            }
        }
        path.flush(&program, &counters, &mut port);
        drop(program);
        if is_idle {
            wait(&mut [
                PollFd::new(&*tap, PollFlags::IN),
                PollFd::new(&shared.wakers[0], PollFlags::IN),
            ])?;
        }
    }
    Ok(())
}

fn receive(shared: &Shared, mut port: Port) -> io::Result<()> {
    let mut path = ReceivePath::new(port.tap.takes_udp_super_frames());
    let mut arena = vec![0; ARENA_BYTES].into_boxed_slice();
    let (sockets, counters) = (Arc::clone(&port.sockets), Arc::clone(&port.counters));
    let mut pairs: Vec<&UdpPair> = [&sockets.v4, &sockets.v6].into_iter().flatten().collect();
    let mut fds: Vec<PollFd<'_>> = pairs
        .iter()
        .copied()
        .map(|pair| PollFd::from_borrowed_fd(pair.as_fd(), PollFlags::IN))
        .collect();
    fds.push(PollFd::new(&shared.wakers[1], PollFlags::IN));
    let mut swept_secs = 0;
    while !shared.is_stopped() {
        let program = shared.program.load();
        let now_secs = shared.now_secs();
        let scene = Scene {
            program: &program,
            macs: &shared.macs,
            now_secs,
            counters: &counters,
        };
        let mut filled = 0;
        let mut is_idle = true;
        // In turns, so that a flood on one family does not starve the other.
        pairs.rotate_left(1);
        for pair in &pairs {
            for _ in 0..RECEIVE_CALLS_MAX {
                if arena.len() - filled < RECEIVE_BYTES {
                    is_idle = false;
                    break;
                }
                let Some(got) = receive_from(pair, &mut arena[filled..filled + RECEIVE_BYTES])
                else {
                    break;
                };
                is_idle = false;
                let range = filled..filled + got.bytes;
                let count = got.bytes.div_ceil(got.datagram_bytes.max(1)) as u64;
                counters.datagrams_in.fetch_add(count, Relaxed);
                counters.bytes_in.fetch_add(got.bytes as u64, Relaxed);
                let size = got.datagram_bytes;
                path.handle_datagrams(scene, got.from, &mut arena, range, size, &mut port);
                filled += got.bytes;
            }
        }
        path.flush(scene, &mut arena, &mut port);
        drop(program);
        if now_secs - swept_secs >= SWEEP_SECS {
            swept_secs = now_secs;
            shared
                .macs
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .expire(now_secs);
        }
        if is_idle {
            wait(&mut fds)?;
        }
    }
    Ok(())
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

/// Sleeps until there is something to do, at most until the next sweep.
fn wait(fds: &mut [PollFd<'_>]) -> io::Result<()> {
    let timeout = Timespec {
        tv_sec: i64::from(SWEEP_SECS),
        tv_nsec: 0,
    };
    match poll(fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
