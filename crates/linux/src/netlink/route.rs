//! Routes of the main table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Link, LinkError, Netlink};
use crate::addr::Cidr;

/// A unicast route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; prefix length 0 is the default route.
    pub destination: Cidr,
    /// Next hop; absent for directly connected networks.
    pub gateway: Option<IpAddr>,
    /// Index of the interface it leaves by.
    pub out_index: Option<u32>,
}

impl Netlink {
    /// The unicast routes of the main table, both families.
    pub fn routes(&mut self) -> Result<Vec<Route>, LinkError> {
        let query = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        let replies = self.dump(&query, "list routes")?;
        Ok(replies.iter().filter_map(route_of).collect())
    }

    /// Adds a route through a link, directly connected or by a gateway; `false` if it exists.
    pub fn add_route(
        &mut self,
        link: &Link,
        destination: Cidr,
        gateway: Option<IpAddr>,
    ) -> Result<bool, LinkError> {
        let message = RouteNetlinkMessage::NewRoute(message_for(link, destination, gateway));
        let name = format!("route {destination} on {}", link.name);
        match self.act(message, NLM_F_CREATE | NLM_F_EXCL, "add", &name) {
            Ok(()) => Ok(true),
            Err(LinkError::Exists(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a route through a link; `false` if there is none.
    pub fn delete_route(&mut self, link: &Link, destination: Cidr) -> Result<bool, LinkError> {
        let mut message = message_for(link, destination, None);
        message.header.scope = RouteScope::NoWhere;
        message.header.protocol = RouteProtocol::Unspec;
        let name = format!("route {destination} on {}", link.name);
        match self.act(RouteNetlinkMessage::DelRoute(message), 0, "delete", &name) {
            Ok(()) => Ok(true),
            Err(LinkError::Refused { source, .. })
                if source.raw_os_error() == Some(libc::ESRCH) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a route to exactly this destination leaves by the link.
    pub fn has_route(&mut self, link: &Link, destination: Cidr) -> Result<bool, LinkError> {
        let wanted = |r: &Route| r.destination == destination && r.out_index == Some(link.index);
        Ok(self.routes()?.iter().any(wanted))
    }
}

fn address(addr: IpAddr) -> RouteAddress {
    match addr {
        IpAddr::V4(a) => RouteAddress::Inet(a),
        IpAddr::V6(a) => RouteAddress::Inet6(a),
    }
}

fn family(addr: IpAddr) -> AddressFamily {
    match addr {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn message_for(link: &Link, destination: Cidr, gateway: Option<IpAddr>) -> RouteMessage {
    let destination = destination.network();
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = if gateway.is_some() {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(link.index));
    if destination.prefix_len() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(address(destination.addr())));
    }
    message
        .attributes
        .extend(gateway.map(|g| RouteAttribute::Gateway(address(g))));
    message
}

fn route_of(message: &RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else {
        return None;
    };
    let in_main = message.header.table == RouteHeader::RT_TABLE_MAIN;
    if !in_main || message.header.kind != RouteType::Unicast {
        return None;
    }
    let any: IpAddr = if message.header.address_family == AddressFamily::Inet {
        Ipv4Addr::UNSPECIFIED.into()
    } else if message.header.address_family == AddressFamily::Inet6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        return None;
    };
    let (mut destination, mut gateway, mut out_index) = (any, None, None);
    for attribute in &message.attributes {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "an open set, read selectively"
        )]
        match attribute {
            RouteAttribute::Destination(a) => destination = ip_of(a)?,
            RouteAttribute::Gateway(a) => gateway = ip_of(a),
            RouteAttribute::Oif(index) => out_index = Some(*index),
            _ => {}
        }
    }
    let destination = Cidr::new(destination, message.header.destination_prefix_length)?;
    Some(Route {
        destination,
        gateway,
        out_index,
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only IP routes are of interest"
    )]
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}
