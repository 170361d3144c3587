//! Stories of allocation, as spec/ipam.md 3 to 5 tells them.

mod cluster;

use std::net::Ipv4Addr;

use cluster::{Cluster, allocate, allocate_soon, config, name, refused, unavailable};
use ipam::{Answer, ContainerEvent, Delete, Init, IpamConfig, Patience, Refusal, Request};

const fn ip(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

#[test]
fn a_lone_peer_gives_out_the_lowest_free_address_first() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    assert_eq!(c.allocate(1, "a"), ip(10, 32, 0, 1));
    assert_eq!(c.allocate(1, "b"), ip(10, 32, 0, 2));
    assert_eq!(
        c.get(1, Request::Delete(Delete { ident: "a".into() })),
        Ok(Answer::Done)
    );
    assert_eq!(c.allocate(1, "c"), ip(10, 32, 0, 1));
}

#[test]
fn asking_again_gives_the_same_address() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    assert_eq!(c.allocate(1, "a"), c.allocate(1, "a"));
}

#[test]
fn callers_without_a_name_get_an_address_each() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    assert_ne!(c.allocate(1, "_"), c.allocate(1, "_"));
    let held: Vec<String> = c.held(1).into_iter().map(|(ident, _)| ident).collect();
    assert_eq!(held, ["10.32.0.1", "10.32.0.2"]);
}

#[test]
fn an_address_in_a_subnet_bears_its_prefix() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    let request = allocate_soon("a", Some("10.32.4.0/24"));
    let answer = c.get(1, request);
    assert_eq!(answer, Ok(Answer::Address(cluster::cidr("10.32.4.1/24"))));
    let again = c.get(1, allocate("a"));
    assert_eq!(again, Ok(Answer::Address(cluster::cidr("10.32.4.1/12"))));
}

#[test]
fn a_subnet_out_of_bounds_is_refused() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    let answer = c.get(1, allocate_soon("a", Some("10.2.0.0/16")));
    let text = "range 10.2.0.0/16 out of bounds: 10.32.0.0/12";
    assert_eq!(refused(&answer), text);
}

#[test]
fn a_default_subnet_may_be_larger_than_the_universe() {
    let mut c = Cluster::with(1, |n| IpamConfig {
        default_subnet: "10.2.0.0/16".parse().unwrap(),
        ..config(n, "10.2.3.0/24")
    });
    let answer = c.get(1, allocate("a"));
    // Only the edges of the subnet asked for are left out.
    assert_eq!(answer, Ok(Answer::Address(cluster::cidr("10.2.3.0/16"))));
}

#[test]
fn two_peers_elect_and_share() {
    let mut c = Cluster::of(2, "10.32.0.0/12");
    assert_eq!(c.allocate(1, "a"), ip(10, 32, 0, 1));
    assert_eq!(c.status(1).phase.to_string(), "ready");
    c.gossip();
    assert_eq!(c.shares(2).len(), 2);
    assert_ne!(c.allocate(2, "b"), ip(10, 32, 0, 1));
}

#[test]
fn a_peer_that_joins_gets_the_top_quarter_of_an_only_owner() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    c.allocate(1, "a");
    c.join(2, config(2, "10.32.0.0/12"), 1);
    assert_eq!(c.allocate(2, "b"), ip(10, 44, 0, 0));
    let expected = [
        "10.32.0.0 02:00:00:00:00:01 v3",
        "10.44.0.0 02:00:00:00:00:02 v1",
    ];
    assert_eq!(c.ring(2), expected);
    assert_eq!(c.shares(1), c.shares(2));
}

#[test]
fn nobody_is_elected_without_a_majority() {
    let mut c = Cluster::with(1, |n| IpamConfig {
        init: Init::Consensus(Some(3)),
        ..config(n, "10.32.0.0/12")
    });
    let ticket = c.ask(1, allocate_soon("a", None));
    let text = "awaiting consensus (quorum: 2, known: 1)";
    assert_eq!(c.status(1).phase.to_string(), text);
    assert_eq!(c.answer(1, ticket), None);
    c.pass_secs(5);
    let reason = unavailable(c.answer(1, ticket));
    assert!(reason.starts_with("no majority: 1 of 3 peers"), "{reason}");
    assert_eq!(c.status(1).pending_allocates, []);
}

#[test]
fn who_waits_for_a_majority_is_served_when_it_comes() {
    let of_three = |n| IpamConfig {
        init: Init::Consensus(Some(3)),
        ..config(n, "10.32.0.0/12")
    };
    let mut c = Cluster::with(1, of_three);
    let ticket = c.ask(1, allocate("a"));
    c.pass_secs(60);
    assert_eq!(c.answer(1, ticket), None);
    c.join(2, of_three(2), 1);
    c.pass_secs(5);
    assert!(matches!(c.answer(1, ticket), Some(Ok(Answer::Address(_)))));
}

#[test]
fn an_observer_does_not_vote() {
    let mut c = Cluster::new();
    let of_two = |n| IpamConfig {
        init: Init::Consensus(Some(2)),
        ..config(n, "10.32.0.0/12")
    };
    let observer = IpamConfig {
        init: Init::Observer,
        ..config(2, "10.32.0.0/12")
    };
    c.join(1, of_two(1), 0);
    c.join(2, observer, 0);
    let ticket = c.ask(1, allocate("a"));
    c.pass_secs(30);
    c.gossip();
    assert_eq!(c.answer(1, ticket), None);
    c.join(3, of_two(3), 0);
    c.pass_secs(5);
    assert!(matches!(c.answer(1, ticket), Some(Ok(Answer::Address(_)))));
}

#[test]
fn an_observer_calls_an_election_by_asking_not_by_gossip() {
    let mut c = Cluster::of(2, "10.32.0.0/12");
    let observer = IpamConfig {
        init: Init::Observer,
        ..config(3, "10.32.0.0/12")
    };
    c.join(3, observer, 2);
    c.gossip();
    assert_eq!(c.status(1).phase.to_string(), "idle");
    assert_eq!(c.status(3).phase.to_string(), "idle");
    let ticket = c.ask(3, allocate("a"));
    assert!(matches!(c.answer(3, ticket), Some(Ok(Answer::Address(_)))));
    assert_eq!(c.status(1).phase.to_string(), "ready");
}

#[test]
fn a_lone_observer_primes() {
    let mut c = Cluster::with(1, |n| IpamConfig {
        init: Init::Observer,
        ..config(n, "10.32.0.0/12")
    });
    let ticket = c.ask(1, Request::Prime(Patience::Short));
    assert_eq!(c.status(1).phase.to_string(), "priming");
    c.pass_secs(5);
    unavailable(c.answer(1, ticket));
}

#[test]
fn seeded_peers_allocate_apart_and_agree_when_they_meet() {
    let seeds = vec![name(1), name(2)];
    let mut c = Cluster::new();
    for n in 1..=2 {
        let seeded = IpamConfig {
            init: Init::Seed(seeds.clone()),
            ..config(n, "10.32.0.0/12")
        };
        c.join(n, seeded, 0);
        c.isolate(n);
    }
    assert_eq!(c.allocate(1, "a"), ip(10, 32, 0, 1));
    assert_eq!(c.allocate(2, "b"), ip(10, 40, 0, 0));
    c.heal();
    assert_eq!(c.ring(1), c.ring(2));
}

#[test]
fn rings_of_other_seeds_are_refused_and_harm_nobody() {
    let mut c = Cluster::new();
    for n in 1..=2 {
        let alone = IpamConfig {
            init: Init::Seed(vec![name(n)]),
            ..config(n, "10.32.0.0/12")
        };
        c.join(n, alone, 0);
        c.isolate(n);
    }
    c.allocate(1, "a");
    c.unfenced.insert(2);
    c.allocate(2, "b");
    c.heal();
    let text = "IP allocation was seeded by different peers \
        (received: [02:00:00:00:00:02(host2)], ours: [02:00:00:00:00:01(host1)])";
    assert_eq!(c.status(1).refused, [(name(2), text.to_owned())]);
    assert_eq!(c.allocate(1, "c"), ip(10, 32, 0, 2));
}

#[test]
fn a_small_range_is_used_up_wherever_it_is_needed() {
    let mut c = Cluster::seeded(2, "10.32.0.0/28");
    for n in 0..14 {
        c.allocate(1, &format!("c{n}"));
        c.pass_secs(1);
    }
    let ticket = c.ask(1, allocate_soon("one too many", None));
    c.pass_secs(5);
    let reason = unavailable(c.answer(1, ticket));
    let start = "space exhausted in 10.32.0.0/28: 14 used, owners 02:00:00:00:00:01(host1)";
    assert!(reason.starts_with(start), "{reason}");
}

#[test]
fn who_waits_for_space_gets_it_when_somebody_elsewhere_gives_back() {
    let mut c = Cluster::seeded(2, "10.32.0.0/28");
    for n in 0..7 {
        c.allocate(1, &format!("a{n}"));
        c.allocate(2, &format!("b{n}"));
    }
    let ticket = c.ask(1, allocate("late"));
    assert_eq!(
        c.status(1).phase.to_string(),
        "waiting for IP(s) to become available"
    );
    c.get(2, Request::Delete(Delete { ident: "b3".into() }))
        .unwrap();
    assert_eq!(c.answer(1, ticket), None);
    c.gossip();
    c.pass_secs(6);
    assert!(matches!(c.answer(1, ticket), Some(Ok(Answer::Address(_)))));
}

#[test]
fn space_owned_by_peers_out_of_reach_is_named() {
    let mut c = Cluster::of(1, "10.32.0.0/24");
    c.allocate(1, "a");
    c.join(2, config(2, "10.32.0.0/24"), 1);
    c.gossip();
    c.isolate(2);
    let ticket = c.ask(2, allocate_soon("b", None));
    c.pass_secs(5);
    let reason = unavailable(c.answer(2, ticket));
    assert_eq!(
        reason,
        "free addresses in 10.32.0.0/24 are owned by peers which cannot be reached: \
         02:00:00:00:00:01(host1) 253"
    );
    let summary = "all IP ranges owned by unreachable peers";
    assert_eq!(c.status(2).phase.to_string(), summary);
}

#[test]
fn a_donor_that_does_not_answer_is_passed_over() {
    let mut c = Cluster::seeded(2, "10.32.0.0/12");
    c.join(3, config(3, "10.32.0.0/12"), 2);
    c.gossip();
    c.deaf.insert(1);
    let ticket = c.ask(3, allocate_soon("a", None));
    c.pass_secs(4);
    assert!(matches!(c.answer(3, ticket), Some(Ok(Answer::Address(_)))));
}

#[test]
fn many_who_wait_ask_for_space_once() {
    let mut c = Cluster::of(1, "10.32.0.0/12");
    c.allocate(1, "a");
    c.join(2, config(2, "10.32.0.0/12"), 1);
    for n in 0..100 {
        c.allocate(2, &format!("c{n}"));
    }
    assert_eq!(c.ring(1).len(), 2);
}

#[test]
fn a_caller_that_hangs_up_is_cancelled() {
    let mut c = Cluster::with(1, |n| IpamConfig {
        init: Init::Consensus(Some(3)),
        ..config(n, "10.32.0.0/12")
    });
    let ticket = c.ask(1, allocate("a"));
    c.at(1, |ipam, now| ipam.handle_cancel(ticket, now));
    assert_eq!(c.answer(1, ticket), Some(&Err(Refusal::Cancelled)));
    c.at(1, |ipam, now| ipam.handle_cancel(ticket, now));
}

#[test]
fn a_container_that_dies_takes_its_request_along() {
    let mut c = Cluster::with(1, |n| IpamConfig {
        init: Init::Consensus(Some(3)),
        ..config(n, "10.32.0.0/12")
    });
    let ticket = c.ask(1, cluster::allocate_container("a"));
    c.at(1, |ipam, now| {
        ipam.handle_container("a", ContainerEvent::Died, now);
    });
    assert_eq!(c.answer(1, ticket), Some(&Err(Refusal::Cancelled)));
}

#[test]
fn two_machines_of_one_name_give_nothing_out() {
    let mut c = Cluster::of(2, "10.32.0.0/12");
    c.allocate(1, "a");
    let text = "another machine uses our name";
    c.at(1, |ipam, now| ipam.handle_clone(Some(text.into()), now));
    assert_eq!(refused(&c.get(1, allocate("b"))), text);
    assert_eq!(refused(&c.claim(1, "b", "10.32.0.9/12")), text);
    let before = c.ring(1);
    let ticket = c.ask(2, cluster::claim("x", "10.32.0.9/12"));
    assert_eq!(c.answer(2, ticket), None);
    assert_eq!(c.ring(1), before);
    c.at(1, |ipam, now| ipam.handle_clone(None, now));
    assert_eq!(c.allocate(1, "b"), ip(10, 32, 0, 2));
}
