//! The type definitions Weft sends, byte for byte what a fresh original sends (spec/gob.md 6).

/// Ids of the types in [`FEATURES`].
pub mod features {
    /// Map from string to string.
    pub const MAP: i64 = 65;
}

/// Ids of the types in [`PEER_SUMMARY`] and [`CONNECTION_SUMMARIES`].
pub mod topology {
    /// Struct peerSummary.
    pub const PEER_SUMMARY: i64 = 65;
    /// Slice of struct connectionSummary (which is 66).
    pub const CONNECTION_SUMMARIES: i64 = 67;
}

/// Definition of the features map.
pub const FEATURES: [u8; 15] = hex("0eff81040102ff8200010c010c0000");

/// Definition of peerSummary.
pub const PEER_SUMMARY: [u8; 99] = hex(
    "62ff810301010b7065657253756d6d61727901ff8200010601084e616d6542797465010a0001084e69636b4e616d\
     65010c000103554944010600010756657273696f6e010600010753686f72744944010600010a48617353686f7274\
     49440102000000",
);

/// Definitions of the slice of connectionSummary and of connectionSummary itself.
pub const CONNECTION_SUMMARIES: [u8; 106] = hex("0dff85020102ff860001ff840000\
     5bff8303010111636f6e6e656374696f6e53756d6d61727901ff8400010401084e616d6542797465010a00010d52\
     656d6f746554435041646472010c0001084f7574626f756e64010200010b45737461626c69736865640102000000");

/// Bytes from lower-case hex; blanks are skipped. Evaluated by the compiler, which rejects a
/// length that does not match.
const fn hex<const N: usize>(text: &str) -> [u8; N] {
    let text = text.as_bytes();
    let mut bytes = [0; N];
    let (mut digits, mut at) = (0, 0);
    while at < text.len() {
        if text[at] != b' ' {
            let digit = match text[at] {
                b @ b'0'..=b'9' => b - b'0',
                b @ b'a'..=b'f' => b - b'a' + 10,
                _ => panic!("not a hex digit"),
            };
            bytes[digits / 2] = bytes[digits / 2] << 4 | digit;
            digits += 1;
        }
        at += 1;
    }
    assert!(digits == 2 * N, "wrong number of hex digits");
    bytes
}
