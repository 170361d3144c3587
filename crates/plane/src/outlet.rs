//! Where the pure half's results go: the TAP, the sockets, the queue of events.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use linux::tap::Tap;
use linux::udp::{Fragmentation, UdpPair, is_batch_refused, is_batching_unavailable, is_too_big};
use overlay::frame::counters::{Counters, DropReason};
use overlay::frame::egress::Outlet;
use overlay::frame::merge::PARTS_MAX;
use overlay::frame::plan::UdpPath;
use overlay::frame::segment::VnetHeader;
use overlay::kind::TunnelEvent;
use overlay::mac::Sighting;
use overlay::sleeve::framing::SleeveFraming;
use overlay::sleeve::lane::{SleeveEvent, SpecialKind};
use wire::sleeve::{DatagramError, UNDERLAY_IPV4_BYTES, UNDERLAY_IPV6_BYTES};
use wire::{LinkId, PeerName};

use crate::clock;
use crate::events::Sender;

/// A tunnel's too-big reports are at least this far apart, each costing some system calls; the
/// control half needs one, and asks again by its next test.
const TOO_BIG_PAUSE: Duration = Duration::from_millis(20);
/// Tunnels whose last too-big report is remembered.
const TOO_BIG_TUNNELS_MAX: usize = 64;
/// Complaints of one kind are at least this far apart in the log.
const LOG_PAUSE: Duration = Duration::from_secs(5);

/// The UDP sockets of each family we have.
pub(crate) struct Sockets {
    pub(crate) v4: Option<UdpPair>,
    pub(crate) v6: Option<UdpPair>,
}

impl Sockets {
    /// IPv4, then IPv6.
    pub(crate) const fn pairs(&self) -> [Option<&UdpPair>; 2] {
        [self.v4.as_ref(), self.v6.as_ref()]
    }

    /// The pair of an address's family.
    const fn towards(&self, to: SocketAddr) -> Option<&UdpPair> {
        if to.is_ipv4() {
            self.v4.as_ref()
        } else {
            self.v6.as_ref()
        }
    }
}

/// One user of the TAP and the sockets: a thread, or the control plane for its probes.
pub(crate) struct Port {
    pub(crate) tap: Arc<Tap>,
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) counters: Arc<Counters>,
    events: Sender,
    /// Whether the kernel and its devices take batches; settled by the first refusal.
    batches: bool,
    too_big: Vec<(LinkId, Instant)>,
    complained: Option<Instant>,
    failed: Option<Instant>,
}

impl Port {
    pub(crate) fn new(
        tap: Arc<Tap>,
        sockets: Arc<Sockets>,
        events: Sender,
        counters: Arc<Counters>,
    ) -> Self {
        let too_big = Vec::with_capacity(TOO_BIG_TUNNELS_MAX);
        Self {
            tap,
            sockets,
            counters,
            events,
            batches: true,
            too_big,
            complained: None,
            failed: None,
        }
    }

    /// Tells the control plane, or counts that it could not be told.
    pub(crate) fn tell(&self, event: TunnelEvent) {
        if !self.events.send(event) {
            self.counters.count(DropReason::EventQueueFull);
        }
    }

    /// Sends a run of datagrams.
    pub(crate) fn send(&mut self, path: &UdpPath, is_df: bool, bytes: &[u8], size: usize) {
        let count = bytes.len().div_ceil(size.max(1)) as u64;
        let sockets = Arc::clone(&self.sockets);
        let Some(pair) = sockets.towards(path.to) else {
            return self.counters.count_all(DropReason::SendFailed, count);
        };
        let fragmentation = match (is_df, path.exceeds_kernel_mtu) {
            (false, _) => Fragmentation::Allowed,
            (true, false) => Fragmentation::Refused,
            (true, true) => Fragmentation::RefusedByInterface,
        };
        // Datagrams to be fragmented below us cannot be batched.
        let fits = is_df || size <= path.max_payload_bytes;
        let is_batch = bytes.len() > size && fits && self.batches;
        if is_batch || bytes.len() <= size {
            match pair.send(fragmentation, path.to, bytes, size) {
                Ok(()) => return self.counters.sent(count, bytes.len()),
                Err(error) if is_df && is_too_big(&error) => {
                    if self.report_too_big(path, pair, size, count) {
                        return;
                    }
                }
                Err(error) if is_batch && is_batch_refused(&error) => {
                    self.batches &= !is_batching_unavailable(&error);
                }
                Err(error) => return self.send_failed(&error, count),
            }
        }
        // One by one: what is not a matter of batching fails again.
        for datagram in bytes.chunks(size) {
            match pair.send(fragmentation, path.to, datagram, datagram.len()) {
                Ok(()) => self.counters.sent(1, datagram.len()),
                Err(error) => self.send_failed(&error, 1),
            }
        }
    }

    /// Sends one test datagram beyond the limits known, whatever the kernel knows of the path. That
    /// the interface refuses it is an answer, too, and no news.
    pub(crate) fn send_beyond(&mut self, path: &UdpPath, datagram: &[u8]) {
        let Some(pair) = self.sockets.towards(path.to) else {
            return self.counters.count(DropReason::SendFailed);
        };
        let how = Fragmentation::RefusedByInterface;
        match pair.send(how, path.to, datagram, datagram.len()) {
            Ok(()) => self.counters.sent(1, datagram.len()),
            Err(error) if is_too_big(&error) => {}
            Err(error) => self.send_failed(&error, 1),
        }
    }

    /// Finds the path MTU and reports it for so many datagrams that are lost; false if datagrams of
    /// this size should have fitted.
    fn report_too_big(&mut self, path: &UdpPath, pair: &UdpPair, size: usize, count: u64) -> bool {
        let now = clock::now();
        let known = self.too_big.iter().position(|(link, _)| *link == path.link);
        if let Some(index) = known
            && now - self.too_big[index].1 < TOO_BIG_PAUSE
        {
            self.counters.count_all(DropReason::SendTooBig, count);
            return true;
        }
        let path_mtu_bytes = match pair.path_mtu(path.to) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.send_failed(&error, count);
                return true;
            }
        };
        let headers = if path.to.is_ipv4() {
            UNDERLAY_IPV4_BYTES
        } else {
            UNDERLAY_IPV6_BYTES
        };
        if size + headers <= path_mtu_bytes {
            return false;
        }
        match known {
            Some(index) => self.too_big[index].1 = now,
            None => {
                self.too_big.retain(|(_, at)| now - *at < TOO_BIG_PAUSE);
                if self.too_big.len() < TOO_BIG_TUNNELS_MAX {
                    self.too_big.push((path.link, now));
                }
            }
        }
        self.counters.count_all(DropReason::SendTooBig, count);
        self.tell(SleeveEvent::TooBig { path_mtu_bytes }.on(path.link));
        true
    }

    /// No error of a send is fatal: networks come back.
    fn send_failed(&mut self, error: &io::Error, count: u64) {
        self.counters.count_all(DropReason::SendFailed, count);
        if is_due(&mut self.failed) {
            tracing::warn!(%error, "cannot send datagrams");
        }
    }
}

impl Outlet<SleeveFraming> for Port {
    fn transmit(&mut self, path: &UdpPath, is_df: bool, bytes: &[u8], datagram_bytes: usize) {
        self.send(path, is_df, bytes, datagram_bytes);
    }

    fn inject(&mut self, header: &VnetHeader, arena: &[u8], parts: &[Range<usize>]) {
        let header = header.to_bytes();
        let mut slices = [IoSlice::new(&[]); PARTS_MAX + 1];
        slices[0] = IoSlice::new(&header);
        for (slice, part) in slices[1..].iter_mut().zip(parts) {
            *slice = IoSlice::new(&arena[part.clone()]);
        }
        self.counters.frames_injected.fetch_add(1, Relaxed);
        if let Err(error) = self.tap.write(&slices[..=parts.len().min(PARTS_MAX)]) {
            self.counters.count(DropReason::InjectFailed);
            if is_due(&mut self.failed) {
                tracing::warn!(%error, "cannot inject frames");
            }
        }
    }

    fn special(&mut self, link: LinkId, from: SocketAddr, kind: SpecialKind) {
        self.tell(SleeveEvent::Special { from, kind }.on(link));
    }

    fn exhausted(&mut self, link: LinkId) {
        self.tell(SleeveEvent::CounterExhausted.on(link));
    }

    fn learned(&mut self, sighting: Sighting) {
        self.events.learned(sighting);
    }

    fn complain(&mut self, sender: PeerName, error: DatagramError) {
        if is_due(&mut self.complained) {
            tracing::warn!(%sender, %error, "malformed datagram");
        }
    }
}

/// Whether it is time to log again.
fn is_due(last: &mut Option<Instant>) -> bool {
    let now = clock::now();
    let is_due = last.is_none_or(|last| now - last >= LOG_PAUSE);
    if is_due {
        *last = Some(now);
    }
    is_due
}
