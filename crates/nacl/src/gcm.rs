//! AES-256-GCM for datagrams between two Wefts whose processors have instructions for it
//! (docs/sleeve-cipher.md). NIST SP 800-38D; keys by HKDF-SHA256 (RFC 5869).

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

use crate::{OpenError, SessionKey, TAG_BYTES};

/// Separates these keys from all others made of session keys.
const SALT: &[u8] = b"weft sleeve aes-256-gcm";

/// Seals or opens what travels in one direction of one connection. Never printed.
///
/// Both directions have keys of their own, so the nonce is the counter alone: four zero bytes, then
/// the counter, big-endian. Stays below the bounds of the mode as long as a key serves no more than
/// 2^39 datagrams of ordinary size, see docs/sleeve-cipher.md.
pub struct GcmKey(LessSafeKey);

impl GcmKey {
    /// The key for what the end that dialled sends (`from_dialler`) or receives.
    pub fn new(session: &SessionKey, from_dialler: bool) -> Self {
        let label: [&[u8]; 1] = [if from_dialler {
            b"dialler"
        } else {
            b"acceptor"
        }];
        let secret = Salt::new(HKDF_SHA256, SALT).extract(session.expose_bytes());
        let key = secret
            .expand(&label, &AES_256_GCM)
            .expect("one key is less than HKDF can give");
        Self(LessSafeKey::new(UnboundKey::from(key)))
    }

    /// Seals `buf`, which holds [`TAG_BYTES`] of room and then the plaintext. No counter may be
    /// used twice.
    ///
    /// Panics if there is no room for the tag.
    #[inline]
    pub fn seal_in_place(&self, counter: u64, buf: &mut [u8]) {
        let (room, plaintext) = buf
            .split_first_chunk_mut::<TAG_BYTES>()
            .expect("the caller leaves room for the tag");
        let tag = self
            .0
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
        self.0
            .open_in_place_separate_tag(nonce(counter), Aad::empty(), tag, ciphertext, 0..)
            .map_err(|_| OpenError)
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}
