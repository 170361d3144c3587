//! Strangers in numbers: half-open links, nonsense, one byte at a time. What they cost is bounded,
//! and a good peer joins meanwhile.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod net;

use mesh::TokenBucket;
use net::{Net, Stranger, encrypted, name, secs};
use std::time::Duration;
use wire::LinkId;
use wire::handshake::{Features, encode_header};
use wire::message::encode_frame;

/// What strangers say before they fall silent or go on with nonsense.
const OPENINGS: [&[u8]; 7] = [
    b"",
    b"w",
    b"GET / HTTP/1.1\r\n\r\n",
    b"weave\x01\x02",
    b"weave\x01\x02\x00",
    b"weave\x01\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    b"weave\x01\x01\x10\xff\x81\x04",
];

fn is_connected(net: &Net, n: usize) -> bool {
    net.neighbours(n) == [(name(1 - n), true)]
}

/// F38: accepted connections are limited to a burst of twenty and twenty a second, and a peer with
/// the passphrase still gets in.
#[test]
fn a_good_peer_joins_within_five_seconds_of_a_flood_of_bad_handshakes() {
    let mut net = Net::new(vec![encrypted(0), encrypted(1)]);
    let mut bucket = TokenBucket::new(net.now);
    let mut accepted = 0;
    let mut link_max = 0;
    let mut knock = |net: &mut Net, n: usize| {
        // The shell accepts as fast as the bucket lets it; there is always one more waiting.
        while bucket.take(net.now).is_ok() {
            accepted += 1;
            let link = net.accept_stranger(0, &format!("10.9.{}.9:50000", n % 250));
            net.inject(0, link, OPENINGS[n % OPENINGS.len()]);
            link_max = link_max.max(net.meshes[0].footprint().links);
        }
        net.assert_bounded(0);
    };
    for n in 0..600 {
        net.run(Duration::from_millis(50));
        knock(&mut net, n);
    }
    net.connect(1, 0);
    let joined = (0..100).find(|n| {
        net.run(Duration::from_millis(50));
        knock(&mut net, 600 + n);
        is_connected(&net, 0) && is_connected(&net, 1)
    });
    assert!(joined.is_some(), "not within five seconds");
    for n in 0..1300 {
        net.run(Duration::from_millis(50));
        knock(&mut net, n);
    }
    assert!(is_connected(&net, 0), "and it stays");
    let rounds = 600 + joined.expect("was seen above") + 1 + 1300;
    assert!(
        (rounds..=rounds + 20).contains(&accepted),
        "{accepted} in {rounds} rounds"
    );
    assert!(link_max <= 257);
}

#[test]
fn ten_thousand_connection_attempts_leave_a_bounded_amount_and_a_working_peer() {
    let mut net = Net::new(vec![encrypted(0), encrypted(1)]);
    for n in 0..10_000 {
        let link = net.accept_stranger(0, &format!("10.{}.9.9:{}", n % 200, 1 + n / 4));
        net.inject(0, link, OPENINGS[n % OPENINGS.len()]);
        if n == 5_000 {
            net.connect(1, 0);
            assert!(is_connected(&net, 0));
        }
        if n % 500 == 0 {
            net.assert_bounded(0);
        }
    }
    let footprint = net.meshes[0].footprint();
    assert_eq!((footprint.connections, footprint.peers), (1, 2));
    assert!(footprint.inbound_handshakes <= 256 && footprint.handshake_bytes_max <= 64);
    assert!(is_connected(&net, 0) && is_connected(&net, 1));
    net.run(secs(70));
    let footprint = net.meshes[0].footprint();
    assert_eq!((footprint.links, footprint.inbound_handshakes), (1, 0));
}

/// Introductions under more names than the table has room for, where anybody may introduce itself.
#[test]
fn thousands_of_names_leave_nothing_behind() {
    let mut net = Net::new(vec![net::config(0)]);
    for n in 0..4_500_u64 {
        let features = Features {
            name: wire::PeerName::from_u64(0xaa00_0000_0000 + n),
            uid: n + 1,
            short_id: Some(u16::try_from(n % 4096).unwrap()),
            ..Stranger::features()
        };
        let stranger = Stranger::introduce(&mut net, 0, &features);
        if n % 3 > 0 {
            net.meshes[0].handle_link_closed(stranger.link, "EOF", net.now);
            net.settle();
        }
        if n % 500 == 499 {
            net.assert_bounded(0);
        }
    }
    assert_eq!(net.meshes[0].footprint().connections, 200, "the limit");
    net.run(secs(130));
    let footprint = net.meshes[0].footprint();
    assert_eq!(
        (footprint.links, footprint.peers, footprint.adjacencies),
        (0, 1, 0)
    );
    assert_eq!(footprint.doubts, 0);
}

/// Slow loris: a byte now and then puts no deadline off.
#[test]
fn whoever_says_a_byte_at_a_time_is_ended_on_time() {
    let introduction = Stranger::introduction(&Stranger::features());
    for has_password in [false, true] {
        for interval in [1, 3, 9] {
            let config = if has_password {
                encrypted(0)
            } else {
                net::config(0)
            };
            let mut net = Net::new(vec![config]);
            let link = net.accept_stranger(0, "10.9.9.9:50000");
            let mut waited = 0;
            for byte in introduction.iter().cycle() {
                if net.seen[0].closed.contains(&link) {
                    break;
                }
                net.inject(0, link, &[*byte]);
                net.run(secs(interval));
                waited += interval;
            }
            assert!(waited <= 70 + interval, "{waited} s");
            assert_eq!(net.meshes[0].footprint().links, 0);
        }
    }
}

#[test]
fn a_crowd_of_slow_lorises_does_not_keep_a_good_peer_out() {
    let mut net = Net::new(vec![encrypted(0), encrypted(1)]);
    let crowd: Vec<LinkId> = (0..400)
        .map(|n| net.accept_stranger(0, &format!("10.9.9.9:{}", 50_000 + n)))
        .collect();
    for byte in encode_header(1, 2) {
        for link in &crowd {
            net.inject(0, *link, &[byte]);
        }
        net.run(secs(1));
    }
    assert_eq!(net.meshes[0].footprint().inbound_handshakes, 256);
    net.connect(1, 0);
    assert!(is_connected(&net, 0) && is_connected(&net, 1));
    net.run(secs(70));
    assert_eq!(net.meshes[0].footprint().links, 1);
}

#[test]
fn a_message_that_never_ends_costs_one_message() {
    let mut net = Net::new(vec![net::config(0)]);
    let slow = Stranger::introduce(&mut net, 0, &Stranger::features());
    net.inject(0, slow.link, &10_485_760_u32.to_be_bytes());
    for _ in 0..1024 {
        net.inject(0, slow.link, &[4; 10_000]);
        net.assert_bounded(0);
    }
    assert!(net.meshes[0].footprint().receive_bytes_max <= (10 << 20) + 4);
    net.run(secs(61));
    assert!(slow.is_closed(&net));
    assert_eq!(net.meshes[0].footprint().receive_bytes_max, 0);
    // The largest message there may be is taken; one byte more is not.
    let large = Stranger::introduce(&mut net, 0, &Stranger::features());
    net.inject(0, large.link, &encode_frame(&vec![99; 10 << 20]).unwrap());
    assert!(!large.is_closed(&net));
    net.inject(0, large.link, &10_485_761_u32.to_be_bytes());
    assert!(large.is_closed(&net));
}
