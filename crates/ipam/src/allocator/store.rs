//! The durable rows (spec/ipam.md 8): what is written and how it is read back.
//!
//! | row | value |
//! |---|---|
//! | `ipam/header` | schema, whose ring over which range, its seeds, how many ring rows there are |
//! | `ipam/ring/<token>` | one entry of the ring |
//! | `ipam/owned/<address>/<length>` | who holds an address |
//! | `ipam/displaced/<address>/<length>` | who uses an address that was taken over while we were away |
//! | `ipam/paxos` | what we promised and accepted, while there is an election |
//! | `ipam/fence` | ranges we were given but do not use yet |
//! | `ipam/votes` | what we promised and accepted about peers that are gone |
//!
//! Rows are compared with what was written before, so only what changed is written again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wire::PeerName;
use wire::ipam::{AcceptedValue, Entry, NodeClaims, NodeId, ProposalId};

use crate::address::{Cidr, Range, Subnet};
use crate::rows::{RestoreError, RowWrite};

/// Version of the rows below.
const SCHEMA: u32 = 1;

const HEADER: &str = "ipam/header";
const RING: &str = "ipam/ring/";
const OWNED: &str = "ipam/owned/";
const DISPLACED: &str = "ipam/displaced/";
const PAXOS: &str = "ipam/paxos";
const FENCE: &str = "ipam/fence";
const VOTES: &str = "ipam/votes";

#[derive(Debug, Serialize, Deserialize)]
struct HeaderRow {
    schema: u32,
    peer: String,
    range: String,
    seeds: Vec<String>,
    entries: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct EntryRow {
    peer: String,
    version: u32,
    free: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct OwnedRow {
    ident: String,
    is_container: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct FenceRow {
    start: Ipv4Addr,
    end: Ipv4Addr,
    former: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct NodeRow {
    name: String,
    uid: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct BallotRow {
    round: u64,
    proposer: NodeRow,
}

#[derive(Debug, Serialize, Deserialize)]
struct ClaimsRow {
    node: NodeRow,
    promise: BallotRow,
    accepted: BallotRow,
    value: Vec<String>,
    origin: BallotRow,
}

#[derive(Debug, Serialize, Deserialize)]
struct PaxosRow {
    uid: u64,
    quorum: usize,
    claims: Vec<ClaimsRow>,
}

/// An election as it was left.
#[derive(Debug, PartialEq)]
pub(super) struct SavedElection {
    pub(super) uid: u64,
    pub(super) quorum: usize,
    pub(super) claims: BTreeMap<NodeId, NodeClaims>,
}

/// Who holds an address.
#[derive(Debug, PartialEq)]
pub(super) struct SavedHolding {
    pub(super) cidr: Cidr,
    pub(super) ident: String,
    pub(super) is_container: bool,
}

/// Everything that was stored.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Saved {
    pub(super) entries: Vec<Entry>,
    pub(super) seeds: Vec<PeerName>,
    pub(super) owned: Vec<SavedHolding>,
    pub(super) displaced: Vec<SavedHolding>,
    pub(super) election: Option<SavedElection>,
    pub(super) fence: Vec<(Range, PeerName)>,
    /// JSON of the votes; their module reads it.
    pub(super) votes: Option<Vec<u8>>,
}

/// Why rows are not used although they are whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    /// They are those of another peer.
    Peer(String),
    /// They are about another range.
    Range(String),
}

/// What is stored, and what is to be written of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Store {
    /// Everything stored but the ring.
    rows: BTreeMap<String, Vec<u8>>,
    /// The ring as it is stored.
    ring: Vec<Entry>,
    seeds: Vec<PeerName>,
    changes: Vec<RowWrite>,
}

impl Store {
    /// Reads what was stored. Rows of somebody else are discarded: `Err` says whose they are.
    pub(super) fn open(
        rows: Vec<(String, Vec<u8>)>,
        us: PeerName,
        universe: Subnet,
    ) -> Result<(Self, Result<Saved, Foreign>), RestoreError> {
        let mut store = Self::default();
        let rows: BTreeMap<String, Vec<u8>> = rows.into_iter().collect();
        if rows.is_empty() {
            return Ok((store, Ok(Saved::default())));
        }
        let Some(header) = rows.get(HEADER) else {
            return Err(damaged(HEADER, "it is missing"));
        };
        let header: HeaderRow = parse(HEADER, header)?;
        if header.schema > SCHEMA {
            let reason = format!("schema {} is newer than {SCHEMA}", header.schema);
            return Err(damaged(HEADER, reason));
        }
        let foreign = if parse_name(HEADER, &header.peer)? != us {
            Some(Foreign::Peer(header.peer.clone()))
        } else if parse_subnet(&header.range)? != universe {
            let range = parse_subnet(&header.range)?.range();
            Some(Foreign::Range(range.to_string()))
        } else {
            None
        };
        if let Some(foreign) = foreign {
            let gone = rows.into_keys().map(|name| RowWrite { name, value: None });
            store.changes = gone.collect();
            return Ok((store, Err(foreign)));
        }
        let saved = read(&rows, &header)?;
        store.ring.clone_from(&saved.entries);
        store.seeds.clone_from(&saved.seeds);
        let others = rows.into_iter().filter(|(name, _)| !name.starts_with(RING));
        store.rows = others.collect();
        Ok((store, Ok(saved)))
    }

    /// The ring as it is stored.
    pub(super) fn ring(&self) -> &[Entry] {
        &self.ring
    }

    /// Notes the ring as it is now.
    pub(super) fn put_ring(
        &mut self,
        us: PeerName,
        universe: Subnet,
        entries: &[Entry],
        seeds: &[PeerName],
    ) {
        let is_first = !self.has_header();
        if is_first || self.ring.len() != entries.len() || self.seeds != seeds {
            let header = HeaderRow {
                schema: SCHEMA,
                peer: us.to_string(),
                range: universe.to_string(),
                seeds: seeds.iter().map(PeerName::to_string).collect(),
                entries: entries.len(),
            };
            self.put(HEADER.to_owned(), Some(json(&header)));
            self.seeds = seeds.to_vec();
        }
        let mut pairs = self.ring.iter().zip(entries);
        let is_cut_alike =
            self.ring.len() == entries.len() && pairs.all(|(a, b)| a.token == b.token);
        if is_cut_alike {
            for (old, new) in self.ring.iter_mut().zip(entries) {
                if old != new {
                    *old = *new;
                    self.changes.push(entry_row(new));
                }
            }
            return;
        }
        let new: BTreeSet<u32> = entries.iter().map(|entry| entry.token).collect();
        for gone in self.ring.iter().filter(|old| !new.contains(&old.token)) {
            let name = entry_name(gone.token);
            self.changes.push(RowWrite { name, value: None });
        }
        let old: BTreeSet<Entry> = self.ring.iter().copied().collect();
        let changed = entries.iter().filter(|entry| !old.contains(entry));
        self.changes.extend(changed.map(entry_row));
        self.ring = entries.to_vec();
    }

    /// Notes who holds an address now.
    pub(super) fn put_owned(&mut self, cidr: Cidr, holder: Option<(String, bool)>) {
        let row = holder.map(|(ident, is_container)| {
            json(&OwnedRow {
                ident,
                is_container,
            })
        });
        self.put(format!("{OWNED}{cidr}"), row);
    }

    /// Notes who uses an address that was taken over.
    pub(super) fn put_displaced(&mut self, cidr: Cidr, holder: Option<(String, bool)>) {
        let row = holder.map(|(ident, is_container)| {
            json(&OwnedRow {
                ident,
                is_container,
            })
        });
        self.put(format!("{DISPLACED}{cidr}"), row);
    }

    /// Notes the election as it is now.
    pub(super) fn put_election(
        &mut self,
        election: Option<(u64, usize, &BTreeMap<NodeId, NodeClaims>)>,
    ) {
        let row = election.map(|(uid, quorum, claims)| {
            let claims = claims
                .iter()
                .map(|(node, claims)| claims_row(*node, claims));
            json(&PaxosRow {
                uid,
                quorum,
                claims: claims.collect(),
            })
        });
        self.put(PAXOS.to_owned(), row);
    }

    /// Notes the ranges we were given but do not use.
    pub(super) fn put_fence(&mut self, fence: &[(Range, PeerName)]) {
        let rows = fence.iter().map(|(range, former)| FenceRow {
            start: Ipv4Addr::from_bits(range.start),
            end: Ipv4Addr::from_bits(range.end),
            former: former.to_string(),
        });
        let rows: Vec<FenceRow> = rows.collect();
        self.put(FENCE.to_owned(), (!rows.is_empty()).then(|| json(&rows)));
    }

    /// Notes the votes as they are now.
    pub(super) fn put_votes(&mut self, votes: Option<Vec<u8>>) {
        self.put(VOTES.to_owned(), votes);
    }

    /// Whether there is a header, without which no other row can be read.
    pub(super) fn has_header(&self) -> bool {
        self.rows.contains_key(HEADER)
    }

    /// Whether anything is to be written.
    pub(super) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// What is to be written since the last call. A row is in it once.
    pub(super) fn take_changes(&mut self) -> Vec<RowWrite> {
        let changes = std::mem::take(&mut self.changes);
        let mut newest = BTreeMap::new();
        for change in changes {
            newest.insert(change.name, change.value);
        }
        let changes = newest.into_iter();
        changes
            .map(|(name, value)| RowWrite { name, value })
            .collect()
    }

    fn put(&mut self, name: String, value: Option<Vec<u8>>) {
        if self.rows.get(&name) == value.as_ref() {
            return;
        }
        match &value {
            Some(value) => self.rows.insert(name.clone(), value.clone()),
            None => self.rows.remove(&name),
        };
        self.changes.push(RowWrite { name, value });
    }
}

fn read(rows: &BTreeMap<String, Vec<u8>>, header: &HeaderRow) -> Result<Saved, RestoreError> {
    let mut saved = Saved::default();
    for seed in &header.seeds {
        saved.seeds.push(parse_name(HEADER, seed)?);
    }
    for (name, value) in rows {
        if let Some(token) = name.strip_prefix(RING) {
            saved.entries.push(read_entry(name, token, value)?);
        } else if let Some(cidr) = name.strip_prefix(OWNED) {
            saved.owned.push(read_holding(name, cidr, value)?);
        } else if let Some(cidr) = name.strip_prefix(DISPLACED) {
            saved.displaced.push(read_holding(name, cidr, value)?);
        } else if name == PAXOS {
            saved.election = Some(read_election(value)?);
        } else if name == FENCE {
            let fence: Vec<FenceRow> = parse(FENCE, value)?;
            for row in fence {
                let range = Range::new(row.start.to_bits(), row.end.to_bits());
                saved.fence.push((range, parse_name(FENCE, &row.former)?));
            }
        } else if name == VOTES {
            saved.votes = Some(value.clone());
        } else if name != HEADER {
            return Err(damaged(name, "it is not known"));
        }
    }
    if saved.entries.len() != header.entries {
        let (found, told) = (saved.entries.len(), header.entries);
        let reason = format!("the ring has {found} rows, not the {told} it tells of");
        return Err(damaged(HEADER, reason));
    }
    saved.entries.sort_unstable_by_key(|entry| entry.token);
    Ok(saved)
}

fn read_entry(name: &str, token: &str, value: &[u8]) -> Result<Entry, RestoreError> {
    let token: Ipv4Addr = token
        .parse()
        .map_err(|_| damaged(name, "its name holds no address"))?;
    let row: EntryRow = parse(name, value)?;
    Ok(Entry {
        token: token.to_bits(),
        peer: parse_name(name, &row.peer)?,
        version: row.version,
        free: row.free,
    })
}

fn read_holding(name: &str, cidr: &str, value: &[u8]) -> Result<SavedHolding, RestoreError> {
    let cidr: Cidr = cidr
        .parse()
        .map_err(|_| damaged(name, "its name holds no address"))?;
    let row: OwnedRow = parse(name, value)?;
    Ok(SavedHolding {
        cidr,
        ident: row.ident,
        is_container: row.is_container,
    })
}

fn read_election(value: &[u8]) -> Result<SavedElection, RestoreError> {
    let row: PaxosRow = parse(PAXOS, value)?;
    if row.quorum == 0 {
        return Err(damaged(PAXOS, "an election needs a vote"));
    }
    let mut claims = BTreeMap::new();
    for row in row.claims {
        let mut value = Vec::new();
        for peer in &row.value {
            value.push(parse_name(PAXOS, peer)?);
        }
        let node_claims = NodeClaims {
            promise: read_ballot(&row.promise)?,
            accepted: read_ballot(&row.accepted)?,
            accepted_value: AcceptedValue {
                value,
                origin: read_ballot(&row.origin)?,
            },
        };
        claims.insert(read_node(&row.node)?, node_claims);
    }
    Ok(SavedElection {
        uid: row.uid,
        quorum: row.quorum,
        claims,
    })
}

fn read_ballot(row: &BallotRow) -> Result<ProposalId, RestoreError> {
    Ok(ProposalId {
        round: row.round,
        proposer: read_node(&row.proposer)?,
    })
}

fn read_node(row: &NodeRow) -> Result<NodeId, RestoreError> {
    Ok(NodeId {
        name: parse_name(PAXOS, &row.name)?,
        uid: row.uid,
    })
}

fn claims_row(node: NodeId, claims: &NodeClaims) -> ClaimsRow {
    let node_row = |node: NodeId| NodeRow {
        name: node.name.to_string(),
        uid: node.uid,
    };
    let ballot_row = |ballot: ProposalId| BallotRow {
        round: ballot.round,
        proposer: node_row(ballot.proposer),
    };
    let value = &claims.accepted_value.value;
    ClaimsRow {
        node: node_row(node),
        promise: ballot_row(claims.promise),
        accepted: ballot_row(claims.accepted),
        value: value.iter().map(PeerName::to_string).collect(),
        origin: ballot_row(claims.accepted_value.origin),
    }
}

fn entry_name(token: u32) -> String {
    format!("{RING}{}", Ipv4Addr::from_bits(token))
}

fn entry_row(entry: &Entry) -> RowWrite {
    let row = EntryRow {
        peer: entry.peer.to_string(),
        version: entry.version,
        free: entry.free,
    };
    RowWrite {
        name: entry_name(entry.token),
        value: Some(json(&row)),
    }
}

fn json(row: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows have string keys and no floats")
}

fn parse<T: DeserializeOwned>(name: &str, value: &[u8]) -> Result<T, RestoreError> {
    serde_json::from_slice(value).map_err(|error| damaged(name, error))
}

fn parse_name(row: &str, text: &str) -> Result<PeerName, RestoreError> {
    text.parse().map_err(|error| damaged(row, error))
}

fn parse_subnet(text: &str) -> Result<Subnet, RestoreError> {
    text.parse().map_err(|error| damaged(HEADER, error))
}

/// The error that names a row.
pub(super) fn damaged(row: &str, reason: impl ToString) -> RestoreError {
    RestoreError {
        row: row.to_owned(),
        reason: reason.to_string(),
    }
}
