//! Key agreement: ephemeral key pairs and the session key (spec/mesh.md 4.2).

use dryoc::classic::crypto_core::crypto_core_hsalsa20;
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::KEY_BYTES;

/// Ephemeral Curve25519 keys of one end of one connection. Never printed; wiped when dropped.
pub struct KeyPair {
    private: StaticSecret,
    public: PublicKey,
}

/// The other end's public key leads to a shared secret everybody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("peer sent a public key of low order")]
pub struct WeakKeyError;

impl KeyPair {
    /// The pair whose private key is `seed`, which must come from a cryptographic generator and be
    /// used for one connection only.
    pub fn from_seed_bytes(mut seed: [u8; KEY_BYTES]) -> Self {
        let private = StaticSecret::from(seed);
        seed.zeroize();
        let public = PublicKey::from(&private);
        Self { private, public }
    }

    /// The public key, as sent to the other end.
    pub fn public(&self) -> [u8; KEY_BYTES] {
        self.public.to_bytes()
    }
}

/// Key of one connection: `SHA-256(box precomputation || passphrase)`. Never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionKey([u8; KEY_BYTES]);

impl SessionKey {
    /// The key both ends compute from their own pair, the other's public key and the passphrase.
    ///
    /// Public keys of low order are refused, unlike in plain NaCl: whoever sends one would make
    /// the key the same on every connection, and with it the key stream.
    pub fn from_dh(
        ours: &KeyPair,
        their_public: &[u8; KEY_BYTES],
        passphrase: &[u8],
    ) -> Result<Self, WeakKeyError> {
        let secret = ours.private.diffie_hellman(&PublicKey::from(*their_public));
        if !secret.was_contributory() {
            return Err(WeakKeyError);
        }
        let mut shared = Zeroizing::new([0; KEY_BYTES]);
        crypto_core_hsalsa20(&mut shared, &[0; 16], secret.as_bytes(), None);
        let digest = Sha256::new_with_prefix(shared.as_slice())
            .chain_update(passphrase)
            .finalize();
        Ok(Self(digest.into()))
    }

    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The key itself, for deriving others from it (spec/fastdp.md, IPsec). Do not print or store.
    pub const fn expose_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}
