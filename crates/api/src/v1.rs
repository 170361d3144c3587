//! Weft's own JSON API under `/v1/`.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | `Status` |
//! | `GET /v1/ps` | | list of `Attachment` |
//! | `POST /v1/attach` | `AttachRequest` | `Addresses` |
//! | `POST /v1/detach` | `DetachRequest` | `Addresses` |
//! | `POST /v1/claim` | `ClaimRequest` | `Addresses` |
//! | `POST /v1/expose` | `ExposeRequest` | `Addresses` |
//! | `POST /v1/hide` | `HideRequest` | `Addresses` |
//!
//! An address is `10.32.1.5/12` or `ip:10.32.1.5/12` for exactly that one, `net:10.32.1.0/24` for any
//! in a subnet, `net:default` for any in the default subnet.
//!
//! A refusal is `Failure` with a 4xx or 5xx status.

use serde::{Deserialize, Serialize};

/// What to attach: one of three ways to name a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Target {
    /// A Docker container by id or name.
    Container(String),
    /// Absolute path of a network namespace file.
    Netns(String),
    /// A process of the daemon's process namespace.
    Pid(u32),
}

/// Joins a namespace to the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// Whose namespace.
    pub target: Target,
    /// Addresses; none means `net:default`.
    pub addresses: Vec<String>,
    /// Whether to add the multicast route.
    pub multicast: bool,
    /// Wait for addresses as long as it takes, instead of five seconds each.
    #[serde(default)]
    pub wait: bool,
}

/// Claims addresses for a namespace without plugging it in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimRequest {
    /// Whose addresses.
    pub target: Target,
    /// Addresses with prefix length; at least one.
    pub addresses: Vec<String>,
    /// Wait as long as it takes, instead of five seconds each.
    #[serde(default)]
    pub wait: bool,
}

/// Takes addresses, or the whole interface, away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetachRequest {
    /// Whose namespace.
    pub target: Target,
    /// Addresses to remove; none means `net:default`, or all where no addresses are allocated.
    pub addresses: Vec<String>,
}

/// Gives the host addresses in subnets of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExposeRequest {
    /// Addresses; none means `net:default`.
    pub addresses: Vec<String>,
    /// Whether traffic between the subnet and the rest of the world is masqueraded.
    pub masquerade: bool,
    /// Wait for addresses as long as it takes, instead of five seconds each.
    #[serde(default)]
    pub wait: bool,
}

/// Takes addresses of the host away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HideRequest {
    /// Addresses to remove; none means `net:default`, or all where no addresses are allocated.
    pub addresses: Vec<String>,
}

/// Addresses that were acted on, with prefix length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The addresses in the order of the request.
    pub addresses: Vec<String>,
    /// What the operator should know although the request was carried out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One attachment of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// `weave:expose`, a container id, a namespace path or `pid:N`.
    pub id: String,
    /// Container name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// MAC address of the interface; empty when the interface is gone.
    pub mac: String,
    /// Addresses with prefix length.
    pub addresses: Vec<String>,
}

/// Short summary for scripts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Whether the daemon has finished starting.
    pub ready: bool,
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Our name.
    pub name: String,
    /// Our nickname.
    pub nickname: String,
    /// Whether a password is set.
    pub encryption: bool,
    /// Whether peers are discovered through other peers.
    pub discovery: bool,
    /// Peers the user asked for, as typed.
    pub targets: Vec<String>,
    /// Our connections and the targets we are not connected to.
    pub connections: Vec<crate::report::Connection>,
    /// All peers known.
    pub peers: Vec<crate::report::Peer>,
    /// Trusted subnets.
    pub trusted_subnets: Vec<String>,
    /// Address allocation, where there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<crate::report::Ipam>,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What is wrong, naming the thing.
    pub error: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
