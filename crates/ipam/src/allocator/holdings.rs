//! Who holds which addresses on this host: the owned map of spec/ipam.md 1, and which containers
//! are dead for now (6).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Instant;

use crate::address::{Cidr, Range};
use crate::{ANONYMOUS, GRACE, Holding};

/// The name an address is kept under: callers that do not say who they are hold each address under
/// its own text.
pub(super) fn keeper(ident: &str, address: Ipv4Addr) -> String {
    if ident == ANONYMOUS {
        address.to_string()
    } else {
        ident.to_owned()
    }
}

#[derive(Debug, Clone, Default)]
struct Held {
    is_container: bool,
    /// In the order they were given out. Invariant: not empty.
    cidrs: Vec<Cidr>,
}

/// Addresses by identifier and identifiers by address.
#[derive(Debug, Clone, Default)]
pub(super) struct Holdings {
    by_ident: BTreeMap<String, Held>,
    /// Invariant: the inverse of `by_ident`; an address has one holder.
    by_address: BTreeMap<Ipv4Addr, String>,
    /// Since when containers that hold something are dead.
    dead: BTreeMap<String, Instant>,
    /// What was added, changed or removed since it was last asked.
    changed: BTreeSet<Cidr>,
}

impl Holdings {
    /// Records an address. It must have no holder.
    pub(super) fn add(&mut self, ident: &str, cidr: Cidr, is_container: bool) {
        let before = self.by_address.insert(cidr.address, ident.to_owned());
        assert!(before.is_none(), "{cidr} had a holder");
        self.by_ident
            .entry(ident.to_owned())
            .or_default()
            .cidrs
            .push(cidr);
        self.changed.insert(cidr);
        self.flag(ident, is_container);
    }

    /// Notes that a holder is a container. Nothing makes it none again.
    pub(super) fn flag(&mut self, ident: &str, is_container: bool) {
        let Some(held) = self.by_ident.get_mut(ident) else {
            return;
        };
        if is_container && !held.is_container {
            held.is_container = true;
            self.changed.extend(&held.cidrs);
        }
    }

    /// Removes one address, if `ident` holds it.
    pub(super) fn remove(&mut self, ident: &str, address: Ipv4Addr) -> Option<Cidr> {
        let held = self.by_ident.get_mut(ident)?;
        let index = held.cidrs.iter().position(|c| c.address == address)?;
        let cidr = held.cidrs.remove(index);
        if held.cidrs.is_empty() {
            self.by_ident.remove(ident);
            self.dead.remove(ident);
        }
        self.by_address.remove(&address);
        self.changed.insert(cidr);
        Some(cidr)
    }

    /// Removes everything somebody holds.
    pub(super) fn remove_all(&mut self, ident: &str) -> Vec<Cidr> {
        let cidrs = self.cidrs(ident).to_vec();
        for cidr in &cidrs {
            self.remove(ident, cidr.address);
        }
        cidrs
    }

    /// What somebody holds, in the order it was given out.
    pub(super) fn cidrs(&self, ident: &str) -> &[Cidr] {
        self.by_ident
            .get(ident)
            .map_or(&[], |held| held.cidrs.as_slice())
    }

    /// The first address somebody holds inside a range.
    pub(super) fn first_in(&self, ident: &str, range: Range) -> Option<Cidr> {
        let mut cidrs = self.cidrs(ident).iter().copied();
        cidrs.find(|cidr| range.contains(cidr.address.to_bits()))
    }

    /// Who holds an address.
    pub(super) fn holder(&self, address: Ipv4Addr) -> Option<&str> {
        self.by_address.get(&address).map(String::as_str)
    }

    /// Whether a holder is a container.
    pub(super) fn is_container(&self, ident: &str) -> bool {
        self.by_ident.get(ident).is_some_and(|h| h.is_container)
    }

    /// Everything held inside a range.
    pub(super) fn held_in(&self, range: Range) -> Vec<(String, Cidr)> {
        if range.is_empty() {
            return Vec::new();
        }
        let bounds = Ipv4Addr::from_bits(range.start)..Ipv4Addr::from_bits(range.end);
        let inside = self.by_address.range(bounds);
        inside
            .map(|(address, ident)| (ident.clone(), self.cidr_of(ident, *address)))
            .collect()
    }

    fn cidr_of(&self, ident: &str, address: Ipv4Addr) -> Cidr {
        let mut cidrs = self.cidrs(ident).iter().copied();
        cidrs
            .find(|cidr| cidr.address == address)
            .expect("both maps hold it")
    }

    /// Everybody, by identifier.
    pub(super) fn list(&self) -> Vec<Holding> {
        let held = self.by_ident.iter();
        held.map(|(ident, held)| Holding {
            ident: ident.clone(),
            is_container: held.is_container,
            cidrs: held.cidrs.clone(),
        })
        .collect()
    }

    /// Containers that hold something.
    pub(super) fn containers(&self) -> Vec<String> {
        let held = self.by_ident.iter().filter(|(_, held)| held.is_container);
        held.map(|(ident, _)| ident.clone()).collect()
    }

    /// Notes that a container died. False if it is none or holds nothing.
    pub(super) fn mark_dead(&mut self, ident: &str, now: Instant) -> bool {
        let is_container = self.is_container(ident);
        if is_container {
            self.dead.insert(ident.to_owned(), now);
        }
        is_container
    }

    /// Notes that somebody lives.
    pub(super) fn mark_alive(&mut self, ident: &str) {
        self.dead.remove(ident);
    }

    /// Whether a holder is dead.
    pub(super) fn is_dead(&self, ident: &str) -> bool {
        self.dead.contains_key(ident)
    }

    /// Whether anybody is dead.
    pub(super) fn has_dead(&self) -> bool {
        !self.dead.is_empty()
    }

    /// Containers dead for longer than [`GRACE`].
    pub(super) fn long_dead(&self, now: Instant) -> Vec<String> {
        let gone = self.dead.iter().filter(|(_, since)| now > **since + GRACE);
        gone.map(|(ident, _)| ident.clone()).collect()
    }

    /// What changed since the last call: each address with its holder now, if it has one.
    pub(super) fn take_changes(&mut self) -> Vec<(Cidr, Option<(String, bool)>)> {
        let changed = std::mem::take(&mut self.changed);
        let state = |cidr: Cidr| {
            let ident = self.by_address.get(&cidr.address)?;
            let held = &self.by_ident[ident];
            let is_held = held.cidrs.contains(&cidr);
            is_held.then(|| (ident.clone(), held.is_container))
        };
        changed
            .into_iter()
            .map(|cidr| (cidr, state(cidr)))
            .collect()
    }

    /// Panics if the maps contradict each other.
    pub(super) fn assert_invariants(&self) {
        let mut count = 0;
        for (ident, held) in &self.by_ident {
            assert!(!held.cidrs.is_empty(), "{ident} holds nothing");
            for cidr in &held.cidrs {
                assert_eq!(self.by_address.get(&cidr.address), Some(ident), "{cidr}");
                count += 1;
            }
        }
        assert_eq!(count, self.by_address.len(), "every address has a holder");
        let held = |ident: &String| self.by_ident.contains_key(ident);
        assert!(self.dead.keys().all(held), "the dead hold something");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_change_tells_who_holds_the_address_now() {
        let mut holdings = Holdings::default();
        holdings.add("a", cidr("10.0.0.1/24"), false);
        holdings.add("b", cidr("10.0.0.2/24"), true);
        holdings.remove("a", Ipv4Addr::new(10, 0, 0, 1));
        let changes = holdings.take_changes();
        let b = Some(("b".to_owned(), true));
        let expected = vec![(cidr("10.0.0.1/24"), None), (cidr("10.0.0.2/24"), b)];
        assert_eq!(changes, expected);
        assert!(holdings.take_changes().is_empty());
        holdings.assert_invariants();
    }

    #[test]
    fn becoming_a_container_changes_all_rows_of_a_holder() {
        let mut holdings = Holdings::default();
        holdings.add("a", cidr("10.0.0.1/24"), false);
        holdings.add("a", cidr("10.0.1.1/24"), false);
        holdings.take_changes();
        holdings.flag("a", true);
        assert_eq!(holdings.take_changes().len(), 2);
        holdings.flag("a", false);
        assert!(holdings.take_changes().is_empty());
    }

    #[test]
    fn callers_without_a_name_hold_an_address_under_its_own_text() {
        let address = Ipv4Addr::new(10, 0, 0, 1);
        assert_eq!(keeper(ANONYMOUS, address), "10.0.0.1");
        assert_eq!(keeper("x", address), "x");
    }
}
