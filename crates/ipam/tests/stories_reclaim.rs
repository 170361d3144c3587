//! Stories of ranges reclaimed by vote (`--reclaim-after`).

mod cluster;

use std::time::Duration;

use cluster::{Cluster, config, name};
use ipam::{Init, IpamConfig};

const AFTER: Duration = Duration::from_secs(600);

fn voter(n: u8, seeds: u8) -> IpamConfig {
    IpamConfig {
        init: Init::Seed((1..=seeds).map(name).collect()),
        reclaim_after: Some(AFTER),
        ..config(n, "10.32.0.0/24")
    }
}

fn voters(count: u8) -> Cluster {
    let mut c = Cluster::with(count, |n| voter(n, count));
    c.gossip();
    c
}

#[test]
fn a_majority_reclaims_what_a_peer_gone_for_long_owned() {
    let mut c = voters(3);
    c.crash(3);
    c.pass_secs(590);
    assert_eq!(c.shares(1).get(&3), Some(&64));
    c.pass_secs(30);
    assert_eq!(c.shares(1).get(&3), None);
    assert_eq!(c.ring(1), c.ring(2));
}

#[test]
fn nothing_is_reclaimed_unless_asked_for() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    c.gossip();
    c.crash(3);
    c.pass_secs(3600);
    assert_eq!(c.shares(1).get(&3), Some(&64));
}

#[test]
fn half_of_the_peers_reclaim_nothing() {
    let mut c = voters(4);
    c.crash(3);
    c.crash(4);
    c.pass_secs(3600);
    assert_eq!(c.shares(1).len(), 4);
}

#[test]
fn nothing_is_reclaimed_while_somebody_in_reach_does_not_vote() {
    let mut c = voters(4);
    let mute = IpamConfig {
        reclaim_after: None,
        ..config(9, "10.32.0.0/24")
    };
    c.join(9, mute, 3);
    c.gossip();
    c.crash(4);
    c.pass_secs(3600);
    assert_eq!(c.shares(1).get(&4), Some(&64));
    c.crash(9);
    c.pass_secs(700);
    assert_eq!(c.shares(1).get(&4), None);
}

#[test]
fn a_peer_that_returns_in_time_loses_nothing() {
    let mut c = voters(3);
    c.crash(3);
    c.pass_secs(590);
    c.restart(3);
    c.pass_secs(590);
    c.crash(3);
    c.pass_secs(590);
    assert_eq!(c.shares(1).get(&3), Some(&64));
}

#[test]
fn votes_survive_a_restart() {
    let mut c = voters(3);
    c.crash(3);
    c.pass_secs(620);
    assert!(c.peers[&2].rows.contains_key("ipam/votes"));
    c.crash(2);
    c.restart(2);
    assert_eq!(c.shares(2).get(&3), None);
}

#[test]
fn a_peer_that_was_reclaimed_returns_and_can_be_reclaimed_again() {
    let mut c = voters(3);
    c.allocate(3, "x");
    c.gossip();
    c.crash(3);
    c.pass_secs(620);
    assert_eq!(c.shares(1).get(&3), None);
    c.restart(3);
    c.heal();
    c.pass_secs(6);
    // It keeps the one address it uses.
    assert_eq!(c.held(3).len(), 1);
    assert_eq!(c.shares(1).get(&3), Some(&1));
    c.gossip();
    c.crash(3);
    c.pass_secs(620);
    assert_eq!(c.shares(1).get(&3), None);
}

#[test]
fn an_heir_chosen_by_those_who_heard_it_is_the_heir_of_all() {
    let mut c = voters(5);
    c.crash(5);
    c.pass_secs(620);
    let shares = c.shares(1);
    for n in 2..=4 {
        assert_eq!(c.shares(n), shares);
    }
}

#[test]
fn votes_that_are_none_are_ignored() {
    let mut c = voters(3);
    for bytes in [&b""[..], b"\x01", b"\x01\x05", &[0xff; 64], &[1; 26]] {
        c.at(1, |ipam, now| ipam.handle_weft(name(2), bytes, now));
    }
    assert_eq!(c.shares(1).len(), 3);
}
