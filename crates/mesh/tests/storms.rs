//! Random histories of a small cluster: whatever happened, it heals, and all agree in the end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod net;

use mesh::MeshConfig;
use net::{Net, config, direct, encrypted, ip, name, secs};
use proptest::prelude::*;
use wire::PeerName;

const PEERS: usize = 5;

#[derive(Debug, Clone)]
enum Act {
    Connect(usize, usize),
    Forget(usize, usize),
    Cut(usize, usize),
    Fail(usize, usize),
    Restart(usize, u8),
    Refuse(usize, bool),
    Establish(bool),
    Reset(bool),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let peer = 0..PEERS;
    prop_oneof![
        4 => (peer.clone(), peer.clone()).prop_map(|(from, to)| Act::Connect(from, to)),
        1 => (peer.clone(), peer.clone()).prop_map(|(from, to)| Act::Forget(from, to)),
        2 => (peer.clone(), 0..PEERS).prop_map(|(n, nth)| Act::Cut(n, nth)),
        2 => (peer.clone(), 0..PEERS).prop_map(|(n, nth)| Act::Fail(n, nth)),
        1 => (peer.clone(), 100_u8..).prop_map(|(n, seed)| Act::Restart(n, seed)),
        1 => (peer, any::<bool>()).prop_map(|(n, on)| Act::Refuse(n, on)),
        1 => any::<bool>().prop_map(Act::Establish),
        1 => any::<bool>().prop_map(Act::Reset),
        4 => (0_u64..100).prop_map(Act::Wait),
    ]
}

/// One of them speaks version 1 only.
fn settings(n: usize, is_encrypted: bool) -> MeshConfig {
    let base = if is_encrypted {
        encrypted(n)
    } else {
        config(n)
    };
    let max_protocol_version = if n == 3 { 1 } else { 2 };
    MeshConfig {
        max_protocol_version,
        ..base
    }
}

fn obey(net: &mut Net, act: &Act, is_encrypted: bool) {
    match *act {
        Act::Connect(from, to) => net.connect(from, to),
        Act::Forget(from, to) => {
            net.meshes[from].forget(&[ip(to).to_string()], net.now);
            net.settle();
        }
        Act::Cut(n, nth) => {
            if let Some(link) = net.seen[n].connections.keys().nth(nth).copied() {
                net.cut(n, link);
                net.settle();
            }
        }
        Act::Fail(n, nth) => {
            if let Some(link) = net.seen[n].connections.keys().nth(nth).copied() {
                net.meshes[n].connection_failed(link, "the overlay gave up", net.now);
                net.settle();
            }
        }
        Act::Restart(n, seed) => net.restart(n, settings(n, is_encrypted), seed),
        Act::Refuse(n, on) => {
            if on {
                net.unreachable.insert(n);
            } else {
                net.unreachable.remove(&n);
            }
        }
        Act::Establish(on) => net.establish = on,
        Act::Reset(on) => net.reset = on,
        Act::Wait(duration) => net.run(secs(duration)),
    }
    check_each(net);
}

/// What holds for each mesh at any time.
fn check_each(net: &Net) {
    for n in 0..PEERS {
        let status = net.meshes[n].status(net.now);
        let own = status
            .peers
            .iter()
            .find(|peer| peer.name == name(n))
            .unwrap();
        let listed: Vec<PeerName> = own.connections.iter().map(|c| c.remote).collect();
        let live: Vec<PeerName> = status.connections.iter().map(|c| c.remote).collect();
        assert_eq!(listed, live);
        let mut told: Vec<PeerName> = net.seen[n]
            .connections
            .values()
            .map(|connection| connection.remote)
            .collect();
        told.sort_unstable();
        assert_eq!(live, told, "the node knows of the same connections");
        assert!(
            live.iter()
                .all(|name| status.peers.iter().any(|peer| peer.name == *name))
        );
    }
}

fn heal(net: &mut Net) {
    net.unreachable.clear();
    net.establish = true;
    // Connections that stayed pending would do so for ever: their overlays give up.
    for n in 0..PEERS {
        let links: Vec<_> = net.seen[n].connections.keys().copied().collect();
        for link in links {
            net.meshes[n].connection_failed(link, "timed out waiting for UDP heartbeat", net.now);
            net.settle();
        }
    }
    for n in 1..PEERS {
        net.meshes[n].connect(vec![direct(0)], false, net.now);
    }
    net.run(secs(1500));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_history_heals(
        acts in prop::collection::vec(act(), 1..40),
        is_encrypted in any::<bool>(),
    ) {
        let mut net = Net::new((0..PEERS).map(|n| settings(n, is_encrypted)).collect());
        for act in &acts {
            obey(&mut net, act, is_encrypted);
        }
        heal(&mut net);
        check_each(&net);
        net.assert_agreement();
        for mesh in &net.meshes {
            prop_assert_eq!(mesh.peers().count(), PEERS);
            prop_assert_eq!(mesh.unicast_established().len(), PEERS);
        }
    }
}
