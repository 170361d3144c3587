//! Cutting super-frames and merging frames: each undoes the other.

use std::collections::BTreeMap;
use std::ops::Range;

use arbitrary::{Result, Unstructured};
use overlay::frame::merge::{Merger, PARTS_MAX};
use overlay::frame::segment::{SuperFrame, VnetHeader, complete_checksum};
use wire::ethernet::{EthernetView, TcpView, UdpView, ethertype, fold, protocol, sum};

use crate::frames::{Recipe, frame};

/// Frames of one batch.
const FRAMES_MAX: usize = 40;
/// Largest frame the kernel takes.
const FRAME_BYTES_MAX: usize = 65_535 + 14;

/// What is cut and merged again, or merged and cut again, is the same: no byte of payload lost,
/// order within a flow kept, every checksum right.
pub fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let Ok(flags) = input.arbitrary::<u8>() else {
        return;
    };
    let merge_udp = flags & 2 != 0;
    // Too little input ends a batch early, nothing else.
    let _ = if flags & 1 != 0 {
        cut_and_merge(&mut input, merge_udp)
    } else {
        merge_and_cut(&mut input, merge_udp)
    };
}

fn cut_and_merge(input: &mut Unstructured<'_>, merge_udp: bool) -> Result<()> {
    let (header, mut whole, is_sound) = frame(input)?;
    assert_eq!(VnetHeader::from_bytes(&header.to_bytes()), header);
    let pieces = match SuperFrame::parse(&header, &whole) {
        Ok(Some(cut)) => pieces_of(&cut, &whole),
        Ok(None) => {
            let _ = complete_checksum(&header, &mut whole);
            vec![whole.clone()]
        }
        Err(_) => {
            assert!(!is_sound, "a sound super-frame is refused");
            return Ok(());
        }
    };
    if is_sound {
        pieces.iter().for_each(|piece| assert_valid(piece));
    }
    assert_merges(&pieces, merge_udp);
    Ok(())
}

fn merge_and_cut(input: &mut Unstructured<'_>, merge_udp: bool) -> Result<()> {
    let mut frames: Vec<Vec<u8>> = Vec::new();
    let mut recipe = Recipe::from(input)?;
    recipe.segment_bytes = 0;
    recipe.payload_bytes %= 1461;
    for _ in 0..FRAMES_MAX {
        if input.is_empty() {
            break;
        }
        match input.int_in_range(0..=7)? {
            // Something else in between.
            0 => {
                let (header, frame, _) = frame(input)?;
                if SuperFrame::parse(&header, &frame) == Ok(None) {
                    frames.push(frame);
                }
            }
            1 => {
                recipe = Recipe::from(input)?;
                recipe.segment_bytes = 0;
                recipe.payload_bytes %= 1461;
            }
            2 => recipe.flow = input.int_in_range(0..=3)?,
            3 => recipe.payload_bytes = input.int_in_range(0..=1460)?,
            4 => recipe.tcp_flags ^= 1 << input.int_in_range(0..=7)?,
            // The next of the flow.
            kind => {
                recipe.sequence = recipe.sequence.wrapping_add(recipe.payload_bytes as u32);
                recipe.id = recipe.id.wrapping_add(u16::from(kind != 7));
                frames.push(recipe.build().1);
            }
        }
    }
    assert_merges(&frames, merge_udp);
    Ok(())
}

/// Cuts a super-frame, which must lose nothing.
fn pieces_of(cut: &SuperFrame, whole: &[u8]) -> Vec<Vec<u8>> {
    let mut out = vec![0; cut.frame_bytes()];
    let pieces: Vec<Vec<u8>> = (0..cut.count())
        .map(|index| {
            let length = cut.write(whole, index, &mut out);
            assert_eq!(length, cut.frame_bytes_of(index));
            assert!(length <= cut.frame_bytes());
            out[..length].to_vec()
        })
        .collect();
    // The headers come once per piece, the payload once.
    let total: usize = pieces.iter().map(Vec::len).sum();
    let repeated = total - whole.len();
    let headers = match pieces.len() {
        1 => whole.len(),
        count => repeated / (count - 1),
    };
    assert_eq!(headers * (pieces.len() - 1), repeated);
    let payload: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| &piece[headers..])
        .copied()
        .collect();
    assert_eq!(payload, whole[headers..], "no byte is lost");
    pieces
}

/// Merges frames, cuts what came out again and compares.
fn assert_merges(frames: &[Vec<u8>], merge_udp: bool) {
    let mut arena = frames.concat();
    let mut out: Vec<Vec<u8>> = Vec::new();
    let mut inject = |header: &VnetHeader, arena: &[u8], parts: &[Range<usize>]| {
        let whole: Vec<u8> = parts
            .iter()
            .flat_map(|part| &arena[part.clone()])
            .copied()
            .collect();
        assert!(parts.len() <= PARTS_MAX && whole.len() <= FRAME_BYTES_MAX);
        if parts.len() == 1 {
            assert_eq!(
                *header,
                VnetHeader::default(),
                "a single frame goes as it is"
            );
            return out.push(whole);
        }
        let cut = SuperFrame::parse(header, &whole).expect("we merge to what can be cut");
        let pieces = pieces_of(&cut.expect("several frames"), &whole);
        assert_eq!(pieces.len(), parts.len());
        pieces.iter().for_each(|piece| assert_valid(piece));
        out.extend(pieces);
    };
    let mut merger = Merger::new(merge_udp);
    let mut start = 0;
    for frame in frames {
        merger.push(&mut arena, start..start + frame.len(), &mut inject);
        start += frame.len();
    }
    merger.flush(&mut arena, &mut inject);
    assert_eq!(by_flow(frames), by_flow(&out));
}

/// Frames of each flow in order, without what merging may change.
fn by_flow(frames: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for frame in frames {
        let flow = flow(frame).unwrap_or_default();
        flows.entry(flow).or_default().push(normal(frame));
    }
    flows
}

/// What frames of one flow have in common; `None` for what is never held back.
fn flow(frame: &[u8]) -> Option<Vec<u8>> {
    let ethernet = EthernetView::new(frame)?;
    let (addresses, protocol, start) = if let Some(ip) = ethernet.ipv4() {
        if ip.is_fragment() {
            return None;
        }
        (&frame[26..34], ip.protocol(), 14 + ip.header_bytes())
    } else {
        let ip = ethernet.ipv6()?;
        (&frame[22..54], ip.next_header(), 54)
    };
    let transport = frame.get(start..)?;
    match protocol {
        protocol::TCP => drop(TcpView::new(transport)?),
        protocol::UDP => drop(UdpView::new(transport)?),
        _ => return None,
    }
    Some([addresses, &transport[..4], &[protocol]].concat())
}

/// The frame without what means nothing: which of its two forms a zero checksum has, and the id of
/// a packet that must not be fragmented (RFC 6864).
fn normal(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let Some(start) = flow(&frame).map(|_| transport_start(&frame)) else {
        return frame;
    };
    let is_tcp = frame[if start == 54 && is_ipv6(&frame) {
        20
    } else {
        23
    }] == protocol::TCP;
    let field = start + if is_tcp { 16 } else { 6 };
    unify_zero(&mut frame, field);
    if !is_ipv6(&frame) {
        if frame[20] & 0x40 != 0 && fold(sum(&frame[14..start])) == 0 {
            frame[18..20].fill(0);
            frame[24..26].fill(0);
        }
        unify_zero(&mut frame, 24);
    }
    frame
}

fn unify_zero(frame: &mut [u8], field: usize) {
    if frame[field..field + 2] == [0xff, 0xff] {
        frame[field..field + 2].fill(0);
    }
}

fn is_ipv6(frame: &[u8]) -> bool {
    frame[12..14] == ethertype::IPV6.to_be_bytes()
}

fn transport_start(frame: &[u8]) -> usize {
    if is_ipv6(frame) {
        54
    } else {
        14 + usize::from(frame[14] & 15) * 4
    }
}

/// A frame whose lengths and checksums are right.
fn assert_valid(frame: &[u8]) {
    let ethernet = EthernetView::new(frame).expect("a frame");
    let (pseudo, transport) = if let Some(ip) = ethernet.ipv4() {
        assert_eq!(usize::from(ip.total_bytes()), ethernet.payload().len());
        assert_eq!(fold(sum(ip.header())), 0);
        (ip.pseudo_header_sum(ip.payload().len()), ip.payload())
    } else {
        let ip = ethernet.ipv6().expect("an IP packet");
        assert_eq!(
            usize::from(ip.payload_bytes()) + 40,
            ethernet.payload().len()
        );
        (ip.pseudo_header_sum(ip.payload().len()), ip.payload())
    };
    assert_eq!(fold(pseudo + sum(transport)), 0, "the checksum is right");
}
