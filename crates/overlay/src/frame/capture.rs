//! The way of a captured frame from the bridge into datagrams (spec/sleeve.md 8 and 9).

use std::sync::{PoisonError, RwLock};

use wire::PeerName;
use wire::ethernet::{EthernetView, MacAddr};

use crate::forward::egress::{Egress, Envelope, Outgoing, Outlet};
use crate::forward::program::{Counters, Program};
use crate::forward::{Captured, DropReason, decide_captured};
use crate::mac::{Learned, MacTable, Sighting};
use crate::mss;
use crate::segment::{SuperFrame, VnetHeader, complete_checksum};

/// State of the thread that reads the TAP.
#[derive(Default)]
pub struct CapturePath {
    egress: Egress,
    /// The last unicast decision of this batch: source, destination, peer, next hop.
    recent: Option<(MacAddr, MacAddr, PeerName, PeerName)>,
}

impl CapturePath {
    /// With all buffers allocated.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one frame as the TAP gave it; datagrams leave at the latest with `flush`. All frames
    /// of a batch see the same program and time.
    #[expect(clippy::too_many_arguments, reason = "the thread's state, spelled out")]
    pub fn handle_frame(
        &mut self,
        program: &Program,
        macs: &RwLock<MacTable>,
        now_secs: u32,
        header: &VnetHeader,
        frame: &mut [u8],
        counters: &Counters,
        outlet: &mut impl Outlet,
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
            _ => decide_and_learn(program, macs, now_secs, (source, destination), outlet),
        };
        if cut.is_none() && mss::is_syn(frame) {
            clamp(program, verdict, frame);
        }
        let outgoing = Outgoing {
            frame,
            cut: cut.as_ref(),
        };
        match verdict {
            Captured::Drop(reason) => counters.count(reason),
            Captured::Unicast {
                destination: peer,
                next_hop,
            } => {
                self.recent = Some((source, destination, peer, next_hop));
                self.send(program, peer, next_hop, false, outgoing, counters, outlet);
            }
            Captured::Broadcast(hops) => {
                for &hop in hops {
                    self.send(program, hop, hop, true, outgoing, counters, outlet);
                }
            }
        }
    }

    /// Ends a batch: everything leaves.
    pub fn flush(&mut self, counters: &Counters, outlet: &mut impl Outlet) {
        self.recent = None;
        self.egress.flush(counters, outlet);
    }

    #[expect(clippy::too_many_arguments, reason = "the thread's state, spelled out")]
    fn send(
        &mut self,
        program: &Program,
        destination: PeerName,
        next_hop: PeerName,
        is_copy: bool,
        outgoing: Outgoing<'_>,
        counters: &Counters,
        outlet: &mut impl Outlet,
    ) {
        let us = program.table.us;
        let hop = match program.hop(next_hop) {
            Ok(hop) => hop,
            Err(reason) => return counters.count(reason),
        };
        let envelope = Envelope {
            origin: us,
            destination,
            is_copy,
        };
        if let Some(answer) = self
            .egress
            .send(us, hop, envelope, outgoing, counters, outlet)
        {
            let frame = answer.frame();
            tracing::debug!(mtu = hop.lane.mtu_bytes, peer = %destination, "sending ICMP 3,4");
            let whole = 0..frame.len();
            outlet.inject(&VnetHeader::default(), frame, std::slice::from_ref(&whole));
        }
    }
}

/// Lowers the segment size a SYN offers to what each tunnel it takes carries.
fn clamp(program: &Program, verdict: Captured<'_>, frame: &mut [u8]) {
    let mut by = |hop: PeerName| {
        if let Ok(hop) = program.hop(hop) {
            mss::clamp(frame, hop.lane.mtu_bytes);
        }
    };
    match verdict {
        Captured::Drop(_) => {}
        Captured::Unicast { next_hop, .. } => by(next_hop),
        Captured::Broadcast(hops) => hops.iter().copied().for_each(by),
    }
}

fn decide_and_learn<'p>(
    program: &'p Program,
    macs: &RwLock<MacTable>,
    now_secs: u32,
    (source, destination): (MacAddr, MacAddr),
    outlet: &mut impl Outlet,
) -> Captured<'p> {
    let us = program.table.us;
    let (verdict, is_current) = {
        let macs = macs.read().unwrap_or_else(PoisonError::into_inner);
        let verdict = decide_captured(&program.table, &macs, source, destination);
        (verdict, macs.is_current(source, us, now_secs))
    };
    if verdict == Captured::Drop(DropReason::Injected) {
        tracing::debug!(%source, %destination, "captured frame is associated with another peer");
    } else if !is_current {
        let learned = {
            let mut macs = macs.write().unwrap_or_else(PoisonError::into_inner);
            macs.learn(source, us, now_secs)
        };
        if learned != Learned::Known {
            tracing::debug!(mac = %source, "discovered local MAC");
            outlet.learned(Sighting {
                mac: source,
                peer: us,
            });
        }
    }
    verdict
}
