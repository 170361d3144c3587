//! What becomes of frames and datagrams on their whole way through one or more hosts.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use overlay::frame::counters::DropReason;
use overlay::frame::segment::{NEEDS_CHECKSUM, VnetHeader};
use overlay::protection::Protection;
use overlay::sleeve::lane::{SleeveEvent, SleeveLane, SpecialKind};
use proptest::prelude::*;
use support::{Buffers, Host, Run, ip_frame, name};
use wire::ethernet::{EthernetView, MacAddr, fold, sum};
use wire::sleeve::{FRAME_HEADER_BYTES, Frames, write_frame_header};
use wire::{LinkId, PeerName};

const NEAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const FAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

fn in_clear(_: PeerName, lane: &mut SleeveLane) {
    lane.protection = Protection::Clear;
}

/// A TCP super-frame from NEAR to FAR.
fn super_frame(payload: usize, segment: u16, has_df: bool) -> (VnetHeader, Vec<u8>) {
    let mut frame = ip_frame(20 + payload, has_df);
    frame[23] = 6;
    frame[34..54].copy_from_slice(&[
        0x10, 0, 0x20, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 9, 9, 0, 0, 0, 0,
    ]);
    let header = VnetHeader {
        flags: NEEDS_CHECKSUM,
        gso_type: 1,
        header_bytes: 54,
        segment_bytes: segment,
        checksum_start: 34,
        checksum_offset: 16,
    };
    (header, frame)
}

fn plain(frame: Vec<u8>) -> Vec<(VnetHeader, Vec<u8>)> {
    vec![(VnetHeader::default(), frame)]
}

/// Host 1, knowing that FAR is at host 3.
fn sender(change: impl Fn(PeerName, &mut SleeveLane)) -> Host {
    let host = Host::new(1, change);
    host.macs.write().unwrap().learn(FAR, name(3), 0);
    host
}

/// What an ICMP answer says: its MTU, and the quoted packet.
fn answered_mtu(answer: &[u8]) -> (u16, &[u8]) {
    let ip = EthernetView::new(answer).unwrap().ipv4().unwrap();
    let icmp = ip.payload();
    assert_eq!(icmp[..2], [3, 4]);
    assert_eq!(fold(sum(icmp)), 0);
    (u16::from_be_bytes([icmp[6], icmp[7]]), &icmp[8..])
}

#[test]
fn the_answer_to_the_first_broadcast_is_never_flooded() {
    let mut hosts = [1, 2, 3].map(|n| Host::new(n, |_, _| ()));
    let mut out = Buffers::new(true);
    let mut question = ip_frame(60, false);
    question[..6].copy_from_slice(&[0xff; 6]);
    hosts[0].capture(&mut plain(question), &mut out);
    for host in &mut hosts[1..] {
        let mut input = std::mem::replace(&mut out, Buffers::new(true));
        host.receive(&mut input, &mut out);
        assert_eq!(out.injected_frames, 1, "a broadcast is for everybody");
    }
    let mut answer = ip_frame(60, false);
    answer[..6].copy_from_slice(&NEAR.0);
    answer[6..12].copy_from_slice(&FAR.0);
    let mut out = Buffers::new(true);
    hosts[2].capture(&mut plain(answer), &mut out);
    for (host, injected) in [(1, 0), (0, 1)] {
        let mut input = std::mem::replace(&mut out, Buffers::new(true));
        hosts[host].receive(&mut input, &mut out);
        assert_eq!(out.injected_frames, injected, "at host {}", host + 1);
    }
    assert!(out.runs.is_empty(), "it stays where it is wanted");
}

#[test]
fn frame_with_df_that_is_too_big_is_answered_on_the_bridge() {
    let (mut host, mut out) = (sender(|_, _| ()), Buffers::new(true));
    host.capture(&mut plain(ip_frame(1395, true)), &mut out);
    assert!(out.runs.is_empty());
    let injected = out.injected.as_ref().unwrap();
    let (mtu, quoted) = answered_mtu(&injected[0].1);
    assert_eq!((mtu, &quoted[..20]), (1414, &ip_frame(1395, true)[14..34]));
    assert_eq!(host.drops(), [(DropReason::TooBig, 1)]);
}

#[test]
fn super_frame_whose_segments_are_too_big_is_answered_by_quoting_one() {
    let (mut host, mut out) = (sender(|_, _| ()), Buffers::new(true));
    host.capture(&mut [super_frame(14_600, 1460, true)], &mut out);
    assert!(out.runs.is_empty());
    let injected = out.injected.as_ref().unwrap();
    let (mtu, quoted) = answered_mtu(&injected[0].1);
    let total = u16::from_be_bytes([quoted[2], quoted[3]]);
    assert_eq!((mtu, total, injected.len()), (1414, 1500, 1));
}

#[test]
fn super_frame_leaves_as_equal_datagrams_in_few_calls() {
    let (mut host, mut out) = (sender(|_, _| ()), Buffers::new(true));
    host.capture(&mut [super_frame(44 * 1374, 1374, true)], &mut out);
    let sizes: Vec<_> = out
        .runs
        .iter()
        .map(|run| (run.datagram_bytes, run.is_df))
        .collect();
    assert_eq!(sizes, [(1472, true)]);
    assert_eq!(out.arena.len(), 44 * 1472);
}

#[test]
fn frame_without_df_goes_by_the_path_that_is_trusted() {
    let (mut host, mut out) = (sender(|_, _| ()), Buffers::new(true));
    host.capture(&mut plain(ip_frame(3000, false)), &mut out);
    assert_eq!((out.runs.len(), out.runs[0].is_df), (1, false));
    let untrusted = |_: PeerName, lane: &mut SleeveLane| lane.stack_frag = false;
    for frames in [
        plain(ip_frame(3000, false)),
        vec![super_frame(3000, 1460, false)],
    ] {
        let (mut host, mut out) = (sender(untrusted), Buffers::new(true));
        host.capture(&mut frames.clone(), &mut out);
        assert!(
            out.runs
                .iter()
                .all(|run| run.is_df && run.datagram_bytes <= 1472)
        );
        assert!(out.arena.len() > 3000);
        assert_eq!(host.drops(), []);
    }
}

#[test]
fn relay_answers_a_frame_too_big_for_its_next_tunnel_back_to_the_origin() {
    let wide = |remote: PeerName, lane: &mut SleeveLane| {
        if remote == name(2) || remote == name(1) {
            lane.mtu_bytes = 8900;
            lane.max_payload_bytes = 8958;
        }
    };
    let (mut one, mut two) = (sender(wide), Host::new(2, wide));
    let (mut a, mut b, mut c) = (Buffers::new(true), Buffers::new(true), Buffers::new(true));
    one.capture(&mut plain(ip_frame(3000, true)), &mut a);
    two.receive(&mut a, &mut b);
    assert_eq!(b.runs.len(), 1);
    assert_eq!(b.runs[0].to, name(1));
    one.receive(&mut b, &mut c);
    let injected = c.injected.as_ref().unwrap();
    assert_eq!(answered_mtu(&injected[0].1).0, 1414);
    assert_eq!(two.drops(), [(DropReason::TooBig, 1)]);
}

/// Host 2 with a bridge for packets of 1000 bytes, and what it gives back for a frame of host 1.
fn into_narrow_bridge(frame: Vec<u8>) -> (Host, Buffers, Buffers) {
    let mut one = Host::new(1, |_, _| ());
    let mut two = Host::new(2, |_, _| ());
    two.receive = overlay::frame::receive::ReceivePath::new(true).with_bridge_mtu(1000);
    one.macs.write().unwrap().learn(FAR, name(2), 0);
    two.macs.write().unwrap().learn(FAR, name(2), 0);
    let (mut a, mut b, mut c) = (Buffers::new(true), Buffers::new(true), Buffers::new(true));
    one.capture(&mut plain(frame), &mut a);
    two.receive(&mut a, &mut b);
    if !b.runs.is_empty() {
        one.receive(&mut b, &mut c);
    }
    (two, b, c)
}

#[test]
fn frame_with_df_too_big_for_the_bridge_of_its_destination_is_answered() {
    let (two, delivered, back) = into_narrow_bridge(ip_frame(981, true));
    assert_eq!(delivered.injected.unwrap(), []);
    let answers = back.injected.unwrap();
    let (mtu, quoted) = answered_mtu(&answers[0].1);
    assert_eq!((mtu, &quoted[..20]), (1000, &ip_frame(981, true)[14..34]));
    assert_eq!(answers.len(), 1);
    assert_eq!(two.drops(), [(DropReason::TooBig, 1)]);
    let (_, delivered, _) = into_narrow_bridge(ip_frame(980, true));
    assert_eq!(delivered.injected.unwrap(), plain(ip_frame(980, true)));
}

#[test]
fn frame_without_df_too_big_for_the_bridge_is_cut() {
    let (two, delivered, _) = into_narrow_bridge(ip_frame(1300, false));
    let pieces = delivered.injected.unwrap();
    let lengths: Vec<usize> = pieces.iter().map(|(_, piece)| piece.len()).collect();
    assert_eq!(lengths, [14 + 20 + 976, 14 + 20 + 324]);
    let payload = pieces.iter().flat_map(|(_, piece)| &piece[34..]);
    assert!(payload.eq(&ip_frame(1300, false)[34..]));
    assert_eq!(two.drops(), []);
}

#[test]
fn broadcast_too_big_for_the_bridge_is_not_answered() {
    let mut group = ip_frame(1300, true);
    group[..6].copy_from_slice(&MacAddr::BROADCAST.0);
    let (two, delivered, back) = into_narrow_bridge(group);
    assert_eq!(delivered.injected.unwrap(), []);
    assert_eq!(back.injected.unwrap(), []);
    assert_eq!(two.drops(), [(DropReason::TooBigBroadcast, 1)]);
}

#[test]
fn broadcast_reaches_each_host_once_and_its_sender_never() {
    let mut hosts = [1, 2, 3].map(|n| Host::new(n, |_, _| ()));
    let [one, two, three] = &mut hosts;
    let (mut a, mut b, mut c) = (Buffers::new(true), Buffers::new(true), Buffers::new(true));
    let mut arp = ip_frame(60, false);
    arp[..6].copy_from_slice(&MacAddr::BROADCAST.0);
    one.capture(&mut plain(arp.clone()), &mut a);
    two.receive(&mut a, &mut b);
    assert_eq!(b.injected.take().unwrap(), plain(arp.clone()));
    assert_eq!((b.runs.len(), b.runs[0].to), (1, name(3)));
    three.receive(&mut b, &mut c);
    assert_eq!(c.injected.take().unwrap(), plain(arp));
    assert!(c.runs.is_empty());
    // All have learned where the sender lives.
    assert_eq!(three.macs.read().unwrap().lookup(NEAR), Some(name(1)));
    assert_eq!(two.macs.read().unwrap().lookup(NEAR), Some(name(1)));
}

#[test]
fn frame_of_an_address_known_elsewhere_is_not_captured() {
    let (mut host, mut out) = (sender(|_, _| ()), Buffers::new(true));
    host.macs.write().unwrap().learn(NEAR, name(2), 0);
    host.capture(&mut plain(ip_frame(60, true)), &mut out);
    assert_eq!(host.drops(), [(DropReason::Injected, 1)]);
    assert_eq!(host.macs.read().unwrap().lookup(NEAR), Some(name(2)));
}

#[test]
fn replayed_batch_is_dropped_whole() {
    let (mut one, mut two) = (sender(|_, _| ()), Host::new(2, |_, _| ()));
    let (mut a, mut b) = (Buffers::new(true), Buffers::new(true));
    one.capture(&mut [super_frame(20 * 1374, 1374, true)], &mut a);
    let mut again = Buffers::new(true);
    again.arena.extend_from_slice(&a.arena);
    let range = a.runs[0].range.clone();
    again.runs.push(Run {
        to: name(2),
        range,
        datagram_bytes: 1472,
        is_df: true,
    });
    two.receive(&mut a, &mut b);
    let sent = b.arena.len();
    two.receive(&mut again, &mut b);
    assert_eq!(b.arena.len(), sent);
    assert_eq!(two.drops(), [(DropReason::Replayed, 20)]);
}

/// A datagram in clear from host 1 with these frames, as the only one of a batch.
fn datagram(frames: &[(u64, u64, Vec<u8>)], tail: &[u8]) -> Buffers {
    let mut buffers = Buffers::new(true);
    buffers.arena.extend(name(1).to_bytes());
    for (origin, destination, frame) in frames {
        let mut header = [0; FRAME_HEADER_BYTES];
        write_frame_header(
            &mut header,
            name(*origin),
            name(*destination),
            frame.len() as u16,
        );
        buffers.arena.extend(header);
        buffers.arena.extend(frame);
    }
    buffers.arena.extend(tail);
    let bytes = buffers.arena.len();
    buffers.runs.push(Run {
        to: name(2),
        range: 0..bytes,
        datagram_bytes: bytes,
        is_df: true,
    });
    buffers
}

#[test]
fn frames_before_the_malformed_end_of_a_datagram_count() {
    let (mut two, mut out) = (Host::new(2, in_clear), Buffers::new(true));
    let mut heartbeat = vec![0; 22];
    heartbeat[21] = 9;
    let frames = [(1, 2, ip_frame(60, true)), (1, 2, heartbeat)];
    two.receive(&mut datagram(&frames, &[1, 2, 3]), &mut out);
    assert_eq!(out.injected_frames, 1);
    let kind = SpecialKind::Heartbeat { connection_uid: 9 };
    let from = support::address();
    assert_eq!(
        out.events,
        [SleeveEvent::Special { from, kind }.on(LinkId::outbound(1))]
    );
    assert_eq!(two.drops(), [(DropReason::MalformedDatagram, 1)]);
    let text = out.complaints[0].to_string();
    assert_eq!(
        text,
        "Failed to decode packet: 3 octets of trailing garbage"
    );
}

#[test]
fn datagram_of_a_stranger_is_ignored_silently() {
    let (mut three, mut out) = (Host::new(3, in_clear), Buffers::new(true));
    three.receive(&mut datagram(&[(1, 3, ip_frame(60, true))], &[]), &mut out);
    assert_eq!(three.drops(), [(DropReason::UnknownSender, 1)]);
    assert!(out.complaints.is_empty() && out.injected_frames == 0);
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        (0_usize..4000, any::<bool>()).prop_map(|(payload, has_df)| ip_frame(payload, has_df)),
        (1_usize..60, any::<u8>(), 14_usize..60).prop_map(|(len, value, at)| {
            let mut frame = ip_frame(len, true);
            let last = frame.len() - 1;
            frame[at.min(last)] = value;
            frame
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_datagram_is_survived(
        frames in prop::collection::vec((0_u64..5, 0_u64..5, any_frame()), 0..6),
        tail in prop::collection::vec(any::<u8>(), 0..20),
        cut in 0_usize..300,
    ) {
        let (mut two, mut out) = (Host::new(2, in_clear), Buffers::new(true));
        let mut input = datagram(&frames, &tail);
        if cut > 0 && cut < input.arena.len() {
            input.arena.truncate(cut);
            input.runs[0].range = 0..cut;
        }
        two.receive(&mut input, &mut out);
        // What leaves again is well-formed.
        for run in &out.runs {
            for bytes in out.arena[run.range.clone()].chunks(run.datagram_bytes) {
                prop_assert!(Frames::new(&bytes[6..]).all(|frame| frame.is_ok()));
            }
        }
    }

    #[test]
    fn any_capture_is_survived(
        mut frame in any_frame(),
        fields in prop::array::uniform4(0_u16..400),
        gso in prop::sample::select(vec![0_u8, 1, 4, 5]),
        stack_frag: bool,
        to_far: bool,
    ) {
        if to_far && frame.len() >= 14 {
            frame[..6].copy_from_slice(&FAR.0);
        }
        let [header_bytes, segment_bytes, checksum_start, checksum_offset] = fields;
        let header = VnetHeader {
            flags: 1, gso_type: gso, header_bytes, segment_bytes, checksum_start, checksum_offset,
        };
        let mut host = sender(|_, lane| lane.stack_frag = stack_frag);
        let mut out = Buffers::new(true);
        host.capture(&mut [(header, frame)], &mut out);
        for run in &out.runs {
            prop_assert!(!run.is_df || run.datagram_bytes <= 1472);
        }
    }
}
