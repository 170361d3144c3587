//! AES-256-GCM for datagrams between two Wefts whose processors have instructions for it
//! (docs/sleeve-cipher.md). NIST SP 800-38D; keys by HKDF-SHA256 (RFC 5869).

use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use zeroize::ZeroizeOnDrop;

use crate::{KEY_BYTES, OpenError, SessionKey, TAG_BYTES};

/// Separates these keys from all others made of session keys.
const SALT: &[u8] = b"weft sleeve aes-256-gcm";
/// Numbers of each sequence space that share a key. With datagrams of 2^7 blocks in two spaces that
/// is 2^44 blocks, which leave a chance of 2^-41 to tell the mode from an ideal cipher.
const EPOCH_BITS: u32 = 36;
/// Keys of one direction.
const EPOCHS: usize = 1024;
/// The counter's top bit tells two sequence spaces apart (spec/sleeve.md 3).
const SPACE_BIT: u64 = 1 << 63;

/// Seals or opens what travels in one direction of one connection. Never printed.
///
/// Each direction has keys of its own, so the nonce is the counter alone: four zero bytes, then the
/// counter, big-endian. After every 2^36 numbers the next key takes over.
pub struct GcmKeys {
    session: SessionKey,
    label: &'static [u8],
    /// Made when first needed.
    epochs: Box<[OnceLock<Box<LessSafeKey>>]>,
    /// Highest epoch from which something opened. Claims to be of one beyond the next are not looked
    /// into, so that nobody can make us derive keys.
    reached: AtomicU64,
}

impl GcmKeys {
    /// Numbers of either space must stay below this.
    pub const NUMBERS: u64 = (EPOCHS as u64) << EPOCH_BITS;

    /// The keys for what the end that dialled sends (`from_dialler`) or receives.
    pub fn new(session: &SessionKey, from_dialler: bool) -> Self {
        Self {
            session: session.clone(),
            label: if from_dialler {
                b"dialler"
            } else {
                b"acceptor"
            },
            epochs: (0..EPOCHS).map(|_| OnceLock::new()).collect(),
            reached: AtomicU64::new(0),
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
            .key(epoch(counter))
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
        let (epoch, reached) = (epoch(counter), self.reached.load(Relaxed));
        if epoch > reached + 1 {
            return Err(OpenError);
        }
        let plaintext = self
            .key(epoch)
            .ok_or(OpenError)?
            .open_in_place_separate_tag(nonce(counter), Aad::empty(), tag, ciphertext, 0..)
            .map_err(|_| OpenError)?;
        if epoch > reached {
            self.reached.fetch_max(epoch, Relaxed);
        }
        Ok(plaintext)
    }

    #[inline]
    fn key(&self, epoch: u64) -> Option<&LessSafeKey> {
        let slot = self.epochs.get(usize::try_from(epoch).ok()?)?;
        Some(slot.get_or_init(|| Box::new(self.derive(epoch))))
    }

    #[cold]
    fn derive(&self, epoch: u64) -> LessSafeKey {
        let info = [self.label, &epoch.to_be_bytes()];
        let secret = Salt::new(HKDF_SHA256, SALT).extract(self.session.expose_bytes());
        let key = secret
            .expand(&info, &AES_256_GCM)
            .expect("one key is less than HKDF can give");
        LessSafeKey::new(UnboundKey::from(key))
    }
}

impl ZeroizeOnDrop for GcmKeys {}

impl Drop for GcmKeys {
    /// The library does not wipe keys. Another one in the same place does it.
    fn drop(&mut self) {
        for key in self.epochs.iter_mut().filter_map(OnceLock::get_mut) {
            let zeros = UnboundKey::new(&AES_256_GCM, &[0; KEY_BYTES]);
            **key = LessSafeKey::new(zeros.expect("a key of the right size"));
            black_box(&**key);
        }
    }
}

const fn epoch(counter: u64) -> u64 {
    (counter & !SPACE_BIT) >> EPOCH_BITS
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}
