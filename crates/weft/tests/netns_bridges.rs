//! Kernel tests of bridges and their ports. Those of two hosts may have different MTUs: what is too
//! large for the smaller one is never lost without a word.
//!
//! ```text
//!   a: --mtu 1410 ──── b: 1376     the tunnel takes packets of 1414 bytes (encrypted, 1500 below)
//! ```
//!
//! An original without its fast data path has a bridge for 65535 bytes and makes the same difference.

mod lab;

use std::net::UdpSocket;

use lab::Lab;
use lab::capture::MARKER;
use lab::patience::{wait_for, wait_until};
use lab::traffic::{assert_pings, ping, transfer, wait_ping};

#[test]
fn a_packet_too_large_for_the_other_hosts_bridge_is_answered_or_cut() {
    let Some(lab) = Lab::encrypted() else { return };
    let [a, b] = lab.hosts(["a", "b"]);
    a.launch(&["--mtu", "1410"]);
    b.join(&[&a]);
    [&a, &b].iter().for_each(|host| host.wait_established(1));
    let one = lab.attached(&a, "c", &["10.32.0.1/24"]);
    let two = lab.attached(&b, "c", &["10.32.0.2/24"]);
    wait_ping(&one.namespace, "10.32.0.2");
    a.wait_status("connections", |status| status.contains("mtu=1414"));

    // Larger than b's bridge, not cut by the sender: an answer says what fits.
    wait_for("an answer that says 1376", || {
        let pings = ping(&one.namespace, "10.32.0.2", 1, &["-M", "do", "-s", "1382"]);
        let says = pings.text.contains("mtu=1376") || pings.text.contains("mtu = 1376");
        if says { Ok(()) } else { Err(pings.text) }
    });
    assert_pings(&one.namespace, "10.32.0.2");

    // May be cut: arrives whole.
    let receiver = two
        .namespace
        .within(|| UdpSocket::bind("10.32.0.2:0").expect("the address"));
    receiver
        .set_nonblocking(true)
        .expect("an option of every socket");
    let target = receiver.local_addr().expect("bound");
    let sender = one
        .namespace
        .within(|| UdpSocket::bind("10.32.0.1:0").expect("the address"));
    let datagram = MARKER.repeat(3000 / MARKER.len());
    wait_until("a large datagram to arrive", || {
        let _ = sender.send_to(&datagram, target);
        let mut bytes = [0; 4096];
        let received = receiver.recv(&mut bytes);
        received.is_ok_and(|length| bytes[..length] == *datagram)
    });
    transfer(&one.namespace, &two.namespace, "10.32.0.2", 1_000_000);
    transfer(&two.namespace, &one.namespace, "10.32.0.1", 1_000_000);
}

#[test]
fn port_taken_out_of_the_bridge_is_plugged_in_again() {
    let Some(lab) = Lab::encrypted() else { return };
    let [a, b] = lab.hosts(["a", "b"]);
    a.launch(&[]);
    b.join(&[&a]);
    [&a, &b].iter().for_each(|host| host.wait_established(1));
    let one = lab.attached(&a, "c", &["10.32.0.1/24"]);
    let _two = lab.attached(&b, "c", &["10.32.0.2/24"]);
    wait_ping(&one.namespace, "10.32.0.2");
    let daemon = a.daemon_pid();
    a.namespace.ip(&["link", "set", "weft-tap", "nomaster"]);
    wait_ping(&one.namespace, "10.32.0.2");
    assert_eq!(a.daemon_pid(), daemon, "the same daemon");
}
