//! A readable copy of the mesh's state for status, report and metrics.

use std::net::SocketAddr;
use std::time::Duration;

use wire::PeerName;
use wire::topology::PeerSummary;

use crate::LinkId;

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
