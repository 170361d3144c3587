//! Links that are dead at one end, dials nobody answers, and two peers of one name.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod net;

use mesh::MeshConfig;
use mesh::status::TargetState;
use net::{Net, Stranger, config, encrypted, name, secs};
use wire::LinkId;
use wire::handshake::Features;
use wire::message::{Message, encode_frame};

/// Two connected peers, of which the second loses its process and its links without a word, and
/// comes back as another incarnation. Returns how long the first keeps it out.
fn time_to_return(seed: u8, settings: fn(usize) -> MeshConfig, answers: bool) -> u64 {
    let mut net = Net::new(vec![settings(0), settings(1)]);
    net.answers_half_open = answers;
    net.connect(1, 0);
    net.run(secs(20));
    assert_eq!(net.neighbours(0), [(name(1), true)]);
    net.vanish(1);
    net.restart(1, settings(1), 100 + seed);
    net.connect(1, 0);
    for waited in 0..120 {
        let both = net.neighbours(1).len() + net.neighbours(0).len();
        let is_back = both == 2 && net.meshes[0].unicast_established().len() == 2;
        if is_back && net.meshes[1].unicast_established().len() == 2 {
            return waited;
        }
        net.run(secs(1));
    }
    panic!("it never came back");
}

/// Twenty draws of the connection ids: the old link would win about half of them.
#[test]
fn a_restarted_peer_is_back_at_once_though_its_old_link_looks_alive() {
    for seed in 0..20 {
        for settings in [config, encrypted] {
            for answers in [false, true] {
                assert!(time_to_return(seed, settings, answers) <= 2);
            }
        }
    }
}

/// The same process comes back: its end of the link is gone, ours is not.
fn time_to_reconnect(seed: u8, answers: bool) -> u64 {
    let mut net = Net::new(vec![config(0), config(1)]);
    net.restart(0, config(0), 100 + seed);
    net.answers_half_open = answers;
    net.connect(1, 0);
    net.run(secs(20));
    let lost = net.only_link(1);
    net.vanish(1);
    let now = net.now;
    net.meshes[1].handle_link_closed(lost, "connection reset by peer", now);
    for waited in 0..120 {
        let mutual = net
            .meshes
            .iter()
            .all(|m| m.unicast_established().len() == 2);
        if mutual && !net.neighbours(1).is_empty() {
            return waited;
        }
        net.run(secs(1));
    }
    panic!("it never came back");
}

/// Twenty draws, as above.
#[test]
fn a_peer_whose_link_is_half_open_is_back_within_seconds_if_its_kernel_answers() {
    for seed in 0..20 {
        // One attempt, the reset it provokes, and the next attempt.
        assert!(time_to_reconnect(seed, true) <= 8);
        // Nobody answers: the link is found out by the heartbeat it misses.
        assert!(time_to_reconnect(seed, false) <= 45);
    }
}

#[test]
fn a_live_link_is_not_displaced_by_one_with_a_larger_uid() {
    let mut net = Net::new(vec![config(0)]);
    let features = Stranger::features();
    let first = Stranger::introduce(&mut net, 0, &features);
    let mut refused = 0;
    for n in 0..20 {
        net.run(secs(10));
        first.say(&mut net, &Message::Heartbeat);
        let features = Features {
            conn_id: 1 << (20 + n),
            ..features.clone()
        };
        let second = Stranger::introduce(&mut net, 0, &features);
        if second.is_closed(&net) {
            refused += 1;
        }
        if first.is_closed(&net) {
            break;
        }
    }
    assert!(refused > 0);
    assert_eq!(net.seen[0].connections.len(), 1);
}

/// Two live peers of one name may cost each other a connection or two, not peace.
#[test]
fn two_live_peers_of_one_name_do_not_displace_each_other_for_ever() {
    let mut net = Net::new(vec![config(0)]);
    let clone = |uid: u64, conn_id: u64| Features {
        uid,
        conn_id,
        ..Stranger::features()
    };
    let mut displaced = 0;
    let mut draw = 0x9e37_79b9_7f4a_7c15_u64;
    let mut owner = Stranger::introduce(&mut net, 0, &clone(1, draw));
    for round in 1..400 {
        draw = draw.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(round);
        let uid = 1 + (round & 1);
        let challenger = Stranger::introduce(&mut net, 0, &clone(uid, draw));
        if owner.is_closed(&net) {
            displaced += 1;
            owner = challenger;
        }
        owner.say(&mut net, &Message::Heartbeat);
        net.run(secs(5));
    }
    assert!(displaced <= 20, "records of 400 draws, not {displaced}");
}

#[test]
fn a_dial_the_shell_never_answers_is_given_up_and_tried_again() {
    let mut net = Net::new(vec![config(0), config(1)]);
    net.unanswered.insert(0);
    net.connect(0, 1);
    assert_eq!(net.seen[0].dials, 1);
    net.run(secs(39));
    assert!(net.seen[0].closed.is_empty());
    net.run(secs(1));
    assert_eq!(net.seen[0].closed, [LinkId::outbound(0)]);
    let targets = net.meshes[0].status(net.now).targets;
    let TargetState::Failed { error, .. } = &targets[0].state else {
        panic!("it failed: {targets:?}")
    };
    assert_eq!(error, "dial tcp 10.0.0.2:6783: i/o timeout");
    net.run(secs(600));
    assert!(
        (5..16).contains(&net.seen[0].dials),
        "{}",
        net.seen[0].dials
    );
    net.unanswered.clear();
    net.run(secs(700));
    assert_eq!(net.neighbours(0), [(name(1), true)]);
}

#[test]
fn an_answer_that_comes_after_the_deadline_is_refused() {
    let mut net = Net::new(vec![config(0), config(1)]);
    net.unanswered.insert(0);
    net.connect(0, 1);
    net.run(secs(40));
    let late = LinkId::outbound(0);
    let addresses = (
        "10.0.0.1:1".parse().unwrap(),
        "10.0.0.2:6783".parse().unwrap(),
    );
    let now = net.now;
    net.meshes[0].handle_link_connected(late, addresses.0, addresses.1, now);
    net.settle();
    assert_eq!(net.seen[0].closed, [late, late]);
    net.inject(0, late, &encode_frame(&[0]).unwrap());
    assert!(net.neighbours(0).is_empty());
}
