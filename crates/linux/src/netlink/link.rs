//! Links: reading them, making bridges and veth pairs, changing and deleting.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{
    BridgePortState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind,
    InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use wire::ethernet::MacAddr;

use super::{LinkError, Netlink, check_name};

/// A network interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique in its namespace while the link exists.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// What made it.
    pub kind: LinkKind,
    /// Hardware address, for links that have an Ethernet one.
    pub mac: Option<MacAddr>,
    /// Largest packet in bytes, without the Ethernet header.
    pub mtu_bytes: u32,
    /// Largest MTU the device accepts in bytes; 0 if it does not say.
    pub max_mtu_bytes: u32,
    /// Administratively up.
    pub up: bool,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// Hairpin mode, for bridge ports.
    pub hairpin: Option<bool>,
    /// Whether frames pass, for bridge ports; a port that has just come up does not forward yet.
    pub forwarding: Option<bool>,
    /// Index of the other end of a veth pair, in the namespace that holds it.
    pub peer_index: Option<u32>,
    /// Which namespace that is, as this one numbers them; absent if it is this one.
    pub peer_netns_id: Option<i32>,
    /// Largest segmentation-offload packet in bytes.
    pub gso_max_bytes: Option<u32>,
    /// Multicast snooping, for bridges.
    pub multicast_snooping: Option<bool>,
}

/// The kinds of link Weft tells apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A physical or loopback device.
    Device,
    /// A Linux bridge.
    Bridge,
    /// One end of a veth pair.
    Veth,
    /// A TUN or TAP device.
    Tun,
    /// A VXLAN device.
    Vxlan,
    /// A kernel WireGuard device.
    Wireguard,
    /// Anything else, by the kernel's word for it.
    Other(String),
}

impl LinkKind {
    /// The kernel's word for the kind.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Device => "device",
            Self::Bridge => "bridge",
            Self::Veth => "veth",
            Self::Tun => "tun",
            Self::Vxlan => "vxlan",
            Self::Wireguard => "wireguard",
            Self::Other(word) => word,
        }
    }
}

/// What a veth pair should be; the peer is born in its final namespace under its final name.
#[derive(Clone, Copy, Debug)]
pub struct VethConfig<'a> {
    /// Name of the end in this namespace.
    pub name: &'a str,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Namespace of the other end; this one if absent.
    pub peer_netns: Option<BorrowedFd<'a>>,
    /// MTU of both ends in bytes.
    pub mtu_bytes: u32,
    /// Segmentation-offload limit of both ends in bytes.
    pub gso_max_bytes: Option<u32>,
}

/// One property to give to a link.
#[derive(Clone, Copy, Debug)]
pub enum LinkProperty<'a> {
    /// Administrative state.
    Up(bool),
    /// MTU in bytes.
    Mtu(u32),
    /// Hardware address.
    Mac(MacAddr),
    /// Port of the bridge with this index; `None` frees it.
    Master(Option<u32>),
    /// New name.
    Name(&'a str),
    /// Move into another namespace.
    Netns(BorrowedFd<'a>),
    /// Segmentation-offload limit in bytes.
    GsoMax(u32),
}

impl Netlink {
    /// All links of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, LinkError> {
        let replies = self.dump(&RouteNetlinkMessage::GetLink(query()), "list links")?;
        Ok(replies.into_iter().filter_map(link_of).collect())
    }

    /// The link of that name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, LinkError> {
        check_name(name)?;
        let mut message = query();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(message, name)
    }

    /// The link with that index, if there is one.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, LinkError> {
        let mut message = query();
        message.header.index = index;
        self.one_link(message, &format!("interface {index}"))
    }

    /// The link of that name, which has to exist.
    pub fn need_link(&mut self, name: &str) -> Result<Link, LinkError> {
        self.link(name)?
            .ok_or_else(|| LinkError::NotFound(name.to_owned()))
    }

    fn one_link(&mut self, message: LinkMessage, name: &str) -> Result<Option<Link>, LinkError> {
        match self.get(RouteNetlinkMessage::GetLink(message), "read", name) {
            Ok(reply) => match link_of(reply) {
                Some(link) => Ok(Some(link)),
                None => Err(LinkError::Malformed(format!("read {name}"))),
            },
            Err(LinkError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a bridge, down and without ports.
    pub fn create_bridge(&mut self, name: &str, mac: MacAddr) -> Result<(), LinkError> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.act(
            RouteNetlinkMessage::NewLink(message),
            CREATE,
            "create bridge",
            name,
        )
    }

    /// Turns IGMP and MLD snooping of a bridge on or off.
    pub fn set_multicast_snooping(&mut self, bridge: &Link, on: bool) -> Result<(), LinkError> {
        let mut message = named(bridge.index);
        message.attributes = vec![LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(on)])),
        ])];
        let message = RouteNetlinkMessage::NewLink(message);
        self.act(message, 0, "set multicast snooping of", &bridge.name)
    }

    /// Makes a veth pair, both ends down.
    pub fn create_veth(&mut self, veth: &VethConfig<'_>) -> Result<(), LinkError> {
        check_name(veth.name)?;
        check_name(veth.peer_name)?;
        let end = |name: &str| {
            let mut attributes = vec![
                LinkAttribute::IfName(name.to_owned()),
                LinkAttribute::Mtu(veth.mtu_bytes),
            ];
            attributes.extend(veth.gso_max_bytes.map(LinkAttribute::GsoMaxSize));
            attributes
        };
        let mut peer = LinkMessage::default();
        peer.attributes = end(veth.peer_name);
        peer.attributes.extend(
            veth.peer_netns
                .map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())),
        );
        let mut message = LinkMessage::default();
        message.attributes = end(veth.name);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let message = RouteNetlinkMessage::NewLink(message);
        self.act(
            message,
            CREATE,
            "create veth pair",
            &format!("{}-{}", veth.name, veth.peer_name),
        )
    }

    /// Gives a link new properties in one request.
    pub fn change(&mut self, link: &Link, changes: &[LinkProperty<'_>]) -> Result<(), LinkError> {
        let mut message = named(link.index);
        for change in changes {
            message.attributes.push(match *change {
                LinkProperty::Up(up) => {
                    message.header.flags.set(LinkFlags::Up, up);
                    message.header.change_mask |= LinkFlags::Up;
                    continue;
                }
                LinkProperty::Mtu(mtu_bytes) => LinkAttribute::Mtu(mtu_bytes),
                LinkProperty::Mac(mac) => LinkAttribute::Address(mac.0.to_vec()),
                LinkProperty::Master(index) => LinkAttribute::Controller(index.unwrap_or(0)),
                LinkProperty::Name(name) => {
                    check_name(name)?;
                    LinkAttribute::IfName(name.to_owned())
                }
                LinkProperty::Netns(fd) => LinkAttribute::NetNsFd(fd.as_raw_fd()),
                LinkProperty::GsoMax(bytes) => LinkAttribute::GsoMaxSize(bytes),
            });
        }
        let what = changes.iter().map(describe).collect::<Vec<_>>().join(", ");
        self.act(
            RouteNetlinkMessage::SetLink(message),
            0,
            &format!("set {what} of"),
            &link.name,
        )
    }

    /// Sets hairpin mode (frames may leave by the port they came in by) of a bridge port.
    pub fn set_hairpin(&mut self, port: &Link, on: bool) -> Result<(), LinkError> {
        let mut message = named(port.index);
        message.attributes = vec![LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(
                on,
            )])),
        ])];
        self.act(
            RouteNetlinkMessage::NewLink(message),
            0,
            "set hairpin mode of",
            &port.name,
        )
    }

    /// The number this namespace has for another one, if some link leads there.
    pub fn netns_id(&mut self, netns: BorrowedFd<'_>) -> Result<Option<i32>, LinkError> {
        let fd = u32::try_from(netns.as_raw_fd()).expect("open descriptors are not negative");
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(fd));
        let message = RouteNetlinkMessage::GetNsId(message);
        let RouteNetlinkMessage::NewNsId(reply) = self.get(message, "read namespace number", "")?
        else {
            return Err(LinkError::Malformed("read namespace number".to_owned()));
        };
        let id = reply.attributes.iter().find_map(|attribute| {
            if let NsidAttribute::Id(id) = attribute {
                Some(*id)
            } else {
                None
            }
        });
        Ok(id.filter(|&id| id >= 0))
    }

    /// Deletes a link; `false` if it was gone already.
    pub fn delete_link(&mut self, link: &Link) -> Result<bool, LinkError> {
        let message = RouteNetlinkMessage::DelLink(named(link.index));
        match self.act(message, 0, "delete", &link.name) {
            Ok(()) => Ok(true),
            Err(LinkError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes the link of that name; `false` if there is none.
    pub fn delete_link_named(&mut self, name: &str) -> Result<bool, LinkError> {
        match self.link(name)? {
            Some(link) => self.delete_link(&link),
            None => Ok(false),
        }
    }
}

fn describe(change: &LinkProperty<'_>) -> String {
    match change {
        LinkProperty::Up(true) => "up".to_owned(),
        LinkProperty::Up(false) => "down".to_owned(),
        LinkProperty::Mtu(mtu_bytes) => format!("mtu {mtu_bytes}"),
        LinkProperty::Mac(mac) => format!("address {mac}"),
        LinkProperty::Master(_) => "bridge".to_owned(),
        LinkProperty::Name(name) => format!("name {name}"),
        LinkProperty::Netns(_) => "namespace".to_owned(),
        LinkProperty::GsoMax(bytes) => format!("gso_max_size {bytes}"),
    }
}

fn query() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Unspec;
    message
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

fn named(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: LinkKind::Device,
        mac: None,
        mtu_bytes: 0,
        max_mtu_bytes: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        master: None,
        hairpin: None,
        forwarding: None,
        peer_index: None,
        peer_netns_id: None,
        gso_max_bytes: None,
        multicast_snooping: None,
    };
    for attribute in message.attributes {
        // The list of attributes grows with the kernel; these are the ones Weft reads.
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "an open set, read selectively"
        )]
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(MacAddr),
            LinkAttribute::Mtu(mtu_bytes) => link.mtu_bytes = mtu_bytes,
            LinkAttribute::MaxMtu(mtu_bytes) => link.max_mtu_bytes = mtu_bytes,
            LinkAttribute::Controller(index) => link.master = Some(index).filter(|&i| i != 0),
            LinkAttribute::Link(index) => link.peer_index = Some(index).filter(|&i| i != 0),
            LinkAttribute::LinkNetNsId(id) => link.peer_netns_id = Some(id),
            LinkAttribute::GsoMaxSize(bytes) => link.gso_max_bytes = Some(bytes),
            LinkAttribute::LinkInfo(parts) => parts.iter().for_each(|p| read_part(&mut link, p)),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn read_part(link: &mut Link, part: &LinkInfo) {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "an open set, read selectively"
    )]
    match part {
        LinkInfo::Kind(kind) => link.kind = kind_of(kind),
        LinkInfo::Data(InfoData::Bridge(parts)) => {
            for part in parts {
                if let InfoBridge::MulticastSnooping(on) = part {
                    link.multicast_snooping = Some(*on);
                }
            }
        }
        LinkInfo::PortData(InfoPortData::BridgePort(parts)) => {
            for part in parts {
                if let InfoBridgePort::HairpinMode(on) = part {
                    link.hairpin = Some(*on);
                } else if let InfoBridgePort::State(state) = part {
                    link.forwarding = Some(*state == BridgePortState::Forwarding);
                }
            }
        }
        _ => {}
    }
}

fn kind_of(kind: &InfoKind) -> LinkKind {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "an open set, read selectively"
    )]
    match kind {
        InfoKind::Bridge => LinkKind::Bridge,
        InfoKind::Veth => LinkKind::Veth,
        InfoKind::Tun => LinkKind::Tun,
        InfoKind::Vxlan => LinkKind::Vxlan,
        InfoKind::Wireguard => LinkKind::Wireguard,
        other => LinkKind::Other(other.to_string()),
    }
}

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;
