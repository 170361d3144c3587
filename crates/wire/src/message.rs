//! Messages on an established link: one tag byte and a body (spec/mesh.md 4.4), and the frames
//! that carry them (4.1; 3.3 for version 1).

use crate::PeerName;
use crate::gob::{self, GobError, Stream};
use crate::intake::Intake;

/// Longest frame of a version 2 link, bytes, its length prefix not counted.
pub const FRAME_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Bytes of the length in front of a version 2 frame.
pub const FRAME_PREFIX_BYTES: usize = 4;

/// One protocol message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Tag 0.
    Heartbeat,
    /// Tags 1, 2 and 3, and tag 7: a control message of an overlay.
    Overlay(OverlayControl),
    /// Tag 4: gossip from a neighbour.
    GossipNeighbour {
        /// Channel name.
        channel: String,
        /// The neighbour that sent it.
        sender: PeerName,
        /// Channel-specific bytes.
        payload: Vec<u8>,
    },
    /// Tag 5: gossip for one peer, relayed unchanged.
    GossipUnicast {
        /// Channel name.
        channel: String,
        /// Originator.
        source: PeerName,
        /// Destination.
        destination: PeerName,
        /// Channel-specific bytes.
        payload: Vec<u8>,
    },
    /// Tag 6: gossip for everybody.
    GossipBroadcast {
        /// Channel name.
        channel: String,
        /// Originator, kept at every hop.
        source: PeerName,
        /// Channel-specific bytes.
        payload: Vec<u8>,
    },
    /// Any other tag, and an overlay control message too short to be one: logged and ignored.
    Unknown(u8),
}

/// How gossip reached us, and from whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Tag 4: from a neighbour.
    Neighbour(PeerName),
    /// Tag 5: to us alone, from its originator.
    Unicast(PeerName),
    /// Tag 6: to everybody, from its originator.
    Broadcast(PeerName),
}

impl Delivery {
    /// Who sent it.
    pub const fn sender(self) -> PeerName {
        match self {
            Self::Neighbour(peer) | Self::Unicast(peer) | Self::Broadcast(peer) => peer,
        }
    }
}

/// A control message of an overlay, as it travels on the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayControl {
    /// Index into the common overlay list (tag 7), or `None` in compatibility mode (tags 1 to 3).
    pub index: Option<u8>,
    /// Overlay-specific tag.
    pub tag: u8,
    /// Overlay-specific body.
    pub body: Vec<u8>,
}

/// Why a message could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// No tag. Legal on an unencrypted version 2 link: log `ignoring blank msg` and go on.
    #[error("blank message")]
    Blank,
    /// A malformed gossip envelope; ends the link.
    #[error(transparent)]
    Envelope(#[from] GobError),
}

/// Tag bytes.
mod tag {
    pub(super) const HEARTBEAT: u8 = 0;
    pub(super) const FIRST_LEGACY_CONTROL: u8 = 1;
    pub(super) const LAST_LEGACY_CONTROL: u8 = 3;
    pub(super) const GOSSIP_NEIGHBOUR: u8 = 4;
    pub(super) const GOSSIP_UNICAST: u8 = 5;
    pub(super) const GOSSIP_BROADCAST: u8 = 6;
    pub(super) const OVERLAY_CONTROL: u8 = 7;
}

/// Room for tag, names, lengths and a channel name of usual length around a gossip payload.
const ENVELOPE_BYTES: usize = 64;

impl Message {
    /// Tag and body, without framing or encryption. The encoding of each message is unique.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Heartbeat => vec![tag::HEARTBEAT],
            Self::Overlay(control) => control.encode(),
            Self::GossipNeighbour {
                channel,
                sender,
                payload,
            } => encode_gossip(tag::GOSSIP_NEIGHBOUR, channel, &[*sender], payload),
            Self::GossipUnicast {
                channel,
                source,
                destination,
                payload,
            } => encode_gossip(
                tag::GOSSIP_UNICAST,
                channel,
                &[*source, *destination],
                payload,
            ),
            Self::GossipBroadcast {
                channel,
                source,
                payload,
            } => encode_gossip(tag::GOSSIP_BROADCAST, channel, &[*source], payload),
            Self::Unknown(tag) => vec![*tag],
        }
    }

    /// Decodes tag and body. What follows a complete body is ignored, as the original does.
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        let (&tag, body) = message.split_first().ok_or(MessageError::Blank)?;
        let mut stream = Stream::new(body);
        Ok(match tag {
            tag::HEARTBEAT => Self::Heartbeat,
            tag::FIRST_LEGACY_CONTROL..=tag::LAST_LEGACY_CONTROL => Self::Overlay(OverlayControl {
                index: None,
                tag,
                body: body.to_vec(),
            }),
            tag::GOSSIP_NEIGHBOUR => Self::GossipNeighbour {
                channel: stream.require_string("channel")?,
                sender: take_name(&mut stream)?,
                payload: stream.require_bytes("payload")?.to_vec(),
            },
            tag::GOSSIP_UNICAST => Self::GossipUnicast {
                channel: stream.require_string("channel")?,
                source: take_name(&mut stream)?,
                destination: take_name(&mut stream)?,
                payload: stream.require_bytes("payload")?.to_vec(),
            },
            tag::GOSSIP_BROADCAST => Self::GossipBroadcast {
                channel: stream.require_string("channel")?,
                source: take_name(&mut stream)?,
                payload: stream.require_bytes("payload")?.to_vec(),
            },
            tag::OVERLAY_CONTROL => match *body {
                [index, tag, ref body @ ..] => Self::Overlay(OverlayControl {
                    index: Some(index),
                    tag,
                    body: body.to_vec(),
                }),
                [] | [_] => Self::Unknown(tag),
            },
            _ => Self::Unknown(tag),
        })
    }
}

impl OverlayControl {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 3);
        if let Some(index) = self.index {
            out.extend([tag::OVERLAY_CONTROL, index]);
        }
        out.push(self.tag);
        out.extend_from_slice(&self.body);
        out
    }
}

fn encode_gossip(tag: u8, channel: &str, names: &[PeerName], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + channel.len() + ENVELOPE_BYTES);
    out.push(tag);
    gob::put_string_message(&mut out, channel);
    for name in names {
        gob::put_uint_message(&mut out, name.to_u64());
    }
    gob::put_bytes_message(&mut out, payload);
    out
}

fn take_name(stream: &mut Stream<'_>) -> Result<PeerName, GobError> {
    let value = stream.require_uint("peer name")?;
    let name = PeerName::from_u64(value);
    if name.to_u64() == value {
        Ok(name)
    } else {
        Err(GobError::OutOfRange("peer name"))
    }
}

/// A frame is larger than [`FRAME_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// We tried to send it; the message is dropped.
    #[error("outgoing message exceeds maximum size: {0} > {FRAME_BYTES_MAX}")]
    OutgoingTooLarge(usize),
    /// The other side announced it; ends the link.
    #[error("incoming message exceeds maximum size: {0} > {FRAME_BYTES_MAX}")]
    IncomingTooLarge(usize),
}

/// Version 2: `message` (sealed already, if the link is encrypted) behind its length.
pub fn encode_frame(message: &[u8]) -> Result<Vec<u8>, FrameError> {
    let prefix = frame_prefix(message.len())?;
    let mut frame = Vec::with_capacity(FRAME_PREFIX_BYTES + message.len());
    frame.extend_from_slice(&prefix);
    frame.extend_from_slice(message);
    Ok(frame)
}

/// Version 2: the length in front of a message of `message_bytes`.
pub fn frame_prefix(message_bytes: usize) -> Result<[u8; FRAME_PREFIX_BYTES], FrameError> {
    match u32::try_from(message_bytes) {
        Ok(length) if message_bytes <= FRAME_BYTES_MAX => Ok(length.to_be_bytes()),
        Ok(_) | Err(_) => Err(FrameError::OutgoingTooLarge(message_bytes)),
    }
}

/// Version 1: `message` (sealed already, if the link is encrypted) as the next value of the stream.
/// The other direction is [`gob::StreamReader`].
pub fn encode_frame_v1(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 12);
    gob::put_bytes_message(&mut out, message);
    out
}

/// Splits the bytes of a version 2 link into frames.
///
/// Invariant: holds at most one unfinished frame plus what was pushed since the last frame was
/// taken.
#[derive(Debug, Default)]
pub struct FrameReader {
    intake: Intake,
}

impl FrameReader {
    /// A reader with nothing read.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes from the link, cut anywhere.
    pub fn push(&mut self, bytes: &[u8]) {
        self.intake.push(bytes);
    }

    /// The content of the next frame, which may be opened in place; `None` until more bytes come.
    /// After an error the link must be closed.
    pub fn next_frame(&mut self) -> Result<Option<&mut [u8]>, FrameError> {
        let Some((prefix, content)) = self.intake.rest().split_first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::IncomingTooLarge(length));
        }
        if content.len() < length {
            return Ok(None);
        }
        let frame = self.intake.consume(FRAME_PREFIX_BYTES + length);
        Ok(Some(&mut frame[FRAME_PREFIX_BYTES..]))
    }

    /// Bytes held that belong to no frame taken so far. While the other side is a stranger the
    /// caller keeps this small.
    pub fn buffered_bytes(&self) -> usize {
        self.intake.rest().len()
    }
}
