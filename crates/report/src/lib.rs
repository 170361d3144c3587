//! Texts made from a report (`api::report`): `status` and its sub-reports, metrics, and templates.
//!
//! Pure: a report goes in, text comes out. Who builds the report knows the node; nothing here does.

#![forbid(unsafe_code)]

pub mod metrics;
pub mod status;
pub mod template;

#[cfg(test)]
mod testing;
