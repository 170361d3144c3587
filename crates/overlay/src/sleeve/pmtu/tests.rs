//! Tests of the path MTU machine, in virtual time, against a path that may lie and change.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

#[expect(clippy::disallowed_methods, reason = "base of virtual time")]
fn base() -> Instant {
    Instant::now()
}

/// A tunnel's sending half, a path, and the far end that answers each test that arrives.
struct Bench {
    pmtu: PathMtu,
    overhead: usize,
    /// MTU of the local interface, underlay bytes: larger sends are refused with a report.
    interface: usize,
    /// What the path carries, underlay bytes; `None`: nothing at all.
    path: Option<usize>,
    /// What the kernel learned from routers, underlay bytes.
    learned: Option<usize>,
    /// Whether routers say that something is too big.
    truthful: bool,
    /// Round trip.
    delay: Duration,
    /// Loses the n-th test that would arrive, for all n this is true of.
    loses: fn(usize) -> bool,
    carried: usize,
    sent_bytes: usize,
    verified: Vec<usize>,
    answers: VecDeque<(Instant, usize)>,
    start: Instant,
    now: Instant,
}

impl Bench {
    fn new(remote: IpAddr, encrypted: bool, interface: usize, path: usize) -> Self {
        let now = base();
        Self {
            pmtu: PathMtu::new(remote, encrypted),
            overhead: overhead_bytes(remote, encrypted),
            interface,
            path: Some(path),
            learned: None,
            truthful: false,
            delay: Duration::from_millis(1),
            loses: |_| false,
            carried: 0,
            sent_bytes: 0,
            verified: Vec::new(),
            answers: VecDeque::new(),
            start: now,
            now,
        }
    }

    /// The same after `discover` has found its MTU.
    fn settled(remote: IpAddr, encrypted: bool, interface: usize, path: usize) -> Self {
        let mut bench = Self::new(remote, encrypted, interface, path);
        bench.discover();
        bench.run_for(Duration::from_secs(20));
        assert_eq!(bench.underlay(), path.min(interface));
        bench
    }

    fn discover(&mut self) {
        self.pmtu.discover(self.now);
        self.drain();
    }

    /// The MTU in use as the underlay sees it.
    fn underlay(&self) -> usize {
        self.pmtu.mtu_bytes() + self.overhead
    }

    /// Whether a full-size frame of a container gets through now.
    fn full_size_passes(&self) -> bool {
        self.path.is_some_and(|path| self.underlay() <= path)
    }

    fn drain(&mut self) {
        while let Some(output) = self.pmtu.poll_output() {
            match output {
                PmtuOutput::Changed => {
                    let payload = self.underlay() - self.pmtu.underlay_header;
                    assert_eq!(
                        self.pmtu.max_payload_bytes(),
                        payload.min(UDP_PAYLOAD_MAX_BYTES)
                    );
                }
                PmtuOutput::Verified => self.verified.push(self.underlay()),
                PmtuOutput::Test { frame_bytes } => self.send(frame_bytes),
            }
        }
    }

    fn send(&mut self, frame_bytes: usize) {
        assert!(frame_bytes > HEARTBEAT_BYTES && frame_bytes != FRAGMENTATION_TEST_BYTES);
        let mtu = frame_bytes - ETHERNET_BYTES;
        let packet = mtu + self.overhead;
        let is_discovery = frame_bytes == PMTU_DISCOVERY_BYTES;
        let heeds_kernel =
            is_discovery || (mtu <= self.pmtu.mtu_bytes() && !self.pmtu.exceeds_kernel());
        let kernel = self.learned.unwrap_or(self.interface).min(self.interface);
        let limit = if heeds_kernel { kernel } else { self.interface };
        if packet > limit {
            if is_discovery || mtu <= self.pmtu.mtu_bytes() {
                self.pmtu.handle_too_big(kernel, self.now);
                self.drain();
            }
            return;
        }
        self.sent_bytes += packet;
        let Some(path) = self.path else { return };
        if packet > path {
            if self.truthful {
                self.learned = Some(path);
            }
            return;
        }
        let number = self.carried;
        self.carried += 1;
        if !(self.loses)(number) {
            self.answers.push_back((self.now + self.delay, mtu));
        }
    }

    /// Runs to the next thing that happens, at most to `end`; false if nothing does.
    fn step(&mut self, end: Instant) -> bool {
        let answer = self.answers.front().map(|(at, _)| *at);
        let next = [answer, self.pmtu.poll_timeout()]
            .into_iter()
            .flatten()
            .min();
        let Some(next) = next.filter(|next| *next <= end) else {
            return false;
        };
        self.now = self.now.max(next);
        match self.answers.front().copied() {
            Some((at, mtu)) if at <= self.now => {
                self.answers.pop_front();
                self.pmtu.handle_ack(mtu, self.now);
            }
            _ => self.pmtu.handle_timeout(self.now),
        }
        self.drain();
        true
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until `fact` holds and says how long that took.
    fn run_until(&mut self, fact: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        let end = start + Duration::from_secs(3600);
        while !fact(self) {
            assert!(self.step(end), "it never happens");
        }
        self.now - start
    }
}

fn drain(pmtu: &mut PathMtu) -> Vec<PmtuOutput> {
    std::iter::from_fn(|| pmtu.poll_output()).collect()
}

fn test(mtu: usize) -> PmtuOutput {
    PmtuOutput::Test {
        frame_bytes: mtu + ETHERNET_BYTES,
    }
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
        pmtu.handle_too_big(1500, now);
        assert_eq!(drain(&mut pmtu), [PmtuOutput::Changed, test(mtu)]);
        assert_eq!(pmtu.mtu_bytes(), mtu);
        assert_eq!(pmtu.max_payload_bytes(), 1500 - underlay_header_bytes(ip));
        pmtu.handle_ack(mtu, now);
        assert_eq!(drain(&mut pmtu), [PmtuOutput::Verified]);
        assert_eq!(pmtu.poll_timeout(), Some(now + CONFIRM_INTERVAL));
        assert_eq!(pmtu.mtu_bytes(), mtu);
    }
}

#[test]
fn silent_drop_is_found_exactly_from_576_to_9000() {
    for path in [
        576, 577, 638, 700, 999, 1006, 1280, 1337, 1499, 1500, 8999, 9000,
    ] {
        for (ip, encrypted) in [(V4, true), (V4, false), (V6, true)] {
            let mut bench = Bench::new(ip, encrypted, 9000, path);
            bench.discover();
            let usable = bench.run_until(Bench::full_size_passes);
            assert!(usable <= ROUND_TIME, "{path} usable after {usable:?}");
            let exact = usable + bench.run_until(|bench| !bench.verified.is_empty());
            assert_eq!(bench.underlay(), path);
            assert!(exact <= ROUND_TIME * 6, "{path} exact after {exact:?}");
        }
    }
}

#[test]
fn below_the_floor_nothing_is_assumed_to_work_and_growth_is_tried_soon() {
    let mut bench = Bench::new(V4, true, 1500, 400);
    bench.discover();
    bench.run_until(|bench| !bench.verified.is_empty());
    assert_eq!(bench.underlay(), 576);
    bench.path = Some(1300);
    let took = bench.run_until(|bench| bench.underlay() == 1300);
    assert!(took < CONFIRM_INTERVAL + ROUND_TIME * 6, "{took:?}");
}

#[test]
fn a_kernel_that_reports_less_than_the_floor_is_believed() {
    let mut bench = Bench::new(V4, true, 300, 300);
    bench.discover();
    bench.run_for(Duration::from_secs(60));
    assert_eq!(bench.underlay(), 300);
    bench.path = None;
    bench.run_for(Duration::from_secs(60));
    assert_eq!(bench.underlay(), 300);
}

#[test]
fn a_size_is_tried_eight_times_in_two_and_a_half_seconds() {
    let start = base();
    let mut pmtu = PathMtu::new(V4, false);
    let mut now = start;
    pmtu.handle_too_big(1500, start);
    let mut waits = Vec::new();
    while pmtu.mtu_bytes() == 1438 {
        assert!(drain(&mut pmtu).contains(&test(1438)));
        let deadline = pmtu.poll_timeout().expect("a test is running");
        waits.push((deadline - now).as_millis());
        pmtu.handle_timeout(deadline - Duration::from_nanos(1));
        assert_eq!(drain(&mut pmtu), []);
        now = deadline;
        pmtu.handle_timeout(now);
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1280]);
    assert_eq!(now - start, ROUND_TIME);
}

#[test]
fn acks_for_other_values_are_ignored() {
    let now = base();
    let mut pmtu = PathMtu::new(V4, false);
    pmtu.handle_ack(59986, now);
    assert_eq!(pmtu.mtu_bytes(), 65535);
    pmtu.handle_too_big(1500, now);
    drain(&mut pmtu);
    for value in [0, 552, 1437, 1439, 59986, 65535] {
        pmtu.handle_ack(value, now);
        assert_eq!(drain(&mut pmtu), []);
    }
    pmtu.handle_ack(1438, now);
    assert_eq!(drain(&mut pmtu), [PmtuOutput::Verified]);
    pmtu.handle_ack(1438, now);
    assert_eq!(drain(&mut pmtu), [], "a late second answer");
}

#[test]
fn only_a_smaller_report_restarts_a_running_test() {
    let now = base();
    let mut pmtu = PathMtu::new(V4, false);
    pmtu.handle_too_big(1500, now);
    drain(&mut pmtu);
    for report in [1500, 9000] {
        pmtu.handle_too_big(report, now);
        assert_eq!(drain(&mut pmtu), []);
    }
    pmtu.handle_too_big(1400, now);
    assert_eq!(drain(&mut pmtu), [PmtuOutput::Changed, test(1338)]);
    pmtu.handle_ack(1338, now);
    assert_eq!(drain(&mut pmtu), [PmtuOutput::Verified]);
    pmtu.handle_too_big(1300, now);
    assert_eq!(drain(&mut pmtu), [PmtuOutput::Changed, test(1238)]);
    assert_eq!(pmtu.mtu_bytes(), 1238);
}

#[test]
fn a_link_that_carries_the_discovery_probe_keeps_the_initial_mtu() {
    let mut bench = Bench::new(V4, false, 65536, 65536);
    bench.discover();
    bench.run_for(Duration::from_secs(20));
    assert_eq!(bench.pmtu.mtu_bytes(), INITIAL_MTU_BYTES);
    bench.run_for(Duration::from_secs(40));
    assert_eq!(bench.pmtu.mtu_bytes(), 65473, "what a datagram can hold");
    bench.path = Some(1500);
    let took = bench.run_until(Bench::full_size_passes);
    assert!(took <= BLACK_HOLE_MAX);
}

#[test]
fn a_silent_shrink_stops_traffic_for_a_bounded_time() {
    for (before, after) in [
        (1500, 1300),
        (1500, 576),
        (9000, 1500),
        (9000, 8000),
        (1280, 1279),
    ] {
        for offset_ms in [0, 1, 2000, 4999, 5000] {
            let mut bench = Bench::settled(V4, true, 9000, before);
            bench.run_for(Duration::from_millis(offset_ms));
            bench.path = Some(after);
            let took = bench.run_until(Bench::full_size_passes);
            assert!(took <= BLACK_HOLE_MAX, "{took:?}");
            bench.run_for(ROUND_TIME * 5);
            assert_eq!(bench.underlay(), after, "from {before}");
        }
    }
}

#[test]
fn a_shrink_that_routers_tell_costs_one_frame() {
    let mut bench = Bench::settled(V4, true, 1500, 1500);
    bench.pmtu.handle_too_big(1300, bench.now);
    assert_eq!(bench.underlay(), 1300);
    bench.path = Some(1300);
    bench.drain();
    bench.run_for(Duration::from_secs(1));
    assert_eq!(bench.verified, [1500, 1300]);
}

#[test]
fn growth_is_noticed_while_it_is_silent_and_while_the_kernel_remembers_less() {
    for truthful in [false, true] {
        for (narrow, wide) in [(576, 1500), (1300, 1500), (1500, 9000), (1300, 1370)] {
            let mut bench = Bench::settled(V4, true, 9000, narrow);
            bench.truthful = truthful;
            if truthful {
                bench.learned = Some(narrow);
                bench.pmtu.handle_too_big(narrow, bench.now);
            }
            bench.path = Some(wide);
            let took = bench.run_until(|bench| bench.underlay() == wide);
            assert!(
                took <= GROWTH_INTERVAL + CONFIRM_INTERVAL + ROUND_TIME * 5,
                "{took:?}"
            );
            assert_eq!(bench.pmtu.exceeds_kernel(), truthful, "{narrow} to {wide}");
            bench.run_for(Duration::from_secs(60));
            assert_eq!(bench.underlay(), wide, "and it stays");
        }
    }
}

#[test]
fn what_the_kernel_forgets_is_believed_again() {
    let mut bench = Bench::settled(V4, true, 1500, 1300);
    bench.learned = Some(1300);
    bench.pmtu.handle_too_big(1300, bench.now);
    bench.path = Some(1500);
    bench.run_until(|bench| bench.pmtu.exceeds_kernel());
    bench.learned = None;
    bench.run_for(CONFIRM_INTERVAL * 2 + ROUND_TIME * 4);
    assert!(!bench.pmtu.exceeds_kernel());
    assert_eq!(bench.underlay(), 1500);
}

#[test]
fn a_shrink_while_the_kernel_is_not_believed_is_bounded_too() {
    let mut bench = Bench::settled(V4, true, 1500, 1300);
    bench.learned = Some(1300);
    bench.pmtu.handle_too_big(1300, bench.now);
    bench.path = Some(1500);
    bench.run_until(|bench| bench.underlay() == 1500);
    for (path, interface) in [(1350, 1500), (1200, 1200)] {
        bench.run_for(Duration::from_secs(20));
        (bench.path, bench.interface) = (Some(path), interface);
        let took = bench.run_until(Bench::full_size_passes);
        assert!(took <= BLACK_HOLE_MAX, "{took:?}");
        bench.run_until(|bench| bench.underlay() == path);
    }
}

#[test]
fn a_new_mtu_of_the_interface_is_noticed_by_the_next_confirmation() {
    let mut bench = Bench::settled(V4, true, 1500, 1500);
    (bench.path, bench.interface) = (Some(1400), 1400);
    let took = bench.run_until(|bench| bench.underlay() == 1400);
    assert!(took <= CONFIRM_INTERVAL);
    (bench.path, bench.interface) = (Some(9000), 9000);
    let took = bench.run_until(|bench| bench.underlay() == 9000);
    assert!(
        took <= GROWTH_INTERVAL + CONFIRM_INTERVAL + ROUND_TIME,
        "{took:?}"
    );
}

#[test]
fn lost_tests_do_not_shrink_the_mtu() {
    let losses: [fn(usize) -> bool; 3] =
        [|n| n % 2 == 0, |n| n % 5 != 0, |n| (100..107).contains(&n)];
    for loses in losses {
        let mut bench = Bench::settled(V4, true, 1500, 1500);
        bench.loses = loses;
        bench.run_for(Duration::from_secs(600));
        assert_eq!(bench.verified, [1500]);
    }
}

#[test]
fn an_outage_says_nothing_about_the_mtu() {
    let mut bench = Bench::settled(V4, true, 1500, 1500);
    bench.path = None;
    bench.run_for(Duration::from_secs(300));
    assert_eq!(bench.underlay(), 1500);
    bench.path = Some(1300);
    let took = bench.run_until(Bench::full_size_passes);
    assert!(took <= BLACK_HOLE_MAX);
}

#[test]
fn a_long_round_trip_is_no_reason_to_doubt() {
    let mut bench = Bench::settled(V4, true, 1500, 1500);
    bench.delay = Duration::from_millis(1200);
    bench.run_for(Duration::from_secs(600));
    assert_eq!(bench.verified, [1500]);
}

#[test]
fn tests_of_a_steady_path_cost_little() {
    for (interface, path, bytes_a_second) in [(1500, 1500, 400), (9000, 1500, 1500)] {
        let mut bench = Bench::settled(V4, true, interface, path);
        bench.run_for(Duration::from_secs(600));
        bench.sent_bytes = 0;
        bench.run_for(Duration::from_secs(3600));
        assert!(
            bench.sent_bytes / 3600 < bytes_a_second,
            "{} bytes a second",
            bench.sent_bytes / 3600
        );
    }
}

#[test]
fn suspicion_confirms_at_once() {
    let mut bench = Bench::settled(V4, true, 1500, 1500);
    bench.path = Some(1300);
    bench.pmtu.suspect(bench.now);
    bench.drain();
    let took = bench.run_until(Bench::full_size_passes);
    assert!(took <= ROUND_TIME);
}

#[test]
fn absurd_reports_do_not_break_the_arithmetic() {
    for report in [0, 1, 22, 85, 86, 130, 600, 638, 60073, 65535, usize::MAX] {
        let mut bench = Bench::new(V4, true, 65535, 65535);
        bench.pmtu.handle_too_big(report, bench.now);
        bench.drain();
        bench.run_for(Duration::from_secs(100));
        assert!((68..=65535).contains(&bench.pmtu.mtu_bytes()));
        assert!(bench.pmtu.max_payload_bytes() <= UDP_PAYLOAD_MAX_BYTES);
    }
}

#[test]
fn no_test_looks_like_a_fragmentation_test() {
    for path in [59985, 59986, 59987, 59988, 60500] {
        let mut bench = Bench::new(V4, false, 65535, path + 62);
        bench.discover();
        bench.run_for(Duration::from_secs(120));
        let mtu = bench.pmtu.mtu_bytes();
        assert!(
            mtu <= path && mtu + 1 >= path || mtu == 65535,
            "{mtu} for {path}"
        );
    }
}

#[test]
fn any_sequence_of_paths_ends_at_what_the_last_one_carries() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 33).expect("31 bits fit") % below
    };
    for _ in 0..200 {
        let mut bench = Bench::new(V4, random(2) == 0, 9000, 576 + random(8425));
        bench.discover();
        for _ in 0..6 {
            bench.run_for(Duration::from_millis(random(20_000) as u64));
            bench.truthful = random(2) == 0;
            bench.path = (random(5) > 0).then(|| 576 + random(8425));
            if random(4) == 0 {
                bench.learned = None;
            }
        }
        let last = 576 + random(8425);
        bench.path = Some(last);
        let took = bench.run_until(Bench::full_size_passes);
        assert!(took <= BLACK_HOLE_MAX, "{took:?}");
        bench.run_for(Duration::from_secs(600));
        let got = bench.underlay();
        assert!(got <= last && got + 16 >= last, "{got} of {last}");
        assert!(bench.start < bench.now);
    }
}
