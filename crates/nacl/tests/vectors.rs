//! Keys, link messages and datagrams of the original, sealed and opened.
#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps in vain has failed as it should"
)]

use nacl::{DirectionKey, KeyPair, OpenError, SessionKey, TAG_BYTES, WeakKeyError};
use proptest::prelude::*;
use serde_json::Value as Json;
use wire::gob::{StreamReader, Value};
use wire::handshake::Features;
use wire::message::{FrameReader, Message, encode_frame, encode_frame_v1};
use wire::sleeve::{
    COUNTER_DF_BIT, Frames, NONCE_PREFIX_BYTES, nonce, nonce_prefix, parse_datagram,
    parse_sealed_body,
};

/// All vectors of one kind of a file, its path relative to this crate.
fn load(file: &str, kind: &str) -> Vec<Json> {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut json: Json = serde_json::from_str(&text).unwrap();
    let Json::Array(mut vectors) = json["vectors"].take() else {
        panic!("{path}: no vectors")
    };
    vectors.retain(|vector| vector["kind"] == kind);
    assert!(!vectors.is_empty(), "{path}: no vectors of kind {kind}");
    vectors
}

fn bytes(json: &Json) -> Vec<u8> {
    let digit = |b: u8| u8::try_from(char::from(b).to_digit(16).unwrap()).unwrap();
    let text = json.as_str().unwrap().as_bytes();
    text.chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

fn key_bytes(json: &Json) -> [u8; 32] {
    bytes(json).try_into().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn session_key(json: &Json) -> SessionKey {
    SessionKey::from_bytes(key_bytes(json))
}

/// The session key of the captured connection.
fn captured_key() -> SessionKey {
    session_key(&load("testdata/pcap_encrypted.json", "session-key")[0]["expect"])
}

/// Checks that both ends of one vector agree on its key.
fn check_agreement(input: &Json, ends: [&str; 2], expected: &Json) {
    let passphrase = input["passphrase_utf8"].as_str().unwrap().as_bytes();
    let pair = |end: &str| {
        let private = &input[ends
            .iter()
            .find(|e| **e == end)
            .unwrap()
            .replace("public", "private")];
        let pair = KeyPair::from_seed_bytes(key_bytes(private));
        assert_eq!(pair.public(), key_bytes(&input[end]), "{end}");
        pair
    };
    for (ours, theirs) in [(ends[0], ends[1]), (ends[1], ends[0])] {
        let key = SessionKey::from_dh(&pair(ours), &key_bytes(&input[theirs]), passphrase).unwrap();
        assert_eq!(hex(key.expose_bytes()), *expected);
    }
}

/// F28, F32: X25519, box precomputation, SHA-256 with the passphrase, as recorded from the
/// original.
#[test]
fn both_ends_compute_the_originals_session_key() {
    for vector in load("testdata/tcp_crypto.json", "session-key") {
        let expected = &vector["expect"]["session_key"];
        check_agreement(&vector["input"], ["public_a", "public_b"], expected);
    }
    for vector in load("testdata/pcap_encrypted.json", "session-key") {
        let ends = ["outbound_public", "inbound_public"];
        check_agreement(&vector["input"], ends, &vector["expect"]);
    }
}

#[test]
fn public_keys_of_low_order_are_refused() {
    let ours = KeyPair::from_seed_bytes([7; 32]);
    let one = {
        let mut key = [0; 32];
        key[0] = 1;
        key
    };
    for weak in [[0; 32], one] {
        assert_eq!(
            SessionKey::from_dh(&ours, &weak, b"secret").err(),
            Some(WeakKeyError)
        );
    }
}

#[test]
fn link_messages_are_sealed_as_the_original_does() {
    for kind in ["tcp-frame-encrypted", "tcp-frame-v1-encrypted"] {
        for vector in load("testdata/tcp_crypto.json", kind) {
            let (id, input, expect) = (&vector["id"], &vector["input"], &vector["expect"]);
            let sequence = input["sequence"].as_u64().unwrap();
            let nonce = nonce(input["sender_outbound"] == true, sequence, true);
            assert_eq!(hex(&nonce), expect["nonce"], "{id}");
            let (key, plaintext) = (
                session_key(&input["session_key"]),
                bytes(&input["plaintext"]),
            );
            let mut sealed = nacl::seal(&key, &nonce, &plaintext);
            let frame = match kind {
                "tcp-frame-encrypted" => encode_frame(&sealed).unwrap(),
                _ => encode_frame_v1(&sealed),
            };
            assert_eq!(hex(&frame), expect["frame"], "{id}");
            assert_eq!(
                nacl::open_in_place(&key, &nonce, &mut sealed).unwrap(),
                plaintext,
                "{id}"
            );
        }
    }
}

#[test]
fn plain_frames_of_both_versions_are_the_originals() {
    for vector in load("testdata/tcp_crypto.json", "tcp-frame-plain") {
        let (message, frame) = (bytes(&vector["input"]), bytes(&vector["expect"]));
        assert_eq!(encode_frame(&message).unwrap(), frame, "{}", vector["id"]);
        let mut reader = FrameReader::new();
        reader.push(&frame);
        assert_eq!(
            reader.next_frame().unwrap().unwrap(),
            message,
            "{}",
            vector["id"]
        );
    }
    for vector in load("testdata/tcp_crypto.json", "tcp-frame-v1-plain") {
        let (message, frame) = (bytes(&vector["input"]), bytes(&vector["expect"]));
        assert_eq!(encode_frame_v1(&message), frame, "{}", vector["id"]);
        let mut reader = StreamReader::new();
        reader.push(&frame);
        let value = reader.next_value().unwrap();
        assert_eq!(value, Some(Value::Bytes(&message)), "{}", vector["id"]);
    }
}

#[test]
fn an_encrypted_introduction_is_byte_for_byte_the_originals() {
    for vector in load("../wire/testdata/handshake.json", "handshake-bytes") {
        let (id, input) = (vector["id"].as_str().unwrap(), &vector["input"]);
        let outbound = match id {
            "hs-v2-encrypted-outbound" => true,
            "hs-v2-encrypted-inbound" => false,
            _ => continue,
        };
        let pair = KeyPair::from_seed_bytes(key_bytes(&input["private_key"]));
        let password = input["password"].as_str().unwrap().as_bytes();
        let remote = key_bytes(&input["remote_public_key"]);
        let key = SessionKey::from_dh(&pair, &remote, password).unwrap();
        let features = Features::decode_v2(&bytes(&input["features_gob"])).unwrap();

        let mut ours = wire::handshake::encode_header(1, 2).to_vec();
        ours.push(1);
        ours.extend(pair.public());
        let sealed = nacl::seal(&key, &nonce(outbound, 0, true), &features.encode_v2());
        ours.extend(encode_frame(&sealed).unwrap());
        assert_eq!(hex(&ours), vector["expect"], "{id}");
    }
}

#[test]
fn every_captured_link_message_opens_and_seals() {
    for vector in load("testdata/pcap_encrypted.json", "tcp-frame-encrypted-decode") {
        let (id, input) = (&vector["id"], &vector["input"]);
        let outbound = input["sender_outbound"] == true;
        let sequence = input["sequence"].as_u64().unwrap();
        let direction = DirectionKey::new(&captured_key(), nonce_prefix(outbound, true));
        let frame = bytes(&input["frame"]);
        let mut reader = FrameReader::new();
        reader.push(&frame);
        let sealed = reader.next_frame().unwrap().unwrap();
        let plaintext = direction.open_in_place(sequence, sealed).unwrap();
        assert_eq!(hex(plaintext), vector["expect"]["plaintext"], "{id}");
        if sequence == 0 {
            Features::decode_v2(plaintext).unwrap();
        } else {
            let message = Message::decode(plaintext).unwrap();
            assert_eq!(message.encode(), plaintext, "{id}");
        }
        direction.seal_in_place(sequence, sealed);
        assert_eq!(sealed, &frame[4..], "{id}");
    }
}

/// Opens a datagram, checks counter and plaintext, and seals it again.
fn check_datagram(id: &Json, key: &SessionKey, outbound: bool, packet: &[u8], expected: &Json) {
    let direction = DirectionKey::new(key, nonce_prefix(outbound, false));
    let mut datagram = packet.to_vec();
    parse_datagram(&datagram).unwrap();
    let (counter, sealed) = parse_sealed_body(&mut datagram[6..]).unwrap();
    let plaintext = direction.open_in_place(counter, sealed).unwrap();
    assert_eq!(hex(plaintext), *expected, "{id}");
    assert!(Frames::new(plaintext).count() > 0, "{id}");
    assert!(Frames::new(plaintext).all(|frame| frame.is_ok()), "{id}");
    direction.seal_in_place(counter, sealed);
    assert_eq!(datagram, packet, "{id}");
}

/// F28: XSalsa20-Poly1305 as recorded from the original.
#[test]
fn every_captured_datagram_opens_and_seals() {
    for vector in load("testdata/pcap_encrypted.json", "sleeve-encrypted-decode") {
        let (input, expect) = (&vector["input"], &vector["expect"]);
        let packet = bytes(&input["packet"]);
        assert_eq!(
            hex(&packet[6..14]),
            expect["counter_field"],
            "{}",
            vector["id"]
        );
        let outbound = input["sender_outbound"] == true;
        check_datagram(
            &vector["id"],
            &captured_key(),
            outbound,
            &packet,
            &expect["plaintext"],
        );
    }
}

#[test]
fn datagrams_of_both_directions_and_spaces_open_and_seal() {
    for vector in load("../wire/testdata/sleeve.json", "sleeve-encrypted") {
        let (input, expect) = (&vector["input"], &vector["expect"]);
        let (packet, key) = (bytes(&expect["packet"]), session_key(&input["session_key"]));
        let counter = u64::from_be_bytes(packet[6..14].try_into().unwrap());
        assert_eq!(
            counter & COUNTER_DF_BIT != 0,
            input["df"] == true,
            "{}",
            vector["id"]
        );
        assert_eq!(
            counter & !COUNTER_DF_BIT,
            input["sequence"].as_u64().unwrap()
        );
        let outbound = input["sender_outbound"] == true;
        check_datagram(&vector["id"], &key, outbound, &packet, &expect["plaintext"]);
    }
}

proptest! {
    /// F26, F28, F46: any changed bit is refused, with one error for all reasons.
    #[test]
    fn only_the_untouched_box_opens(
        plaintext in proptest::collection::vec(any::<u8>(), 0..3000),
        key in any::<[u8; 32]>(),
        prefix in any::<[u8; NONCE_PREFIX_BYTES]>(),
        counter in any::<u64>(),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let direction = DirectionKey::new(&SessionKey::from_bytes(key), prefix);
        let mut sealed = vec![0; TAG_BYTES];
        sealed.extend_from_slice(&plaintext);
        direction.seal_in_place(counter, &mut sealed);

        let mut touched = sealed.clone();
        let at = at.index(touched.len());
        touched[at] ^= 1_u8 << bit;
        prop_assert_eq!(direction.open_in_place(counter, &mut touched), Err(OpenError));
        prop_assert_eq!(direction.open_in_place(counter ^ 1, &mut sealed), Err(OpenError));
        prop_assert_eq!(direction.open_in_place(counter, &mut sealed[..at]), Err(OpenError));
        prop_assert_eq!(direction.open_in_place(counter, &mut sealed), Ok(&mut plaintext.clone()[..]));
    }
}
