//! Kernel access: netlink, namespaces, bridge, attachments, firewall text, TAP and UDP batching.
//!
//! The only crate with `unsafe` and raw system calls. Everything here is blocking and synchronous;
//! the daemon calls it from threads it owns. Each operation reads what exists, computes the
//! difference to what should exist and applies it, so repeating one after a crash is safe.
//! It knows no peer, no protocol and no state directory: names, addresses and MTUs are given.
#![allow(unsafe_code)]

pub mod addr;
mod arp;
pub mod attach;
pub mod attachments;
pub mod bridge;
pub mod expose;
pub mod iptables;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod overlap;
pub mod peer_name;
pub mod proc;
pub mod reset;
mod sysctl;
pub mod tap;
pub mod udp;
