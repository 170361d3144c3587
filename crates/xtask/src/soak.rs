//! `cargo xtask soak`: a network of both kinds of routers under traffic and faults, for long.

pub(crate) mod document;
