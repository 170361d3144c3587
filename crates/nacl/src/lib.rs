//! NaCl as Weave Net uses it: X25519 box precomputation, the SHA-256 session key, and secretbox
//! (XSalsa20-Poly1305) sealed and opened in place; and the cipher that takes secretbox's place for
//! datagrams between Wefts. The only crate that names a cipher library.
//!
//! Formats: spec/mesh.md 4.2-4.3, spec/sleeve.md 3, docs/sleeve-cipher.md. Nothing here allocates per packet or panics on
//! input from the network.
//!
//! Secretbox is dryoc's, the fastest maintained one that builds on stable. It must have its `std`
//! feature: without it the vector units are not looked for. Nanoseconds per packet in place, one
//! core of a shared Xeon with AVX-512, best of 15 rounds, sessions minutes apart
//! (`cargo bench -p nacl` repeats the first column):
//!
//! | payload | dryoc seal / open | dryoc without `std` | libsodium | salsa20 + poly1305 crates |
//! |---|---|---|---|---|
//! | 64 bytes | 340 / 410 | 500 / 550 | 470 | 2700 |
//! | 1420 bytes | 780 / 930 | 4900 / 4870 | 1490 | 7650 |
//!
//! Of each figure 110 ns are HSalsa20 of key and nonce prefix. It is the same for every packet of a
//! direction, but dryoc offers no way to keep its result; [`DirectionKey`] is where it would go.
//! AES-256-GCM of ring takes 120 / 115 for 64 bytes and 330 / 285 for 1420 on the same machine.

#![forbid(unsafe_code)]

mod gcm;
mod key;
mod lengths;
mod secretbox;

pub use gcm::GcmKeys;
pub use key::{KeyPair, SessionKey, WeakKeyError};
pub use lengths::{KEY_BYTES, NONCE_BYTES, NONCE_PREFIX_BYTES, TAG_BYTES};
pub use secretbox::{DirectionKey, OpenError, open_in_place, seal};
