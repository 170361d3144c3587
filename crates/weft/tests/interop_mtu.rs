//! Live interop with the original router over a path that becomes narrow, and wide again, in silence.
//!
//! ```text
//!   weft ── left ── router ── right ── original      the router says nothing about what is too big
//! ```
//!
//! The original only notices what its own kernel refuses, so its side is the one that narrows.

mod lab;

use std::rc::Rc;
use std::time::Duration;

use lab::host::Host;
use lab::original::{Original, find_original};
use lab::patience::wait_for;
use lab::traffic::{Pace, datagrams, paced, wait_ping};
use lab::{Lab, PASSWORD, namespace};

const MEBIBYTE: usize = 1 << 20;
const ADDRESSES: [&str; 2] = ["10.32.0.1", "10.32.0.2"];

/// Drops what routers say about packets that are too big.
fn silence(router: &Host) {
    let namespace = &router.namespace;
    namespace.run("nft", &["add", "table", "inet", "lab"]);
    let hook = "{ type filter hook output priority 0 ; }";
    namespace.run("nft", &["add", "chain", "inet", "lab", "out", hook]);
    let drop = ["icmp", "type", "destination-unreachable", "drop"];
    let rule = [&["add", "rule", "inet", "lab", "out"][..], &drop].concat();
    namespace.run("nft", &rule);
}

fn set_right(router: &Host, original: &Host, mtu: usize) {
    let mtu = mtu.to_string();
    for (host, interface) in [(router, "eth1"), (original, "eth0")] {
        host.namespace.ip(&["link", "set", interface, "mtu", &mtu]);
    }
}

fn narrowing(is_encrypted: bool, overhead: usize) {
    let Some(binary) = find_original() else {
        return;
    };
    if !namespace::is_installed("nft") {
        return lab::skip("needs the program nft");
    }
    let Some(lab) = Lab::plain() else { return };
    let [a, router, b] = ["a", "r", "b"].map(|name| lab.host(name));
    lab.network("192.168.71", &[&a, &router]);
    lab.network("192.168.72", &[&b, &router]);
    a.namespace
        .ip(&["route", "add", "default", "via", "192.168.71.2"]);
    b.namespace
        .ip(&["route", "add", "default", "via", "192.168.72.2"]);
    let forward = ["-q", "-w", "net.ipv4.ip_forward=1"];
    router.namespace.run("sysctl", &forward);
    silence(&router);
    let password = is_encrypted.then(|| PASSWORD.to_owned());
    a.set_password(password.as_deref());
    let original = Original::new(Rc::clone(&b), binary, 7, password);
    original.launch(&[]);
    // Containers of one MTU on both sides: a bridge drops what the interface behind it cannot take.
    a.launch(&["--no-fastdp", &b.address(0)]);
    let ours = lab.container(&a, "c");
    let theirs = lab.container(&b, "c");
    ours.attach(&[&format!("{}/24", ADDRESSES[0])]);
    original.plug(&theirs.namespace, &format!("{}/24", ADDRESSES[1]));
    let [one, two] = [&ours.namespace, &theirs.namespace];
    wait_ping(one, ADDRESSES[1]);
    for mtu in [1500, 1300, 576] {
        std::thread::scope(|scope| {
            let moves = scope.spawn(|| paced(one, two, ADDRESSES[1], MEBIBYTE, Pace::Slow));
            std::thread::sleep(Duration::from_millis(300));
            set_right(&router, &b, mtu);
            moves.join().expect("data under way survives the change");
        });
        for (from, to, address) in [(one, two, ADDRESSES[1]), (two, one, ADDRESSES[0])] {
            paced(from, to, address, MEBIBYTE, Pace::Fast);
            datagrams(from, to, address, MEBIBYTE);
        }
        let mtu = format!("mtu={}", mtu - overhead);
        a.wait_status("connections", |status| status.contains(&mtu));
    }
    set_right(&router, &b, 1500);
    let mtu = format!("mtu={}", 1500 - overhead);
    wait_for("the wide path to be used", || {
        let status = a.status("connections");
        let is_used = status.contains(&mtu);
        if is_used { Ok(()) } else { Err(status) }
    });
    let complaints = original.complaints(&[]);
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn an_original_is_reached_over_a_path_that_narrows_in_silence() {
    narrowing(false, 62);
}

#[test]
fn an_original_is_reached_over_a_path_that_narrows_in_silence_encrypted() {
    narrowing(true, 86);
}
