//! Introductions against the golden bytes, in one piece and in every two.

use serde_json::Value;
use wire::PeerName;

use super::*;
use crate::testing::{hex, number, vectors};

/// Features of a version 2 peer with sleeve.
pub(crate) fn features(name: PeerName, nickname: &str) -> Features {
    Features {
        name,
        nickname: nickname.to_owned(),
        uid: 7,
        conn_id: 11,
        short_id: Some(5),
        trusted: false,
        overlays: Some(vec!["sleeve".to_owned()]),
        public_key: None,
        weft: None,
    }
}

fn golden_features(map: &Value) -> Features {
    let text = |key: &str| map[key].as_str();
    Features {
        name: text("Name").unwrap().parse().unwrap(),
        nickname: text("NickName").unwrap().to_owned(),
        uid: number(&map["UID"]),
        conn_id: number(&map["ConnID"]),
        short_id: text("ShortID").map(|id| id.parse().unwrap()),
        trusted: text("Trusted") == Some("true"),
        overlays: text("Overlays").map(|list| list.split(' ').map(str::to_owned).collect()),
        public_key: None,
        weft: None,
    }
}

fn offer(max: u8, password: &str, key_seed: [u8; 32], outbound: bool) -> Offer {
    Offer {
        versions: VersionRange { min: 1, max },
        features: features(PeerName::from_u64(1), "us"),
        password: Password::new(password),
        key_seed: Zeroizing::new(key_seed),
        outbound,
    }
}

/// All of one introduction's golden bytes, with what an end needs to read them.
struct Recorded {
    bytes: Vec<u8>,
    features: Features,
    reader: fn() -> Offer,
}

fn seed(vector: &str) -> [u8; 32] {
    let vectors = vectors("handshake", "handshake-bytes");
    let vector = vectors.into_iter().find(|v| v["id"] == vector).unwrap();
    hex(&vector["input"]["private_key"]).try_into().unwrap()
}

fn recorded() -> Vec<Recorded> {
    vectors("handshake", "handshake-bytes")
        .into_iter()
        .map(|vector| {
            let input = &vector["input"];
            let map = if input["features"].is_null() {
                input
            } else {
                &input["features"]
            };
            let reader: fn() -> Offer = match vector["id"].as_str().unwrap() {
                "hs-v2-plain" => || offer(2, "", [1; 32], true),
                "hs-v1-plain" => || offer(2, "", [1; 32], false),
                "hs-v2-encrypted-outbound" => {
                    || offer(2, "wfvlwt7sn", seed("hs-v2-encrypted-inbound"), false)
                }
                "hs-v2-encrypted-inbound" => {
                    || offer(2, "wfvlwt7sn", seed("hs-v2-encrypted-outbound"), true)
                }
                other => panic!("what is {other}?"),
            };
            Recorded {
                bytes: hex(&vector["expect"]),
                features: golden_features(map),
                reader,
            }
        })
        .collect()
}

#[test]
fn golden_introductions_are_understood_however_they_are_cut() {
    for recorded in recorded() {
        for cut in 0..=recorded.bytes.len() {
            let mut handshake = Handshake::new((recorded.reader)());
            let (head, tail) = recorded.bytes.split_at(cut);
            let first = handshake.push(head).unwrap();
            let introduction = match first {
                Some(introduction) => introduction,
                None => handshake
                    .push(tail)
                    .unwrap()
                    .expect("the introduction is complete"),
            };
            assert_eq!(introduction.features, recorded.features);
        }
        let mut handshake = Handshake::new((recorded.reader)());
        let (last, rest) = recorded.bytes.split_last().unwrap();
        for byte in rest {
            assert!(handshake.push(&[*byte]).unwrap().is_none());
        }
        assert!(handshake.push(&[*last]).unwrap().is_some());
    }
}

#[test]
fn our_encrypted_introduction_opens_with_the_golden_session_key() {
    for vector in vectors("handshake", "handshake-bytes") {
        let input = &vector["input"];
        if input["private_key"].is_null() {
            continue;
        }
        let outbound = vector["id"] == "hs-v2-encrypted-outbound";
        let seed: [u8; 32] = hex(&input["private_key"]).try_into().unwrap();
        let mut offer = offer(2, "wfvlwt7sn", seed, outbound);
        offer.features = golden_features(&input["features"]);
        let expected = offer.features.encode_v2();
        let mut handshake = Handshake::new(offer);
        let public = hex(&input["remote_public_key"]);
        handshake.push(b"weave\x01\x02\x01").unwrap();
        handshake.push(&public).unwrap();
        let sent = handshake.take_output();
        // Everything but the order of the features is determined.
        let golden = hex(&vector["expect"]);
        assert_eq!(sent[..40], golden[..40]);
        let nonce_byte = if outbound { 0xc0 } else { 0x40 };
        let mut nonce = [0; 24];
        nonce[0] = nonce_byte;
        let key: [u8; 32] = hex(&input["session_key"]).try_into().unwrap();
        let mut sealed = sent[44..].to_vec();
        let key = SessionKey::from_bytes(key);
        assert_eq!(
            nacl::open_in_place(&key, &nonce, &mut sealed).unwrap(),
            expected
        );
    }
}

#[test]
fn a_damaged_introduction_ends_in_an_error_or_waits_but_never_panics() {
    for recorded in recorded() {
        for bit in 0..recorded.bytes.len() * 8 {
            let mut bytes = recorded.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut handshake = Handshake::new((recorded.reader)());
            let _ = handshake.push(&bytes);
            handshake.cut_short("EOF");
        }
    }
}

#[test]
fn failed_introductions_have_the_golden_error_texts() {
    for vector in vectors("handshake", "intro-error") {
        let input = &vector["input"];
        let (password, received) = match input.as_object() {
            Some(input) => (input["our_password"].as_str().unwrap(), &input["received"]),
            None => ("", input),
        };
        let mut handshake = Handshake::new(offer(2, password, [1; 32], false));
        let error = match handshake.push(&hex(received)) {
            Err(error) => error.to_string(),
            Ok(_) => handshake.cut_short("EOF"),
        };
        assert_eq!(error, vector["expect"].as_str().unwrap());
    }
}

#[test]
fn versions_are_negotiated_as_in_the_golden_vectors() {
    for vector in vectors("handshake", "version-negotiation") {
        let byte = |key: &str| u8::try_from(number(&vector["input"][key])).unwrap();
        let mut offer = offer(2, "", [1; 32], false);
        offer.versions = VersionRange {
            min: byte("our_min"),
            max: byte("our_max"),
        };
        let mut handshake = Handshake::new(offer);
        let result = handshake.push(&encode_header(byte("their_min"), byte("their_max")));
        match vector["expect"]["error"].as_str() {
            Some(error) => assert_eq!(result.err().unwrap().to_string(), error),
            None => assert!(result.unwrap().is_none()),
        }
    }
}

#[test]
fn version_1_refuses_a_peer_that_differs_in_encryption() {
    let mut theirs = Handshake::new(offer(1, "secret", [9; 32], true));
    let mut ours = Handshake::new(offer(2, "", [8; 32], false));
    theirs.push(&ours.take_output()).unwrap();
    let error = ours.push(&theirs.take_output()).err().unwrap();
    assert_eq!(error, HandshakeError::EncryptionOffered.into());
    let mut ours = Handshake::new(offer(2, "", [8; 32], false));
    let mut theirs = Handshake::new(offer(1, "secret", [9; 32], true));
    ours.push(&theirs.take_output()).unwrap();
    let error = theirs.push(&ours.take_output()).err().unwrap();
    assert_eq!(error, HandshakeError::PlaintextOffered.into());
}

/// F33, F39: also in the old protocol nobody is introduced without the password.
#[test]
fn version_1_asks_for_proof_of_the_password() {
    let start = |password, seed, outbound| Handshake::new(offer(1, password, [seed; 32], outbound));
    let exchange = |one: &mut Handshake, other: &mut Handshake| {
        for _ in 0..2 {
            let sent = (one.take_output(), other.take_output());
            assert!(other.push(&sent.0).unwrap().is_none());
            assert!(one.push(&sent.1).unwrap().is_none());
        }
        let sent = one.take_output();
        other.push(&sent)
    };
    let (mut one, mut other) = (start("secret", 8, true), start("secret", 9, false));
    let mut introduction = exchange(&mut one, &mut other).unwrap().unwrap();
    let first = introduction.session.next_message().unwrap().unwrap();
    assert_eq!(*first, Message::Heartbeat.encode());
    let (mut one, mut other) = (start("secret", 8, true), start("guess", 9, false));
    let error = exchange(&mut one, &mut other).err().unwrap();
    assert_eq!(error.to_string(), "Unable to decrypt TCP msg");
}

#[test]
fn nobody_makes_us_buffer_much_before_being_introduced() {
    let mut handshake = Handshake::new(offer(2, "", [1; 32], false));
    handshake.push(b"weave\x01\x02\x00").unwrap();
    handshake.push(&(1_u32 << 20).to_be_bytes()).unwrap();
    let result = (0..2048).find_map(|_| handshake.push(&[0; 64]).err());
    assert!(matches!(
        result,
        Some(IntroductionError::Handshake(HandshakeError::TooLarge(_)))
    ));
}

#[test]
fn the_reserved_name_is_refused() {
    let mut offered = offer(2, "", [1; 32], true);
    offered.features.name = PeerName::UNKNOWN;
    let mut theirs = Handshake::new(offered);
    let mut ours = Handshake::new(offer(2, "", [1; 32], false));
    theirs.push(b"weave\x01\x02\x00").unwrap();
    let error = ours.push(&theirs.take_output()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "peer has the reserved name 00:00:00:00:00:00"
    );
}

#[test]
fn a_captured_encrypted_connection_opens_from_the_first_frame_to_the_last() {
    let frames = vectors("pcap_encrypted", "tcp-frame-encrypted-decode");
    let intros = vectors("pcap_encrypted", "bytes");
    let keys = vectors("pcap_encrypted", "session-key").remove(0);
    for (side, their_role, our_private) in [
        ("enc-outbound-", "outbound", "inbound_private"),
        ("enc-inbound-", "inbound", "outbound_private"),
    ] {
        let seed: [u8; 32] = hex(&keys["input"][our_private]).try_into().unwrap();
        let mut handshake = Handshake::new(offer(2, "wfvlwt7sn", seed, their_role == "inbound"));
        let intro = intros
            .iter()
            .find(|v| v["id"] == format!("{side}intro"))
            .unwrap();
        let ours = frames
            .iter()
            .filter(|v| v["id"].as_str().unwrap().starts_with(side));
        let mut stream = hex(&intro["expect"]);
        stream.extend(ours.clone().flat_map(|v| hex(&v["input"]["frame"])));
        let introduction = handshake.push(&stream).unwrap().unwrap();
        assert!(matches!(
            introduction.features.nickname.as_str(),
            "alpha" | "bravo"
        ));
        let mut session = introduction.session;
        for frame in ours.skip(1) {
            let message = session
                .next_message()
                .unwrap()
                .expect("a message per frame");
            assert_eq!(
                *message,
                hex(&frame["expect"]["plaintext"]),
                "{}",
                frame["id"]
            );
        }
        assert!(session.next_message().unwrap().is_none());
    }
}
