//! The `IPAM` section of the report (spec/ipam.md 12). What Weft adds to the original's fields is
//! left out while there is nothing to say.

use serde::{Deserialize, Serialize};

/// Address allocation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Ipam {
    /// The election, while it lasts.
    pub paxos: Option<Paxos>,
    /// Everything that is managed.
    pub range: String,
    /// How many addresses that is.
    #[serde(rename = "RangeNumIPs")]
    pub range_num_ips: u64,
    /// Addresses in use here.
    #[serde(rename = "ActiveIPs")]
    pub active_ips: u64,
    /// Where addresses are allocated by default.
    pub default_subnet: String,
    /// The ring; `None` while there is none.
    pub entries: Option<Vec<RingEntry>>,
    /// Claims that wait.
    pub pending_claims: Option<Vec<PendingClaim>>,
    /// Allocations that wait: identifier and subnet.
    pub pending_allocates: Option<Vec<String>>,
    /// The one line of `status`; Weft only.
    #[serde(default)]
    pub status: String,
    /// Ranges that nobody may use as two peers say they own them; Weft only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contested: Vec<Contest>,
    /// Ranges we were given and do not use until their former owner agrees; Weft only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unconfirmed: Vec<String>,
    /// Addresses in use here whose range was taken over while we were away; Weft only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub displaced: Vec<Displaced>,
    /// What is known about another machine with our name; Weft only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<String>,
}

/// An election under way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Paxos {
    /// Whether we vote.
    pub elector: bool,
    /// Nodes heard of.
    pub known_nodes: usize,
    /// Votes needed.
    pub quorum: usize,
}

/// One entry of the ring.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RingEntry {
    /// First address.
    pub token: String,
    /// Addresses up to the next entry.
    pub size: u32,
    /// Owner.
    pub peer: String,
    /// Its nickname, empty if never heard.
    pub nickname: String,
    /// Whether the mesh knows it.
    pub is_known_peer: bool,
    /// Version of the entry.
    pub version: u32,
}

/// A claim that waits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PendingClaim {
    /// For whom.
    pub ident: String,
    /// What.
    #[serde(rename = "CIDR")]
    pub cidr: ClaimedCidr,
}

/// An address and its prefix, as the original takes them apart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ClaimedCidr {
    /// The address.
    pub addr: String,
    /// Length of the prefix, bits.
    pub prefix_len: u8,
}

/// A range two peers say they own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Contest {
    /// First and last address.
    pub range: String,
    /// The owner by our ring.
    pub ours: String,
    /// The owner by the ring we were told.
    pub theirs: String,
    /// Who told us.
    pub teller: String,
}

/// An address used here whose range belongs to somebody else by now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Displaced {
    /// Who uses it.
    pub ident: String,
    /// The address.
    pub address: String,
    /// What it clashes with; absent while its owner is asked to let us keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clash: Option<String>,
}
