//! What holds for any value and any bytes.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use wire::PeerName;
use wire::ethernet::{self, EthernetView, Ipv4View, Ipv6View, TcpView, UdpView};
use wire::gob::{Stream, StreamReader};
use wire::handshake::{Features, WeftFeature};
use wire::message::{FrameReader, Message, OverlayControl};
use wire::sleeve::{Frames, classify_frame, parse_datagram, parse_sealed_body};
use wire::topology::{self, ConnectionSummary, PeerSummary};

use crate::gob::decode_all;
use crate::vectors::{bytes, load};

fn peer_name() -> impl Strategy<Value = PeerName> {
    any::<u64>().prop_map(PeerName::from_u64)
}

fn connection() -> impl Strategy<Value = ConnectionSummary> {
    (peer_name(), any::<String>(), any::<bool>(), any::<bool>()).prop_map(
        |(remote, remote_address, outbound, established)| ConnectionSummary {
            remote,
            remote_address,
            outbound,
            established,
        },
    )
}

fn peer() -> impl Strategy<Value = PeerSummary> {
    let parts = (
        (peer_name(), any::<String>(), any::<u64>(), any::<u64>()),
        (option::of(any::<u16>()), vec(connection(), 0..4)),
    );
    parts.prop_map(
        |((name, nickname, uid, version), (short_id, connections))| PeerSummary {
            name,
            nickname,
            uid,
            version,
            short_id,
            connections,
        },
    )
}

fn word() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,9}"
}

fn features() -> impl Strategy<Value = Features> {
    let weft = (1..u32::MAX, proptest::collection::btree_set(word(), 0..4)).prop_map(
        |(version, words)| WeftFeature {
            version,
            capabilities: words.into_iter().collect(),
        },
    );
    let parts = (
        (peer_name(), any::<String>(), any::<u64>(), any::<u64>()),
        (
            option::of(0..4096_u16),
            any::<bool>(),
            option::of(vec(word(), 0..4)),
            option::of(weft),
        ),
    );
    parts.prop_map(
        |((name, nickname, uid, conn_id), (short_id, trusted, overlays, weft))| {
            let public_key = None;
            Features {
                name,
                nickname,
                uid,
                conn_id,
                short_id,
                trusted,
                overlays,
                public_key,
                weft,
            }
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let payload = || vec(any::<u8>(), 0..300);
    let neighbour =
        (any::<String>(), peer_name(), payload()).prop_map(|(channel, sender, payload)| {
            Message::GossipNeighbour {
                channel,
                sender,
                payload,
            }
        });
    let unicast = (any::<String>(), peer_name(), peer_name(), payload()).prop_map(
        |(channel, source, destination, payload)| Message::GossipUnicast {
            channel,
            source,
            destination,
            payload,
        },
    );
    let broadcast =
        (any::<String>(), peer_name(), payload()).prop_map(|(channel, source, payload)| {
            Message::GossipBroadcast {
                channel,
                source,
                payload,
            }
        });
    let control = (any::<u8>(), any::<u8>(), payload()).prop_map(|(index, tag, body)| {
        Message::Overlay(OverlayControl {
            index: Some(index),
            tag,
            body,
        })
    });
    let legacy = (1..=3_u8, payload()).prop_map(|(tag, body)| {
        Message::Overlay(OverlayControl {
            index: None,
            tag,
            body,
        })
    });
    let unknown = (8_u8..).prop_map(Message::Unknown);
    prop_oneof![
        Just(Message::Heartbeat),
        neighbour,
        unicast,
        broadcast,
        control,
        legacy,
        unknown
    ]
}

/// Valid bytes of every kind, to be damaged.
fn valid_samples() -> Vec<Vec<u8>> {
    let inputs = ["gob_types.json", "gob_tolerance.json", "pcap_plain.json"]
        .into_iter()
        .flat_map(|file| load(file, None))
        .filter(|vector| vector["input"].is_string())
        .map(|vector| bytes(&vector["input"]));
    let payloads = load("topology.json", Some("topology-payload"));
    inputs
        .chain(payloads.iter().map(|vector| bytes(&vector["expect"])))
        .collect()
}

/// A valid sample with some bytes replaced, and perhaps cut off or repeated.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let samples = valid_samples();
    let edits = vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let parts = (
        prop::sample::select(samples),
        edits,
        any::<prop::sample::Index>(),
        any::<u8>(),
    );
    parts.prop_map(|(mut bytes, edits, cut, how)| {
        for (at, value) in edits {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        match how % 4 {
            0 => bytes.truncate(cut.index(bytes.len() + 1)),
            1 => bytes.extend_from_within(cut.index(bytes.len() + 1)..),
            2 => drop(bytes.drain(..cut.index(bytes.len() + 1))),
            _ => {}
        }
        bytes
    })
}

/// Runs every decoder over `bytes`; none may panic.
fn decode_as_everything(bytes: &[u8]) {
    let _ = decode_all(bytes);
    let _ = Message::decode(bytes);
    let _ = topology::decode(bytes);
    let _ = Features::decode_v2(bytes);
    let _ = parse_datagram(bytes).map(|(_, body)| Frames::new(body).count());
    let _ = parse_sealed_body(&mut bytes.to_vec());
    let _ = classify_frame(bytes);
    let mut frames = FrameReader::new();
    frames.push(bytes);
    while let Ok(Some(_)) = frames.next_frame() {}
    read_headers(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = text.parse::<PeerName>().map_err(|error| error.to_string());
    let _ = WeftFeature::parse(&text);
}

fn read_headers(bytes: &[u8]) {
    if let Some(frame) = EthernetView::new(bytes) {
        let _ = (
            frame.source().to_string(),
            frame.destination(),
            frame.ethertype(),
            frame.ipv6(),
        );
    }
    if let Some(ip) = Ipv4View::new(bytes) {
        let _ = (
            ip.payload(),
            ip.header(),
            ip.fragment_offset(),
            ip.pseudo_header_sum(7),
        );
        let _ = (
            ip.source(),
            ip.destination(),
            ip.tos(),
            ip.ttl(),
            ip.id(),
            ip.checksum(),
        );
    }
    if let Some(ip) = Ipv6View::new(bytes) {
        let _ = (
            ip.payload(),
            ip.source(),
            ip.destination(),
            ip.pseudo_header_sum(7),
        );
    }
    if let Some(tcp) = TcpView::new(bytes) {
        let _ = (
            tcp.options(),
            tcp.payload(),
            tcp.flags(),
            tcp.window(),
            tcp.checksum(),
        );
    }
    if let Some(udp) = UdpView::new(bytes) {
        let _ = (udp.payload(), udp.length_bytes(), udp.checksum());
    }
}

/// The Internet checksum as RFC 1071 describes it, one word after the other.
fn slow_checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
    let total: u64 = bytes.chunks(2).map(|pair| u64::from(word(pair))).sum();
    let mut folded = total;
    while folded > 0xffff {
        folded = (folded >> 16) + (folded & 0xffff);
    }
    !u16::try_from(folded).unwrap()
}

proptest! {
    #[test]
    fn message_survives_the_wire(message in message()) {
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn topology_survives_the_wire(peers in vec(peer(), 0..5)) {
        prop_assert_eq!(topology::decode(&topology::encode(&peers)), Ok(peers));
    }

    #[test]
    fn features_survive_the_wire(features in features(), key in any::<[u8; 32]>()) {
        let decoded = Features::decode_v2(&features.encode_v2());
        prop_assert_eq!(decoded.as_ref(), Ok(&features));
        let features = Features {
            short_id: None,
            trusted: false,
            overlays: None,
            public_key: Some(key),
            weft: None,
            ..features
        };
        let stream = features.encode_v1();
        let map = Stream::new(&stream).next_value().unwrap().unwrap();
        prop_assert_eq!(Features::decode(&map, 1), Ok(features));
    }

    #[test]
    fn peer_name_survives_printing(name in peer_name()) {
        prop_assert_eq!(name.to_string().parse(), Ok(name));
    }

    #[test]
    fn no_decoder_panics_on_noise(bytes in vec(any::<u8>(), 0..400)) {
        decode_as_everything(&bytes);
    }

    #[test]
    fn no_decoder_panics_on_small_numbers(bytes in vec(0..8_u8, 0..100)) {
        decode_as_everything(&bytes);
    }

    #[test]
    fn no_decoder_panics_on_damaged_input(bytes in damaged()) {
        decode_as_everything(&bytes);
        if let Some((_, rest)) = bytes.split_first() {
            decode_as_everything(rest);
        }
    }

    #[test]
    fn pieces_decode_like_the_whole(bytes in damaged(), piece_bytes in 1..64_usize) {
        let mut whole = Stream::new(&bytes);
        let mut reader = StreamReader::new();
        'pieces: for piece in bytes.chunks(piece_bytes) {
            reader.push(piece);
            loop {
                match reader.next_value() {
                    Ok(None) => break,
                    Ok(Some(value)) => prop_assert_eq!(whole.next_value(), Ok(Some(value))),
                    Err(error) => {
                        let expected = whole.next_value();
                        // A whole payload also ends where an endless stream would go on.
                        prop_assert_eq!(expected, Err(error));
                        break 'pieces;
                    }
                }
            }
        }
    }

    #[test]
    fn fast_checksum_is_the_slow_one(bytes in vec(any::<u8>(), 0..3000), cut in any::<u16>()) {
        prop_assert_eq!(ethernet::checksum(&bytes), slow_checksum(&bytes));
        let (front, back) = bytes.split_at((usize::from(cut) % (bytes.len() + 1)) & !1);
        let sum = ethernet::sum(front) + ethernet::sum(back);
        prop_assert_eq!(ethernet::fold(sum), slow_checksum(&bytes));
    }
}
