//! A kind of tunnel that only tests have, to prove that a kind plugs in: machine, lane, probe and
//! event of its own, in everything else what the kernel fast path is to the switch. It takes IPv4
//! only, has an MTU that is given, and without heartbeats goes on hold instead of dying.
//!
//! ```text
//!  new ── confirm ──► probing ── control 0 ──► established
//!                  (500 ms)                    (10 s)
//!      60 s without a heartbeat: on hold, still sending every 10 s; a heartbeat releases it
//! ```

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use wire::sleeve::UNDERLAY_IPV4_BYTES;

use crate::protection::Protection;
use crate::tunnel::{Signal, TunnelConfig, TunnelOutput, Unusable};

/// Overlay MTU, bytes. A heartbeat is as long as a frame gets.
pub const MTU_BYTES: usize = 1200;
/// Heartbeat interval until the far end has acknowledged one.
pub const FAST_HEARTBEAT: Duration = Duration::from_millis(500);
/// Heartbeat interval afterwards, and while on hold.
pub const SLOW_HEARTBEAT: Duration = Duration::from_secs(10);
/// Without a heartbeat for this long the tunnel is on hold.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(60);
/// Control tag: a heartbeat was heard.
pub const TAG_HEARD: u8 = 0;

/// Bytes from an overlay IP packet to the underlay one.
const OVERHEAD_BYTES: usize = 50;
/// A heartbeat's frame.
const HEARTBEAT_BYTES: usize = MTU_BYTES + 14;

/// How to reach one neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialLane {
    /// How frames would be sealed.
    pub protection: Protection,
    /// Where datagrams go, once known.
    pub remote_address: Option<SocketAddr>,
}

impl TrialLane {
    /// Bytes from an overlay IP packet to the underlay one.
    pub const fn overhead_bytes(&self) -> usize {
        OVERHEAD_BYTES
    }

    /// Largest UDP payload, bytes.
    pub const fn max_payload_bytes(&self) -> usize {
        MTU_BYTES + OVERHEAD_BYTES - UNDERLAY_IPV4_BYTES
    }
}

/// A heartbeat to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrialProbe {
    /// Connection UID.
    pub connection_uid: u64,
}

impl TrialProbe {
    /// Whole frame length.
    pub const fn frame_bytes(self) -> usize {
        HEARTBEAT_BYTES
    }
}

/// What the data plane reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialEvent {
    /// A heartbeat arrived.
    Heard {
        /// Source address.
        from: SocketAddr,
        /// Connection UID it carried.
        connection_uid: u64,
    },
    /// The lane is broken for good.
    Broken,
}

impl TrialEvent {
    /// What it has a word for.
    pub const fn of(signal: Signal, from: SocketAddr) -> Option<Self> {
        match signal {
            Signal::Heartbeat { connection_uid } => Some(Self::Heard {
                from,
                connection_uid,
            }),
            Signal::Exhausted => Some(Self::Broken),
            Signal::FragmentationTest | Signal::MtuTest { .. } | Signal::TooBig { .. } => None,
        }
    }
}

/// The control machine of one tunnel.
#[derive(Debug)]
pub struct Trial {
    config: TunnelConfig,
    address: Option<SocketAddr>,
    heartbeat_at: Option<Instant>,
    hold_at: Option<Instant>,
    heard: bool,
    established: bool,
    outputs: VecDeque<TunnelOutput<TrialProbe>>,
}

impl Trial {
    /// Prepares a tunnel; nothing is sent before [`Self::confirm`].
    pub fn new(config: TunnelConfig) -> Result<Self, Unusable> {
        let ip = config.remote_address.ip().to_canonical();
        match ip {
            IpAddr::V4(_) => Ok(Self {
                address: config.outbound.then_some(config.remote_address),
                heartbeat_at: None,
                hold_at: None,
                heard: false,
                established: false,
                outputs: VecDeque::new(),
                config,
            }),
            IpAddr::V6(_) => Err(Unusable::NotIpv4(ip)),
        }
    }

    /// The connection is registered: starts heartbeats.
    pub fn confirm(&mut self, now: Instant) {
        self.hold_at = Some(now + HEARTBEAT_TIMEOUT);
        self.send_heartbeat(now);
    }

    /// A control message of the other end's machine.
    pub fn handle_control(&mut self, tag: u8, now: Instant) {
        if tag == TAG_HEARD && self.heartbeat_at.is_some() && !self.established {
            self.established = true;
            self.heartbeat_at = Some(now + SLOW_HEARTBEAT);
            self.outputs.push_back(TunnelOutput::Established);
        }
    }

    /// News from the data plane.
    pub fn handle_event(&mut self, event: TrialEvent, now: Instant) {
        if self.heartbeat_at.is_none() {
            return;
        }
        match event {
            TrialEvent::Heard {
                from,
                connection_uid,
            } if connection_uid == self.config.uid => self.handle_heartbeat(from, now),
            TrialEvent::Heard { .. } => {}
            TrialEvent::Broken => {
                self.heartbeat_at = None;
                self.hold_at = None;
                self.outputs
                    .push_back(TunnelOutput::Failed("trial lane is broken".to_owned()));
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.hold_at.is_some_and(|at| at <= now) {
            self.hold_at = None;
            self.outputs.push_back(TunnelOutput::OnHold);
        }
        if self.heartbeat_at.is_some_and(|at| at <= now) {
            self.send_heartbeat(now);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let heartbeat = self.heartbeat_at.map(|at| (at, "trial heartbeat"));
        let hold = self.hold_at.map(|at| (at, "trial heartbeat timeout"));
        heartbeat.into_iter().chain(hold).min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<TunnelOutput<TrialProbe>> {
        self.outputs.pop_front()
    }

    /// What the data plane needs to know.
    pub fn lane(&self) -> TrialLane {
        TrialLane {
            protection: self.config.protection.clone(),
            remote_address: self.address,
        }
    }

    fn handle_heartbeat(&mut self, from: SocketAddr, now: Instant) {
        if self.address != Some(from) {
            self.address = Some(from);
            self.outputs.push_back(TunnelOutput::Changed);
        }
        if !self.heard {
            self.heard = true;
            let body = Vec::new();
            self.outputs.push_back(TunnelOutput::Control {
                tag: TAG_HEARD,
                body,
            });
        }
        if self.hold_at.replace(now + HEARTBEAT_TIMEOUT).is_none() {
            self.outputs.push_back(TunnelOutput::Released);
        }
    }

    fn send_heartbeat(&mut self, now: Instant) {
        let is_urgent = !self.established && self.hold_at.is_some();
        let interval = if is_urgent {
            FAST_HEARTBEAT
        } else {
            SLOW_HEARTBEAT
        };
        self.heartbeat_at = Some(now + interval);
        if self.address.is_some() {
            self.outputs.push_back(TunnelOutput::Probe(TrialProbe {
                connection_uid: self.config.uid,
            }));
        }
    }
}
