//! What there is to see of a node.

use ipam::status::IpamStatus;
use mesh::status::MeshStatus;
use overlay::TunnelStatus;

/// A copy of a node's state for status and report.
#[derive(Debug, Clone, Default)]
pub struct NodeStatus {
    /// The mesh.
    pub mesh: MeshStatus,
    /// The tunnel of each live connection.
    pub tunnels: Vec<TunnelStatus>,
    /// Address allocation, if this peer takes part in it.
    pub ipam: Option<IpamStatus>,
    /// While another live peer has our name: the text that says so.
    pub clone_text: Option<String>,
}
