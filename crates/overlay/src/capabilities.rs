//! What two Wefts may agree upon beyond what every peer does: the words of the `Weft` feature, and
//! how the data plane of a connection is protected because of them. Words that are not ours (the
//! mesh has some, later Wefts will) mean nothing here.

use std::collections::BTreeSet;
use std::sync::Arc;

use nacl::SessionKey;

use crate::protection::{Cipher, Protection};

/// Something that both ends must announce before either does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// Datagrams may be sealed by AES-256-GCM (docs/sleeve-cipher.md).
    AesGcm,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::AesGcm];

    /// The word announced for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::AesGcm => "aes-gcm",
        }
    }
}

/// What one end announces, or both have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities(BTreeSet<Capability>);

impl Capabilities {
    /// Those among the words of a `Weft` feature.
    pub fn of_words(words: &[String]) -> Self {
        let is_announced = |of: &Capability| words.iter().any(|word| word == of.word());
        Capability::ALL.into_iter().filter(is_announced).collect()
    }

    /// The words that announce them.
    pub fn words(&self) -> Vec<String> {
        self.0.iter().map(|of| of.word().to_owned()).collect()
    }

    /// What both have.
    pub fn common(&self, theirs: &Self) -> Self {
        self.0.intersection(&theirs.0).copied().collect()
    }

    /// How a connection with these in common is protected, if it has a key.
    pub fn protection(&self, key: Option<Arc<SessionKey>>) -> Protection {
        let cipher = if self.0.contains(&Capability::AesGcm) {
            Cipher::AesGcm
        } else {
            Cipher::Secretbox
        };
        key.map_or(Protection::Clear, |key| Protection::Sealed(key, cipher))
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn agreed(ours: &str, theirs: &str) -> Option<Cipher> {
        let ours = Capabilities::of_words(&words(ours));
        let common = ours.common(&Capabilities::of_words(&words(theirs)));
        let key = Arc::new(SessionKey::from_bytes([7; 32]));
        common.protection(Some(key)).cipher()
    }

    #[test]
    fn the_cipher_is_the_originals_unless_both_ends_offer_another() {
        let original = Some(Cipher::Secretbox);
        assert_eq!(agreed("aes-gcm", "delta aes-gcm"), Some(Cipher::AesGcm));
        assert_eq!(agreed("aes-gcm", "delta"), original);
        assert_eq!(agreed("", "aes-gcm"), original);
        assert_eq!(agreed("aes-gcm", "aes-gcm2 AES-GCM"), original);
    }

    #[test]
    fn without_a_key_the_data_plane_is_in_clear_whatever_was_offered() {
        let all: Capabilities = Capability::ALL.into_iter().collect();
        assert_eq!(all.protection(None), Protection::Clear);
    }

    #[test]
    fn what_is_announced_is_read_back_and_foreign_words_are_not() {
        let all: Capabilities = Capability::ALL.into_iter().collect();
        assert_eq!(Capabilities::of_words(&all.words()), all);
        let foreign = words("delta unheard-of");
        assert_eq!(Capabilities::of_words(&foreign), Capabilities::default());
    }
}
