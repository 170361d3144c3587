//! The node's state and the data plane's counters in the words of the API: as a report (spec/cli-api.md 6)
//! and as what metrics count (7).

mod allocation;

use std::collections::BTreeMap;
use std::time::Duration;

use api::report::{
    Attrs, BroadcastRoute, Connection, Mac, Peer, PeerConnection, Report, Router, UnicastRoute,
    VersionCheck,
};
use mesh::status::{ConnectionStatus, MeshStatus, TargetState, TargetStatus};
use node::{NodeCounts, NodeStatus};
use overlay::TunnelStatus;
use report::metrics::{Connections, Counts};
use wire::PeerName;

use crate::clock::Calendar;

/// What a report needs beyond the node's own status.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Version of this program.
    pub version: String,
    /// Whether start-up is complete.
    pub ready: bool,
    /// Mesh port.
    pub port: u16,
    /// Where container frames enter and leave.
    pub interface: String,
    /// Counters of that interface.
    pub capture_stats: BTreeMap<String, u64>,
    /// Learned owners of MAC addresses.
    pub macs: Vec<LearnedMac>,
    /// Transactions made durable since start.
    pub state_commits: u64,
    /// Wall-clock time now, since 1970.
    pub unix_time: Duration,
}

/// A MAC address and the peer behind which it is.
#[derive(Debug, Clone)]
pub struct LearnedMac {
    /// The address.
    pub mac: [u8; 6],
    /// The peer.
    pub owner: PeerName,
    /// How long ago a frame from it was seen.
    pub age: Duration,
}

/// What metrics count of the node.
pub fn counts(counts: &NodeCounts) -> Counts {
    let live = counts.connections.iter().map(|(class, count)| Connections {
        state: live_state(class.established),
        kind: class.tunnel,
        encrypted: class.encrypted,
        count: *count,
    });
    let targets = [
        ("connecting", counts.targets.connecting),
        ("retrying", counts.targets.retrying),
        ("failed", counts.targets.failed),
        ("waiting", counts.targets.waiting),
    ];
    let targets = targets.map(|(state, count)| Connections {
        state,
        kind: "unknown",
        encrypted: false,
        count,
    });
    let allocation = counts.ipam.as_ref();
    let allocation = allocation.map(|ipam| allocation::counts(ipam, counts.has_clone));
    Counts {
        connections: live.chain(targets).collect(),
        terminations: counts.termination_count,
        peers: counts.peers,
        allocation: allocation.unwrap_or_default(),
        ..Counts::default()
    }
}

/// Builds the report.
pub fn report(status: &NodeStatus, facts: &Facts) -> Report {
    Report {
        ready: facts.ready,
        version: facts.version.clone(),
        version_check: VersionCheck {
            next_check_at: "0001-01-01T00:00:00Z".to_owned(),
            ..VersionCheck::default()
        },
        router: router(status, facts),
        ipam: status
            .ipam
            .as_ref()
            .map(|ipam| allocation::report(ipam, status.clone_text.as_deref())),
    }
}

fn router(status: &NodeStatus, facts: &Facts) -> Router {
    let mesh = &status.mesh;
    let nicknames: BTreeMap<PeerName, &str> = mesh
        .peers
        .iter()
        .map(|peer| (peer.name, peer.nickname.as_str()))
        .collect();
    let nickname = |name: PeerName| nicknames.get(&name).copied().unwrap_or_default().to_owned();
    Router {
        protocol: "weave".to_owned(),
        protocol_min_version: mesh.protocol_versions.0,
        protocol_max_version: mesh.protocol_versions.1,
        encryption: mesh.encryption,
        peer_discovery: mesh.discovery,
        name: mesh.name.to_string(),
        nick_name: mesh.nickname.clone(),
        port: facts.port,
        peers: peers(mesh, &nickname),
        unicast_routes: mesh
            .unicast_routes
            .iter()
            .map(|(dest, via)| UnicastRoute {
                dest: dest.to_string(),
                via: via.to_string(),
            })
            .collect(),
        broadcast_routes: mesh
            .broadcast_routes
            .iter()
            .map(|(source, via)| BroadcastRoute {
                source: source.to_string(),
                via: via.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        connections: connections(status, facts.unix_time),
        termination_count: mesh.termination_count,
        targets: mesh.direct_peers.clone(),
        overlay_diagnostics: BTreeMap::from([("sleeve".to_owned(), None)]),
        trusted_subnets: mesh.trusted_subnets.clone(),
        interface: facts.interface.clone(),
        state_commits: facts.state_commits,
        capture_stats: Some(facts.capture_stats.clone()),
        macs: facts
            .macs
            .iter()
            .map(|learned| Mac {
                mac: PeerName::from_bytes(learned.mac).to_string(),
                name: learned.owner.to_string(),
                nick_name: nickname(learned.owner),
                last_seen: Calendar::from_unix(facts.unix_time.saturating_sub(learned.age))
                    .rfc3339(),
            })
            .collect(),
    }
}

fn peers(mesh: &MeshStatus, nickname: &dyn Fn(PeerName) -> String) -> Vec<Peer> {
    let connection = |connection: &wire::topology::ConnectionSummary| PeerConnection {
        name: connection.remote.to_string(),
        nick_name: nickname(connection.remote),
        address: connection.remote_address.clone(),
        outbound: connection.outbound,
        established: connection.established,
    };
    mesh.peers
        .iter()
        .map(|peer| Peer {
            name: peer.name.to_string(),
            nick_name: peer.nickname.clone(),
            uid: peer.uid,
            short_id: peer.short_id.unwrap_or_default(),
            version: peer.version,
            connections: peer.connections.iter().map(connection).collect(),
        })
        .collect()
}

fn connections(status: &NodeStatus, unix_time: Duration) -> Vec<Connection> {
    let tunnels: BTreeMap<_, _> = status
        .tunnels
        .iter()
        .map(|tunnel| (tunnel.link, tunnel))
        .collect();
    let live = status.mesh.connections.iter().map(|connection| {
        live_connection(
            connection,
            tunnels.get(&connection.link).copied(),
            status.mesh.encryption,
        )
    });
    let targets = status
        .mesh
        .targets
        .iter()
        .map(|target| target_connection(target, unix_time));
    live.chain(targets).collect()
}

fn live_connection(
    connection: &ConnectionStatus,
    tunnel: Option<&TunnelStatus>,
    has_password: bool,
) -> Connection {
    let overlay = tunnel.map_or("none", |tunnel| tunnel.name);
    let encryption = match (has_password, connection.data_encrypted) {
        (false, _) => "",
        (true, true) => "encrypted   ",
        (true, false) => "unencrypted ",
    };
    let info = format!(
        "{encryption}{overlay:<6} {}({})",
        connection.remote, connection.remote_nickname
    );
    let attrs = Attrs {
        encrypted: tunnel
            .is_some_and(|tunnel| tunnel.cipher.is_some())
            .then_some(true),
        mtu: tunnel
            .map(|tunnel| tunnel.mtu_bytes)
            .filter(|&bytes| bytes > 0),
        name: overlay.to_owned(),
        cipher: tunnel
            .and_then(|tunnel| tunnel.cipher)
            .map(|cipher| cipher.name().to_owned()),
        reason: tunnel.map(|tunnel| tunnel.reason.to_string()),
    };
    Connection {
        address: connection.remote_address.to_string(),
        outbound: connection.outbound,
        state: live_state(connection.established).to_owned(),
        info,
        attrs: Some(attrs),
    }
}

fn live_state(established: bool) -> &'static str {
    if established {
        "established"
    } else {
        "pending"
    }
}

fn target_connection(target: &TargetStatus, unix_time: Duration) -> Connection {
    let at = |wait: Duration| Calendar::from_unix(unix_time + wait).status_stamp();
    let (state, info) = match &target.state {
        TargetState::Connecting => ("connecting", String::new()),
        TargetState::Retrying(error) => ("retrying", error.clone()),
        TargetState::Failed { error, retry_in } => {
            let retry = retry_in.map_or_else(|| "never".to_owned(), at);
            ("failed", format!("{error}, retry: {retry}"))
        }
        TargetState::Waiting { until } => ("waiting", format!("until: {}", at(*until))),
    };
    Connection {
        address: target.address.to_string(),
        outbound: true,
        state: state.to_owned(),
        info,
        attrs: None,
    }
}

#[cfg(test)]
mod tests;
