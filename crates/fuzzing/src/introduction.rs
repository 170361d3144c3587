//! What a stranger's first bytes go through: header, versions, flag, features, names.

use wire::PeerName;
use wire::gob::Stream;
use wire::handshake::{
    FEATURES_BYTES_MAX, Features, HEADER_BYTES, VersionRange, WeftFeature, check_flag,
    encode_header, header_cut_short, negotiate, parse_header,
};
use wire::quote::quote;

/// No bytes make a decoder panic, and what was understood survives being said again.
pub fn run(bytes: &[u8]) {
    read_header(bytes);
    read_features(bytes);
    let text = String::from_utf8_lossy(bytes);
    read_text(&text);
    for word in text.split_whitespace() {
        read_text(word);
    }
}

fn read_header(bytes: &[u8]) {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        let error = header_cut_short(bytes, "EOF").to_string();
        assert!(error.len() < 300, "a short header makes a short error");
        return;
    };
    match parse_header(header) {
        Ok(theirs) => {
            assert_eq!(encode_header(theirs.min, theirs.max), *header);
            let ours = VersionRange { min: 1, max: 2 };
            if let Ok(version) = negotiate(ours, theirs) {
                assert!((1..=2).contains(&version) && version <= theirs.max);
                assert!(version >= theirs.min);
            }
        }
        Err(error) => assert!(error.to_string().len() < 300),
    }
    for have_password in [false, true] {
        let Some(flag) = rest.first() else { return };
        if let Ok(has_key) = check_flag(*flag, have_password) {
            assert_eq!(
                has_key, have_password,
                "an end with a password insists on it"
            );
        }
    }
}

fn read_features(bytes: &[u8]) {
    match Features::decode_v2(bytes) {
        Ok(features) => {
            let again = features.encode_v2();
            if again.len() <= FEATURES_BYTES_MAX {
                assert_eq!(Features::decode_v2(&again).as_ref(), Ok(&features));
            }
        }
        Err(error) => assert!(error.to_string().len() < 4096, "errors are clipped"),
    }
    let Ok(Some(map)) = Stream::new(bytes).next_value() else {
        return;
    };
    if let Ok(features) = Features::decode(&map, 1) {
        let again = features.encode_v1();
        let map = Stream::new(&again)
            .require_value("features")
            .expect("we encode what we decode");
        assert_eq!(Features::decode(&map, 1).as_ref(), Ok(&features));
    }
}

fn read_text(text: &str) {
    if let Ok(name) = text.parse::<PeerName>() {
        assert_eq!(name.to_string().parse(), Ok(name));
        assert_eq!(PeerName::from_bytes(name.to_bytes()), name);
        assert_eq!(PeerName::from_u64(name.to_u64()), name);
    }
    if let Some(weft) = WeftFeature::parse(text) {
        assert_eq!(WeftFeature::parse(&weft.to_string()).as_ref(), Some(&weft));
    }
    let quoted = quote(text);
    assert!(
        !quoted.contains(char::is_control),
        "no control characters: {quoted}"
    );
    assert!(quoted.len() >= text.chars().count() + 2);
}
