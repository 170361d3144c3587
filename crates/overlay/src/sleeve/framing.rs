//! Sleeve's framing: the sender's name, the counter field with its DF bit, several frames in one
//! datagram, special frames (`wire::sleeve`, spec/sleeve.md 2, 3 and 5).

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use nacl::{DirectionKey, GcmKeys, OpenError, SessionKey};
use wire::PeerName;
use wire::sleeve::{
    COUNTER_DF_BIT, DatagramError, FRAME_HEADER_BYTES, FrameClass, Frames, PLAIN_HEADER_BYTES,
    SEALED_HEADER_BYTES, classify_frame, is_all_zero, nonce_prefix, parse_datagram,
    parse_sealed_body, write_frame_header,
};

use crate::frame::framing::{Framing, Layout, Part};
use crate::frame::replay::ReplayWindow;
use crate::frame::ways::{Class, Envelope, NextHop, Ways};
use crate::protection::{Cipher, Protection};
use crate::sleeve::lane::{SleeveLane, SpecialKind};

/// Frames packed into one datagram at most.
const FRAMES_MAX: usize = 100;
/// Numbers under secretbox, and in clear, stop here, far below the bit that tells the spaces apart.
pub const COUNTER_MAX: u64 = (1 << 63) - (1 << 32);

/// What all datagrams of one sleeve tunnel share, in both directions and on all threads.
///
/// Invariant: no number of a sequence space is handed out twice while the tunnel lives.
pub struct SleeveTunnel {
    keys: Option<Keys>,
    counter_max: u64,
    df_counter: AtomicU64,
    non_df_counter: AtomicU64,
    /// Used by the receiving thread only; the lock is never contended.
    replay: Mutex<ReplayWindow>,
}

struct Keys {
    seal: PacketKey,
    open: PacketKey,
}

/// Seals or opens one direction.
enum PacketKey {
    Secretbox(DirectionKey),
    AesGcm(GcmKeys),
}

impl PacketKey {
    fn new(cipher: Cipher, session: &SessionKey, from_dialler: bool) -> Self {
        match cipher {
            Cipher::Secretbox => {
                let prefix = nonce_prefix(from_dialler, false);
                Self::Secretbox(DirectionKey::new(session, prefix))
            }
            Cipher::AesGcm => Self::AesGcm(GcmKeys::new(session, from_dialler)),
        }
    }

    #[inline]
    fn seal_in_place(&self, counter: u64, sealed: &mut [u8]) {
        match self {
            Self::Secretbox(key) => key.seal_in_place(counter, sealed),
            Self::AesGcm(key) => key.seal_in_place(counter, sealed),
        }
    }

    #[inline]
    fn open_in_place(&self, counter: u64, sealed: &mut [u8]) -> Result<(), OpenError> {
        match self {
            Self::Secretbox(key) => key.open_in_place(counter, sealed).map(drop),
            Self::AesGcm(key) => key.open_in_place(counter, sealed).map(drop),
        }
    }
}

impl SleeveTunnel {
    /// A fresh tunnel: counters at zero, nothing received.
    pub fn new(lane: &SleeveLane) -> Self {
        let keys = match &lane.protection {
            Protection::Clear => None,
            Protection::Sealed(key, cipher) => Some(Keys {
                seal: PacketKey::new(*cipher, key, lane.outbound),
                open: PacketKey::new(*cipher, key, !lane.outbound),
            }),
        };
        let counter_max = match lane.protection.cipher() {
            Some(Cipher::AesGcm) => GcmKeys::NUMBERS,
            Some(Cipher::Secretbox) | None => COUNTER_MAX,
        };
        Self {
            keys,
            counter_max,
            df_counter: AtomicU64::new(0),
            non_df_counter: AtomicU64::new(0),
            replay: Mutex::new(ReplayWindow::new()),
        }
    }

    /// The same, with both counters further on; for tests of their end.
    #[must_use]
    pub fn with_counters_at(self, next: u64) -> Self {
        self.df_counter.store(next, Relaxed);
        self.non_df_counter.store(next, Relaxed);
        self
    }

    /// Whether datagrams are sealed.
    pub const fn is_encrypted(&self) -> bool {
        self.keys.is_some()
    }

    /// Bytes of a datagram in front of its first frame header.
    pub const fn header_bytes(&self) -> usize {
        if self.keys.is_some() {
            SEALED_HEADER_BYTES
        } else {
            PLAIN_HEADER_BYTES
        }
    }

    /// All numbers are below this.
    pub const fn numbers_end(&self) -> u64 {
        self.counter_max
    }

    /// Takes the next number of one space. `None`: the space is used up.
    pub fn next_number(&self, is_df: bool) -> Option<u64> {
        let counter = if is_df {
            &self.df_counter
        } else {
            &self.non_df_counter
        };
        let number = counter.fetch_add(1, Relaxed);
        (number < self.counter_max).then_some(number)
    }

    /// Completes a datagram whose frames are in place behind `header_bytes()` of room: writes the
    /// sender's name and, if encrypted, the counter, and seals.
    pub fn seal(&self, us: PeerName, is_df: bool, number: u64, datagram: &mut [u8]) {
        datagram[..PLAIN_HEADER_BYTES].copy_from_slice(&us.to_bytes());
        let Some(keys) = &self.keys else { return };
        let field = number | if is_df { COUNTER_DF_BIT } else { 0 };
        let (counter, sealed) = datagram[PLAIN_HEADER_BYTES..]
            .split_first_chunk_mut()
            .expect("a datagram has room for its header");
        *counter = field.to_be_bytes();
        keys.seal.seal_in_place(field, sealed);
    }

    /// Opens a whole datagram in place; its frames are then at `header_bytes()..`. `Ok(false)`: it
    /// is authentic but was received before.
    pub fn open(&self, datagram: &mut [u8]) -> Result<bool, DatagramError> {
        let Some(keys) = &self.keys else {
            return Ok(true);
        };
        let body = datagram
            .get_mut(PLAIN_HEADER_BYTES..)
            .ok_or(DatagramError::NoSender)?;
        let (field, sealed) = parse_sealed_body(body)?;
        keys.open
            .open_in_place(field, sealed)
            .map_err(|_| DatagramError::Undecryptable)?;
        let mut window = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(window.accept(field))
    }
}

/// Sleeve's framing, as seen by one peer.
#[derive(Debug, Clone, Copy)]
pub struct SleeveFraming {
    /// The name our datagrams are sent under.
    pub us: PeerName,
}

impl Framing for SleeveFraming {
    type Tunnel = SleeveTunnel;
    type Sender = PeerName;
    type Special = SpecialKind;
    type Error = DatagramError;

    #[inline]
    fn layout(tunnel: &SleeveTunnel) -> Layout {
        Layout {
            head_bytes: tunnel.header_bytes(),
            frame_head_bytes: FRAME_HEADER_BYTES,
            frames_max: FRAMES_MAX,
        }
    }

    #[inline]
    fn tail_bytes(_: &SleeveTunnel, _: usize) -> usize {
        0
    }

    #[inline]
    fn write_frame_head(
        &self,
        _: &SleeveTunnel,
        envelope: Envelope,
        head: &mut [u8],
        frame: &[u8],
    ) {
        let head = head.try_into().expect("as long as the layout says");
        let length = u16::try_from(frame.len()).expect("a datagram is below 64 KiB");
        write_frame_header(head, envelope.origin, envelope.destination, length);
    }

    #[inline]
    fn seal(&self, tunnel: &SleeveTunnel, is_df: bool, datagram: &mut [u8]) -> bool {
        let Some(number) = tunnel.next_number(is_df) else {
            return false;
        };
        tunnel.seal(self.us, is_df, number, datagram);
        true
    }

    #[inline]
    fn sender(datagram: &[u8]) -> Option<PeerName> {
        parse_datagram(datagram).ok().map(|(sender, _)| sender)
    }

    fn hop(&self, ways: &Ways, sender: PeerName) -> Option<NextHop> {
        ways.hop(sender)
    }

    #[inline]
    fn open(
        tunnel: &SleeveTunnel,
        datagram: &mut [u8],
    ) -> Result<Option<Range<usize>>, DatagramError> {
        let bytes = datagram.len();
        let is_fresh = tunnel.open(datagram)?;
        Ok(is_fresh.then(|| tunnel.header_bytes().min(bytes)..bytes))
    }

    #[inline]
    fn first_frame(&self, body: &[u8]) -> Option<Result<Part, DatagramError>> {
        let frame = Frames::new(body).next()?;
        Some(frame.map(|frame| {
            let end = FRAME_HEADER_BYTES + frame.frame.len();
            Part {
                envelope: Envelope {
                    origin: frame.origin,
                    destination: frame.destination,
                },
                frame: FRAME_HEADER_BYTES..end,
                next: end,
            }
        }))
    }

    #[inline]
    fn classify(frame: &[u8]) -> Class<SpecialKind> {
        let zero = |kind| {
            if is_all_zero(frame) {
                Class::Special(kind)
            } else {
                Class::Spoilt
            }
        };
        match classify_frame(frame) {
            FrameClass::Runt | FrameClass::Ordinary => Class::Traffic,
            FrameClass::Heartbeat { connection_uid } => {
                Class::Special(SpecialKind::Heartbeat { connection_uid })
            }
            FrameClass::FragmentationTest => zero(SpecialKind::FragmentationTest),
            FrameClass::MtuTest { frame_bytes } => zero(SpecialKind::MtuTest { frame_bytes }),
        }
    }
}

#[cfg(test)]
mod tests;
