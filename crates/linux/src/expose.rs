//! Exposing the host: its addresses on the bridge.
//!
//! `spec/docker.md` C4. Only addresses are handled here; the caller remembers which subnets are
//! exposed, and with or without masquerading, and gives all of them to [`crate::nft::apply`].

use std::net::IpAddr;

use crate::addr::Cidr;
use crate::arp;
use crate::bridge::{BridgeError, need_bridge};
use crate::netlink::Netlink;

/// Adds an address to the bridge and announces it; `false` if it was there already, also with
/// another prefix length.
pub fn expose(bridge: &str, cidr: Cidr) -> Result<bool, BridgeError> {
    let mut netlink = Netlink::open()?;
    let link = need_bridge(&mut netlink, bridge)?;
    let present = netlink.addresses(&link)?;
    let is_new = !present.iter().any(|p| p.addr() == cidr.addr());
    let added = is_new && netlink.add_address(&link, cidr)?;
    if let IpAddr::V4(addr) = cidr.addr() {
        arp::announce(&link, [addr]);
    }
    Ok(added)
}

/// Removes an address from the bridge, whatever its prefix length; `false` if it was not there.
pub fn hide(bridge: &str, cidr: Cidr) -> Result<bool, BridgeError> {
    let mut netlink = Netlink::open()?;
    let link = need_bridge(&mut netlink, bridge)?;
    let present = netlink.addresses(&link)?;
    let Some(present) = present.into_iter().find(|p| p.addr() == cidr.addr()) else {
        return Ok(false);
    };
    Ok(netlink.delete_address(&link, present)?)
}

/// The addresses the bridge has.
pub fn exposed_addresses(bridge: &str) -> Result<Vec<Cidr>, BridgeError> {
    let mut netlink = Netlink::open()?;
    let link = need_bridge(&mut netlink, bridge)?;
    Ok(netlink.addresses(&link)?)
}
