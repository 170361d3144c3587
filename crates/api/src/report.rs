//! The report: everything `status` and `report` print, with the original's field names.
//!
//! Format: spec/cli-api.md 6. Empty lists are `null` except `TrustedSubnets`; sections of
//! components that are off are absent.

mod allocation;

use std::collections::BTreeMap;

pub use allocation::{ClaimedCidr, Contest, Displaced, Ipam, Paxos, PendingClaim, RingEntry};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Top level of the report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Report {
    /// Whether the daemon has finished starting.
    pub ready: bool,
    /// Version of the daemon.
    pub version: String,
    /// State of the version check; always off.
    pub version_check: VersionCheck,
    /// The mesh and the data plane.
    pub router: Router,
    /// Address allocation; absent when it is off.
    #[serde(rename = "IPAM", default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<Ipam>,
}

/// State of the version check. Weft never checks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VersionCheck {
    /// Whether checking is on.
    pub enabled: bool,
    /// Whether the last check worked.
    pub success: bool,
    /// A newer version, or empty.
    pub new_version: String,
    /// When the next check is due.
    pub next_check_at: String,
}

/// The mesh and the data plane.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Router {
    /// Always `weave`.
    pub protocol: String,
    /// Lowest protocol version accepted.
    pub protocol_min_version: u8,
    /// Highest protocol version accepted.
    pub protocol_max_version: u8,
    /// Whether a password is set.
    pub encryption: bool,
    /// Whether peers are discovered through other peers.
    pub peer_discovery: bool,
    /// Our name.
    pub name: String,
    /// Our nickname.
    pub nick_name: String,
    /// TCP port of the mesh.
    pub port: u16,
    /// All peers known.
    #[serde(serialize_with = "null_if_empty", deserialize_with = "empty_if_null")]
    pub peers: Vec<Peer>,
    /// Next hop per destination; our own has the all-zero name.
    #[serde(serialize_with = "null_if_empty", deserialize_with = "empty_if_null")]
    pub unicast_routes: Vec<UnicastRoute>,
    /// Neighbours that get a copy, per origin.
    #[serde(serialize_with = "null_if_empty", deserialize_with = "empty_if_null")]
    pub broadcast_routes: Vec<BroadcastRoute>,
    /// Our connections and the targets we are not connected to.
    #[serde(serialize_with = "null_if_empty", deserialize_with = "empty_if_null")]
    pub connections: Vec<Connection>,
    /// Connections that ended since start.
    pub termination_count: u64,
    /// Peers the user asked for, as typed.
    #[serde(serialize_with = "null_if_empty", deserialize_with = "empty_if_null")]
    pub targets: Vec<String>,
    /// Diagnostics per overlay.
    pub overlay_diagnostics: BTreeMap<String, Option<serde_json::Value>>,
    /// Subnets in which connections are not encrypted.
    pub trusted_subnets: Vec<String>,
    /// Where container frames enter and leave.
    pub interface: String,
    /// Times the daemon waited for its disk since it started; Weft only.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub state_commits: u64,
    /// Counters of that interface.
    pub capture_stats: Option<BTreeMap<String, u64>>,
    /// Learned owners of MAC addresses.
    #[serde(
        rename = "MACs",
        serialize_with = "null_if_empty",
        deserialize_with = "empty_if_null"
    )]
    pub macs: Vec<Mac>,
}

/// One peer as the topology describes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its nickname.
    pub nick_name: String,
    /// Its process incarnation.
    #[serde(rename = "UID")]
    pub uid: u64,
    /// Its short id; 0 when it has none.
    #[serde(rename = "ShortID")]
    pub short_id: u16,
    /// Change counter of its entry.
    pub version: u64,
    /// Its connections as it sees them.
    #[serde(serialize_with = "null_if_empty", deserialize_with = "empty_if_null")]
    pub connections: Vec<PeerConnection>,
}

/// One connection of a peer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PeerConnection {
    /// Name of the other end.
    pub name: String,
    /// Nickname of the other end.
    pub nick_name: String,
    /// Address of the other end as this peer saw it.
    pub address: String,
    /// Whether this peer dialled.
    pub outbound: bool,
    /// Whether the data path is confirmed.
    pub established: bool,
}

/// Next hop of one destination.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UnicastRoute {
    /// Destination.
    pub dest: String,
    /// Next hop.
    pub via: String,
}

/// Who gets copies of broadcasts of one origin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BroadcastRoute {
    /// Origin.
    pub source: String,
    /// Neighbours.
    #[serde(serialize_with = "null_if_empty", deserialize_with = "empty_if_null")]
    pub via: Vec<String>,
}

/// One of our connections, or a target we are not connected to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Connection {
    /// TCP address of the other end.
    pub address: String,
    /// Whether we dialled or would dial.
    pub outbound: bool,
    /// `established`, `pending`, `retrying`, `failed`, `connecting` or `waiting`.
    pub state: String,
    /// Words for people; see spec/cli-api.md 5.
    pub info: String,
    /// Properties of the tunnel; absent for targets.
    pub attrs: Option<Attrs>,
}

/// Properties of the tunnel of a connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Attrs {
    /// Present and true when the data plane is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// Overlay MTU in bytes, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<usize>,
    /// Overlay in use.
    pub name: String,
    /// What seals datagrams, if anything does; Weft only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// Why this overlay was chosen; Weft only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Learned owner of a MAC address.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Mac {
    /// The address.
    pub mac: String,
    /// Name of the peer behind which it is.
    pub name: String,
    /// That peer's nickname.
    pub nick_name: String,
    /// When it was last seen, RFC 3339.
    pub last_seen: String,
}

impl Report {
    /// The report in the original's JSON form: four-space indent, HTML characters escaped, no
    /// newline at the end.
    pub fn to_json(&self) -> String {
        crate::json::pretty(self)
    }

    /// The report as a template sees it: sections that are off exist and are null.
    pub fn to_value(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).expect("report types always serialize");
        if let Some(top) = value.as_object_mut() {
            for section in ["IPAM", "DNS", "Proxy", "Plugin"] {
                top.entry(section).or_insert(serde_json::Value::Null);
            }
        }
        value
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn null_if_empty<T: Serialize, S: Serializer>(
    list: &[T],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if list.is_empty() {
        serializer.serialize_none()
    } else {
        list.serialize(serializer)
    }
}

fn empty_if_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_json_has_the_original_field_names_in_order() {
        let report = Report {
            ready: true,
            version: "1.2.3".into(),
            router: Router {
                protocol: "weave".into(),
                protocol_min_version: 1,
                protocol_max_version: 2,
                name: "00:00:00:00:00:01".into(),
                nick_name: "a<b>&".into(),
                port: 6783,
                peers: vec![Peer {
                    uid: u64::MAX,
                    ..Peer::default()
                }],
                connections: vec![Connection {
                    attrs: Some(Attrs {
                        encrypted: Some(true),
                        mtu: Some(1414),
                        name: "sleeve".into(),
                        cipher: None,
                        reason: None,
                    }),
                    ..Connection::default()
                }],
                overlay_diagnostics: BTreeMap::from([("sleeve".to_owned(), None)]),
                ..Router::default()
            },
            ..Report::default()
        };
        let text = report.to_json();
        assert_eq!(text, include_str!("../testdata/report.json").trim_end());
        let back: Report = serde_json::from_str(&text).expect("our own report parses");
        assert_eq!(back, report);
    }

    #[test]
    fn sections_that_are_off_are_absent_in_json_and_null_in_templates() {
        let report = Report::default();
        assert!(!report.to_json().contains("IPAM"));
        assert!(report.to_value()["IPAM"].is_null());
        assert!(
            report
                .to_value()
                .as_object()
                .expect("an object")
                .contains_key("IPAM")
        );
    }
}
