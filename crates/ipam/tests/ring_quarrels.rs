//! Rings that say what is not so, and addresses nobody has a use for: nothing is taken from whom it
//! belongs to, it ends without a human, and nobody storms.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod cluster;

use cluster::{Cluster, allocate, name};
use ipam::{Answer, Delete, Request};
use wire::PeerName;
use wire::ipam::{Entry, GossipState, Ring, encode_state};
use wire::message::Delivery;

/// The ring of one peer, as it would say it, with some entries changed.
fn lie(c: &Cluster, of: u8, change: impl Fn(&mut Entry)) -> Vec<u8> {
    let state = c.peers[&of].ipam.gossip_state().unwrap();
    let mut state = wire::ipam::decode_state(&state).unwrap();
    let entries = &mut state.ring.as_mut().unwrap().entries;
    entries.iter_mut().for_each(change);
    encode_state(&state)
}

/// Gives what belongs to one peer to another, in newer entries.
fn give(from: u8, to: u8) -> impl Fn(&mut Entry) {
    move |entry| {
        if entry.peer == name(from) {
            entry.peer = name(to);
            entry.version += 3;
        }
    }
}

#[test]
fn what_a_relay_says_is_not_taken_for_the_word_of_whom_it_relays() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    c.allocate(2, "a");
    let told = lie(&c, 3, give(2, 1));
    // It began as a broadcast of 2, and 3 passed it on with its own ring.
    c.deliver(1, Delivery::Broadcast(name(2)), &told);
    assert!(!c.status(1).unconfirmed.is_empty());
}

#[test]
fn ranges_given_away_by_a_liar_return_to_who_uses_them() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    let before = c.allocate(2, "a");
    let shares = c.shares(2);
    let told = lie(&c, 3, give(2, 1));
    c.deliver(1, Delivery::Neighbour(name(3)), &told);
    assert!(!c.status(1).unconfirmed.is_empty());
    for _ in 0..3 {
        c.gossip();
        c.pass_secs(5);
    }
    for n in 1..=3 {
        let status = c.status(n);
        assert!(
            status.unconfirmed.is_empty() && status.contested.is_empty(),
            "{n}"
        );
        assert!(status.displaced.is_empty(), "{n}");
        assert_eq!(c.shares(n), shares);
    }
    assert_eq!(c.allocate(2, "a"), before);
    assert_ne!(c.allocate(2, "b"), before);
}

#[test]
fn two_who_wait_in_a_full_subnet_do_not_hand_its_edges_back_and_forth() {
    let mut c = Cluster::seeded(2, "10.32.0.0/29");
    for n in 0..3 {
        c.allocate(1, &format!("a{n}"));
        c.allocate(2, &format!("b{n}"));
    }
    // Only the first and the last address of the subnet are left, one at either peer.
    let tickets = [c.ask(1, allocate("late")), c.ask(2, allocate("later"))];
    for _ in 0..3 {
        c.gossip();
        c.pass_secs(5);
    }
    assert_eq!(c.answer(1, tickets[0]), None);
    assert_eq!(c.answer(2, tickets[1]), None);
    let entries = c.ring(1).len();
    assert!(entries <= 4, "{:?}", c.ring(1));
    c.get(2, Request::Delete(Delete { ident: "b1".into() }))
        .unwrap();
    c.gossip();
    c.pass_secs(6);
    assert!(matches!(
        c.answer(2, tickets[1]),
        Some(Ok(Answer::Address(_)))
    ));
}

#[test]
fn a_machine_that_leaves_under_the_name_of_another_gives_nothing_away() {
    let mut c = Cluster::seeded(2, "10.32.0.0/24");
    c.allocate(1, "a");
    let shares = c.shares(2);
    let text = "another machine uses our name";
    c.at(1, |ipam, now| ipam.handle_clone(Some(text.into()), now));
    assert_eq!(c.get(1, Request::Leave), Ok(Answer::Done));
    c.gossip();
    assert_eq!(c.shares(2), shares);
}

#[test]
fn no_ring_makes_a_peer_panic_or_lose_what_is_in_use() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    let held = c.allocate(1, "a");
    let start = 0x0a20_0000;
    let entry = |n: u32, peer, version| Entry {
        token: start + n,
        peer,
        version,
        free: 0,
    };
    let rings: Vec<Vec<Entry>> = vec![
        vec![],
        vec![entry(0, PeerName::UNKNOWN, u32::MAX)],
        vec![entry(255, name(1), u32::MAX)],
        (0..256).map(|n| entry(n, name(2), u32::MAX)).collect(),
        (0..256).map(|n| entry(n, name(1), u32::MAX)).collect(),
        vec![entry(7, name(3), 49), entry(9, name(1), 12)],
    ];
    for entries in rings {
        for delivery in [Delivery::Neighbour, Delivery::Unicast, Delivery::Broadcast] {
            let ring = Ring {
                start,
                end: start + 256,
                peer: name(3),
                entries: entries.clone(),
                seeds: Vec::new(),
            };
            let state = GossipState {
                ring: Some(ring),
                ..GossipState::default()
            };
            let mut payload = encode_state(&state);
            if matches!(delivery(name(3)), Delivery::Unicast(_)) {
                payload.insert(0, 1);
            }
            c.deliver(1, delivery(name(3)), &payload);
            c.gossip();
            c.pass_secs(6);
        }
    }
    let is_known = c.held(1).iter().any(|(_, cidr)| cidr.address == held)
        || c.status(1).displaced.iter().any(|d| d.cidr.address == held);
    assert!(
        is_known,
        "the address of a running container is not forgotten"
    );
}

#[test]
fn a_peer_deprived_by_a_liar_as_if_it_were_dead_keeps_its_addresses() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    let before = c.allocate(2, "a");
    let told = lie(&c, 3, |entry| {
        if entry.peer == name(2) {
            entry.peer = name(1);
            entry.version += 100;
        }
    });
    c.deliver(1, Delivery::Neighbour(name(3)), &told);
    for _ in 0..3 {
        c.gossip();
        c.pass_secs(5);
    }
    assert!(c.status(1).unconfirmed.is_empty() && c.status(2).contested.is_empty());
    assert!(c.status(2).displaced.is_empty());
    assert_eq!(c.allocate(2, "a"), before);
}

#[test]
fn a_restart_in_which_nobody_is_in_reach_yet_opens_no_fence() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    c.allocate(2, "a");
    let told = lie(&c, 3, give(2, 1));
    c.deliver(1, Delivery::Neighbour(name(3)), &told);
    c.crash(1);
    c.isolate(1);
    c.restart(1);
    assert_eq!(c.status(1).unconfirmed.len(), 1);
    assert_eq!(c.allocate(1, "b"), std::net::Ipv4Addr::new(10, 32, 0, 1));
    c.pass_secs(10);
    c.heal();
    assert!(c.status(1).unconfirmed.is_empty() && c.status(2).contested.is_empty());
}
