//! Golden vectors and properties of every format.
#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps in vain has failed as it should"
)]

mod capture;
mod ethernet;
mod gob;
mod handshake;
mod ipam;
mod message;
mod name;
mod property;
mod sleeve;
mod topology;
mod vectors;
