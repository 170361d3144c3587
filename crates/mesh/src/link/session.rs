//! What follows the introduction on a link: messages in frames, sealed when we have a password
//! (spec/mesh.md 3.3 and 4).

use std::borrow::Cow;
use std::sync::Arc;

use nacl::{DirectionKey, NONCE_PREFIX_BYTES, SessionKey, TAG_BYTES};
use wire::gob::{GobError, StreamReader};
use wire::message::{FrameError, FrameReader, encode_frame_v1, frame_prefix};

/// Nonce byte 0, bit 7: the sender is the end that dialled.
const NONCE_OUTBOUND: u8 = 0x80;
/// Nonce byte 0, bit 6: control plane, as opposed to the overlay.
const NONCE_TCP: u8 = 0x40;

/// Why nothing more can be read from a link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionError {
    /// The frame is too large.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The version 1 stream is malformed.
    #[error(transparent)]
    Stream(#[from] GobError),
    /// The frame does not open: other passphrase, or tampered with.
    #[error("Unable to decrypt TCP msg")]
    Undecryptable,
}

/// Both directions of a link from the first message on.
pub(crate) struct Session {
    reader: Reader,
    keys: Option<Keys>,
    /// A message taken and put back.
    put_back: Option<Vec<u8>>,
}

enum Reader {
    V1(StreamReader),
    V2(FrameReader),
}

/// One key, two directions, a counter each; counters are implicit, so order is everything.
struct Keys {
    ours: DirectionKey,
    sent: u64,
    theirs: DirectionKey,
    received: u64,
}

impl Session {
    /// A session in clear.
    pub(crate) fn new(version: u8) -> Self {
        let reader = match version {
            1 => Reader::V1(StreamReader::new()),
            _ => Reader::V2(FrameReader::new()),
        };
        Self {
            reader,
            keys: None,
            put_back: None,
        }
    }

    /// Seals what is sent and opens what is received from now on.
    pub(crate) fn encrypt(&mut self, key: &Arc<SessionKey>, outbound: bool) {
        assert!(self.keys.is_none(), "a session gets its key once");
        let direction = |outbound: bool| {
            let mut prefix = [0; NONCE_PREFIX_BYTES];
            prefix[0] = if outbound {
                NONCE_OUTBOUND | NONCE_TCP
            } else {
                NONCE_TCP
            };
            DirectionKey::new(key, prefix)
        };
        let (ours, theirs) = (direction(outbound), direction(!outbound));
        self.keys = Some(Keys {
            ours,
            sent: 0,
            theirs,
            received: 0,
        });
    }

    /// Adds bytes from the link.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        match &mut self.reader {
            Reader::V1(reader) => reader.push(bytes),
            Reader::V2(reader) => reader.push(bytes),
        }
    }

    /// Bytes that wait for the rest of their message.
    pub(crate) fn buffered_bytes(&self) -> usize {
        match &self.reader {
            Reader::V1(reader) => reader.buffered_bytes(),
            Reader::V2(reader) => reader.buffered_bytes(),
        }
    }

    /// The stream of a version 1 link, from which the features are taken as a bare value.
    pub(crate) fn v1_stream(&mut self) -> Option<&mut StreamReader> {
        match &mut self.reader {
            Reader::V1(reader) => Some(reader),
            Reader::V2(_) => None,
        }
    }

    /// The next message, opened; `None` until more bytes come. After an error the link must end.
    pub(crate) fn next_message(&mut self) -> Result<Option<Cow<'_, [u8]>>, SessionError> {
        if let Some(message) = self.put_back.take() {
            return Ok(Some(Cow::Owned(message)));
        }
        match &mut self.reader {
            Reader::V1(reader) => {
                let Some(value) = reader.next_value()? else {
                    return Ok(None);
                };
                let mut message = value.as_bytes("message")?.to_vec();
                if let Some(keys) = &mut self.keys {
                    let opened_bytes = keys.open(&mut message)?.len();
                    message.drain(..message.len() - opened_bytes);
                }
                Ok(Some(Cow::Owned(message)))
            }
            Reader::V2(reader) => {
                let Some(frame) = reader.next_frame()? else {
                    return Ok(None);
                };
                let message = match &mut self.keys {
                    Some(keys) => keys.open(frame)?,
                    None => frame,
                };
                Ok(Some(Cow::Borrowed(message)))
            }
        }
    }

    /// Makes a message just taken the next one again.
    pub(crate) fn put_back(&mut self, message: Vec<u8>) {
        self.put_back = Some(message);
    }

    /// A message as it goes on the link. Messages must be written in the order they were sealed.
    pub(crate) fn seal(&mut self, message: &[u8]) -> Result<Vec<u8>, FrameError> {
        let overhead = if self.keys.is_some() { TAG_BYTES } else { 0 };
        let prefix = frame_prefix(overhead + message.len())?;
        match (&self.reader, &mut self.keys) {
            (Reader::V1(_), None) => Ok(encode_frame_v1(message)),
            (Reader::V1(_), Some(keys)) => Ok(encode_frame_v1(&keys.seal(&[], message))),
            (Reader::V2(_), None) => Ok([&prefix, message].concat()),
            (Reader::V2(_), Some(keys)) => Ok(keys.seal(&prefix, message)),
        }
    }
}

impl Keys {
    fn open<'b>(&mut self, sealed: &'b mut [u8]) -> Result<&'b mut [u8], SessionError> {
        let counter = self.received;
        self.received += 1;
        self.theirs
            .open_in_place(counter, sealed)
            .map_err(|_| SessionError::Undecryptable)
    }

    fn seal(&mut self, prefix: &[u8], message: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(prefix.len() + TAG_BYTES + message.len());
        out.extend_from_slice(prefix);
        out.extend_from_slice(&[0; TAG_BYTES]);
        out.extend_from_slice(message);
        self.ours.seal_in_place(self.sent, &mut out[prefix.len()..]);
        self.sent += 1;
        out
    }
}
