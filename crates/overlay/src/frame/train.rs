//! Collecting the datagrams of one tunnel for one call to the kernel.
//!
//! A [`Train`] holds the datagrams for one tunnel and one path in one contiguous buffer. Each is
//! sealed in place as soon as it is finished, while it is in the nearest cache; flushing hands them
//! out in runs that one UDP GSO call can send.

use std::sync::Arc;

use wire::LinkId;
use wire::sleeve::UDP_PAYLOAD_MAX_BYTES;

use crate::frame::framing::{Framing, Layout};
use crate::frame::plan::UdpPath;
use crate::frame::ways::Envelope;

/// Most datagrams the kernel takes in one call (the limit of older kernels).
pub const RUN_DATAGRAMS_MAX: usize = 64;
/// Room for what one call takes.
const TRAIN_BYTES: usize = 65_536;

/// A frame does not fit its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameTooBig {
    /// Largest UDP payload allowed, bytes.
    pub limit_bytes: usize,
}

/// Datagrams under way to one neighbour on one path, in one buffer, one behind the other.
pub struct Train<F: Framing> {
    buffer: Box<[u8]>,
    /// Where each finished datagram ends.
    ends: Vec<usize>,
    /// Where the unfinished datagram ends; equal to its start when there is none.
    filled: usize,
    frames: usize,
    task: Option<Task<F>>,
    /// A datagram was dropped because no number was left for it.
    is_exhausted: bool,
}

/// What a train works for now.
struct Task<F: Framing> {
    framing: F,
    tunnel: Arc<F::Tunnel>,
    layout: Layout,
    path: UdpPath,
    is_df: bool,
}

impl<F: Framing> Task<F> {
    /// Length of a datagram with so many bytes of frames and their heads.
    fn datagram_bytes(&self, body_bytes: usize) -> usize {
        self.layout.head_bytes + body_bytes + F::tail_bytes(&self.tunnel, body_bytes)
    }

    /// Largest datagram that may hold more than one frame, bytes; on the DF path, that may exist.
    fn shared_limit(&self) -> usize {
        self.path.max_payload_bytes.min(UDP_PAYLOAD_MAX_BYTES)
    }
}

impl<F: Framing> Default for Train<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: Framing> Train<F> {
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
            .is_some_and(|task| task.is_df == is_df && task.path.link == link)
    }

    /// The tunnel it belongs to now.
    pub fn link(&self) -> Option<LinkId> {
        self.task.as_ref().map(|task| task.path.link)
    }

    /// Whether it belongs to nobody.
    pub const fn is_idle(&self) -> bool {
        self.task.is_none()
    }

    /// Assigns an idle train.
    pub fn begin(&mut self, framing: &F, tunnel: &Arc<F::Tunnel>, path: UdpPath, is_df: bool) {
        self.task = Some(Task {
            framing: framing.clone(),
            tunnel: Arc::clone(tunnel),
            layout: F::layout(tunnel),
            path,
            is_df,
        });
    }

    /// Whether a frame of this size can be appended without flushing first. A train takes what one
    /// call to the kernel takes, so that calls are full.
    pub fn has_room(&self, frame_bytes: usize) -> bool {
        let Some(task) = self.task.as_ref().filter(|_| self.filled > 0) else {
            return true;
        };
        let start = self.start();
        let needed = task.layout.frame_head_bytes + frame_bytes;
        if self.shares(task, needed) {
            let body = self.filled - start - task.layout.head_bytes;
            return start + task.datagram_bytes(body + needed) <= UDP_PAYLOAD_MAX_BYTES;
        }
        let is_open = self.filled > start;
        let finished = if is_open {
            start + task.datagram_bytes(self.filled - start - task.layout.head_bytes)
        } else {
            start
        };
        finished + task.datagram_bytes(needed) <= UDP_PAYLOAD_MAX_BYTES
            && self.ends.len() + usize::from(is_open) < RUN_DATAGRAMS_MAX
    }

    /// Whether so many bytes more would go into the datagram under construction.
    fn shares(&self, task: &Task<F>, needed: usize) -> bool {
        let open_bytes = self.filled - self.start();
        open_bytes > 0
            && self.frames < task.layout.frames_max
            && task.datagram_bytes(open_bytes - task.layout.head_bytes + needed)
                <= task.shared_limit()
    }

    /// Appends one frame that `write` puts into the slice it is given, of exactly `frame_bytes`.
    /// The caller has made sure that the train is assigned and has room.
    pub fn append(
        &mut self,
        envelope: Envelope,
        frame_bytes: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), FrameTooBig> {
        let task = self.task.as_ref().expect("the train is assigned");
        let Layout {
            head_bytes,
            frame_head_bytes,
            ..
        } = task.layout;
        let limit_bytes = if task.is_df {
            task.shared_limit()
        } else {
            UDP_PAYLOAD_MAX_BYTES
        };
        let needed = frame_head_bytes + frame_bytes;
        if task.datagram_bytes(needed) > limit_bytes {
            return Err(FrameTooBig { limit_bytes });
        }
        if !self.shares(task, needed) {
            self.close();
        }
        if self.filled == self.start() {
            self.filled += head_bytes;
        }
        let room = &mut self.buffer[self.filled..self.filled + needed];
        let (head, frame) = room.split_at_mut(frame_head_bytes);
        let task = self.task.as_ref().expect("the train is assigned");
        write(frame);
        task.framing
            .write_frame_head(&task.tunnel, envelope, head, frame);
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
        let body = self.filled - start - task.layout.head_bytes;
        let end = self.filled + F::tail_bytes(&task.tunnel, body);
        let datagram = &mut self.buffer[start..end];
        if task.framing.seal(&task.tunnel, task.is_df, datagram) {
            self.ends.push(end);
            self.filled = end;
        } else {
            self.is_exhausted = true;
            self.filled = start;
        }
    }

    fn start(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Hands everything out run by run (bytes, and the size of each datagram but the last) and
    /// leaves the train idle. False: the tunnel's numbers are used up, something was dropped.
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
