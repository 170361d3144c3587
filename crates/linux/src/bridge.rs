//! The bridge: one Linux bridge per host, reconciled to what it should be, and its ports.
//!
//! `spec/cli-api.md` section 9 (bridge type `bridge`). Called by the daemon at every start and whenever
//! it sees the bridge change; each call repairs what someone else altered.
use wire::ethernet::MacAddr;

use crate::netlink::{Link, LinkError, LinkKind, LinkProperty, Netlink};
use crate::sysctl;

/// Name of the bridge unless the user chooses another.
pub const DEFAULT_BRIDGE: &str = "weave";

/// Default MTU of bridge and containers in bytes: fits every tunnel kind on a 1500-byte underlay.
pub const DEFAULT_MTU_BYTES: u32 = 1376;

/// Largest segmentation-offload packet containers and the TAP may build, in bytes.
///
/// What becomes of one must fit one UDP send of 65507 bytes, or its last segments need a send, a
/// receive and an injection of their own. TCP takes as many whole segments as fit this less up to
/// 321 bytes it sets aside for headers; each grows by 110 bytes (Ethernet, IPv4, TCP with
/// timestamps, and sleeve's headers). So 44 segments of 1362 bytes (containers that learnt an
/// encrypted path of 1500 bytes) and 45 of 1324 (containers of the default MTU) have to fit, and
/// no more of either.
pub const GSO_MAX_BYTES: u32 = 60_300;

/// What the bridge should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeConfig {
    /// Interface name.
    pub name: String,
    /// Hardware address: the peer name.
    pub mac: MacAddr,
    /// MTU in bytes.
    pub mtu_bytes: u32,
}

/// What the bridge is, and its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeState {
    /// The bridge itself.
    pub link: Link,
    /// The interfaces plugged into it, by index.
    pub ports: Vec<Link>,
}

/// Why the bridge is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// Another kind of interface has the bridge's name.
    #[error(
        "interface {name} exists and is a {kind}, not a bridge; run 'weft reset' and try again"
    )]
    NotBridge {
        /// The name both want.
        name: String,
        /// The kernel's word for what is there.
        kind: String,
    },
    /// The bridge is not there.
    #[error("bridge {0:?} not present; did you launch weave?")]
    NoBridge(String),
    /// The port is plugged into another bridge.
    #[error("interface {port} belongs to another bridge")]
    PortTaken {
        /// The interface that was to be plugged in.
        port: String,
    },
    /// The address cannot belong to an interface.
    #[error("peer name {0} cannot be the address of a bridge: it is {kind}", kind = unfit(*.0))]
    Mac(MacAddr),
    /// The kernel refused.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Makes the bridge be as `config` says, creating it if needed; `true` if it was created.
///
/// Addresses and ports of an existing bridge stay.
pub fn ensure_bridge(config: &BridgeConfig) -> Result<bool, BridgeError> {
    if is_unfit(config.mac) {
        return Err(BridgeError::Mac(config.mac));
    }
    let mut netlink = Netlink::open()?;
    let created = match netlink.link(&config.name)? {
        Some(_) => false,
        None => create(&mut netlink, config)?,
    };
    let done = settle(&mut netlink, config, created);
    if done.is_err()
        && created
        && let Err(error) = netlink.delete_link_named(&config.name)
    {
        tracing::warn!(bridge = %config.name, %error, "half-made bridge not removed");
    }
    done.map(|()| created)
}

fn create(netlink: &mut Netlink, config: &BridgeConfig) -> Result<bool, BridgeError> {
    match netlink.create_bridge(&config.name, config.mac) {
        Ok(()) => Ok(true),
        // Someone else was quicker; what they made is checked like any existing link.
        Err(LinkError::Exists(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Changes what is not as it should be.
fn settle(netlink: &mut Netlink, config: &BridgeConfig, created: bool) -> Result<(), BridgeError> {
    let mut bridge = need_bridge(netlink, &config.name)?;
    // A bridge follows the smallest MTU of its ports until its own is *changed* once, and setting
    // the value it already has is no change.
    if created && bridge.mtu_bytes == config.mtu_bytes {
        bridge.mtu_bytes -= 1;
        netlink.change(&bridge, &[LinkProperty::Mtu(bridge.mtu_bytes)])?;
    }
    let mut changes = Vec::new();
    if bridge.mac != Some(config.mac) {
        changes.push(LinkProperty::Mac(config.mac));
    }
    if bridge.mtu_bytes != config.mtu_bytes {
        changes.push(LinkProperty::Mtu(config.mtu_bytes));
    }
    if !bridge.up {
        changes.push(LinkProperty::Up(true));
    }
    sysctl::ignore_router_advertisements(&config.name);
    // The overlay is one flat switch and floods multicast to every peer. A bridge that snoops would
    // begin to filter as soon as some container acted as querier, on reports it may never have seen.
    if bridge.multicast_snooping == Some(true) {
        netlink.set_multicast_snooping(&bridge, false)?;
    }
    if !changes.is_empty() {
        netlink.change(&bridge, &changes)?;
    }
    sysctl::shorten_arp_cache(&config.name);
    Ok(())
}

fn is_unfit(mac: MacAddr) -> bool {
    mac == MacAddr::default() || mac.0[0] & 1 == 1
}

fn unfit(mac: MacAddr) -> &'static str {
    if mac == MacAddr::default() {
        "all zero"
    } else {
        "a multicast address"
    }
}

/// The address of whatever interface has the bridge's name: an upgraded host takes its peer name from
/// it, also where the original made something else than a bridge.
pub fn existing_mac(name: &str) -> Result<Option<MacAddr>, LinkError> {
    Ok(Netlink::open()?.link(name)?.and_then(|l| l.mac))
}

/// Gives Docker's bridge an address of its own, so that it does not change with its ports; `true` if
/// that was needed.
///
/// A bridge whose address nobody set takes the lowest of its ports' addresses, and containers lose
/// their gateway whenever that one goes (`spec/docker.md` C3).
pub fn pin_docker_mac(docker_bridge: &str, random: [u8; 6]) -> Result<bool, LinkError> {
    let path = format!("/sys/class/net/{docker_bridge}/addr_assign_type");
    let Ok(assigned) = std::fs::read_to_string(path) else {
        return Ok(false);
    };
    let mut netlink = Netlink::open()?;
    let Some(link) = netlink.link(docker_bridge)? else {
        return Ok(false);
    };
    if assigned.trim() == ADDRESS_WAS_SET || link.kind != LinkKind::Bridge {
        return Ok(false);
    }
    netlink.change(&link, &[LinkProperty::Mac(MacAddr::local_unicast(random))])?;
    Ok(true)
}

/// The bridge and its ports; `None` if there is no link of that name.
pub fn bridge_state(name: &str) -> Result<Option<BridgeState>, BridgeError> {
    let mut netlink = Netlink::open()?;
    if netlink.link(name)?.is_none() {
        return Ok(None);
    }
    let link = need_bridge(&mut netlink, name)?;
    let mut ports = netlink.links()?;
    ports.retain(|l| l.master == Some(link.index));
    Ok(Some(BridgeState { link, ports }))
}

/// Plugs an interface into the bridge and brings it up; does nothing that is done already.
///
/// Its MTU, as far as the device can, and segmentation-offload limit become the bridge's: a port must never offer the host or a
/// tunnel a packet the others cannot take.
pub fn plug(bridge: &str, port: &str) -> Result<(), BridgeError> {
    let mut netlink = Netlink::open()?;
    let bridge = need_bridge(&mut netlink, bridge)?;
    let port = netlink.need_link(port)?;
    let mut changes = Vec::new();
    match port.master {
        Some(master) if master == bridge.index => {}
        Some(_) => return Err(BridgeError::PortTaken { port: port.name }),
        None => changes.push(LinkProperty::Master(Some(bridge.index))),
    }
    // A TAP takes no more than 65521 bytes, less than a bridge.
    let limit = if port.max_mtu_bytes == 0 {
        u32::MAX
    } else {
        port.max_mtu_bytes
    };
    let mtu_bytes = bridge.mtu_bytes.min(limit);
    if port.mtu_bytes != mtu_bytes {
        changes.push(LinkProperty::Mtu(mtu_bytes));
    }
    if port.gso_max_bytes != Some(GSO_MAX_BYTES) {
        changes.push(LinkProperty::GsoMax(GSO_MAX_BYTES));
    }
    if !port.up {
        changes.push(LinkProperty::Up(true));
    }
    sysctl::ignore_router_advertisements(&port.name);
    if !changes.is_empty() {
        netlink.change(&port, &changes)?;
    }
    Ok(())
}

/// The link of that name, which has to exist and be a bridge.
pub(crate) fn need_bridge(netlink: &mut Netlink, name: &str) -> Result<Link, BridgeError> {
    let Some(link) = netlink.link(name)? else {
        return Err(BridgeError::NoBridge(name.to_owned()));
    };
    if link.kind == LinkKind::Bridge {
        Ok(link)
    } else {
        let kind = link.kind.as_str().to_owned();
        Err(BridgeError::NotBridge {
            name: link.name,
            kind,
        })
    }
}

/// `NET_ADDR_SET` in `addr_assign_type` (kernel documentation, `sysfs-class-net`).
const ADDRESS_WAS_SET: &str = "3";

#[cfg(test)]
mod tests {
    use super::GSO_MAX_BYTES;

    #[test]
    fn what_tcp_builds_at_once_fits_one_udp_send_and_fills_it() {
        // Containers of the default MTU, and those that learnt an encrypted path of 1500 bytes.
        for mtu_bytes in [1376, 1414] {
            let payload = mtu_bytes - 20 - 32;
            let datagram = 8 + 22 + 14 + 14 + mtu_bytes;
            // The kernel's MAX_TCP_HEADER, least and most, and one.
            for reserved in [193, 321] {
                let segments = (GSO_MAX_BYTES - reserved) / payload;
                assert_eq!(segments, 65_507 / datagram, "{mtu_bytes} {reserved}");
            }
        }
    }
}
