//! Attaching containers: the interface `ethwe` in a namespace, plugged into the bridge.
//!
//! `spec/docker.md` C1 and C2. A veth pair is made with its far end already inside the container, so
//! there is no moment at which a half-made interface could be left behind; every later step that
//! fails is undone. All calls are made in the host's namespace and repeat safely.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::time::Duration;

use wire::ethernet::MacAddr;

use crate::addr::Cidr;
use crate::bridge::{BridgeError, GSO_MAX_BYTES, need_bridge};
use crate::netlink::{Link, LinkError, LinkKind, LinkProperty, Netlink, VethConfig};
use crate::netns::{Netns, NetnsError, run_in};
use crate::nft::{self, NftError};
use crate::{arp, sysctl};

/// Name of the container interface for Docker and for `weft attach`.
pub const DEFAULT_INTERFACE: &str = "ethwe";

/// What an attachment should be.
#[derive(Clone, Debug)]
pub struct AttachConfig {
    /// The container's process number in decimal, or its identifier; the first 7 characters name the
    /// veth pair.
    pub id: String,
    /// Interface name inside the container.
    pub interface: String,
    /// The bridge to plug into.
    pub bridge: String,
    /// MTU in bytes; the bridge's if absent.
    pub mtu_bytes: Option<u32>,
    /// Addresses the interface should have; others it has stay.
    pub addresses: Vec<Cidr>,
    /// Whether multicast leaves by this interface. The wait program takes the route as "all done".
    pub multicast_route: bool,
    /// Whether frames may leave by the bridge port they came in by.
    pub hairpin: bool,
}

/// What attaching changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Whether the interface was made; otherwise it existed.
    pub created: bool,
    /// Addresses that were added.
    pub added: Vec<Cidr>,
    /// Hardware address of the container interface.
    pub mac: MacAddr,
}

/// What detaching changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached {
    /// Addresses that were removed.
    pub removed: Vec<Cidr>,
    /// Whether the interface was deleted with its last IPv4 address.
    pub deleted: bool,
}

/// What a container interface has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentState {
    /// Its hardware address.
    pub mac: MacAddr,
    /// Its addresses, IPv6 link-local ones left out.
    pub addresses: Vec<Cidr>,
}

/// Why a container was not attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The bridge is missing or not a bridge.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// The identifier cannot be part of an interface name.
    #[error("invalid container identifier {0:?}")]
    Id(String),
    /// The pair could not be made.
    #[error("could not create veth pair {host}-{guest}: {source}")]
    Create {
        /// Name of the host end.
        host: String,
        /// Name the original gives the other end.
        guest: String,
        /// The kernel's reason.
        source: LinkError,
    },
    /// The container has an interface of that name that Weft did not make.
    #[error("interface {0} exists in the container and is not attached to weave")]
    Foreign(String),
    /// The container ended while it was being attached.
    #[error("Container {0} died")]
    Died(String),
    /// There is no such interface in the container.
    #[error("Link not found")]
    LinkNotFound,
    /// The kernel refused a step.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Makes the container interface be as `config` says.
///
/// On an error nothing that this call made is left behind.
pub fn attach(netns: &Netns, config: &AttachConfig) -> Result<Attached, AttachError> {
    netns.refuse_host()?;
    let names = VethNames::of(&config.id)?;
    let mut host = Netlink::open()?;
    let bridge = need_bridge(&mut host, &config.bridge)?;
    let existing = run_in(netns, || Netlink::open()?.link(&config.interface))??;
    let created = existing.is_none();
    let port = match &existing {
        Some(inner) => find_host_end(&mut host, netns, inner)?.name,
        None => {
            let mtu_bytes = config.mtu_bytes.unwrap_or(bridge.mtu_bytes);
            create(&mut host, netns, &names, config, mtu_bytes)?;
            names.host
        }
    };
    let done = complete(&mut host, netns, &bridge, &port, config, created);
    if done.is_err() && created {
        // Deleting one end deletes both; the firewall rules inside were taken back by `configure`.
        if let Err(error) = host.delete_link_named(&port) {
            tracing::warn!(interface = %port, %error, "half-made interface not removed");
        }
    }
    done
}

fn complete(
    host: &mut Netlink,
    netns: &Netns,
    bridge: &Link,
    port: &str,
    config: &AttachConfig,
    created: bool,
) -> Result<Attached, AttachError> {
    let port = host.need_link(port)?;
    plug_port(host, bridge, &port, config.hairpin)?;
    let attached = run_in(netns, || {
        let mut inner = Netlink::open()?;
        let link = inner.need_link(&config.interface)?;
        let mut pair = Pair {
            inner,
            link,
            host,
            port: &port,
            bridge_is_up: bridge.up,
        };
        configure(&mut pair, config, created)
    })??;
    if netns.process_has_ended() {
        return Err(AttachError::Died(config.id.clone()));
    }
    Ok(attached)
}

/// Removes addresses from the container interface, and the interface with the last IPv4 one.
pub fn detach(netns: &Netns, interface: &str, addresses: &[Cidr]) -> Result<Detached, AttachError> {
    netns.refuse_host()?;
    let existing = run_in(netns, || Netlink::open()?.link(interface))??;
    let link = existing.ok_or(AttachError::LinkNotFound)?;
    find_host_end(&mut Netlink::open()?, netns, &link)?;
    run_in(netns, || {
        let mut netlink = Netlink::open()?;
        let mut present = netlink.addresses(&link)?;
        let mut removed = Vec::new();
        for cidr in present
            .iter()
            .filter(|p| addresses.iter().any(|a| a.addr() == p.addr()))
        {
            if netlink.delete_address(&link, *cidr)? {
                removed.push(*cidr);
            }
        }
        present.retain(|p| !removed.contains(p));
        let deleted = !present.iter().any(|p| p.addr().is_ipv4());
        if deleted {
            // The rules first: whoever finds the interface after a crash between the two also finds
            // the rules, but nobody looks for rules of an interface that is gone.
            unguard_multicast(interface);
            netlink.delete_link(&link)?;
        } else if !removed.is_empty() {
            guard_multicast(interface, &present);
        }
        Ok(Detached { removed, deleted })
    })?
}

/// Hardware address and addresses of an interface in a namespace; `None` if there is none.
pub fn attachment_state(
    netns: &Netns,
    interface: &str,
) -> Result<Option<AttachmentState>, AttachError> {
    run_in(netns, || {
        let mut netlink = Netlink::open()?;
        let Some(link) = netlink.link(interface)? else {
            return Ok(None);
        };
        let addresses = netlink.addresses(&link)?;
        Ok(link.mac.map(|mac| AttachmentState { mac, addresses }))
    })?
}

/// The host end of a container interface that Weft or the original made; `None` if there is none.
pub fn port_of(netns: &Netns, interface: &str) -> Result<Option<String>, AttachError> {
    let existing = run_in(netns, || Netlink::open()?.link(interface))??;
    let Some(inner) = existing else {
        return Ok(None);
    };
    match find_host_end(&mut Netlink::open()?, netns, &inner) {
        Ok(port) => Ok(Some(port.name)),
        Err(AttachError::Foreign(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names of a veth pair, from a container's process number or identifier.
struct VethNames {
    host: String,
    guest: String,
}

impl VethNames {
    fn of(id: &str) -> Result<Self, AttachError> {
        let short: String = id.chars().take(ID_CHARS).collect();
        if short.is_empty()
            || !short
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            return Err(AttachError::Id(id.to_owned()));
        }
        Ok(Self {
            host: format!("{HOST_PREFIX}{short}"),
            guest: format!("vethwepg{short}"),
        })
    }
}

fn create(
    host: &mut Netlink,
    netns: &Netns,
    names: &VethNames,
    config: &AttachConfig,
    mtu_bytes: u32,
) -> Result<(), AttachError> {
    let veth = VethConfig {
        name: &names.host,
        peer_name: &config.interface,
        peer_netns: Some(netns.as_fd()),
        mtu_bytes,
        gso_max_bytes: Some(GSO_MAX_BYTES),
    };
    host.create_veth(&veth)
        .map_err(|source| AttachError::Create {
            host: names.host.clone(),
            guest: names.guest.clone(),
            source,
        })
}

/// The host end of an existing container interface, provided Weft or the original made it.
fn find_host_end(host: &mut Netlink, netns: &Netns, inner: &Link) -> Result<Link, AttachError> {
    let foreign = || AttachError::Foreign(inner.name.clone());
    let index = inner
        .peer_index
        .filter(|_| inner.kind == LinkKind::Veth)
        .ok_or_else(foreign)?;
    let netns_id = host.netns_id(netns.as_fd())?.ok_or_else(foreign)?;
    host.link_by_index(index)?
        .filter(|l| l.kind == LinkKind::Veth && l.name.starts_with(VETH_PREFIX))
        .filter(|l| (l.peer_index, l.peer_netns_id) == (Some(inner.index), Some(netns_id)))
        .ok_or_else(foreign)
}

fn plug_port(
    host: &mut Netlink,
    bridge: &Link,
    port: &Link,
    hairpin: bool,
) -> Result<(), LinkError> {
    sysctl::ignore_router_advertisements(&port.name);
    if port.master != Some(bridge.index) || !port.up {
        host.change(
            port,
            &[
                LinkProperty::Master(Some(bridge.index)),
                LinkProperty::Up(true),
            ],
        )?;
    }
    if port.hairpin.unwrap_or(false) != hairpin {
        host.set_hairpin(port, hairpin)?;
    }
    Ok(())
}

/// Both ends of an attachment while code runs inside the container: each socket acts on the namespace
/// it was opened in.
struct Pair<'a> {
    inner: Netlink,
    link: Link,
    host: &'a mut Netlink,
    port: &'a Link,
    bridge_is_up: bool,
}

/// The container's side, inside its namespace; on an error what it changed is undone.
fn configure(
    pair: &mut Pair<'_>,
    config: &AttachConfig,
    created: bool,
) -> Result<Attached, AttachError> {
    let name = pair.link.name.clone();
    let mac = pair
        .link
        .mac
        .ok_or_else(|| AttachError::Foreign(name.clone()))?;
    if created {
        sysctl::ignore_router_advertisements(&name);
        sysctl::shorten_arp_cache(&name);
    }
    let before = pair.inner.addresses(&pair.link)?;
    let mut added = Vec::new();
    let Err(error) = bring_up(pair, config, &before, &mut added) else {
        return Ok(Attached {
            created,
            added,
            mac,
        });
    };
    if created {
        unguard_multicast(&name);
        return Err(error.into());
    }
    for cidr in &added {
        if let Err(error) = pair.inner.delete_address(&pair.link, *cidr) {
            tracing::warn!(interface = %name, %error, "address not taken back");
        }
    }
    guard_multicast(&name, &before);
    Err(error.into())
}

fn bring_up(
    pair: &mut Pair<'_>,
    config: &AttachConfig,
    before: &[Cidr],
    added: &mut Vec<Cidr>,
) -> Result<(), LinkError> {
    let mut present = before.to_vec();
    for cidr in &config.addresses {
        let is_new = !present.iter().any(|p| p.addr() == cidr.addr());
        if is_new && pair.inner.add_address(&pair.link, *cidr)? {
            present.push(*cidr);
            added.push(*cidr);
        }
    }
    guard_multicast(&pair.link.name, &present);
    if !pair.link.up {
        pair.inner.change(&pair.link, &[LinkProperty::Up(true)])?;
    }
    wait_until_forwarding(pair)?;
    arp::announce(&pair.link, added.iter().filter_map(ipv4));
    if config.multicast_route {
        pair.inner.add_route(&pair.link, Cidr::MULTICAST_V4, None)?;
    }
    Ok(())
}

/// The kernel notices the carrier of a new pair a moment later, and until then the bridge port
/// swallows everything: the announcement, and the first packets of a program told to go ahead.
fn wait_until_forwarding(pair: &mut Pair<'_>) -> Result<(), LinkError> {
    if !pair.bridge_is_up {
        return Ok(());
    }
    for _ in 0..FORWARDING_ATTEMPTS {
        let port = pair.host.link_by_index(pair.port.index)?;
        match port {
            Some(port) if port.forwarding == Some(true) => return Ok(()),
            Some(_) => std::thread::sleep(FORWARDING_PAUSE),
            None => return Err(LinkError::NotFound(pair.port.name.clone())),
        }
    }
    tracing::warn!(port = %pair.port.name, "bridge port does not forward yet");
    Ok(())
}

fn ipv4(cidr: &Cidr) -> Option<Ipv4Addr> {
    match cidr.addr() {
        IpAddr::V4(addr) => Some(addr),
        IpAddr::V6(_) => None,
    }
}

/// Without these rules subnets hear each other's multicast; that is no reason to refuse a container.
fn guard_multicast(interface: &str, addresses: &[Cidr]) {
    let subnets: BTreeSet<_> = addresses.iter().map(Cidr::network).collect();
    warn_unless(
        nft::load(&nft::render_multicast_guard(interface, &subnets)),
        interface,
    );
}

pub(crate) fn unguard_multicast(interface: &str) {
    warn_unless(
        nft::load(&nft::remove_multicast_guard(interface)),
        interface,
    );
}

fn warn_unless(done: Result<(), NftError>, interface: &str) {
    if let Err(error) = done {
        tracing::warn!(interface, %error, "multicast rules in container not set");
    }
}

/// Usually one or two pauses pass; the kernel gathers carrier changes for at most a second.
const FORWARDING_PAUSE: Duration = Duration::from_millis(2);
const FORWARDING_ATTEMPTS: u32 = 1000;
/// Interface names have 15 bytes; the prefix takes 8 of them.
const ID_CHARS: usize = 7;
const HOST_PREFIX: &str = "vethwepl";
/// What all veth pairs of Weft and of the original have in common.
pub(crate) const VETH_PREFIX: &str = "vethw";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_named_by_the_first_seven_characters() {
        let names = VethNames::of("4194304").unwrap();
        assert_eq!(
            (names.host.as_str(), names.guest.as_str()),
            ("vethwepl4194304", "vethwepg4194304")
        );
        assert_eq!(
            VethNames::of("0123456789abcdef").unwrap().host,
            "vethwepl0123456"
        );
    }

    #[test]
    fn identifiers_that_make_no_interface_name_are_refused() {
        for id in ["", "a/b", "a b", "äöü"] {
            assert!(
                matches!(VethNames::of(id), Err(AttachError::Id(_))),
                "{id:?}"
            );
        }
    }
}
