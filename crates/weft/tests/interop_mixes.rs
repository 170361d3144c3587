//! Live interop with the original router, which `WEFT_PEER_WEAVER` names: all mixes of three peers.
//!
//! ```text
//!   flat   all on one network, everybody connects to everybody
//!   line   x ─ y ─ z    two networks, y does not forward: x and z meet through the mesh alone
//! ```
//!
//! In each mix every pair of containers pings, moves data, and hears broadcast and multicast once;
//! each side shows the others as established; and no original has to complain. Megabytes of the
//! large transfers: `WEFT_INTEROP_MEGABYTES`.

mod lab;

use lab::capture::Capture;
use lab::mix::{Mix, Peer, Recipe, Shape, address};
use lab::traffic::stream;

/// What an original says in a line, whoever its neighbours are: it hears of peers beyond them.
const UNREACHABLE: &str = "connect: network is unreachable";
/// Mebibytes of the large transfers unless the environment says otherwise; 1 GB and a bit.
const LARGE_MEBIBYTES: usize = 954;
/// The same along a line, which has to relay.
const LARGE_LINE_MEBIBYTES: usize = 200;

/// Runs one mix through everything.
fn try_mix(kinds: &str, shape: Shape, is_encrypted: bool) {
    let Some(mix) = Mix::start(Recipe::new(kinds, shape, is_encrypted)) else {
        return;
    };
    let capture = mix.lab.capture();
    mix.assert_all_reach_all();
    assert_watched(capture, is_encrypted);
    assert_status(&mix, is_encrypted);
    stream_between_ends(&mix, shape);
    mix.wait_connected();
    assert_status(&mix, is_encrypted);
    match shape {
        Shape::Flat => mix.assert_no_complaints(&[]),
        Shape::Line => mix.assert_no_complaints(&[UNREACHABLE]),
    }
}

/// Container bytes are seen on the underlay exactly if nothing is encrypted.
fn assert_watched(capture: Capture, is_encrypted: bool) {
    let seen = capture.marker_count();
    assert_eq!(seen == 0, is_encrypted, "container bytes seen {seen} times");
}

/// Each end of each connection names the other, its tunnel and its protection.
fn assert_status(mix: &Mix, is_encrypted: bool) {
    for (from, to) in mix.pairs() {
        let line = mix.connection(from, to);
        if line.is_empty() {
            continue;
        }
        for part in ["established", "sleeve", "mtu="] {
            assert!(line.contains(part), "{from} about {to}: {line}");
        }
        assert_eq!(
            line.contains(" encrypted "),
            is_encrypted,
            "{from} about {to}: {line}"
        );
    }
}

/// A large transfer each way between the first and the last container, which are never of the same
/// kind in a flat mix.
fn stream_between_ends(mix: &Mix, shape: Shape) {
    let given = std::env::var("WEFT_INTEROP_MEGABYTES")
        .ok()
        .and_then(|text| text.parse().ok());
    let blocks = given.unwrap_or(match shape {
        Shape::Flat => LARGE_MEBIBYTES,
        Shape::Line => LARGE_LINE_MEBIBYTES,
    });
    let last = mix.peers.len() - 1;
    let (a, b) = (mix.peers[0].container(), mix.peers[last].container());
    stream(a, b, &address(last), blocks);
    stream(b, a, &address(0), blocks);
}

#[test]
fn two_originals_and_a_weft_are_one_network() {
    try_mix("OOW", Shape::Flat, false);
}

#[test]
fn two_originals_and_a_weft_are_one_network_encrypted() {
    try_mix("OOW", Shape::Flat, true);
}

#[test]
fn two_wefts_and_an_original_are_one_network() {
    try_mix("WWO", Shape::Flat, false);
}

#[test]
fn two_wefts_and_an_original_are_one_network_encrypted() {
    try_mix("WWO", Shape::Flat, true);
}

#[test]
fn a_weft_relays_between_originals() {
    try_mix("OWO", Shape::Line, false);
}

#[test]
fn a_weft_relays_between_originals_encrypted() {
    try_mix("OWO", Shape::Line, true);
}

#[test]
fn an_original_relays_between_wefts() {
    try_mix("WOW", Shape::Line, false);
}

#[test]
fn an_original_relays_between_wefts_encrypted() {
    try_mix("WOW", Shape::Line, true);
}

#[test]
fn an_original_relays_between_an_original_and_a_weft() {
    try_mix("OOW", Shape::Line, false);
}

#[test]
fn an_original_relays_between_an_original_and_a_weft_encrypted() {
    try_mix("OOW", Shape::Line, true);
}

#[test]
fn a_weft_relays_between_a_weft_and_an_original() {
    try_mix("WWO", Shape::Line, false);
}

#[test]
fn a_weft_relays_between_a_weft_and_an_original_encrypted() {
    try_mix("WWO", Shape::Line, true);
}

/// Without this the silence of the other tests would say nothing.
#[test]
fn originals_among_themselves_say_nothing_else_either() {
    for shape in [Shape::Flat, Shape::Line] {
        let Some(mix) = Mix::start(Recipe::new("OOO", shape, true)) else {
            return;
        };
        mix.assert_all_reach_all();
        mix.assert_no_complaints(&[UNREACHABLE]);
        let Peer::Original(original, _) = &mix.peers[0] else {
            unreachable!("all are originals")
        };
        assert!(original.log().contains("connection fully established"));
    }
}
