//! The TCP side: what is in clear, and who changes it on the way.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nacl::KeyPair;
use wire::gob::{Stream, StreamReader, Value};
use wire::handshake::{FLAG_ENCRYPTED, HEADER_BYTES, PUBLIC_KEY_BYTES, encode_header};

use crate::impostor::{Impostor, dial, features};
use crate::lab::patience::{LONG, holds_for, wait_for};
use crate::lab::{Lab, PASSWORD};
use crate::middle::{Middle, Way};

/// Where the public key is in what an encrypted side says first.
const KEY: std::ops::Range<usize> = HEADER_BYTES + 1..HEADER_BYTES + 1 + PUBLIC_KEY_BYTES;
/// How long hosts are watched that must not come together.
const WATCHED: Duration = Duration::from_secs(4);
const UNDECRYPTABLE: &str = "Unable to decrypt TCP msg";

/// Lets `a` dial `b` through a middle that does this with their bytes, waits for these words in both
/// logs, and watches that nothing is established. When the middle relents they connect.
fn assert_refused(tamper: fn(Way, usize, &mut [u8]), words: [&str; 2]) {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.line(["a", "m", "b"]);
    let middle = Middle::new(&hosts);
    middle.on_bytes(tamper);
    hosts[2].launch(&[]);
    hosts[0].join(&[&hosts[1]]);
    wait_for("the reason in a log", || {
        let logs = [crate::log_of(&hosts[0]), crate::log_of(&hosts[2])];
        let told = logs.iter().zip(words).any(|(log, word)| log.contains(word));
        if told { Ok(()) } else { Err(logs.concat()) }
    });
    holds_for(WATCHED, "that nothing is established", || {
        [&hosts[0], &hosts[2]]
            .iter()
            .all(|host| !host.status("connections").contains("established"))
    });
    middle.on_bytes(|_, _, _| {});
    hosts[0].wait_established(1);
}

/// Puts `new` where `range` of a stream is, as far as this piece of it goes.
fn replace(range: std::ops::Range<usize>, new: &[u8], carried: usize, bytes: &mut [u8]) {
    for (at, byte) in (carried..).zip(bytes.iter_mut()) {
        if range.contains(&at) {
            *byte = new[at - range.start];
        }
    }
}

/// F34, F40: an attacker in the middle who puts keys of his own in place of theirs is left with
/// nothing, and the log says so.
#[test]
fn swapped_public_keys_end_the_connection() {
    let swap = |_: Way, carried: usize, bytes: &mut [u8]| {
        let own = KeyPair::from_seed_bytes([0x66; 32]).public();
        replace(KEY, &own, carried, bytes);
    };
    assert_refused(swap, [UNDECRYPTABLE; 2]);
}

/// F34: the same when only one of them is deceived.
#[test]
fn one_swapped_public_key_ends_the_connection() {
    let swap = |way: Way, carried: usize, bytes: &mut [u8]| {
        if way == Way::Back {
            let own = KeyPair::from_seed_bytes([0x66; 32]).public();
            replace(KEY, &own, carried, bytes);
        }
    };
    assert_refused(swap, [UNDECRYPTABLE; 2]);
}

/// F34: a key that everybody can compute with is refused by name.
#[test]
fn a_public_key_of_low_order_is_refused() {
    let swap = |_: Way, carried: usize, bytes: &mut [u8]| {
        replace(KEY, &[0; 32], carried, bytes);
    };
    assert_refused(swap, ["public key of low order"; 2]);
}

/// F39, F40: a public key stripped from the introduction in either direction does not talk anybody out of
/// encryption, and the log says so.
#[test]
fn a_stripped_public_key_ends_the_connection() {
    let refused = "password specified, but peer requested an unencrypted connection";
    let strip = |way: Way, carried: usize, bytes: &mut [u8]| {
        if way == Way::There {
            replace(HEADER_BYTES..HEADER_BYTES + 1, &[0], carried, bytes);
        }
    };
    assert_refused(strip, [refused; 2]);
    let strip = |way: Way, carried: usize, bytes: &mut [u8]| {
        if way == Way::Back {
            replace(HEADER_BYTES..HEADER_BYTES + 1, &[0], carried, bytes);
        }
    };
    assert_refused(strip, [refused; 2]);
}

/// F26: one changed bit in what a link carries ends it; the peers connect again.
#[test]
fn a_changed_bit_ends_the_link_and_it_comes_back() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.line(["a", "m", "b"]);
    let middle = Middle::new(&hosts);
    let changed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&changed);
    let is_fresh = AtomicBool::new(false);
    // First in the sealed features, then at the end of what comes behind them: a message ends there, so
    // that it is no length that is changed, for which the other end would wait.
    middle.on_bytes(move |way, carried, bytes| {
        let done = counted.load(Ordering::Relaxed);
        // The link that was refused may carry more until the other end hears of it.
        if way == Way::There && carried == 0 {
            is_fresh.store(true, Ordering::Relaxed);
        }
        if !is_fresh.load(Ordering::Relaxed) {
            return;
        }
        let place = [KEY.end + 30, KEY.end + 600].get(done);
        let Some(place) = place.filter(|_| way == Way::There) else {
            return;
        };
        if (carried..carried + bytes.len()).contains(place) {
            let last = bytes.len() - 1;
            bytes[if done == 0 { place - carried } else { last }] ^= 4;
            counted.fetch_add(1, Ordering::Relaxed);
            is_fresh.store(false, Ordering::Relaxed);
        }
    });
    hosts[2].launch(&[]);
    hosts[0].join(&[&hosts[1]]);
    wait_for("both changes to be refused", || {
        let log = crate::log_of(&hosts[2]);
        let refused = log.matches(UNDECRYPTABLE).count();
        if refused == 2 { Ok(()) } else { Err(log) }
    });
    assert_eq!(changed.load(Ordering::Relaxed), 2);
    hosts[0].wait_established(1);
    hosts[2].wait_established(1);
}

/// F29: without a password the features are in clear, these and no others; with one nothing is but
/// versions and public key; in the old protocol fewer features are, password or not.
#[test]
fn only_what_the_documentation_lists_is_in_clear() {
    for password in [None, Some(PASSWORD)] {
        let Some(lab) = Lab::plain() else { return };
        let hosts = lab.hosts(["a", "stranger"]);
        hosts[0].set_password(password);
        hosts[0].launch(&[]);
        let namespace = &hosts[1].namespace;
        let about = features(0x0666, "stranger");
        let peer = Impostor::join(namespace, "192.168.77.1:6783", &about, password);
        let peer = peer.expect("an introduction");
        let (header, rest) = peer.heard_in_clear.split_at(HEADER_BYTES);
        assert_eq!(header, encode_header(1, 2));
        let encrypted = password.is_some();
        let key_bytes = if encrypted { PUBLIC_KEY_BYTES } else { 0 };
        assert_eq!((rest[0], rest.len()), (u8::from(encrypted), 1 + key_bytes));
        let wanted = [
            "ConnID",
            "Name",
            "NickName",
            "Overlays",
            "PeerNameFlavour",
            "ShortID",
            "Trusted",
            "UID",
            "Weft",
        ];
        assert_eq!(
            keys_of(&peer.features_payload),
            wanted.map(str::to_owned).into()
        );
        // Version 1.
        let mut stream = dial(namespace, "192.168.77.1:6783").expect("the daemon accepts");
        stream
            .write_all(&encode_header(1, 1))
            .expect("the daemon listens");
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header).expect("the daemon speaks");
        let mut wanted: BTreeSet<String> = ["ConnID", "Name", "NickName", "PeerNameFlavour", "UID"]
            .map(str::to_owned)
            .into();
        if encrypted {
            wanted.insert("PublicKey".to_owned());
        }
        assert_eq!(first_keys(&mut stream), wanted);
    }
}

/// Keys of the features of version 2.
fn keys_of(payload: &[u8]) -> BTreeSet<String> {
    let value = Stream::new(payload).require_value("features");
    let value = value.expect("features decode");
    keys_in(&value)
}

fn keys_in(features: &Value<'_>) -> BTreeSet<String> {
    let map = features.as_map("features").expect("features are a map");
    map.iter()
        .map(|(key, _)| key.as_str("key").expect("keys are text").to_owned())
        .collect()
}

/// Keys of the features at the start of a stream of version 1.
fn first_keys(stream: &mut impl Read) -> BTreeSet<String> {
    let mut reader = StreamReader::new();
    let mut bytes = [0; 1024];
    loop {
        if let Some(value) = reader.next_value().expect("the stream decodes") {
            return keys_in(&value);
        }
        let length = stream.read(&mut bytes).expect("the daemon speaks");
        assert_ne!(length, 0, "the daemon says all of it");
        reader.push(&bytes[..length]);
    }
}

/// F31: each connection gets a key pair of its own, whoever dials.
#[test]
fn no_two_connections_have_the_same_public_key() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "stranger"]);
    let listener = hosts[1]
        .namespace
        .within(|| TcpListener::bind("192.168.77.2:6783"));
    let listener = listener.expect("nothing else listens there");
    listener
        .set_nonblocking(true)
        .expect("an option of every socket");
    hosts[0].join(&[&hosts[1]]);
    let mut keys = BTreeSet::new();
    for _ in 0..3 {
        let (stream, _) = wait_for("the daemon to dial", || {
            listener.accept().map_err(|error| error.to_string())
        });
        stream
            .set_nonblocking(false)
            .expect("an option of every socket");
        assert!(keys.insert(public_key_of(stream)), "dialled: {keys:?}");
    }
    for _ in 0..3 {
        let stream = dial(&hosts[1].namespace, "192.168.77.1:6783");
        let key = public_key_of(stream.expect("the daemon accepts"));
        assert!(keys.insert(key), "accepted: {keys:?}");
    }
}

/// Exchanges headers and takes the key behind them.
fn public_key_of(mut stream: std::net::TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(LONG)).expect("a valid time");
    stream
        .write_all(&encode_header(1, 2))
        .expect("the daemon listens");
    let mut said = [0; KEY.end];
    stream.read_exact(&mut said).expect("the daemon speaks");
    assert_eq!(said[HEADER_BYTES], FLAG_ENCRYPTED);
    said[KEY].to_vec()
}
