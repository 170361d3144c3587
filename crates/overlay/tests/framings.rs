//! The batching path with a framing that is not sleeve's: nothing else knows what a datagram is.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use overlay::frame::counters::DropReason;
use overlay::frame::path::Limits;
use overlay::frame::segment::VnetHeader;
use support::wireguard::{BadDatagram, Wireguard};
use support::{Buffers, Host, Run, ip_frame, name, super_frame};
use wire::ethernet::MacAddr;

const FAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const LIMITS: Limits = Limits {
    mtu_bytes: 1388,
    may_be_fragmented: false,
};

/// The line, knowing that FAR is at host 3.
fn line() -> [Host<Wireguard>; 3] {
    [1, 2, 3].map(|n| {
        let host = Host::wireguard(n, LIMITS);
        host.macs.write().unwrap().learn(FAR, name(3), 0);
        host
    })
}

/// What the first host makes of these frames.
fn captured(hosts: &mut [Host<Wireguard>; 3], frames: &[Vec<u8>]) -> Buffers {
    let mut out = Buffers::new(true);
    let frames = frames
        .iter()
        .map(|frame| (VnetHeader::default(), frame.clone()));
    hosts[0].capture(&mut frames.collect::<Vec<_>>(), &mut out);
    out
}

/// The same once more.
fn copy(buffers: &Buffers) -> Buffers {
    let mut copy = Buffers::new(true);
    copy.arena.extend_from_slice(&buffers.arena);
    copy.runs.extend(buffers.runs.iter().map(|run| Run {
        to: run.to,
        range: run.range.clone(),
        datagram_bytes: run.datagram_bytes,
        is_df: run.is_df,
    }));
    copy
}

#[test]
fn each_frame_has_a_datagram_of_its_own_padded_to_blocks() {
    let mut hosts = line();
    let sizes = [0, 1, 15, 16, 17, 1300];
    let frames = sizes.map(|payload| ip_frame(payload, true));
    let out = captured(&mut hosts, &frames);
    let runs = out.runs.iter();
    let datagrams = runs.flat_map(|run| out.arena[run.range.clone()].chunks(run.datagram_bytes));
    let datagrams: Vec<&[u8]> = datagrams.collect();
    let lengths: Vec<usize> = datagrams.iter().map(|datagram| datagram.len()).collect();
    let padded = frames.map(|frame| 32 + (36 + frame.len()).next_multiple_of(16));
    assert_eq!(lengths, padded);
    for (number, datagram) in datagrams.iter().enumerate() {
        assert_eq!(datagram[..4], [4, 0, 0, 0]);
        assert_eq!(datagram[8..16], (number as u64).to_le_bytes());
    }
}

#[test]
fn frames_arrive_whole_over_a_relay() {
    let mut hosts = line();
    let frames = [0, 1, 700, 1388 - 20].map(|payload| ip_frame(payload, true));
    let mut a = captured(&mut hosts, &frames);
    let (mut b, mut c) = (Buffers::new(true), Buffers::new(true));
    hosts[1].receive(&mut a, &mut b);
    hosts[2].receive(&mut b, &mut c);
    let arrived: Vec<Vec<u8>> = c.injected.unwrap().into_iter().map(|(_, f)| f).collect();
    assert_eq!(arrived, frames);
}

#[test]
fn super_frame_is_one_call_and_is_whole_again_at_the_end() {
    let mut hosts = line();
    let (mut a, mut b, mut c) = (Buffers::new(true), Buffers::new(true), Buffers::new(true));
    let frame = super_frame(40, 1348);
    hosts[0].capture(&mut [frame.clone()], &mut a);
    assert_eq!((a.runs.len(), a.runs[0].datagram_bytes), (1, 1472));
    hosts[1].receive(&mut a, &mut b);
    assert_eq!((b.runs.len(), b.runs[0].datagram_bytes), (1, 1472));
    hosts[2].receive(&mut b, &mut c);
    let (header, whole) = c.injected.unwrap().remove(0);
    assert_eq!(header.segment_bytes, 1348);
    assert_eq!(whole.len(), frame.1.len());
    assert_eq!(whole[54..], frame.1[54..]);
}

#[test]
fn replayed_tampered_and_foreign_datagrams_are_dropped() {
    let mut hosts = line();
    let mut first = captured(&mut hosts, &[ip_frame(100, true)]);
    let (mut again, mut spoilt, mut foreign) = (copy(&first), copy(&first), copy(&first));
    let last = spoilt.arena.len() - 1;
    spoilt.arena[last] ^= 1;
    foreign.arena[4] = 77;
    let mut out = Buffers::new(true);
    for input in [&mut first, &mut again, &mut spoilt, &mut foreign] {
        hosts[1].receive(input, &mut out);
    }
    let dropped = [
        (DropReason::UnknownSender, 1),
        (DropReason::Undecryptable, 1),
        (DropReason::Replayed, 1),
    ];
    assert_eq!(hosts[1].drops(), dropped);
    assert_eq!(out.refused, [BadDatagram::Unsealed]);
    assert_eq!(out.runs.len(), 1);
}

#[test]
fn frame_beyond_the_tunnel_is_cut_or_answered() {
    let mut hosts = line();
    let frames = [false, true].map(|has_df| ip_frame(1500, has_df));
    let mut a = captured(&mut hosts, &frames);
    assert!(
        a.runs
            .iter()
            .all(|run| run.is_df && run.datagram_bytes <= 1472)
    );
    assert_eq!(hosts[0].drops(), [(DropReason::TooBig, 1)]);
    let answer = &a.injected.as_ref().unwrap()[0].1;
    assert_eq!(answer[40..42], 1388_u16.to_be_bytes());
    let (mut b, mut c) = (Buffers::new(true), Buffers::new(true));
    hosts[1].receive(&mut a, &mut b);
    hosts[2].receive(&mut b, &mut c);
    let pieces = c.injected.unwrap();
    let payload = pieces.iter().flat_map(|(_, piece)| &piece[34..]);
    assert!(payload.eq(&frames[0][34..]));
}
