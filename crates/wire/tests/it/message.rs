//! Messages of a link and the frames that carry them.

use serde_json::Value as Json;
use wire::PeerName;
use wire::gob::GobError;
use wire::message::{
    FRAME_BYTES_MAX, FrameError, FrameReader, Message, MessageError, OverlayControl, encode_frame,
    encode_frame_v1,
};

use crate::vectors::{bytes, hex, id, load, unhex};

fn name(json: &Json) -> PeerName {
    json.as_str().unwrap().parse().unwrap()
}

/// The message a vector describes; `None` for control messages, which it gives as bytes only.
fn described(input: &Json) -> Option<Message> {
    let channel = || input["channel"].as_str().unwrap().to_owned();
    let payload = || bytes(&input["payload"]);
    Some(match input["tag"].as_u64()? {
        0 => Message::Heartbeat,
        4 => Message::GossipNeighbour {
            channel: channel(),
            sender: name(&input["source"]),
            payload: payload(),
        },
        5 => Message::GossipUnicast {
            channel: channel(),
            source: name(&input["source"]),
            destination: name(&input["destination"]),
            payload: payload(),
        },
        6 => Message::GossipBroadcast {
            channel: channel(),
            source: name(&input["source"]),
            payload: payload(),
        },
        tag => panic!("tag {tag}"),
    })
}

#[test]
fn messages_encode_and_decode_as_the_original() {
    for vector in load("tcp_messages.json", Some("tcp-message")) {
        let encoded = bytes(&vector["expect"]["message"]);
        let decoded = Message::decode(&encoded).unwrap();
        if let Some(message) = described(&vector["input"]) {
            assert_eq!(decoded, message, "{}", id(&vector));
        }
        assert_eq!(hex(&decoded.encode()), hex(&encoded), "{}", id(&vector));
        let frame = encode_frame(&encoded).unwrap();
        assert_eq!(hex(&frame), vector["expect"]["v2_frame"], "{}", id(&vector));
    }
}

#[test]
fn control_messages_keep_index_tag_and_body() {
    let control = |index, tag, body: &[u8]| {
        Message::Overlay(OverlayControl {
            index,
            tag,
            body: body.to_vec(),
        })
    };
    let decode = |text| Message::decode(&unhex(text)).unwrap();
    assert_eq!(decode("070003059e"), control(Some(0), 3, &[5, 0x9e]));
    assert_eq!(decode("070100"), control(Some(1), 0, &[]));
    assert_eq!(decode("01"), control(None, 1, &[]));
    assert_eq!(decode("03059e"), control(None, 3, &[5, 0x9e]));
}

#[test]
fn what_crashes_the_original_is_ignored() {
    assert_eq!(Message::decode(&[7]), Ok(Message::Unknown(7)));
    assert_eq!(Message::decode(&[7, 0]), Ok(Message::Unknown(7)));
    assert_eq!(Message::decode(&[200, 1, 2]), Ok(Message::Unknown(200)));
    assert_eq!(Message::decode(&[0, 1, 2]), Ok(Message::Heartbeat));
    assert_eq!(Message::decode(&[]), Err(MessageError::Blank));
}

#[test]
fn malformed_envelopes_are_errors() {
    let error = |text: &str| Message::decode(&unhex(text)).unwrap_err();
    assert_eq!(error("04"), GobError::Missing("channel").into());
    assert_eq!(error("04040c000178"), GobError::Missing("peer name").into());
    assert_eq!(error("0403060000"), GobError::WrongType("channel").into());
    assert_eq!(
        error("04040c00017803040000"),
        GobError::WrongType("peer name").into()
    );
    assert_eq!(error("04040c000178030600"), GobError::Truncated.into());
    // A name of seven bytes.
    assert_eq!(
        error("06040c0001780a0600f901000000000000030a0000"),
        GobError::OutOfRange("peer name").into()
    );
}

#[test]
fn frames_come_out_however_the_bytes_are_cut() {
    let messages: [&[u8]; 4] = [b"\0", b"", b"hello", &[9; 1000]];
    let bytes: Vec<u8> = messages
        .iter()
        .flat_map(|m| encode_frame(m).unwrap())
        .collect();
    for piece_bytes in [1, 3, 4, 5, 100, bytes.len()] {
        let mut reader = FrameReader::new();
        let mut frames = Vec::new();
        for piece in bytes.chunks(piece_bytes) {
            reader.push(piece);
            while let Some(frame) = reader.next_frame().unwrap() {
                frames.push(frame.to_vec());
            }
        }
        assert_eq!(
            (frames, reader.buffered_bytes()),
            (messages.map(<[_]>::to_vec).to_vec(), 0)
        );
    }
}

#[test]
fn oversize_frames_are_refused_in_both_directions() {
    let largest = vec![0; FRAME_BYTES_MAX + 1];
    assert!(encode_frame(&largest[1..]).is_ok());
    let error = encode_frame(&largest).unwrap_err();
    assert_eq!(error, FrameError::OutgoingTooLarge(FRAME_BYTES_MAX + 1));
    assert_eq!(
        error.to_string(),
        "outgoing message exceeds maximum size: 10485761 > 10485760"
    );
    let mut reader = FrameReader::new();
    reader.push(&[0xff; 4]);
    let error = reader.next_frame().unwrap_err();
    assert_eq!(
        error.to_string(),
        "incoming message exceeds maximum size: 4294967295 > 10485760"
    );
}

#[test]
fn version_1_frames_are_gob_byte_slices() {
    assert_eq!(hex(&encode_frame_v1(&[0])), "040a000100");
    assert_eq!(
        hex(&encode_frame_v1(&unhex("0468656c6c6f"))),
        "090a00060468656c6c6f"
    );
}
