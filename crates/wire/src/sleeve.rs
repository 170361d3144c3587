//! Sleeve datagrams: Ethernet frames between peers over UDP (spec/sleeve.md 1-3, 5).
//!
//! ```text
//! datagram   sender name (6) | body
//! in clear   frames
//! encrypted  counter field (8) | tag (16) | sealed frames
//! frame      origin name (6) | destination name (6) | length (2) | Ethernet frame
//! ```
//!
//! Nothing here allocates. Sealing, replay windows and sockets are elsewhere.

use crate::PeerName;
use crate::ethernet::ETHERNET_HEADER_BYTES;
use crate::name::NAME_BYTES;

/// Bytes of the counter field of an encrypted datagram.
pub const COUNTER_BYTES: usize = 8;
/// Bytes of the authenticator in front of the sealed frames.
pub const TAG_BYTES: usize = 16;
/// Bytes in front of each Ethernet frame.
pub const FRAME_HEADER_BYTES: usize = 2 * NAME_BYTES + 2;
/// Bytes of a datagram in front of the first frame header, in clear.
pub const PLAIN_HEADER_BYTES: usize = NAME_BYTES;
/// Bytes of a datagram in front of the first frame header, encrypted.
pub const SEALED_HEADER_BYTES: usize = NAME_BYTES + COUNTER_BYTES + TAG_BYTES;

/// Bytes of IPv4 and UDP header around a datagram.
pub const UNDERLAY_IPV4_BYTES: usize = 20 + 8;
/// Bytes of IPv6 and UDP header around a datagram.
pub const UNDERLAY_IPV6_BYTES: usize = 40 + 8;
/// From overlay IP packet to underlay IPv4 packet, in clear.
pub const OVERHEAD_PLAIN_IPV4_BYTES: usize = overhead_bytes(false, false);
/// From overlay IP packet to underlay IPv4 packet, encrypted.
pub const OVERHEAD_SEALED_IPV4_BYTES: usize = overhead_bytes(true, false);
/// From overlay IP packet to underlay IPv6 packet, in clear.
pub const OVERHEAD_PLAIN_IPV6_BYTES: usize = overhead_bytes(false, true);
/// From overlay IP packet to underlay IPv6 packet, encrypted.
pub const OVERHEAD_SEALED_IPV6_BYTES: usize = overhead_bytes(true, true);

const _: () = assert!(OVERHEAD_PLAIN_IPV4_BYTES == 62 && OVERHEAD_SEALED_IPV4_BYTES == 86);
const _: () = assert!(OVERHEAD_PLAIN_IPV6_BYTES == 82 && OVERHEAD_SEALED_IPV6_BYTES == 106);

/// Bit of the counter field that tells the sequence space: set for datagrams meant to travel with
/// the IP "don't fragment" bit.
pub const COUNTER_DF_BIT: u64 = 1 << 63;

/// Bytes of a heartbeat frame.
pub const HEARTBEAT_BYTES: usize = ETHERNET_HEADER_BYTES + 8;
/// Bytes of a fragmentation test frame.
pub const FRAGMENTATION_TEST_BYTES: usize = 60_001;
/// Bytes of the path MTU discovery frame sent at the start.
pub const PMTU_DISCOVERY_BYTES: usize = 60_000;
/// Largest UDP payload over IPv4.
pub const UDP_PAYLOAD_MAX_BYTES: usize = 65_507;

/// Bytes from overlay IP packet to underlay IP packet.
pub const fn overhead_bytes(encrypted: bool, ipv6_underlay: bool) -> usize {
    let underlay = if ipv6_underlay {
        UNDERLAY_IPV6_BYTES
    } else {
        UNDERLAY_IPV4_BYTES
    };
    let header = if encrypted {
        SEALED_HEADER_BYTES
    } else {
        PLAIN_HEADER_BYTES
    };
    underlay + header + FRAME_HEADER_BYTES + ETHERNET_HEADER_BYTES
}

/// Why (the rest of) a datagram is dropped. The texts are the original's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// No room for the sender's name.
    #[error("ignoring too short UDP packet")]
    NoSender,
    /// Encrypted, but no room for the counter field.
    #[error(
        "Failed to decode packet: encrypted UDP packet too short; expected length >= 8, got {0}"
    )]
    NoCounter(usize),
    /// Wrong key, or somebody tampers.
    #[error("Failed to decode packet: UDP packet decryption failed")]
    Undecryptable,
    /// A frame runs past the end.
    #[error("Failed to decode packet: too short; expected frame of length {expected}, got {got}")]
    FrameTooShort {
        /// What its header says.
        expected: usize,
        /// What is there.
        got: usize,
    },
    /// Too little after the last frame to be another one.
    #[error("Failed to decode packet: {0} octets of trailing garbage")]
    TrailingGarbage(usize),
}

/// Splits a UDP payload into the sender's name and the body.
#[inline]
pub fn parse_datagram(datagram: &[u8]) -> Result<(PeerName, &[u8]), DatagramError> {
    let (name, body) = datagram
        .split_first_chunk()
        .ok_or(DatagramError::NoSender)?;
    Ok((PeerName::from_bytes(*name), body))
}

/// Splits an encrypted body into the counter field and the box: tag, then sealed frames. The box
/// may be too short to hold a tag; opening it then fails.
#[inline]
pub fn parse_sealed_body(body: &mut [u8]) -> Result<(u64, &mut [u8]), DatagramError> {
    let length = body.len();
    let (counter, sealed) = body
        .split_first_chunk_mut()
        .ok_or(DatagramError::NoCounter(length))?;
    Ok((u64::from_be_bytes(*counter), sealed))
}

/// One frame of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The peer where the frame entered the overlay.
    pub origin: PeerName,
    /// The peer it is for.
    pub destination: PeerName,
    /// The Ethernet frame; of any length, even none.
    pub frame: &'a [u8],
}

/// Frames of a body in clear. Yields what comes before a malformed frame, then the error, then
/// nothing.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    /// The frames of `body`: what follows the sender's name, or what came out of the box.
    #[inline]
    pub const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, DatagramError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() {
            return None;
        }
        let Some((header, rest)) = rest.split_first_chunk::<FRAME_HEADER_BYTES>() else {
            return Some(Err(DatagramError::TrailingGarbage(rest.len())));
        };
        let [o0, o1, o2, o3, o4, o5, d0, d1, d2, d3, d4, d5, l0, l1] = *header;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let Some((frame, rest)) = rest.split_at_checked(length) else {
            return Some(Err(DatagramError::FrameTooShort {
                expected: length,
                got: rest.len(),
            }));
        };
        self.rest = rest;
        Some(Ok(Frame {
            origin: PeerName::from_bytes([o0, o1, o2, o3, o4, o5]),
            destination: PeerName::from_bytes([d0, d1, d2, d3, d4, d5]),
            frame,
        }))
    }
}

impl std::iter::FusedIterator for Frames<'_> {}

/// Writes the header of a frame of `frame_bytes`.
#[inline]
pub fn write_frame_header(
    out: &mut [u8; FRAME_HEADER_BYTES],
    origin: PeerName,
    destination: PeerName,
    frame_bytes: u16,
) {
    out[..NAME_BYTES].copy_from_slice(&origin.to_bytes());
    out[NAME_BYTES..2 * NAME_BYTES].copy_from_slice(&destination.to_bytes());
    out[2 * NAME_BYTES..].copy_from_slice(&frame_bytes.to_be_bytes());
}

/// What a frame is to sleeve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameClass {
    /// Too short for an Ethernet header: ignored.
    Runt,
    /// Traffic.
    Ordinary,
    /// Special, 22 bytes.
    Heartbeat {
        /// Connection UID it carries.
        connection_uid: u64,
    },
    /// Special, 60001 bytes; to be answered if the frame [`is_all_zero`].
    FragmentationTest,
    /// Special, of any other length, which is that of the frame; to be answered if it
    /// [`is_all_zero`].
    MtuTest {
        /// Whole frame length.
        frame_bytes: usize,
    },
}

/// Tells special frames, which start with fourteen zero bytes, from traffic.
#[inline]
pub fn classify_frame(frame: &[u8]) -> FrameClass {
    let Some((header, rest)) = frame.split_first_chunk::<ETHERNET_HEADER_BYTES>() else {
        return FrameClass::Runt;
    };
    if *header != [0; ETHERNET_HEADER_BYTES] {
        return FrameClass::Ordinary;
    }
    match (frame.len(), rest.first_chunk()) {
        (HEARTBEAT_BYTES, Some(uid)) => FrameClass::Heartbeat {
            connection_uid: u64::from_be_bytes(*uid),
        },
        (FRAGMENTATION_TEST_BYTES, _) => FrameClass::FragmentationTest,
        (frame_bytes, _) => FrameClass::MtuTest { frame_bytes },
    }
}

/// Whether a test frame arrived as it was sent.
pub fn is_all_zero(frame: &[u8]) -> bool {
    frame.iter().fold(0, |all, byte| all | byte) == 0
}

/// The heartbeat frame of a connection.
pub fn heartbeat_frame(connection_uid: u64) -> [u8; HEARTBEAT_BYTES] {
    let mut frame = [0; HEARTBEAT_BYTES];
    frame[ETHERNET_HEADER_BYTES..].copy_from_slice(&connection_uid.to_be_bytes());
    frame
}

/// Bytes of a nonce that stay the same in one direction of one connection.
pub const NONCE_PREFIX_BYTES: usize = 16;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = NONCE_PREFIX_BYTES + COUNTER_BYTES;

const NONCE_OUTBOUND_BIT: u8 = 0x80;
const NONCE_TCP_BIT: u8 = 0x40;

/// The constant first part of the nonces of one direction. `outbound`: the sender is the end that
/// dialled; `tcp`: messages of the link, as opposed to datagrams.
pub const fn nonce_prefix(outbound: bool, tcp: bool) -> [u8; NONCE_PREFIX_BYTES] {
    let mut prefix = [0; NONCE_PREFIX_BYTES];
    if outbound {
        prefix[0] |= NONCE_OUTBOUND_BIT;
    }
    if tcp {
        prefix[0] |= NONCE_TCP_BIT;
    }
    prefix
}

/// The nonce of one datagram (`counter_field` as transmitted) or of one message of the link (its
/// number); the other arguments as for [`nonce_prefix`].
pub fn nonce(outbound: bool, counter_field: u64, tcp: bool) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[..NONCE_PREFIX_BYTES].copy_from_slice(&nonce_prefix(outbound, tcp));
    nonce[NONCE_PREFIX_BYTES..].copy_from_slice(&counter_field.to_be_bytes());
    nonce
}
