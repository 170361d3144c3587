//! Addresses: requests, gossip and rows of two nodes whose links are perfect.

use ipam::address::Cidr;
use ipam::status::Phase;
use ipam::{Allocate, Answer, CHANNEL, Init, Ipam, IpamConfig, Lookup, Patience, Refusal, Request};

use super::*;
use crate::allocation::WAITING_MAX;

fn peer(n: u8) -> PeerName {
    PeerName::from_u64(0x0200_0000_0000 + u64::from(n))
}

/// A configuration that allocates, over what an earlier run left.
fn restored(n: u8, init: Init, rows: BTreeMap<String, Vec<u8>>) -> Config {
    let mut config = config(n, "");
    let universe = "10.32.0.0/24".parse().unwrap();
    let ipam = IpamConfig {
        name: peer(n),
        nickname: format!("host-{n}"),
        uid: u64::from(n),
        universe,
        default_subnet: universe,
        init,
        reclaim_after: None,
    };
    let rows = rows.into_iter().collect();
    config.ipam = Some(Ipam::new(ipam, rows, [n; 32], base()).unwrap());
    config
}

fn allocating(n: u8, init: Init) -> Config {
    restored(n, init, BTreeMap::new())
}

fn allocate(ident: &str, patience: Patience) -> Command {
    Command::Ipam(Request::Allocate(Allocate {
        ident: ident.to_owned(),
        subnet: None,
        is_container: false,
        patience,
    }))
}

impl Pair {
    fn ask(&mut self, n: usize, id: u64, command: Command) {
        let id = RequestId(id);
        self.input(n, Input::Command { id, command });
    }

    fn answer(&self, id: u64) -> Option<&Reply> {
        let mut replies = self.replies.iter();
        let found = replies.find(|(_, of, _)| *of == RequestId(id));
        found.map(|(_, _, reply)| reply)
    }

    fn address(&self, id: u64) -> Cidr {
        match self.answer(id) {
            Some(Reply::Ipam(Ok(Answer::Address(cidr)))) => *cidr,
            other => panic!("request {id}: {other:?}"),
        }
    }
}

#[test]
fn two_nodes_elect_a_ring_and_give_out_different_addresses() {
    let mut pair = Pair::new([1, 2].map(|n| allocating(n, Init::Consensus(Some(2)))));
    pair.run_for(Duration::from_secs(3));
    pair.ask(0, 10, allocate("a", Patience::Forever));
    pair.ask(1, 11, allocate("b", Patience::Forever));
    pair.run_for(Duration::from_secs(20));
    let (first, second) = (pair.address(10), pair.address(11));
    assert_ne!(first.address, second.address);
    for n in 0..2 {
        let status = pair.nodes[n].status(pair.now).ipam.unwrap();
        assert_eq!(status.owners.len(), 2, "{status:?}");
        assert!(status.owners.iter().all(|owner| owner.is_known));
        assert_eq!((status.phase, status.active), (Phase::Ready, 1));
        pair.nodes[n].ipam().unwrap().assert_invariants();
    }
    assert!(!pair.closed);
}

#[test]
fn rows_come_before_everything_else_and_the_reply_after_them() {
    let now = base();
    let mut node = Node::new(allocating(1, Init::Seed(vec![peer(1)])), [1; 32], now);
    let (records, _) = take(&mut node);
    assert!(matches!(records[..], [Record::Rows(_)]), "{records:?}");
    let (records, outputs) = command(&mut node, allocate("a", Patience::Short), now);
    assert!(matches!(records[..], [Record::Rows(_)]), "{records:?}");
    assert!(
        matches!(outputs.last(), Some(Output::Reply { .. })),
        "{outputs:?}"
    );
}

#[test]
fn the_record_of_a_request_is_durable_before_its_reply_can_be_had() {
    let now = base();
    let mut node = Node::new(allocating(1, Init::Seed(vec![peer(1)])), [1; 32], now);
    drain(&mut node);
    let mut asked = |id: u64, ident: &str| {
        let (id, command) = (RequestId(id), allocate(ident, Patience::Short));
        node.handle_input(Input::Command { id, command }, now);
        node.take_turn()
    };
    let mut stored = Vec::new();
    let outputs = asked(1, "a").durable(|records| {
        stored = records;
        Ok::<(), &str>(())
    });
    let names = stored.iter().flat_map(|record| match record {
        Record::Rows(writes) => writes.iter().map(|write| write.name.as_str()).collect(),
        Record::DirectPeers(_) => Vec::new(),
    });
    assert!(
        names
            .into_iter()
            .any(|name| name == "ipam/owned/10.32.0.1/24")
    );
    let is_reply = |output: &Output| matches!(output, Output::Reply { .. });
    assert!(outputs.unwrap().iter().any(is_reply));
    let lost = asked(2, "b").durable(|_| Err("disk full"));
    assert_eq!(lost.err(), Some("disk full"), "and nobody is replied to");
}

#[test]
fn what_was_persisted_is_still_held_after_a_restart() {
    let mut pair = Pair::new([1, 2].map(|n| allocating(n, Init::Consensus(Some(2)))));
    pair.run_for(Duration::from_secs(3));
    pair.ask(0, 10, allocate("a", Patience::Forever));
    pair.run_for(Duration::from_secs(20));
    let held = pair.address(10);
    let rows = pair.rows[0].clone();
    let mut node = Node::new(
        restored(1, Init::Consensus(Some(2)), rows),
        [9; 32],
        pair.now,
    );
    drain(&mut node);
    let lookup = Command::Ipam(Request::Lookup(Lookup {
        ident: "a".into(),
        subnet: None,
    }));
    let (_, outputs) = command(&mut node, lookup, pair.now);
    let expected = Reply::Ipam(Ok(Answer::Addresses(vec![held])));
    let Some(Output::Reply { reply, .. }) = outputs.last() else {
        panic!("{outputs:?}");
    };
    assert_eq!(format!("{reply:?}"), format!("{expected:?}"));
}

#[test]
fn who_asks_a_node_without_an_allocator_is_told_at_once() {
    let now = base();
    let mut node = node(1, "", now);
    drain(&mut node);
    let (_, outputs) = command(&mut node, allocate("a", Patience::Forever), now);
    let [Output::Reply { reply, .. }] = outputs.as_slice() else {
        panic!("{outputs:?}");
    };
    assert!(matches!(reply, Reply::Ipam(Err(Refusal::Disabled))));
}

#[test]
fn a_request_whose_caller_is_gone_is_answered_and_forgotten() {
    // Three votes are needed and there are two.
    let mut pair = Pair::new([1, 2].map(|n| allocating(n, Init::Consensus(Some(5)))));
    pair.ask(1, 10, allocate("a", Patience::Forever));
    pair.input(1, Input::Cancelled(RequestId(10)));
    assert!(matches!(
        pair.answer(10),
        Some(Reply::Ipam(Err(Refusal::Cancelled)))
    ));
    let status = pair.nodes[1].status(pair.now).ipam.unwrap();
    assert!(status.pending_allocates.is_empty());
    pair.input(1, Input::Cancelled(RequestId(10)));
    pair.input(1, Input::Cancelled(RequestId(999)));
    assert_eq!(pair.replies.iter().filter(|(n, ..)| *n == 1).count(), 1);
}

#[test]
fn requests_that_wait_are_bounded() {
    let now = base();
    let mut node = Node::new(allocating(1, Init::Consensus(Some(3))), [1; 32], now);
    drain(&mut node);
    let prime = |n: usize| Input::Command {
        id: RequestId(n as u64),
        command: Command::Ipam(Request::Prime(Patience::Forever)),
    };
    for n in 0..WAITING_MAX {
        node.handle_input(prime(n), now);
    }
    drain(&mut node);
    assert_eq!(node.excess(), None);
    node.handle_input(prime(WAITING_MAX), now);
    let outputs = drain(&mut node);
    let refused = |output: &Output| {
        let limit = WAITING_MAX;
        let expected = Refusal::TooManyWaiting { limit };
        let unavailable =
            |reply: &Reply| matches!(reply, Reply::Ipam(Err(refusal)) if *refusal == expected);
        matches!(output, Output::Reply { reply, .. } if unavailable(reply))
    };
    assert_eq!(outputs.iter().filter(|output| refused(output)).count(), 1);
    assert_eq!(node.excess(), None);
}

#[test]
fn gossip_that_makes_no_sense_closes_no_link() {
    let mut pair = Pair::new([1, 2].map(|n| allocating(n, Init::Seed(vec![peer(1), peer(2)]))));
    pair.run_for(Duration::from_secs(3));
    for payload in [&[][..], &[0], &[1, 0xff, 7], &[2, 2], &[0xff; 64]] {
        let (now, content) = (pair.now, GossipContent::Payload(payload.to_vec()));
        let mesh = &mut pair.nodes[0].mesh;
        mesh.gossip_unicast(CHANNEL, peer(2), payload.to_vec(), now)
            .unwrap();
        mesh.gossip_broadcast(CHANNEL, peer(1), content.clone(), now);
        mesh.gossip_neighbour_subset(CHANNEL, None, content, now);
        pair.nodes[0].settle();
        pair.settle();
    }
    pair.run_for(Duration::from_secs(40));
    assert!(!pair.closed);
    pair.ask(1, 10, allocate("b", Patience::Short));
    assert_eq!(pair.address(10).to_string(), "10.32.0.128/24");
}

#[test]
fn two_machines_of_one_name_both_say_so_and_give_nothing_out() {
    let mut pair = Pair::new([1, 1].map(|n| allocating(n, Init::Seed(vec![peer(1), peer(3)]))));
    pair.run_for(Duration::from_secs(3));
    for (n, id) in [(0, 10), (1, 11)] {
        let status = pair.nodes[n].status(pair.now);
        let text = status.clone_text.expect("both know");
        assert!(text.contains("another machine has our peer name"), "{text}");
        pair.ask(n, id, allocate("a", Patience::Short));
        pair.run_for(Duration::from_secs(6));
        match pair.answer(id) {
            Some(Reply::Ipam(Err(why))) => {
                assert!(why.to_string().contains("peer name"), "{why}");
            }
            other => panic!("{other:?}"),
        }
        pair.nodes[n].ipam().unwrap().assert_invariants();
    }
}

#[test]
fn who_cannot_be_reached_any_more_is_shown_so() {
    let mut pair = Pair::new([1, 2].map(|n| allocating(n, Init::Seed(vec![peer(1), peer(2)]))));
    pair.run_for(Duration::from_secs(3));
    let known = |pair: &Pair| {
        let status = pair.nodes[1].status(pair.now).ipam.unwrap();
        let mut owners = status.owners.into_iter();
        owners.find(|owner| owner.peer == peer(1)).unwrap().is_known
    };
    assert!(known(&pair));
    let (link, error) = (pair.links[1], "EOF".to_owned());
    pair.nodes[1].handle_input(Input::LinkClosed { link, error }, pair.now);
    drain(&mut pair.nodes[1]);
    pair.nodes[1].handle_timeout(pair.now + Duration::from_secs(5));
    assert!(!known(&pair));
}
