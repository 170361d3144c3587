//! Tests of the sleeve control machine.

use std::sync::Arc;

use nacl::SessionKey;

use super::*;
use crate::protection::{Cipher, Protection};
use crate::sleeve::pmtu::CONFIRM_INTERVAL;

const UID: u64 = 0x1122_3344_5566_7788;

#[expect(clippy::disallowed_methods, reason = "base of virtual time")]
fn base() -> Instant {
    Instant::now()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn protection(encrypted: bool) -> Protection {
    if !encrypted {
        return Protection::Clear;
    }
    let key = SessionKey::from_bytes([7; 32]);
    Protection::Sealed(Arc::new(key), Cipher::Secretbox)
}

fn sleeve(outbound: bool, encrypted: bool) -> Sleeve {
    Sleeve::new(TunnelConfig {
        remote_label: "02:00:00:00:0b:02(bravo)".into(),
        remote_address: address("192.0.2.2:6783"),
        outbound,
        uid: UID,
        protection: protection(encrypted),
    })
}

fn drain(sleeve: &mut Sleeve) -> Vec<SleeveOutput> {
    std::iter::from_fn(|| sleeve.poll_output()).collect()
}

fn heartbeat() -> SleeveOutput {
    SleeveOutput::Probe(SleeveProbe::Heartbeat {
        connection_uid: UID,
    })
}

fn control(tag: u8) -> SleeveOutput {
    SleeveOutput::Control {
        tag,
        body: Vec::new(),
    }
}

fn mtu_test(frame_bytes: usize) -> SleeveOutput {
    SleeveOutput::Probe(SleeveProbe::MtuTest { frame_bytes })
}

fn fragmentation_test() -> SleeveOutput {
    SleeveOutput::Probe(SleeveProbe::FragmentationTest)
}

fn hear(sleeve: &mut Sleeve, from: &str, now: Instant) -> Vec<SleeveOutput> {
    let kind = SpecialKind::Heartbeat {
        connection_uid: UID,
    };
    sleeve.handle_special(address(from), kind, now);
    drain(sleeve)
}

/// Advances to the next timer, returning the time and what came out.
fn tick(sleeve: &mut Sleeve) -> (Instant, Vec<SleeveOutput>) {
    let (at, _) = sleeve.poll_timeout().unwrap();
    sleeve.handle_timeout(at);
    (at, drain(sleeve))
}

/// Advances to the next heartbeat. Tests of the path MTU are answered.
fn next_heartbeat(sleeve: &mut Sleeve) -> Instant {
    loop {
        let (at, outputs) = tick(sleeve);
        if outputs.contains(&heartbeat()) {
            return at;
        }
        sleeve.handle_control(3, &1438u16.to_be_bytes(), at);
    }
}

#[test]
fn nothing_happens_before_confirmation() {
    let now = base();
    let mut sleeve = sleeve(true, false);
    assert_eq!(hear(&mut sleeve, "192.0.2.2:6783", now), []);
    sleeve.handle_control(1, &[], now);
    sleeve.handle_too_big(1500, now);
    sleeve.handle_timeout(now + HEARTBEAT_TIMEOUT * 2);
    assert_eq!(drain(&mut sleeve), []);
    assert_eq!(sleeve.poll_timeout(), None);
}

#[test]
fn the_dialler_sends_heartbeats_every_half_second() {
    let now = base();
    let mut sleeve = sleeve(true, false);
    sleeve.confirm(now);
    assert_eq!(drain(&mut sleeve), [heartbeat()]);
    for n in 1..=10 {
        let (at, outputs) = tick(&mut sleeve);
        assert_eq!(at, now + FAST_HEARTBEAT * n);
        assert_eq!(outputs, [heartbeat()]);
    }
}

#[test]
fn the_acceptor_learns_the_address_and_answers_at_once() {
    let now = base();
    let mut sleeve = sleeve(false, false);
    sleeve.confirm(now);
    assert_eq!(drain(&mut sleeve), []);
    assert_eq!(tick(&mut sleeve).1, [], "no address, no heartbeat");
    let outputs = hear(&mut sleeve, "198.51.100.7:40000", now);
    assert_eq!(outputs, [SleeveOutput::Changed, heartbeat(), control(1)]);
    assert_eq!(sleeve.remote_address(), Some(address("198.51.100.7:40000")));
    assert_eq!(
        hear(&mut sleeve, "198.51.100.7:40000", now),
        [],
        "control 1 is sent once"
    );
}

#[test]
fn a_heartbeat_with_another_uid_is_ignored() {
    let now = base();
    let mut sleeve = sleeve(false, false);
    sleeve.confirm(now);
    let kind = SpecialKind::Heartbeat {
        connection_uid: UID + 1,
    };
    sleeve.handle_special(
        address("198.51.100.7:40000"),
        kind,
        now + Duration::from_secs(5),
    );
    assert_eq!(drain(&mut sleeve), []);
    assert_eq!(sleeve.remote_address(), None);
    sleeve.handle_timeout(now + HEARTBEAT_TIMEOUT);
    assert_eq!(
        drain(&mut sleeve),
        [SleeveOutput::Failed(
            SleeveError::HeartbeatTimeout.to_string()
        )]
    );
}

#[test]
fn a_valid_heartbeat_from_elsewhere_moves_the_tunnel() {
    let now = base();
    let mut sleeve = sleeve(true, false);
    sleeve.confirm(now);
    drain(&mut sleeve);
    assert_eq!(hear(&mut sleeve, "192.0.2.2:6783", now), [control(1)]);
    assert_eq!(
        hear(&mut sleeve, "203.0.113.9:1024", now),
        [SleeveOutput::Changed]
    );
    assert_eq!(sleeve.remote_address(), Some(address("203.0.113.9:1024")));
    assert_eq!(tick(&mut sleeve).1, [heartbeat()]);
}

#[test]
fn an_ipv4_mapped_source_is_the_same_address() {
    let now = base();
    let mut sleeve = sleeve(true, false);
    sleeve.confirm(now);
    drain(&mut sleeve);
    assert_eq!(
        hear(&mut sleeve, "[::ffff:192.0.2.2]:6783", now),
        [control(1)]
    );
    assert_eq!(sleeve.remote_address(), Some(address("192.0.2.2:6783")));
}

#[test]
fn control_1_establishes_slows_heartbeats_and_starts_the_tests() {
    let now = base();
    let mut sleeve = sleeve(true, false);
    sleeve.confirm(now);
    drain(&mut sleeve);
    let at = now + Duration::from_millis(700);
    hear(&mut sleeve, "192.0.2.2:6783", at);
    sleeve.handle_control(1, &[], at);
    let expected = [
        SleeveOutput::Established,
        fragmentation_test(),
        mtu_test(60000),
    ];
    assert_eq!(drain(&mut sleeve), expected);
    sleeve.handle_too_big(1500, at);
    sleeve.handle_control(3, &1438u16.to_be_bytes(), at);
    drain(&mut sleeve);
    assert_eq!(next_heartbeat(&mut sleeve), at + SLOW_HEARTBEAT);
    sleeve.handle_control(1, &[], at + SLOW_HEARTBEAT);
    let repeated = [fragmentation_test(), mtu_test(60000)];
    assert_eq!(
        drain(&mut sleeve),
        repeated,
        "a second control 1 only repeats the tests"
    );
    assert_eq!(next_heartbeat(&mut sleeve), at + SLOW_HEARTBEAT * 2);
}

#[test]
fn sixty_seconds_without_a_heartbeat_are_fatal() {
    let now = base();
    let mut sleeve = sleeve(true, false);
    sleeve.confirm(now);
    hear(&mut sleeve, "192.0.2.2:6783", now + Duration::from_secs(59));
    sleeve.handle_timeout(now + Duration::from_secs(118));
    drain(&mut sleeve);
    sleeve.handle_timeout(now + Duration::from_secs(119));
    let outputs = drain(&mut sleeve);
    assert_eq!(
        outputs,
        [SleeveOutput::Failed(
            SleeveError::HeartbeatTimeout.to_string()
        )]
    );
    assert_eq!(sleeve.poll_timeout(), None);
    assert_eq!(
        hear(&mut sleeve, "192.0.2.2:6783", now),
        [],
        "dead for good"
    );
    assert_eq!(
        SleeveError::HeartbeatTimeout.to_string(),
        "timed out waiting for UDP heartbeat"
    );
}

#[test]
fn fragmentation_is_tested_every_five_minutes() {
    let now = base();
    let mut sleeve = sleeve(true, false);
    sleeve.confirm(now);
    sleeve.handle_control(1, &[], now);
    drain(&mut sleeve);
    assert!(!sleeve.stack_frag());
    sleeve.handle_control(2, &[], now);
    assert_eq!(drain(&mut sleeve), [SleeveOutput::Changed]);
    assert!(sleeve.stack_frag());
    sleeve.handle_control(2, &[], now);
    assert_eq!(drain(&mut sleeve), []);
    let mut tests = Vec::new();
    while tests.len() < 2 {
        let (at, outputs) = tick(&mut sleeve);
        if outputs.contains(&fragmentation_test()) {
            tests.push(at - now);
        }
        hear(&mut sleeve, "192.0.2.2:6783", at);
    }
    assert!(!sleeve.stack_frag(), "false between test and answer");
    assert_eq!(
        tests,
        [FRAGMENTATION_TEST_INTERVAL, FRAGMENTATION_TEST_INTERVAL * 2]
    );
}

#[test]
fn received_tests_are_acknowledged() {
    let now = base();
    let mut sleeve = sleeve(true, false);
    sleeve.confirm(now);
    drain(&mut sleeve);
    let from = address("192.0.2.2:6783");
    sleeve.handle_special(from, SpecialKind::FragmentationTest, now);
    sleeve.handle_special(from, SpecialKind::MtuTest { frame_bytes: 1452 }, now);
    sleeve.handle_special(from, SpecialKind::MtuTest { frame_bytes: 3 }, now);
    sleeve.handle_special(
        from,
        SpecialKind::MtuTest {
            frame_bytes: usize::MAX,
        },
        now,
    );
    let body = |body: &[u8]| SleeveOutput::Control {
        tag: 3,
        body: body.to_vec(),
    };
    let expected = [
        control(2),
        body(&[0x05, 0x9e]),
        body(&[0, 0]),
        body(&[0xff, 0xff]),
    ];
    assert_eq!(drain(&mut sleeve), expected);
}

#[test]
fn too_big_is_published_before_the_test_is_sent() {
    let now = base();
    let mut sleeve = sleeve(true, true);
    sleeve.confirm(now);
    drain(&mut sleeve);
    assert_eq!(
        (sleeve.mtu_bytes(), sleeve.max_payload_bytes()),
        (65535, 65507)
    );
    sleeve.handle_too_big(1500, now);
    assert_eq!(drain(&mut sleeve), [SleeveOutput::Changed, mtu_test(1428)]);
    assert_eq!(
        (sleeve.mtu_bytes(), sleeve.max_payload_bytes()),
        (1414, 1472)
    );
    sleeve.handle_control(3, &[0x05], now);
    sleeve.handle_control(3, &[0xea, 0x52], now);
    assert_eq!(
        drain(&mut sleeve),
        [],
        "truncated and foreign answers change nothing"
    );
    assert_eq!(tick(&mut sleeve).0, now + Duration::from_millis(10));
    sleeve.handle_control(3, &1414u16.to_be_bytes(), now);
    assert_eq!(drain(&mut sleeve), []);
    let (at, outputs) = tick(&mut sleeve);
    assert_eq!(at, now + FAST_HEARTBEAT);
    assert_eq!(outputs, [heartbeat()]);
}

#[test]
fn a_move_to_ipv6_finds_the_mtu_anew() {
    let now = base();
    let mut sleeve = sleeve(true, false);
    sleeve.confirm(now);
    sleeve.handle_control(1, &[], now);
    sleeve.handle_too_big(1500, now);
    drain(&mut sleeve);
    assert_eq!(sleeve.mtu_bytes(), 1438);
    let outputs = hear(&mut sleeve, "[2001:db8::2]:6783", now);
    assert_eq!(
        outputs,
        [SleeveOutput::Changed, mtu_test(60000), control(1)]
    );
    sleeve.handle_too_big(1500, now);
    assert_eq!(sleeve.mtu_bytes(), 1418);
}

/// F48: rather than use a number twice the connection ends.
#[test]
fn a_verified_mtu_is_confirmed_again_and_again_and_at_once_after_a_move() {
    let now = base();
    let mut sleeve = sleeve(true, false);
    sleeve.confirm(now);
    sleeve.handle_control(1, &[], now);
    sleeve.handle_too_big(1500, now);
    sleeve.handle_control(3, &1438u16.to_be_bytes(), now);
    hear(&mut sleeve, "192.0.2.2:6783", now);
    let at = now + CONFIRM_INTERVAL;
    assert_eq!(tick(&mut sleeve), (at, vec![mtu_test(1452)]));
    sleeve.handle_control(3, &1438u16.to_be_bytes(), at);
    let outputs = hear(&mut sleeve, "203.0.113.9:1024", at);
    assert_eq!(outputs, [SleeveOutput::Changed, mtu_test(1452)]);
}

/// F48: rather than use a number twice the connection ends.
#[test]
fn used_up_counters_are_fatal() {
    let now = base();
    let mut sleeve = sleeve(true, true);
    sleeve.confirm(now);
    drain(&mut sleeve);
    sleeve.handle_counter_exhausted();
    sleeve.handle_counter_exhausted();
    assert_eq!(
        drain(&mut sleeve),
        [SleeveOutput::Failed(
            SleeveError::CounterExhausted.to_string()
        )]
    );
}

#[test]
fn unknown_control_tags_are_ignored() {
    let now = base();
    let mut sleeve = sleeve(true, false);
    sleeve.confirm(now);
    drain(&mut sleeve);
    for tag in [0, 4, 7, 255] {
        sleeve.handle_control(tag, &[1, 2, 3], now);
    }
    assert_eq!(drain(&mut sleeve), []);
}
