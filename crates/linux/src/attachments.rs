//! Which containers are attached here: found by following each bridge port to its other end.
//!
//! For `ps`, for a daemon that starts with containers already attached, and for `reset`. Nothing is
//! remembered on disk: the kernel knows.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use wire::ethernet::MacAddr;

use crate::addr::Cidr;
use crate::attach::VETH_PREFIX;
use crate::bridge::{BridgeError, bridge_state};
use crate::netlink::{LinkError, Netlink};
use crate::netns::{Identity, Netns, run_in};

/// A container interface that is plugged into the bridge.
#[derive(Debug)]
pub struct Attachment {
    /// The bridge port.
    pub port: String,
    /// The container's namespace.
    pub netns: Netns,
    /// A process in that namespace; absent if it is held by a name only.
    pub pid: Option<u32>,
    /// Interface name inside the container.
    pub interface: String,
    /// Hardware address of the container interface.
    pub mac: MacAddr,
    /// Its addresses, IPv6 link-local ones left out.
    pub addresses: Vec<Cidr>,
}

/// All container interfaces plugged into the bridge, in the order of port names.
///
/// Namespaces are looked for among processes (the lowest process number wins) and under `/run/netns`;
/// one that nobody holds open there cannot be found.
pub fn find_attachments(bridge: &str) -> Result<Vec<Attachment>, BridgeError> {
    let mut host = Netlink::open()?;
    let ports = match bridge_state(bridge)? {
        Some(state) => state.ports,
        None => return Err(BridgeError::NoBridge(bridge.to_owned())),
    };
    // Namespace number to the ports that lead there: port name and index of the far end.
    let mut leading: BTreeMap<i32, Vec<(String, u32)>> = BTreeMap::new();
    for port in ports
        .into_iter()
        .filter(|p| p.name.starts_with(VETH_PREFIX))
    {
        if let Some((id, far)) = port.peer_netns_id.zip(port.peer_index) {
            leading.entry(id).or_default().push((port.name, far));
        }
    }
    let mut found = Vec::new();
    for (pid, netns) in namespaces() {
        let id = host.netns_id(netns.as_fd())?;
        for (port, far) in id.and_then(|id| leading.remove(&id)).unwrap_or_default() {
            match inspect(&netns, far) {
                Ok(Some((interface, mac, addresses))) => {
                    let netns = reopen(&netns, pid);
                    let Some(netns) = netns else { continue };
                    found.push(Attachment {
                        port,
                        netns,
                        pid,
                        interface,
                        mac,
                        addresses,
                    });
                }
                // The container ended while we looked.
                Ok(None) => {}
                Err(error) => tracing::debug!(port, %error, "container not readable"),
            }
        }
    }
    found.sort_by(|a, b| a.port.cmp(&b.port));
    Ok(found)
}

type Inside = (String, MacAddr, Vec<Cidr>);

fn inspect(netns: &Netns, index: u32) -> Result<Option<Inside>, BridgeError> {
    let read = || -> Result<Option<Inside>, LinkError> {
        let mut netlink = Netlink::open()?;
        let Some(link) = netlink.link_by_index(index)? else {
            return Ok(None);
        };
        let addresses = netlink.addresses(&link)?;
        Ok(link.mac.map(|mac| (link.name, mac, addresses)))
    };
    match run_in(netns, read) {
        Ok(result) => Ok(result?),
        Err(_) => Ok(None),
    }
}

/// Several ports may lead to one namespace; each attachment gets a handle of its own.
fn reopen(netns: &Netns, pid: Option<u32>) -> Option<Netns> {
    let again = match pid {
        Some(pid) => Netns::of_process(pid),
        None => Netns::open(netns.label()),
    };
    again.ok().filter(|n| n.identity() == netns.identity())
}

/// Every namespace but our own, once each, with a process in it where there is one.
fn namespaces() -> Vec<(Option<u32>, Netns)> {
    let mut seen: BTreeMap<Identity, (Option<u32>, Netns)> = BTreeMap::new();
    let own = Netns::current().map(|n| n.identity()).ok();
    let mut pids = names_in(Path::new("/proc"))
        .iter()
        .filter_map(|n| n.parse().ok())
        .collect::<Vec<u32>>();
    pids.sort_unstable();
    let by_pid = pids
        .into_iter()
        .map(|pid| (Some(pid), Netns::of_process(pid)));
    let named = names_in(Path::new("/run/netns"));
    let by_name = named.iter().map(|name| (None, Netns::named(name)));
    for (pid, netns) in by_pid.chain(by_name) {
        if let Ok(netns) = netns
            && Some(netns.identity()) != own
        {
            seen.entry(netns.identity()).or_insert((pid, netns));
        }
    }
    seen.into_values().collect()
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}
