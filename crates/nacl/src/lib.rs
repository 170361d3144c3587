//! NaCl as Weave Net uses it: X25519 box precomputation, the SHA-256 session key, and secretbox
//! (XSalsa20-Poly1305) sealed and opened in place. The only crate that names a cipher library.
//!
//! Formats: spec/mesh.md 4.2-4.3, spec/sleeve.md 3. Nothing here allocates per packet or panics on
//! input from the network.

#![forbid(unsafe_code)]

mod key;
mod secretbox;

pub use key::{KeyPair, SessionKey, WeakKeyError};
pub use secretbox::{DirectionKey, OpenError, open_in_place, seal};

/// Bytes that sealing puts in front of the ciphertext: the Poly1305 authenticator.
pub const TAG_BYTES: usize = 16;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;
/// Bytes of a nonce that are constant in one direction of one connection; a counter follows.
pub const NONCE_PREFIX_BYTES: usize = 16;
/// Bytes of a private, public or session key.
pub const KEY_BYTES: usize = 32;
