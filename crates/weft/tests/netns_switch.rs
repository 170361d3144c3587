//! Kernel tests of what makes the network one Ethernet switch: broadcast, multicast, subnets.

mod lab;

use std::net::Ipv4Addr;
use std::rc::Rc;

use lab::Lab;
use lab::host::{Container, Host};
use lab::traffic::{
    Listener, assert_heard_once, assert_no_pings, assert_pings, ping, transfer, wait_ping,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 7, 7);
const WIDE: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 255);

fn own(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 32, 0, u8::try_from(index + 1).expect("few hosts"))
}

/// One shouting container on the first host, one listening on every host, the first included.
fn shouts_reach_everyone_once(lab: &Lab, hosts: &[Rc<Host>]) {
    let shouter = lab.attached(&hosts[0], "s", &["10.32.0.100/24"]);
    let attach = |(index, host): (usize, &Rc<Host>)| {
        lab.attached(host, "c", &[&format!("{}/24", own(index))])
    };
    let containers: Vec<Container> = hosts.iter().enumerate().map(attach).collect();
    let source = Ipv4Addr::new(10, 32, 0, 100);
    for (target, port) in [(WIDE, 7001), (GROUP, 7002)] {
        let listen = |(index, container): (usize, &Container)| {
            Listener::new(&container.namespace, target, own(index), port)
        };
        let listeners: Vec<Listener> = containers.iter().enumerate().map(listen).collect();
        assert_heard_once(&shouter.namespace, source, target, port, &listeners);
    }
}

fn square(lab: &Lab) -> [Rc<Host>; 4] {
    let hosts = lab.square();
    hosts[0].launch(&[]);
    hosts[1].launch(&["192.168.91.1"]);
    hosts[2].launch(&["192.168.92.1"]);
    hosts[3].launch(&["192.168.93.1", "192.168.94.2"]);
    hosts.iter().for_each(|host| host.wait_established(2));
    hosts.iter().for_each(|host| host.wait_peers(4));
    hosts
}

#[test]
fn broadcast_and_multicast_reach_everyone_once_in_a_full_mesh() {
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b", "c"]);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts[2].join(&[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(2));
    shouts_reach_everyone_once(&lab, &hosts);
}

#[test]
fn broadcast_and_multicast_reach_everyone_once_around_a_square() {
    let Some(lab) = Lab::plain() else { return };
    let hosts = square(&lab);
    shouts_reach_everyone_once(&lab, &hosts);
}

/// F23: more hosts, no loops.
#[test]
fn broadcast_and_multicast_reach_everyone_once_around_a_square_encrypted() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = square(&lab);
    shouts_reach_everyone_once(&lab, &hosts);
}

/// F22: subnets of one network do not see each other.
#[test]
fn subnets_are_apart_and_a_container_may_be_in_several() {
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(1));
    let red = lab.attached(&hosts[0], "red", &["10.40.1.1/24"]);
    let blue = lab.attached(&hosts[0], "blue", &["10.40.2.1/24"]);
    let both = lab.attached(&hosts[1], "both", &["10.40.1.2/24", "10.40.2.2/24"]);
    wait_ping(&red.namespace, "10.40.1.2");
    wait_ping(&blue.namespace, "10.40.2.2");
    assert_pings(&both.namespace, "10.40.1.1");
    assert_pings(&both.namespace, "10.40.2.1");
    assert_no_pings(&red.namespace, "10.40.2.1");
    // Even with a route the other subnet does not answer: there is no router in between.
    red.namespace
        .ip(&["route", "add", "10.40.2.0/24", "dev", "ethwe"]);
    assert_no_pings(&red.namespace, "10.40.2.1");
}

#[test]
fn containers_on_one_host_reach_each_other() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    host.launch(&[]);
    let one = lab.attached(&host, "one", &["10.32.0.1/24"]);
    let two = lab.attached(&host, "two", &["10.32.0.2/24"]);
    wait_ping(&one.namespace, "10.32.0.2");
    assert_pings(&one.namespace, "10.32.0.2");
    transfer(&one.namespace, &two.namespace, "10.32.0.2", 10_000_000);
}

#[test]
fn large_and_small_packets_arrive_whole() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(1));
    let one = lab.attached(&hosts[0], "one", &["10.32.0.1/24"]);
    let _two = lab.attached(&hosts[1], "two", &["10.32.0.2/24"]);
    wait_ping(&one.namespace, "10.32.0.2");
    for size in [
        "0", "1", "63", "1347", "1348", "1349", "1400", "1473", "9000", "60000",
    ] {
        let pings = ping(&one.namespace, "10.32.0.2", 3, &["-s", size]);
        assert_eq!(pings.received, 3, "{}", pings.text);
    }
}

#[test]
fn a_container_that_moves_keeps_being_reachable() {
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b", "c"]);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts[2].join(&[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(2));
    let watcher = lab.attached(&hosts[0], "watcher", &["10.32.0.1/24"]);
    let before = lab.attached(&hosts[1], "moving", &["10.32.0.2/24"]);
    wait_ping(&watcher.namespace, "10.32.0.2");
    before.detach(&["10.32.0.2/24"]);
    assert_no_pings(&watcher.namespace, "10.32.0.2");
    let _after = lab.attached(&hosts[2], "moving", &["10.32.0.2/24"]);
    wait_ping(&watcher.namespace, "10.32.0.2");
    assert_pings(&watcher.namespace, "10.32.0.2");
}
