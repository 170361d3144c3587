//! Secretbox: XSalsa20-Poly1305, tag in front (spec/mesh.md 4.3, spec/sleeve.md 3).

use dryoc::classic::crypto_box::{
    crypto_box_detached_afternm_inplace, crypto_box_open_detached_afternm_inplace,
};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{KEY_BYTES, NONCE_BYTES, NONCE_PREFIX_BYTES, SessionKey, TAG_BYTES};

/// The box does not open: wrong key, wrong nonce, tampered with, or too short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealed bytes do not open")]
pub struct OpenError;

/// Seals or opens what travels in one direction of one connection. Never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DirectionKey {
    key: [u8; KEY_BYTES],
    nonce_prefix: [u8; NONCE_PREFIX_BYTES],
}

impl DirectionKey {
    /// The key for messages whose nonce is `nonce_prefix` and a counter.
    pub fn new(session: &SessionKey, nonce_prefix: [u8; NONCE_PREFIX_BYTES]) -> Self {
        Self {
            key: *session.expose_bytes(),
            nonce_prefix,
        }
    }

    /// Seals `buf`, which holds [`TAG_BYTES`] of room and then the plaintext. No counter may be
    /// used twice with the same session and prefix.
    ///
    /// Panics if there is no room for the tag.
    #[inline]
    pub fn seal_in_place(&self, counter: u64, buf: &mut [u8]) {
        seal_with(&self.key, &self.nonce(counter), buf);
    }

    /// Opens `buf`, tag and ciphertext, and returns the plaintext inside it. On an error the
    /// ciphertext is unchanged.
    #[inline]
    pub fn open_in_place<'b>(
        &self,
        counter: u64,
        buf: &'b mut [u8],
    ) -> Result<&'b mut [u8], OpenError> {
        open_with(&self.key, &self.nonce(counter), buf)
    }

    #[inline]
    fn nonce(&self, counter: u64) -> [u8; NONCE_BYTES] {
        let mut nonce = [0; NONCE_BYTES];
        nonce[..NONCE_PREFIX_BYTES].copy_from_slice(&self.nonce_prefix);
        nonce[NONCE_PREFIX_BYTES..].copy_from_slice(&counter.to_be_bytes());
        nonce
    }
}

/// A new box of `plaintext`.
pub fn seal(key: &SessionKey, nonce: &[u8; NONCE_BYTES], plaintext: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(TAG_BYTES + plaintext.len());
    sealed.resize(TAG_BYTES, 0);
    sealed.extend_from_slice(plaintext);
    seal_with(key.expose_bytes(), nonce, &mut sealed);
    sealed
}

/// Opens a box, tag and ciphertext, and returns the plaintext inside it.
pub fn open_in_place<'b>(
    key: &SessionKey,
    nonce: &[u8; NONCE_BYTES],
    sealed: &'b mut [u8],
) -> Result<&'b mut [u8], OpenError> {
    open_with(key.expose_bytes(), nonce, sealed)
}

#[inline]
fn seal_with(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES], buf: &mut [u8]) {
    let (tag, plaintext) = buf
        .split_first_chunk_mut::<TAG_BYTES>()
        .expect("the caller leaves room for the tag");
    crypto_box_detached_afternm_inplace(plaintext, tag, nonce, key);
}

#[inline]
fn open_with<'b>(
    key: &[u8; KEY_BYTES],
    nonce: &[u8; NONCE_BYTES],
    buf: &'b mut [u8],
) -> Result<&'b mut [u8], OpenError> {
    let (tag, ciphertext) = buf.split_first_chunk_mut::<TAG_BYTES>().ok_or(OpenError)?;
    crypto_box_open_detached_afternm_inplace(ciphertext, tag, nonce, key).map_err(|_| OpenError)?;
    Ok(ciphertext)
}
