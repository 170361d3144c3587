//! Sleeve datagrams and special frames.

use serde_json::Value as Json;
use wire::PeerName;
use wire::ethernet::EthernetView;
use wire::sleeve::{
    COUNTER_DF_BIT, DatagramError, FRAME_HEADER_BYTES, Frame, FrameClass, Frames, classify_frame,
    heartbeat_frame, is_all_zero, nonce, overhead_bytes, parse_datagram, parse_sealed_body,
    write_frame_header,
};

use crate::vectors::{bytes, hex, id, load, unhex};

fn name(json: &Json) -> PeerName {
    PeerName::from_bytes(bytes(json).try_into().unwrap())
}

/// The datagram in clear that a vector describes.
fn build(sender: PeerName, frames: &[Json]) -> Vec<u8> {
    let mut datagram = sender.to_bytes().to_vec();
    for frame in frames {
        let content = bytes(&frame["frame"]);
        let mut header = [0; FRAME_HEADER_BYTES];
        let length = content.len().try_into().unwrap();
        write_frame_header(
            &mut header,
            name(&frame["src"]),
            name(&frame["dst"]),
            length,
        );
        datagram.extend(header);
        datagram.extend(content);
    }
    datagram
}

/// Checks a datagram in clear against its description, in both directions.
pub(crate) fn check_plain(id: &str, datagram: &[u8], described: &Json) {
    let frames = described["frames"].as_array().unwrap();
    assert_eq!(
        hex(&build(name(&described["sender"]), frames)),
        hex(datagram),
        "{id}"
    );
    let (sender, body) = parse_datagram(datagram).unwrap();
    assert_eq!(sender, name(&described["sender"]), "{id}");
    let contents: Vec<_> = frames.iter().map(|frame| bytes(&frame["frame"])).collect();
    let expected = frames.iter().zip(&contents).map(|(frame, content)| {
        Ok(Frame {
            origin: name(&frame["src"]),
            destination: name(&frame["dst"]),
            frame: content,
        })
    });
    assert!(Frames::new(body).eq(expected), "{id}");
}

#[test]
fn datagrams_in_clear_are_laid_out_as_the_original() {
    for vector in load("sleeve.json", Some("sleeve-plain")) {
        check_plain(id(&vector), &bytes(&vector["expect"]), &vector["input"]);
    }
}

/// F47, F48: directions and sequence spaces share no nonce.
#[test]
fn nonces_tell_direction_and_sequence_space() {
    for vector in load("sleeve.json", Some("sleeve-encrypted")) {
        let (input, expect) = (&vector["input"], &vector["expect"]);
        let counter = input["sequence"].as_u64().unwrap();
        let counter = if input["df"] == true {
            counter | COUNTER_DF_BIT
        } else {
            counter
        };
        let outbound = input["sender_outbound"] == true;
        assert_eq!(
            hex(&nonce(outbound, counter, false)),
            expect["nonce"],
            "{}",
            id(&vector)
        );
        let mut packet = bytes(&expect["packet"]);
        assert_eq!(parse_datagram(&packet).unwrap().0, name(&input["sender"]));
        let (found, sealed) = parse_sealed_body(&mut packet[6..]).unwrap();
        assert_eq!(
            (found, sealed.len()),
            (counter, bytes(&expect["plaintext"]).len() + 16)
        );
    }
    assert_eq!(nonce(true, 1, true)[0], 0xc0);
    assert_eq!(nonce(false, 1, true)[0], 0x40);
}

#[test]
fn frames_ahead_of_a_malformed_one_are_delivered() {
    for vector in load("sleeve.json", Some("sleeve-decode-error")) {
        let body = bytes(&vector["input"]);
        let expect = &vector["expect"];
        let error = match id(&vector) {
            "sleeve-decode-error-auth" => DatagramError::Undecryptable,
            "sleeve-decode-error-short" => parse_sealed_body(&mut body.clone()).unwrap_err(),
            _ => {
                let mut frames = Frames::new(&body);
                let delivered = frames.by_ref().take_while(Result::is_ok).count();
                assert_eq!(
                    expect["frames_delivered_first"],
                    delivered,
                    "{}",
                    id(&vector)
                );
                assert_eq!(frames.next(), None);
                Frames::new(&body).last().unwrap().unwrap_err()
            }
        };
        assert_eq!(
            error.to_string(),
            expect["error"].as_str().unwrap(),
            "{}",
            id(&vector)
        );
    }
    assert_eq!(parse_datagram(&[0; 5]), Err(DatagramError::NoSender));
}

#[test]
fn overhead_is_what_the_overlay_mtu_loses() {
    for vector in load("sleeve.json", Some("overhead")) {
        let overhead = overhead_bytes(vector["input"]["encrypted"] == true, false);
        assert_eq!(vector["expect"]["overhead"], overhead, "{}", id(&vector));
        let pmtu = usize::try_from(vector["input"]["underlay_pmtu"].as_u64().unwrap()).unwrap();
        assert_eq!(
            vector["expect"]["overlay_mtu"],
            pmtu - overhead,
            "{}",
            id(&vector)
        );
    }
}

#[test]
fn special_frames_are_told_apart_by_length() {
    for vector in load("sleeve.json", Some("frame-classify")) {
        let text = vector["input"].as_str().unwrap();
        let frame = match text.strip_suffix(" zero bytes") {
            Some(count) => vec![0; count.parse().unwrap()],
            None => unhex(text),
        };
        let expect = &vector["expect"];
        let class = classify_frame(&frame);
        let special = !matches!(class, FrameClass::Runt | FrameClass::Ordinary);
        assert_eq!(expect["special"], special, "{}", id(&vector));
        assert_eq!(
            class == FrameClass::Runt,
            expect["decoded_layers"] == 0,
            "{}",
            id(&vector)
        );
        let ipv4 = EthernetView::new(&frame).and_then(EthernetView::ipv4);
        assert_eq!(
            expect["df"],
            ipv4.is_some_and(|ip| ip.dont_fragment()),
            "{}",
            id(&vector)
        );
        assert_eq!(
            ipv4.is_some(),
            expect["decoded_layers"] == 2,
            "{}",
            id(&vector)
        );
    }
    let heartbeat = heartbeat_frame(0xffde_b99c_7352_3518);
    assert_eq!(
        hex(&heartbeat),
        "0000000000000000000000000000ffdeb99c73523518"
    );
    let connection_uid = 0xffde_b99c_7352_3518;
    assert_eq!(
        classify_frame(&heartbeat),
        FrameClass::Heartbeat { connection_uid }
    );
    assert_eq!(classify_frame(&[0; 60_001]), FrameClass::FragmentationTest);
    assert_eq!(
        classify_frame(&[0; 60_000]),
        FrameClass::MtuTest {
            frame_bytes: 60_000
        }
    );
    assert_eq!(
        classify_frame(&[0; 14]),
        FrameClass::MtuTest { frame_bytes: 14 }
    );
}

#[test]
fn a_test_frame_with_one_bit_set_is_not_all_zero() {
    let mut frame = vec![0; 60_001];
    assert!(is_all_zero(&frame));
    frame[60_000] = 1;
    assert!(!is_all_zero(&frame));
}
