//! Everything a node may ask of its shell.

use std::net::SocketAddr;
use std::sync::Arc;

use ipam::rows::RowWrite;
use overlay::kind::Probe;
use overlay::mac::MacCorrection;
use overlay::table::ForwardingTable;
use wire::LinkId;

use crate::command::{Reply, RequestId};

/// What the shell must do, in order, once the records of its [`Turn`](crate::Turn) are durable.
#[derive(Debug)]
pub enum Output {
    /// Open a TCP connection; answer with `LinkConnected` or `DialFailed`.
    Dial {
        /// Its number.
        link: LinkId,
        /// Where to.
        remote: SocketAddr,
    },
    /// Write bytes to a link; answer with `LinkFlushed` when its queue is empty.
    Send {
        /// The link.
        link: LinkId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Close a link at once, discarding what is queued.
    Close {
        /// The link.
        link: LinkId,
    },
    /// Publish to the data plane.
    Program(Arc<ForwardingTable>),
    /// Correct what the data plane learned.
    Correct(MacCorrection),
    /// Have the data plane send a special frame, after the `Program` queued before it.
    Probe(Probe),
    /// Answer a command.
    Reply {
        /// Correlation.
        id: RequestId,
        /// The answer.
        reply: Reply,
    },
}

/// State that must survive a restart, and must be durable before anything is done that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The direct peers, as typed.
    DirectPeers(Vec<String>),
    /// Rows of address allocation; those of one record become durable together.
    Rows(Vec<RowWrite>),
}
