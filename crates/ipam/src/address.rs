//! Addresses, ranges and subnets (spec/ipam.md 1).
//!
//! IPv4 only; inside the allocator an address is a `u32`, so that ranges are plain arithmetic. A
//! range ends one past its last address, hence 255.255.255.255 is in no range.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use wire::quote::{QUOTED_CHARS_MAX, printable};

/// Fewest addresses of a subnet: one to give out and one at either edge, rounded up to a prefix.
pub const SUBNET_SIZE_MIN: u64 = 4;
/// Longest prefix of a subnet; what [`SUBNET_SIZE_MIN`] comes to.
const SUBNET_PREFIX_MAX: u8 = 30;
/// Bits of an address.
const BITS: u8 = 32;

const _: () = assert!(1 << (BITS - SUBNET_PREFIX_MAX) == SUBNET_SIZE_MIN);

/// Addresses from `start` up to, not including, `end`. Empty unless `start < end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// First address.
    pub start: u32,
    /// One past the last address.
    pub end: u32,
}

impl Range {
    /// The addresses from `start` up to, not including, `end`.
    pub const fn new(start: u32, end: u32) -> Self {
        Self { start, end }
    }

    /// One address. Invariant: not 255.255.255.255.
    pub const fn single(address: u32) -> Self {
        Self::new(address, address + 1)
    }

    /// How many addresses.
    pub const fn size(self) -> u32 {
        self.end.saturating_sub(self.start)
    }

    /// Whether no address is inside.
    pub const fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// Whether the address is inside.
    pub const fn contains(self, address: u32) -> bool {
        self.start <= address && address < self.end
    }

    /// Whether all of `other` is inside; of an empty one nothing is outside.
    pub const fn encloses(self, other: Self) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// Whether an address is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.intersection(other).is_some()
    }

    /// What is in both, unless that is nothing.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let both = Self::new(self.start.max(other.start), self.end.min(other.end));
        (!both.is_empty()).then_some(both)
    }

    /// The fewest prefixes that make up the range, ascending.
    pub fn cidrs(self) -> impl Iterator<Item = Cidr> {
        let mut rest = self;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let aligned = rest.start.trailing_zeros().min(u32::from(BITS) - 1);
            let bits = aligned.min(rest.size().ilog2());
            let cidr = Cidr {
                address: Ipv4Addr::from_bits(rest.start),
                prefix_len: BITS - u8::try_from(bits).expect("at most 31"),
            };
            rest.start += 1 << bits;
            Some(cidr)
        })
    }

    /// The range as one prefix, if it is one.
    pub fn as_cidr(self) -> Option<Cidr> {
        let mut cidrs = self.cidrs();
        let first = cidrs.next()?;
        cidrs.next().is_none().then_some(first)
    }
}

impl fmt::Display for Range {
    /// First and last address, `10.0.0.0-10.0.0.255`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.end.saturating_sub(1).max(self.start);
        write!(
            f,
            "{}-{}",
            Ipv4Addr::from_bits(self.start),
            Ipv4Addr::from_bits(last)
        )
    }
}

/// Joins ranges that touch or overlap; the result ascends and holds no empty range.
pub fn merge_ranges(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Why a text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCidrError {
    /// Not an address, a slash and a length; holds the beginning of the text.
    #[error("invalid CIDR address: {}", printable(.0))]
    Malformed(String),
    /// IPv6; holds the text.
    #[error("invalid Non-IPv4 address not supported: {0}")]
    NotIpv4(String),
}

/// Why a prefix is no subnet to allocate in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// No prefix at all.
    #[error(transparent)]
    Cidr(#[from] ParseCidrError),
    /// Fewer than [`SUBNET_SIZE_MIN`] addresses.
    #[error("invalid subnet - smaller than minimum size {SUBNET_SIZE_MIN}: {0}")]
    TooSmall(Cidr),
    /// An address inside a network in place of the network's.
    #[error("invalid subnet - bits after network prefix are not all zero: {0}")]
    HostBits(Cidr),
    /// Holds 255.255.255.255, which is no address of a host.
    #[error("invalid subnet - holds the broadcast address 255.255.255.255: {0}")]
    HoldsBroadcast(Cidr),
}

/// An address and the length of its network's prefix, `10.32.0.1/12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The address; bits behind the prefix may be set.
    pub address: Ipv4Addr,
    /// Bits of the prefix, 0 to 32.
    pub prefix_len: u8,
}

impl Cidr {
    /// The network the address is in, if one can allocate in it.
    pub fn subnet(self) -> Result<Subnet, SubnetError> {
        Subnet::new(
            self.address.to_bits() & mask(self.prefix_len),
            self.prefix_len,
        )
    }

    /// All addresses of the network the address is in, 255.255.255.255 excepted.
    pub fn range(self) -> Range {
        let base = self.address.to_bits() & mask(self.prefix_len);
        let last = base | !mask(self.prefix_len);
        Range::new(base, last.saturating_add(1))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, ParseCidrError> {
        let beginning = || text.chars().take(QUOTED_CHARS_MAX).collect();
        let malformed = || ParseCidrError::Malformed(beginning());
        let (address, prefix_len) = text.split_once('/').ok_or_else(malformed)?;
        let prefix_len = parse_prefix_len(prefix_len).ok_or_else(malformed)?;
        if address.parse::<std::net::Ipv6Addr>().is_ok() && prefix_len <= 128 {
            return Err(ParseCidrError::NotIpv4(beginning()));
        }
        let address = address.parse().map_err(|_| malformed())?;
        if prefix_len > BITS {
            return Err(malformed());
        }
        Ok(Self {
            address,
            prefix_len,
        })
    }
}

/// A network one can allocate in: no host bits, at least four addresses, no broadcast address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    base: u32,
    prefix_len: u8,
}

impl Subnet {
    /// The network with this first address.
    pub fn new(base: u32, prefix_len: u8) -> Result<Self, SubnetError> {
        let cidr = Cidr {
            address: Ipv4Addr::from_bits(base),
            prefix_len,
        };
        if prefix_len > SUBNET_PREFIX_MAX {
            return Err(SubnetError::TooSmall(cidr));
        }
        if base & !mask(prefix_len) != 0 {
            return Err(SubnetError::HostBits(cidr));
        }
        if base | !mask(prefix_len) == u32::MAX {
            return Err(SubnetError::HoldsBroadcast(cidr));
        }
        Ok(Self { base, prefix_len })
    }

    /// First address.
    pub const fn base(self) -> u32 {
        self.base
    }

    /// Bits of the prefix, 1 to 30.
    pub const fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// All addresses.
    pub const fn range(self) -> Range {
        // No overflow: no subnet holds the last address there is.
        Range::new(self.base, (self.base | !mask(self.prefix_len)) + 1)
    }

    /// The addresses one may give out: all but the first and the last.
    pub const fn host_range(self) -> Range {
        let range = self.range();
        Range::new(range.start + 1, range.end - 1)
    }

    /// Whether the address is inside.
    pub const fn contains(self, address: u32) -> bool {
        self.range().contains(address)
    }

    /// How many addresses.
    pub const fn size(self) -> u64 {
        1 << (BITS - self.prefix_len)
    }

    /// An address of this network, as it is given to a container.
    pub const fn cidr(self, address: u32) -> Cidr {
        Cidr {
            address: Ipv4Addr::from_bits(address),
            prefix_len: self.prefix_len,
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cidr(self.base).fmt(f)
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let cidr: Cidr = text.parse()?;
        Self::new(cidr.address.to_bits(), cidr.prefix_len)
    }
}

/// The bits of a prefix; all of them above 32.
const fn mask(prefix_len: u8) -> u32 {
    match u32::MAX.checked_shr(prefix_len as u32) {
        Some(host_bits) => !host_bits,
        None => u32::MAX,
    }
}

/// A decimal number without a sign, at most 255.
fn parse_prefix_len(text: &str) -> Option<u8> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        text.parse::<Subnet>().unwrap_err().to_string()
    }

    fn range(text: &str) -> Range {
        text.parse::<Cidr>().unwrap().range()
    }

    #[test]
    fn refusals_of_subnets_name_the_rule_and_the_text() {
        for (text, message) in [
            (
                "10.0.0.1/24",
                "invalid subnet - bits after network prefix are not all zero: 10.0.0.1/24",
            ),
            (
                "10.0.0.0/31",
                "invalid subnet - smaller than minimum size 4: 10.0.0.0/31",
            ),
            (
                "10.0.0.1/31",
                "invalid subnet - smaller than minimum size 4: 10.0.0.1/31",
            ),
            (
                "255.255.255.0/24",
                "invalid subnet - holds the broadcast address 255.255.255.255: 255.255.255.0/24",
            ),
            (
                "0.0.0.0/0",
                "invalid subnet - holds the broadcast address 255.255.255.255: 0.0.0.0/0",
            ),
            (
                "fd00::/64",
                "invalid Non-IPv4 address not supported: fd00::/64",
            ),
            ("10.0.0.0", "invalid CIDR address: 10.0.0.0"),
            ("10.0.0.0/33", "invalid CIDR address: 10.0.0.0/33"),
            ("10.0.0.0/+8", "invalid CIDR address: 10.0.0.0/+8"),
            ("10.0.0.0/", "invalid CIDR address: 10.0.0.0/"),
            ("10.0.0/8", "invalid CIDR address: 10.0.0/8"),
            ("10.0.0.0/256", "invalid CIDR address: 10.0.0.0/256"),
            ("x\u{1b}[1m/8", "invalid CIDR address: x\u{fffd}[1m/8"),
            ("", "invalid CIDR address: "),
        ] {
            assert_eq!(refusal(text), message);
        }
    }

    #[test]
    fn the_smallest_subnet_has_two_addresses_to_give_out() {
        let subnet: Subnet = "10.0.0.4/30".parse().unwrap();
        assert_eq!(subnet.size(), 4);
        assert_eq!(subnet.host_range(), Range::new(0x0a00_0005, 0x0a00_0007));
        assert_eq!(subnet.to_string(), "10.0.0.4/30");
    }

    #[test]
    fn half_of_all_addresses_is_a_subnet() {
        let subnet: Subnet = "0.0.0.0/1".parse().unwrap();
        assert_eq!(subnet.range(), Range::new(0, 0x8000_0000));
        assert!(subnet.contains(0x7fff_ffff) && !subnet.contains(0x8000_0000));
    }

    #[test]
    fn a_cidr_with_host_bits_knows_its_network() {
        let cidr: Cidr = "10.32.5.1/12".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.32.5.1/12");
        assert_eq!(cidr.subnet().unwrap().to_string(), "10.32.0.0/12");
        assert_eq!(cidr.range(), Range::new(0x0a20_0000, 0x0a30_0000));
        assert_eq!(range("1.2.3.4/32").size(), 1);
        assert_eq!(range("255.255.255.255/32").size(), 0);
        assert_eq!(range("255.255.255.255/0"), Range::new(0, u32::MAX));
    }

    #[test]
    fn a_range_is_cut_into_the_fewest_prefixes() {
        let cut = |start, end| {
            let cidrs = Range::new(start, end).cidrs();
            cidrs.map(|cidr| cidr.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(cut(5, 5), [""; 0]);
        assert_eq!(cut(0, 256), ["0.0.0.0/24"]);
        assert_eq!(
            cut(3, 13),
            ["0.0.0.3/32", "0.0.0.4/30", "0.0.0.8/30", "0.0.0.12/32"]
        );
        assert_eq!(cut(0, u32::MAX).len(), 32);
        assert_eq!(
            Range::new(0, 256).as_cidr().unwrap().to_string(),
            "0.0.0.0/24"
        );
        assert_eq!(Range::new(0, 255).as_cidr(), None);
        assert_eq!(Range::new(7, 7).as_cidr(), None);
    }

    #[test]
    fn ranges_show_first_and_last_address() {
        assert_eq!(range("10.0.0.0/24").to_string(), "10.0.0.0-10.0.0.255");
        assert_eq!(Range::single(1).to_string(), "0.0.0.1-0.0.0.1");
    }

    #[test]
    fn merged_ranges_ascend_and_do_not_touch() {
        let ranges = [(8, 9), (0, 4), (4, 6), (1, 2), (7, 7)];
        let ranges = ranges.map(|(start, end)| Range::new(start, end));
        assert_eq!(
            merge_ranges(ranges.to_vec()),
            [Range::new(0, 6), Range::new(8, 9)]
        );
    }

    #[test]
    fn an_intersection_is_never_empty() {
        let range = Range::new(10, 20);
        assert_eq!(
            range.intersection(Range::new(15, 30)),
            Some(Range::new(15, 20))
        );
        assert_eq!(range.intersection(Range::new(20, 30)), None);
        assert!(range.encloses(Range::new(10, 20)) && !range.encloses(Range::new(10, 21)));
    }
}
