//! What the keys promise, told as tests of their structure.
#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps in vain has failed as it should"
)]

use nacl::{DirectionKey, GcmKeys, KeyPair, OpenError, SessionKey};
use proptest::prelude::*;
use zeroize::ZeroizeOnDrop;

fn key(ours: &KeyPair, theirs: &KeyPair, passphrase: &[u8]) -> SessionKey {
    SessionKey::from_dh(ours, &theirs.public(), passphrase).unwrap()
}

proptest! {
    /// F36: passphrase and public keys, which is all a recording and a leak can give, belong to no one
    /// session key: it takes a private key of either end.
    #[test]
    fn the_passphrase_and_a_recording_do_not_give_the_key(
        a: [u8; 32],
        b: [u8; 32],
        guess: [u8; 32],
    ) {
        let (a, b) = (KeyPair::from_seed_bytes(a), KeyPair::from_seed_bytes(b));
        let attacker = KeyPair::from_seed_bytes(guess);
        prop_assume!(![a.public(), b.public()].contains(&attacker.public()));
        let session = key(&a, &b, b"passphrase");
        let mut sealed = nacl::seal(&session, &[0; 24], b"said in the past");
        for recorded in [&a, &b] {
            let guessed = key(&attacker, recorded, b"passphrase");
            let opened = nacl::open_in_place(&guessed, &[0; 24], &mut sealed);
            prop_assert_eq!(opened, Err(OpenError));
        }
    }

    /// F37: the key of one session opens nothing of another, with the same passphrase or another.
    #[test]
    fn a_session_key_opens_its_own_session_only(seeds: [[u8; 32]; 3], text: Vec<u8>) {
        let pairs = seeds.map(KeyPair::from_seed_bytes);
        prop_assume!(pairs[1].public() != pairs[2].public());
        let leaked = key(&pairs[0], &pairs[1], b"passphrase");
        for other in [
            key(&pairs[0], &pairs[2], b"passphrase"),
            key(&pairs[0], &pairs[1], b"another"),
        ] {
            let mut sealed = nacl::seal(&other, &[0; 24], &text);
            let opened = nacl::open_in_place(&leaked, &[0; 24], &mut sealed);
            prop_assert_eq!(opened, Err(OpenError));
        }
    }

    /// F31, F33: the key depends on each of its three parts.
    #[test]
    fn every_part_of_the_agreement_counts(seeds: [[u8; 32]; 3]) {
        let pairs = seeds.map(KeyPair::from_seed_bytes);
        prop_assume!(pairs[0].public() != pairs[2].public());
        prop_assume!(pairs[1].public() != pairs[2].public());
        let ours = key(&pairs[0], &pairs[1], b"passphrase");
        let same = key(&pairs[1], &pairs[0], b"passphrase");
        prop_assert_eq!(ours.expose_bytes(), same.expose_bytes());
        for other in [
            key(&pairs[2], &pairs[1], b"passphrase"),
            key(&pairs[0], &pairs[2], b"passphrase"),
            key(&pairs[0], &pairs[1], b"passphrasf"),
        ] {
            prop_assert_ne!(ours.expose_bytes(), other.expose_bytes());
        }
    }
}

/// F36: keys are wiped when their owner goes. This test is one because it compiles.
#[test]
fn keys_are_wiped_when_dropped() {
    const fn wiped<T: ZeroizeOnDrop>() {}
    wiped::<SessionKey>();
    wiped::<DirectionKey>();
    wiped::<GcmKeys>();
    wiped::<x25519_dalek::StaticSecret>();
}
