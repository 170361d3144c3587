//! Addresses with a prefix, as the kernel and the user write them.
//!
//! Pure values, no I/O. Parsing happens at the edge, so the rest of the crate holds valid values.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address together with the length of its network prefix, as in `10.32.0.1/12`.
///
/// Invariant: `prefix_len` is at most 32 for IPv4 and 128 for IPv6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    addr: IpAddr,
    prefix_len: u8,
}

impl Cidr {
    /// All IPv4 multicast, `224.0.0.0/4`.
    pub const MULTICAST_V4: Self = Self {
        addr: IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)),
        prefix_len: 4,
    };

    /// Joins an address and a prefix length; `None` when the length is too long for the family.
    pub fn new(addr: impl Into<IpAddr>, prefix_len: u8) -> Option<Self> {
        let addr = addr.into();
        (prefix_len <= max_prefix(addr)).then_some(Self { addr, prefix_len })
    }

    /// The address with all its bits.
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Length of the network prefix in bits.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// The same prefix with the host bits cleared.
    pub fn network(&self) -> Self {
        let addr = match self.addr {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from(a.to_bits() & mask_v4(self.prefix_len))),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from(a.to_bits() & mask_v6(self.prefix_len))),
        };
        Self {
            addr,
            prefix_len: self.prefix_len,
        }
    }

    /// Whether `addr` lies inside the prefix; addresses of the other family never do.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.addr, addr) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                Self {
                    addr,
                    prefix_len: self.prefix_len,
                }
                .network()
                    == self.network()
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether the two prefixes share any address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network().addr) || other.contains(self.network().addr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix_len)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Cidr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let bad = || AddrError::Cidr(text.to_owned());
        let (addr, len) = text.split_once('/').ok_or_else(bad)?;
        let addr: IpAddr = addr.parse().map_err(|_| bad())?;
        let digits = !len.is_empty() && len.len() <= 3 && len.bytes().all(|b| b.is_ascii_digit());
        let len = digits
            .then(|| len.parse::<u8>().ok())
            .flatten()
            .ok_or_else(bad)?;
        Self::new(addr, len).ok_or_else(bad)
    }
}

/// Why a text is not an address; the messages are those users of the original know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddrError {
    /// Not an address followed by a slash and a prefix length.
    #[error("invalid CIDR address: {0}")]
    Cidr(String),
}

fn max_prefix(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn mask_v4(prefix_len: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix_len))
        .unwrap_or(0)
}

fn mask_v6(prefix_len: u8) -> u128 {
    u128::MAX
        .checked_shl(128 - u32::from(prefix_len))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_they_are_read() {
        for text in [
            "10.32.0.1/12",
            "0.0.0.0/0",
            "fd00::1/64",
            "::/0",
            "1.2.3.4/32",
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.1/33",
            "fd00::1/129",
            "10.0.0.1/+8",
            "10.0.0/8",
            "/8",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_prefix_knows_its_network_and_neighbours() {
        let cidr = |t: &str| t.parse::<Cidr>().unwrap();
        assert_eq!(cidr("10.47.255.255/12").network(), cidr("10.32.0.0/12"));
        assert_eq!(cidr("fd00:1::5/64").network(), cidr("fd00:1::/64"));
        assert!(cidr("10.32.0.0/12").overlaps(&cidr("10.40.0.0/16")));
        assert!(cidr("10.40.0.0/16").overlaps(&cidr("10.32.0.0/12")));
        assert!(!cidr("10.32.0.0/12").overlaps(&cidr("10.48.0.0/16")));
        assert!(!cidr("0.0.0.0/0").overlaps(&cidr("::/0")));
    }
}
