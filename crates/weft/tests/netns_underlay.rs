//! Kernel tests of difficult underlays: one-way, translated, cut, narrow, and IPv6.
//!
//! ```text
//!   NAT:   a ─ private network ─ router (masquerades) ─ public network ─ b
//!   rest:  a ─ b, with the fault on the cable or in one host's firewall
//! ```

mod lab;

use std::rc::Rc;
use std::time::Duration;

use lab::host::{Container, Host};
use lab::patience::{holds_for, wait_for};
use lab::traffic::{assert_pings, ping, transfer, wait_ping};
use lab::{Lab, namespace};

const MEGABYTE: usize = 1_000_000;

/// What sleeve adds to a container's IP packet in clear, bytes (IPv4 underlay).
const OVERHEAD_CLEAR: usize = 62;

/// The same when encrypted.
const OVERHEAD_ENCRYPTED: usize = 86;

/// A container on each of two hosts: 10.32.0.1 and 10.32.0.2.
fn pair(lab: &Lab, hosts: &[Rc<Host>; 2]) -> [Container; 2] {
    [
        lab.attached(&hosts[0], "c", &["10.32.0.1/24"]),
        lab.attached(&hosts[1], "c", &["10.32.0.2/24"]),
    ]
}

fn assert_pair_works(pair: &[Container; 2]) {
    let [one, two] = [&pair[0].namespace, &pair[1].namespace];
    wait_ping(one, "10.32.0.2");
    wait_ping(two, "10.32.0.1");
    assert_pings(one, "10.32.0.2");
    transfer(one, two, "10.32.0.2", MEGABYTE);
    transfer(two, one, "10.32.0.1", MEGABYTE);
}

/// The host answers no TCP connection from outside to the mesh port.
fn refuse_dialling(host: &Host) {
    host.namespace.run("nft", &["add", "table", "inet", "lab"]);
    let hook = "{ type filter hook input priority 0 ; }";
    host.namespace
        .run("nft", &["add", "chain", "inet", "lab", "in", hook]);
    let rule = [
        "tcp",
        "dport",
        "6783",
        "tcp",
        "flags",
        "&",
        "(syn|ack)",
        "==",
        "syn",
        "drop",
    ];
    host.namespace.run(
        "nft",
        &[&["add", "rule", "inet", "lab", "in"], &rule[..]].concat(),
    );
}

fn one_way(lab: &Lab) {
    if !nft_works() {
        return;
    }
    let hosts = lab.hosts(["a", "b"]);
    refuse_dialling(&hosts[0]);
    hosts[0].launch(&[&hosts[1].address(0)]);
    hosts[1].launch(&[&hosts[0].address(0)]);
    hosts.iter().for_each(|host| host.wait_established(1));
    assert!(
        hosts[0]
            .status("connections")
            .contains("-> 192.168.77.2:6783")
    );
    assert_pair_works(&pair(lab, &hosts));
}

fn nft_works() -> bool {
    let works = namespace::is_installed("nft");
    if !works {
        lab::skip("needs the program nft");
    }
    works
}

/// F19: peers of which only one can dial the other.
#[test]
fn one_direction_of_dialling_is_enough() {
    let Some(lab) = Lab::plain() else { return };
    one_way(&lab);
}

#[test]
fn one_direction_of_dialling_is_enough_encrypted() {
    let Some(lab) = Lab::encrypted() else { return };
    one_way(&lab);
}

fn translated(lab: &Lab) {
    if !nft_works() {
        return;
    }
    let hosts = ["a", "b"].map(|name| lab.host(name));
    let router = lab.host("router");
    lab.network("192.168.50", &[&hosts[0], &router]);
    lab.network("198.51.100", &[&hosts[1], &router]);
    router
        .namespace
        .run("sysctl", &["-q", "-w", "net.ipv4.ip_forward=1"]);
    router.namespace.run("nft", &["add", "table", "ip", "nat"]);
    let hook = "{ type nat hook postrouting priority 100 ; }";
    router
        .namespace
        .run("nft", &["add", "chain", "ip", "nat", "post", hook]);
    let rule = ["oifname", "eth1", "masquerade", "random"];
    router.namespace.run(
        "nft",
        &[&["add", "rule", "ip", "nat", "post"], &rule[..]].concat(),
    );
    hosts[0]
        .namespace
        .ip(&["route", "add", "default", "via", "192.168.50.2"]);
    hosts[1].launch(&[]);
    hosts[0].launch(&["198.51.100.1"]);
    hosts.iter().for_each(|host| host.wait_established(1));
    let status = hosts[1].status("connections");
    assert!(
        status.contains("<- 198.51.100.2:"),
        "seen from the translated address: {status}"
    );
    assert_pair_works(&pair(lab, &hosts));
}

/// F19: only outbound allowed, addresses and ports rewritten.
#[test]
fn a_host_behind_nat_takes_part() {
    let Some(lab) = Lab::plain() else { return };
    translated(&lab);
}

/// F19, encrypted.
#[test]
fn a_host_behind_nat_takes_part_encrypted() {
    let Some(lab) = Lab::encrypted() else { return };
    translated(&lab);
}

#[test]
fn traffic_returns_after_a_cable_was_cut_and_healed() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = ["a", "b"].map(|name| lab.host(name));
    let cables = lab.network("192.168.77", &[&hosts[0], &hosts[1]]);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(1));
    let containers = pair(&lab, &hosts);
    assert_pair_works(&containers);
    cables[1].cut();
    hosts.iter().for_each(|host| host.wait_established(0));
    assert_eq!(
        ping(&containers[0].namespace, "10.32.0.2", 2, &[]).received,
        0
    );
    cables[1].heal();
    hosts.iter().for_each(|host| host.wait_established(1));
    assert_pair_works(&containers);
}

#[test]
fn the_rest_of_a_triangle_carries_what_a_cut_side_carried() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = ["a", "b", "c"].map(|name| lab.host(name));
    let ab = lab.network("192.168.91", &[&hosts[0], &hosts[1]]);
    lab.network("192.168.92", &[&hosts[1], &hosts[2]]);
    lab.network("192.168.93", &[&hosts[2], &hosts[0]]);
    hosts[0].launch(&[]);
    hosts[1].launch(&["192.168.91.1"]);
    hosts[2].launch(&["192.168.92.1", "192.168.93.2"]);
    hosts.iter().for_each(|host| host.wait_established(2));
    let one = lab.attached(&hosts[0], "c", &["10.32.0.1/24"]);
    let _two = lab.attached(&hosts[1], "c", &["10.32.0.2/24"]);
    wait_ping(&one.namespace, "10.32.0.2");
    ab[0].cut();
    hosts[0].wait_established(1);
    wait_ping(&one.namespace, "10.32.0.2");
    assert_pings(&one.namespace, "10.32.0.2");
    ab[0].heal();
    hosts[0].wait_established(2);
    wait_ping(&one.namespace, "10.32.0.2");
}

#[test]
fn weft_peers_meet_over_an_ipv6_underlay() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = ["a", "b"].map(|name| lab.host(name));
    lab.network("fd77::", &[&hosts[0], &hosts[1]]);
    hosts[0].launch(&[]);
    hosts[1].launch(&["[fd77::1]:6783"]);
    hosts.iter().for_each(|host| host.wait_established(1));
    assert_pair_works(&pair(&lab, &hosts));
}

fn narrow(lab: &Lab, overhead: usize) {
    let underlay = 1300;
    let hosts = ["a", "b"].map(|name| lab.host(name));
    lab.network("192.168.77", &[&hosts[0], &hosts[1]]);
    lab.limit_underlay(underlay);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    let mtu = format!("mtu={}", underlay - overhead);
    for host in &hosts {
        host.wait_status("connections", |status| status.contains(&mtu));
    }
    let containers = pair(lab, &hosts);
    wait_ping(&containers[0].namespace, "10.32.0.2");
    // 1300 + 28 is below the container's own MTU and above the tunnel's.
    let too_big = ["-M", "do", "-s", "1300"];
    let seen = ping(&containers[0].namespace, "10.32.0.2", 2, &too_big);
    assert_eq!(seen.received, 0, "{}", seen.text);
    let told = format!("mtu = {}", underlay - overhead);
    let told = [told.clone(), told.replace(" = ", "=")];
    assert!(
        told.iter().any(|words| seen.text.contains(words)),
        "{}",
        seen.text
    );
    assert_pair_works(&containers);
    let whole = ping(&containers[0].namespace, "10.32.0.2", 3, &["-s", "8000"]);
    assert!(
        whole.received >= 2,
        "fragmented pings arrive: {}",
        whole.text
    );
}

#[test]
fn a_narrow_underlay_is_measured_and_containers_are_told() {
    let Some(lab) = Lab::plain() else { return };
    narrow(&lab, OVERHEAD_CLEAR);
}

/// F19, F25: the MTU adapts to an underlay that is itself a tunnel.
#[test]
fn a_narrow_underlay_is_measured_and_containers_are_told_encrypted() {
    let Some(lab) = Lab::encrypted() else { return };
    narrow(&lab, OVERHEAD_ENCRYPTED);
}

#[test]
fn a_path_that_becomes_narrow_is_measured_again() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    let containers = pair(&lab, &hosts);
    for host in &hosts {
        host.wait_status("connections", |status| status.contains("mtu=1414"));
    }
    assert_pair_works(&containers);
    lab.limit_underlay(1200);
    wait_for("a big transfer over the narrow path", || {
        let big = ping(&containers[0].namespace, "10.32.0.2", 3, &["-s", "1300"]);
        if big.received == 3 {
            Ok(())
        } else {
            Err(big.text)
        }
    });
    assert_pair_works(&containers);
    // Only what is too big and may not be cut shows a side that its path is narrow.
    ping(
        &containers[1].namespace,
        "10.32.0.1",
        2,
        &["-M", "do", "-s", "1300"],
    );
    for host in &hosts {
        host.wait_status("connections", |status| status.contains("mtu=1114"));
    }
}

#[test]
fn an_idle_connection_stays_established() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(1));
    let before = hosts[1].status("connections");
    holds_for(Duration::from_secs(15), "the connection", || {
        hosts[1].status("connections") == before
    });
}
