//! A story of joining: who asks before the mesh knows a way back to it.

use std::collections::BTreeMap;
use std::time::Instant;

use ipam::{Init, Ipam, IpamConfig, IpamOutput};
use wire::PeerName;
use wire::ipam::{GossipState, Unicast};
use wire::message::Delivery;

const fn name(n: u64) -> PeerName {
    PeerName::from_u64(n)
}

#[expect(clippy::disallowed_methods, reason = "base of virtual time")]
fn base() -> Instant {
    Instant::now()
}

fn known(names: &[u64]) -> BTreeMap<PeerName, String> {
    let named = |n: &u64| (name(*n), format!("host{n}"));
    names.iter().map(named).collect()
}

/// To whom a ring goes.
fn rings_sent(ipam: &mut Ipam) -> Vec<PeerName> {
    let mut rings = Vec::new();
    while let Some(output) = ipam.poll_output() {
        if let IpamOutput::Unicast { to, payload } = output
            && payload.first() == Some(&1)
        {
            rings.push(to);
        }
    }
    rings
}

#[test]
fn who_could_not_be_answered_gets_the_ring_as_soon_as_the_mesh_knows_a_way() {
    let (universe, now) = ("10.32.0.0/24".parse().unwrap(), base());
    let config = IpamConfig {
        name: name(1),
        nickname: "host1".into(),
        uid: 1,
        universe,
        default_subnet: universe,
        init: Init::Seed(vec![name(1)]),
        reclaim_after: None,
    };
    let mut ipam = Ipam::new(config, Vec::new(), [1; 32], now).unwrap();
    ipam.handle_peers(known(&[1]), now);
    rings_sent(&mut ipam);
    let asks = Unicast::RingUpdate(GossipState::default()).encode();
    ipam.handle_gossip(Delivery::Unicast(name(2)), &asks, now);
    assert_eq!(rings_sent(&mut ipam), [name(2)]);
    let error = "unknown relay destination: 00:00:00:00:00:02";
    ipam.handle_unicast_failed(name(2), error, now);
    assert!(rings_sent(&mut ipam).is_empty());
    ipam.handle_peers(known(&[1, 3]), now);
    assert!(rings_sent(&mut ipam).is_empty());
    ipam.handle_peers(known(&[1, 2, 3]), now);
    assert_eq!(rings_sent(&mut ipam), [name(2)]);
    ipam.handle_peers(known(&[1, 2]), now);
    ipam.handle_peers(known(&[1, 2, 3]), now);
    assert!(rings_sent(&mut ipam).is_empty(), "once");
}
