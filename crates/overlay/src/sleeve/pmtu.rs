//! The path MTU of one sleeve tunnel: what the kernel claims, the search below it when a hop drops
//! silently, the confirmation that what was found still holds, and the search for more. Pure
//! arithmetic and timers; `sleeve` sends what it asks for.
//!
//! Test frames, answers and waits: spec/sleeve.md 5 and 6. Any peer answers a test of any size and
//! keeps nothing about it, so asking again and asking for several sizes at once is nothing new to it.
//!
//! ```text
//!            kernel's report            top answered
//!  unknown ───────────────► claim ──────────────────────► settled ◄──────────┐
//!                             │ not, but a smaller one       │ every 5 s      │ top answered, or
//!                             ▼                              ▼                │ nothing at all
//!       ┌─ good + 1 < bad   refine ◄────────────────────── confirm ───────────┤
//!       └───────────────────► │        only a smaller one    │ top answered,  │ nothing
//!                             ▼                              ▼ every 30 s on  │ larger
//!                          settled ◄── something larger ── grow ──────────────┘
//! ```
//!
//! A *round* tests some sizes together: 8 attempts within 2.55 s. A size without an answer after
//! that counts as too big if a smaller one was answered; if nothing was, the path is down, which says
//! nothing about its MTU. From the sixth attempt on a claim or confirmation asks for smaller sizes
//! too, so that traffic goes on with a size known to work as soon as the round is over.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use wire::ethernet::ETHERNET_HEADER_BYTES as ETHERNET_BYTES;
use wire::sleeve::{
    FRAGMENTATION_TEST_BYTES, HEARTBEAT_BYTES, PMTU_DISCOVERY_BYTES, UDP_PAYLOAD_MAX_BYTES,
    UNDERLAY_IPV4_BYTES, UNDERLAY_IPV6_BYTES,
};

/// MTU of the overlay before anything is known, bytes.
pub const INITIAL_MTU_BYTES: usize = 65535;
/// A verified MTU is confirmed so long after the last answer.
pub const CONFIRM_INTERVAL: Duration = Duration::from_secs(5);
/// Time from an unanswered first test to the end of its round.
pub const ROUND_TIME: Duration = Duration::from_millis(2550);
/// A path that silently carries less than before swallows large packets no longer than this: three
/// rounds, or the confirmation interval and one.
pub const BLACK_HOLE_MAX: Duration = Duration::from_millis(7650);
/// A larger MTU is looked for so long after the last change, right after the next confirmation.
pub const GROWTH_INTERVAL: Duration = Duration::from_secs(30);
/// The interval doubles with each failure up to this.
pub const GROWTH_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// Underlay MTUs that are common, bytes of IP packet, ascending.
const COMMON_BYTES: [usize; 15] = [
    576, 1006, 1280, 1400, 1420, 1440, 1450, 1460, 1480, 1492, 1500, 4352, 9000, 9216, 65535,
];
/// What any IPv4 path is taken to carry (RFC 791: every host accepts it), bytes of IP packet.
const FLOOR_IPV4_BYTES: usize = 576;
/// What any IPv6 path carries (RFC 8200), bytes of IP packet.
const FLOOR_IPV6_BYTES: usize = 1280;
/// Smallest MTU ever taken from a report: what each IPv4 link must carry. Keeps test frames longer
/// than heartbeats whatever a report says.
const REPORT_FLOOR_BYTES: usize = 68;
/// Smallest growth that is looked for between common sizes, bytes.
const GROWTH_STEP_BYTES: usize = 16;
/// Sends of one test before its size counts as too big.
const ATTEMPTS_MAX: u32 = 8;
/// From this attempt on a round asks for smaller sizes too.
const LADDER_ATTEMPT: u32 = 6;
/// Attempts in which larger sizes are looked for; a lost one is asked for again in the next round.
const GROWTH_ATTEMPTS: [u32; 3] = [1, 5, 7];
/// Wait after the first send of a test; doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// Sizes tested together while refining.
const REFINE_SIZES: usize = 7;

const _: () = assert!(REPORT_FLOOR_BYTES + ETHERNET_BYTES > HEARTBEAT_BYTES);

/// Bytes of IP and UDP header in front of a datagram's payload.
pub fn underlay_header_bytes(remote: IpAddr) -> usize {
    if is_ipv6(remote) {
        UNDERLAY_IPV6_BYTES
    } else {
        UNDERLAY_IPV4_BYTES
    }
}

/// Bytes from an overlay IP packet to the underlay IP packet carrying it.
pub fn overhead_bytes(remote: IpAddr, encrypted: bool) -> usize {
    wire::sleeve::overhead_bytes(encrypted, is_ipv6(remote))
}

fn is_ipv6(remote: IpAddr) -> bool {
    remote.to_canonical().is_ipv6()
}

/// What the owner of a [`PathMtu`] has to do, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PmtuOutput {
    /// Limits changed: publish before later tests.
    Changed,
    /// Send a test frame of this length on the DF path.
    Test {
        /// Whole frame length.
        frame_bytes: usize,
    },
    /// A search is over and found another MTU than the one before.
    Verified,
}

/// What a round is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To hear whether the path carries what the kernel says. Limits follow the claim meanwhile.
    Claim,
    /// To hear whether the path still carries what it did.
    Confirm,
    /// To find the limit between a size that works and one that does not.
    Refine,
    /// To hear whether the path carries more by now.
    Grow,
}

/// Sizes under test.
#[derive(Debug)]
struct Round {
    purpose: Purpose,
    /// The largest of a claim or confirmation.
    top: usize,
    /// Sizes above the largest answered one that wait for an answer, ascending.
    open: Vec<usize>,
    /// The largest answered.
    best: Option<usize>,
    attempts: u32,
    deadline: Instant,
}

/// Path MTU state of one tunnel. All sizes are overlay MTUs unless named otherwise.
///
/// Invariant: the MTU in use is the kernel's claim while that is tested, and else a size that was
/// answered, or the floor where none was.
#[derive(Debug)]
pub struct PathMtu {
    underlay_header: usize,
    overhead: usize,
    floor: usize,
    mtu: usize,
    max_payload: usize,
    /// The kernel's last report.
    reported: Option<usize>,
    good: usize,
    bad: usize,
    announced: Option<usize>,
    round: Option<Round>,
    /// When the MTU in use, or more, was last answered.
    heard_at: Option<Instant>,
    confirm_at: Option<Instant>,
    grow_at: Option<Instant>,
    growth_interval: Duration,
    outputs: VecDeque<PmtuOutput>,
}

impl PathMtu {
    /// Nothing known yet about the path to `remote`.
    pub fn new(remote: IpAddr, encrypted: bool) -> Self {
        let overhead = overhead_bytes(remote, encrypted);
        let floor = if is_ipv6(remote) {
            FLOOR_IPV6_BYTES
        } else {
            FLOOR_IPV4_BYTES
        };
        Self {
            underlay_header: underlay_header_bytes(remote),
            overhead,
            floor: floor - overhead,
            mtu: INITIAL_MTU_BYTES,
            max_payload: UDP_PAYLOAD_MAX_BYTES,
            reported: None,
            good: INITIAL_MTU_BYTES,
            bad: INITIAL_MTU_BYTES + 1,
            announced: None,
            round: None,
            heard_at: None,
            confirm_at: None,
            grow_at: None,
            growth_interval: GROWTH_INTERVAL,
            outputs: VecDeque::new(),
        }
    }

    /// Overlay MTU to forward by, bytes.
    pub fn mtu_bytes(&self) -> usize {
        self.mtu
    }

    /// Largest UDP payload of a DF datagram, bytes.
    pub fn max_payload_bytes(&self) -> usize {
        self.max_payload
    }

    /// Whether the path was seen to carry more than the kernel believes: an old "fragmentation
    /// needed" counts there for ten minutes.
    pub fn exceeds_kernel(&self) -> bool {
        self.reported.is_some_and(|reported| self.mtu > reported)
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.round {
            Some(round) => Some(round.deadline),
            None => self.confirm_at,
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<PmtuOutput> {
        self.outputs.pop_front()
    }

    /// The tunnel works: a frame no ordinary link carries makes the kernel say what its does.
    pub fn discover(&mut self, now: Instant) {
        if self.reported.is_none() && self.round.is_none() {
            let top = PMTU_DISCOVERY_BYTES - ETHERNET_BYTES;
            self.good = top;
            self.start(Purpose::Claim, vec![top], now);
        } else {
            self.send_discovery();
        }
    }

    /// Something happened to the path: what is known of it is confirmed at once.
    pub fn suspect(&mut self, now: Instant) {
        if self.round.is_none() && self.confirm_at.is_some() {
            self.confirm(now);
        }
    }

    /// A DF send was refused; the kernel's path MTU towards the peer, IP header included. That larger
    /// sizes would pass says nothing new: growth is looked for without asking the kernel.
    pub fn handle_too_big(&mut self, path_mtu_bytes: usize, now: Instant) {
        let reported = path_mtu_bytes
            .saturating_sub(self.overhead)
            .clamp(REPORT_FLOOR_BYTES, INITIAL_MTU_BYTES);
        let exceeded = self.exceeds_kernel();
        self.reported = Some(reported);
        if reported >= self.mtu {
            if exceeded {
                self.outputs.push_back(PmtuOutput::Changed);
            }
        } else if exceeded {
            self.suspect(now);
        } else {
            self.claim(reported, now);
        }
    }

    /// The far end received a test frame of `mtu_bytes` + 14.
    pub fn handle_ack(&mut self, mtu_bytes: usize, now: Instant) {
        let Some(round) = &mut self.round else { return };
        if !round.open.contains(&mtu_bytes) {
            return;
        }
        round.open.retain(|size| *size > mtu_bytes);
        round.best = Some(mtu_bytes);
        self.heard_at = Some(now);
        let is_over = round.open.is_empty();
        if matches!(round.purpose, Purpose::Refine | Purpose::Grow) {
            self.good = mtu_bytes;
            self.set_limits(mtu_bytes);
        }
        if is_over {
            self.conclude(now);
        }
    }

    /// Repeats or ends the round whose wait is over, or starts one that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &self.round {
            Some(round) if round.deadline > now => {}
            Some(round) if round.attempts < ATTEMPTS_MAX => self.attempt(now),
            Some(_) => self.conclude(now),
            None if self.confirm_at.is_some_and(|at| at <= now) => self.confirm(now),
            None => {}
        }
    }

    /// Takes what the kernel says for true and tests it.
    fn claim(&mut self, reported: usize, now: Instant) {
        self.growth_interval = GROWTH_INTERVAL;
        self.grow_at = Some(now + GROWTH_INTERVAL);
        self.set_limits(reported);
        self.good = testable(reported);
        self.start(Purpose::Claim, vec![self.good], now);
    }

    fn confirm(&mut self, now: Instant) {
        if self.exceeds_kernel() {
            // Its answer may be that the kernel has forgotten.
            self.send_discovery();
        }
        self.start(Purpose::Confirm, vec![self.good], now);
    }

    fn grow(&mut self, now: Instant) {
        let good = self.good;
        let common = self.common().filter(|size| *size > good);
        let mut sizes: Vec<usize> = common.collect();
        if sizes
            .first()
            .is_some_and(|size| *size > good + GROWTH_STEP_BYTES)
        {
            sizes.insert(0, testable(good + GROWTH_STEP_BYTES));
        }
        self.grow_at = None;
        if let Some(last) = sizes.last() {
            self.bad = last + 1;
            self.start(Purpose::Grow, sizes, now);
        }
    }

    fn refine(&mut self, now: Instant) {
        let (good, gap) = (self.good, self.bad.saturating_sub(self.good));
        let step = gap.div_ceil(REFINE_SIZES + 1).max(1);
        let sizes = (1..).map(|i| good + i * step);
        let sizes = sizes.take_while(|size| *size < self.bad).map(testable);
        let mut sizes: Vec<usize> = sizes.filter(|size| *size > good).collect();
        sizes.dedup();
        if sizes.is_empty() {
            self.settle(now);
        } else {
            // To notice if not even that passes any more.
            sizes.insert(0, good);
            self.start(Purpose::Refine, sizes, now);
        }
    }

    /// `sizes` are ascending and not empty.
    fn start(&mut self, purpose: Purpose, sizes: Vec<usize>, now: Instant) {
        self.round = Some(Round {
            purpose,
            top: sizes.last().copied().expect("a round tests something"),
            open: sizes,
            best: None,
            attempts: 0,
            deadline: now,
        });
        self.attempt(now);
    }

    fn attempt(&mut self, now: Instant) {
        let Some(mut round) = self.round.take() else {
            return;
        };
        round.deadline = now + FIRST_WAIT * (1 << round.attempts);
        round.attempts += 1;
        let is_searching = matches!(round.purpose, Purpose::Claim | Purpose::Confirm);
        if is_searching && round.attempts == LADDER_ATTEMPT {
            round.open = self.ladder(round.top);
        }
        if round.purpose != Purpose::Grow || GROWTH_ATTEMPTS.contains(&round.attempts) {
            let test = |size: &usize| PmtuOutput::Test {
                frame_bytes: size + ETHERNET_BYTES,
            };
            self.outputs.extend(round.open.iter().map(test));
        }
        self.round = Some(round);
    }

    /// All of a round was answered, or its time is over.
    fn conclude(&mut self, now: Instant) {
        let Some(round) = self.round.take() else {
            return;
        };
        let refused = round.open.first().copied();
        match (round.purpose, round.best, refused) {
            (Purpose::Claim | Purpose::Confirm, Some(_), None) => {
                self.good = round.top;
                self.settle(now);
                if self.grow_at.is_some_and(|at| at <= now) {
                    self.grow(now);
                }
            }
            (Purpose::Claim | Purpose::Confirm, Some(best), Some(refused)) => {
                self.growth_interval = GROWTH_INTERVAL;
                self.grow_at = Some(now + GROWTH_INTERVAL);
                self.good = best;
                self.bad = refused;
                self.set_limits(best);
                self.refine(now);
            }
            (Purpose::Claim, None, _) if self.reported.is_some() => {
                self.good = self.floor.min(round.top);
                self.set_limits(self.good);
                self.grow_at = Some(now);
                self.settle_unheard(now);
            }
            (Purpose::Claim | Purpose::Confirm, None, _) => self.settle_unheard(now),
            (Purpose::Grow, None, _) => {
                self.growth_interval = (self.growth_interval * 2).min(GROWTH_INTERVAL_MAX);
                self.settle(now);
            }
            (Purpose::Refine, None, _) => self.confirm(now),
            (Purpose::Grow | Purpose::Refine, Some(best), refused) => {
                self.growth_interval = GROWTH_INTERVAL;
                self.good = best;
                self.bad = refused.unwrap_or(self.bad);
                self.refine(now);
            }
        }
    }

    /// Nothing was answered, which is no reason to hurry.
    fn settle_unheard(&mut self, now: Instant) {
        self.heard_at = Some(now);
        self.settle(now);
    }

    fn settle(&mut self, now: Instant) {
        let heard_at = self.heard_at.unwrap_or(now);
        self.confirm_at = Some(now.max(heard_at + CONFIRM_INTERVAL));
        self.grow_at = self.grow_at.or(Some(now + self.growth_interval));
        if self.announced != Some(self.mtu) {
            self.announced = Some(self.mtu);
            self.outputs.push_back(PmtuOutput::Verified);
        }
    }

    /// Sizes to ask for when `top` is in doubt, itself included, ascending. The lowest tells a narrow
    /// path from one that is down, also where IPv6 meets a link that is narrower than it may be.
    fn ladder(&self, top: usize) -> Vec<usize> {
        let reported = self.reported.map(testable).into_iter();
        let below = self.common().chain(reported);
        let below = below.filter(|size| *size < top);
        let mut sizes: Vec<usize> = below.chain([top]).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// Common underlay MTUs as overlay MTUs, ascending.
    fn common(&self) -> impl Iterator<Item = usize> + use<> {
        let overhead = self.overhead;
        COMMON_BYTES.into_iter().map(move |bytes| bytes - overhead)
    }

    fn send_discovery(&mut self) {
        self.outputs.push_back(PmtuOutput::Test {
            frame_bytes: PMTU_DISCOVERY_BYTES,
        });
    }

    fn set_limits(&mut self, mtu: usize) {
        if self.mtu == mtu {
            return;
        }
        self.mtu = mtu;
        self.max_payload = (mtu + self.overhead - self.underlay_header).min(UDP_PAYLOAD_MAX_BYTES);
        self.outputs.push_back(PmtuOutput::Changed);
    }
}

/// The size, or the one below if its test frame would look like a fragmentation test.
fn testable(size: usize) -> usize {
    if size + ETHERNET_BYTES == FRAGMENTATION_TEST_BYTES {
        size - 1
    } else {
        size
    }
}

#[cfg(test)]
mod tests;
