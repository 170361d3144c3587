//! Stories of leaving, takeovers and coming back, as spec/ipam.md 7 tells them, and of what is
//! disputed.

mod cluster;

use std::net::Ipv4Addr;

use cluster::{Cluster, allocate, allocate_soon, claim, config, name, refused, unavailable};
use ipam::{Answer, Refusal, Request, TakeOver};
use wire::ipam::{Entry, GossipState, Ring, encode_state};
use wire::message::Delivery;

const fn ip(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

fn take_over(peer: &str) -> Request {
    Request::TakeOver(TakeOver { peer: peer.into() })
}

fn base() -> u32 {
    u32::from(ip(10, 32, 0, 0))
}

/// What a peer would say whose ring over 10.32.0.0/24 has these entries: token, owner, version.
fn ring_of(entries: &[(u32, u8, u32)], seeds: u8) -> Vec<u8> {
    let ends = entries.iter().skip(1).map(|e| e.0).chain([256]);
    let entries = entries.iter().zip(ends);
    encode_state(&GossipState {
        ring: Some(Ring {
            start: base(),
            end: base() + 256,
            peer: name(3),
            entries: entries
                .map(|(&(token, peer, version), end)| Entry {
                    token: base() + token,
                    peer: name(peer),
                    version,
                    free: end - token,
                })
                .collect(),
            seeds: (1..=seeds).map(name).collect(),
        }),
        ..GossipState::default()
    })
}

#[test]
fn who_leaves_hands_everything_to_an_owner_in_reach() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    c.allocate(1, "a");
    c.isolate(2);
    assert_eq!(c.get(1, Request::Leave), Ok(Answer::Done));
    assert_eq!(c.get(1, allocate("b")), Err(Refusal::Cancelled));
    c.crash(1);
    assert_eq!(c.shares(3), [(2, 64), (3, 192)].into());
}

#[test]
fn who_leaves_cancels_what_waits() {
    let mut c = Cluster::of(2, "10.32.0.0/24");
    c.isolate(2);
    let waiting = c.ask(1, allocate("a"));
    let priming = c.ask(1, Request::Prime(ipam::Patience::Forever));
    c.get(1, Request::Leave).unwrap();
    assert_eq!(c.answer(1, waiting), Some(&Err(Refusal::Cancelled)));
    assert_eq!(c.answer(1, priming), Some(&Err(Refusal::Cancelled)));
}

#[test]
fn who_leaves_with_nobody_else_keeps_the_ring() {
    let mut c = Cluster::of(1, "10.32.0.0/24");
    c.allocate(1, "a");
    assert_eq!(c.get(1, Request::Leave), Ok(Answer::Done));
    assert_eq!(c.get(1, allocate("b")), Err(Refusal::Cancelled));
    assert_eq!(c.shares(1), [(1, 256)].into());
}

#[test]
fn an_heir_may_own_nothing_yet() {
    let mut c = Cluster::of(1, "10.32.0.0/24");
    c.allocate(1, "a");
    c.join(2, config(2, "10.32.0.0/24"), 1);
    c.get(1, Request::Leave).unwrap();
    c.crash(1);
    assert_eq!(c.allocate(2, "b"), ip(10, 32, 0, 1));
}

#[test]
fn the_space_of_a_dead_peer_is_taken_over_by_nickname_or_name() {
    for typed in ["host1", "02:00:00:00:00:01"] {
        let mut c = Cluster::seeded(2, "10.32.0.0/24");
        c.allocate(1, "a");
        c.gossip();
        c.crash(1);
        assert_eq!(c.get(2, take_over(typed)), Ok(Answer::TakenOver(128)));
        assert_eq!(c.get(2, take_over(typed)), Ok(Answer::TakenOver(0)));
        assert_eq!(c.shares(2), [(2, 256)].into());
    }
}

#[test]
fn neither_strangers_nor_we_are_taken_over() {
    let mut c = Cluster::seeded(2, "10.32.0.0/24");
    assert_eq!(c.get(2, take_over("nobody")), Ok(Answer::TakenOver(0)));
    assert_eq!(c.get(2, take_over("host2")), Ok(Answer::TakenOver(0)));
}

#[test]
fn two_peers_who_take_over_the_same_agree_in_the_end() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    c.gossip();
    c.crash(1);
    c.isolate(2);
    assert_eq!(c.get(2, take_over("host1")), Ok(Answer::TakenOver(128)));
    assert_eq!(c.get(3, take_over("host1")), Ok(Answer::TakenOver(128)));
    c.heal();
    assert_eq!(c.ring(2), c.ring(3));
    assert_eq!(c.status(2).contested, []);
    assert_eq!(c.status(3).contested, []);
}

#[test]
fn two_peers_who_take_over_and_use_the_same_agree_and_say_what_clashes() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    c.gossip();
    c.crash(1);
    c.isolate(2);
    c.unfenced.insert(2);
    for n in 2..=3 {
        assert_eq!(c.get(n, take_over("host1")), Ok(Answer::TakenOver(128)));
        assert_eq!(c.claim(n, "same", "10.32.0.5/24"), Ok(Answer::Done));
        let other = format!("10.32.0.{n}/24");
        assert_eq!(c.claim(n, "other", &other), Ok(Answer::Done));
    }
    c.heal();
    c.pass_secs(6);
    c.gossip();
    assert_eq!(c.ring(2), c.ring(3));
    assert_eq!(c.status(2).contested, []);
    assert_eq!(c.status(3).contested, []);
    let clashes = [c.status(2).displaced, c.status(3).displaced].concat();
    assert_eq!(clashes.len(), 1, "{clashes:?}");
    assert_eq!(clashes[0].cidr, cluster::cidr("10.32.0.5/24"));
    let text = clashes[0].clash.as_ref().expect("it is known to clash");
    assert!(text.starts_with("address 10.32.0.5/24 is owned by other peer"));
    // What only one of them used is still in use there.
    assert_eq!(c.held(2).len() + c.held(3).len(), 3);
}

#[test]
fn a_peer_that_was_taken_over_returns_and_keeps_its_addresses() {
    let mut c = Cluster::seeded(2, "10.32.0.0/24");
    c.allocate(1, "a");
    c.claim(1, "b", "10.32.0.9/24").unwrap();
    c.gossip();
    c.crash(1);
    c.get(2, take_over("host1")).unwrap();
    c.restart(1);
    c.heal();
    c.pass_secs(6);
    assert_eq!(c.status(1).displaced, []);
    assert_eq!(c.status(1).contested, []);
    assert_eq!(c.held(1).len(), 2);
    assert_eq!(c.ring(1), c.ring(2));
    assert_eq!(c.shares(1), [(1, 2), (2, 254)].into());
}

#[test]
fn a_peer_that_was_taken_over_says_which_address_clashes() {
    let mut c = Cluster::seeded(2, "10.32.0.0/24");
    c.allocate(1, "a");
    c.allocate(1, "b");
    c.gossip();
    c.crash(1);
    c.get(2, take_over("host1")).unwrap();
    assert_eq!(c.allocate(2, "x"), ip(10, 32, 0, 1));
    c.unfenced.insert(1);
    c.restart(1);
    c.heal();
    c.pass_secs(6);
    let displaced = c.status(1).displaced;
    assert_eq!(displaced.len(), 1);
    assert_eq!(displaced[0].ident, "a");
    let text = "address 10.32.0.1/24 is owned by other peer 02:00:00:00:00:02 (host2)";
    assert_eq!(displaced[0].clash.as_deref(), Some(text));
    assert_eq!(c.held(1).len(), 1);
    // Asked anew, its container is given another address, and the clash is over.
    assert_ne!(c.allocate(1, "a"), ip(10, 32, 0, 1));
    assert_eq!(c.status(1).displaced, []);
}

#[test]
fn displaced_addresses_are_remembered_over_a_restart() {
    let mut c = Cluster::seeded(2, "10.32.0.0/24");
    c.allocate(1, "a");
    c.gossip();
    c.crash(1);
    c.get(2, take_over("host1")).unwrap();
    c.restart(1);
    c.deaf.insert(2);
    c.heal();
    assert_eq!(c.status(1).displaced.len(), 1);
    // Nobody else on this host gets what a container here uses.
    let text = "address 10.32.0.1/24 is already owned by a";
    assert_eq!(refused(&c.claim(1, "b", "10.32.0.1/24")), text);
    c.crash(1);
    c.deaf.clear();
    c.restart(1);
    c.pass_secs(6);
    assert_eq!(c.status(1).displaced, []);
    assert_eq!(c.held(1).len(), 1);
}

#[test]
fn a_range_others_say_is_theirs_is_held_until_they_say_otherwise() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    c.allocate(2, "b");
    let liar = ring_of(&[(0, 1, 0), (128, 3, 9), (192, 3, 0)], 3);
    c.deliver(2, Delivery::Neighbour(name(3)), &liar);
    let contested = c.status(2).contested;
    assert_eq!(contested.len(), 1);
    assert_eq!((contested[0].ours, contested[0].theirs), (name(2), name(3)));
    assert_eq!(contested[0].teller, name(3));
    // Nothing is given out there; other space is asked for instead.
    c.isolate(2);
    c.deliver(2, Delivery::Neighbour(name(3)), &liar);
    let ticket = c.ask(2, allocate_soon("c", None));
    c.pass_secs(5);
    let reason = unavailable(c.answer(2, ticket));
    let start = "range contested: 10.32.0.128-10.32.0.191 is ours, but belongs to";
    assert!(reason.starts_with(start), "{reason}");
    // The conflict goes, and with it the block.
    let sane = ring_of(&[(0, 1, 0), (128, 2, 0), (192, 3, 0)], 3);
    c.deliver(2, Delivery::Neighbour(name(3)), &sane);
    assert_eq!(c.status(2).contested, []);
    assert_eq!(c.allocate(2, "c"), ip(10, 32, 0, 129));
}

#[test]
fn contests_end_with_who_told_of_them() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    c.allocate(2, "b");
    let liar = ring_of(&[(0, 1, 0), (128, 3, 9), (192, 3, 0)], 3);
    c.deliver(2, Delivery::Neighbour(name(3)), &liar);
    assert_eq!(c.status(2).contested.len(), 1);
    c.crash(3);
    assert_eq!(c.status(2).contested, []);
}

#[test]
fn a_range_somebody_else_says_is_ours_waits_for_its_owner() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    // Peer 3 says that what belongs to 1 belongs to 2.
    let gift = ring_of(&[(0, 2, 9), (128, 2, 0), (192, 3, 0)], 3);
    c.deliver(2, Delivery::Neighbour(name(3)), &gift);
    assert_eq!(c.status(2).unconfirmed.len(), 1);
    assert_eq!(c.allocate(2, "b"), ip(10, 32, 0, 128));
    // It stays behind the fence over a restart.
    c.crash(2);
    c.restart(2);
    assert_eq!(c.status(2).unconfirmed.len(), 1);
    // Its owner is gone: nobody objects.
    c.crash(1);
    assert_eq!(c.status(2).unconfirmed.len(), 1);
    c.pass_secs(40);
    assert_eq!(c.status(2).unconfirmed, []);
    assert_eq!(c.allocate(2, "c"), ip(10, 32, 0, 1));
}

#[test]
fn a_fence_opens_when_the_former_owner_agrees() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    let gift = ring_of(&[(0, 2, 9), (128, 2, 0), (192, 3, 0)], 3);
    c.deliver(2, Delivery::Neighbour(name(3)), &gift);
    assert_eq!(c.status(2).unconfirmed.len(), 1);
    c.deliver(2, Delivery::Neighbour(name(1)), &gift);
    assert_eq!(c.status(2).unconfirmed, []);
}

#[test]
fn a_former_owner_is_asked_until_it_answers() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    let gift = ring_of(&[(0, 2, 9), (128, 2, 0), (192, 3, 0)], 3);
    c.deaf.insert(1);
    c.deliver(2, Delivery::Neighbour(name(3)), &gift);
    c.pass_secs(20);
    assert_eq!(c.status(2).unconfirmed.len(), 1);
    c.deaf.clear();
    // Nobody gossips, and yet it ends: the owner never gave it.
    c.pass_secs(6);
    assert_eq!(c.status(2).unconfirmed, []);
    assert_eq!(c.shares(2), [(1, 128), (2, 64), (3, 64)].into());
}

#[test]
fn what_an_owner_gives_unasked_is_used_at_once() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    // The ring is that of 3, which passes it on, unless it says otherwise.
    let gift = ring_of(&[(0, 2, 9), (128, 2, 0), (192, 3, 0)], 3);
    let mut gift = wire::ipam::decode_state(&gift).unwrap();
    gift.ring.as_mut().unwrap().peer = name(1);
    let gift = encode_state(&gift);
    c.deliver(2, Delivery::Broadcast(name(1)), &gift);
    assert_eq!(c.status(2).unconfirmed, []);
}

#[test]
fn hostile_bytes_change_nothing() {
    let mut c = Cluster::seeded(2, "10.32.0.0/24");
    c.allocate(1, "a");
    let before = c.peers[&1].rows.clone();
    for bytes in [&b""[..], b"\0", b"\x01", b"\x02", b"\xff\xff", b"garbage"] {
        for delivery in [Delivery::Unicast, Delivery::Broadcast, Delivery::Neighbour] {
            c.deliver(1, delivery(name(2)), bytes);
        }
    }
    assert_eq!(c.peers[&1].rows, before);
}

#[test]
fn an_address_lost_by_both_ends_of_a_claim_is_not_given_twice() {
    let mut c = Cluster::seeded(2, "10.32.0.0/24");
    c.deaf.insert(2);
    let ticket = c.ask(2, claim("b", "10.32.0.1/24"));
    c.deaf.clear();
    assert_eq!(c.allocate(1, "a"), ip(10, 32, 0, 2));
    c.gossip();
    assert_eq!(c.answer(2, ticket), Some(&Ok(Answer::Done)));
}
#[test]
fn what_a_dead_peer_gave_unheard_is_not_given_out_by_who_takes_over() {
    let mut c = Cluster::seeded(3, "10.32.0.0/24");
    c.gossip();
    c.isolate(2);
    assert_eq!(c.claim(3, "x", "10.32.0.5/24"), Ok(Answer::Done));
    c.crash(1);
    // 2 sees 3 again, but has not heard what 3 was given.
    let known = (2..=3).map(|n| (name(n), format!("host{n}"))).collect();
    c.at(2, |ipam, now| ipam.handle_peers(known, now));
    assert_eq!(c.get(2, take_over("host1")), Ok(Answer::TakenOver(128)));
    let waiting = c.ask(2, claim("y", "10.32.0.5/24"));
    assert_eq!(c.answer(2, waiting), None);
    c.heal();
    c.pass_secs(6);
    let owned = "address 10.32.0.5/24 is owned by other peer 02:00:00:00:00:03 (host3)";
    assert_eq!(refused(c.answer(2, waiting).unwrap()), owned);
    assert_eq!(c.status(2).unconfirmed, []);
    // What the dead peer had left behind what it gave was never told to be anybody else's.
    assert_eq!(c.get(2, take_over("host1")), Ok(Answer::TakenOver(122)));
    assert_eq!(c.claim(2, "y", "10.32.0.6/24"), Ok(Answer::Done));
}

#[test]
fn what_was_taken_over_is_used_although_somebody_in_reach_has_no_part_in_allocation() {
    let mut c = Cluster::seeded(2, "10.32.0.0/24");
    c.gossip();
    c.crash(1);
    let known = [2, 9].map(|n| (name(n), format!("host{n}"))).into();
    c.at(2, |ipam, now| ipam.handle_peers(known, now));
    assert_eq!(c.get(2, take_over("host1")), Ok(Answer::TakenOver(128)));
    let waiting = c.ask(2, claim("y", "10.32.0.5/24"));
    assert_eq!(c.answer(2, waiting), None);
    c.pass_secs(40);
    assert_eq!(c.answer(2, waiting), Some(&Ok(Answer::Done)));
}
