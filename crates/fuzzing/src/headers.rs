//! Headers of datagrams and of the frames inside them, and what is built from frames: ICMP answers
//! and fragments.

use overlay::frame::fragment::Fragmenter;
use overlay::frame::icmp::{ANSWER_BYTES_MAX, frag_needed};
use wire::ethernet::{
    EthernetView, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, Ipv4View, Ipv6View, TcpView, UdpView,
    checksum, fold, sum,
};
use wire::sleeve::{
    FRAME_HEADER_BYTES, FrameClass, Frames, NONCE_PREFIX_BYTES, classify_frame, heartbeat_frame,
    is_all_zero, nonce, nonce_prefix, parse_datagram, parse_sealed_body, write_frame_header,
};

/// Views never reach past their bytes, frames of a datagram encode to where they came from, answers
/// and fragments have right lengths and checksums.
pub fn run(bytes: &[u8]) {
    read_datagram(bytes);
    read_ethernet(bytes);
    let Some((mtu, frame)) = bytes.split_first_chunk() else {
        return;
    };
    let mtu = usize::from(u16::from_be_bytes(*mtu));
    answer(frame, mtu);
    fragment(frame, mtu % 2048);
    compare_sums(bytes);
}

fn read_datagram(bytes: &[u8]) {
    if let Ok((sender, body)) = parse_datagram(bytes) {
        assert_eq!([&sender.to_bytes(), body].concat(), bytes);
        let mut body = body.to_vec();
        if let Ok((counter, sealed)) = parse_sealed_body(&mut body) {
            let prefix = nonce_prefix(true, false);
            assert_eq!(nonce(true, counter, false)[..NONCE_PREFIX_BYTES], prefix);
            read_frames(sealed);
        }
        read_frames(&body);
    }
    read_frames(bytes);
}

fn read_frames(body: &[u8]) {
    let mut seen = 0;
    for frame in Frames::new(body).map_while(Result::ok) {
        let length = u16::try_from(frame.frame.len()).expect("two bytes gave it");
        let mut header = [0; FRAME_HEADER_BYTES];
        write_frame_header(&mut header, frame.origin, frame.destination, length);
        let again = [&header, frame.frame].concat();
        assert_eq!(again, body[seen..seen + again.len()]);
        seen += again.len();
        classify(frame.frame);
    }
}

fn classify(frame: &[u8]) {
    match classify_frame(frame) {
        FrameClass::Heartbeat { connection_uid } => {
            assert_eq!(heartbeat_frame(connection_uid).as_slice(), frame);
        }
        FrameClass::MtuTest { frame_bytes } => assert_eq!(frame_bytes, frame.len()),
        FrameClass::Runt => assert!(frame.len() < 14),
        FrameClass::FragmentationTest | FrameClass::Ordinary => {}
    }
    assert_eq!(is_all_zero(frame), frame.iter().all(|byte| *byte == 0));
}

fn read_ethernet(bytes: &[u8]) {
    if let Some(frame) = EthernetView::new(bytes) {
        let _ = (
            frame.source().to_string(),
            frame.destination().is_multicast(),
        );
        assert_eq!(frame.payload().len() + 14, bytes.len());
        let _ = (frame.ipv4().map(read_ipv4), frame.ipv6().map(read_ipv6));
    }
    let _ = (
        Ipv4View::new(bytes).map(read_ipv4),
        Ipv6View::new(bytes).map(read_ipv6),
    );
    read_transport(bytes);
}

fn read_ipv4(ip: Ipv4View<'_>) {
    assert!(ip.header().len() >= IPV4_HEADER_BYTES);
    assert!(ip.payload().len() + ip.header_bytes() <= usize::from(ip.total_bytes()));
    assert_eq!(
        ip.is_fragment(),
        ip.more_fragments() || ip.fragment_offset() != 0
    );
    let _ = (ip.source(), ip.destination(), ip.tos(), ip.ttl(), ip.id());
    let _ = (ip.checksum(), ip.protocol(), ip.dont_fragment());
    let _ = ip.pseudo_header_sum(ip.payload().len());
    read_transport(ip.payload());
}

fn read_ipv6(ip: Ipv6View<'_>) {
    assert!(ip.payload().len() <= usize::from(ip.payload_bytes()));
    assert_eq!(ip.version_class_flow() >> 28, 6);
    let _ = (
        ip.source(),
        ip.destination(),
        ip.hop_limit(),
        ip.next_header(),
    );
    let _ = ip.pseudo_header_sum(ip.payload().len() + IPV6_HEADER_BYTES);
    read_transport(ip.payload());
}

fn read_transport(bytes: &[u8]) {
    if let Some(tcp) = TcpView::new(bytes) {
        assert_eq!(tcp.header_bytes() + tcp.payload().len(), bytes.len());
        assert_eq!(tcp.options().len() + 20, tcp.header_bytes());
        let _ = (
            tcp.source_port(),
            tcp.destination_port(),
            tcp.flags(),
            tcp.window(),
        );
        let _ = (tcp.sequence(), tcp.acknowledgement(), tcp.checksum());
    }
    if let Some(udp) = UdpView::new(bytes) {
        assert_eq!(udp.payload().len() + 8, bytes.len());
        let _ = (
            udp.source_port(),
            udp.destination_port(),
            udp.checksum(),
            udp.length_bytes(),
        );
    }
}

fn answer(frame: &[u8], mtu: usize) {
    let mut out = [0; ANSWER_BYTES_MAX];
    let Some(length) = frag_needed(frame, mtu, &mut out) else {
        return;
    };
    let ethernet = EthernetView::new(&out[..length]).expect("an answer is a frame");
    assert_eq!(ethernet.destination().0, frame[6..12]);
    let ip = Ipv4View::new(ethernet.payload()).expect("an answer is IPv4");
    assert_eq!(usize::from(ip.total_bytes()) + 14, length);
    assert_eq!((checksum(ip.header()), checksum(ip.payload())), (0, 0));
    assert!(
        frag_needed(&out[..length], mtu, &mut [0; ANSWER_BYTES_MAX]).is_none(),
        "answers are not answered"
    );
}

/// Fragments are no larger than asked for and carry the payload once, in order.
fn fragment(frame: &[u8], mtu: usize) {
    let Some(mut cut) = Fragmenter::new(frame, mtu) else {
        return;
    };
    let whole = Ipv4View::new(&frame[14..]);
    let mut payload: Vec<u8> = Vec::new();
    let mut out = vec![0; mtu + 14];
    while let Some(expected) = cut.next_bytes() {
        let length = cut
            .write_next(frame, &mut out)
            .expect("one more was announced");
        assert_eq!(length, expected);
        assert!(length <= mtu + 14);
        let ip = Ipv4View::new(&out[14..length]).expect("a fragment is IPv4");
        assert_eq!(checksum(ip.header()), 0);
        assert_eq!(usize::from(ip.total_bytes()), length - 14);
        payload.extend(ip.payload());
    }
    if let Some(whole) = whole {
        assert_eq!(payload, whole.payload());
    }
}

fn compare_sums(bytes: &[u8]) {
    let mut slow = 0_u32;
    for pair in bytes.chunks(2) {
        slow += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        slow = (slow & 0xffff) + (slow >> 16);
    }
    assert_eq!(u32::from(fold(sum(bytes))), !slow & 0xffff);
}
