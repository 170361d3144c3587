//! Kernel tests of the lab itself: what the other tests rely on, without any daemon.

mod lab;

use std::net::Ipv4Addr;

use lab::Lab;
use lab::capture::{MARKER, count};
use lab::traffic::{Listener, assert_heard_once, assert_no_pings, assert_pings, transfer};

#[test]
fn the_tripwire_sees_payload_in_clear() {
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b"]);
    let capture = lab.capture();
    transfer(
        &hosts[0].namespace,
        &hosts[1].namespace,
        "192.168.77.2",
        100_000,
    );
    let seen = capture.marker_count();
    assert!(seen > 1000, "{seen}");
    let capture = lab.capture();
    assert_pings(&hosts[0].namespace, "192.168.77.2");
    assert!(capture.marker_count() >= 20);
}

#[test]
fn the_tripwire_is_silent_without_payload() {
    let Some(_lab) = Lab::encrypted() else { return };
    assert_eq!(count(b"WEFT-TRIPWIRE-0WEFT-TRIPWIRE-01", MARKER), 1);
}

#[test]
fn cables_can_be_cut_and_the_ends_of_a_line_are_apart() {
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.line(["a", "b", "c"]);
    assert_no_pings(&hosts[0].namespace, "192.168.82.2");
    let far = lab.host("far");
    let cables = lab.network("192.168.70", &[&hosts[0], &far]);
    assert_pings(&hosts[0].namespace, "192.168.70.2");
    cables[0].cut();
    assert_no_pings(&hosts[0].namespace, "192.168.70.2");
    cables[0].heal();
    assert_pings(&hosts[0].namespace, "192.168.70.2");
}

#[test]
fn shouts_are_counted() {
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b", "c"]);
    let address = |index: usize| hosts[index].address(0).parse().expect("an address");
    let wide = Ipv4Addr::new(192, 168, 77, 255);
    let listeners =
        [1, 2].map(|index| Listener::new(&hosts[index].namespace, wide, address(index), 7000));
    assert_heard_once(&hosts[0].namespace, address(0), wide, 7000, &listeners);
}
