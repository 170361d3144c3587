//! What address allocation says and what the original stored of it (spec/ipam.md 9, spec/gob.md 6.3,
//! 6.4 and 6.6).
//!
//! Nothing is checked here but the format: whether a ring makes sense is for its reader to say.

use std::collections::BTreeMap;

use crate::PeerName;
use crate::gob::{self, Encoder, GobError, Record, RecordEncoder, Stream, Value, definitions};

pub mod stored;

/// Most nicknames of one payload.
pub const NICKNAMES_MAX: usize = 16 * 1024;
/// Most nodes of one election. A peer of the original is a new node after each restart.
pub const NODES_MAX: usize = 4096;
/// Most peers a ring is first divided among.
pub const SEEDS_MAX: usize = 4096;

/// Payload of gossip, periodic and broadcast, and of a ring update.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GossipState {
    /// Unix seconds at the sender; informational.
    pub now: i64,
    /// Nicknames by peer.
    pub nicknames: BTreeMap<PeerName, String>,
    /// The election as the sender knows it. `None`, and no ring either: an observer asks for a
    /// ring. Empty: the sender votes, but nothing was proposed yet.
    pub paxos: Option<BTreeMap<NodeId, NodeClaims>>,
    /// The ring, once there is one.
    pub ring: Option<Ring>,
}

/// One voter: a peer, as long as it remembers its promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId {
    /// The peer.
    pub name: PeerName,
    /// Tells its incarnations apart.
    pub uid: u64,
}

/// A ballot. Ordered by round, then by proposer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ProposalId {
    /// Round; 0 in the ballot that stands for "none".
    pub round: u64,
    /// Who called it.
    pub proposer: NodeId,
}

impl ProposalId {
    /// Whether this is a ballot at all.
    pub const fn is_some(&self) -> bool {
        self.round != 0
    }
}

/// What was accepted, and which ballot it was first proposed in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AcceptedValue {
    /// Peers among which the ring shall be divided, in the proposer's order.
    pub value: Vec<PeerName>,
    /// The ballot that first proposed it.
    pub origin: ProposalId,
}

/// What a node promised and accepted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeClaims {
    /// It takes no part in ballots below this one.
    pub promise: ProposalId,
    /// The last ballot it voted for.
    pub accepted: ProposalId,
    /// What it voted for.
    pub accepted_value: AcceptedValue,
}

/// A ring as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ring {
    /// First address of the universe.
    pub start: u32,
    /// One past its last address.
    pub end: u32,
    /// Whose copy this is.
    pub peer: PeerName,
    /// Cuts, ascending by token if the sender is sane.
    pub entries: Vec<Entry>,
    /// Peers the ring was first divided among.
    pub seeds: Vec<PeerName>,
}

/// One cut of a ring: what follows it up to the next cut belongs to `peer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Entry {
    /// First address.
    pub token: u32,
    /// Owner.
    pub peer: PeerName,
    /// Grows with each change.
    pub version: u32,
    /// Addresses not in use.
    pub free: u32,
}

/// Addresses from `start` up to, not including, `end`; not validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Range {
    /// First address.
    pub start: u32,
    /// One past the last address.
    pub end: u32,
}

/// A message to one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unicast {
    /// Asks for space inside the range.
    SpaceRequest(Range),
    /// The sender's state.
    RingUpdate(GossipState),
    /// There is no space to give inside the range.
    Denied(Range),
    /// Of this kind, which we do not know; to be ignored.
    Unknown(u8),
}

mod kind {
    pub(super) const SPACE_REQUEST: u8 = 0;
    pub(super) const RING_UPDATE: u8 = 1;
    pub(super) const DENIED: u8 = 2;
}

impl Unicast {
    /// The payload. One of an unknown kind is its kind byte alone; never send that, it hangs an
    /// original.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, gob) = match self {
            Self::SpaceRequest(range) => (kind::SPACE_REQUEST, encode_range(*range)),
            Self::RingUpdate(state) => (kind::RING_UPDATE, encode_state(state)),
            Self::Denied(range) => (kind::DENIED, encode_range(*range)),
            Self::Unknown(kind) => (*kind, Vec::new()),
        };
        let mut payload = Vec::with_capacity(1 + gob.len());
        payload.push(kind);
        payload.extend_from_slice(&gob);
        payload
    }

    /// Decodes a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, GobError> {
        let (&kind, gob) = payload.split_first().ok_or(GobError::Truncated)?;
        Ok(match kind {
            kind::SPACE_REQUEST => Self::SpaceRequest(decode_range(gob)?),
            kind::RING_UPDATE => Self::RingUpdate(decode_state(gob)?),
            kind::DENIED => Self::Denied(decode_range(gob)?),
            unknown => Self::Unknown(unknown),
        })
    }
}

/// Encodes a gossip payload; byte for byte what a fresh original sends.
pub fn encode_state(state: &GossipState) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.definitions(&definitions::GOSSIP_STATE);
    encoder.record(definitions::ipam::GOSSIP_STATE, |record| {
        record.int(0, state.now);
        record.map(1, state.nicknames.len(), |out| {
            for (peer, nickname) in &state.nicknames {
                gob::put_uint(out, peer.to_u64());
                gob::put_string(out, nickname);
            }
        });
        if let Some(paxos) = &state.paxos {
            record.map(2, paxos.len(), |out| {
                for (node, claims) in paxos {
                    gob::put_record(out, |record| put_node(record, *node));
                    gob::put_record(out, |record| put_claims(record, claims));
                }
            });
        }
        if let Some(ring) = &state.ring {
            record.record(3, |record| put_ring(record, ring));
        }
    });
    encoder.finish()
}

/// Decodes a gossip payload. Fields we do not know are skipped, absent ones are zero.
pub fn decode_state(payload: &[u8]) -> Result<GossipState, GobError> {
    let mut stream = Stream::new(payload);
    let value = stream.require_value("gossip state")?;
    let record = value.as_record("gossip state")?;
    let mut state = GossipState {
        now: record.int("Now")?,
        ..GossipState::default()
    };
    for (peer, nickname) in bounded(record.map("Nicknames")?.unwrap_or(&[]), NICKNAMES_MAX)? {
        let nickname = nickname.as_str("Nicknames")?.to_owned();
        state
            .nicknames
            .insert(take_name(peer, "Nicknames")?, nickname);
    }
    if let Some(nodes) = record.map("Paxos")? {
        let claims = bounded(nodes, NODES_MAX)?.iter().map(|(node, claims)| {
            let node = take_node(Some(node.as_record("Paxos")?))?;
            Ok((node, take_claims(claims.as_record("Paxos")?)?))
        });
        state.paxos = Some(claims.collect::<Result<_, GobError>>()?);
    }
    state.ring = record.record("Ring")?.map(take_ring).transpose()?;
    Ok(state)
}

fn encode_range(range: Range) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.definitions(&definitions::RANGE);
    encoder.record(definitions::ipam::RANGE, |record| {
        record.uint(0, u64::from(range.start));
        record.uint(1, u64::from(range.end));
    });
    encoder.finish()
}

fn decode_range(payload: &[u8]) -> Result<Range, GobError> {
    let value = Stream::new(payload).require_value("range")?;
    let record = value.as_record("range")?;
    Ok(Range {
        start: record.uint32("Start")?,
        end: record.uint32("End")?,
    })
}

fn put_node(record: &mut RecordEncoder<'_>, node: NodeId) {
    record.uint(0, node.name.to_u64());
    record.uint(1, node.uid);
}

fn put_proposal(record: &mut RecordEncoder<'_>, proposal: ProposalId) {
    record.uint(0, proposal.round);
    record.record(1, |record| put_node(record, proposal.proposer));
}

fn put_claims(record: &mut RecordEncoder<'_>, claims: &NodeClaims) {
    record.record(0, |record| put_proposal(record, claims.promise));
    record.record(1, |record| put_proposal(record, claims.accepted));
    record.record(2, |record| {
        put_names(record, 0, &claims.accepted_value.value);
        record.record(1, |record| {
            put_proposal(record, claims.accepted_value.origin)
        });
    });
}

fn put_ring(record: &mut RecordEncoder<'_>, ring: &Ring) {
    record.uint(0, u64::from(ring.start));
    record.uint(1, u64::from(ring.end));
    record.uint(2, ring.peer.to_u64());
    record.list(3, ring.entries.len(), |out| {
        for entry in &ring.entries {
            gob::put_record(out, |record| {
                record.uint(0, u64::from(entry.token));
                record.uint(1, entry.peer.to_u64());
                record.uint(2, u64::from(entry.version));
                record.uint(3, u64::from(entry.free));
            });
        }
    });
    put_names(record, 4, &ring.seeds);
}

fn put_names(record: &mut RecordEncoder<'_>, number: u64, names: &[PeerName]) {
    record.list(number, names.len(), |out| {
        for name in names {
            gob::put_uint(out, name.to_u64());
        }
    });
}

/// A name, which must have no more than 48 bits: cut off, it would be that of another peer.
fn take_name(value: &Value<'_>, what: &'static str) -> Result<PeerName, GobError> {
    name_of(value.as_uint(what)?, what)
}

fn name_of(value: u64, what: &'static str) -> Result<PeerName, GobError> {
    let name = PeerName::from_u64(value);
    if name.to_u64() == value {
        Ok(name)
    } else {
        Err(GobError::OutOfRange(what))
    }
}

fn take_names(record: &Record<'_>, what: &'static str) -> Result<Vec<PeerName>, GobError> {
    let names = bounded(record.list(what)?, SEEDS_MAX)?;
    names.iter().map(|name| take_name(name, what)).collect()
}

fn take_node(record: Option<&Record<'_>>) -> Result<NodeId, GobError> {
    let Some(record) = record else {
        return Ok(NodeId::default());
    };
    Ok(NodeId {
        name: name_of(record.uint("Name")?, "Name")?,
        uid: record.uint("UID")?,
    })
}

fn take_proposal(record: Option<&Record<'_>>) -> Result<ProposalId, GobError> {
    let Some(record) = record else {
        return Ok(ProposalId::default());
    };
    Ok(ProposalId {
        round: record.uint("Round")?,
        proposer: take_node(record.record("Proposer")?)?,
    })
}

fn take_claims(record: &Record<'_>) -> Result<NodeClaims, GobError> {
    let accepted_value = record.record("AcceptedVal")?.map(|record| {
        Ok(AcceptedValue {
            value: take_names(record, "Value")?,
            origin: take_proposal(record.record("Origin")?)?,
        })
    });
    Ok(NodeClaims {
        promise: take_proposal(record.record("Promise")?)?,
        accepted: take_proposal(record.record("Accepted")?)?,
        accepted_value: accepted_value.transpose()?.unwrap_or_default(),
    })
}

fn take_ring(record: &Record<'_>) -> Result<Ring, GobError> {
    let entries = record.list("Entries")?.iter().map(|entry| {
        let entry = entry.as_record("Entries")?;
        Ok(Entry {
            token: entry.uint32("Token")?,
            peer: name_of(entry.uint("Peer")?, "Peer")?,
            version: entry.uint32("Version")?,
            free: entry.uint32("Free")?,
        })
    });
    Ok(Ring {
        start: record.uint32("Start")?,
        end: record.uint32("End")?,
        peer: name_of(record.uint("Peer")?, "Peer")?,
        entries: entries.collect::<Result<_, GobError>>()?,
        seeds: take_names(record, "Seeds")?,
    })
}

/// The elements, if there are no more than `most`.
fn bounded<T>(elements: &[T], most: usize) -> Result<&[T], GobError> {
    if elements.len() <= most {
        Ok(elements)
    } else {
        Err(GobError::TooManyValues)
    }
}
