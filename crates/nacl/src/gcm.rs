//! AES-256-GCM for datagrams between two Wefts whose processors have instructions for it
//! (docs/sleeve-cipher.md). NIST SP 800-38D; keys by HKDF-SHA256 (RFC 5869).

use std::sync::OnceLock;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};

use crate::{OpenError, SessionKey, TAG_BYTES};

/// Separates these keys from all others made of session keys.
const SALT: &[u8] = b"weft sleeve aes-256-gcm";
/// Numbers of each sequence space that share a key. With datagrams of 2^7 blocks in two spaces that
/// is 2^46 blocks, which leave a chance of 2^-37 to tell the mode from an ideal cipher.
const EPOCH_BITS: u32 = 38;
/// Keys of one direction.
const EPOCHS: usize = 256;
/// The counter's top bit tells two sequence spaces apart (spec/sleeve.md 3).
const SPACE_BIT: u64 = 1 << 63;

/// Seals or opens what travels in one direction of one connection. Never printed.
///
/// Each direction has keys of its own, so the nonce is the counter alone: four zero bytes, then the
/// counter, big-endian. After every 2^38 numbers the next key takes over.
pub struct GcmKeys {
    secret: Prk,
    label: &'static [u8],
    /// Made when first needed. Hostile numbers can make all of them be, and no more.
    epochs: Box<[OnceLock<Box<LessSafeKey>>]>,
}

impl GcmKeys {
    /// Numbers of either space must stay below this.
    pub const NUMBERS: u64 = (EPOCHS as u64) << EPOCH_BITS;

    /// The keys for what the end that dialled sends (`from_dialler`) or receives.
    pub fn new(session: &SessionKey, from_dialler: bool) -> Self {
        Self {
            secret: Salt::new(HKDF_SHA256, SALT).extract(session.expose_bytes()),
            label: if from_dialler {
                b"dialler"
            } else {
                b"acceptor"
            },
            epochs: (0..EPOCHS).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Seals `buf`, which holds [`TAG_BYTES`] of room and then the plaintext. No counter may be
    /// used twice.
    ///
    /// Panics if there is no room for the tag, or the number is not below [`Self::NUMBERS`].
    #[inline]
    pub fn seal_in_place(&self, counter: u64, buf: &mut [u8]) {
        let (room, plaintext) = buf
            .split_first_chunk_mut::<TAG_BYTES>()
            .expect("the caller leaves room for the tag");
        let tag = self
            .key(counter)
            .expect("the caller stops when numbers are used up")
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), plaintext)
            .expect("a datagram is shorter than the mode allows");
        room.copy_from_slice(tag.as_ref());
    }

    /// Opens `buf`, tag and ciphertext, and returns the plaintext inside it. On an error what is
    /// left in `buf` means nothing.
    #[inline]
    pub fn open_in_place<'b>(
        &self,
        counter: u64,
        buf: &'b mut [u8],
    ) -> Result<&'b mut [u8], OpenError> {
        let (tag, ciphertext) = buf.split_first_chunk_mut::<TAG_BYTES>().ok_or(OpenError)?;
        let tag = Tag::from(*tag);
        self.key(counter)
            .ok_or(OpenError)?
            .open_in_place_separate_tag(nonce(counter), Aad::empty(), tag, ciphertext, 0..)
            .map_err(|_| OpenError)
    }

    #[inline]
    fn key(&self, counter: u64) -> Option<&LessSafeKey> {
        let epoch = (counter & !SPACE_BIT) >> EPOCH_BITS;
        let slot = self.epochs.get(usize::try_from(epoch).ok()?)?;
        Some(slot.get_or_init(|| Box::new(self.derive(epoch))))
    }

    #[cold]
    fn derive(&self, epoch: u64) -> LessSafeKey {
        let info = [self.label, &epoch.to_be_bytes()];
        let key = self
            .secret
            .expand(&info, &AES_256_GCM)
            .expect("one key is less than HKDF can give");
        LessSafeKey::new(UnboundKey::from(key))
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}
