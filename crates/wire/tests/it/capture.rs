//! A session of two originals, as captured: every message and datagram decodes and means what it
//! should, and encodes to the same bytes where there is only one way.

use serde_json::Value as Json;
use wire::PeerName;
use wire::handshake::{Features, VersionRange, parse_header};
use wire::ipam;
use wire::message::Message;
use wire::topology;

use crate::gob::decode_all;
use crate::sleeve::check_plain;
use crate::vectors::{bytes, hex, id, load, matches};

const FILE: &str = "pcap_plain.json";

fn name(json: &Json) -> PeerName {
    PeerName::from_bytes(bytes(json).try_into().unwrap())
}

fn check_payload(id: &str, channel: &str, expect: &Json, payload: &[u8]) {
    let gob = if let Some(kind) = expect["kind"].as_u64() {
        let (first, gob) = payload.split_first().unwrap();
        assert_eq!(u64::from(*first), kind, "{id}");
        gob
    } else {
        payload
    };
    let values = decode_all(gob).unwrap();
    let expected = expect["payload_values"].as_array().unwrap();
    assert_eq!(values.len(), expected.len(), "{id}");
    for (value, expected) in values.iter().zip(expected) {
        assert!(
            matches(value, expected),
            "{id}: {value:?} is not {expected}"
        );
    }
    if channel == "IPallocation" {
        check_allocation(id, expect["kind"].is_null(), payload);
    }
    if channel == "topology" {
        let peers = topology::decode(payload).unwrap();
        assert_eq!(peers.len() * 2, values.len(), "{id}");
        assert_eq!(
            topology::decode(&topology::encode(&peers)),
            Ok(peers),
            "{id}"
        );
    }
}

/// What is said of addresses reads and encodes to the same, but for the numbers of its types and
/// the order of its maps.
fn check_allocation(id: &str, is_state: bool, payload: &[u8]) {
    let ours = if is_state {
        let state = ipam::decode_state(payload).unwrap();
        let ours = ipam::encode_state(&state);
        assert_eq!(ipam::decode_state(&ours), Ok(state), "{id}");
        ours
    } else {
        let unicast = ipam::Unicast::decode(payload).unwrap();
        assert!(!matches!(unicast, ipam::Unicast::Unknown(_)), "{id}");
        let ours = unicast.encode();
        assert_eq!(ipam::Unicast::decode(&ours), Ok(unicast), "{id}");
        ours
    };
    assert_eq!(ours.len(), payload.len(), "{id}");
}

fn check_message(vector: &Json) {
    let (id, input, expect) = (id(vector), bytes(&vector["input"]), &vector["expect"]);
    if expect["features"].is_object() {
        let features = Features::decode_v2(&input).unwrap();
        let map = &expect["features"];
        assert_eq!(features.name.to_string(), map["Name"], "{id}");
        assert_eq!(features.uid.to_string(), map["UID"], "{id}");
        assert_eq!(features.conn_id.to_string(), map["ConnID"], "{id}");
        assert_eq!(
            features.short_id.unwrap().to_string(),
            map["ShortID"],
            "{id}"
        );
        assert_eq!(
            Features::decode_v2(&features.encode_v2()),
            Ok(features),
            "{id}"
        );
        return;
    }
    let message = Message::decode(&input).unwrap();
    assert_eq!(hex(&message.encode()), hex(&input), "{id}");
    let expect_channel = expect["channel"].as_str();
    match message {
        Message::Heartbeat => assert_eq!(expect["tag"], 0, "{id}"),
        Message::Overlay(_) => assert_eq!(hex(&input[1..]), expect["body"], "{id}"),
        Message::GossipNeighbour {
            channel,
            sender,
            payload,
        } => {
            assert_eq!(
                (Some(&*channel), sender),
                (expect_channel, name(&expect["source"])),
                "{id}"
            );
            check_payload(id, &channel, expect, &payload);
        }
        Message::GossipUnicast {
            channel,
            source,
            destination,
            payload,
        } => {
            assert_eq!(
                (Some(&*channel), source),
                (expect_channel, name(&expect["source"])),
                "{id}"
            );
            assert_eq!(destination, name(&expect["destination"]), "{id}");
            check_payload(id, &channel, expect, &payload);
        }
        Message::GossipBroadcast {
            channel,
            source,
            payload,
        } => {
            assert_eq!(
                (Some(&*channel), source),
                (expect_channel, name(&expect["source"])),
                "{id}"
            );
            check_payload(id, &channel, expect, &payload);
        }
        Message::Unknown(tag) => panic!("{id}: unknown tag {tag}"),
    }
}

#[test]
fn every_captured_message_decodes_and_encodes() {
    for vector in load(FILE, Some("tcp-message-decode")) {
        check_message(&vector);
    }
}

#[test]
fn captured_introductions_are_version_2_in_clear() {
    for vector in load(FILE, Some("bytes")) {
        let bytes = bytes(&vector["expect"]);
        let (header, flag) = bytes.split_first_chunk().unwrap();
        assert_eq!(
            parse_header(header),
            Ok(VersionRange { min: 1, max: 2 }),
            "{}",
            id(&vector)
        );
        assert_eq!(flag, [0], "{}", id(&vector));
    }
}

#[test]
fn every_captured_datagram_decodes_and_encodes() {
    for vector in load(FILE, Some("sleeve-plain-decode")) {
        check_plain(id(&vector), &bytes(&vector["input"]), &vector["expect"]);
    }
}
