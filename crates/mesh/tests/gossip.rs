//! What owners of channels can rely on, and what happens to channels nobody here owns.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod net;

use mesh::{GossipContent, MeshConfig, UnicastError};
use net::{Net, Stranger, config, name, secs};
use wire::PeerName;
use wire::message::{Delivery, Message};

const CHANNEL: &str = "IPallocation";

/// Peers in a line, without discovery, owners of the channel where wanted.
fn line(count: usize, owns: impl Fn(usize) -> bool) -> Net {
    let configs = (0..count).map(|n| MeshConfig {
        discovery: false,
        ..config(n)
    });
    let mut net = Net::new(configs.collect());
    for n in 0..count {
        if owns(n) {
            net.meshes[n].register_channel(CHANNEL);
        }
    }
    for n in 1..count {
        net.connect(n - 1, n);
    }
    net.run(secs(5));
    for seen in &mut net.seen {
        seen.gossip.clear();
    }
    net
}

fn heard(net: &Net, n: usize) -> Vec<(Delivery, Vec<u8>)> {
    let ours = net.seen[n]
        .gossip
        .iter()
        .filter(|(channel, _, _)| channel == CHANNEL);
    ours.map(|(_, delivery, payload)| (*delivery, payload.clone()))
        .collect()
}

fn payload(text: &str) -> GossipContent {
    GossipContent::Payload(text.into())
}

#[test]
fn a_unicast_reaches_its_destination_and_nobody_else() {
    let mut net = line(4, |_| true);
    net.meshes[0]
        .gossip_unicast(CHANNEL, name(3), b"hello".to_vec(), net.now)
        .unwrap();
    net.settle();
    assert_eq!(
        heard(&net, 3),
        [(Delivery::Unicast(name(0)), b"hello".to_vec())]
    );
    assert!(heard(&net, 1).is_empty() && heard(&net, 2).is_empty());
}

#[test]
fn a_unicast_to_nobody_is_an_error() {
    let mut net = line(2, |_| true);
    let nobody = PeerName::from_u64(5);
    let now = net.now;
    let mut send = |to| net.meshes[0].gossip_unicast(CHANNEL, to, Vec::new(), now);
    assert_eq!(send(nobody), Err(UnicastError::UnknownDestination(nobody)));
    assert_eq!(
        send(name(0)),
        Err(UnicastError::UnknownDestination(name(0)))
    );
    assert_eq!(
        send(nobody).unwrap_err().to_string(),
        "unknown relay destination: 00:00:00:00:00:05"
    );
}

#[test]
fn a_broadcast_is_passed_on_by_owners_and_by_stand_ins() {
    let mut net = line(4, |n| n != 2);
    let now = net.now;
    net.meshes[0].gossip_broadcast(CHANNEL, name(0), payload("news"), now);
    net.settle();
    assert_eq!(
        heard(&net, 1),
        [(Delivery::Broadcast(name(0)), b"news".to_vec())]
    );
    assert!(
        heard(&net, 3).is_empty(),
        "the owner at 1 has not passed it on yet"
    );
    net.meshes[1].gossip_broadcast(CHANNEL, name(0), payload("news"), now);
    net.settle();
    assert_eq!(
        heard(&net, 3),
        [(Delivery::Broadcast(name(0)), b"news".to_vec())]
    );
    assert_eq!(heard(&net, 1).len(), 1);
}

#[test]
fn neighbour_gossip_goes_to_neighbours_but_not_back() {
    let mut net = line(3, |_| true);
    let now = net.now;
    net.meshes[1].gossip_neighbour_subset(CHANNEL, None, payload("a"), now);
    net.meshes[1].gossip_neighbour_subset(CHANNEL, Some(name(0)), payload("b"), now);
    net.settle();
    let neighbour = Delivery::Neighbour(name(1));
    assert_eq!(heard(&net, 0), [(neighbour, b"a".to_vec())]);
    assert_eq!(
        heard(&net, 2),
        [(neighbour, b"a".to_vec()), (neighbour, b"b".to_vec())]
    );
}

#[test]
fn state_is_asked_for_and_sent_on_connection_and_every_half_minute() {
    let mut net = Net::new(vec![config(0), config(1)]);
    for n in 0..2 {
        net.meshes[n].register_channel(CHANNEL);
        net.states.insert(
            (n, CHANNEL.to_owned()),
            format!("state of {n}").into_bytes(),
        );
    }
    net.connect(0, 1);
    assert_eq!(
        heard(&net, 1),
        [(Delivery::Neighbour(name(0)), b"state of 0".to_vec())]
    );
    assert_eq!(
        heard(&net, 0),
        [(Delivery::Neighbour(name(1)), b"state of 1".to_vec())]
    );
    net.states.remove(&(0, CHANNEL.to_owned()));
    net.run(secs(90));
    assert_eq!(heard(&net, 0).len(), 4);
    assert_eq!(heard(&net, 1).len(), 1, "0 had nothing to say");
}

#[test]
fn an_unknown_channel_floods_through_us_once_per_payload() {
    let mut net = line(3, |n| n == 2);
    let stranger = Stranger::introduce(&mut net, 0, &Stranger::features());
    for _ in 0..3 {
        stranger.gossip(&mut net, CHANNEL, b"same".to_vec());
    }
    stranger.gossip(&mut net, CHANNEL, b"other".to_vec());
    let neighbour = Delivery::Neighbour(name(1));
    assert_eq!(
        heard(&net, 2),
        [
            (neighbour, b"same".to_vec()),
            (neighbour, b"other".to_vec())
        ]
    );
    net.run(secs(31));
    stranger.gossip(&mut net, CHANNEL, b"later".to_vec());
    stranger.gossip(&mut net, CHANNEL, b"same".to_vec());
    assert_eq!(
        heard(&net, 2).len(),
        4,
        "after half a minute it is news again"
    );
}

#[test]
fn a_unicast_on_an_unknown_channel_is_relayed_unchanged_and_dropped_at_its_end() {
    let mut net = line(3, |n| n == 2);
    let stranger = Stranger::introduce(&mut net, 0, &Stranger::features());
    for destination in [name(2), name(1), name(0), name(77)] {
        stranger.say(
            &mut net,
            &Message::GossipUnicast {
                channel: CHANNEL.to_owned(),
                source: name(100),
                destination,
                payload: vec![7],
            },
        );
    }
    assert_eq!(heard(&net, 2), [(Delivery::Unicast(name(100)), vec![7])]);
    assert!(!stranger.is_closed(&net));
}

#[test]
fn our_own_broadcast_coming_back_is_not_spread_again() {
    let mut net = line(3, |n| n == 2);
    let stranger = Stranger::introduce(&mut net, 0, &Stranger::features());
    stranger.say(
        &mut net,
        &Message::GossipBroadcast {
            channel: CHANNEL.to_owned(),
            source: name(0),
            payload: vec![7],
        },
    );
    assert!(heard(&net, 2).is_empty());
}

#[test]
fn a_link_that_does_not_drain_gets_the_state_instead_of_a_backlog() {
    let mut net = line(2, |_| true);
    net.states
        .insert((0, CHANNEL.to_owned()), b"everything".to_vec());
    net.stuck.insert(0);
    let now = net.now;
    net.meshes[0].gossip_broadcast(CHANNEL, name(0), payload("lost in the stuck link"), now);
    net.settle();
    let before = net.sent_bytes[0];
    for n in 0..1000 {
        net.meshes[0].gossip_broadcast(CHANNEL, name(0), payload(&format!("news {n}")), now);
        net.settle();
    }
    assert_eq!(
        net.sent_bytes[0], before,
        "nothing is sent into a link that does not drain"
    );
    net.stuck.clear();
    let link = net.only_link(0);
    net.meshes[0].handle_link_flushed(link, now);
    net.settle();
    assert_eq!(
        heard(&net, 1),
        [(Delivery::Broadcast(name(0)), b"everything".to_vec())]
    );
}

#[test]
fn relaying_into_a_congested_link_is_refused() {
    let mut net = line(2, |_| true);
    net.stuck.insert(0);
    let now = net.now;
    let mut send = || net.meshes[0].gossip_unicast(CHANNEL, name(1), vec![0; 1 << 20], now);
    let results: Vec<_> = (0..10).map(|_| send()).collect();
    assert!(results[0].is_ok());
    assert_eq!(results[9], Err(UnicastError::Congested(name(1))));
}

#[test]
fn the_owner_of_a_channel_can_end_the_link_that_brought_nonsense() {
    let mut net = Net::new(vec![config(0)]);
    net.meshes[0].register_channel(CHANNEL);
    let stranger = Stranger::introduce(&mut net, 0, &Stranger::features());
    stranger.gossip(&mut net, CHANNEL, b"nonsense".to_vec());
    net.meshes[0].connection_failed(stranger.link, "gob: unexpected end of data", net.now);
    net.settle();
    assert!(stranger.is_closed(&net));
}

#[test]
#[should_panic(expected = "[gossip] duplicate channel")]
fn a_channel_has_one_owner() {
    let mut net = Net::new(vec![config(0)]);
    net.meshes[0].register_channel(CHANNEL);
    net.meshes[0].register_channel(CHANNEL);
}

#[test]
fn channels_nobody_owns_cost_a_bounded_amount_of_memory() {
    let mut net = line(2, |_| true);
    let stranger = Stranger::introduce(&mut net, 0, &Stranger::features());
    net.stuck.insert(0);
    for n in 0..2000 {
        stranger.gossip(&mut net, &format!("channel{n}"), vec![1; 50_000]);
    }
    stranger.gossip(&mut net, &"x".repeat(300), vec![1]);
    net.stuck.clear();
    let before = net.sent_bytes[0];
    let links: Vec<_> = net.seen[0].connections.keys().copied().collect();
    for link in links {
        net.meshes[0].handle_link_flushed(link, net.now);
    }
    net.settle();
    assert!(net.sent_bytes[0] - before < 40 << 20);
}
