//! How long keys, nonces and tags are.

/// Bytes that sealing puts in front of the ciphertext: the Poly1305 authenticator.
pub const TAG_BYTES: usize = 16;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;
/// Bytes of a nonce that are constant in one direction of one connection; a counter follows.
pub const NONCE_PREFIX_BYTES: usize = 16;
/// Bytes of a private, public or session key.
pub const KEY_BYTES: usize = 32;
