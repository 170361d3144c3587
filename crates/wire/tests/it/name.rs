//! Peer names in text and binary form.

use wire::PeerName;

use crate::vectors::{bytes, hex, id, load, uint};

#[test]
fn names_parse_and_print_like_the_original() {
    for vector in load("names.json", Some("peer-name")) {
        let parsed = vector["input"].as_str().unwrap().parse::<PeerName>();
        let expect = &vector["expect"];
        if let Some(error) = expect["error"].as_str() {
            assert_eq!(parsed.unwrap_err().to_string(), error, "{}", id(&vector));
            continue;
        }
        let name = parsed.unwrap();
        assert_eq!(name.to_string(), expect["text"], "{}", id(&vector));
        assert_eq!(name.to_u64(), uint(&expect["uint"]), "{}", id(&vector));
        assert_eq!(PeerName::from_u64(name.to_u64()), name);
        if expect["bytes"].is_string() {
            assert_eq!(hex(&name.to_bytes()), expect["bytes"], "{}", id(&vector));
            let binary: [u8; 6] = bytes(&expect["bytes"]).try_into().unwrap();
            assert_eq!(PeerName::from_bytes(binary), name);
        }
    }
}
