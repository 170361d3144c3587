//! Tests of merging segments.

use proptest::prelude::*;

use super::*;
use crate::frame::segment::{SuperFrame, complete_checksum};
use crate::testing::SuperFrameSpec;

/// What came out: header and bytes of each frame.
type Injected = Vec<(VnetHeader, Vec<u8>)>;

/// Merges frames laid one behind the other.
fn merge(merge_udp: bool, frames: &[Vec<u8>]) -> Injected {
    let mut arena = frames.concat();
    let mut merger = Merger::new(merge_udp);
    let mut injected = Injected::new();
    let mut inject = |header: &VnetHeader, arena: &[u8], parts: &[Range<usize>]| {
        let bytes = parts
            .iter()
            .flat_map(|part| arena[part.clone()].to_vec())
            .collect();
        injected.push((*header, bytes));
    };
    let mut start = 0;
    for frame in frames {
        merger.push(&mut arena, start..start + frame.len(), &mut inject);
        start += frame.len();
    }
    merger.flush(&mut arena, &mut inject);
    injected
}

/// Cuts a super-frame; an ordinary one gets its checksum.
fn cut(header: &VnetHeader, frame: &[u8]) -> Vec<Vec<u8>> {
    let Some(cut) = SuperFrame::parse(header, frame).unwrap() else {
        let mut frame = frame.to_vec();
        complete_checksum(header, &mut frame).unwrap();
        return vec![frame];
    };
    let write = |index| {
        let mut out = vec![0xee; cut.frame_bytes()];
        let len = cut.write(frame, index, &mut out);
        assert_eq!(len, cut.frame_bytes_of(index));
        out.truncate(len);
        out
    };
    (0..cut.count()).map(write).collect()
}

fn spec(is_ipv4: bool, is_tcp: bool, payload: usize) -> SuperFrameSpec {
    SuperFrameSpec {
        is_ipv4,
        is_tcp,
        tcp_flags: tcp_flag::ACK | tcp_flag::PSH,
        option_words: 3,
        segment: 1360,
        payload: (0..payload).map(|i| (i * 7 % 251) as u8).collect(),
        sequence: 0xffff_f000,
        id: 0xfffe,
    }
}

/// Whether lengths and checksums of an ordinary frame are right.
fn assert_sound(frame: &[u8]) {
    let candidate = Candidate::parse(frame, true).unwrap();
    let bytes = &frame[candidate.transport..];
    let ethernet = EthernetView::new(frame).unwrap();
    let pseudo = if let Some(ip) = ethernet.ipv4() {
        assert_eq!(usize::from(ip.total_bytes()), ethernet.payload().len());
        assert_eq!(fold(sum(ip.header())), 0);
        ip.pseudo_header_sum(bytes.len())
    } else {
        let ip = ethernet.ipv6().unwrap();
        assert_eq!(
            usize::from(ip.payload_bytes()) + 40,
            ethernet.payload().len()
        );
        ip.pseudo_header_sum(bytes.len())
    };
    assert_eq!(fold(pseudo + sum(bytes)), 0);
}

#[test]
fn segments_have_right_lengths_numbers_flags_and_checksums() {
    let mut spec = spec(true, true, 4000);
    spec.tcp_flags |= tcp_flag::FIN | tcp_flag::CWR;
    let (header, frame) = spec.build();
    let frames = cut(&header, &frame);
    assert_eq!(frames.len(), 3);
    let end = tcp_flag::FIN | tcp_flag::PSH;
    let flags = [
        tcp_flag::ACK | tcp_flag::CWR,
        tcp_flag::ACK,
        tcp_flag::ACK | end,
    ];
    for (index, frame) in frames.iter().enumerate() {
        assert_sound(frame);
        let ip = EthernetView::new(frame).unwrap().ipv4().unwrap();
        let tcp = TcpView::new(ip.payload()).unwrap();
        assert_eq!(
            tcp.sequence(),
            0xffff_f000_u32.wrapping_add(1360 * index as u32)
        );
        assert_eq!(tcp.flags(), flags[index]);
        assert_eq!(ip.id(), 0xfffe_u16.wrapping_add(index as u16));
        assert_eq!(tcp.payload(), spec.payload.chunks(1360).nth(index).unwrap());
    }
}

#[test]
fn frames_of_two_flows_interleaved_merge_each_in_order() {
    let (header, frame) = spec(true, true, 5000).build();
    let a = cut(&header, &frame);
    let b: Vec<Vec<u8>> = a
        .iter()
        .map(|frame| {
            // Another flow with the same checksum: 0x1f90 to 0x1f8f, and the source port up by one.
            let mut frame = frame.clone();
            frame[35] -= 1;
            frame[37] += 1;
            frame
        })
        .collect();
    let mixed: Vec<Vec<u8>> = a
        .iter()
        .zip(&b)
        .flat_map(|(a, b)| [a.clone(), b.clone()])
        .collect();
    let injected = merge(false, &mixed);
    assert_eq!(injected.len(), 2);
    assert_eq!(injected[0], (header, frame));
}

#[test]
fn frame_with_a_wrong_checksum_goes_out_alone_and_untouched() {
    let (header, frame) = spec(true, true, 5000).build();
    let mut frames = cut(&header, &frame);
    frames[1][100] ^= 1;
    let injected = merge(false, &frames);
    assert_eq!(injected.len(), 3);
    assert_eq!(injected[0], (VnetHeader::default(), frames[0].clone()));
    assert_eq!(injected[1], (VnetHeader::default(), frames[1].clone()));
    assert_eq!(injected[2].0.gso_type, Gso::Tcp4 as u8);
}

#[test]
fn differing_headers_and_gaps_are_not_merged() {
    let (header, frame) = spec(true, true, 2720).build();
    let whole = cut(&header, &frame);
    let change = |offset: usize, value: u8| {
        let mut frames = whole.clone();
        let frame = &mut frames[1];
        frame[offset] = value;
        frame[24..26].fill(0);
        let check = fold(sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        frame[50..52].fill(0);
        let ip = EthernetView::new(frame).unwrap().ipv4().unwrap();
        let check = fold(ip.pseudo_header_sum(frame.len() - 34) + sum(&frame[34..]));
        frame[50..52].copy_from_slice(&check.to_be_bytes());
        merge(false, &frames).len()
    };
    assert_eq!(merge(false, &whole).len(), 1);
    for (what, offset) in [
        ("tos", 15),
        ("ttl", 22),
        ("sequence", 41),
        ("acknowledgement", 45),
        ("window", 49),
        ("option", 56),
    ] {
        assert_eq!(change(offset, 99), 2, "{what}");
    }
    for (what, flags) in [
        ("urgent", 0x30),
        ("syn", 0x12),
        ("fin", 0x11),
        ("cwr", 0x90),
    ] {
        assert_eq!(change(47, flags), 2, "{what}");
    }
}

#[test]
fn bare_acknowledgement_does_not_overtake_its_flow() {
    let (header, frame) = spec(true, true, 2720).build();
    let frames = cut(&header, &frame);
    let mut ack = frames[0][..66].to_vec();
    ack[16..18].copy_from_slice(&52_u16.to_be_bytes());
    let injected = merge(false, &[frames[0].clone(), ack.clone(), frames[1].clone()]);
    let bytes: Vec<_> = injected.into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(bytes, [frames[0].clone(), ack, frames[1].clone()]);
}

#[test]
fn more_flows_than_places_lose_nothing() {
    let frames: Vec<Vec<u8>> = (0..20_u16)
        .map(|n| {
            let (header, mut frame) = spec(true, true, 1000).build();
            frame[34..36].copy_from_slice(&n.to_be_bytes());
            frame[47] = tcp_flag::ACK;
            cut(&header, &frame).remove(0)
        })
        .collect();
    let mut bytes: Vec<_> = merge(false, &frames)
        .into_iter()
        .map(|(_, bytes)| bytes)
        .collect();
    bytes.sort();
    assert_eq!(bytes, frames);
}

#[test]
fn udp_is_merged_only_when_the_device_takes_it() {
    let (header, frame) = spec(true, false, 5000).build();
    let frames = cut(&header, &frame);
    assert_eq!(merge(false, &frames).len(), 4);
    assert_eq!(merge(true, &frames), [(header, frame)]);
}

proptest! {
    #[test]
    fn merging_segments_gives_back_the_super_frame(
        is_ipv4: bool,
        is_tcp: bool,
        option_words in 0_usize..=10,
        segment in 300_usize..2000,
        payload in prop::collection::vec(any::<u8>(), 1..20_000),
        is_push: bool,
        sequence: u32,
        id: u16,
    ) {
        prop_assume!(payload.len() > segment && payload.len() <= segment * PARTS_MAX);
        let tcp_flags = tcp_flag::ACK | if is_push { tcp_flag::PSH } else { 0 };
        let spec = SuperFrameSpec {
            is_ipv4, is_tcp, tcp_flags, option_words, segment, payload, sequence, id,
        };
        let (header, frame) = spec.build();
        let frames = cut(&header, &frame);
        for frame in &frames {
            assert_sound(frame);
        }
        prop_assert_eq!(merge(true, &frames), [(header, frame)]);
    }

    #[test]
    fn any_super_frame_never_panics(
        mut frame in prop::collection::vec(any::<u8>(), 0..300),
        fields in prop::array::uniform4(0_u16..400),
        gso in prop::sample::select(vec![0_u8, 1, 3, 4, 5, 0x81]),
        ethertype in prop::sample::select(vec![0x0800_u16, 0x86dd, 0x8100]),
    ) {
        if frame.len() > 20 {
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        }
        let [header_bytes, segment_bytes, checksum_start, checksum_offset] = fields;
        let header = VnetHeader {
            flags: 1, gso_type: gso, header_bytes, segment_bytes, checksum_start, checksum_offset,
        };
        if let Ok(Some(cut)) = SuperFrame::parse(&header, &frame) {
            let mut out = vec![0; cut.frame_bytes()];
            for index in 0..cut.count() {
                prop_assert_eq!(cut.write(&frame, index, &mut out), cut.frame_bytes_of(index));
            }
        }
        let _ = complete_checksum(&header, &mut frame);
    }

    #[test]
    fn any_frames_are_passed_on_whole(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..20),
        ipv4: bool,
    ) {
        let frames: Vec<Vec<u8>> = frames.into_iter().map(|mut frame| {
            if frame.len() > 40 {
                let kind: [u8; 2] = if ipv4 { [8, 0] } else { [0x86, 0xdd] };
                frame[12..14].copy_from_slice(&kind);
                frame[14] = if ipv4 { 0x45 } else { 0x60 };
                frame[if ipv4 { 23 } else { 20 }] = 6;
            }
            frame
        }).collect();
        let mut out: Vec<_> = merge(true, &frames).into_iter().map(|(_, bytes)| bytes).collect();
        let mut frames = frames;
        out.sort();
        frames.sort();
        prop_assert_eq!(out, frames);
    }
}
