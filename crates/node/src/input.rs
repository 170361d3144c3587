//! Everything that can happen to a node.

use std::net::SocketAddr;

use overlay::kind::TunnelEvent;
use overlay::mac::Sighting;
use wire::LinkId;

use crate::command::{Command, RequestId};

/// Everything that can happen to a node.
#[derive(Debug)]
pub enum Input {
    /// The shell accepted a TCP connection and numbered it.
    LinkAccepted {
        /// Its number.
        link: LinkId,
        /// Our end.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
    },
    /// A dial succeeded.
    LinkConnected {
        /// The number given by `Output::Dial`.
        link: LinkId,
        /// Our end.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
    },
    /// A dial failed.
    DialFailed {
        /// The number given by `Output::Dial`.
        link: LinkId,
        /// Why, as the operator should read it.
        error: String,
    },
    /// Bytes arrived on a link, cut anywhere.
    LinkBytes {
        /// The link.
        link: LinkId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Everything queued on a link has been written.
    LinkFlushed {
        /// The link.
        link: LinkId,
    },
    /// A link ended: end of file or an error.
    LinkClosed {
        /// The link.
        link: LinkId,
        /// Why.
        error: String,
    },
    /// News from the data plane about a tunnel.
    Tunnel(TunnelEvent),
    /// The data plane learned where addresses are.
    Learned(Vec<Sighting>),
    /// A request of the operator; answered by `Output::Reply` with the same id.
    Command {
        /// Correlation.
        id: RequestId,
        /// What is asked.
        command: Command,
    },
    /// Whoever gave the command of this number is gone: what still waits is replied to at once.
    Cancelled(RequestId),
}
