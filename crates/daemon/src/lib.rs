//! Async shells around the node: links, HTTP, store, data plane.
//!
//! `driver` owns the node and is the only loop; every other module is one edge that turns the
//! outside into inputs and outputs back (ARCHITECTURE.md).

pub mod clock;
pub mod datapath;
pub mod docker;
pub mod links;
pub mod log;
pub mod report;
pub mod resolve;
pub mod status;
pub mod store;
pub mod task;
pub mod template;
