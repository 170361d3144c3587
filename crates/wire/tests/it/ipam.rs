//! Gossip, unicasts and stored values of address allocation.

mod property;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::Value as Json;
use wire::PeerName;
use wire::gob::{GobError, definitions, put_bytes};
use wire::ipam::stored::{Owned, decode_direct_peers, decode_owned, decode_peer_name, decode_ring};
use wire::ipam::{
    AcceptedValue, Entry, GossipState, NodeClaims, NodeId, ProposalId, Range, Ring, Unicast,
    decode_state, encode_state,
};

use crate::vectors::{bytes, hex, id, load, uint, unhex};

const FILE: &str = "ipam.json";

fn name(json: &Json) -> PeerName {
    json.as_str().unwrap().parse().unwrap()
}

fn names(json: &Json) -> Vec<PeerName> {
    json.as_array().unwrap().iter().map(name).collect()
}

fn address(json: &Json) -> u32 {
    json.as_str().unwrap().parse::<Ipv4Addr>().unwrap().into()
}

fn uint32(json: &Json) -> u32 {
    u32::try_from(uint(json)).unwrap()
}

fn proposal(json: &Json) -> ProposalId {
    ProposalId {
        round: uint(&json["round"]),
        proposer: NodeId {
            name: name(&json["proposer_name"]),
            uid: uint(&json["proposer_uid"]),
        },
    }
}

fn claims((node, json): (&String, &Json)) -> (NodeId, NodeClaims) {
    let (name, uid) = node.split_once('/').unwrap();
    let node = NodeId {
        name: name.parse().unwrap(),
        uid: uid.parse().unwrap(),
    };
    let claims = NodeClaims {
        promise: proposal(&json["promise"]),
        accepted: proposal(&json["accepted"]),
        accepted_value: AcceptedValue {
            value: names(&json["accepted_value"]),
            origin: proposal(&json["accepted_origin"]),
        },
    };
    (node, claims)
}

fn ring(json: &Json) -> Ring {
    let entry = |json: &Json| Entry {
        token: address(&json["token"]),
        peer: name(&json["peer"]),
        version: uint32(&json["version"]),
        free: uint32(&json["free"]),
    };
    Ring {
        start: address(&json["start"]),
        end: address(&json["end_exclusive"]),
        peer: name(&json["peer"]),
        entries: json["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(entry)
            .collect(),
        seeds: names(&json["seeds"]),
    }
}

fn state(json: &Json) -> GossipState {
    let nicknames = json["nicknames"].as_object().map(|map| {
        map.iter()
            .map(|(peer, nickname)| (peer.parse().unwrap(), nickname.as_str().unwrap().to_owned()))
            .collect()
    });
    GossipState {
        now: json["now"].as_i64().unwrap_or_default(),
        nicknames: nicknames.unwrap_or_default(),
        paxos: json["paxos"]
            .as_object()
            .map(|map| map.iter().map(claims).collect()),
        ring: json.get("ring").map(ring),
    }
}

/// The last message of a stream, without its type id: the value itself.
fn content(stream: &[u8]) -> Vec<u8> {
    let mut rest = wire::gob::Reader::new(stream);
    let mut message = wire::gob::Reader::new(&[]);
    while !rest.is_empty() {
        message = rest.message().unwrap();
    }
    message.int().unwrap();
    message.rest().to_vec()
}

#[test]
fn gossip_decodes_and_encodes_to_the_same() {
    for vector in load(FILE, Some("ipam-gossip")) {
        let (expected, theirs) = (state(&vector["input"]), bytes(&vector["expect"]));
        assert_eq!(
            decode_state(&theirs).as_ref(),
            Ok(&expected),
            "{}",
            id(&vector)
        );
        let ours = encode_state(&expected);
        assert_eq!(decode_state(&ours), Ok(expected), "{}", id(&vector));
        // Only the numbers of the types differ, and the order of maps with several entries.
        let nodes = vector["input"]["paxos"]
            .as_object()
            .map_or(0, serde_json::Map::len);
        if nodes < 2 {
            assert_eq!(
                hex(&content(&ours)),
                hex(&content(&theirs)),
                "{}",
                id(&vector)
            );
        }
        assert_eq!(ours.len(), theirs.len(), "{}", id(&vector));
    }
}

#[test]
fn unicasts_decode_and_encode_to_the_same() {
    for vector in load(FILE, Some("ipam-unicast")) {
        let (input, theirs) = (&vector["input"], bytes(&vector["expect"]));
        let range = || Range {
            start: address(&input["start"]),
            end: address(&input["end_exclusive"]),
        };
        let expected = match uint(&input["kind"]) {
            0 => Unicast::SpaceRequest(range()),
            2 => Unicast::Denied(range()),
            _ => {
                let theirs = decode_state(&theirs[1..]).unwrap();
                assert_eq!(theirs.ring, Some(ring(&input["ring"])), "{}", id(&vector));
                Unicast::RingUpdate(theirs)
            }
        };
        assert_eq!(
            Unicast::decode(&theirs).as_ref(),
            Ok(&expected),
            "{}",
            id(&vector)
        );
        let ours = expected.encode();
        assert_eq!(ours[0], theirs[0], "{}", id(&vector));
        assert_eq!(
            hex(&content(&ours[1..])),
            hex(&content(&theirs[1..])),
            "{}",
            id(&vector)
        );
        assert_eq!(ours.len(), theirs.len(), "{}", id(&vector));
    }
}

#[test]
fn our_payloads_are_those_of_a_fresh_original() {
    let vectors = load("gob_types.json", None);
    let stream = |wanted: &str| {
        let vector = vectors.iter().find(|vector| id(vector) == wanted);
        bytes(&vector.unwrap()["input"])
    };
    for wanted in ["gobtype-observer", "gobtype-paxos", "gobtype-ring"] {
        let theirs = stream(wanted);
        let ours = encode_state(&decode_state(&theirs).unwrap());
        assert_eq!(hex(&ours), hex(&theirs), "{wanted}");
    }
    let theirs = [&[0], &*stream("gobtype-range")].concat();
    assert_eq!(Unicast::decode(&theirs).unwrap().encode(), theirs);
}

#[test]
fn values_the_original_stored_are_understood() {
    let vectors = load(FILE, Some("persist"));
    let vector = |wanted: &str| vectors.iter().find(|vector| id(vector) == wanted).unwrap();
    let stored = vector("persist-ring");
    assert_eq!(
        decode_ring(&bytes(&stored["expect"])),
        Ok(ring(&stored["input"]))
    );
    let stored = vector("persist-peername");
    assert_eq!(
        decode_peer_name(&bytes(&stored["expect"])),
        Ok(name(&stored["input"]))
    );
    let stored = vector("persist-owned");
    let owned = Owned {
        is_container: true,
        cidrs: vec![(address(&Json::from("10.32.0.1")), 12)],
    };
    let owned = BTreeMap::from([("contA".to_owned(), owned)]);
    assert_eq!(decode_owned(&bytes(&stored["expect"])).as_ref(), Ok(&owned));

    let fresh = load("gob_types.json", None);
    let fresh = |wanted: &str| {
        let vector = fresh.iter().find(|vector| id(vector) == wanted);
        bytes(&vector.unwrap()["input"])
    };
    assert_eq!(decode_owned(&fresh("gobtype-owned")), Ok(owned));
    assert_eq!(
        decode_direct_peers(&fresh("gobtype-strings")),
        Ok(vec!["10.0.0.1".to_owned()])
    );
    assert_eq!(
        decode_ring(&fresh("gobtype-persistring"))
            .unwrap()
            .entries
            .len(),
        2
    );
}

#[test]
fn an_absent_election_is_not_an_empty_one() {
    let observer = GossipState::default();
    let elector = GossipState {
        paxos: Some(BTreeMap::new()),
        ..GossipState::default()
    };
    assert_ne!(encode_state(&observer), encode_state(&elector));
    assert_eq!(decode_state(&encode_state(&observer)), Ok(observer));
    assert_eq!(decode_state(&encode_state(&elector)), Ok(elector));
}

#[test]
fn a_unicast_of_another_kind_is_told_apart_and_an_empty_one_is_an_error() {
    assert_eq!(Unicast::decode(&[7, 1, 2, 3]), Ok(Unicast::Unknown(7)));
    assert_eq!(Unicast::decode(&[]), Err(GobError::Truncated));
    assert_eq!(Unicast::decode(&[0]), Err(GobError::Missing("range")));
    assert_eq!(
        Unicast::decode(&[1]),
        Err(GobError::Missing("gossip state"))
    );
}

/// A gossip payload with this value.
fn payload(value: &str) -> Vec<u8> {
    let mut payload = definitions::GOSSIP_STATE.to_vec();
    put_bytes(&mut payload, &unhex(value));
    payload
}

#[test]
fn values_that_do_not_fit_are_errors() {
    let cases = [
        (
            "ff820401fb01000000000000",
            Some(GobError::OutOfRange("Start")),
        ),
        (
            "ff820402fb01000000000000",
            Some(GobError::OutOfRange("End")),
        ),
        (
            "ff820403f9010000000000000000",
            Some(GobError::OutOfRange("Peer")),
        ),
        ("ff82040401000000", None),
        (
            "ff8204040101fb0100000000000000",
            Some(GobError::OutOfRange("Token")),
        ),
        (
            "ff8204040103fb0100000000000000",
            Some(GobError::OutOfRange("Version")),
        ),
        (
            "ff8204040104fb0100000000000000",
            Some(GobError::OutOfRange("Free")),
        ),
        (
            "ff82040501f9010000000000000000",
            Some(GobError::OutOfRange("Seeds")),
        ),
        (
            "ff820201f901000000000000016100",
            Some(GobError::OutOfRange("Nicknames")),
        ),
        ("ff820301000000", None),
        (
            "ff82030101f901000000000000000000",
            Some(GobError::OutOfRange("Name")),
        ),
        ("ff82040401", Some(GobError::CountTooLarge)),
        ("ff82040402010000", Some(GobError::Truncated)),
        ("ff82", Some(GobError::Truncated)),
    ];
    for (value, error) in cases {
        assert_eq!(decode_state(&payload(value)).err(), error, "{value}");
    }
    let mut wrong = definitions::RANGE.to_vec();
    put_bytes(&mut wrong, &unhex("ff8200"));
    assert_eq!(decode_state(&wrong), Ok(GossipState::default()));
    assert_eq!(
        decode_state(&unhex("03060007")),
        Err(GobError::WrongType("gossip state"))
    );
    assert_eq!(decode_state(&[]), Err(GobError::Missing("gossip state")));
}

#[test]
fn more_of_anything_than_anybody_needs_is_an_error() {
    let seeds = (0..5000).map(PeerName::from_u64).collect();
    let mut state = GossipState {
        ring: Some(Ring {
            seeds,
            ..Ring::default()
        }),
        ..GossipState::default()
    };
    assert_eq!(
        decode_state(&encode_state(&state)),
        Err(GobError::TooManyValues)
    );
    state.ring = None;
    let node = |uid| NodeId {
        name: PeerName::from_u64(1),
        uid,
    };
    state.paxos = Some(
        (0..5000)
            .map(|uid| (node(uid), NodeClaims::default()))
            .collect(),
    );
    assert_eq!(
        decode_state(&encode_state(&state)),
        Err(GobError::TooManyValues)
    );
    state.paxos = None;
    state.nicknames = (0..20_000)
        .map(|n| (PeerName::from_u64(n), String::new()))
        .collect();
    assert_eq!(
        decode_state(&encode_state(&state)),
        Err(GobError::TooManyValues)
    );
}
