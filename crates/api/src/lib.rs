//! Serializable types of the HTTP API and a small blocking client for the command line.
//!
//! `report` is the original's report (spec/cli-api.md 6), field names included; `v1` is Weft's own
//! JSON API under `/v1/`; `json` writes JSON the way the original does; `client` speaks HTTP/1.1
//! over a Unix socket or loopback TCP. Nothing here knows the node.

pub mod client;
pub mod json;
pub mod report;
pub mod v1;

/// Address of the control API unless configured otherwise.
pub const DEFAULT_HTTP_ADDR: &str = "127.0.0.1:6784";
/// Address of the status API unless configured otherwise.
pub const DEFAULT_STATUS_ADDR: &str = "127.0.0.1:6782";
/// File name of the control socket in the run directory.
pub const SOCKET_NAME: &str = "weft.sock";
