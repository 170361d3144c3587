//! Receive offload of fresh sockets over a cable that behaves like a network card: packets of the
//! MTU's size on the wire, merged by the receiver alone.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use std::net::SocketAddr;

use linux::udp::{Fragmentation, RECEIVE_BYTES, UdpPair, has_ipv6};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::{Space, can_run, sh};

/// A wrong choice of socket by the kernel's hash passes unseen with probability 3^-24 at most.
const INSTANCES: usize = 24;
const DATAGRAM_BYTES: usize = 1400;
const DATAGRAMS: usize = 40;
/// Longer than anything takes that arrives at all.
const PATIENCE: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

/// Two hosts, their ends of the cable called `eth0`, with the last number of their addresses.
fn hosts() -> [Space; 2] {
    let [a, b] = [Space::new("nic"), Space::new("nic")];
    sh(&format!(
        "ip -n {} link add eth0 type veth peer name eth0 netns {}",
        a.name, b.name
    ));
    for (number, host) in [(1, &a), (2, &b)] {
        host.sh("ethtool -K eth0 gso off tso off tx-udp-segmentation off gro on");
        host.sh(&format!("ip addr add 192.168.99.{number}/24 dev eth0"));
        host.sh(&format!("ip addr add fd99::{number}/64 dev eth0 nodad"));
        host.sh("ip link set eth0 up");
    }
    [a, b]
}

/// Receives as many bytes; the largest number of datagrams one call gave.
fn most_merged(pair: &UdpPair, bytes: usize) -> usize {
    let mut buffer = vec![0; RECEIVE_BYTES];
    let (mut missing, mut most) = (bytes, 0);
    while missing > 0 {
        let mut fds = [PollFd::new(pair, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&PATIENCE)), Ok(1), "{missing} missing");
        while let Ok(got) = pair.receive(&mut buffer) {
            missing -= got.bytes;
            most = most.max(got.bytes.div_ceil(got.datagram_bytes));
        }
    }
    most
}

#[test]
fn every_fresh_pair_of_sockets_receives_merged_datagrams_from_every_fresh_sender() {
    if !can_run() {
        return;
    }
    let [a, b] = hosts();
    let bind = |host: &Space, address: &str| {
        let address: SocketAddr = address.parse().unwrap();
        host.run(|| UdpPair::bind(address)).unwrap()
    };
    for (ours, theirs) in [
        ("192.168.99.1:0", "192.168.99.2:0"),
        ("[fd99::1]:0", "[fd99::2]:0"),
    ] {
        if ours.starts_with('[') && !has_ipv6() {
            continue;
        }
        // Each instance gets a port of its own, so the kernel's hash falls anew.
        let merged: Vec<usize> = (0..INSTANCES)
            .map(|_| {
                let (sender, receiver) = (bind(&a, ours), bind(&b, theirs));
                let bytes = vec![7; DATAGRAMS * DATAGRAM_BYTES];
                let to = receiver.local_address();
                sender
                    .send(Fragmentation::Refused, to, &bytes, DATAGRAM_BYTES)
                    .unwrap();
                most_merged(&receiver, bytes.len())
            })
            .collect();
        assert!(merged.iter().all(|&most| most > 1), "{ours}: {merged:?}");
    }
}
