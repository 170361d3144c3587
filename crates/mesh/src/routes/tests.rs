//! Routes against the golden vectors.

use wire::topology::{ConnectionSummary, PeerSummary};

use super::*;
use crate::testing::{name, names, vectors};

fn table(us: PeerName, edges: &[(PeerName, PeerName, bool)]) -> PeerTable {
    let mut table = PeerTable::new(us, "us", 1, 1);
    let mut adjacent: BTreeMap<PeerName, Vec<ConnectionSummary>> = BTreeMap::new();
    for (from, to, established) in edges {
        let connection = ConnectionSummary {
            remote: *to,
            remote_address: "10.0.0.1:6783".to_owned(),
            outbound: true,
            established: *established,
        };
        adjacent.entry(*from).or_default().push(connection);
    }
    for (name, connections) in adjacent {
        let summary = PeerSummary {
            name,
            nickname: String::new(),
            uid: 1,
            version: 1,
            short_id: None,
            connections,
        };
        if name == us {
            table.change_own().adjacencies = Peer::from_summary(&summary).adjacencies;
        } else {
            table.merge(&[summary]);
        }
    }
    table.add_placeholders(us);
    table
}

#[test]
fn routes_are_the_golden_ones() {
    for vector in vectors("routes", "routes") {
        let us = name(&vector["input"]["ourself"]);
        let edges: Vec<_> = vector["input"]["connections"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| {
                (
                    name(&c["from"]),
                    name(&c["to"]),
                    c["established"].as_bool().unwrap(),
                )
            })
            .collect();
        let table = table(us, &edges);
        for (kind, edges) in [
            ("all", Edges::All),
            ("established_symmetric", Edges::EstablishedSymmetric),
        ] {
            let routes = Routes::calculate(&table, edges);
            let expect = &vector["expect"][kind];
            let unicast = expect["unicast_next_hop"].as_object().unwrap();
            let unicast: BTreeMap<PeerName, PeerName> = unicast
                .iter()
                .map(|(to, hop)| (to.parse().unwrap(), name(hop)))
                .collect();
            assert_eq!(*routes.unicast(), unicast, "{} {kind}", vector["id"]);
            if edges == Edges::All {
                assert_eq!(gossip_unicast(&table), unicast);
            }
            for (origin, hops) in expect["broadcast_hops_by_source"].as_object().unwrap() {
                let broadcast = routes.broadcast(origin.parse().unwrap());
                assert_eq!(broadcast, names(hops), "{} {kind} {origin}", vector["id"]);
            }
        }
    }
}

#[test]
fn an_unknown_origin_has_no_broadcast_route() {
    let us = PeerName::from_u64(1);
    let routes = Routes::calculate(&table(us, &[]), Edges::All);
    assert!(routes.broadcast(PeerName::from_u64(99)).is_empty());
    assert_eq!(*routes.unicast(), BTreeMap::from([(us, PeerName::UNKNOWN)]));
}

#[test]
fn with_one_topology_each_peer_gets_each_broadcast_exactly_once() {
    let peer = PeerName::from_u64;
    // A ring of eight with two chords: many equally short paths.
    let mut edges = Vec::new();
    let pairs = (0..8)
        .map(|n| (n + 1, (n + 1) % 8 + 1))
        .chain([(1, 5), (3, 7)]);
    for (a, b) in pairs {
        edges.extend([(peer(a), peer(b), true), (peer(b), peer(a), true)]);
    }
    for origin in 1..=8 {
        let mut copies: BTreeMap<PeerName, usize> = BTreeMap::new();
        for us in 1..=8 {
            let routes = Routes::calculate(&table(peer(us), &edges), Edges::EstablishedSymmetric);
            for hop in routes.broadcast(peer(origin)) {
                *copies.entry(hop).or_default() += 1;
            }
        }
        let expected = (1..=8)
            .filter(|n| *n != origin)
            .map(|n| (peer(n), 1))
            .collect();
        assert_eq!(copies, expected, "from {origin}");
    }
}
