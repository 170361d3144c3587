//! Payload of the `topology` gossip channel (spec/mesh.md 8, spec/gob.md 6.2).

use crate::PeerName;
use crate::gob::{self, Encoder, GobError, Record, Stream, Value, definitions};

/// A peer's entry in a topology payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSummary {
    /// Identity.
    pub name: PeerName,
    /// Free text.
    pub nickname: String,
    /// Process incarnation; 0 for a placeholder.
    pub uid: u64,
    /// Change counter of this entry.
    pub version: u64,
    /// Short id, if the peer has one; at most 65535 on the wire, 4095 in use.
    pub short_id: Option<u16>,
    /// The peer's connections as it sees them.
    pub connections: Vec<ConnectionSummary>,
}

/// One connection of a peer, as that peer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionSummary {
    /// The other end.
    pub remote: PeerName,
    /// `ip:port` of the other end as this peer saw it; free text on the wire.
    pub remote_address: String,
    /// Whether this peer dialled.
    pub outbound: bool,
    /// Whether the data path was confirmed in this peer's direction.
    pub established: bool,
}

/// Field of both structs: six bytes.
const NAME_FIELD: &str = "NameByte";

/// Encodes a payload; one without peers is empty.
pub fn encode(peers: &[PeerSummary]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    for (at, peer) in peers.iter().enumerate() {
        if at == 0 {
            encoder.definitions(&definitions::PEER_SUMMARY);
        }
        encoder.record(definitions::topology::PEER_SUMMARY, |record| {
            record.bytes(0, &peer.name.to_bytes());
            record.string(1, &peer.nickname);
            record.uint(2, peer.uid);
            record.uint(3, peer.version);
            record.uint(4, u64::from(peer.short_id.unwrap_or(0)));
            record.bool(5, peer.short_id.is_some());
        });
        if at == 0 {
            encoder.definitions(&definitions::CONNECTION_SUMMARIES);
        }
        encoder.value(definitions::topology::CONNECTION_SUMMARIES, |out| {
            gob::put_uint(out, peer.connections.len() as u64);
            for connection in &peer.connections {
                connection.encode(out);
            }
        });
    }
    encoder.finish()
}

/// Decodes a payload. Fields older peers lack are taken as zero, fields we do not know are skipped
/// (spec/gob.md 6.2).
pub fn decode(payload: &[u8]) -> Result<Vec<PeerSummary>, GobError> {
    let mut stream = Stream::new(payload);
    let mut peers = Vec::new();
    while let Some(summary) = stream.next_value()? {
        let summary = summary.as_record("peer summary")?;
        let connections = stream.require_value("connection summaries")?;
        let connections = connections.as_list("connection summaries")?;
        let short_id = summary.uint16("ShortID")?;
        peers.push(PeerSummary {
            name: take_name(summary)?,
            nickname: summary.str("NickName")?.to_owned(),
            uid: summary.uint("UID")?,
            version: summary.uint("Version")?,
            short_id: summary.bool("HasShortID")?.then_some(short_id),
            connections: connections
                .iter()
                .map(decode_connection)
                .collect::<Result<_, _>>()?,
        });
    }
    Ok(peers)
}

impl ConnectionSummary {
    fn encode(&self, out: &mut Vec<u8>) {
        gob::put_record(out, |record| {
            record.bytes(0, &self.remote.to_bytes());
            record.string(1, &self.remote_address);
            record.bool(2, self.outbound);
            record.bool(3, self.established);
        });
    }
}

fn decode_connection(value: &Value<'_>) -> Result<ConnectionSummary, GobError> {
    let record = value.as_record("connection summary")?;
    Ok(ConnectionSummary {
        remote: take_name(record)?,
        remote_address: record.str("RemoteTCPAddr")?.to_owned(),
        outbound: record.bool("Outbound")?,
        established: record.bool("Established")?,
    })
}

fn take_name(record: &Record<'_>) -> Result<PeerName, GobError> {
    let bytes = record.bytes(NAME_FIELD)?;
    bytes
        .try_into()
        .map(PeerName::from_bytes)
        .map_err(|_| GobError::OutOfRange(NAME_FIELD))
}
