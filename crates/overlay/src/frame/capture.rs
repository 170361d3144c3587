//! The way of a captured frame from the bridge into datagrams (spec/sleeve.md 8 and 9).

use std::sync::{PoisonError, RwLock};

use wire::PeerName;
use wire::ethernet::{EthernetView, MacAddr};

use crate::frame::counters::{Counters, DropReason};
use crate::frame::egress::{Egress, Outgoing, Outlet};
use crate::frame::framing::Framing;
use crate::frame::mss;
use crate::frame::plan::Plan;
use crate::frame::segment::{SuperFrame, VnetHeader, complete_checksum};
use crate::frame::ways::{Captured, Envelope, NextHop, decide_captured};
use crate::mac::{Learned, MacTable};

/// State of the thread that reads the TAP.
pub struct CapturePath<F: Framing> {
    egress: Egress<F>,
    /// The last unicast decision of this batch: source, destination, peer, next hop.
    recent: Option<(MacAddr, MacAddr, PeerName, NextHop)>,
}

impl<F: Framing> Default for CapturePath<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: Framing> CapturePath<F> {
    /// With all buffers allocated.
    pub fn new() -> Self {
        Self {
            egress: Egress::new(),
            recent: None,
        }
    }

    /// Takes one frame as the TAP gave it; datagrams leave at the latest with `flush`. All frames
    /// of a batch see the same plan and time.
    #[expect(clippy::too_many_arguments, reason = "the thread's state, spelled out")]
    pub fn handle_frame(
        &mut self,
        plan: &Plan<F>,
        macs: &RwLock<MacTable>,
        now_secs: u32,
        header: &VnetHeader,
        frame: &mut [u8],
        counters: &Counters,
        outlet: &mut impl Outlet<F>,
    ) {
        let Some(ethernet) = EthernetView::new(frame) else {
            return counters.count(DropReason::MalformedFrame);
        };
        let (source, destination) = (ethernet.source(), ethernet.destination());
        let cut = match SuperFrame::parse(header, frame) {
            Ok(Some(cut)) => Some(cut),
            Ok(None) if complete_checksum(header, frame).is_ok() => None,
            Ok(None) | Err(_) => return counters.count(DropReason::MalformedFrame),
        };
        let verdict = match self.recent {
            Some((from, to, peer, next_hop)) if (from, to) == (source, destination) => {
                Captured::Unicast {
                    destination: peer,
                    next_hop,
                }
            }
            _ => decide_and_learn(plan, macs, now_secs, source, destination),
        };
        if cut.is_none() && mss::is_syn(frame) {
            clamp(plan, verdict, frame);
        }
        let outgoing = Outgoing {
            frame,
            cut: cut.as_ref(),
            is_copy: matches!(verdict, Captured::Broadcast(_)),
        };
        match verdict {
            Captured::Drop(reason) => counters.count(reason),
            Captured::Unicast {
                destination: peer,
                next_hop,
            } => {
                self.recent = Some((source, destination, peer, next_hop));
                self.send(plan, peer, next_hop, outgoing, counters, outlet);
            }
            Captured::Broadcast(hops) => {
                for &hop in hops {
                    self.send(plan, hop.peer, hop, outgoing, counters, outlet);
                }
            }
        }
    }

    /// Ends a batch: everything leaves.
    pub fn flush(&mut self, counters: &Counters, outlet: &mut impl Outlet<F>) {
        self.recent = None;
        self.egress.flush(counters, outlet);
    }

    fn send(
        &mut self,
        plan: &Plan<F>,
        destination: PeerName,
        next_hop: NextHop,
        outgoing: Outgoing<'_>,
        counters: &Counters,
        outlet: &mut impl Outlet<F>,
    ) {
        let way = match plan.way(next_hop) {
            Ok(way) => way,
            Err(reason) => return counters.count(reason),
        };
        let envelope = Envelope {
            origin: plan.us(),
            destination,
        };
        let framing = &plan.framing;
        let answer = self
            .egress
            .send(framing, way, envelope, outgoing, counters, outlet);
        if let Some(answer) = answer {
            let frame = answer.frame();
            tracing::debug!(mtu = way.0.limits.mtu_bytes, peer = %destination, "sending ICMP 3,4");
            let whole = 0..frame.len();
            outlet.inject(&VnetHeader::default(), frame, std::slice::from_ref(&whole));
        }
    }
}

/// Lowers the segment size a SYN offers to what each tunnel it takes carries.
fn clamp<F: Framing>(plan: &Plan<F>, verdict: Captured<'_>, frame: &mut [u8]) {
    let mut by = |hop: NextHop| {
        if let Ok((hop, _)) = plan.way(hop) {
            mss::clamp(frame, hop.limits.mtu_bytes);
        }
    };
    match verdict {
        Captured::Drop(_) => {}
        Captured::Unicast { next_hop, .. } => by(next_hop),
        Captured::Broadcast(hops) => hops.iter().copied().for_each(by),
    }
}

fn decide_and_learn<'p, F: Framing>(
    plan: &'p Plan<F>,
    macs: &RwLock<MacTable>,
    now_secs: u32,
    source: MacAddr,
    destination: MacAddr,
) -> Captured<'p> {
    let us = plan.us();
    let (verdict, is_current) = {
        let macs = macs.read().unwrap_or_else(PoisonError::into_inner);
        let verdict = decide_captured(plan.ways(), &macs, source, destination);
        (verdict, macs.is_current(source, us, now_secs))
    };
    if verdict == Captured::Drop(DropReason::Injected) {
        tracing::debug!(%source, %destination, "captured frame is associated with another peer");
    } else if !is_current {
        let mut macs = macs.write().unwrap_or_else(PoisonError::into_inner);
        if macs.learn(source, us, now_secs) == Learned::New {
            tracing::debug!(mac = %source, "discovered local MAC");
        }
    }
    verdict
}
