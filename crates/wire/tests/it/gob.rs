//! The serialisation itself.

use serde_json::Value as Json;
use wire::PeerName;
use wire::gob::{self, Encoder, GobError, Reader, Stream, StreamReader, Value, definitions};

use crate::vectors::{bytes, hex, id, load, matches, unhex};

/// All values of a payload.
pub(crate) fn decode_all(payload: &[u8]) -> Result<Vec<Value<'_>>, GobError> {
    let mut stream = Stream::new(payload);
    std::iter::from_fn(|| stream.next_value().transpose()).collect()
}

#[test]
fn bare_integers_have_the_shortest_form() {
    for vector in load("gob.json", Some("gob-uint")) {
        let value: u64 = vector["input"].as_str().unwrap().parse().unwrap();
        let mut out = Vec::new();
        gob::put_uint(&mut out, value);
        assert_eq!(hex(&out), vector["expect"], "{}", id(&vector));
        assert_eq!(Reader::new(&out).uint(), Ok(value), "{}", id(&vector));
    }
    for vector in load("gob.json", Some("gob-int")) {
        let value: i64 = vector["input"].as_str().unwrap().parse().unwrap();
        let mut out = Vec::new();
        gob::put_int(&mut out, value);
        assert_eq!(hex(&out), vector["expect"], "{}", id(&vector));
        assert_eq!(Reader::new(&out).int(), Ok(value), "{}", id(&vector));
    }
}

/// Our encoding of a `gob-stream` vector's input.
fn encode_stream(id: &str, input: &Json) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new();
    match input {
        Json::Bool(value) => {
            encoder.value(gob::id::BOOL, |body| gob::put_uint(body, u64::from(*value)));
            return Some(encoder.finish());
        }
        Json::String(text) if id.starts_with("gob-uint") => {
            gob::put_uint_message(&mut out, text.parse().unwrap());
        }
        Json::String(text) if id.starts_with("gob-int") => {
            let value = text.parse().unwrap();
            encoder.value(gob::id::INT, |body| gob::put_int(body, value));
            return Some(encoder.finish());
        }
        Json::String(text) if id.starts_with("gob-bytes") => {
            gob::put_bytes_message(&mut out, &unhex(text));
        }
        Json::String(text) if id == "gob-peername" => {
            gob::put_uint_message(&mut out, text.parse::<PeerName>().unwrap().to_u64());
        }
        Json::String(text) => gob::put_string_message(&mut out, text),
        Json::Object(entries) => {
            encoder.definitions(&definitions::FEATURES);
            encoder.value(definitions::features::MAP, |body| {
                gob::put_uint(body, entries.len() as u64);
                for (key, value) in entries {
                    gob::put_string(body, key);
                    gob::put_string(body, value.as_str().unwrap());
                }
            });
            return Some(encoder.finish());
        }
        Json::Array(_) | Json::Number(_) | Json::Null => return None,
    }
    Some(out)
}

#[test]
fn top_level_values_decode_and_encode() {
    for vector in load("gob.json", Some("gob-stream")) {
        let stream = bytes(&vector["expect"]);
        let values = decode_all(&stream).unwrap();
        assert_eq!(values.len(), 1, "{}", id(&vector));
        let expected = match &vector["input"] {
            Json::Object(entries) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(k, v)| serde_json::json!([k, v]))
                    .collect();
                serde_json::json!({ "map": entries })
            }
            Json::String(text) if id(&vector) == "gob-peername" => text
                .parse::<PeerName>()
                .unwrap()
                .to_u64()
                .to_string()
                .into(),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) => {
                vector["input"].clone()
            }
        };
        assert!(
            matches(&values[0], &expected),
            "{}: {:?}",
            id(&vector),
            values[0]
        );
        if let Some(encoded) = encode_stream(id(&vector), &vector["input"]) {
            assert_eq!(hex(&encoded), hex(&stream), "{}", id(&vector));
        }
    }
}

#[test]
fn every_composite_type_decodes() {
    for vector in load("gob_types.json", Some("gob-stream-decode")) {
        let stream = bytes(&vector["input"]);
        let values = decode_all(&stream).unwrap();
        let expected = vector["expect"]["values"].as_array().unwrap();
        assert_eq!(values.len(), expected.len(), "{}", id(&vector));
        for (value, expected) in values.iter().zip(expected) {
            assert!(
                matches(value, expected),
                "{}: {value:?} is not {expected}",
                id(&vector)
            );
        }
    }
}

#[test]
fn our_definitions_are_those_of_a_fresh_original() {
    let vectors = load("gob_types.json", None);
    let definitions_of = |wanted: &str| -> Vec<u8> {
        let vector = vectors.iter().find(|vector| id(vector) == wanted).unwrap();
        let messages = vector["expect"]["messages"].as_array().unwrap().iter();
        messages
            .filter(|m| m["is_definition"] == true)
            .flat_map(|m| bytes(&m["message"]))
            .collect()
    };
    assert_eq!(definitions_of("gobtype-features"), definitions::FEATURES);
    let ours = [
        &definitions::PEER_SUMMARY[..],
        &definitions::CONNECTION_SUMMARIES,
    ]
    .concat();
    assert_eq!(definitions_of("gobtype-topology"), ours);
}

#[test]
fn streams_are_accepted_and_rejected_as_the_original_does() {
    for vector in load("gob_tolerance.json", Some("gob-tolerance")) {
        let stream = bytes(&vector["input"]);
        let values = decode_all(&stream);
        let expect = vector["expect"].as_str().unwrap();
        assert_eq!(
            values.is_ok(),
            expect.starts_with("ok"),
            "{}: {values:?}",
            id(&vector)
        );
        let Ok(values) = values else { continue };
        let state = values[0].as_record("gossipState").unwrap();
        assert_eq!(state.int("Now"), Ok(1_700_000_000), "{}", id(&vector));
        let paxos = state.map("Paxos").unwrap();
        assert_eq!(paxos.map(<[_]>::len), expect.contains("Paxos").then_some(0));
    }
}

#[test]
fn an_endless_stream_decodes_however_it_is_cut() {
    for vector in load("gob_types.json", Some("gob-stream-decode")) {
        let stream = bytes(&vector["input"]);
        for piece_bytes in [1, 2, 7, stream.len()] {
            let expected = vector["expect"]["values"].as_array().unwrap();
            let mut expected = expected.iter();
            let mut reader = StreamReader::new();
            for piece in stream.chunks(piece_bytes) {
                reader.push(piece);
                while let Some(value) = reader.next_value().unwrap() {
                    assert!(matches(&value, expected.next().unwrap()), "{}", id(&vector));
                }
            }
            assert_eq!(
                (expected.next(), reader.buffered_bytes()),
                (None, 0),
                "{}",
                id(&vector)
            );
        }
    }
}

/// Definition of 66 as a slice of 66.
fn recursive_list_definition() -> Vec<u8> {
    unhex("0dff83020102ff840001ff840000")
}

#[test]
fn nesting_is_bounded() {
    let mut encoder = Encoder::new();
    encoder.definitions(&recursive_list_definition());
    encoder.value(66, |body| body.extend([1; 1000]));
    assert_eq!(decode_all(&encoder.finish()), Err(GobError::TooDeep));

    let mut encoder = Encoder::new();
    encoder.definitions(&recursive_list_definition());
    encoder.value(66, |body| body.extend([1, 1, 1, 0]));
    assert!(decode_all(&encoder.finish()).is_ok());
}

#[test]
fn a_tree_of_too_many_values_is_refused() {
    let count = gob::VALUES_MAX;
    let mut encoder = Encoder::new();
    encoder.definitions(&recursive_list_definition());
    encoder.value(66, |body| {
        gob::put_uint(body, count as u64);
        body.resize(body.len() + count, 0);
    });
    assert_eq!(decode_all(&encoder.finish()), Err(GobError::TooManyValues));
}

#[test]
fn malformed_streams_are_named() {
    let cases = [
        ("04060000ff", GobError::TrailingBytes),
        ("03060100", GobError::BadSingleton),
        ("0206", GobError::Truncated),
        ("03060005ff", GobError::Truncated),
        ("0306", GobError::Truncated),
        ("050a00f7ff", GobError::Truncated),
        ("0306000000", GobError::Truncated),
        ("020c", GobError::Truncated),
        ("040600f700", GobError::BadInteger),
        ("00", GobError::Truncated),
        ("03100000", GobError::UnknownType(8)),
        ("fc00a00001", GobError::MessageTooLarge(10_485_761)),
        ("0b7f040102ff8200010c010c", GobError::DuplicateType),
        ("0fff81040102ff8200010c010c000000", GobError::TrailingBytes),
        ("03ff8100", GobError::BadDefinition),
        (
            "0eff81040102ff8200010c010c000005ff82000500",
            GobError::CountTooLarge,
        ),
        (
            "25ff810301010552616e676501ff82000102010553746172740106000103456e640106000000\
          06ff820300010000",
            GobError::FieldOutOfRange,
        ),
    ];
    for (stream, expected) in cases {
        assert_eq!(decode_all(&unhex(stream)), Err(expected), "{stream}");
    }
}

#[test]
fn types_no_peer_sends_today_are_skipped() {
    let messages = [
        // 65: struct { A [2]uint (66); T custom (67); F float; B uint }
        concat!(
            "ff81 03 01 010153 01ff82 00 01 04",
            "010141 01ff84 00  010154 01ff86 00  010146 0108 00  010142 0106 00  00 00",
        ),
        "ff83 01 01 02ff84 00 0106 0104 00 00",
        "ff85 05 01 02ff86 00 00 00",
        "ff82 01 02 05 06  01 02 01 02  01 fef03f  01 09  00",
    ];
    let mut stream = Vec::new();
    for message in messages {
        gob::put_bytes(&mut stream, &unhex(&message.replace(' ', "")));
    }
    let values = decode_all(&stream).unwrap();
    let record = values[0].as_record("s").unwrap();
    assert_eq!(
        record.get("A"),
        Some(&Value::List(vec![Value::Uint(5), Value::Uint(6)]))
    );
    assert_eq!(record.bytes("T"), Ok(&[1, 2][..]));
    assert_eq!(record.get("F"), Some(&Value::Float(1.0)));
    assert_eq!(record.uint("B"), Ok(9));
}

#[test]
fn definitions_are_bounded_in_number_and_size() {
    let list_of_strings = |id: i64, name: &str| {
        let mut body = Vec::new();
        gob::put_int(&mut body, -id);
        body.extend([2, 1, 1]);
        gob::put_string(&mut body, name);
        body.extend([0, 1, 12, 0, 0]);
        let mut message = Vec::new();
        gob::put_bytes(&mut message, &body);
        message
    };
    let most = i64::try_from(gob::DEFINITIONS_MAX).unwrap();
    let mut stream: Vec<u8> = (0..most)
        .flat_map(|at| list_of_strings(65 + at, "T"))
        .collect();
    assert_eq!(decode_all(&stream), Ok(Vec::new()));
    stream.extend(list_of_strings(65 + most, "T"));
    assert_eq!(decode_all(&stream), Err(GobError::TooManyTypes));
    let long = list_of_strings(65, &"T".repeat(gob::DEFINITION_BYTES_MAX));
    assert_eq!(decode_all(&long), Err(GobError::TooManyTypes));
}
