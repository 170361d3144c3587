//! How the data plane of a connection is protected.

use std::fmt;
use std::sync::Arc;

use nacl::SessionKey;

/// What seals the datagrams of a connection. Links are always sealed as the original does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cipher {
    /// XSalsa20-Poly1305, the original's (spec/sleeve.md 3).
    #[default]
    Secretbox,
    /// AES-256-GCM, between two Wefts that both offer it (docs/sleeve-cipher.md).
    AesGcm,
}

impl Cipher {
    /// Name for `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Secretbox => "xsalsa20-poly1305",
            Self::AesGcm => "aes-256-gcm",
        }
    }
}

/// How a connection's data plane is protected. The mesh decides whether (password, trust).
#[derive(Clone)]
pub enum Protection {
    /// In clear: no password, or mutually trusted.
    Clear,
    /// Sealed under this key.
    Sealed(Arc<SessionKey>, Cipher),
}

impl Protection {
    /// What seals datagrams, if anything does.
    pub const fn cipher(&self) -> Option<Cipher> {
        match self {
            Self::Clear => None,
            Self::Sealed(_, cipher) => Some(*cipher),
        }
    }

    /// The key they are sealed under, if they are.
    pub const fn key(&self) -> Option<&Arc<SessionKey>> {
        match self {
            Self::Clear => None,
            Self::Sealed(key, _) => Some(key),
        }
    }
}

/// Equal is what has the very same key: keys are compared by identity, never by content.
impl PartialEq for Protection {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Clear, Self::Clear) => true,
            (Self::Sealed(key, cipher), Self::Sealed(other_key, other_cipher)) => {
                Arc::ptr_eq(key, other_key) && cipher == other_cipher
            }
            (Self::Clear, Self::Sealed(..)) | (Self::Sealed(..), Self::Clear) => false,
        }
    }
}

impl Eq for Protection {}

impl fmt::Debug for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cipher() {
            None => f.write_str("Clear"),
            Some(cipher) => f.debug_tuple("Sealed").field(&cipher).finish(),
        }
    }
}
