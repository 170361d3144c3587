//! Async shells around the node: links, HTTP, store, host.
//!
//! `driver` owns the node and is the only loop; every other module is one edge that turns the
//! outside into inputs and outputs back (ARCHITECTURE.md). `start` puts them together.

pub mod addresses;
mod advice;
pub mod clock;
pub mod config;
pub mod containers;
pub mod docker;
pub mod driver;
pub mod host;
pub mod http;
pub mod links;
pub mod log;
pub mod process;
pub mod reset;
pub mod resolve;
pub mod snapshot;
pub mod start;
pub mod store;
pub mod supervise;
pub mod task;
