//! A peer that was let in and lies in gossip: about others, about us, about versions and short ids.
//! While it lies everything stays bounded; once it is gone the honest peers agree and reach each
//! other again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod net;

use mesh::{GossipContent, MeshConfig};
use net::{Net, Stranger, config, encrypted, name, secs};
use wire::PeerName;
use wire::handshake::Features;
use wire::message::Message;
use wire::topology::{ConnectionSummary, PeerSummary, encode};

const HONEST: usize = 5;
const LIAR: usize = HONEST;
/// Versions liars like.
const VERSIONS: [u64; 8] = [
    0,
    1,
    1 << 20,
    (1 << 47) - 1,
    (1 << 48) - 1,
    1 << 48,
    u64::MAX - 1,
    u64::MAX,
];

/// Small and predictable.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(11);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

fn link_to(remote: PeerName, established: bool) -> ConnectionSummary {
    ConnectionSummary {
        remote,
        remote_address: "10.0.0.200:6783".to_owned(),
        outbound: true,
        established,
    }
}

fn entry(name: PeerName, uid: u64, version: u64, remotes: &[PeerName]) -> PeerSummary {
    PeerSummary {
        name,
        nickname: "\u{1b}]0;owned\u{7}\r\nINFO: forged line\u{202e}".to_owned(),
        uid,
        version,
        short_id: Some(7),
        connections: remotes.iter().map(|n| link_to(*n, true)).collect(),
    }
}

fn lie(net: &mut Net, entries: &[PeerSummary]) {
    let content = GossipContent::Payload(encode(entries));
    let now = net.now;
    net.meshes[LIAR].gossip_neighbour_subset("topology", None, content, now);
    net.settle();
}

/// A line of honest peers, with discovery a full mesh, and the liar somewhere among them.
fn cluster(settings: fn(usize) -> MeshConfig, discovery: bool, at: usize) -> Net {
    let configs = (0..=LIAR).map(|n| MeshConfig {
        discovery,
        ..settings(n)
    });
    let mut net = Net::new(configs.collect());
    for n in 1..HONEST {
        net.connect(n, n - 1);
    }
    net.connect(LIAR, at);
    net.run(secs(60));
    net.assert_agreement();
    net
}

/// What the table of the liar says of a peer.
fn truth(net: &Net, peer: usize) -> PeerSummary {
    let peers = net.meshes[LIAR].status(net.now).peers;
    let found = peers.into_iter().find(|entry| entry.name == name(peer));
    found.unwrap_or_else(|| entry(name(peer), 1, 1, &[]))
}

/// One random lie.
fn draw_lie(net: &Net, draw: &mut Draw) -> Vec<PeerSummary> {
    let victim = draw.below(HONEST);
    let real = truth(net, victim);
    let remotes: Vec<PeerName> = (0..draw.below(4)).map(|_| name(draw.below(9))).collect();
    let uid = [real.uid, 0, 1, u64::MAX][draw.below(4)];
    let version = match draw.below(3) {
        0 => real.version.saturating_add(draw.below(4) as u64),
        _ => VERSIONS[draw.below(VERSIONS.len())],
    };
    let forged = entry(real.name, uid, version, &remotes);
    match draw.below(5) {
        // It has no connections at all, or none that carry data.
        0 => vec![PeerSummary {
            connections: Vec::new(),
            ..forged
        }],
        1 => {
            let connections = real.connections.iter().map(|c| link_to(c.remote, false));
            let connections = connections.collect();
            vec![PeerSummary {
                connections,
                ..forged
            }]
        }
        // Ghosts behind it, that claim short ids.
        2 => {
            let ghost = PeerName::from_u64(1 + draw.below(50) as u64);
            let short_id = real.short_id;
            let claim = PeerSummary {
                short_id,
                ..entry(ghost, 5, version, &[real.name])
            };
            vec![
                PeerSummary {
                    connections: vec![link_to(ghost, true)],
                    ..forged
                },
                claim,
            ]
        }
        // Twice in one message, differently.
        3 => vec![forged.clone(), entry(real.name, uid, version, &[]), forged],
        _ => vec![forged],
    }
}

/// All honest peers have the same, true picture, and a way for data to each other.
fn heals(net: &mut Net, within_secs: u64) {
    let whole = |net: &Net| {
        (0..HONEST).all(|n| {
            let mesh = &net.meshes[n];
            mesh.peers().eq((0..HONEST).map(name)) && mesh.unicast_established().len() == HONEST
        })
    };
    for _ in 0..within_secs / 5 {
        net.run(secs(5));
        let first = net.meshes[0].status(net.now).peers;
        let agree = (1..HONEST).all(|n| net.meshes[n].status(net.now).peers == first);
        if whole(net) && agree {
            return;
        }
    }
    let pictures = (0..HONEST).map(|n| net.meshes[n].status(net.now).peers);
    panic!("not healed: {:#?}", pictures.collect::<Vec<_>>());
}

fn check(net: &Net) {
    for n in 0..HONEST {
        net.assert_bounded(n);
        net.assert_printable(n);
    }
}

/// F26: whoever has the passphrase can lie, but not for longer than it stays.
#[test]
fn the_honest_agree_again_once_the_liar_is_gone() {
    for seed in 0..24 {
        let settings = if seed % 2 == 0 { config } else { encrypted };
        let mut draw = Draw(seed + 1);
        let mut net = cluster(settings, seed % 3 > 0, draw.below(HONEST));
        for _ in 0..40 {
            let lies = draw_lie(&net, &mut draw);
            lie(&mut net, &lies);
            net.run(secs(draw.below(8) as u64));
            check(&net);
        }
        net.leave(LIAR);
        heals(&mut net, 900);
        let short_ids: Vec<_> = (0..HONEST)
            .map(|n| net.meshes[0].short_id(name(n)).unwrap())
            .collect();
        let distinct: std::collections::BTreeSet<_> = short_ids.iter().collect();
        assert_eq!(
            distinct.len(),
            HONEST,
            "everybody has a short id of its own"
        );
    }
}

/// One mesh and two neighbours that do not understand deltas, the first named before the second.
fn between_two() -> (Net, [Stranger; 2]) {
    let mut net = Net::new(vec![config(0)]);
    let neighbours = [1, 2].map(|n| {
        let features = Features {
            name: name(n),
            conn_id: n as u64,
            ..Stranger::features()
        };
        Stranger::introduce(&mut net, 0, &features)
    });
    (net, neighbours)
}

/// What an honest neighbour of [`between_two`] says of itself.
fn honest(n: usize, version: u64) -> PeerSummary {
    let nickname = format!("peer{n}");
    let short_id = Some(10 + u16::try_from(n).unwrap());
    PeerSummary {
        nickname,
        short_id,
        ..entry(name(n), Stranger::features().uid, version, &[name(0)])
    }
}

/// The version of a peer as the mesh of [`between_two`] has it.
fn held_version(net: &Net, n: usize) -> u64 {
    let peers = net.meshes[0].status(net.now).peers;
    let found = peers.iter().find(|entry| entry.name == name(n));
    found.unwrap().version
}

/// Peers that agree with one another gossip the same bytes. Those of the peer they are about count
/// even if somebody else said them first.
#[test]
fn what_a_neighbour_says_of_itself_counts_though_others_said_the_same_before() {
    let (mut net, [first, second]) = between_two();
    first.gossip(
        &mut net,
        "topology",
        encode(&[entry(name(2), 1, (1 << 48) - 1, &[])]),
    );
    assert_eq!(held_version(&net, 2), (1 << 48) - 1);
    let whole = encode(&[honest(1, 5), honest(2, 5)]);
    for _ in 0..3 {
        first.gossip(&mut net, "topology", whole.clone());
        second.gossip(&mut net, "topology", whole.clone());
        for _ in 0..3 {
            net.run(secs(10));
            first.say(&mut net, &Message::Heartbeat);
            second.say(&mut net, &Message::Heartbeat);
        }
    }
    assert_eq!(held_version(&net, 2), 5);
}

/// The same for a version that was guessed before it came, and is never told again.
#[test]
fn a_guessed_version_gives_way_though_its_owner_speaks_after_others() {
    let (mut net, [first, second]) = between_two();
    let guessed = entry(name(2), Stranger::features().uid, 6, &[name(77)]);
    first.gossip(&mut net, "topology", encode(&[guessed]));
    first.gossip(&mut net, "topology", encode(&[honest(2, 6)]));
    second.gossip(&mut net, "topology", encode(&[honest(2, 6)]));
    let peers = net.meshes[0].status(net.now).peers;
    assert!(peers.contains(&honest(2, 6)), "{peers:#?}");
}

#[test]
fn every_forged_version_of_every_peer_is_undone_though_the_liar_stays() {
    for discovery in [true, false] {
        for version in VERSIONS {
            for uid in [None, Some(1), Some(u64::MAX)] {
                let mut net = cluster(config, discovery, 2);
                for victim in 0..HONEST {
                    let uid = uid.unwrap_or_else(|| truth(&net, victim).uid);
                    lie(&mut net, &[entry(name(victim), uid, version, &[name(77)])]);
                }
                net.run(secs(1));
                check(&net);
                for _ in 0..120 {
                    net.run(secs(5));
                    let all: Vec<_> = (0..=LIAR).map(name).collect();
                    let whole = (0..HONEST).all(|n| {
                        let mesh = &net.meshes[n];
                        mesh.peers().eq(all.iter().copied())
                            && mesh.unicast_established().len() == HONEST + 1
                    });
                    if whole {
                        break;
                    }
                }
                net.assert_agreement_of(HONEST);
                let routes = net.meshes[0].unicast_established().len();
                assert_eq!(routes, HONEST + 1, "version {version}, uid {uid:?}");
            }
        }
    }
}

#[test]
fn our_own_entry_rises_above_what_is_forged_and_never_wraps() {
    for version in VERSIONS {
        let mut net = cluster(config, true, 0);
        let before = net.meshes[0].status(net.now).peers[0].version;
        for uid in [truth(&net, 0).uid, 1, u64::MAX] {
            lie(&mut net, &[entry(name(0), uid, version, &[])]);
        }
        let after = net.meshes[0].status(net.now).peers[0].version;
        assert!(after >= before && after <= 1 << 47, "{version}: {after}");
        if (before..(1 << 47) - 1).contains(&version) {
            assert!(after > version);
        }
    }
}

#[test]
fn a_crowd_of_ghosts_with_all_short_ids_is_bounded_and_goes_with_its_maker() {
    let mut net = cluster(config, true, 0);
    let liar = name(LIAR);
    // Every short id many times over, by names lower than all honest ones.
    let ghosts: Vec<PeerSummary> = (1..=6000_u64)
        .map(|n| PeerSummary {
            short_id: Some(u16::try_from(n % 4096).unwrap()),
            connections: vec![ConnectionSummary {
                remote_address: format!("10.1.{}.{}:6783", n / 250, n % 250),
                ..link_to(PeerName::from_u64(n + 1), true)
            }],
            ..entry(PeerName::from_u64(n), n, 1, &[])
        })
        .collect();
    let first = PeerName::from_u64(1);
    let maker = entry(liar, truth(&net, LIAR).uid, 1 << 30, &[name(0), first]);
    let mut all = vec![maker];
    all.extend(ghosts);
    lie(&mut net, &all);
    check(&net);
    assert_eq!(net.meshes[0].peers().count(), 4096);
    net.run(secs(20));
    check(&net);
    assert!(net.meshes[0].footprint().dials <= 64);
    net.leave(LIAR);
    heals(&mut net, 600);
    let footprint = net.meshes[0].footprint();
    assert_eq!((footprint.peers, footprint.doubts), (HONEST, 0));
}

#[test]
fn giant_lists_and_texts_are_cut_or_refused() {
    let mut net = cluster(config, false, 0);
    let crowd: Vec<_> = (0..4096)
        .map(|n| link_to(PeerName::from_u64(1 << 20 | n), true))
        .collect();
    let giants: Vec<PeerSummary> = (0..40)
        .map(|n| PeerSummary {
            nickname: "\u{9b}9".repeat(50_000),
            connections: crowd.clone(),
            ..entry(PeerName::from_u64(100 + n), 1, 1, &[])
        })
        .collect();
    for giant in giants {
        lie(&mut net, &[giant]);
        check(&net);
    }
    let endless = ConnectionSummary {
        remote_address: "\u{1b}c".repeat(100_000),
        ..link_to(name(70), true)
    };
    let version = truth(&net, LIAR).version + 5;
    let uid = truth(&net, LIAR).uid;
    let connections = vec![link_to(name(0), true), endless];
    lie(
        &mut net,
        &[PeerSummary {
            connections,
            ..entry(name(LIAR), uid, version, &[])
        }],
    );
    check(&net);
    net.leave(LIAR);
    heals(&mut net, 600);
}

#[test]
fn whoever_pretends_to_be_another_peer_does_not_keep_it_out_for_ever() {
    let mut net = cluster(config, true, 0);
    // At peer 0 somebody appears as peer 2, with a connection UID that always wins.
    for n in 0..30 {
        let features = Features {
            name: name(2),
            uid: 1000 + n % 3,
            conn_id: n,
            ..Stranger::features()
        };
        let impostor = Stranger::introduce(&mut net, 0, &features);
        let forged = entry(name(2), features.uid, 1 << 30, &[name(0)]);
        impostor.gossip(&mut net, "topology", encode(&[forged]));
        net.run(secs(3));
        check(&net);
        if n == 29 {
            // The last one dies without a word.
            break;
        }
        net.cut(0, impostor.link);
        net.meshes[0].handle_link_closed(impostor.link, "EOF", net.now);
        net.settle();
    }
    net.leave(LIAR);
    heals(&mut net, 900);
}

#[test]
fn floods_of_gossip_on_strange_channels_leave_a_bounded_amount() {
    let mut net = Net::new((0..3).map(config).collect());
    net.connect(1, 0);
    net.connect(2, 0);
    net.stuck.insert(0);
    let flood = Stranger::introduce(&mut net, 0, &Stranger::features());
    for n in 0..3000_usize {
        let channel = ["x".repeat(n % 300), format!("y\u{1b}[{n}m")][n % 2].clone();
        let payload =
            vec![u8::try_from(n % 251).unwrap(); if n % 50 == 0 { 1 << 20 } else { n % 977 }];
        let message = match n % 3 {
            0 => Message::GossipNeighbour {
                channel,
                sender: name(100),
                payload,
            },
            1 => Message::GossipBroadcast {
                channel,
                source: name(1),
                payload,
            },
            _ => Message::GossipUnicast {
                channel,
                source: name(100),
                destination: name(n % 4),
                payload,
            },
        };
        flood.say(&mut net, &message);
        if n % 100 == 0 {
            net.assert_bounded(0);
        }
    }
    assert!(!flood.is_closed(&net));
    let footprint = net.meshes[0].footprint();
    assert!(footprint.surrogates <= 64 && footprint.unflushed_bytes_max <= 8 << 20);
    net.assert_bounded(0);
}
