//! Topology payloads.

use serde_json::Value as Json;
use wire::gob::GobError;
use wire::topology::{ConnectionSummary, PeerSummary, decode, encode};

use crate::vectors::{bytes, id, load, uint, unhex};

fn peers(json: &Json) -> Vec<PeerSummary> {
    json.as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .map(peer)
        .collect()
}

fn peer(json: &Json) -> PeerSummary {
    let short_id = u16::try_from(uint(&json["short_id"])).unwrap();
    let connections = json["connections"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    PeerSummary {
        name: json["name"].as_str().unwrap().parse().unwrap(),
        nickname: json["nickname"].as_str().unwrap().to_owned(),
        uid: uint(&json["uid"]),
        version: uint(&json["version"]),
        short_id: (json["has_short_id"] == true).then_some(short_id),
        connections: connections.iter().map(connection).collect(),
    }
}

fn connection(json: &Json) -> ConnectionSummary {
    ConnectionSummary {
        remote: json["name"].as_str().unwrap().parse().unwrap(),
        remote_address: json["remote_tcp_addr"].as_str().unwrap().to_owned(),
        outbound: json["outbound"] == true,
        established: json["established"] == true,
    }
}

#[test]
fn payloads_decode_and_encode_to_the_same() {
    for vector in load("topology.json", Some("topology-payload")) {
        let expected = peers(&vector["input"]);
        let theirs = bytes(&vector["expect"]);
        let ours = encode(&expected);
        assert_eq!(decode(&theirs).as_ref(), Ok(&expected), "{}", id(&vector));
        assert_eq!(decode(&ours).as_ref(), Ok(&expected), "{}", id(&vector));
        // Only the numbers of the types differ.
        assert_eq!(ours.len(), theirs.len(), "{}", id(&vector));
    }
}

#[test]
fn our_payload_is_that_of_a_fresh_original() {
    let peer = PeerSummary {
        name: "02:00:00:00:0a:01".parse().unwrap(),
        nickname: "alpha".to_owned(),
        uid: 9,
        version: 3,
        short_id: Some(291),
        connections: vec![ConnectionSummary {
            remote: "02:00:00:00:0b:02".parse().unwrap(),
            remote_address: "192.168.77.2:43189".to_owned(),
            outbound: false,
            established: true,
        }],
    };
    let vectors = load("gob_types.json", None);
    let vector = vectors
        .iter()
        .find(|vector| id(vector) == "gobtype-topology")
        .unwrap();
    assert_eq!(encode(&[peer]), bytes(&vector["input"]));
}

#[test]
fn peers_of_other_ages_are_understood() {
    for vector in load("topology.json", Some("topology-decode")) {
        assert_eq!(
            decode(&bytes(&vector["input"])),
            Ok(peers(&vector["expect"])),
            "{}",
            id(&vector)
        );
    }
}

/// Our payload with the value message of one peer replaced.
fn payload(summary: &str, connections: &str) -> Vec<u8> {
    let mut payload = wire::gob::definitions::PEER_SUMMARY.to_vec();
    wire::gob::put_bytes(&mut payload, &unhex(summary));
    payload.extend(wire::gob::definitions::CONNECTION_SUMMARIES);
    wire::gob::put_bytes(&mut payload, &unhex(connections));
    payload
}

#[test]
fn values_that_do_not_fit_are_errors() {
    let cases = [
        ("ff820106020000000a0104fe1000010100", "ff860000", None),
        (
            "ff820106020000000a0104fd010000010100",
            "ff860000",
            Some(GobError::OutOfRange("ShortID")),
        ),
        (
            "ff820105020000000a00",
            "ff860000",
            Some(GobError::OutOfRange("NameByte")),
        ),
        ("ff8200", "ff860000", Some(GobError::OutOfRange("NameByte"))),
        (
            "ff820106020000000a0100",
            "ff86000100",
            Some(GobError::OutOfRange("NameByte")),
        ),
        (
            "ff820106020000000a0100",
            "ff86000101",
            Some(GobError::Truncated),
        ),
    ];
    for (summary, connections, error) in cases {
        assert_eq!(
            decode(&payload(summary, connections)).err(),
            error,
            "{summary}"
        );
    }
    let whole = payload("ff820106020000000a0100", "ff860000");
    let lonely = &whole[..whole.len() - 5];
    assert_eq!(
        decode(lonely),
        Err(GobError::Missing("connection summaries"))
    );
    assert_eq!(decode(&[]), Ok(Vec::new()));
}
