//! One Weft peer: mesh, overlay and address allocation composed into one state machine. Performs no
//! I/O.
//!
//! [`Input`] lists everything that can happen to a node, [`Output`] everything it may ask of its
//! shell; [`Node`] states the contract between them. The shell is `daemon` in production and `sim` in
//! simulation.

#![forbid(unsafe_code)]

mod allocation;
mod channels;
mod command;
mod forwarding;
mod input;
mod node;
mod output;
mod snapshot;
mod status;
mod tunnels;
mod turn;

pub use command::{Addresses, Ask, Command, Connect, Container, Forget, Reply, RequestId, Running};
pub use input::Input;
pub use node::{Config, Node};
pub use output::{Output, Record};
pub use snapshot::{ConnectionClass, NodeCounts, NodeSnapshot};
pub use status::NodeStatus;
pub use turn::Turn;
