//! What a mesh is told at start and never changes.

use std::net::IpAddr;

use wire::PeerName;
use zeroize::Zeroizing;

/// Settings of a mesh.
pub struct MeshConfig {
    /// Our name; not the unknown one.
    pub name: PeerName,
    /// Our nickname, the host name by default.
    pub nickname: String,
    /// Passphrase; `None` means links in clear.
    pub password: Option<Password>,
    /// Our TCP port; completes peers given without a port.
    pub port: u16,
    /// Lowest protocol version we accept: 1 or 2.
    pub min_protocol_version: u8,
    /// Highest protocol version we speak: 2, or 1 in tests of the old one.
    pub max_protocol_version: u8,
    /// Subnets whose peers need no encryption of the data plane.
    pub trusted_subnets: Vec<TrustedSubnet>,
    /// Most connections we keep; 0 means no limit.
    pub conn_limit: usize,
    /// Whether to dial peers learned from the topology.
    pub discovery: bool,
    /// Our overlays in order of preference; empty means compatibility mode.
    pub overlays: Vec<String>,
    /// Capability words we announce as a Weft.
    pub weft_capabilities: Vec<String>,
    /// Whether to announce ourselves as a Weft at all.
    pub announce_weft: bool,
}

impl MeshConfig {
    /// The defaults of the original: port 6783, versions 1 to 2, 200 connections, discovery on,
    /// sleeve only, no password.
    pub fn new(name: PeerName, nickname: impl Into<String>) -> Self {
        Self {
            name,
            nickname: nickname.into(),
            password: None,
            port: 6783,
            min_protocol_version: 1,
            max_protocol_version: 2,
            trusted_subnets: Vec::new(),
            conn_limit: 200,
            discovery: true,
            overlays: vec!["sleeve".to_owned()],
            weft_capabilities: Vec::new(),
            announce_weft: true,
        }
    }

    /// Whether an address is inside one of our trusted subnets (spec/mesh.md 5).
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_subnets
            .iter()
            .any(|subnet| subnet.contains(address))
    }
}

/// The passphrase. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// The raw bytes of what the user typed; an empty passphrase is none at all (spec/mesh.md 4.2).
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<Self> {
        let bytes = Zeroizing::new(bytes.into());
        (!bytes.is_empty()).then_some(Self(bytes))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A prefix of `--trusted-subnets`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedSubnet {
    address: IpAddr,
    prefix_bits: u8,
}

impl TrustedSubnet {
    /// A prefix, or `None` when it is longer than the address. An IPv4-mapped prefix of at least 96
    /// bits becomes the IPv4 prefix it means.
    pub fn new(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        if prefix_bits > if address.is_ipv4() { 32 } else { 128 } {
            return None;
        }
        let canonical = address.to_canonical();
        if canonical != address && prefix_bits >= 96 {
            return Some(Self {
                address: canonical,
                prefix_bits: prefix_bits - 96,
            });
        }
        Some(Self {
            address,
            prefix_bits,
        })
    }

    /// Whether the address lies inside. IPv4-mapped addresses count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let shift = 32 - u32::from(self.prefix_bits);
                (ours.to_bits() ^ theirs.to_bits())
                    .checked_shr(shift)
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let shift = 128 - u32::from(self.prefix_bits);
                (ours.to_bits() ^ theirs.to_bits())
                    .checked_shr(shift)
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for TrustedSubnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(address: &str, bits: u8) -> TrustedSubnet {
        TrustedSubnet::new(address.parse().unwrap(), bits).unwrap()
    }

    #[test]
    fn subnets_contain_their_own_addresses_in_both_families() {
        let v4 = subnet("10.1.0.0", 16);
        assert!(v4.contains("10.1.255.1".parse().unwrap()));
        assert!(v4.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!v4.contains("10.2.0.1".parse().unwrap()));
        let v6 = subnet("fd00:1::", 32);
        assert!(v6.contains("fd00:1::5".parse().unwrap()));
        assert!(!v6.contains("fd00:2::5".parse().unwrap()));
        assert!(!v6.contains("10.1.0.1".parse().unwrap()));
        assert!(subnet("0.0.0.0", 0).contains("8.8.8.8".parse().unwrap()));
        assert!(subnet("::", 0).contains("2001:db8::1".parse().unwrap()));
        assert!(subnet("10.0.0.7", 32).contains("10.0.0.7".parse().unwrap()));
        assert!(!subnet("10.0.0.7", 32).contains("10.0.0.6".parse().unwrap()));
    }

    #[test]
    fn prefixes_longer_than_the_address_are_refused() {
        assert_eq!(TrustedSubnet::new("10.0.0.0".parse().unwrap(), 33), None);
        assert_eq!(TrustedSubnet::new("::1".parse().unwrap(), 129), None);
    }

    #[test]
    fn an_ipv4_mapped_prefix_means_the_ipv4_one() {
        assert!(subnet("::ffff:10.0.0.0", 104).contains("10.9.9.9".parse().unwrap()));
    }

    #[test]
    fn an_empty_passphrase_is_none() {
        assert!(Password::new("").is_none());
        assert!(Password::new("x").is_some());
    }
}
