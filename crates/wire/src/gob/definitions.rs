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

/// Ids of the types in [`GOSSIP_STATE`] and [`RANGE`], which never share a stream.
pub mod ipam {
    /// Struct gossipState.
    pub const GOSSIP_STATE: i64 = 65;
    /// Struct Range.
    pub const RANGE: i64 = 65;
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

/// Definitions of gossipState and of all it mentions, which are sent even when absent from a value.
pub const GOSSIP_STATE: [u8; 524] = hex(
    "45ff810301010b676f73736970537461746501ff8200010401034e6f7701040001094e69636b6e616d657301ff8\
     40001055061786f7301ff9000010452696e6701ff92000000\
     28ff83040101186d61705b6d6573682e506565724e616d655d737472696e6701ff84000106010c0000\
     1dff8f0401010b476f73736970537461746501ff900001ff8601ff880000\
     1dff85030102ff8600010201044e616d6501060001035549440106000000\
     38ff87030102ff88000103010750726f6d69736501ff8a000108416363657074656401ff8a00010b41636365707\
     4656456616c01ff8c000000\
     30ff890301010a50726f706f73616c494401ff8a0001020105526f756e64010600010850726f706f73657201ff8\
     6000000\
     32ff8b0301010d416363657074656456616c756501ff8c000102010556616c756501ff8e0001064f726967696e0\
     1ff8a000000\
     13ff8d0201010556616c756501ff8e0001060000\
     45ff910301010452696e6701ff92000105010553746172740106000103456e64010600010450656572010600010\
     7456e747269657301ff96000105536565647301ff98000000\
     16ff9502010107656e747269657301ff960001ff940000\
     34ff93030102ff940001040105546f6b656e010600010450656572010600010756657273696f6e0106000104467\
     265650106000000\
     1dff970201010f5b5d6d6573682e506565724e616d6501ff980001060000",
);

/// Definition of Range.
pub const RANGE: [u8; 38] =
    hex("25ff810301010552616e676501ff82000102010553746172740106000103456e640106000000");

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
