//! Values of the original's database (spec/gob.md 6.6), each a gob stream of its own. Weft only
//! reads them, to keep addresses across an upgrade in place.

use std::collections::BTreeMap;

use super::{Ring, bounded, name_of, take_ring};
use crate::PeerName;
use crate::gob::{GobError, Stream};

/// Most identifiers, and most addresses of one, that are read.
const OWNED_MAX: usize = 256 * 1024;

/// What one identifier holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owned {
    /// Whether its death frees the addresses.
    pub is_container: bool,
    /// Addresses with the prefix length of their subnets, at most 32.
    pub cidrs: Vec<(u32, u8)>,
}

/// The value of key `peername`.
pub fn decode_peer_name(value: &[u8]) -> Result<PeerName, GobError> {
    name_of(Stream::new(value).require_uint("peername")?, "peername")
}

/// The value of key `ring`.
pub fn decode_ring(value: &[u8]) -> Result<Ring, GobError> {
    let value = Stream::new(value).require_value("ring")?;
    take_ring(value.as_record("ring")?)
}

/// The value of key `ownedAddresses`, by identifier.
pub fn decode_owned(value: &[u8]) -> Result<BTreeMap<String, Owned>, GobError> {
    let value = Stream::new(value).require_value("ownedAddresses")?;
    let mut owned = BTreeMap::new();
    for (ident, held) in bounded(value.as_map("ownedAddresses")?, OWNED_MAX)? {
        let held = held.as_record("ownedAddresses")?;
        let cidrs = bounded(held.list("Cidrs")?, OWNED_MAX)?.iter().map(|cidr| {
            let cidr = cidr.as_record("Cidrs")?;
            let prefix_len = u8::try_from(cidr.int("PrefixLen")?).ok();
            let prefix_len = prefix_len.filter(|&len| u32::from(len) <= u32::BITS);
            let prefix_len = prefix_len.ok_or(GobError::OutOfRange("PrefixLen"))?;
            Ok((cidr.uint32("Addr")?, prefix_len))
        });
        let held = Owned {
            is_container: held.bool("IsContainer")?,
            cidrs: cidrs.collect::<Result<_, GobError>>()?,
        };
        owned.insert(ident.as_str("ownedAddresses")?.to_owned(), held);
    }
    Ok(owned)
}

/// The value of key `directPeers`: targets as they were typed.
pub fn decode_direct_peers(value: &[u8]) -> Result<Vec<String>, GobError> {
    let value = Stream::new(value).require_value("directPeers")?;
    let targets = value.as_list("directPeers")?.iter();
    targets
        .map(|target| target.as_str("directPeers").map(str::to_owned))
        .collect()
}
