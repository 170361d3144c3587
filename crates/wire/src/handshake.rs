//! The introduction of two peers: header, encryption flag and features (spec/mesh.md 3).
//!
//! ```text
//! version 2:  "weave" min max | 00            | frame(features)
//!             "weave" min max | 01 key (32)   | frame(sealed features)
//! version 1:  "weave" min max | gob stream that starts with the features
//! ```

use std::collections::BTreeMap;
use std::fmt;

use crate::PeerName;
use crate::gob::{self, Encoder, GobError, Stream, Value, definitions};
use crate::name::ParsePeerNameError;
use crate::quote::{clipped, printable, quote};

/// Bytes of the header both sides send first.
pub const HEADER_BYTES: usize = 7;
/// Encryption flag of version 2: the rest is in clear.
pub const FLAG_PLAIN: u8 = 0;
/// Encryption flag of version 2: a public key follows.
pub const FLAG_ENCRYPTED: u8 = 1;
/// Bytes of the public key behind [`FLAG_ENCRYPTED`].
pub const PUBLIC_KEY_BYTES: usize = 32;
/// Longest features payload we read, bytes. Ours is below 400.
pub const FEATURES_BYTES_MAX: usize = 64 * 1024;
/// Longest value of the `Weft` feature we look at, bytes; a longer one counts as absent.
pub const WEFT_FEATURE_BYTES_MAX: usize = 4096;

const MAGIC: [u8; 5] = *b"weave";
/// The only flavour of peer names routers use.
const FLAVOUR: &str = "mac";
/// Short ids have twelve bits.
const SHORT_ID_BITS: u32 = 12;

/// Protocol versions one side speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// Lowest version.
    pub min: u8,
    /// Highest version.
    pub max: u8,
}

/// Why an introduction failed. The texts are those of the original: users know them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The link ended before the first byte.
    #[error("failed to receive remote protocol header: {0}")]
    NothingReceived(String),
    /// The link ended inside the header.
    #[error(
        "received incomplete remote protocol header ({} octets instead of 7): {}; error: {error}",
        received.len(), ByteList(received)
    )]
    IncompleteHeader {
        /// What came.
        received: Vec<u8>,
        /// Why no more came.
        error: String,
    },
    /// The other side is no peer.
    #[error("remote protocol header not recognised: {}", ByteList(.0))]
    NotRecognised([u8; 5]),
    /// No version in common.
    #[error(
        "remote version range [{},{}] is incompatible with ours [{},{}]",
        theirs.min, theirs.max, ours.min, ours.max
    )]
    Incompatible {
        /// Ours.
        ours: VersionRange,
        /// Theirs.
        theirs: VersionRange,
    },
    /// We have a password, they have none.
    #[error("password specified, but peer requested an unencrypted connection")]
    PlaintextOffered,
    /// They have a password, we have none. The misspelling is the original's.
    #[error("no password specificed, but peer requested an encrypted connection")]
    EncryptionOffered,
    /// Neither 0 nor 1.
    #[error("Bad encryption flag {0}")]
    BadFlag(u8),
    /// The passwords differ, or somebody tampers.
    #[error("Unable to decrypt TCP msg")]
    Undecryptable,
    /// A required feature is absent.
    #[error("field {0} is missing")]
    MissingField(&'static str),
    /// Another kind of peer name.
    #[error("Peer name flavour mismatch (ours: 'mac', theirs: '{0}')")]
    FlavourMismatch(String),
    /// The name is none.
    #[error(transparent)]
    BadName(#[from] ParsePeerNameError),
    /// A feature that must be a number or a truth value is not.
    #[error("strconv.{function}: parsing {}: {reason}", quote(text))]
    BadValue {
        /// The conversion the original names.
        function: &'static str,
        /// The beginning of the value.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `PublicKey` is not 64 hex digits.
    #[error("public key is not {PUBLIC_KEY_BYTES} bytes of hex")]
    BadPublicKey,
    /// Larger than [`FEATURES_BYTES_MAX`].
    #[error("features of {0} bytes are too large")]
    TooLarge(usize),
    /// Not a map of strings.
    #[error(transparent)]
    Gob(#[from] GobError),
}

/// Bytes as the original prints them: `[119 101]`.
struct ByteList<'a>(&'a [u8]);

impl fmt::Display for ByteList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (at, byte) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { " " };
            write!(f, "{separator}{byte}")?;
        }
        f.write_str("]")
    }
}

/// The header of a side that speaks `min` to `max`.
pub const fn encode_header(min: u8, max: u8) -> [u8; HEADER_BYTES] {
    let [w, e, a, v, e2] = MAGIC;
    [w, e, a, v, e2, min, max]
}

/// The versions the other side speaks.
pub fn parse_header(header: &[u8; HEADER_BYTES]) -> Result<VersionRange, HandshakeError> {
    let [magic @ .., min, max] = *header;
    if magic != MAGIC {
        return Err(HandshakeError::NotRecognised(magic));
    }
    Ok(VersionRange { min, max })
}

/// The error for a link that ended with `error` after `received` (fewer than seven) bytes.
pub fn header_cut_short(received: &[u8], error: &str) -> HandshakeError {
    let error = error.to_owned();
    if received.is_empty() {
        return HandshakeError::NothingReceived(error);
    }
    let received = received[..received.len().min(HEADER_BYTES)].to_vec();
    HandshakeError::IncompleteHeader { received, error }
}

/// The version both sides use.
pub fn negotiate(ours: VersionRange, theirs: VersionRange) -> Result<u8, HandshakeError> {
    let version = ours.max.min(theirs.max);
    if version < ours.min.max(theirs.min) {
        return Err(HandshakeError::Incompatible { ours, theirs });
    }
    Ok(version)
}

/// Checks the encryption flag of version 2 against whether we have a password. True: a public key
/// of [`PUBLIC_KEY_BYTES`] follows.
pub fn check_flag(flag: u8, have_password: bool) -> Result<bool, HandshakeError> {
    match (flag, have_password) {
        (FLAG_PLAIN, false) => Ok(false),
        (FLAG_ENCRYPTED, true) => Ok(true),
        (FLAG_PLAIN, true) => Err(HandshakeError::PlaintextOffered),
        (FLAG_ENCRYPTED, false) => Err(HandshakeError::EncryptionOffered),
        (other, _) => Err(HandshakeError::BadFlag(other)),
    }
}

/// What one peer tells the other about itself, as typed values of the features map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// `Name`.
    pub name: PeerName,
    /// `NickName`: free text.
    pub nickname: String,
    /// `UID`: random per process start, 0 never occurs for a live peer.
    pub uid: u64,
    /// `ConnID`: random per connection and side.
    pub conn_id: u64,
    /// `ShortID`, if the peer has one (version 2 only); at most 4095.
    pub short_id: Option<u16>,
    /// `Trusted`: the sender regards the receiver's address as trusted (version 2 only).
    pub trusted: bool,
    /// `Overlays` in the sender's order; `None` means compatibility mode (version 2 only).
    pub overlays: Option<Vec<String>>,
    /// `PublicKey`: only in version 1 with a password; 32 raw bytes.
    pub public_key: Option<[u8; PUBLIC_KEY_BYTES]>,
    /// `Weft`: present when the peer is a Weft of any version (design D2; version 2 only).
    pub weft: Option<WeftFeature>,
}

impl Features {
    /// The start of a version 1 stream: the definition of the features map and its value. Messages
    /// of the link follow on the same stream.
    pub fn encode_v1(&self) -> Vec<u8> {
        let mut entries = self.common_entries();
        if let Some(key) = &self.public_key {
            let digits = key.iter().map(|byte| format!("{byte:02x}")).collect();
            entries.push(("PublicKey", digits));
        }
        encode_map(&entries)
    }

    /// The payload of the first frame of a version 2 link: a stream of its own.
    pub fn encode_v2(&self) -> Vec<u8> {
        let mut entries = self.common_entries();
        if let Some(short_id) = self.short_id {
            entries.insert(3, ("ShortID", short_id.to_string()));
        }
        entries.push(("Trusted", self.trusted.to_string()));
        if let Some(overlays) = &self.overlays {
            entries.push(("Overlays", overlays.join(" ")));
        }
        if let Some(weft) = &self.weft {
            entries.push(("Weft", weft.to_string()));
        }
        encode_map(&entries)
    }

    fn common_entries(&self) -> Vec<(&'static str, String)> {
        vec![
            ("PeerNameFlavour", FLAVOUR.to_owned()),
            ("Name", self.name.to_string()),
            ("NickName", self.nickname.clone()),
            ("UID", self.uid.to_string()),
            ("ConnID", self.conn_id.to_string()),
        ]
    }

    /// Decodes the payload of the first frame of a version 2 link.
    pub fn decode_v2(payload: &[u8]) -> Result<Self, HandshakeError> {
        if payload.len() > FEATURES_BYTES_MAX {
            return Err(HandshakeError::TooLarge(payload.len()));
        }
        let value = Stream::new(payload).require_value("features")?;
        Self::decode(&value, 2)
    }

    /// Takes the features from the map received on a link of `version`; keys that version does not
    /// know are ignored. For version 1 the map is the first value of the link's stream.
    pub fn decode(map: &Value<'_>, version: u8) -> Result<Self, HandshakeError> {
        let mut found = BTreeMap::new();
        let mut text_bytes = 0;
        for (key, value) in map.as_map("features")? {
            let (key, value) = (key.as_str("features")?, value.as_str("features")?);
            text_bytes += key.len() + value.len();
            found.insert(key, value);
        }
        if text_bytes > FEATURES_BYTES_MAX {
            return Err(HandshakeError::TooLarge(text_bytes));
        }
        let required = |field| {
            found
                .get(field)
                .copied()
                .ok_or(HandshakeError::MissingField(field))
        };
        let flavour = required("PeerNameFlavour")?;
        let (name, nickname) = (required("Name")?, required("NickName")?);
        let (uid, conn_id) = (required("UID")?, required("ConnID")?);
        if flavour != FLAVOUR {
            return Err(HandshakeError::FlavourMismatch(printable(&clipped(
                flavour,
            ))));
        }
        let mut features = Self {
            name: name.parse()?,
            nickname: nickname.to_owned(),
            uid: parse_number(uid, u64::BITS)?,
            conn_id: parse_number(conn_id, u64::BITS)?,
            short_id: None,
            trusted: false,
            overlays: None,
            public_key: None,
            weft: None,
        };
        let optional = |field| found.get(field).copied();
        if version == 1 {
            features.public_key = optional("PublicKey").map(parse_public_key).transpose()?;
            return Ok(features);
        }
        features.short_id = optional("ShortID").map(parse_short_id).transpose()?;
        features.trusted = optional("Trusted")
            .map(parse_bool)
            .transpose()?
            .unwrap_or(false);
        features.overlays = optional("Overlays")
            .map(|names| names.split_ascii_whitespace().map(str::to_owned).collect());
        features.weft = optional("Weft").and_then(WeftFeature::parse);
        Ok(features)
    }
}

/// Value of the `Weft` feature: `1` followed by blank-separated capability words, for example
/// `1 ipv6 pmtu-low`. Format version 1 is frozen; later versions only append words; unknown words
/// are kept and ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WeftFeature {
    /// Format version; 1.
    pub version: u32,
    /// Capability words, sorted, unknown ones included.
    pub capabilities: Vec<String>,
}

impl WeftFeature {
    /// The feature from its text; `None`, which means the same as an absent feature, when it does
    /// not start with a version or is longer than [`WEFT_FEATURE_BYTES_MAX`].
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > WEFT_FEATURE_BYTES_MAX {
            return None;
        }
        let mut words = text.split_ascii_whitespace();
        let version = parse_number(words.next()?, u32::BITS).ok()?;
        let version = u32::try_from(version)
            .ok()
            .filter(|&version| version != 0)?;
        let mut capabilities: Vec<_> = words.map(str::to_owned).collect();
        capabilities.sort_unstable();
        capabilities.dedup();
        Some(Self {
            version,
            capabilities,
        })
    }

    /// Whether the peer announced the capability `word`.
    pub fn has(&self, word: &str) -> bool {
        self.capabilities.iter().any(|have| have == word)
    }
}

impl fmt::Display for WeftFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.version)?;
        self.capabilities
            .iter()
            .try_for_each(|word| write!(f, " {word}"))
    }
}

fn encode_map(entries: &[(&'static str, String)]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.definitions(&definitions::FEATURES);
    encoder.value(definitions::features::MAP, |out| {
        gob::put_uint(out, entries.len() as u64);
        for (key, value) in entries {
            gob::put_string(out, key);
            gob::put_string(out, value);
        }
    });
    encoder.finish()
}

/// A decimal number of at most `bits` bits, without sign.
fn parse_number(text: &str, bits: u32) -> Result<u64, HandshakeError> {
    let error = |reason| HandshakeError::BadValue {
        function: "ParseUint",
        text: clipped(text),
        reason,
    };
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(error("invalid syntax"));
    }
    match text.parse::<u64>() {
        Ok(value) if value.leading_zeros() >= u64::BITS - bits => Ok(value),
        Ok(_) | Err(_) => Err(error("value out of range")),
    }
}

fn parse_short_id(text: &str) -> Result<u16, HandshakeError> {
    let id = parse_number(text, SHORT_ID_BITS)?;
    Ok(u16::try_from(id).expect("a short id has twelve bits"))
}

fn parse_bool(text: &str) -> Result<bool, HandshakeError> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(HandshakeError::BadValue {
            function: "ParseBool",
            text: clipped(text),
            reason: "invalid syntax",
        }),
    }
}

fn parse_public_key(text: &str) -> Result<[u8; PUBLIC_KEY_BYTES], HandshakeError> {
    let well_formed =
        text.len() == 2 * PUBLIC_KEY_BYTES && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !well_formed {
        return Err(HandshakeError::BadPublicKey);
    }
    let mut key = [0; PUBLIC_KEY_BYTES];
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| HandshakeError::BadPublicKey)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| HandshakeError::BadPublicKey)?;
    }
    Ok(key)
}
