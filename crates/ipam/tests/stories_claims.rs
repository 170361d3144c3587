//! Stories of claims, releases and containers, as spec/ipam.md 5 and 6 tell them.

mod cluster;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use cluster::{Cluster, allocate_container, cidr, claim, claim_soon, config, refused, unavailable};
use ipam::{
    Answer, Claim, ContainerEvent, Delete, Free, Init, IpamConfig, Lookup, Patience, Request,
};
use wire::message::Delivery;

const fn ip(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// One peer that has a ring over 10.32.0.0/12.
fn alone() -> Cluster {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    c.get(1, Request::Prime(Patience::Forever)).expect("a ring");
    c
}

#[test]
fn a_free_address_of_ours_is_claimed() {
    let mut c = alone();
    assert_eq!(c.claim(1, "a", "10.32.0.1/12"), Ok(Answer::Done));
    assert_eq!(c.claim(1, "a", "10.32.0.1/12"), Ok(Answer::Done));
    assert_eq!(c.allocate(1, "b"), ip(10, 32, 0, 2));
}

#[test]
fn an_address_somebody_holds_cannot_be_claimed() {
    let mut c = alone();
    c.allocate(1, "a");
    let text = "address 10.32.0.1/12 is already owned by a";
    assert_eq!(refused(&c.claim(1, "b", "10.32.0.1/12")), text);
}

#[test]
fn an_address_held_without_a_name_is_in_use() {
    let mut c = alone();
    c.allocate(1, "_");
    let text = "address 10.32.0.1/12 already in use";
    assert_eq!(refused(&c.claim(1, "b", "10.32.0.1/12")), text);
    assert_eq!(c.claim(1, "_", "10.32.0.1/12"), Ok(Answer::Done));
}

#[test]
fn claiming_without_a_name_what_somebody_holds_is_fine() {
    let mut c = alone();
    c.allocate(1, "a");
    assert_eq!(c.claim(1, "_", "10.32.0.1/12"), Ok(Answer::Done));
    assert_eq!(c.held(1), [("a".to_owned(), cidr("10.32.0.1/12"))]);
}

#[test]
fn an_address_out_of_the_universe_is_first_come_first_served() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    assert_eq!(c.claim(1, "a", "192.168.0.1/24"), Ok(Answer::Done));
    assert_eq!(c.claim(1, "a", "192.168.0.1/24"), Ok(Answer::Done));
    assert_eq!(c.claim(1, "_", "192.168.0.1/24"), Ok(Answer::Done));
    let text = "address 192.168.0.1/24 already in use by a";
    assert_eq!(refused(&c.claim(1, "b", "192.168.0.1/24")), text);
    assert_eq!(c.status(1).active, 0);
}

#[test]
fn an_address_out_of_the_universe_passes_on_from_the_dead() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    let first = Request::Claim(Claim {
        ident: "a".into(),
        cidr: cidr("192.168.0.1/24"),
        is_container: true,
        no_error_on_unknown: false,
        patience: Patience::Forever,
    });
    c.get(1, first).unwrap();
    c.at(1, |ipam, now| {
        ipam.handle_container("a", ContainerEvent::Died, now);
    });
    assert_eq!(c.claim(1, "b", "192.168.0.1/24"), Ok(Answer::Done));
    assert_eq!(c.held(1), [("b".to_owned(), cidr("192.168.0.1/24"))]);
}

#[test]
fn an_address_out_of_the_universe_survives_a_restart_without_a_ring() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    c.claim(1, "a", "192.168.0.1/24").unwrap();
    c.crash(1);
    c.restart(1);
    let text = "address 192.168.0.1/24 already in use by a";
    assert_eq!(refused(&c.claim(1, "b", "192.168.0.1/24")), text);
}

#[test]
fn claiming_a_free_address_of_another_moves_just_that_one() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    c.allocate(1, "a");
    c.join(2, config(2, "10.32.0.0/12"), 1);
    c.gossip();
    assert_eq!(c.claim(2, "b", "10.32.5.1/12"), Ok(Answer::Done));
    assert_eq!(c.shares(2), [(1, (1 << 20) - 1), (2, 1)].into());
    assert_eq!(c.ring(2).len(), 3);
}

#[test]
fn claiming_what_another_uses_is_refused_by_its_name() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    c.claim(1, "a", "10.32.5.1/12").unwrap();
    c.join(2, config(2, "10.32.0.0/12"), 1);
    c.gossip();
    let text = "address 10.32.5.1/12 is owned by other peer 02:00:00:00:00:01 (host1)";
    assert_eq!(refused(&c.claim(2, "b", "10.32.5.1/12")), text);
}

#[test]
fn a_claim_waits_for_an_owner_out_of_reach_but_not_for_ever() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    c.allocate(1, "a");
    c.join(2, config(2, "10.32.0.0/12"), 1);
    c.gossip();
    c.isolate(2);
    let ticket = c.ask(2, claim("b", "10.32.5.1/12"));
    c.pass_secs(20);
    assert_eq!(c.answer(2, ticket), None);
    c.pass_secs(10);
    let text = "address 10.32.5.1/12 is owned by other peer 02:00:00:00:00:01 (host1) - \
        unknown relay destination: 02:00:00:00:00:01";
    assert_eq!(refused(c.answer(2, ticket).unwrap()), text);
}

#[test]
fn a_claim_that_cannot_be_served_says_why_within_five_seconds() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    c.allocate(1, "a");
    c.join(2, config(2, "10.32.0.0/12"), 1);
    c.gossip();
    c.isolate(2);
    let ticket = c.ask(2, claim_soon("b", "10.32.5.1/12"));
    c.pass_secs(5);
    let text = "address 10.32.5.1/12 is owned by other peer 02:00:00:00:00:01 (host1) \
        which cannot be reached";
    assert_eq!(unavailable(c.answer(2, ticket)), text);
}

#[test]
fn a_claim_completes_when_the_owner_returns() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    c.allocate(1, "a");
    c.join(2, config(2, "10.32.0.0/12"), 1);
    c.gossip();
    c.isolate(2);
    let ticket = c.ask(2, claim("b", "10.32.5.1/12"));
    c.pass_secs(12);
    c.heal();
    assert_eq!(c.answer(2, ticket), Some(&Ok(Answer::Done)));
}

#[test]
fn a_claim_before_there_is_a_ring_may_be_answered_at_once_and_is_kept() {
    let of_three = |n| IpamConfig {
        init: Init::Consensus(Some(3)),
        ..config(n, "10.32.0.0/12")
    };
    let mut c = Cluster::with(1, of_three);
    let request = Request::Claim(Claim {
        ident: "a".into(),
        cidr: cidr("10.32.0.7/12"),
        is_container: false,
        no_error_on_unknown: true,
        patience: Patience::Short,
    });
    assert_eq!(c.get(1, request), Ok(Answer::Done));
    assert_eq!(c.status(1).pending_claims.len(), 1);
    c.pass_secs(30);
    c.join(2, of_three(2), 1);
    c.pass_secs(5);
    assert_eq!(c.held(1), [("a".to_owned(), cidr("10.32.0.7/12"))]);
}

#[test]
fn a_denied_request_for_any_address_fails_no_claim_of_another_owner() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    c.isolate(3);
    let ticket = c.ask(2, claim("b", "10.32.0.200/24"));
    let denied = wire::ipam::Unicast::Denied(wire::ipam::Range {
        start: u32::from(ip(10, 32, 0, 0)),
        end: u32::from(ip(10, 32, 1, 0)),
    });
    c.deliver(2, Delivery::Unicast(cluster::name(1)), &denied.encode());
    assert_eq!(c.answer(2, ticket), None);
}

#[test]
fn giving_back_what_is_not_held_is_refused() {
    let mut c = alone();
    c.allocate(1, "a");
    let text = "Delete: no addresses for b";
    let delete = Request::Delete(Delete { ident: "b".into() });
    assert_eq!(refused(&c.get(1, delete)), text);
    let free = |ident: &str| {
        Request::Free(Free {
            ident: ident.into(),
            address: ip(10, 32, 0, 1),
        })
    };
    let text = "Free: address 10.32.0.1 not found for b";
    assert_eq!(refused(&c.get(1, free("b"))), text);
    assert_eq!(c.get(1, free("a")), Ok(Answer::Done));
    let text = "Free: address 10.32.0.1 not found for a";
    assert_eq!(refused(&c.get(1, free("a"))), text);
}

#[test]
fn lookups_tell_what_is_held_in_a_subnet() {
    let mut c = alone();
    c.allocate(1, "a");
    c.claim(1, "a", "192.168.0.1/24").unwrap();
    let lookup = |subnet: Option<&str>| {
        Request::Lookup(Lookup {
            ident: "a".into(),
            subnet: subnet.map(|s| s.parse().unwrap()),
        })
    };
    let ours = Ok(Answer::Addresses(vec![cidr("10.32.0.1/12")]));
    assert_eq!(c.get(1, lookup(None)), ours);
    let theirs = Ok(Answer::Addresses(vec![cidr("192.168.0.1/24")]));
    assert_eq!(c.get(1, lookup(Some("192.168.0.0/24"))), theirs);
    let Ok(Answer::List(all)) = c.get(1, Request::List) else {
        panic!("a list");
    };
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].cidrs.len(), 2);
}

#[test]
fn a_container_that_is_back_within_the_grace_keeps_its_address() {
    let mut c = alone();
    c.get(1, allocate_container("a")).unwrap();
    c.at(1, |ipam, now| {
        ipam.handle_container("a", ContainerEvent::Died, now)
    });
    c.pass_secs(29);
    c.at(1, |ipam, now| {
        ipam.handle_container("a", ContainerEvent::Started, now)
    });
    c.pass_secs(60);
    assert_eq!(c.held(1).len(), 1);
}

#[test]
fn a_dead_container_loses_its_address_after_the_grace() {
    let mut c = alone();
    c.get(1, allocate_container("a")).unwrap();
    c.at(1, |ipam, now| {
        ipam.handle_container("a", ContainerEvent::Died, now)
    });
    c.pass_secs(30);
    assert_eq!(c.held(1).len(), 1);
    c.pass_secs(6);
    assert_eq!(c.held(1), []);
}

#[test]
fn who_is_no_container_keeps_its_address_when_it_dies() {
    let mut c = alone();
    c.allocate(1, "a");
    c.at(1, |ipam, now| {
        ipam.handle_container("a", ContainerEvent::Died, now)
    });
    c.pass_secs(60);
    assert_eq!(c.held(1).len(), 1);
}

#[test]
fn a_destroyed_container_loses_its_address_at_once() {
    let mut c = alone();
    c.get(1, allocate_container("a")).unwrap();
    c.at(1, |ipam, now| {
        ipam.handle_container("a", ContainerEvent::Destroyed, now);
    });
    assert_eq!(c.held(1), []);
}

#[test]
fn containers_that_died_while_we_were_away_are_released_at_start() {
    let mut c = alone();
    c.get(1, allocate_container("dead")).unwrap();
    c.get(1, allocate_container("alive")).unwrap();
    c.allocate(1, "weave:expose");
    c.crash(1);
    c.restart(1);
    c.at(1, |ipam, now| {
        ipam.handle_running(BTreeSet::from(["alive".to_owned()]), now);
    });
    let idents: Vec<String> = c.held(1).into_iter().map(|(ident, _)| ident).collect();
    assert_eq!(idents, ["alive", "weave:expose"]);
    assert_eq!(c.allocate(1, "new"), ip(10, 32, 0, 1));
}
