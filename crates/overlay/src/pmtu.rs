//! The path MTU of one sleeve tunnel: what the kernel reports, and the search below it when a hop
//! drops silently. Pure arithmetic and one timer; `sleeve` sends what it asks for.
//!
//! Format and timers: spec/sleeve.md 6.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use wire::ethernet::ETHERNET_HEADER_BYTES as ETHERNET_BYTES;
use wire::sleeve::{
    FRAGMENTATION_TEST_BYTES, HEARTBEAT_BYTES, UDP_PAYLOAD_MAX_BYTES, UNDERLAY_IPV4_BYTES,
    UNDERLAY_IPV6_BYTES,
};

/// MTU of the overlay before anything is known, bytes.
pub const INITIAL_MTU_BYTES: usize = 65535;

/// Lower bound of the search, assumed to work and never tested, bytes.
const SEARCH_FLOOR_BYTES: usize = 552;
/// Smallest MTU ever taken from a report: what each IPv4 link must carry. Keeps test frames longer
/// than heartbeats whatever a report says.
const REPORT_FLOOR_BYTES: usize = 68;
/// Sends of one test before its candidate counts as too big.
const ATTEMPTS_MAX: u32 = 8;
/// Wait after the first send of a test; doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(10);

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

/// What the owner of a [`PathMtu`] has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Send a test frame of this length on the DF path; limits may have changed.
    Test {
        /// Whole frame length.
        frame_bytes: usize,
    },
    /// The search is over; limits may have changed.
    Verified,
}

/// A candidate under test.
#[derive(Debug, Clone, Copy)]
struct Test {
    candidate: usize,
    attempts: u32,
    deadline: Instant,
}

/// Path MTU state of one tunnel.
///
/// Invariant: while a test runs, `good < candidate < bad` unless the report itself was below the
/// search floor.
#[derive(Debug)]
pub struct PathMtu {
    underlay_header: usize,
    overhead: usize,
    mtu: usize,
    max_payload: usize,
    good: usize,
    bad: usize,
    test: Option<Test>,
}

impl PathMtu {
    /// Nothing known yet about the path to `remote`.
    pub fn new(remote: IpAddr, encrypted: bool) -> Self {
        Self {
            underlay_header: underlay_header_bytes(remote),
            overhead: overhead_bytes(remote, encrypted),
            mtu: INITIAL_MTU_BYTES,
            max_payload: UDP_PAYLOAD_MAX_BYTES,
            good: SEARCH_FLOOR_BYTES,
            bad: INITIAL_MTU_BYTES + 1,
            test: None,
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

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.test.map(|test| test.deadline)
    }

    /// A DF send was refused; the kernel's path MTU towards the peer, IP header included.
    pub fn handle_too_big(&mut self, path_mtu_bytes: usize, now: Instant) -> Step {
        let reported = path_mtu_bytes
            .saturating_sub(self.overhead)
            .clamp(REPORT_FLOOR_BYTES, INITIAL_MTU_BYTES);
        if self.test.is_some_and(|test| reported >= test.candidate) {
            return Step::Nothing;
        }
        self.good = SEARCH_FLOOR_BYTES;
        self.bad = reported + 1;
        self.set_limits(reported);
        self.start_test(reported, now)
    }

    /// The far end received a test frame of `mtu_bytes` + 14.
    pub fn handle_ack(&mut self, mtu_bytes: usize, now: Instant) -> Step {
        match self.test {
            Some(test) if test.candidate == mtu_bytes => {
                self.good = test.candidate;
                self.search(now)
            }
            Some(_) | None => Step::Nothing,
        }
    }

    /// Repeats or gives up the test whose wait is over.
    pub fn handle_timeout(&mut self, now: Instant) -> Step {
        let Some(test) = self.test.filter(|test| test.deadline <= now) else {
            return Step::Nothing;
        };
        if test.attempts < ATTEMPTS_MAX {
            return self.send_test(test.candidate, test.attempts, now);
        }
        self.bad = test.candidate;
        self.search(now)
    }

    fn search(&mut self, now: Instant) -> Step {
        let candidate = testable((self.good + self.bad) / 2);
        if self.good + 1 >= self.bad || candidate <= self.good {
            self.test = None;
            self.set_limits(self.good);
            return Step::Verified;
        }
        self.start_test(candidate, now)
    }

    fn start_test(&mut self, candidate: usize, now: Instant) -> Step {
        self.send_test(testable(candidate), 0, now)
    }

    fn send_test(&mut self, candidate: usize, attempts: u32, now: Instant) -> Step {
        let deadline = now + FIRST_WAIT * (1 << attempts);
        self.test = Some(Test {
            candidate,
            attempts: attempts + 1,
            deadline,
        });
        Step::Test {
            frame_bytes: candidate + ETHERNET_BYTES,
        }
    }

    fn set_limits(&mut self, mtu: usize) {
        self.mtu = mtu;
        self.max_payload = (mtu + self.overhead - self.underlay_header).min(UDP_PAYLOAD_MAX_BYTES);
    }
}

/// The candidate, or the one below if its test frame would look like a fragmentation test.
fn testable(candidate: usize) -> usize {
    if candidate + ETHERNET_BYTES == FRAGMENTATION_TEST_BYTES {
        candidate - 1
    } else {
        candidate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

    #[expect(clippy::disallowed_methods, reason = "base of virtual time")]
    fn base() -> Instant {
        Instant::now()
    }

    /// Runs the search against a path that silently drops what exceeds `path` (overlay MTU).
    fn run(pmtu: &mut PathMtu, mut step: Step, path: usize, mut now: Instant) -> (usize, Duration) {
        let start = now;
        for _ in 0..1000 {
            step = match step {
                Step::Test { frame_bytes } if frame_bytes - ETHERNET_BYTES <= path => {
                    now += Duration::from_millis(1);
                    pmtu.handle_ack(frame_bytes - ETHERNET_BYTES, now)
                }
                Step::Test { .. } => {
                    now = pmtu.poll_timeout().expect("a test is running");
                    pmtu.handle_timeout(now)
                }
                Step::Verified => return (pmtu.mtu_bytes(), now - start),
                Step::Nothing => panic!("the search stopped"),
            };
        }
        panic!("the search does not end");
    }

    #[test]
    fn overheads_are_those_of_the_vectors() {
        assert_eq!(overhead_bytes(V4, false), 62);
        assert_eq!(overhead_bytes(V4, true), 86);
        assert_eq!(overhead_bytes(V6, false), 82);
        assert_eq!(overhead_bytes(V6, true), 106);
        let mapped = IpAddr::V6(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped());
        assert_eq!(overhead_bytes(mapped, false), 62);
    }

    #[test]
    fn a_truthful_kernel_needs_one_round_trip() {
        let now = base();
        for (ip, encrypted, mtu) in [
            (V4, false, 1438),
            (V4, true, 1414),
            (V6, false, 1418),
            (V6, true, 1394),
        ] {
            let mut pmtu = PathMtu::new(ip, encrypted);
            let step = pmtu.handle_too_big(1500, now);
            assert_eq!(
                step,
                Step::Test {
                    frame_bytes: mtu + 14
                }
            );
            assert_eq!(pmtu.mtu_bytes(), mtu);
            assert_eq!(pmtu.max_payload_bytes(), 1500 - underlay_header_bytes(ip));
            assert_eq!(pmtu.handle_ack(mtu, now), Step::Verified);
            assert_eq!(pmtu.poll_timeout(), None);
            assert_eq!(pmtu.mtu_bytes(), mtu);
        }
    }

    #[test]
    fn silent_drop_is_found_by_binary_search_down_to_the_floor() {
        let now = base();
        for path in [552, 553, 554, 700, 999, 1000, 1337, 1413] {
            let mut pmtu = PathMtu::new(V4, true);
            let step = pmtu.handle_too_big(1500, now);
            let (mtu, took) = run(&mut pmtu, step, path, now);
            assert_eq!(mtu, path);
            assert_eq!(pmtu.max_payload_bytes(), path + 86 - 28);
            assert!(took < Duration::from_millis(2550) * 11, "{took:?}");
        }
        let mut pmtu = PathMtu::new(V4, true);
        let step = pmtu.handle_too_big(1500, now);
        assert_eq!(
            run(&mut pmtu, step, 300, now).0,
            552,
            "552 is assumed, never tested"
        );
    }

    #[test]
    fn a_candidate_is_tried_eight_times_in_two_and_a_half_seconds() {
        let start = base();
        let mut pmtu = PathMtu::new(V4, false);
        let mut step = pmtu.handle_too_big(1500, start);
        let mut now = start;
        let mut waits = Vec::new();
        while step == (Step::Test { frame_bytes: 1452 }) {
            let deadline = pmtu.poll_timeout().expect("a test is running");
            waits.push((deadline - now).as_millis());
            assert_eq!(
                pmtu.handle_timeout(deadline - Duration::from_nanos(1)),
                Step::Nothing
            );
            now = deadline;
            step = pmtu.handle_timeout(now);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1280]);
        assert_eq!(now - start, Duration::from_millis(2550));
        assert_eq!(
            step,
            Step::Test {
                frame_bytes: (552 + 1438) / 2 + 14
            }
        );
    }

    #[test]
    fn acks_for_other_values_are_ignored() {
        let now = base();
        let mut pmtu = PathMtu::new(V4, false);
        assert_eq!(pmtu.handle_ack(59986, now), Step::Nothing);
        assert_eq!(pmtu.mtu_bytes(), 65535);
        pmtu.handle_too_big(1500, now);
        for value in [0, 552, 1437, 1439, 59986, 65535] {
            assert_eq!(pmtu.handle_ack(value, now), Step::Nothing);
        }
        assert_eq!(pmtu.handle_ack(1438, now), Step::Verified);
        assert_eq!(
            pmtu.handle_ack(1438, now),
            Step::Nothing,
            "a late second answer"
        );
    }

    #[test]
    fn only_a_smaller_report_restarts_a_running_test() {
        let now = base();
        let mut pmtu = PathMtu::new(V4, false);
        pmtu.handle_too_big(1500, now);
        assert_eq!(pmtu.handle_too_big(1500, now), Step::Nothing);
        assert_eq!(pmtu.handle_too_big(9000, now), Step::Nothing);
        assert_eq!(
            pmtu.handle_too_big(1400, now),
            Step::Test { frame_bytes: 1352 }
        );
        assert_eq!(pmtu.handle_ack(1338, now), Step::Verified);
        assert_eq!(
            pmtu.handle_too_big(1300, now),
            Step::Test { frame_bytes: 1252 }
        );
        assert_eq!(
            pmtu.mtu_bytes(),
            1238,
            "a later decrease is noticed the same way"
        );
    }

    #[test]
    fn absurd_reports_do_not_break_the_arithmetic() {
        let now = base();
        for report in [0, 1, 22, 85, 86, 130, 600, 638, 60073, 65535, usize::MAX] {
            let mut pmtu = PathMtu::new(V4, true);
            let step = pmtu.handle_too_big(report, now);
            let Step::Test { frame_bytes } = step else {
                panic!("no test")
            };
            assert!(frame_bytes > HEARTBEAT_BYTES);
            assert_ne!(frame_bytes, FRAGMENTATION_TEST_BYTES);
            let (mtu, _) = run(&mut pmtu, step, 65535, now);
            assert!((68..=65535).contains(&mtu));
            assert!(pmtu.max_payload_bytes() <= UDP_PAYLOAD_MAX_BYTES);
        }
    }

    #[test]
    fn no_test_looks_like_a_fragmentation_test() {
        let now = base();
        for path in [59985, 59986, 59987, 59988, 60500] {
            let mut pmtu = PathMtu::new(V4, false);
            let step = pmtu.handle_too_big(65535, now);
            let (mtu, _) = run(&mut pmtu, step, path, now);
            assert!(mtu <= path && mtu + 1 >= path, "{mtu} for {path}");
        }
    }
}
