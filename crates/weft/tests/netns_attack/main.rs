//! Kernel tests under fire: real daemons, and everything the open Internet may send them.
//!
//! The attacker is test code: a host in the middle of a path ([`middle`]), a peer that says what it is
//! told ([`impostor`]), and crowds of strangers. What a daemon uses meanwhile is counted ([`vitals`]).

#[path = "../lab/mod.rs"]
mod lab;

mod impostor;
mod middle;
mod vitals;

mod crowds;
mod datagrams;
mod liar;
mod links;
mod requests;

use lab::host::Host;

/// What a host's daemon has logged so far.
fn log_of(host: &Host) -> String {
    let file = host.path("run").join("weft.log");
    std::fs::read_to_string(file).unwrap_or_default()
}
