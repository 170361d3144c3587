//! A readable copy of the mesh's state for status, report and metrics.

use std::net::SocketAddr;
use std::time::Duration;

use wire::topology::PeerSummary;
use wire::{LinkId, PeerName};

/// Everything `status` and `report` print about the mesh.
#[derive(Debug, Clone, Default)]
pub struct MeshStatus {
    /// Our name.
    pub name: PeerName,
    /// Our nickname.
    pub nickname: String,
    /// Our process incarnation.
    pub uid: u64,
    /// Lowest and highest protocol version we accept.
    pub protocol_versions: (u8, u8),
    /// Whether a password is set.
    pub encryption: bool,
    /// Whether discovery is on.
    pub discovery: bool,
    /// All peers known, ourselves included, ascending by name.
    pub peers: Vec<PeerSummary>,
    /// Destination and next hop (own: next hop unknown), over established symmetric connections.
    pub unicast_routes: Vec<(PeerName, PeerName)>,
    /// Origin and the neighbours that get a copy.
    pub broadcast_routes: Vec<(PeerName, Vec<PeerName>)>,
    /// Our live connections.
    pub connections: Vec<ConnectionStatus>,
    /// Targets that are not connected, in the states the status shows.
    pub targets: Vec<TargetStatus>,
    /// What the user asked for, as typed.
    pub direct_peers: Vec<String>,
    /// Ended connections, self connections excepted.
    pub termination_count: u64,
    /// Trusted subnets, as text.
    pub trusted_subnets: Vec<String>,
}

/// One live connection.
#[derive(Debug, Clone)]
pub struct ConnectionStatus {
    /// Its link.
    pub link: LinkId,
    /// The other end.
    pub remote: PeerName,
    /// The other end's nickname.
    pub remote_nickname: String,
    /// TCP address of the other end.
    pub remote_address: SocketAddr,
    /// Whether we dialled.
    pub outbound: bool,
    /// Whether the overlay was confirmed.
    pub established: bool,
    /// Whether the data plane is encrypted.
    pub data_encrypted: bool,
    /// Protocol version in use.
    pub protocol_version: u8,
    /// Capability words if the other end is a Weft.
    pub weft: Option<Vec<String>>,
}

/// One address we would like to be connected to.
#[derive(Debug, Clone)]
pub struct TargetStatus {
    /// The address.
    pub address: SocketAddr,
    /// What is happening.
    pub state: TargetState,
}

/// States shown by `status connections` (spec/mesh.md 10.4).
#[derive(Debug, Clone)]
pub enum TargetState {
    /// First attempt under way.
    Connecting,
    /// A later attempt under way; the last error.
    Retrying(String),
    /// Waiting after an error; `None` means never again.
    Failed {
        /// Last error.
        error: String,
        /// Time from now to the next attempt, or never.
        retry_in: Option<Duration>,
    },
    /// Waiting without an error.
    Waiting {
        /// Time from now to the next attempt.
        until: Duration,
    },
}

/// Addresses that are not connected, by the state the status shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TargetCounts {
    /// First attempt under way.
    pub connecting: u64,
    /// A later attempt under way.
    pub retrying: u64,
    /// Waiting after an error.
    pub failed: u64,
    /// Waiting without an error.
    pub waiting: u64,
}

/// Counts for metrics. Taking them looks at our own connections and targets, not at the peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshCounts {
    /// Peers known, ourselves included.
    pub peers: usize,
    /// Our live connections, and whether each is established.
    pub connections: Vec<(LinkId, bool)>,
    /// Targets that are not connected.
    pub targets: TargetCounts,
    /// Ended connections, self connections excepted.
    pub termination_count: u64,
}

/// What a mesh keeps, counted. `_max` counts are those of the link with the most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// TCP connections that stand.
    pub links: usize,
    /// Accepted ones whose introduction is under way.
    pub inbound_handshakes: usize,
    /// Dialled ones whose introduction is under way.
    pub outbound_handshakes: usize,
    /// Connections of our peer entry.
    pub connections: usize,
    /// Dials the shell has not answered.
    pub dials: usize,
    /// Addresses to dial that the user did not give.
    pub discovered_targets: usize,
    /// Entries of the peer table.
    pub peers: usize,
    /// Connections listed in them.
    pub adjacencies: usize,
    /// Entries that are contradicted or refused.
    pub doubts: usize,
    /// Earlier incarnations of peers.
    pub superseded: usize,
    /// Channels passed on for others.
    pub surrogates: usize,
    /// Payloads remembered for them.
    pub remembered_payloads: usize,
    /// Bytes of those.
    pub remembered_bytes: usize,
    /// Bytes a stranger made us keep.
    pub handshake_bytes_max: usize,
    /// Bytes of an unfinished message.
    pub receive_bytes_max: usize,
    /// Gossip items that wait for a link.
    pub outbox_items_max: usize,
    /// Bytes of those.
    pub outbox_bytes_max: usize,
    /// Bytes given to the shell and not written yet.
    pub unflushed_bytes_max: usize,
    /// Outputs not taken; none once the shell has drained them.
    pub outputs: usize,
}

impl Footprint {
    /// The counts by name, in a fixed order.
    pub fn counts(&self) -> [(&'static str, usize); 19] {
        [
            ("links", self.links),
            ("inbound_handshakes", self.inbound_handshakes),
            ("outbound_handshakes", self.outbound_handshakes),
            ("connections", self.connections),
            ("dials", self.dials),
            ("discovered_targets", self.discovered_targets),
            ("peers", self.peers),
            ("adjacencies", self.adjacencies),
            ("doubts", self.doubts),
            ("superseded", self.superseded),
            ("surrogates", self.surrogates),
            ("remembered_payloads", self.remembered_payloads),
            ("remembered_bytes", self.remembered_bytes),
            ("handshake_bytes_max", self.handshake_bytes_max),
            ("receive_bytes_max", self.receive_bytes_max),
            ("outbox_items_max", self.outbox_items_max),
            ("outbox_bytes_max", self.outbox_bytes_max),
            ("unflushed_bytes_max", self.unflushed_bytes_max),
            ("outputs", self.outputs),
        ]
    }

    /// The first count beyond its limit: name, count and limit.
    pub fn excess(&self, limits: &Self) -> Option<(&'static str, usize, usize)> {
        let counts = self.counts().into_iter().zip(limits.counts());
        let mut pairs = counts.map(|((what, count), (_, limit))| (what, count, limit));
        pairs.find(|(_, count, limit)| count > limit)
    }
}
