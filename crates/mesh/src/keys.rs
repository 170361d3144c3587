//! Where the private keys of links come from: a generator that cannot be run backwards.
//!
//! Who reads a daemon's memory finds its present state, and must not learn from it the keys of links
//! that ended (docs/security.md, forward secrecy). So the state of this generator is replaced with
//! every key, and the general one of the mesh cannot lead to it.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use zeroize::Zeroizing;

const SEED_BYTES: usize = 32;

/// Makes private keys. Never printed; wiped when dropped.
pub(crate) struct KeySource {
    state: Zeroizing<[u8; SEED_BYTES]>,
}

impl KeySource {
    /// Takes its state from another generator, which must then be replaced or thrown away.
    pub(crate) fn seeded_by(other: &mut StdRng) -> Self {
        let mut state = Zeroizing::new([0; SEED_BYTES]);
        other.fill_bytes(state.as_mut());
        Self { state }
    }

    /// The next private key; the state it came from is gone afterwards.
    pub(crate) fn next_key(&mut self) -> Zeroizing<[u8; SEED_BYTES]> {
        let mut generator = StdRng::from_seed(*self.state);
        let mut key = Zeroizing::new([0; SEED_BYTES]);
        generator.fill_bytes(key.as_mut());
        generator.fill_bytes(self.state.as_mut());
        key
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn source() -> KeySource {
        KeySource::seeded_by(&mut StdRng::from_seed([7; 32]))
    }

    #[test]
    fn keys_differ_and_depend_on_the_seed_alone() {
        let (mut a, mut b) = (source(), source());
        let keys: BTreeSet<[u8; 32]> = (0..100).map(|_| *a.next_key()).collect();
        assert_eq!(keys.len(), 100);
        assert!((0..100).all(|_| keys.contains(&*b.next_key())));
    }

    /// F36: what is in memory after a key was made does not lead back to it.
    #[test]
    fn state_after_a_key_leads_to_later_keys_only() {
        let mut source = source();
        let before = *source.state;
        let key = *source.next_key();
        let left = *source.state;
        assert_ne!(left, before);
        let mut later = StdRng::from_seed(left);
        for _ in 0..1000 {
            let mut bytes = [0; SEED_BYTES];
            later.fill_bytes(&mut bytes);
            assert!(bytes != key && bytes != before);
        }
    }
}
