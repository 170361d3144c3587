//! What a peer promised: the addresses it acknowledged and nobody gave back.
//!
//! A promise begins with the answer and ends with the first request to give the address back, however
//! that ends, or thirty seconds after the death of its container.

use std::collections::BTreeMap;
use std::time::Instant;

use ipam::{GRACE, Holding};

/// Promises of one peer.
#[derive(Debug, Clone, Default)]
pub struct Promises {
    by_ident: BTreeMap<String, Promised>,
}

#[derive(Debug, Clone, Default)]
struct Promised {
    addresses: Vec<u32>,
    is_container: bool,
    dead_since: Option<Instant>,
}

impl Promises {
    /// An address was acknowledged.
    pub fn add(&mut self, ident: &str, address: u32, is_container: bool) {
        let promised = self.by_ident.entry(ident.to_owned()).or_default();
        promised.is_container |= is_container;
        promised.dead_since = None;
        if !promised.addresses.contains(&address) {
            promised.addresses.push(address);
        }
    }

    /// The addresses promised to somebody.
    pub fn of(&self, ident: &str) -> &[u32] {
        self.by_ident
            .get(ident)
            .map_or(&[], |promised| &promised.addresses)
    }

    /// All promises: who, and which address.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        let all = self.by_ident.iter();
        all.flat_map(|(ident, promised)| promised.addresses.iter().map(|a| (ident.as_str(), *a)))
    }

    /// One address is given back. Whether it was promised.
    pub fn free(&mut self, ident: &str, address: u32) -> bool {
        let Some(promised) = self.by_ident.get_mut(ident) else {
            return false;
        };
        let before = promised.addresses.len();
        promised.addresses.retain(|held| *held != address);
        promised.addresses.len() != before && !promised.is_expiring()
    }

    /// All addresses of somebody are given back. Whether any were promised for sure.
    pub fn delete(&mut self, ident: &str) -> bool {
        let removed = self.by_ident.remove(ident);
        removed.is_some_and(|promised| !promised.addresses.is_empty() && !promised.is_expiring())
    }

    /// Nothing is promised any more.
    pub fn clear(&mut self) {
        self.by_ident.clear();
    }

    /// A container died.
    pub fn died(&mut self, ident: &str, now: Instant) {
        if let Some(promised) = self.by_ident.get_mut(ident) {
            promised.dead_since.get_or_insert(now);
        }
    }

    /// A container runs.
    pub fn started(&mut self, ident: &str) {
        if let Some(promised) = self.by_ident.get_mut(ident) {
            promised.dead_since = None;
        }
    }

    /// Forgets what the dead are not promised any longer.
    pub fn expire(&mut self, now: Instant) {
        self.by_ident.retain(|_, promised| {
            let dead = promised.dead_since;
            !promised.is_container || dead.is_none_or(|dead| dead + GRACE > now)
        });
    }

    /// A peer starts: what is promised to containers that do not run is off; the others are alive.
    pub fn restart(&mut self, is_running: impl Fn(&str) -> bool) {
        self.by_ident
            .retain(|ident, promised| !promised.is_container || is_running(ident));
        for promised in self.by_ident.values_mut() {
            promised.dead_since = None;
        }
    }

    /// The first promise that is not kept.
    pub fn broken(&self, holdings: &[Holding]) -> Option<(String, u32)> {
        let holds = |ident: &str, address: u32| {
            let of = holdings.iter().find(|holding| holding.ident == ident);
            of.is_some_and(|of| of.cidrs.iter().any(|c| u32::from(c.address) == address))
        };
        self.iter()
            .find(|(ident, address)| !holds(ident, *address))
            .map(|(ident, address)| (ident.to_owned(), address))
    }
}

impl Promised {
    /// Whether the dead may lose it at any moment.
    fn is_expiring(&self) -> bool {
        self.dead_since.is_some()
    }
}
