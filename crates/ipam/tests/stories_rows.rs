//! Stories of what is stored, as spec/ipam.md 8 tells them.

mod cluster;

use std::net::Ipv4Addr;

use cluster::{Cluster, allocate, config};
use ipam::{Answer, Init, IpamConfig, Patience, Request};

const fn ip(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

#[test]
fn an_allocation_writes_its_own_row_and_one_of_the_ring_in_one_transaction() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    c.allocate(1, "a");
    c.peers.get_mut(&1).unwrap().persisted.clear();
    c.allocate(1, "b");
    let expected = [["ipam/owned/10.32.0.2/12", "ipam/ring/10.32.0.0"]];
    assert_eq!(c.peers[&1].persisted, expected);
    c.allocate(1, "b");
    assert_eq!(c.peers[&1].persisted.len(), 1);
}

#[test]
fn gossip_that_tells_nothing_new_writes_nothing() {
    let mut c = Cluster::seeded(2, "10.32.0.0/12");
    c.allocate(1, "a");
    c.gossip();
    let before = c.peers[&2].persisted.len();
    c.gossip();
    assert_eq!(c.peers[&2].persisted.len(), before);
}

#[test]
fn a_restart_keeps_ring_and_addresses() {
    let mut c = Cluster::seeded(2, "10.32.0.0/12");
    c.allocate(1, "a");
    let ring = c.ring(1);
    c.crash(1);
    c.restart(1);
    assert_eq!(c.ring(1), ring);
    assert_eq!(c.allocate(1, "a"), ip(10, 32, 0, 1));
    assert_eq!(c.allocate(1, "b"), ip(10, 32, 0, 2));
}

#[test]
fn data_of_another_name_is_discarded() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    c.allocate(1, "a");
    let rows = c.peers[&1].rows.clone();
    let mut c = Cluster::new();
    c.restart_as(2, config(2, "10.32.0.0/12"), rows).unwrap();
    let rows: Vec<&String> = c.peers[&2].rows.keys().collect();
    assert_eq!(rows, ["ipam/header"]);
    assert_eq!(c.allocate(2, "b"), ip(10, 32, 0, 1));
}

#[test]
fn data_of_another_range_is_discarded() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    c.allocate(1, "a");
    let rows = c.peers[&1].rows.clone();
    let mut c = Cluster::new();
    c.restart_as(1, config(1, "10.128.0.0/10"), rows).unwrap();
    assert_eq!(c.allocate(1, "b"), ip(10, 128, 0, 1));
}

#[test]
fn a_default_subnet_may_change() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    c.allocate(1, "a");
    let rows = c.peers[&1].rows.clone();
    let other = IpamConfig {
        default_subnet: "10.32.4.0/24".parse().unwrap(),
        ..config(1, "10.32.0.0/12")
    };
    c.restart_as(1, other, rows).unwrap();
    assert_eq!(c.allocate(1, "b"), ip(10, 32, 4, 1));
    assert_eq!(c.held(1).len(), 2);
}

#[test]
fn a_seed_is_ignored_once_there_is_data() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    c.allocate(1, "a");
    let rows = c.peers[&1].rows.clone();
    let seeded = IpamConfig {
        init: Init::Seed(vec![cluster::name(1), cluster::name(2)]),
        ..config(1, "10.32.0.0/12")
    };
    c.restart_as(1, seeded, rows).unwrap();
    assert_eq!(c.shares(1).len(), 1);
}

#[test]
fn any_damaged_row_is_named_and_nothing_is_discarded() {
    let mut c = Cluster::seeded(2, "10.32.0.0/12");
    c.allocate(1, "a");
    let rows = c.peers[&1].rows.clone();
    assert!(rows.len() >= 4);
    for name in rows.keys() {
        let mut damaged = rows.clone();
        damaged.insert(name.clone(), b"{".to_vec());
        let error = c.restart_as(1, config(1, "10.32.0.0/12"), damaged);
        let error = error.expect_err(name);
        assert_eq!(&error.row, name);
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}

#[test]
fn a_missing_row_is_noticed() {
    let mut c = Cluster::seeded(2, "10.32.0.0/12");
    c.allocate(1, "a");
    let rows = c.peers[&1].rows.clone();
    for name in ["ipam/header", "ipam/ring/10.32.0.0", "ipam/ring/10.40.0.0"] {
        let mut damaged = rows.clone();
        damaged.remove(name).expect("it was there");
        let error = c.restart_as(1, config(1, "10.32.0.0/12"), damaged);
        error.expect_err(name);
    }
}

#[test]
fn an_address_held_that_is_not_ours_is_damage() {
    let mut c = Cluster::seeded(2, "10.32.0.0/12");
    c.allocate(1, "a");
    let mut rows = c.peers[&1].rows.clone();
    let row = rows["ipam/owned/10.32.0.1/12"].clone();
    rows.insert("ipam/owned/10.47.0.1/12".to_owned(), row);
    let error = c.restart_as(1, config(1, "10.32.0.0/12"), rows);
    assert_eq!(error.unwrap_err().row, "ipam/owned/10.47.0.1/12");
}

#[test]
fn promises_survive_a_restart() {
    let of_three = |n| IpamConfig {
        init: Init::Consensus(Some(3)),
        ..config(n, "10.32.0.0/12")
    };
    let mut c = Cluster::with(1, of_three);
    c.ask(1, allocate("a"));
    assert!(c.peers[&1].rows.contains_key("ipam/paxos"));
    c.crash(1);
    c.restart(1);
    let ticket = c.ask(1, Request::Prime(Patience::Forever));
    // The restarted peer is the same voter, so it is no majority with itself.
    c.pass_secs(60);
    assert_eq!(c.answer(1, ticket), None);
    c.join(2, of_three(2), 1);
    c.pass_secs(6);
    assert_eq!(c.answer(1, ticket), Some(&Ok(Answer::Done)));
    assert!(!c.peers[&1].rows.contains_key("ipam/paxos"));
}

#[test]
fn a_seeded_ring_is_stored_before_anybody_hears_of_it() {
    let mut c = Cluster::seeded(2, "10.32.0.0/12");
    let rows: Vec<&String> = c.peers[&1].rows.keys().collect();
    let expected = ["ipam/header", "ipam/ring/10.32.0.0", "ipam/ring/10.40.0.0"];
    assert_eq!(rows, expected);
    c.gossip();
}

#[test]
fn a_voter_without_votes_says_that_it_votes_and_an_observer_does_not() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    let observer = IpamConfig {
        init: Init::Observer,
        ..config(2, "10.32.0.0/12")
    };
    c.join(2, observer, 1);
    let said = |c: &Cluster, n: u8| {
        let state = c.peers[&n]
            .ipam
            .gossip_state()
            .expect("always says something");
        wire::ipam::decode_state(&state).expect("reads what it says")
    };
    assert_eq!(said(&c, 1).paxos.map(|votes| votes.len()), Some(0));
    assert_eq!(said(&c, 2).paxos, None);
    assert_eq!(said(&c, 2).ring, None);
    c.allocate(1, "a");
    assert_eq!(said(&c, 1).paxos, None);
    assert_eq!(said(&c, 1).ring.map(|ring| ring.entries.len()), Some(1));
    assert_eq!(said(&c, 1).nicknames[&cluster::name(2)], "host2");
}
