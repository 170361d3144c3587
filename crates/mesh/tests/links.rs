//! One link at a time: deadlines, odd messages, hostile bytes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod net;

use mesh::{MeshConfig, MeshOutput};
use net::{Net, Stranger, config, encrypted, name, secs};
use proptest::prelude::*;
use wire::PeerName;
use wire::handshake::{Features, encode_header};
use wire::message::{Message, OverlayControl, encode_frame, encode_frame_v1};
use wire::topology::{ConnectionSummary, PeerSummary};

fn stranger() -> (Net, Stranger) {
    let mut net = Net::new(vec![config(0)]);
    let stranger = Stranger::introduce(&mut net, 0, &Stranger::features());
    assert_eq!(net.seen[0].added, 1);
    (net, stranger)
}

#[test]
fn a_silent_stranger_is_dropped_after_ten_seconds() {
    let mut net = Net::new(vec![config(0)]);
    let link = net.accept_stranger(0, "10.9.9.9:50000");
    net.run(secs(9));
    assert!(net.seen[0].closed.is_empty());
    net.run(secs(1));
    assert_eq!(net.seen[0].closed, [link]);
}

#[test]
fn after_the_header_the_introduction_has_a_minute() {
    let mut net = Net::new(vec![config(0)]);
    let link = net.accept_stranger(0, "10.9.9.9:50000");
    net.run(secs(5));
    net.inject(0, link, &encode_header(1, 2));
    net.run(secs(59));
    assert!(net.seen[0].closed.is_empty());
    net.run(secs(1));
    assert_eq!(net.seen[0].closed, [link]);
}

#[test]
fn any_message_puts_the_deadline_off_and_half_a_message_does_not() {
    let (mut net, stranger) = stranger();
    net.run(secs(50));
    stranger.say_raw(&mut net, &[99]);
    net.run(secs(50));
    net.inject(0, stranger.link, &[0, 0]);
    assert!(!stranger.is_closed(&net));
    net.run(secs(10));
    assert!(stranger.is_closed(&net));
    assert_eq!(net.seen[0].removed, [stranger.link]);
    assert_eq!(net.seen[0].peers_removed, [name(100)]);
}

#[test]
fn unknown_tags_and_blank_messages_are_ignored() {
    let (mut net, stranger) = stranger();
    for _ in 0..3 {
        stranger.say_raw(&mut net, &[]);
        stranger.say_raw(&mut net, &[200, 1, 2, 3]);
        stranger.say_raw(&mut net, &[7]);
        stranger.say_raw(&mut net, &[7, 0]);
    }
    assert!(!stranger.is_closed(&net));
    assert!(net.seen[0].controls.is_empty());
}

#[test]
fn overlay_control_is_passed_on_in_the_form_that_was_agreed() {
    let control = |index, tag| OverlayControl {
        index,
        tag,
        body: vec![5],
    };
    let (mut net, stranger) = stranger();
    stranger.say_raw(&mut net, &[1, 5]);
    stranger.say_raw(&mut net, &[7, 0, 3, 5]);
    assert_eq!(net.seen[0].controls, [(stranger.link, control(Some(0), 3))]);

    let mut net = Net::new(vec![config(0)]);
    let old = Features {
        overlays: None,
        ..Stranger::features()
    };
    let old = Stranger::introduce(&mut net, 0, &old);
    old.say_raw(&mut net, &[7, 0, 3, 5]);
    old.say_raw(&mut net, &[1, 5]);
    assert_eq!(net.seen[0].controls, [(old.link, control(None, 1))]);
}

#[test]
fn a_malformed_envelope_ends_the_link() {
    for message in [&[4_u8, 0xff, 0xff][..], &[5], &[6, 3, 6, 0, 7]] {
        let (mut net, stranger) = stranger();
        stranger.say_raw(&mut net, message);
        assert!(stranger.is_closed(&net), "{message:?}");
    }
}

#[test]
fn a_malformed_topology_ends_the_link_and_a_nonsensical_one_does_not() {
    let (mut net, stranger) = stranger();
    let peer = |n: usize, version| PeerSummary {
        name: name(n),
        nickname: "\u{7}\n".repeat(400),
        uid: 0,
        version,
        short_id: Some(u16::MAX),
        connections: vec![ConnectionSummary {
            remote: PeerName::UNKNOWN,
            remote_address: "nowhere".to_owned(),
            outbound: true,
            established: true,
        }],
    };
    let reserved = PeerSummary {
        name: PeerName::UNKNOWN,
        ..peer(1, 1)
    };
    let nonsense = [
        peer(0, u64::MAX),
        peer(0, u64::MAX),
        reserved,
        peer(100, u64::MAX),
        peer(7, 0),
    ];
    stranger.gossip(&mut net, "topology", wire::topology::encode(&nonsense));
    stranger.gossip(&mut net, "topology", Vec::new());
    stranger.say(
        &mut net,
        &Message::GossipUnicast {
            channel: "topology".to_owned(),
            source: name(100),
            destination: name(0),
            payload: vec![1, 2, 3],
        },
    );
    net.run(secs(5));
    assert!(!stranger.is_closed(&net));
    assert_eq!(net.meshes[0].status(net.now).peers[0].version, 2);
    stranger.gossip(&mut net, "topology", vec![1, 2, 3]);
    assert!(stranger.is_closed(&net));
}

#[test]
fn a_frame_beyond_the_limit_ends_the_link() {
    let (mut net, stranger) = stranger();
    net.inject(0, stranger.link, &10_485_761_u32.to_be_bytes());
    assert!(stranger.is_closed(&net));
}

#[test]
fn a_discovered_address_may_not_introduce_an_unknown_peer() {
    // The stranger claims that a peer lives where really another one listens.
    let mut net = Net::new(vec![config(0), config(1)]);
    let stranger = Stranger::introduce(&mut net, 0, &Stranger::features());
    let claim = PeerSummary {
        name: name(100),
        nickname: String::new(),
        uid: 4711,
        version: 1,
        short_id: None,
        connections: vec![ConnectionSummary {
            remote: name(50),
            remote_address: "10.0.0.2:6783".to_owned(),
            outbound: true,
            established: true,
        }],
    };
    stranger.gossip(&mut net, "topology", wire::topology::encode(&[claim]));
    net.run(secs(1));
    assert_eq!(net.seen[0].dials, 1);
    assert_eq!(net.seen[0].added, 1, "only the stranger");
    net.run(secs(20));
    let targets = net.meshes[0].status(net.now).targets;
    let text = format!("{targets:?}");
    assert!(
        text.contains("Found unknown remote name: 02:00:00:00:00:02 at 10.0.0.2:6783"),
        "{text}"
    );
}

/// F38: strangers are bounded in number.
#[test]
fn only_so_many_strangers_may_linger_in_the_handshake() {
    let mut net = Net::new(vec![config(0)]);
    let links: Vec<_> = (0..300)
        .map(|n| net.accept_stranger(0, &format!("10.9.9.9:{}", 50_000 + n)))
        .collect();
    assert_eq!(net.seen[0].closed, links[..300 - 256]);
}

#[test]
fn inputs_for_links_that_ended_are_ignored() {
    let (mut net, stranger) = stranger();
    let now = net.now;
    let mesh = &mut net.meshes[0];
    mesh.handle_link_closed(stranger.link, "EOF", now);
    while mesh.poll_output().is_some() {}
    mesh.handle_link_bytes(stranger.link, b"weave", now);
    mesh.handle_link_flushed(stranger.link, now);
    mesh.handle_link_closed(stranger.link, "EOF", now);
    mesh.connection_established(stranger.link, now);
    mesh.connection_failed(stranger.link, "x", now);
    let control = OverlayControl {
        index: Some(0),
        tag: 1,
        body: Vec::new(),
    };
    mesh.send_overlay_control(stranger.link, control);
    assert!(mesh.poll_output().is_none());
    assert_eq!(mesh.log_label(stranger.link), "");
    let nobody_asked = wire::LinkId::outbound(99);
    mesh.handle_dial_failed(nobody_asked, "x", now);
    let addresses = ("10.0.0.1:1".parse().unwrap(), "10.0.0.9:2".parse().unwrap());
    mesh.handle_link_connected(nobody_asked, addresses.0, addresses.1, now);
    assert!(matches!(mesh.poll_output(), Some(MeshOutput::Close { link }) if link == nobody_asked));
}

#[test]
fn a_version_1_peer_gets_only_what_it_understands() {
    let mut net = Net::new(vec![config(0)]);
    let link = net.accept_stranger(0, "10.9.9.9:50000");
    let mut bytes = encode_header(1, 1).to_vec();
    bytes.extend(
        Features {
            overlays: None,
            ..Stranger::features()
        }
        .encode_v1(),
    );
    bytes.extend(encode_frame_v1(&[2, 9]));
    bytes.extend(encode_frame_v1(&[]));
    bytes.extend(encode_frame_v1(&Message::Heartbeat.encode()));
    net.inject(0, link, &bytes);
    let connection = &net.seen[0].connections[&link];
    assert_eq!(
        (
            connection.features.weft.is_some(),
            connection.features.short_id
        ),
        (false, None)
    );
    let control = OverlayControl {
        index: None,
        tag: 2,
        body: vec![9],
    };
    assert_eq!(net.seen[0].controls, [(link, control)]);
    assert_eq!(net.meshes[0].short_id(name(100)), None);
}

/// Everything the stranger's side of a short, rich conversation says.
fn conversation() -> Vec<u8> {
    let mut bytes = Stranger::introduction(&Stranger::features());
    let topology = wire::topology::encode(&[PeerSummary {
        name: name(100),
        nickname: "stranger".to_owned(),
        uid: 4711,
        version: 3,
        short_id: Some(77),
        connections: vec![ConnectionSummary {
            remote: name(0),
            remote_address: "10.0.0.1:6783".to_owned(),
            outbound: true,
            established: true,
        }],
    }]);
    let messages = [
        Message::Heartbeat,
        Message::GossipNeighbour {
            channel: "topology".to_owned(),
            sender: name(100),
            payload: topology.clone(),
        },
        Message::GossipBroadcast {
            channel: "topology".to_owned(),
            source: name(100),
            payload: topology,
        },
        Message::GossipBroadcast {
            channel: "x".to_owned(),
            source: name(9),
            payload: vec![1],
        },
        Message::GossipUnicast {
            channel: "x".to_owned(),
            source: name(100),
            destination: name(3),
            payload: vec![1],
        },
        Message::Overlay(OverlayControl {
            index: Some(0),
            tag: 1,
            body: vec![],
        }),
    ];
    for message in messages {
        bytes.extend(encode_frame(&message.encode()).unwrap());
    }
    bytes
}

fn listen(config: MeshConfig, chunks: &[&[u8]]) {
    let mut net = Net::new(vec![config]);
    let link = net.accept_stranger(0, "10.9.9.9:50000");
    for chunk in chunks {
        net.inject(0, link, chunk);
    }
    net.run(secs(3));
}

#[test]
fn no_truncation_and_no_flipped_bit_of_a_conversation_is_a_panic() {
    let bytes = conversation();
    for cut in 0..bytes.len() {
        listen(config(0), &[&bytes[..cut]]);
    }
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        listen(config(0), &[&bytes]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_are_never_a_panic(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..6),
        start in 0_usize..4,
    ) {
        let starts: [&[u8]; 4] = [b"", b"weave\x01\x02", b"weave\x01\x01", b"weave\x01\x02\x00"];
        let mut all: Vec<&[u8]> = vec![starts[start]];
        all.extend(chunks.iter().map(Vec::as_slice));
        listen(config(0), &all);
        listen(encrypted(0), &all);
    }

    #[test]
    fn arbitrary_messages_are_never_a_panic(
        messages in prop::collection::vec(
            (0_u8..9, prop::collection::vec(any::<u8>(), 0..60)),
            0..8,
        ),
    ) {
        let mut bytes = Stranger::introduction(&Stranger::features());
        for (tag, mut body) in messages {
            body.insert(0, tag);
            bytes.extend(encode_frame(&body).unwrap());
        }
        listen(config(0), &[&bytes]);
    }

    #[test]
    fn arbitrary_payloads_on_any_channel_are_never_a_panic(
        payloads in prop::collection::vec(
            (0_usize..3, 0_u8..3, prop::collection::vec(any::<u8>(), 0..60)),
            0..8,
        ),
    ) {
        let mut bytes = Stranger::introduction(&Stranger::features());
        for (channel, kind, payload) in payloads {
            let channel = ["topology", "x", ""][channel].to_owned();
            let message = match kind {
                0 => Message::GossipNeighbour { channel, sender: name(100), payload },
                1 => Message::GossipBroadcast { channel, source: name(100), payload },
                _ => Message::GossipUnicast {
                    channel,
                    source: name(100),
                    destination: name(0),
                    payload,
                },
            };
            bytes.extend(encode_frame(&message.encode()).unwrap());
        }
        listen(config(0), &[&bytes]);
    }
}
