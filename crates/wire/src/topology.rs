//! Payload of the `topology` gossip channel (spec/mesh.md 8, spec/gob.md 6.2).

use crate::PeerName;
use crate::gob::{self, Encoder, GobError, Row, Stream, definitions};

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

/// Fields of a peer summary, in the order [`take_peer`] reads them.
const PEER_FIELDS: [&str; 6] = [
    "NameByte",
    "NickName",
    "UID",
    "Version",
    "ShortID",
    "HasShortID",
];
/// Fields of a connection summary, in the order [`take_connection`] reads them.
const CONNECTION_FIELDS: [&str; 4] = ["NameByte", "RemoteTCPAddr", "Outbound", "Established"];

/// Decodes a payload. Fields older peers lack are taken as zero, fields we do not know are skipped
/// (spec/gob.md 6.2).
pub fn decode(payload: &[u8]) -> Result<Vec<PeerSummary>, GobError> {
    let mut stream = Stream::new(payload);
    let mut peers = Vec::new();
    while let Some(mut peer) = stream.next_row("peer summary", &PEER_FIELDS, take_peer)? {
        peer.connections =
            stream.require_rows("connection summaries", &CONNECTION_FIELDS, take_connection)?;
        peers.push(peer);
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

/// A peer, still without its connections.
fn take_peer(row: &Row<'_, 6>) -> Result<PeerSummary, GobError> {
    let short_id = row.uint16(4)?;
    Ok(PeerSummary {
        name: take_name(row)?,
        nickname: row.str(1)?.to_owned(),
        uid: row.uint(2)?,
        version: row.uint(3)?,
        short_id: row.bool(5)?.then_some(short_id),
        connections: Vec::new(),
    })
}

fn take_connection(row: &Row<'_, 4>) -> Result<ConnectionSummary, GobError> {
    Ok(ConnectionSummary {
        remote: take_name(row)?,
        remote_address: row.str(1)?.to_owned(),
        outbound: row.bool(2)?,
        established: row.bool(3)?,
    })
}

/// The name, which both structs have as their first field.
fn take_name<const N: usize>(row: &Row<'_, N>) -> Result<PeerName, GobError> {
    let bytes = row.bytes(0)?.try_into();
    bytes
        .map(PeerName::from_bytes)
        .map_err(|_| GobError::OutOfRange("NameByte"))
}
