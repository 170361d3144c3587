//! Sending copies of frames to neighbours: path choice, ICMP answers, fragmentation, batching
//! (spec/sleeve.md 8). Each thread has its own.

use std::net::SocketAddr;
use std::ops::Range;

use wire::sleeve::UDP_PAYLOAD_MAX_BYTES;
use wire::{LinkId, PeerName};

use crate::frame::counters::{Counters, DropReason};
use crate::frame::fragment::Fragmenter;
use crate::frame::framing::Framing;
use crate::frame::icmp;
use crate::frame::path::{IpClass, Path, choose_path};
use crate::frame::plan::{Hop, UdpPath};
use crate::frame::segment::{SuperFrame, VnetHeader};
use crate::frame::train::{FrameTooBig, Train};
use crate::frame::ways::Envelope;
use crate::mac::Sighting;

/// Tunnels and paths that can batch at the same time; more make some flush early.
const TRAINS: usize = 8;

/// What the pure paths need done: sockets and the TAP in a thread, vectors in a test.
pub trait Outlet<F: Framing> {
    /// Sends datagrams, each of `datagram_bytes` but the last, which may be shorter.
    fn transmit(&mut self, path: &UdpPath, is_df: bool, bytes: &[u8], datagram_bytes: usize);
    /// Writes one frame, made of these ranges of the arena, to the TAP.
    fn inject(&mut self, header: &VnetHeader, arena: &[u8], parts: &[Range<usize>]);
    /// Tells the control half what the far end of a tunnel said, from this address.
    fn special(&mut self, link: LinkId, from: SocketAddr, special: F::Special);
    /// Tells the control half that a tunnel has no number left for a datagram.
    fn exhausted(&mut self, link: LinkId);
    /// Tells that an address was learned at another peer.
    fn learned(&mut self, sighting: Sighting);
    /// Says that a neighbour sent something malformed.
    fn complain(&mut self, sender: PeerName, error: F::Error);
}

/// A frame to send: as it is, or to be cut first.
#[derive(Clone, Copy)]
pub struct Outgoing<'f> {
    /// The bytes.
    pub frame: &'f [u8],
    /// How to cut, if it is a super-frame.
    pub cut: Option<&'f SuperFrame>,
    /// Whether this is one of several copies of a broadcast.
    pub is_copy: bool,
}

/// What the sender of a frame must be told.
#[derive(Clone, Copy)]
pub struct Answer {
    bytes: [u8; icmp::ANSWER_BYTES_MAX],
    len: usize,
}

impl Answer {
    /// The Ethernet frame to inject or send back.
    pub fn frame(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Frames on their way out, batched per tunnel and path.
pub struct Egress<F: Framing> {
    trains: Vec<Train<F>>,
    /// The train to sacrifice when all are taken.
    victim: usize,
    /// Room for one segment that must be cut again or quoted.
    scratch: Box<[u8]>,
}

impl<F: Framing> Default for Egress<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: Framing> Egress<F> {
    /// With all buffers allocated and idle.
    pub fn new() -> Self {
        let trains = (0..TRAINS).map(|_| Train::new()).collect();
        Self {
            trains,
            victim: 0,
            scratch: vec![0; 65_536 + 14].into_boxed_slice(),
        }
    }

    /// Sends one copy. Returns the ICMP answer owed to its sender, if any.
    pub fn send(
        &mut self,
        framing: &F,
        (hop, path): (&Hop<F>, UdpPath),
        envelope: Envelope,
        outgoing: Outgoing<'_>,
        counters: &Counters,
        outlet: &mut impl Outlet<F>,
    ) -> Option<Answer> {
        let Outgoing {
            frame,
            cut,
            is_copy,
        } = outgoing;
        let frame_bytes = cut.map_or(frame.len(), SuperFrame::frame_bytes);
        let way = choose_path(IpClass::of(frame), frame_bytes, hop.limits, is_copy);
        let mut batch = Batch {
            framing,
            hop,
            path,
            envelope,
            counters,
            outlet,
        };
        match way {
            Path::Df => self.append_all(&mut batch, true, outgoing),
            Path::NonDf => self.append_all(&mut batch, false, outgoing),
            Path::Fragment => self.append_fragments(&mut batch, outgoing),
            Path::Drop(reason) => counters.count(reason),
            Path::AnswerTooBig => {
                counters.count(DropReason::TooBig);
                let first = match cut {
                    None => frame,
                    Some(cut) => {
                        let len = cut.write(frame, 0, &mut self.scratch);
                        &self.scratch[..len]
                    }
                };
                let mut bytes = [0; icmp::ANSWER_BYTES_MAX];
                let len = icmp::frag_needed(first, hop.limits.mtu_bytes, &mut bytes)?;
                return Some(Answer { bytes, len });
            }
        }
        None
    }

    /// Sends everything.
    pub fn flush(&mut self, counters: &Counters, outlet: &mut impl Outlet<F>) {
        for train in &mut self.trains {
            flush_train(train, counters, outlet);
        }
    }

    fn append_all<O: Outlet<F>>(
        &mut self,
        batch: &mut Batch<'_, F, O>,
        is_df: bool,
        outgoing: Outgoing<'_>,
    ) {
        let Outgoing { frame, cut, .. } = outgoing;
        let Some(cut) = cut else {
            self.append(batch, is_df, frame.len(), |out| out.copy_from_slice(frame));
            return;
        };
        for index in 0..cut.count() {
            let train = self.append(batch, is_df, cut.frame_bytes_of(index), |out| {
                cut.write(frame, index, out);
            });
            // One segment, one datagram: equal sizes are what the kernel batches best.
            train.close();
        }
    }

    fn append_fragments<O: Outlet<F>>(
        &mut self,
        batch: &mut Batch<'_, F, O>,
        outgoing: Outgoing<'_>,
    ) {
        let Outgoing { frame, cut, .. } = outgoing;
        let Some(cut) = cut else {
            return self.append_fragments_of(batch, frame);
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        for index in 0..cut.count() {
            let len = cut.write(frame, index, &mut scratch);
            self.append_fragments_of(batch, &scratch[..len]);
        }
        self.scratch = scratch;
    }

    fn append_fragments_of<O: Outlet<F>>(&mut self, batch: &mut Batch<'_, F, O>, frame: &[u8]) {
        let Some(mut cut) = Fragmenter::new(frame, batch.hop.limits.mtu_bytes) else {
            return batch.counters.count(DropReason::MalformedFrame);
        };
        while let Some(frame_bytes) = cut.next_bytes() {
            self.append(batch, true, frame_bytes, |out| {
                cut.write_next(frame, out);
            });
        }
    }

    /// Appends to the train of the batch's tunnel and this path, making room first.
    fn append<O: Outlet<F>>(
        &mut self,
        batch: &mut Batch<'_, F, O>,
        is_df: bool,
        frame_bytes: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> &mut Train<F> {
        let (link, trains) = (batch.hop.link, &self.trains);
        let index = trains.iter().position(|train| train.serves(link, is_df));
        let index = index
            .or_else(|| trains.iter().position(Train::is_idle))
            .unwrap_or_else(|| {
                self.victim = (self.victim + 1) % TRAINS;
                self.victim
            });
        let train = &mut self.trains[index];
        if !train.serves(link, is_df) || !train.has_room(frame_bytes) {
            flush_train(train, batch.counters, batch.outlet);
            train.begin(batch.framing, &batch.hop.tunnel, batch.path, is_df);
        }
        let appended = train.append(batch.envelope, frame_bytes, write);
        if let Err(FrameTooBig { limit_bytes }) = appended {
            batch.counters.count(DropReason::TooBigDatagram);
            tracing::debug!(
                frame_bytes,
                limit_bytes,
                "dropping too big frame during forwarding"
            );
        }
        train
    }
}

/// What all appends of one `send` share.
struct Batch<'a, F: Framing, O> {
    framing: &'a F,
    hop: &'a Hop<F>,
    path: UdpPath,
    envelope: Envelope,
    counters: &'a Counters,
    outlet: &'a mut O,
}

fn flush_train<F: Framing>(train: &mut Train<F>, counters: &Counters, outlet: &mut impl Outlet<F>) {
    let Some(link) = train.link() else { return };
    let is_sent = train.flush(|path, is_df, bytes, datagram_bytes| {
        debug_assert!(bytes.len() <= UDP_PAYLOAD_MAX_BYTES, "one run is one call");
        outlet.transmit(path, is_df, bytes, datagram_bytes);
    });
    if !is_sent {
        counters.count(DropReason::CounterExhausted);
        outlet.exhausted(link);
    }
}
