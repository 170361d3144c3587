//! One Weft peer: mesh, overlay and address allocation composed into one state machine. Performs no
//! I/O.
//!
//! This file lists everything that can happen to a node ([`Input`]) and everything it may ask of its
//! shell ([`Output`]); [`Node`] states the contract between them. The shell is `daemon` in
//! production and `sim` in simulation.

#![forbid(unsafe_code)]

mod node;

pub use node::{Config, Node};

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use ipam::rows::RowWrite;
use ipam::status::IpamStatus;
use ipam::{Answer, ContainerEvent, Request};
use mesh::DirectPeer;
use mesh::status::MeshStatus;
use overlay::TunnelStatus;
use overlay::kind::{Probe, TunnelEvent};
use overlay::mac::{MacCorrection, Sighting};
use overlay::table::ForwardingTable;
use wire::LinkId;

/// Correlates a command with its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

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
}

/// Requests of the operator.
#[derive(Debug)]
pub enum Command {
    /// Add or, with `replace`, replace the direct peers.
    Connect {
        /// Resolved peers.
        peers: Vec<DirectPeer>,
        /// Forget all earlier direct peers first.
        replace: bool,
    },
    /// Remove direct peers by the text they were given as.
    Forget {
        /// The texts.
        peers: Vec<String>,
    },
    /// A copy of the state.
    Status,
    /// Something about addresses. The answer may come much later, or never be needed: see `Cancel`.
    Ipam(Request),
    /// Whoever asked this is gone. Not replied to itself; what it names is, at once.
    Cancel(RequestId),
    /// Something happened to a container.
    Container {
        /// Its id.
        ident: String,
        /// What.
        event: ContainerEvent,
    },
    /// At start: the containers that run.
    Running(BTreeSet<String>),
}

/// Answers to commands.
#[derive(Debug)]
pub enum Reply {
    /// Nothing to say.
    Done,
    /// Answer to `Command::Status`.
    Status(Box<NodeStatus>),
    /// Answer to `Command::Ipam`.
    Ipam(Answer),
    /// Answer to `Command::Ipam` of a peer that allocates no addresses.
    NoIpam,
}

/// What the shell must do, in order.
#[derive(Debug)]
pub enum Output {
    /// Make durable before doing anything queued behind it.
    Persist(Record),
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

/// State that must survive a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The direct peers, as typed.
    DirectPeers(Vec<String>),
    /// Rows of address allocation; those of one record become durable together.
    Rows(Vec<RowWrite>),
}

/// A copy of a node's state for status, report and metrics.
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
