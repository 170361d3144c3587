//! Payload of the `weft-topology` gossip channel, which only peers with the capability `delta` in
//! their `Weft` feature use among themselves: what the `topology` channel says, said shortly.
//!
//! ```text
//! 0 digest    u64 hash
//! 1 have      u8 complete; per entry: name, uid, version
//! 2 entries   per entry: name, uid, version, u8 flags, [u16 short id],
//!             whole:  u8 length, nickname;      count, connections
//!             change: base version, u32 check;  count, connections; count, names removed
//! connection  name, u8 flags, address: 4 + 2 bytes, 16 + 2 bytes, or u8 length and text
//! ```
//!
//! Names are 6 bytes, uids 8, other integers big-endian; versions and counts are base-128 varints,
//! least significant group first.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::PeerName;
use crate::topology::ConnectionSummary;

const DIGEST: u8 = 0;
const HAVE: u8 = 1;
const ENTRIES: u8 = 2;

const HAS_SHORT_ID: u8 = 1;
const IS_CHANGE: u8 = 2;
const IS_TOLD: u8 = 4;

const OUTBOUND: u8 = 1;
const ESTABLISHED: u8 = 2;
const IS_V4: u8 = 4;
const IS_V6: u8 = 8;

/// Fewest bytes a connection, an entry of `have` or a removed name takes: bounds what is reserved.
const NAME_BYTES: usize = 6;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopologyNews {
    /// A hash over what the sender knows; the receiver answers with `Have` if its own differs.
    Digest(u64),
    /// Which version of each entry the sender has; the receiver answers with what is newer.
    Have {
        /// Whether this is all the sender knows; else only these are asked for.
        complete: bool,
        /// Name, incarnation, version.
        entries: Vec<KnownEntry>,
    },
    /// What the sender knows about some peers.
    Entries(Vec<EntryNews>),
}

/// Which version of a peer's entry somebody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownEntry {
    /// The peer.
    pub name: PeerName,
    /// Its incarnation.
    pub uid: u64,
    /// The version; 0 asks for the whole entry.
    pub version: u64,
}

/// A newer version of a peer's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryNews {
    /// The peer.
    pub name: PeerName,
    /// Its incarnation.
    pub uid: u64,
    /// The version.
    pub version: u64,
    /// Its short id.
    pub short_id: Option<u16>,
    /// Whether the peer itself tells all its neighbours that understand this channel.
    pub told: bool,
    /// The rest.
    pub content: EntryContent,
}

/// The connections of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryContent {
    /// All of it.
    Whole {
        /// Free text, at most 255 bytes.
        nickname: String,
        /// The peer's connections as it sees them.
        connections: Vec<ConnectionSummary>,
    },
    /// What became different since an earlier version of the same incarnation.
    Change {
        /// The earlier version.
        base: u64,
        /// Hash over all connections of the present version: whoever gets another result has a
        /// base that somebody forged.
        check: u32,
        /// New or different.
        connections: Vec<ConnectionSummary>,
        /// Gone.
        removed: Vec<PeerName>,
    },
}

/// The payload is not what the format allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// It ends in the middle.
    #[error("topology news end too early")]
    TooShort,
    /// Its kind is none of ours.
    #[error("topology news are of unknown kind {0}")]
    UnknownKind(u8),
    /// A number has more than 64 bits.
    #[error("topology news hold a number that is too large")]
    TooLarge,
    /// A text is not UTF-8.
    #[error("topology news hold a text that is none")]
    NotText,
    /// Bytes are left over.
    #[error("topology news go on after their end")]
    TooLong,
}

impl TopologyNews {
    /// The message as a payload. Texts longer than 255 bytes are cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Digest(hash) => {
                out.push(DIGEST);
                out.extend(hash.to_be_bytes());
            }
            Self::Have { complete, entries } => {
                out.extend([HAVE, u8::from(*complete)]);
                for entry in entries {
                    put_known(&mut out, entry.name, entry.uid, entry.version);
                }
            }
            Self::Entries(entries) => {
                out.push(ENTRIES);
                entries.iter().for_each(|entry| entry.encode(&mut out));
            }
        }
        out
    }

    /// Reads a payload.
    ///
    /// # Errors
    ///
    /// When it is malformed.
    pub fn decode(payload: &[u8]) -> Result<Self, DeltaError> {
        let mut reader = Reader(payload);
        let news = match reader.byte()? {
            DIGEST => Self::Digest(u64::from_be_bytes(reader.array()?)),
            HAVE => {
                let complete = reader.byte()? != 0;
                let mut entries = Vec::new();
                while !reader.0.is_empty() {
                    let (name, uid, version) = reader.known()?;
                    entries.push(KnownEntry { name, uid, version });
                }
                Self::Have { complete, entries }
            }
            ENTRIES => {
                let mut entries = Vec::new();
                while !reader.0.is_empty() {
                    entries.push(EntryNews::decode(&mut reader)?);
                }
                Self::Entries(entries)
            }
            kind => return Err(DeltaError::UnknownKind(kind)),
        };
        if reader.0.is_empty() {
            Ok(news)
        } else {
            Err(DeltaError::TooLong)
        }
    }
}

impl EntryNews {
    fn encode(&self, out: &mut Vec<u8>) {
        put_known(out, self.name, self.uid, self.version);
        let is_change = matches!(self.content, EntryContent::Change { .. });
        out.push(
            flag(self.short_id.is_some(), HAS_SHORT_ID)
                | flag(is_change, IS_CHANGE)
                | flag(self.told, IS_TOLD),
        );
        if let Some(id) = self.short_id {
            out.extend(id.to_be_bytes());
        }
        match &self.content {
            EntryContent::Whole {
                nickname,
                connections,
            } => {
                put_text(out, nickname);
                put_connections(out, connections);
            }
            EntryContent::Change {
                base,
                check,
                connections,
                removed,
            } => {
                put_varint(out, *base);
                out.extend(check.to_be_bytes());
                put_connections(out, connections);
                put_varint(out, removed.len() as u64);
                removed.iter().for_each(|name| out.extend(name.to_bytes()));
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DeltaError> {
        let (name, uid, version) = reader.known()?;
        let flags = reader.byte()?;
        let short_id = match flags & HAS_SHORT_ID {
            0 => None,
            _ => Some(u16::from_be_bytes(reader.array()?)),
        };
        let content = if flags & IS_CHANGE == 0 {
            EntryContent::Whole {
                nickname: reader.text()?,
                connections: reader.connections()?,
            }
        } else {
            EntryContent::Change {
                base: reader.varint()?,
                check: u32::from_be_bytes(reader.array()?),
                connections: reader.connections()?,
                removed: reader.many(Reader::name)?,
            }
        };
        Ok(Self {
            name,
            uid,
            version,
            short_id,
            told: flags & IS_TOLD != 0,
            content,
        })
    }
}

fn flag(is_set: bool, bit: u8) -> u8 {
    if is_set { bit } else { 0 }
}

fn put_known(out: &mut Vec<u8>, name: PeerName, uid: u64, version: u64) {
    out.extend(name.to_bytes());
    out.extend(uid.to_be_bytes());
    put_varint(out, version);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(usize::from(u8::MAX))];
    out.push(text.len() as u8);
    out.extend(text.as_bytes());
}

fn put_connections(out: &mut Vec<u8>, connections: &[ConnectionSummary]) {
    put_varint(out, connections.len() as u64);
    for connection in connections {
        out.extend(connection.remote.to_bytes());
        let flags = flag(connection.outbound, OUTBOUND) | flag(connection.established, ESTABLISHED);
        let text = &connection.remote_address;
        // Only an address that gives the same text again may travel as an address.
        match text
            .parse()
            .ok()
            .filter(|a: &SocketAddr| a.to_string() == *text)
        {
            Some(SocketAddr::V4(address)) => {
                out.push(flags | IS_V4);
                out.extend(address.ip().octets());
                out.extend(address.port().to_be_bytes());
            }
            Some(SocketAddr::V6(address)) if address.scope_id() == 0 => {
                out.push(flags | IS_V6);
                out.extend(address.ip().octets());
                out.extend(address.port().to_be_bytes());
            }
            _ => {
                out.push(flags);
                put_text(out, text);
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DeltaError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(DeltaError::TooShort)?;
        self.0 = rest;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, DeltaError> {
        self.array().map(|[byte]| byte)
    }

    fn varint(&mut self) -> Result<u64, DeltaError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let group = u64::from(byte & 0x7f);
            if group << shift >> shift != group {
                return Err(DeltaError::TooLarge);
            }
            value |= group << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DeltaError::TooLarge)
    }

    fn name(&mut self) -> Result<PeerName, DeltaError> {
        self.array().map(PeerName::from_bytes)
    }

    fn known(&mut self) -> Result<(PeerName, u64, u64), DeltaError> {
        let name = self.name()?;
        Ok((name, u64::from_be_bytes(self.array()?), self.varint()?))
    }

    fn text(&mut self) -> Result<String, DeltaError> {
        let length = usize::from(self.byte()?);
        let (head, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(DeltaError::TooShort)?;
        self.0 = rest;
        let text = str::from_utf8(head).map_err(|_| DeltaError::NotText)?;
        Ok(text.to_owned())
    }

    fn many<T>(
        &mut self,
        take: impl Fn(&mut Self) -> Result<T, DeltaError>,
    ) -> Result<Vec<T>, DeltaError> {
        let count = usize::try_from(self.varint()?).map_err(|_| DeltaError::TooLarge)?;
        // Each takes at least a name: a count beyond that is a lie, and nothing is reserved for it.
        if count > self.0.len() / NAME_BYTES {
            return Err(DeltaError::TooShort);
        }
        (0..count).map(|_| take(self)).collect()
    }

    fn connections(&mut self) -> Result<Vec<ConnectionSummary>, DeltaError> {
        self.many(|reader| {
            let remote = reader.name()?;
            let flags = reader.byte()?;
            let remote_address = if flags & IS_V4 != 0 {
                let ip = Ipv4Addr::from_octets(reader.array()?);
                SocketAddrV4::new(ip, u16::from_be_bytes(reader.array()?)).to_string()
            } else if flags & IS_V6 != 0 {
                let ip = Ipv6Addr::from_octets(reader.array()?);
                SocketAddrV6::new(ip, u16::from_be_bytes(reader.array()?), 0, 0).to_string()
            } else {
                reader.text()?
            };
            Ok(ConnectionSummary {
                remote,
                remote_address,
                outbound: flags & OUTBOUND != 0,
                established: flags & ESTABLISHED != 0,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(remote: u64, address: &str) -> ConnectionSummary {
        ConnectionSummary {
            remote: PeerName::from_u64(remote),
            remote_address: address.to_owned(),
            outbound: remote.is_multiple_of(2),
            established: remote.is_multiple_of(3),
        }
    }

    fn entry(content: EntryContent) -> EntryNews {
        EntryNews {
            name: PeerName::from_u64(0x0102_0304_0506),
            uid: u64::MAX,
            version: 300,
            short_id: Some(4095),
            told: true,
            content,
        }
    }

    fn samples() -> Vec<TopologyNews> {
        let addresses = [
            "10.0.0.1:6783",
            "[fd00::1]:6783",
            "010.0.0.1:80",
            "",
            "[::1%4]:1",
            "no:where",
        ];
        let connections: Vec<_> = (0..)
            .zip(addresses)
            .map(|(n, a)| connection(n, a))
            .collect();
        let known = KnownEntry {
            name: PeerName::from_u64(7),
            uid: 8,
            version: u64::MAX,
        };
        let whole = EntryContent::Whole {
            nickname: "höst".to_owned(),
            connections: connections.clone(),
        };
        let change = EntryContent::Change {
            base: 299,
            check: 0xfedc_ba98,
            connections: connections[..1].to_vec(),
            removed: vec![PeerName::from_u64(9)],
        };
        let entries = vec![
            entry(whole),
            EntryNews {
                short_id: None,
                told: false,
                ..entry(change)
            },
        ];
        vec![
            TopologyNews::Digest(0x0123_4567_89ab_cdef),
            TopologyNews::Have {
                complete: true,
                entries: vec![known, known],
            },
            TopologyNews::Entries(entries),
        ]
    }

    #[test]
    fn what_is_encoded_is_decoded_again() {
        for news in samples() {
            assert_eq!(TopologyNews::decode(&news.encode()), Ok(news));
        }
    }

    #[test]
    fn a_change_of_one_connection_takes_few_bytes() {
        let change = EntryContent::Change {
            base: 299,
            check: 0xfedc_ba98,
            connections: vec![connection(1, "10.0.0.1:6783")],
            removed: Vec::new(),
        };
        assert_eq!(
            TopologyNews::Entries(vec![entry(change)]).encode().len(),
            41
        );
    }

    #[test]
    fn every_part_of_a_message_is_an_error_or_a_message() {
        for news in samples() {
            let bytes = news.encode();
            for end in 0..bytes.len() {
                if let Ok(part) = TopologyNews::decode(&bytes[..end]) {
                    assert_ne!(part, news);
                }
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut bytes = bytes.clone();
                    bytes[end] = value;
                    let _ = TopologyNews::decode(&bytes);
                }
            }
        }
    }

    #[test]
    fn lies_about_lengths_are_refused() {
        assert_eq!(TopologyNews::decode(&[]), Err(DeltaError::TooShort));
        assert_eq!(TopologyNews::decode(&[3]), Err(DeltaError::UnknownKind(3)));
        assert_eq!(TopologyNews::decode(&[0; 10]), Err(DeltaError::TooLong));
        let mut huge = vec![ENTRIES];
        put_known(&mut huge, PeerName::from_u64(1), 1, 1);
        huge.extend([0, 0]);
        put_varint(&mut huge, u64::MAX);
        assert_eq!(TopologyNews::decode(&huge), Err(DeltaError::TooShort));
        let mut large = vec![HAVE, 1];
        large.extend([0; 14]);
        large.extend([0xff; 10]);
        assert_eq!(TopologyNews::decode(&large), Err(DeltaError::TooLarge));
    }
}
