//! Whole meshes talking to each other: forming, breaking and mending.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod net;

use mesh::status::TargetState;
use mesh::{DirectPeer, MeshConfig, TrustedSubnet};
use net::{Net, config, direct, encrypted, ip, name, secs};
use wire::PeerName;

fn versions(max: u8, config: MeshConfig) -> MeshConfig {
    MeshConfig {
        max_protocol_version: max,
        ..config
    }
}

fn check_pair(mut net: Net, version: u8, is_encrypted: bool) {
    net.connect(0, 1);
    net.run(secs(5));
    assert_eq!(net.neighbours(0), [(name(1), true)]);
    assert_eq!(net.neighbours(1), [(name(0), true)]);
    let status = net
        .meshes
        .iter()
        .map(|mesh| mesh.status(net.now))
        .collect::<Vec<_>>();
    for (n, status) in status.iter().enumerate() {
        assert_eq!(status.connections[0].protocol_version, version);
        assert_eq!(status.connections[0].outbound, n == 0);
        assert_eq!(status.connections[0].data_encrypted, is_encrypted);
        assert_eq!(status.unicast_routes.len(), 2);
    }
    let one = &net.seen[0].connections[&net.only_link(0)];
    let other = &net.seen[1].connections[&net.only_link(1)];
    assert_eq!(one.uid, other.uid);
    assert_eq!(one.link_encrypted, is_encrypted);
    let key =
        |connection: &mesh::Connection| connection.data_key.as_ref().map(|k| *k.expose_bytes());
    assert_eq!(key(one), key(other));
    assert_eq!(key(one).is_some(), is_encrypted);
    assert_eq!(one.features.weft.is_some(), version == 2);
    net.assert_agreement();
    net.run(secs(600));
    assert_eq!(net.seen[0].added, 1, "the link lives on heartbeats");
}

#[test]
fn two_peers_connect_in_both_versions_with_and_without_encryption() {
    for (version, ours, theirs) in [(2, 2, 2), (1, 1, 2), (1, 2, 1), (1, 1, 1)] {
        let plain = vec![versions(ours, config(0)), versions(theirs, config(1))];
        check_pair(Net::new(plain), version, false);
        let secret = vec![versions(ours, encrypted(0)), versions(theirs, encrypted(1))];
        check_pair(Net::new(secret), version, true);
    }
}

#[test]
fn it_does_not_matter_how_the_byte_stream_is_cut() {
    for chunk in (1..64).chain([100, 200, 333]) {
        for version in [1, 2] {
            let configs = vec![versions(version, encrypted(0)), encrypted(1)];
            let mut net = Net::new(configs);
            net.chunk = Some(chunk);
            check_pair(net, version, true);
        }
    }
}

#[test]
fn different_passwords_do_not_connect() {
    for version in [1, 2] {
        let mut theirs = versions(version, encrypted(1));
        theirs.password = mesh::Password::new("other");
        let mut net = Net::new(vec![encrypted(0), theirs]);
        net.connect(0, 1);
        net.run(secs(60));
        assert_eq!(net.seen[0].added + net.seen[1].added, 0);
        assert_eq!(target_error(&net, 0), "Unable to decrypt TCP msg");
        assert_eq!(
            net.meshes[0].status(net.now).peers[0].version,
            0,
            "nothing happened"
        );
    }
}

fn target_error(net: &Net, n: usize) -> String {
    match net.meshes[n].status(net.now).targets.remove(0).state {
        TargetState::Failed { error, .. } | TargetState::Retrying(error) => error,
        TargetState::Connecting | TargetState::Waiting { .. } => String::new(),
    }
}

#[test]
fn a_line_becomes_a_full_mesh_by_discovery() {
    let mut net = Net::new((0..5).map(config).collect());
    for n in 0..4 {
        net.connect(n, n + 1);
    }
    net.run(secs(60));
    for n in 0..5 {
        let others = (0..5)
            .filter(|m| *m != n)
            .map(|m| (name(m), true))
            .collect::<Vec<_>>();
        assert_eq!(net.neighbours(n), others);
        assert!(net.meshes[n].status(net.now).targets.is_empty());
    }
    net.assert_agreement();
}

#[test]
fn without_discovery_a_line_stays_a_line_and_everybody_is_reached() {
    let configs = (0..5).map(|n| MeshConfig {
        discovery: false,
        ..config(n)
    });
    let mut net = Net::new(configs.collect());
    for n in 0..4 {
        net.connect(n, n + 1);
    }
    net.run(secs(60));
    assert_eq!(net.neighbours(0), [(name(1), true)]);
    for n in 0..5 {
        assert_eq!(net.meshes[n].unicast_established().len(), 5);
    }
    assert_eq!(net.meshes[0].unicast_established()[&name(4)], name(1));
    assert_eq!(net.meshes[2].broadcast_established(name(0)), [name(3)]);
    net.assert_agreement();
}

#[test]
fn dialling_each_other_leaves_one_connection_with_the_smaller_uid_on_both_ends() {
    for seed in 0..8 {
        let mut net = Net::new(vec![config(0), config(1)]);
        net.reset = seed % 2 == 0;
        net.restart(0, config(0), 50 + seed);
        net.meshes[0].connect(vec![direct(1)], false, net.now);
        net.meshes[1].connect(vec![direct(0)], false, net.now);
        net.run(secs(20));
        let uid = |n: usize| net.seen[n].connections[&net.only_link(n)].uid;
        assert_eq!(uid(0), uid(1));
        assert_eq!(net.neighbours(0), [(name(1), true)]);
        assert_eq!(net.neighbours(1), [(name(0), true)]);
        net.assert_agreement();
    }
}

#[test]
fn connecting_to_ourselves_is_tried_once() {
    for reset in [false, true] {
        let mut net = Net::new(vec![config(0)]);
        net.reset = reset;
        net.connect(0, 0);
        net.run(secs(3600));
        assert_eq!(net.seen[0].dials, 1);
        assert_eq!(target_error(&net, 0), "cannot connect to ourself");
        assert_eq!(net.meshes[0].status(net.now).termination_count, 0);
        assert_eq!(net.meshes[0].peers().count(), 1);
    }
}

#[test]
fn a_namesake_is_refused_by_name() {
    let mut net = Net::new(vec![config(0), MeshConfig::new(name(0), "impostor")]);
    net.connect(0, 1);
    net.run(secs(3600));
    assert!(net.seen[0].dials <= 61, "once a minute");
    let expected = "local \"02:00:00:00:00:01(peer0)\" and remote \"02:00:00:00:00:01(impostor)\" \
                    peer names collision";
    assert_eq!(target_error(&net, 0), expected);
}

#[test]
fn the_connection_limit_holds_for_both_directions() {
    let limited = MeshConfig {
        conn_limit: 2,
        ..config(0)
    };
    let mut net = Net::new(vec![limited, config(1), config(2), config(3)]);
    for n in 1..4 {
        net.connect(n, 0);
    }
    net.run(secs(5));
    assert_eq!(net.neighbours(0).len(), 2);
    net.connect(0, 3);
    net.run(secs(5));
    assert_eq!(net.neighbours(0).len(), 2);
    let targets = net.meshes[0].status(net.now).targets;
    let ours = targets
        .into_iter()
        .find(|target| target.address.ip() == ip(3))
        .unwrap();
    let TargetState::Failed { error, .. } = ours.state else {
        panic!("{:?}", ours.state)
    };
    assert_eq!(error, "Connection limit reached (2)");
}

#[test]
fn a_restarted_peer_comes_back_under_its_old_name() {
    let mut net = Net::new(vec![config(0), config(1), config(2)]);
    net.connect(0, 1);
    net.connect(0, 2);
    net.run(secs(40));
    let old_uid = net.meshes[1].uid();
    net.restart(1, config(1), 77);
    assert_ne!(net.meshes[1].uid(), old_uid);
    net.run(secs(40));
    net.assert_agreement();
    assert_eq!(net.neighbours(1), [(name(0), true), (name(2), true)]);
    let seen_by_0 = net.meshes[0].status(net.now).peers;
    let entry = seen_by_0
        .into_iter()
        .find(|peer| peer.name == name(1))
        .unwrap();
    assert_eq!(entry.uid, net.meshes[1].uid());
}

#[test]
fn a_peer_that_vanishes_is_forgotten_everywhere() {
    let mut net = Net::new((0..4).map(config).collect());
    for n in 1..4 {
        net.connect(n, 0);
    }
    net.run(secs(30));
    net.unreachable.insert(3);
    let lonely = MeshConfig {
        discovery: false,
        ..config(3)
    };
    net.restart(3, lonely, 90);
    net.run(secs(10));
    for n in 0..3 {
        assert_eq!(net.seen[n].peers_removed, [name(3)], "peer {n}");
        assert_eq!(net.meshes[n].peers().count(), 3);
        assert!(!net.meshes[n].unicast_established().contains_key(&name(3)));
    }
}

#[test]
fn a_cut_cable_is_noticed_and_mended() {
    let mut net = Net::new(vec![config(0), config(1)]);
    net.connect(0, 1);
    net.run(secs(90));
    let link = net.only_link(0);
    net.cut(0, link);
    net.settle();
    assert_eq!(net.seen[0].removed, [link]);
    net.run(secs(1));
    assert_eq!(
        net.neighbours(0),
        [(name(1), true)],
        "a good connection is retried at once"
    );
    assert_eq!(net.meshes[0].status(net.now).termination_count, 1);
}

#[test]
fn a_pending_connection_carries_gossip_but_no_data() {
    let mut net = Net::new(vec![config(0), config(1)]);
    net.establish = false;
    net.connect(0, 1);
    net.run(secs(10));
    assert_eq!(net.neighbours(0), [(name(1), false)]);
    assert_eq!(net.meshes[0].unicast_established().len(), 1);
    let link = net.only_link(0);
    net.meshes[0].connection_established(link, net.now);
    net.run(secs(10));
    assert_eq!(
        net.meshes[0].unicast_established().len(),
        1,
        "one direction is not enough"
    );
    let link = net.only_link(1);
    net.meshes[1].connection_established(link, net.now);
    net.run(secs(10));
    assert_eq!(net.meshes[0].unicast_established()[&name(1)], name(1));
    assert_eq!(net.meshes[1].unicast_established()[&name(0)], name(0));
}

#[test]
fn a_connection_its_overlay_gives_up_is_closed_and_retried() {
    let mut net = Net::new(vec![config(0), config(1)]);
    net.connect(0, 1);
    let link = net.only_link(0);
    net.meshes[0].connection_failed(link, "timed out waiting for UDP heartbeat", net.now);
    net.settle();
    assert!(net.neighbours(0).is_empty() && net.neighbours(1).is_empty());
    assert_eq!(target_error(&net, 0), "timed out waiting for UDP heartbeat");
    net.run(secs(10));
    assert_eq!(net.neighbours(0).len(), 1);
}

#[test]
fn only_trust_on_both_sides_leaves_the_data_plane_in_clear() {
    let trusting = |n: usize| MeshConfig {
        trusted_subnets: vec![TrustedSubnet::new(ip(0), 24).unwrap()],
        ..encrypted(n)
    };
    for (configs, in_clear) in [
        (vec![trusting(0), trusting(1)], true),
        (vec![trusting(0), encrypted(1)], false),
        (vec![encrypted(0), trusting(1)], false),
        (vec![versions(1, trusting(0)), trusting(1)], false),
    ] {
        let mut net = Net::new(configs);
        net.connect(0, 1);
        for n in 0..2 {
            let connection = &net.seen[n].connections[&net.only_link(n)];
            assert!(connection.link_encrypted);
            assert_eq!(connection.data_key.is_none(), in_clear);
        }
    }
}

#[test]
fn peers_without_a_common_overlay_do_not_connect() {
    let other = MeshConfig {
        overlays: vec!["awsvpc".to_owned()],
        ..config(1)
    };
    let mut net = Net::new(vec![config(0), other]);
    net.connect(0, 1);
    net.run(secs(5));
    assert_eq!(net.seen[0].added, 0);
    assert_eq!(target_error(&net, 0), "no overlays in common with peer");
}

#[test]
fn direct_peers_are_reported_when_they_change() {
    let mut net = Net::new(vec![config(0), config(1), config(2)]);
    net.connect(0, 1);
    assert_eq!(net.seen[0].direct_peers, Some(vec!["10.0.0.2".to_owned()]));
    net.seen[0].direct_peers = None;
    net.connect(0, 1);
    assert_eq!(net.seen[0].direct_peers, None);
    net.meshes[0].connect(vec![direct(2)], true, net.now);
    net.settle();
    assert_eq!(net.seen[0].direct_peers, Some(vec!["10.0.0.3".to_owned()]));
    net.meshes[0].forget(&["10.0.0.3".to_owned()], net.now);
    net.run(secs(5));
    assert_eq!(net.seen[0].direct_peers, Some(vec![]));
    assert_eq!(net.neighbours(0).len(), 2, "connections stay");
}

#[test]
fn colliding_short_ids_are_sorted_out() {
    // Seeds that happen to collide are hard to come by; a mesh started with the seed of a peer is
    // not: the same seed draws the same id.
    let mut net = Net::new(vec![config(0), config(1)]);
    net.restart(1, config(1), 1);
    assert_eq!(
        net.meshes[0].short_id(name(0)),
        net.meshes[1].short_id(name(1))
    );
    net.connect(1, 0);
    net.run(secs(10));
    let ids = |n: usize| {
        (
            net.meshes[n].short_id(name(0)),
            net.meshes[n].short_id(name(1)),
        )
    };
    assert_eq!(ids(0), ids(1));
    assert_ne!(ids(0).0, ids(0).1);
    assert_eq!(
        net.meshes[0].short_id_owner(ids(0).1.unwrap()),
        Some(name(1))
    );
    assert!(net.seen[1].short_ids_changed > 0);
    net.assert_agreement();
}

#[test]
fn an_ipv6_peer_is_dialled_and_listed_in_brackets() {
    let mut net = Net::new(vec![config(0)]);
    let peer = DirectPeer {
        text: "[fd00::2]:7000".to_owned(),
        ip: "fd00::2".parse().unwrap(),
        port: Some(7000),
    };
    net.meshes[0].connect(vec![peer], false, net.now);
    net.settle();
    let target = net.meshes[0].status(net.now).targets.remove(0);
    assert_eq!(target.address.to_string(), "[fd00::2]:7000");
}

/// F23: a network grows by adding peers.
#[test]
fn sixteen_peers_agree_after_a_while() {
    let mut net = Net::new((0..16).map(config).collect());
    for n in 1..16 {
        net.connect(n, (n * 7 + 3) % n);
    }
    net.run(secs(120));
    net.assert_agreement();
    for n in 0..16 {
        assert_eq!(net.neighbours(n).len(), 15);
        assert_eq!(net.meshes[n].unicast_established().len(), 16);
    }
    let unknown = PeerName::from_u64(5);
    assert!(net.meshes[0].broadcast_established(unknown).is_empty());
}
