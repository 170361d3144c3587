//! The few per-interface sysctls Weft sets, in the network namespace of the calling thread.
//!
//! A sysctl that does not exist (IPv6 switched off, an old kernel) is not an error. One that cannot
//! be written is: but where `/proc/sys` is read-only the interface works without, so it is a warning.

use std::path::PathBuf;
use std::{fs, io};

/// Keeps routers on the container network from configuring the interface.
pub(crate) fn ignore_router_advertisements(interface: &str) {
    set("ipv6/conf", interface, "accept_ra", 0);
}

/// Makes neighbours notice within seconds that an address moved to another container: the address
/// cache entry is checked after 5 s, 2 s after the first use of a stale one, by one unicast probe.
pub(crate) fn shorten_arp_cache(interface: &str) {
    set("ipv4/neigh", interface, "base_reachable_time_ms", 5000);
    set("ipv4/neigh", interface, "delay_first_probe_time", 2);
    set("ipv4/neigh", interface, "ucast_solicit", 1);
}

fn set(area: &str, interface: &str, key: &str, value: u32) {
    let path = PathBuf::from("/proc/sys/net")
        .join(area)
        .join(interface)
        .join(key);
    let text = value.to_string();
    match fs::read_to_string(&path) {
        Ok(current) if current.trim() == text => return,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Ok(_) | Err(_) => {}
    }
    if let Err(error) = fs::write(&path, text) {
        tracing::warn!(path = %path.display(), value, %error, "sysctl not set");
    }
}
