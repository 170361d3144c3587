//! What a daemon is told at start: validated, complete, and never changed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipam::Init;
use ipam::address::Subnet;
use mesh::{Password, TrustedSubnet};
use wire::PeerName;

/// Directory of durable state unless `WEFT_STATE_DIR` says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/weft";
/// Directory of sockets and run files unless `WEFT_RUN_DIR` says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/weft";
/// Mesh port of the original.
pub const DEFAULT_PORT: u16 = 6783;
/// Container MTU when the user switches the fast datapath off, as in the original; path discovery
/// does the rest (design 3).
pub const MTU_WITHOUT_FASTDP_BYTES: u32 = 65_535;

/// Everything a daemon is told. Holds the passphrase, hence no `Debug`.
pub struct Config {
    /// The mesh.
    pub mesh: MeshOptions,
    /// This host.
    pub host: HostOptions,
    /// Listeners for people and programs.
    pub http: HttpOptions,
    /// Address allocation, unless it is off.
    pub ipam: Option<IpamOptions>,
    /// The command line as a log line may show it: without secrets.
    pub shown_options: String,
}

/// Options of the mesh.
pub struct MeshOptions {
    /// Address to listen on and dial from; all when absent.
    pub listen: Option<IpAddr>,
    /// TCP and UDP port.
    pub port: u16,
    /// Lowest protocol version accepted, 1 or 2.
    pub min_protocol_version: u8,
    /// Highest protocol version spoken: 2, or 1 to rehearse the old one.
    pub max_protocol_version: u8,
    /// Name given by the user.
    pub name: Option<PeerName>,
    /// Nickname; the host name by default.
    pub nickname: String,
    /// Passphrase.
    pub password: Option<Password>,
    /// What may seal datagrams between Wefts.
    pub sleeve_cipher: SleeveCipher,
    /// Subnets in which connections are not encrypted.
    pub trusted_subnets: Vec<TrustedSubnet>,
    /// Whether to dial peers learned from others.
    pub discovery: bool,
    /// Most connections; 0 means no limit.
    pub conn_limit: usize,
    /// Use the remembered peers only.
    pub resume: bool,
    /// Peers to connect to.
    pub peers: Vec<String>,
}

/// What may seal datagrams between Wefts (docs/sleeve-cipher.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SleeveCipher {
    /// AES-256-GCM where both processors have instructions for it, else secretbox.
    #[default]
    Auto,
    /// The original's secretbox, as towards originals.
    Secretbox,
}

impl SleeveCipher {
    /// Whether we offer AES-256-GCM. Without its instructions it would be slow.
    pub fn offers_aes_gcm(self) -> bool {
        self == Self::Auto && has_aes_instructions()
    }
}

#[cfg(target_arch = "x86_64")]
fn has_aes_instructions() -> bool {
    is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes_instructions() -> bool {
    use std::arch::is_aarch64_feature_detected;
    is_aarch64_feature_detected!("aes") && is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const fn has_aes_instructions() -> bool {
    false
}

/// Options of address allocation.
#[derive(Debug, Clone)]
pub struct IpamOptions {
    /// Everything that is managed.
    pub universe: Subnet,
    /// Where addresses are allocated when no subnet is asked for.
    pub default_subnet: Subnet,
    /// How the ring comes into being.
    pub init: Init,
    /// After which absence the ranges of a peer may be taken over by vote.
    pub reclaim_after: Option<Duration>,
}

/// Options of this host.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Name of the bridge.
    pub bridge: String,
    /// Name of Docker's bridge.
    pub docker_bridge: String,
    /// MTU of bridge and containers, bytes.
    pub mtu_bytes: u32,
    /// Where the Docker engine is; `None` when Docker is not used.
    pub docker_address: Option<String>,
    /// Where the host's file system is seen.
    pub host_root: PathBuf,
    /// Durable state.
    pub state_dir: PathBuf,
    /// Sockets and run files.
    pub run_dir: PathBuf,
}

/// Listeners; absent means off. An absolute path is a Unix socket.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Everything.
    pub control: Option<String>,
    /// Status, report and metrics.
    pub status: Option<String>,
    /// Metrics only.
    pub metrics: Option<String>,
}
