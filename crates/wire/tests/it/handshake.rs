//! Header, negotiation and features.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use wire::gob::{Stream, StreamReader, Value};
use wire::handshake::{
    FEATURES_BYTES_MAX, Features, HEADER_BYTES, HandshakeError, VersionRange, WeftFeature,
    check_flag, encode_header, header_cut_short, negotiate, parse_header,
};
use wire::message::FrameReader;

use crate::vectors::{bytes, hex, id, load, uint};

fn version(json: &Json) -> u8 {
    json.as_u64().unwrap().try_into().unwrap()
}

/// The features a vector's map of texts describes.
fn features(map: &Json) -> Features {
    let text = |key: &str| map[key].as_str();
    Features {
        name: text("Name").unwrap().parse().unwrap(),
        nickname: text("NickName").unwrap().to_owned(),
        uid: text("UID").unwrap().parse().unwrap(),
        conn_id: text("ConnID").unwrap().parse().unwrap(),
        short_id: text("ShortID").map(|id| id.parse().unwrap()),
        trusted: text("Trusted") == Some("true"),
        overlays: text("Overlays").map(|names| names.split(' ').map(str::to_owned).collect()),
        public_key: None,
        weft: None,
    }
}

#[test]
fn header_is_the_magic_and_two_versions() {
    for vector in load("handshake.json", Some("bytes")) {
        let (min, max) = (
            version(&vector["input"]["min"]),
            version(&vector["input"]["max"]),
        );
        let header = encode_header(min, max);
        assert_eq!(hex(&header), vector["expect"], "{}", id(&vector));
        assert_eq!(parse_header(&header), Ok(VersionRange { min, max }));
    }
}

#[test]
fn version_is_the_highest_in_common() {
    for vector in load("handshake.json", Some("version-negotiation")) {
        let input = &vector["input"];
        let ours = VersionRange {
            min: version(&input["our_min"]),
            max: version(&input["our_max"]),
        };
        let theirs = VersionRange {
            min: version(&input["their_min"]),
            max: version(&input["their_max"]),
        };
        match negotiate(ours, theirs) {
            Ok(version) => assert_eq!(vector["expect"]["version"], version, "{}", id(&vector)),
            Err(error) => assert_eq!(vector["expect"]["error"], error.to_string()),
        }
    }
}

#[test]
fn features_decode_in_any_order_and_encode_to_the_same() {
    for vector in load("handshake.json", Some("gob-features")) {
        let expected = features(&vector["expect"]);
        let decoded = Features::decode_v2(&bytes(&vector["input"])).unwrap();
        assert_eq!(decoded, expected, "{}", id(&vector));
        assert_eq!(Features::decode_v2(&decoded.encode_v2()), Ok(expected));
    }
}

#[test]
fn introduction_in_clear_is_byte_for_byte_the_originals() {
    let vectors = load("handshake.json", Some("handshake-bytes"));
    let vector = vectors.iter().find(|v| id(v) == "hs-v2-plain").unwrap();
    let features = features(&vector["input"]);
    let mut ours = encode_header(1, 2).to_vec();
    ours.push(0);
    ours.extend(wire::message::encode_frame(&features.encode_v2()).unwrap());
    assert_eq!(hex(&ours), vector["expect"]);
}

#[test]
fn version_1_features_start_a_stream_messages_continue() {
    let vectors = load("handshake.json", Some("handshake-bytes"));
    let vector = vectors.iter().find(|v| id(v) == "hs-v1-plain").unwrap();
    let theirs = bytes(&vector["expect"]);
    let (header, stream) = theirs.split_first_chunk::<HEADER_BYTES>().unwrap();
    assert_eq!(parse_header(header), Ok(VersionRange { min: 1, max: 1 }));
    let expected = features(&vector["input"]);
    for stream in [stream.to_vec(), expected.encode_v1()] {
        let mut reader = StreamReader::new();
        reader.push(&stream);
        reader.push(&wire::message::encode_frame_v1(&[0]));
        let decoded = Features::decode(&reader.next_value().unwrap().unwrap(), 1).unwrap();
        assert_eq!(decoded, expected);
        assert_eq!(reader.next_value().unwrap(), Some(Value::Bytes(&[0])));
    }
    assert_eq!(expected.encode_v1().len(), stream.len());
}

#[test]
fn version_1_carries_the_public_key_and_nothing_of_version_2() {
    let features = Features {
        short_id: Some(7),
        trusted: true,
        overlays: Some(vec!["sleeve".to_owned()]),
        public_key: Some([0xab; 32]),
        weft: Some(WeftFeature {
            version: 1,
            capabilities: Vec::new(),
        }),
        ..some_features()
    };
    let stream = features.encode_v1();
    let map = Stream::new(&stream).next_value().unwrap().unwrap();
    let decoded = Features::decode(&map, 1).unwrap();
    let plain = Features {
        public_key: Some([0xab; 32]),
        ..some_features()
    };
    assert_eq!(decoded, plain);
    // A version 2 map read as version 1 loses the rest, and the other way round.
    let stream = features.encode_v2();
    let map = Stream::new(&stream).next_value().unwrap().unwrap();
    assert_eq!(Features::decode(&map, 1), Ok(some_features()));
    let stream = features.encode_v1();
    assert_eq!(Features::decode_v2(&stream), Ok(some_features()));
}

/// What an acceptor makes of the bytes of a version 2 introduction.
fn introduce(received: &[u8], have_password: bool) -> String {
    let Some((header, rest)) = received.split_first_chunk::<HEADER_BYTES>() else {
        let error = if received.is_empty() {
            "EOF"
        } else {
            "unexpected EOF"
        };
        return header_cut_short(received, error).to_string();
    };
    if let Err(error) = parse_header(header) {
        return error.to_string();
    }
    let (flag, rest) = rest.split_first().unwrap();
    match check_flag(*flag, have_password) {
        Err(error) => return error.to_string(),
        Ok(true) => return HandshakeError::Undecryptable.to_string(),
        Ok(false) => {}
    }
    let mut frames = FrameReader::new();
    frames.push(rest);
    frames.next_frame().unwrap_err().to_string()
}

#[test]
fn introduction_errors_have_the_texts_users_know() {
    for vector in load("handshake.json", Some("intro-error")) {
        let input = &vector["input"];
        let received = bytes(if input.is_object() {
            &input["received"]
        } else {
            input
        });
        let have_password = input["our_password"]
            .as_str()
            .is_some_and(|p| !p.is_empty());
        assert_eq!(
            introduce(&received, have_password),
            vector["expect"],
            "{}",
            id(&vector)
        );
    }
}

#[test]
fn connection_uid_is_the_same_at_both_ends() {
    for vector in load("handshake.json", Some("xor")) {
        let conn_uid = uint(&vector["input"]["conn_id_a"]) ^ uint(&vector["input"]["conn_id_b"]);
        assert_eq!(conn_uid, uint(&vector["expect"]["decimal"]));
        assert_eq!(hex(&conn_uid.to_be_bytes()), vector["expect"]["be_hex"]);
    }
}

fn some_features() -> Features {
    Features {
        name: "02:00:00:00:0a:01".parse().unwrap(),
        nickname: "alpha".to_owned(),
        uid: 9,
        conn_id: 10,
        short_id: None,
        trusted: false,
        overlays: None,
        public_key: None,
        weft: None,
    }
}

/// The error, as text, for the entries of a complete map with some replaced or removed.
fn decode_changed(changes: &[(&str, Option<&str>)]) -> Result<Features, String> {
    let mut map = BTreeMap::from([
        ("PeerNameFlavour", "mac"),
        ("Name", "02:00:00:00:0a:01"),
        ("NickName", "alpha"),
        ("UID", "9"),
        ("ConnID", "10"),
    ]);
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(key),
        };
    }
    let text = |text: &'static str| Value::String(text.into());
    let entries = map
        .into_iter()
        .map(|(k, v)| (text(k.to_owned().leak()), text(v.to_owned().leak())));
    Features::decode(&Value::Map(entries.collect()), 2).map_err(|e| e.to_string())
}

#[test]
fn missing_fields_are_reported_in_the_originals_order() {
    let keys = ["PeerNameFlavour", "Name", "NickName", "UID", "ConnID"];
    for first in 0..keys.len() {
        let changes: Vec<_> = keys[first..].iter().map(|key| (*key, None)).collect();
        let error = decode_changed(&changes).unwrap_err();
        assert_eq!(error, format!("field {} is missing", keys[first]));
    }
}

#[test]
fn bad_fields_are_reported() {
    let cases = [
        (
            "PeerNameFlavour",
            "hash",
            "Peer name flavour mismatch (ours: 'mac', theirs: 'hash')",
        ),
        ("Name", "x", "invalid peer name format: \"x\""),
        (
            "UID",
            "x",
            "strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        (
            "UID",
            "+1",
            "strconv.ParseUint: parsing \"+1\": invalid syntax",
        ),
        (
            "ConnID",
            "",
            "strconv.ParseUint: parsing \"\": invalid syntax",
        ),
        (
            "ConnID",
            "18446744073709551616",
            "strconv.ParseUint: parsing \"18446744073709551616\": value out of range",
        ),
        (
            "ShortID",
            "4096",
            "strconv.ParseUint: parsing \"4096\": value out of range",
        ),
        (
            "Trusted",
            "yes",
            "strconv.ParseBool: parsing \"yes\": invalid syntax",
        ),
    ];
    for (key, value, expected) in cases {
        assert_eq!(decode_changed(&[(key, Some(value))]).unwrap_err(), expected);
    }
}

#[test]
fn optional_fields_are_read_and_unknown_ones_ignored() {
    let changes = [
        ("NickName", Some("")),
        ("ShortID", Some("4095")),
        ("Trusted", Some("T")),
        ("Overlays", Some("wireguard fastdp  sleeve")),
        ("Weft", Some("1 pmtu-low ipv6 future-word")),
        ("PublicKey", Some("not read in version 2")),
        ("Color", Some("green")),
    ];
    let features = decode_changed(&changes).unwrap();
    assert_eq!((features.short_id, features.trusted), (Some(4095), true));
    assert_eq!(
        features.overlays.as_ref().unwrap()[..],
        ["wireguard", "fastdp", "sleeve"]
    );
    let weft = features.weft.unwrap();
    assert_eq!(weft.capabilities, ["future-word", "ipv6", "pmtu-low"]);
    assert!(weft.has("ipv6") && !weft.has("ipv"));
    assert_eq!(weft.to_string(), "1 future-word ipv6 pmtu-low");
    assert_eq!(
        decode_changed(&[("Overlays", Some(""))]).unwrap().overlays,
        Some(Vec::new())
    );
}

#[test]
fn a_weft_value_that_makes_no_sense_counts_as_absent() {
    let long = format!("1 {}", "x".repeat(5000));
    for value in ["", " ", "x", "-1", "0", "1.0", "4294967296", &long] {
        assert_eq!(
            decode_changed(&[("Weft", Some(value))]).unwrap().weft,
            None,
            "{value}"
        );
    }
    assert_eq!(
        WeftFeature::parse("2").unwrap(),
        WeftFeature {
            version: 2,
            capabilities: vec![]
        }
    );
}

#[test]
fn features_are_bounded() {
    let nickname = "x".repeat(FEATURES_BYTES_MAX);
    assert!(
        decode_changed(&[("NickName", Some(&nickname))])
            .unwrap_err()
            .ends_with("too large")
    );
    let features = Features {
        nickname,
        ..some_features()
    };
    assert!(matches!(
        Features::decode_v2(&features.encode_v2()),
        Err(HandshakeError::TooLarge(_))
    ));
    for key in ["zz".repeat(32), "é".repeat(32), "ab".repeat(31)] {
        let key = Value::String(key.into());
        let mut entries = vec![(Value::String("PublicKey".into()), key)];
        let stream = some_features().encode_v1();
        let mut stream = Stream::new(&stream);
        let map = stream.next_value().unwrap().unwrap();
        entries.extend_from_slice(map.as_map("features").unwrap());
        let decoded = Features::decode(&Value::Map(entries), 1);
        assert_eq!(decoded, Err(HandshakeError::BadPublicKey));
    }
}
