//! Flags of the daemon, taken by `daemon` and `launch` (spec/cli-api.md 3).

use clap::Args;
use daemon::config::DEFAULT_PORT;
use linux::bridge::DEFAULT_BRIDGE;

use super::absent::AbsentFlags;
use crate::variables;

/// What addresses are allocated from unless the user says otherwise.
pub(crate) const DEFAULT_RANGE: &str = "10.32.0.0/12";

/// Words of `launch`.
#[derive(Args)]
pub(crate) struct LaunchArgs {
    #[command(flatten)]
    pub(crate) launch: LaunchFlags,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

/// How a daemon is launched.
#[derive(Args)]
pub(crate) struct LaunchFlags {
    /// Do not start the daemon again when it dies.
    #[arg(long)]
    pub(crate) no_restart: bool,
    /// Stay in the foreground.
    #[arg(long)]
    pub(crate) foreground: bool,
}

/// Words of `daemon`.
#[derive(Args)]
pub(crate) struct DaemonArgs {
    /// Host names or addresses, with a port if it is not 6783.
    #[arg(value_name = "PEER")]
    pub(crate) peers: Vec<String>,
    #[command(flatten, next_help_heading = "Mesh")]
    pub(crate) mesh: MeshFlags,
    #[command(flatten, next_help_heading = "Encryption")]
    pub(crate) encryption: EncryptionFlags,
    #[command(flatten, next_help_heading = "Addresses")]
    pub(crate) addresses: AddressFlags,
    #[command(flatten, next_help_heading = "Host")]
    pub(crate) host: HostFlags,
    #[command(flatten, next_help_heading = "API")]
    pub(crate) api: ApiFlags,
    #[command(flatten, next_help_heading = "Instead of running")]
    pub(crate) instead: InsteadFlags,
    #[command(flatten)]
    pub(crate) absent: AbsentFlags,
}

/// Us among our peers.
#[derive(Args)]
pub(crate) struct MeshFlags {
    /// Listen on this address only.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) host: Option<String>,
    /// Mesh port, TCP and UDP.
    #[arg(long, env = "WEAVE_PORT", default_value_t = u32::from(DEFAULT_PORT))]
    pub(crate) port: u32,
    /// Refuse peers that speak only older versions, 1 or 2.
    #[arg(long, value_name = "VERSION", default_value_t = 1)]
    pub(crate) min_protocol_version: u32,
    /// Name of this peer, written like a MAC address.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Nickname of this peer instead of the host name.
    #[arg(long, value_name = "TEXT")]
    pub(crate) nickname: Option<String>,
    /// Connect only to the peers given.
    #[arg(long)]
    pub(crate) no_discovery: bool,
    /// Most connections, 0 for no limit.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) conn_limit: u32,
    /// Connect to the peers remembered from the last run.
    #[arg(long)]
    pub(crate) resume: bool,
}

/// What is encrypted, by which passphrase.
#[derive(Args)]
pub(crate) struct EncryptionFlags {
    /// Encrypt; all peers need the same passphrase. Better in a file or in the environment.
    #[arg(long, value_name = "PASSPHRASE", env = "WEAVE_PASSWORD")]
    pub(crate) password: Option<String>,
    /// Read the passphrase from a file, - for input.
    #[arg(long, value_name = "PATH")]
    pub(crate) password_file: Option<String>,
    /// Do not encrypt between addresses in these subnets.
    #[arg(
        long,
        value_name = "CIDR,...",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) trusted_subnets: String,
}

/// Allocation of addresses.
#[derive(Args)]
pub(crate) struct AddressFlags {
    #[arg(long, value_name = "CIDR", alias = "iprange", help = format!(
        "Addresses to allocate, the same on all hosts; empty for none [default: {DEFAULT_RANGE}]"
    ))]
    pub(crate) ipalloc_range: Option<String>,
    /// Where to allocate when no subnet is asked for, instead of the whole range.
    #[arg(long, value_name = "CIDR")]
    pub(crate) ipalloc_default_subnet: Option<String>,
    /// How the first addresses are divided: consensus[=PEERS], seed=NAME,... or observer.
    #[arg(long, value_name = "MODE")]
    pub(crate) ipalloc_init: Option<String>,
    /// Take the addresses of a peer gone for so long, by majority: 90s, 10m, 12h, 7d or never.
    #[arg(long, value_name = "DURATION", env = "WEFT_RECLAIM_AFTER")]
    pub(crate) reclaim_after: Option<String>,
}

/// What we use of this host, and how.
#[derive(Args)]
pub(crate) struct HostFlags {
    /// Name of the bridge.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_BRIDGE)]
    pub(crate) weave_bridge: String,
    /// Name of Docker's bridge.
    #[arg(
        long,
        value_name = "NAME",
        env = "DOCKER_BRIDGE",
        default_value = "docker0"
    )]
    pub(crate) docker_bridge: String,
    /// Docker engine; empty for none.
    #[arg(long, value_name = "ADDRESS", env = "DOCKER_HOST", default_value = daemon::docker::DEFAULT_ADDRESS)]
    pub(crate) docker_api: String,
    /// MTU of the network instead of 1376; 0 for that.
    #[arg(long, value_name = "BYTES", env = "WEAVE_MTU")]
    pub(crate) mtu: Option<String>,
    /// Without the fast datapath; MTU 65535 unless given.
    #[arg(long, env = "WEAVE_NO_FASTDP")]
    pub(crate) no_fastdp: bool,
    /// Where the host's file system is mounted.
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub(crate) host_root: String,
    /// What to log: debug, info, warning or error.
    #[arg(long, value_name = "LEVEL", env = "WEFT_LOG")]
    pub(crate) log_level: Option<String>,
    /// Use the routers of a cloud.
    #[arg(long, hide = true)]
    pub(crate) awsvpc: bool,
}

/// Who can ask us, and where. An absolute path is a socket.
#[derive(Args)]
pub(crate) struct ApiFlags {
    /// Control API; empty for off.
    #[arg(long, value_name = "ADDRESS", env = variables::HTTP_ADDR, default_value = api::DEFAULT_HTTP_ADDR)]
    pub(crate) http_addr: String,
    /// Status and metrics; empty for off.
    #[arg(long, value_name = "ADDRESS", env = variables::STATUS_ADDR, default_value = api::DEFAULT_STATUS_ADDR)]
    pub(crate) status_addr: String,
    /// Metrics only.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) metrics_addr: String,
}

/// Words that want an answer instead of a daemon.
#[derive(Args)]
pub(crate) struct InsteadFlags {
    /// Print the version.
    #[arg(long)]
    pub(crate) version: bool,
    /// Print the name this peer would have.
    #[arg(long)]
    pub(crate) print_peer_name: bool,
}
