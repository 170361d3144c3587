//! NaCl as Weave Net uses it: X25519 box precomputation, the SHA-256 session key, and secretbox
//! (XSalsa20-Poly1305) sealed and opened in place. The only crate that names a cipher library.
//!
//! Formats: spec/mesh.md 4.2-4.3, spec/sleeve.md 3.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes that sealing puts in front of the ciphertext: the Poly1305 authenticator.
pub const TAG_BYTES: usize = 16;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;

/// Key of one connection: `SHA-256(box precomputation || passphrase)`. Never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionKey([u8; 32]);
