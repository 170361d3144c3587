//! A second kind of framing, for tests that nothing but a framing knows what sleeve is: VXLAN between
//! the tunnel addresses of two peers in WireGuard's transport messages, as design D4 has it.
//!
//! ```text
//! datagram   type (4) | receiver (4) | number (8) | sealed: frame head | frame | padding | tag (16)
//! frame head IPv4 (20) | UDP (8) | VXLAN (8)
//! ```
//!
//! One frame per datagram, padded to 16 bytes; ChaCha20-Poly1305, numbers from 0 in little endian.
//! The tunnel id of VXLAN is made of the short ids of the two peers. Keys are given, not agreed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use overlay::frame::framing::{Framing, Layout, Part};
use overlay::frame::replay::ReplayWindow;
use overlay::frame::ways::{Class, Envelope, NextHop, Ways};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use wire::PeerName;
use wire::ethernet::{fold, sum};

const HEAD_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
const FRAME_HEAD_BYTES: usize = 20 + 8 + 8;
const TRANSPORT: [u8; 4] = [4, 0, 0, 0];
const VXLAN_PORT: u16 = 6784;

/// Why a datagram, or what is in it, is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadDatagram {
    #[error("not sealed by the other end")]
    Unsealed,
    #[error("no VXLAN frame of peers we know")]
    Foreign,
}

/// Peers by short id, and back.
#[derive(Clone)]
pub(crate) struct Wireguard(Arc<Names>);

struct Names {
    by_id: HashMap<u16, PeerName>,
    ids: HashMap<PeerName, u16>,
}

impl Wireguard {
    /// Short ids are given in turn.
    pub(crate) fn of(peers: impl IntoIterator<Item = PeerName>) -> Self {
        let by_id: HashMap<u16, PeerName> = (1..).zip(peers).collect();
        let ids = by_id.iter().map(|(id, peer)| (*peer, *id)).collect();
        Self(Arc::new(Names { by_id, ids }))
    }
}

/// Keys of both directions, our numbers, their window.
pub(crate) struct WireguardTunnel {
    seal: LessSafeKey,
    open: LessSafeKey,
    /// What the far end calls the tunnel.
    receiver: u32,
    numbers: AtomicU64,
    replay: Mutex<ReplayWindow>,
}

impl WireguardTunnel {
    /// The end at `us`. A receiver calls a tunnel by the number of its far end.
    pub(crate) fn between(us: u64, other: u64) -> Self {
        let key = |from: u64, to: u64| {
            let mut bytes = [0; 32];
            bytes[0] = from as u8;
            bytes[1] = to as u8;
            LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("32 bytes"))
        };
        Self {
            seal: key(us, other),
            open: key(other, us),
            receiver: us as u32,
            numbers: AtomicU64::new(0),
            replay: Mutex::new(ReplayWindow::new()),
        }
    }
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

impl Framing for Wireguard {
    type Tunnel = WireguardTunnel;
    type Sender = u32;
    type Special = Infallible;
    type Error = BadDatagram;

    fn layout(_: &WireguardTunnel) -> Layout {
        Layout {
            head_bytes: HEAD_BYTES,
            frame_head_bytes: FRAME_HEAD_BYTES,
            frames_max: 1,
        }
    }

    fn tail_bytes(_: &WireguardTunnel, body_bytes: usize) -> usize {
        body_bytes.next_multiple_of(16) - body_bytes + TAG_BYTES
    }

    fn write_frame_head(
        &self,
        _: &WireguardTunnel,
        envelope: Envelope,
        head: &mut [u8],
        frame: &[u8],
    ) {
        let [origin, destination] =
            [envelope.origin, envelope.destination].map(|peer| self.0.ids[&peer]);
        head.fill(0);
        let (ip, rest) = head.split_at_mut(20);
        ip[..2].copy_from_slice(&[0x45, 0]);
        ip[2..4].copy_from_slice(&((FRAME_HEAD_BYTES + frame.len()) as u16).to_be_bytes());
        ip[8..10].copy_from_slice(&[64, 17]);
        ip[12..16].copy_from_slice(&[100, 64, 0, 1]);
        ip[16..20].copy_from_slice(&[100, 64, 0, 2]);
        let check = fold(sum(ip)).to_be_bytes();
        ip[10..12].copy_from_slice(&check);
        // Flows are told apart by the source port, here by the addresses alone.
        let flow = frame.iter().take(12).fold(0, |all, byte| all ^ byte);
        rest[..4].copy_from_slice(&[0xc0, flow, (VXLAN_PORT >> 8) as u8, VXLAN_PORT as u8]);
        rest[4..6].copy_from_slice(&((16 + frame.len()) as u16).to_be_bytes());
        rest[8] = 8;
        let id = u32::from(origin) << 12 | u32::from(destination);
        rest[12..15].copy_from_slice(&id.to_be_bytes()[1..]);
    }

    fn seal(&self, tunnel: &WireguardTunnel, _: bool, datagram: &mut [u8]) -> bool {
        let number = tunnel.numbers.fetch_add(1, Relaxed);
        let (head, body) = datagram.split_at_mut(HEAD_BYTES);
        head[..4].copy_from_slice(&TRANSPORT);
        head[4..8].copy_from_slice(&tunnel.receiver.to_le_bytes());
        head[8..].copy_from_slice(&number.to_le_bytes());
        let (body, tag) = body.split_at_mut(body.len() - TAG_BYTES);
        let inner = usize::from(u16::from_be_bytes([body[2], body[3]]));
        body[inner..].fill(0);
        let sealed = tunnel
            .seal
            .seal_in_place_separate_tag(nonce(number), Aad::empty(), body);
        tag.copy_from_slice(sealed.expect("far below the cipher's limit").as_ref());
        true
    }

    fn sender(datagram: &[u8]) -> Option<u32> {
        let (kind, rest) = datagram.split_first_chunk::<4>()?;
        let receiver = rest.first_chunk().filter(|_| *kind == TRANSPORT)?;
        Some(u32::from_le_bytes(*receiver))
    }

    fn hop(&self, ways: &Ways, sender: u32) -> Option<NextHop> {
        ways.hop(PeerName::from_u64(sender.into()))
    }

    fn open(
        tunnel: &WireguardTunnel,
        datagram: &mut [u8],
    ) -> Result<Option<Range<usize>>, BadDatagram> {
        let Some((head, sealed)) = datagram.split_first_chunk_mut::<HEAD_BYTES>() else {
            return Err(BadDatagram::Unsealed);
        };
        let number = head.last_chunk().expect("as long as a head");
        let number = u64::from_le_bytes(*number);
        let opened = tunnel
            .open
            .open_in_place(nonce(number), Aad::empty(), sealed);
        let body = opened.map_err(|_| BadDatagram::Unsealed)?;
        let end = HEAD_BYTES + body.len();
        let mut window = tunnel.replay.lock().expect("nobody panics");
        Ok(window.accept(number).then_some(HEAD_BYTES..end))
    }

    fn first_frame(&self, body: &[u8]) -> Option<Result<Part, BadDatagram>> {
        if body.is_empty() {
            return None;
        }
        let part = || {
            let head: &[u8; FRAME_HEAD_BYTES] = body.first_chunk()?;
            let inner = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let is_vxlan = head[0] == 0x45 && head[9] == 17 && head[28] == 8;
            if !is_vxlan || !(FRAME_HEAD_BYTES..=body.len()).contains(&inner) {
                return None;
            }
            let id = u32::from_be_bytes([0, head[32], head[33], head[34]]);
            let [origin, destination] = [id >> 12, id & 0xfff].map(|id| id as u16);
            Some(Part {
                envelope: Envelope {
                    origin: *self.0.by_id.get(&origin)?,
                    destination: *self.0.by_id.get(&destination)?,
                },
                frame: FRAME_HEAD_BYTES..inner,
                next: body.len(),
            })
        };
        Some(part().ok_or(BadDatagram::Foreign))
    }

    fn classify(_: &[u8]) -> Class<Infallible> {
        Class::Traffic
    }
}
