//! The control machine of one sleeve connection: heartbeats, establishment, the remote's UDP
//! address, the fragmentation test and the path MTU. It decides what special frames are sent; the
//! data plane builds, seals and sends them.
//!
//! Format and timers: spec/sleeve.md 5 to 7.
//!
//! ```text
//!  new ── confirm ──► probing ── control 1 ──► established
//!                  (500 ms)                    (10 s, tests)
//!      60 s without a valid heartbeat, or counters used up, in either: failed, for good
//! ```

pub mod framing;
pub mod lane;
pub mod pmtu;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tracing::{debug, info};
use wire::ethernet::ETHERNET_HEADER_BYTES as ETHERNET_BYTES;

use crate::sleeve::lane::{SleeveEvent, SleeveLane, SleeveProbe, SpecialKind};
use crate::sleeve::pmtu::{PathMtu, PmtuOutput};
use crate::tunnel::{TunnelConfig, TunnelOutput};

/// Heartbeat interval until the far end has acknowledged one.
pub const FAST_HEARTBEAT: Duration = Duration::from_millis(500);
/// Heartbeat interval afterwards.
pub const SLOW_HEARTBEAT: Duration = Duration::from_secs(10);
/// Without a valid heartbeat for this long the tunnel is dead: six slow ones.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval of the fragmentation test.
pub const FRAGMENTATION_TEST_INTERVAL: Duration = Duration::from_secs(300);

/// Control tag: a heartbeat was heard.
const TAG_ESTABLISHED: u8 = 1;
/// Control tag: a fragmentation test was received.
const TAG_FRAGMENTATION_RECEIVED: u8 = 2;
/// Control tag: a path MTU test was received; body u16 MTU.
const TAG_PMTU_VERIFIED: u8 = 3;

/// Why a sleeve tunnel is dead for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SleeveError {
    /// 60 s without a valid heartbeat.
    #[error("timed out waiting for UDP heartbeat")]
    HeartbeatTimeout,
    /// No datagram number is left under this session key.
    #[error("datagram counter used up")]
    CounterExhausted,
}

/// What a sleeve tunnel wants done or known.
pub type SleeveOutput = TunnelOutput<SleeveProbe>;

/// Where a tunnel is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Prepared,
    Probing,
    Established,
    Failed,
}

/// One sleeve tunnel's control machine.
#[derive(Debug)]
pub struct Sleeve {
    config: TunnelConfig,
    state: State,
    address: Option<SocketAddr>,
    heard: bool,
    stack_frag: bool,
    pmtu: PathMtu,
    heartbeat_at: Option<Instant>,
    dead_at: Option<Instant>,
    fragmentation_test_at: Option<Instant>,
    outputs: VecDeque<SleeveOutput>,
}

impl Sleeve {
    /// Prepares a tunnel; nothing is sent before [`Self::confirm`].
    pub fn new(config: TunnelConfig) -> Self {
        let remote = canonical(config.remote_address);
        Self {
            state: State::Prepared,
            address: config.outbound.then_some(remote),
            heard: false,
            stack_frag: false,
            pmtu: PathMtu::new(remote.ip(), config.protection.cipher().is_some()),
            heartbeat_at: None,
            dead_at: None,
            fragmentation_test_at: None,
            outputs: VecDeque::new(),
            config,
        }
    }

    /// The connection is registered: starts heartbeats and the death timer.
    pub fn confirm(&mut self, now: Instant) {
        if self.state != State::Prepared {
            return;
        }
        self.state = State::Probing;
        self.dead_at = Some(now + HEARTBEAT_TIMEOUT);
        self.heartbeat_at = Some(now + FAST_HEARTBEAT);
        self.send_heartbeat();
    }

    /// News from the data plane.
    pub fn handle_event(&mut self, event: SleeveEvent, now: Instant) {
        match event {
            SleeveEvent::Special { from, kind } => self.handle_special(from, kind, now),
            SleeveEvent::TooBig { path_mtu_bytes } => self.handle_too_big(path_mtu_bytes, now),
            SleeveEvent::CounterExhausted => self.handle_counter_exhausted(),
        }
    }

    /// An authenticated special frame from the remote arrived.
    pub fn handle_special(&mut self, from: SocketAddr, kind: SpecialKind, now: Instant) {
        if !self.is_live() {
            return;
        }
        match kind {
            SpecialKind::Heartbeat { connection_uid } => {
                self.handle_heartbeat(canonical(from), connection_uid, now);
            }
            SpecialKind::FragmentationTest => {
                self.send_control(TAG_FRAGMENTATION_RECEIVED, Vec::new());
            }
            SpecialKind::MtuTest { frame_bytes } => {
                let mtu = frame_bytes.saturating_sub(ETHERNET_BYTES);
                let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
                self.send_control(TAG_PMTU_VERIFIED, mtu.to_be_bytes().to_vec());
            }
        }
    }

    /// A DF send was refused; the kernel's path MTU towards the remote.
    pub fn handle_too_big(&mut self, path_mtu_bytes: usize, now: Instant) {
        if self.is_live() {
            self.pmtu.handle_too_big(path_mtu_bytes, now);
            self.drain_pmtu();
        }
    }

    /// The data plane has no datagram number left.
    pub fn handle_counter_exhausted(&mut self) {
        if self.is_live() {
            self.fail(SleeveError::CounterExhausted);
        }
    }

    /// A control message of the other end's sleeve.
    pub fn handle_control(&mut self, tag: u8, body: &[u8], now: Instant) {
        if !self.is_live() {
            return;
        }
        match tag {
            TAG_ESTABLISHED => self.handle_established(now),
            TAG_FRAGMENTATION_RECEIVED => {
                if !self.stack_frag {
                    self.stack_frag = true;
                    self.outputs.push_back(SleeveOutput::Changed);
                }
            }
            TAG_PMTU_VERIFIED => match body {
                [high, low, ..] => {
                    let mtu = u16::from_be_bytes([*high, *low]);
                    self.pmtu.handle_ack(usize::from(mtu), now);
                    self.drain_pmtu();
                }
                [] | [_] => info!(
                    peer = self.config.remote_label,
                    "received truncated MTUTestAck"
                ),
            },
            _ => info!(
                peer = self.config.remote_label,
                tag, "ignoring unknown control message tag"
            ),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.is_live() {
            return;
        }
        if self.dead_at.is_some_and(|at| at <= now) {
            self.fail(SleeveError::HeartbeatTimeout);
            return;
        }
        if let Some(at) = self.heartbeat_at.filter(|at| *at <= now) {
            self.send_heartbeat();
            self.heartbeat_at = Some(next_tick(at, self.heartbeat_interval(), now));
        }
        if let Some(at) = self.fragmentation_test_at.filter(|at| *at <= now) {
            self.send_fragmentation_test();
            self.fragmentation_test_at = Some(next_tick(at, FRAGMENTATION_TEST_INTERVAL, now));
        }
        self.pmtu.handle_timeout(now);
        self.drain_pmtu();
    }

    /// When [`Self::handle_timeout`] wants to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if !self.is_live() {
            return None;
        }
        let timers = [
            (self.dead_at, "sleeve heartbeat timeout"),
            (self.heartbeat_at, "sleeve heartbeat"),
            (self.fragmentation_test_at, "sleeve fragmentation test"),
            (self.pmtu.poll_timeout(), "sleeve path MTU test"),
        ];
        timers
            .into_iter()
            .filter_map(|(at, what)| Some((at?, what)))
            .min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<SleeveOutput> {
        self.outputs.pop_front()
    }

    /// What the data plane needs to know.
    pub fn lane(&self) -> SleeveLane {
        SleeveLane {
            protection: self.config.protection.clone(),
            outbound: self.config.outbound,
            remote_address: self.address,
            mtu_bytes: self.pmtu.mtu_bytes(),
            max_payload_bytes: self.pmtu.max_payload_bytes(),
            exceeds_kernel_mtu: self.pmtu.exceeds_kernel(),
            stack_frag: self.stack_frag,
        }
    }

    /// Where datagrams go, once known.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Overlay MTU, bytes.
    pub fn mtu_bytes(&self) -> usize {
        self.pmtu.mtu_bytes()
    }

    /// Largest UDP payload of a DF datagram, bytes.
    pub fn max_payload_bytes(&self) -> usize {
        self.pmtu.max_payload_bytes()
    }

    /// Whether the path was seen to carry more than the kernel believes.
    pub fn exceeds_kernel(&self) -> bool {
        self.pmtu.exceeds_kernel()
    }

    /// Whether IP fragmentation was seen to work end to end since the last test.
    pub fn stack_frag(&self) -> bool {
        self.stack_frag
    }

    fn is_live(&self) -> bool {
        matches!(self.state, State::Probing | State::Established)
    }

    fn heartbeat_interval(&self) -> Duration {
        if self.state == State::Established {
            SLOW_HEARTBEAT
        } else {
            FAST_HEARTBEAT
        }
    }

    fn handle_heartbeat(&mut self, from: SocketAddr, connection_uid: u64, now: Instant) {
        if connection_uid != self.config.uid {
            debug!(
                peer = self.config.remote_label,
                "ignoring heartbeat of another connection"
            );
            return;
        }
        let known = self.address;
        if known != Some(from) {
            if known.is_some() {
                info!(peer = self.config.remote_label, address = %from, "peer UDP address changed");
            }
            self.move_to(from, now);
        }
        if known.is_none() {
            self.send_heartbeat();
        }
        if !self.heard {
            self.heard = true;
            self.send_control(TAG_ESTABLISHED, Vec::new());
        }
        self.dead_at = Some(now + HEARTBEAT_TIMEOUT);
    }

    /// Takes a new remote address. Another address family is another overhead, so the path MTU is
    /// found anew; any other address may be another path, so it is confirmed.
    fn move_to(&mut self, address: SocketAddr, now: Instant) {
        let reference = self
            .address
            .unwrap_or_else(|| canonical(self.config.remote_address));
        self.address = Some(address);
        self.outputs.push_back(SleeveOutput::Changed);
        if same_family(reference.ip(), address.ip()) {
            self.pmtu.suspect(now);
        } else {
            self.pmtu = PathMtu::new(address.ip(), self.config.protection.cipher().is_some());
            if self.state == State::Established {
                self.pmtu.discover(now);
            }
        }
        self.drain_pmtu();
    }

    fn handle_established(&mut self, now: Instant) {
        if self.state == State::Probing {
            self.state = State::Established;
            self.heartbeat_at = Some(now + SLOW_HEARTBEAT);
            self.fragmentation_test_at = Some(now + FRAGMENTATION_TEST_INTERVAL);
            self.outputs.push_back(SleeveOutput::Established);
        }
        self.send_fragmentation_test();
        self.pmtu.discover(now);
        self.drain_pmtu();
    }

    fn drain_pmtu(&mut self) {
        while let Some(output) = self.pmtu.poll_output() {
            match output {
                PmtuOutput::Changed => self.outputs.push_back(SleeveOutput::Changed),
                PmtuOutput::Test { frame_bytes } => {
                    self.send_probe(SleeveProbe::MtuTest { frame_bytes });
                }
                PmtuOutput::Verified => {
                    let mtu = self.pmtu.mtu_bytes();
                    info!(
                        peer = self.config.remote_label,
                        mtu, "effective MTU verified"
                    );
                }
            }
        }
    }

    fn send_heartbeat(&mut self) {
        self.send_probe(SleeveProbe::Heartbeat {
            connection_uid: self.config.uid,
        });
    }

    fn send_fragmentation_test(&mut self) {
        if self.stack_frag {
            self.stack_frag = false;
            self.outputs.push_back(SleeveOutput::Changed);
        }
        self.send_probe(SleeveProbe::FragmentationTest);
    }

    fn send_probe(&mut self, kind: SleeveProbe) {
        if self.address.is_some() {
            self.outputs.push_back(SleeveOutput::Probe(kind));
        }
    }

    fn send_control(&mut self, tag: u8, body: Vec<u8>) {
        self.outputs.push_back(SleeveOutput::Control { tag, body });
    }

    fn fail(&mut self, error: SleeveError) {
        self.state = State::Failed;
        self.outputs
            .push_back(SleeveOutput::Failed(error.to_string()));
    }
}

/// The tick after `last`, keeping the phase unless time jumped over it.
fn next_tick(last: Instant, interval: Duration, now: Instant) -> Instant {
    let next = last + interval;
    if next > now { next } else { now + interval }
}

/// The address with an IPv4-mapped IP written as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

#[cfg(test)]
mod tests;
