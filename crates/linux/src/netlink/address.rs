//! Addresses of links.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Link, LinkError, Netlink};
use crate::addr::Cidr;

impl Netlink {
    /// All addresses of the namespace: interface index and address, in the kernel's order.
    pub fn all_addresses(&mut self) -> Result<Vec<(u32, Cidr)>, LinkError> {
        let query = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let replies = self.dump(&query, "list addresses")?;
        Ok(replies.iter().filter_map(address_of).collect())
    }

    /// The addresses of one link, IPv6 link-local ones left out.
    pub fn addresses(&mut self, link: &Link) -> Result<Vec<Cidr>, LinkError> {
        let own = |(index, cidr): (u32, Cidr)| {
            (index == link.index && !is_link_local_v6(cidr.addr())).then_some(cidr)
        };
        Ok(self.all_addresses()?.into_iter().filter_map(own).collect())
    }

    /// Adds an address to a link; `false` if it was there already.
    pub fn add_address(&mut self, link: &Link, cidr: Cidr) -> Result<bool, LinkError> {
        let message = RouteNetlinkMessage::NewAddress(message_for(link, cidr));
        match self.act(message, NLM_F_CREATE | NLM_F_EXCL, "add", &on(link, cidr)) {
            Ok(()) => Ok(true),
            Err(LinkError::Exists(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes an address from a link; `false` if it was not there.
    pub fn delete_address(&mut self, link: &Link, cidr: Cidr) -> Result<bool, LinkError> {
        let message = RouteNetlinkMessage::DelAddress(message_for(link, cidr));
        match self.act(message, 0, "delete", &on(link, cidr)) {
            Ok(()) => Ok(true),
            Err(LinkError::Refused { source, .. })
                if source.raw_os_error() == Some(libc::EADDRNOTAVAIL) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

fn on(link: &Link, cidr: Cidr) -> String {
    format!("{cidr} on {}", link.name)
}

fn is_link_local_v6(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local())
}

fn message_for(link: &Link, cidr: Cidr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = link.index;
    message.header.prefix_len = cidr.prefix_len();
    message.header.scope = AddressScope::Universe;
    message
        .attributes
        .push(AddressAttribute::Local(cidr.addr()));
    message
        .attributes
        .push(AddressAttribute::Address(cidr.addr()));
    match cidr.addr() {
        IpAddr::V4(addr) => {
            message.header.family = AddressFamily::Inet;
            if cidr.prefix_len() < 31 {
                let hosts = u32::MAX >> cidr.prefix_len();
                let broadcast = (addr.to_bits() | hosts).into();
                message
                    .attributes
                    .push(AddressAttribute::Broadcast(broadcast));
            }
        }
        IpAddr::V6(_) => message.header.family = AddressFamily::Inet6,
    }
    message
}

fn address_of(message: &RouteNetlinkMessage) -> Option<(u32, Cidr)> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    let mut address = None;
    for attribute in &message.attributes {
        // On point-to-point links "address" is the far end and "local" ours.
        if let AddressAttribute::Local(local) = attribute {
            address = Some(*local);
        } else if let AddressAttribute::Address(far) = attribute {
            address = address.or(Some(*far));
        }
    }
    Some((
        message.header.index,
        Cidr::new(address?, message.header.prefix_len)?,
    ))
}
