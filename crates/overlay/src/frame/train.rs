//! Sealing and opening the datagrams of one tunnel, and batching them for the kernel.
//!
//! A [`Session`] holds what a tunnel's datagrams share: keys, counters, replay window. A [`Train`]
//! collects the datagrams for one tunnel and one path in one contiguous buffer. Each is sealed in
//! place as soon as it is finished, while it is in the nearest cache; flushing hands them out in runs
//! that one UDP GSO call can send. Layout: `wire::sleeve`, spec/sleeve.md 2, 3 and 8.3.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use nacl::{DirectionKey, GcmKeys, OpenError, SessionKey};
use wire::sleeve::{
    COUNTER_DF_BIT, DatagramError, FRAME_HEADER_BYTES, PLAIN_HEADER_BYTES, SEALED_HEADER_BYTES,
    UDP_PAYLOAD_MAX_BYTES, nonce_prefix, parse_sealed_body, write_frame_header,
};
use wire::{LinkId, PeerName};

use crate::protection::{Cipher, Protection};
use crate::replay::ReplayWindow;
use crate::sleeve::lane::SleeveLane;

/// Most datagrams the kernel takes in one call (the limit of older kernels).
pub const RUN_DATAGRAMS_MAX: usize = 64;
/// Frames packed into one datagram at most.
const FRAMES_MAX: usize = 100;
/// Room for what one call takes.
const TRAIN_BYTES: usize = 65_536;
/// Numbers under secretbox, and in clear, stop here, far below the bit that tells the spaces apart.
pub const COUNTER_MAX: u64 = (1 << 63) - (1 << 32);

/// What all datagrams of one tunnel share, in both directions and on all threads.
///
/// Invariant: no number of a sequence space is handed out twice while the session lives.
pub struct Session {
    /// The tunnel's connection.
    pub link: LinkId,
    /// The neighbour.
    pub remote: PeerName,
    keys: Option<Keys>,
    counter_max: u64,
    df_counter: AtomicU64,
    non_df_counter: AtomicU64,
    /// Used by the receiving thread only; the lock is never contended.
    replay: Mutex<ReplayWindow>,
}

struct Keys {
    seal: PacketKey,
    open: PacketKey,
}

/// Seals or opens one direction.
enum PacketKey {
    Secretbox(DirectionKey),
    AesGcm(GcmKeys),
}

impl PacketKey {
    fn new(cipher: Cipher, session: &SessionKey, from_dialler: bool) -> Self {
        match cipher {
            Cipher::Secretbox => {
                let prefix = nonce_prefix(from_dialler, false);
                Self::Secretbox(DirectionKey::new(session, prefix))
            }
            Cipher::AesGcm => Self::AesGcm(GcmKeys::new(session, from_dialler)),
        }
    }

    #[inline]
    fn seal_in_place(&self, counter: u64, sealed: &mut [u8]) {
        match self {
            Self::Secretbox(key) => key.seal_in_place(counter, sealed),
            Self::AesGcm(key) => key.seal_in_place(counter, sealed),
        }
    }

    #[inline]
    fn open_in_place(&self, counter: u64, sealed: &mut [u8]) -> Result<(), OpenError> {
        match self {
            Self::Secretbox(key) => key.open_in_place(counter, sealed).map(drop),
            Self::AesGcm(key) => key.open_in_place(counter, sealed).map(drop),
        }
    }
}

impl Session {
    /// A fresh session: counters at zero, nothing received.
    pub fn new(link: LinkId, remote: PeerName, lane: &SleeveLane) -> Self {
        let keys = match &lane.protection {
            Protection::Clear => None,
            Protection::Sealed(key, cipher) => Some(Keys {
                seal: PacketKey::new(*cipher, key, lane.outbound),
                open: PacketKey::new(*cipher, key, !lane.outbound),
            }),
        };
        let counter_max = match lane.protection.cipher() {
            Some(Cipher::AesGcm) => GcmKeys::NUMBERS,
            Some(Cipher::Secretbox) | None => COUNTER_MAX,
        };
        Self {
            link,
            remote,
            keys,
            counter_max,
            df_counter: AtomicU64::new(0),
            non_df_counter: AtomicU64::new(0),
            replay: Mutex::new(ReplayWindow::new()),
        }
    }

    /// The same, with both counters further on; for tests of their end.
    #[must_use]
    pub fn with_counters_at(self, next: u64) -> Self {
        let session = self;
        session.df_counter.store(next, Relaxed);
        session.non_df_counter.store(next, Relaxed);
        session
    }

    /// Whether datagrams are sealed.
    pub const fn is_encrypted(&self) -> bool {
        self.keys.is_some()
    }

    /// Bytes of a datagram in front of its first frame header.
    pub const fn header_bytes(&self) -> usize {
        if self.keys.is_some() {
            SEALED_HEADER_BYTES
        } else {
            PLAIN_HEADER_BYTES
        }
    }

    /// All numbers are below this.
    pub const fn numbers_end(&self) -> u64 {
        self.counter_max
    }

    /// Takes the next number of one space. `None`: the space is used up.
    pub fn next_number(&self, is_df: bool) -> Option<u64> {
        let counter = if is_df {
            &self.df_counter
        } else {
            &self.non_df_counter
        };
        let number = counter.fetch_add(1, Relaxed);
        (number < self.counter_max).then_some(number)
    }

    /// Completes a datagram whose frames are in place behind `header_bytes()` of room: writes the
    /// sender's name and, if encrypted, the counter, and seals.
    pub fn seal(&self, us: PeerName, is_df: bool, number: u64, datagram: &mut [u8]) {
        datagram[..PLAIN_HEADER_BYTES].copy_from_slice(&us.to_bytes());
        let Some(keys) = &self.keys else { return };
        let field = number | if is_df { COUNTER_DF_BIT } else { 0 };
        let (counter, sealed) = datagram[PLAIN_HEADER_BYTES..]
            .split_first_chunk_mut()
            .expect("a datagram has room for its header");
        *counter = field.to_be_bytes();
        keys.seal.seal_in_place(field, sealed);
    }

    /// Opens a whole datagram in place; its frames are then at `header_bytes()..`. `Ok(false)`: it
    /// is authentic but was received before.
    pub fn open(&self, datagram: &mut [u8]) -> Result<bool, DatagramError> {
        let Some(keys) = &self.keys else {
            return Ok(true);
        };
        let body = datagram
            .get_mut(PLAIN_HEADER_BYTES..)
            .ok_or(DatagramError::NoSender)?;
        let (field, sealed) = parse_sealed_body(body)?;
        keys.open
            .open_in_place(field, sealed)
            .map_err(|_| DatagramError::Undecryptable)?;
        let mut window = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(window.accept(field))
    }
}

/// A frame does not fit its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameTooBig {
    /// Largest UDP payload allowed, bytes.
    pub limit_bytes: usize,
}

/// Datagrams under way to one neighbour on one path, in one buffer, one behind the other.
pub struct Train {
    buffer: Box<[u8]>,
    /// Where each finished datagram ends.
    ends: Vec<usize>,
    /// Where the unfinished datagram ends; equal to its start when there is none.
    filled: usize,
    frames: usize,
    task: Option<Task>,
    /// A datagram was dropped because no number was left for it.
    is_exhausted: bool,
}

/// What a train works for now.
struct Task {
    session: Arc<Session>,
    path: UdpPath,
    us: PeerName,
    is_df: bool,
}

/// Where the datagrams of one tunnel go, and what fits there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpPath {
    /// Whose tunnel.
    pub link: LinkId,
    /// The far end.
    pub to: SocketAddr,
    /// Largest UDP payload of a DF datagram, bytes.
    pub max_payload_bytes: usize,
    /// Whether the path was seen to carry more than the kernel believes.
    pub exceeds_kernel_mtu: bool,
}

impl Default for Train {
    fn default() -> Self {
        Self::new()
    }
}

impl Train {
    /// An idle train.
    pub fn new() -> Self {
        Self {
            buffer: vec![0; TRAIN_BYTES].into_boxed_slice(),
            ends: Vec::with_capacity(RUN_DATAGRAMS_MAX),
            filled: 0,
            frames: 0,
            task: None,
            is_exhausted: false,
        }
    }

    /// Whether it belongs to this tunnel and path now.
    pub fn serves(&self, link: LinkId, is_df: bool) -> bool {
        self.task
            .as_ref()
            .is_some_and(|task| task.is_df == is_df && task.session.link == link)
    }

    /// The tunnel it belongs to now.
    pub fn link(&self) -> Option<LinkId> {
        self.task.as_ref().map(|task| task.session.link)
    }

    /// Whether it belongs to nobody.
    pub const fn is_idle(&self) -> bool {
        self.task.is_none()
    }

    /// Assigns an idle train; `us` is the name its datagrams are sent under.
    pub fn begin(&mut self, us: PeerName, session: &Arc<Session>, path: UdpPath, is_df: bool) {
        self.task = Some(Task {
            session: Arc::clone(session),
            path,
            us,
            is_df,
        });
    }

    /// Whether a frame of this size can be appended without flushing first. A train takes what one
    /// call to the kernel takes, so that calls are full.
    pub fn has_room(&self, frame_bytes: usize) -> bool {
        let needed = FRAME_HEADER_BYTES + frame_bytes;
        if self.filled == 0 {
            return true;
        }
        if self.shares(needed) {
            return self.filled + needed <= UDP_PAYLOAD_MAX_BYTES;
        }
        let is_open = self.filled > self.start();
        self.filled + SEALED_HEADER_BYTES + needed <= UDP_PAYLOAD_MAX_BYTES
            && self.ends.len() + usize::from(is_open) < RUN_DATAGRAMS_MAX
    }

    /// Whether so many bytes more would go into the datagram under construction.
    fn shares(&self, needed: usize) -> bool {
        let open_bytes = self.filled - self.start();
        open_bytes > 0 && open_bytes + needed <= self.shared_limit() && self.frames < FRAMES_MAX
    }

    /// Largest datagram that may hold more than one frame, bytes; on the DF path, that may exist.
    fn shared_limit(&self) -> usize {
        let known = self.task.as_ref().map(|task| task.path.max_payload_bytes);
        known.unwrap_or(0).min(UDP_PAYLOAD_MAX_BYTES)
    }

    /// Appends one frame that `write` puts into the slice it is given, of exactly `frame_bytes`.
    /// The caller has made sure that the train is assigned and has room.
    pub fn append(
        &mut self,
        origin: PeerName,
        destination: PeerName,
        frame_bytes: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), FrameTooBig> {
        let task = self.task.as_ref().expect("the train is assigned");
        let header_bytes = task.session.header_bytes();
        let limit_bytes = if task.is_df {
            self.shared_limit()
        } else {
            UDP_PAYLOAD_MAX_BYTES
        };
        let needed = FRAME_HEADER_BYTES + frame_bytes;
        if header_bytes + needed > limit_bytes {
            return Err(FrameTooBig { limit_bytes });
        }
        if !self.shares(needed) {
            self.close();
        }
        if self.filled == self.start() {
            self.filled += header_bytes;
        }
        let (header, frame) = self.buffer[self.filled..self.filled + needed]
            .split_first_chunk_mut()
            .expect("needed covers the header");
        let length = u16::try_from(frame_bytes).expect("the limit is below 64 KiB");
        write_frame_header(header, origin, destination, length);
        write(frame);
        self.filled += needed;
        self.frames += 1;
        Ok(())
    }

    /// Finishes and seals the datagram under construction, if any.
    pub fn close(&mut self) {
        let start = self.start();
        if self.filled == start {
            return;
        }
        self.frames = 0;
        let task = self.task.as_ref().expect("an idle train is empty");
        if let Some(number) = task.session.next_number(task.is_df) {
            let datagram = &mut self.buffer[start..self.filled];
            task.session.seal(task.us, task.is_df, number, datagram);
            self.ends.push(self.filled);
        } else {
            self.is_exhausted = true;
            self.filled = start;
        }
    }

    fn start(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Hands everything out run by run (bytes, and the size of each datagram but the last) and
    /// leaves the train idle. False: the tunnel's counters are used up, something was dropped.
    pub fn flush(&mut self, mut send: impl FnMut(&UdpPath, bool, &[u8], usize)) -> bool {
        self.close();
        let Some(task) = self.task.take() else {
            return true;
        };
        let mut rest = self.ends.as_slice();
        let mut start = 0;
        while let Some(run) = Run::first_of(start, rest) {
            send(
                &task.path,
                task.is_df,
                &self.buffer[start..run.end],
                run.datagram_bytes,
            );
            start = run.end;
            rest = &rest[run.count..];
        }
        self.ends.clear();
        self.filled = 0;
        !std::mem::take(&mut self.is_exhausted)
    }
}

/// Consecutive datagrams one GSO call can send: equal sizes, the last may be shorter.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    count: usize,
    end: usize,
    datagram_bytes: usize,
}

impl Run {
    fn first_of(start: usize, ends: &[usize]) -> Option<Self> {
        let first = *ends.first()?;
        let mut run = Self {
            count: 1,
            end: first,
            datagram_bytes: first - start,
        };
        for &end in &ends[1..] {
            let bytes = end - run.end;
            let is_full = run.count == RUN_DATAGRAMS_MAX || end - start > UDP_PAYLOAD_MAX_BYTES;
            if is_full || bytes > run.datagram_bytes {
                break;
            }
            run.count += 1;
            run.end = end;
            if bytes < run.datagram_bytes {
                break;
            }
        }
        Some(run)
    }
}

#[cfg(test)]
mod tests;
