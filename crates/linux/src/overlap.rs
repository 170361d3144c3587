//! Whether addresses we are to use are already spoken for by routes of this host, and which are not.
//!
//! The question is the original's (spec/cli-api.md 3): a subnet clashes with a route when either
//! contains the first address of the other, a single address when a route contains it. The default
//! route contains everything and says nothing.

use std::fmt;
use std::net::Ipv4Addr;

use crate::addr::Cidr;
use crate::netlink::{LinkError, Netlink};

/// A route of this host that leads to addresses we asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// Where it leads.
    pub destination: Cidr,
    /// Interface it leaves by, while there is one.
    pub interface: Option<String>,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        match &self.interface {
            Some(name) => write!(f, " on {name}"),
            None => Ok(()),
        }
    }
}

/// Routes of the calling thread's namespace that overlap `wanted`: a subnet when its host bits are
/// zero, else the one address. Routes by the interface `except`, our own bridge, do not count.
pub fn routes_overlapping(wanted: Cidr, except: &str) -> Result<Vec<Overlap>, LinkError> {
    let mut routes = foreign_routes(except)?;
    routes.retain(|route| clashes(wanted, route.destination));
    Ok(routes)
}

/// A private range of `2^(32 - prefix_len)` addresses to which no route of this host leads; the same
/// one for the same routes. `None` when there is none.
pub fn free_range(prefix_len: u8, except: &str) -> Result<Option<Cidr>, LinkError> {
    let taken: Vec<Cidr> = foreign_routes(except)?
        .into_iter()
        .map(|route| route.destination)
        .collect();
    Ok(find_free(prefix_len, &taken))
}

fn foreign_routes(except: &str) -> Result<Vec<Overlap>, LinkError> {
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?;
    let name = |index: Option<u32>| {
        let link = links.iter().find(|link| Some(link.index) == index);
        link.map(|link| link.name.clone())
    };
    let routes = netlink.routes()?.into_iter().map(|route| Overlap {
        destination: route.destination,
        interface: name(route.out_index),
    });
    let counts = |route: &Overlap| {
        route.destination.prefix_len() > 0 && route.interface.as_deref() != Some(except)
    };
    Ok(routes.filter(counts).collect())
}

fn clashes(wanted: Cidr, route: Cidr) -> bool {
    if wanted.network() == wanted {
        wanted.overlaps(&route)
    } else {
        route.contains(wanted.addr())
    }
}

fn find_free(prefix_len: u8, taken: &[Cidr]) -> Option<Cidr> {
    PRIVATE
        .iter()
        .filter(|block| (block.prefix_len..=32).contains(&prefix_len))
        .find_map(|block| block.find_free(prefix_len, taken))
}

/// Addresses anybody may use inside.
struct Block {
    base: Ipv4Addr,
    prefix_len: u8,
    /// Where the search begins; it goes round.
    first: Ipv4Addr,
}

impl Block {
    fn find_free(&self, prefix_len: u8, taken: &[Cidr]) -> Option<Cidr> {
        let size = 1_u64 << (32 - u32::from(prefix_len));
        let candidates = 1_u64 << (prefix_len - self.prefix_len);
        let begin = u64::from(self.first.to_bits() - self.base.to_bits()) / size;
        (0..candidates.min(CANDIDATES_MAX)).find_map(|step| {
            let offset = (begin + step) % candidates * size;
            let base = u32::try_from(u64::from(self.base.to_bits()) + offset).ok()?;
            let candidate = Cidr::new(Ipv4Addr::from_bits(base), prefix_len)?;
            let is_free = !taken.iter().any(|route| candidate.overlaps(route));
            is_free.then_some(candidate)
        })
    }
}

/// RFC 1918, then RFC 6598, which providers use between themselves and their customers. The search
/// begins where the usual range is, away from the low addresses that home and office networks have.
const PRIVATE: [Block; 4] = [
    Block {
        base: Ipv4Addr::new(10, 0, 0, 0),
        prefix_len: 8,
        first: Ipv4Addr::new(10, 32, 0, 0),
    },
    Block {
        base: Ipv4Addr::new(172, 16, 0, 0),
        prefix_len: 12,
        first: Ipv4Addr::new(172, 24, 0, 0),
    },
    Block {
        base: Ipv4Addr::new(192, 168, 0, 0),
        prefix_len: 16,
        first: Ipv4Addr::new(192, 168, 128, 0),
    },
    Block {
        base: Ipv4Addr::new(100, 64, 0, 0),
        prefix_len: 10,
        first: Ipv4Addr::new(100, 64, 0, 0),
    },
];

/// Small ranges have millions of places; whoever needs one finds it early.
const CANDIDATES_MAX: u64 = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("an address with a prefix")
    }

    #[test]
    fn subnets_clash_when_one_contains_the_start_of_the_other() {
        for (wanted, route, expected) in [
            ("10.32.0.0/12", "10.0.0.0/8", true),
            ("10.32.0.0/12", "10.40.1.0/24", true),
            ("10.32.0.0/12", "10.48.0.0/12", false),
            ("10.32.0.0/12", "192.168.1.0/24", false),
            ("10.32.0.0/12", "fd00::/8", false),
        ] {
            let found = clashes(cidr(wanted), cidr(route));
            assert_eq!(found, expected, "{wanted} {route}");
        }
    }

    #[test]
    fn an_address_clashes_with_routes_that_contain_it_only() {
        assert!(clashes(cidr("10.2.1.1/16"), cidr("10.2.1.0/24")));
        assert!(!clashes(cidr("10.2.1.1/16"), cidr("10.2.7.0/24")));
    }

    #[test]
    fn a_free_range_avoids_every_route() {
        let found = |prefix_len, taken: &[&str]| {
            let taken: Vec<Cidr> = taken.iter().map(|text| cidr(text)).collect();
            find_free(prefix_len, &taken).map(|range| range.to_string())
        };
        assert_eq!(found(12, &[]).as_deref(), Some("10.32.0.0/12"));
        let one = found(12, &["10.32.7.0/24"]);
        assert_eq!(one.as_deref(), Some("10.48.0.0/12"));
        let all = found(12, &["10.0.0.0/8"]);
        assert_eq!(all.as_deref(), Some("172.16.0.0/12"));
        let narrow = found(16, &["10.0.0.0/8", "172.16.0.0/12"]);
        assert_eq!(narrow.as_deref(), Some("192.168.0.0/16"));
        let last = found(12, &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]);
        assert_eq!(last.as_deref(), Some("100.64.0.0/12"));
        assert_eq!(found(12, &["0.0.0.0/1"]).as_deref(), Some("172.16.0.0/12"));
        assert_eq!(found(7, &[]), None);
        assert_eq!(found(24, &["0.0.0.0/0"]), None);
    }

    #[test]
    fn a_route_is_named_with_its_interface() {
        let route = Overlap {
            destination: cidr("10.0.0.0/8"),
            interface: Some("eth0".into()),
        };
        assert_eq!(route.to_string(), "10.0.0.0/8 on eth0");
    }
}
