//! Clamping the segment size that TCP ends offer each other to what a tunnel carries, so that
//! containers whose own MTU is larger send segments that fit from the first one on, where no ICMP
//! reaches them, and over IPv6, whose frames cannot be answered here.
//!
//! Only the option of a SYN is changed, only downwards, and the checksum with it (RFC 1624).

use wire::ethernet::{
    ETHERNET_HEADER_BYTES as ETHERNET_BYTES, EthernetView, ethertype, fold, protocol, sum, tcp_flag,
};

const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const TCP_BYTES: usize = 20;
/// Offset of the checksum in a TCP header.
const CHECKSUM: usize = 16;
/// TCP options.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: [u8; 2] = [2, 4];
/// Smallest segment size any end is held to, bytes: some ignore less.
const MSS_FLOOR_BYTES: usize = 88;

/// A SYN in a frame: where its TCP header starts, and the bytes of IP and TCP header that go with
/// each segment.
#[derive(Debug, Clone, Copy)]
struct Syn {
    tcp: usize,
    headers: usize,
}

impl Syn {
    /// Any frame may be asked about; most are no SYN, which a few comparisons tell.
    #[inline]
    fn find(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET_BYTES..)?;
        let (ip_bytes, tcp) = match EthernetView::new(frame)?.ethertype() {
            ethertype::IPV4 if ip.len() >= IPV4_BYTES && ip[9] == protocol::TCP => {
                let offset = u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff;
                let header = usize::from(ip[0] & 0xf) * 4;
                let is_sound = ip[0] >> 4 == 4 && header >= IPV4_BYTES && offset == 0;
                is_sound.then_some((IPV4_BYTES, ETHERNET_BYTES + header))?
            }
            ethertype::IPV6 if ip.len() >= IPV6_BYTES && ip[6] == protocol::TCP => {
                (IPV6_BYTES, ETHERNET_BYTES + IPV6_BYTES)
            }
            _ => return None,
        };
        let flags = *frame.get(tcp + 13)?;
        let is_syn = flags & tcp_flag::SYN != 0 && frame.len() >= tcp + TCP_BYTES;
        is_syn.then_some(Self {
            tcp,
            headers: ip_bytes + TCP_BYTES,
        })
    }
}

/// Whether [`clamp`] might change this frame.
#[inline]
pub fn is_syn(frame: &[u8]) -> bool {
    Syn::find(frame).is_some()
}

/// Lowers the segment size a SYN offers to what packets of `mtu_bytes` hold. Leaves every other
/// frame, and any malformed option, as it is. The frame's TCP checksum must be complete.
#[inline]
pub fn clamp(frame: &mut [u8], mtu_bytes: usize) {
    if let Some(syn) = Syn::find(frame) {
        clamp_syn(&mut frame[syn.tcp..], mtu_bytes.saturating_sub(syn.headers));
    }
}

#[cold]
fn clamp_syn(tcp: &mut [u8], limit_bytes: usize) {
    let limit = u16::try_from(limit_bytes.max(MSS_FLOOR_BYTES)).unwrap_or(u16::MAX);
    let end = tcp.len().min(usize::from(tcp[12] >> 4) * 4);
    let mut at = TCP_BYTES;
    while at < end {
        match tcp[at..end] {
            [END, ..] => return,
            [NO_OPERATION, ..] => at += 1,
            [kind, length, high, low, ..] if [kind, length] == MAXIMUM_SEGMENT_SIZE => {
                if u16::from_be_bytes([high, low]) > limit {
                    replace(tcp, at + 2, limit);
                }
                at += usize::from(length);
            }
            [_, length, ..] if length >= 2 => at += usize::from(length),
            _ => return,
        }
    }
}

/// Writes two bytes of a TCP header and corrects its checksum.
fn replace(tcp: &mut [u8], at: usize, value: u16) {
    // The words the bytes lie in: one, or two at an odd offset. A header is whole words.
    let words = at & !1..(at + 3) & !1;
    let before = sum(&tcp[words.clone()]);
    tcp[at..at + 2].copy_from_slice(&value.to_be_bytes());
    let after = sum(&tcp[words]);
    let check = u16::from_be_bytes([tcp[CHECKSUM], tcp[CHECKSUM + 1]]);
    let check = fold(u64::from(!check) + u64::from(fold(before)) + after);
    tcp[CHECKSUM..CHECKSUM + 2].copy_from_slice(&check.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wire::ethernet::MacAddr;

    /// A SYN with these options, its checksum complete.
    fn syn(is_ipv4: bool, flags: u8, options: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0x9c, 0x40, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0];
        tcp.extend([
            ((TCP_BYTES + options.len()) / 4 * 16) as u8,
            flags,
            0xfa,
            0xf0,
            0,
            0,
            0,
            0,
        ]);
        tcp.extend(options);
        let length = tcp.len() as u16;
        let [high, low] = length.to_be_bytes();
        let (kind, ip) = if is_ipv4 {
            let total = (20 + length).to_be_bytes();
            let mut ip = vec![0x45, 0, total[0], total[1], 0, 1, 0x40, 0, 64, 6, 0, 0];
            ip.extend([10, 32, 0, 1, 10, 32, 0, 2]);
            ([8, 0], ip)
        } else {
            let mut ip = vec![0x60, 0, 0, 0, high, low, 6, 64];
            ip.extend(0..32);
            ([0x86, 0xdd], ip)
        };
        let check = fold(pseudo(&ip, length) + sum(&tcp));
        tcp[16..18].copy_from_slice(&check.to_be_bytes());
        let addresses = [MacAddr::BROADCAST.0, [2, 0, 0, 0, 0, 1]].concat();
        [addresses, kind.to_vec(), ip, tcp].concat()
    }

    fn pseudo(ip: &[u8], length: u16) -> u64 {
        let addresses = if ip[0] >> 4 == 4 { 12..20 } else { 8..40 };
        sum(&ip[addresses]) + 6 + u64::from(length)
    }

    /// Whether the TCP checksum holds.
    fn is_whole(frame: &[u8]) -> bool {
        let header = if frame[14] >> 4 == 4 { 20 } else { 40 };
        let (ip, tcp) = frame[14..].split_at(header);
        fold(pseudo(ip, tcp.len() as u16) + sum(tcp)) == 0
    }

    const TYPICAL: [u8; 20] = [
        2, 4, 0x05, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
    ];

    #[test]
    fn offers_that_do_not_fit_are_lowered_and_nothing_else_changes() {
        for (is_ipv4, mtu, mss) in [(true, 1414, 1374), (false, 1394, 1334), (true, 490, 450)] {
            for flags in [0x02, 0x12, 0xc2] {
                let mut frame = syn(is_ipv4, flags, &TYPICAL);
                let before = frame.clone();
                clamp(&mut frame, mtu);
                let tcp = if is_ipv4 { 34 } else { 54 };
                let offer = u16::from_be_bytes([frame[tcp + 22], frame[tcp + 23]]);
                assert_eq!(offer, mss);
                assert!(is_whole(&frame) && is_syn(&frame));
                frame[tcp + 22..tcp + 24].copy_from_slice(&before[tcp + 22..tcp + 24]);
                frame[tcp + 16..tcp + 18].copy_from_slice(&before[tcp + 16..tcp + 18]);
                assert_eq!(frame, before);
            }
        }
    }

    #[test]
    fn an_offer_at_an_odd_place_keeps_its_checksum_true() {
        for padding in 0..4 {
            let mut options = vec![1; padding];
            options.extend([2, 4, 0x23, 0x28]);
            options.resize(8, 0);
            let mut frame = syn(true, 2, &options);
            clamp(&mut frame, 1414);
            let at = 34 + 20 + padding + 2;
            assert_eq!(frame[at..at + 2], 1374_u16.to_be_bytes());
            assert!(is_whole(&frame));
        }
    }

    #[test]
    fn what_is_no_syn_or_fits_is_left_alone() {
        let mut later_fragment = syn(true, 2, &TYPICAL);
        later_fragment[21] = 1;
        let frames = [
            (syn(true, 0x10, &TYPICAL), 576),
            (syn(true, 2, &TYPICAL), 1500),
            (syn(true, 2, &[]), 576),
            (syn(true, 2, &[0, 2, 4, 5]), 576),
            (syn(true, 2, &[9, 0, 2, 4]), 576),
            (syn(true, 2, &[1, 1, 2, 4]), 576),
            (later_fragment, 576),
        ];
        for (frame, mtu) in frames {
            let mut after = frame.clone();
            clamp(&mut after, mtu);
            assert_eq!(after, frame);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_keep_their_length_and_whole_syns_their_checksum(
            bytes in prop::collection::vec(any::<u8>(), 0..120),
            kind in 0..3_usize,
            mtu in 0..2000_usize,
        ) {
            let (mut frame, length) = (bytes.clone(), bytes.len());
            if length > 48 {
                let types = [[8, 0], [0x86, 0xdd], [0x81, 0]];
                frame[12..14].copy_from_slice(&types[kind]);
                frame[14] = [0x45, 0x60, 0x45][kind];
                frame[if kind == 1 { 20 } else { 23 }] = 6;
                let flags = if kind == 1 { 67.min(length - 1) } else { 47 };
                frame[flags] |= 2;
            }
            clamp(&mut frame, mtu);
            prop_assert_eq!(frame.len(), length);
        }

        #[test]
        fn any_options_of_a_syn_leave_a_true_checksum(
            words in prop::collection::vec(any::<[u8; 4]>(), 0..10),
            at in 0..40_usize,
            is_ipv4: bool,
            mtu in 0..9000_usize,
        ) {
            let mut options = words.concat();
            if at + 4 <= options.len() {
                options[at..at + 4].copy_from_slice(&[2, 4, 0xff, 0xff]);
                options[..at].fill(1);
            }
            let mut frame = syn(is_ipv4, 2, &options);
            clamp(&mut frame, mtu);
            prop_assert!(is_whole(&frame));
        }
    }
}
