//! Who owns which 12-bit short id (spec/mesh.md 9). Only fastdp tunnel ids use them.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, RngExt};
use wire::PeerName;

/// Number of short ids: they have 12 bits.
pub(crate) const SHORT_IDS: u16 = 4096;
/// How often a random id is tried before all free ones are listed.
const RANDOM_TRIES: usize = 10;

/// All claims on short ids.
///
/// The owner of an id is the lowest-named claimant. Invariant: every id here has one.
#[derive(Debug, Default)]
pub(crate) struct ShortIds {
    claimants: BTreeMap<u16, BTreeSet<PeerName>>,
    changed: bool,
}

impl ShortIds {
    /// A peer claims an id.
    pub(crate) fn add(&mut self, id: u16, peer: PeerName) {
        debug_assert!(id < SHORT_IDS, "ids are checked when they arrive");
        let claimants = self.claimants.entry(id).or_default();
        let owner = claimants.first().copied();
        claimants.insert(peer);
        self.changed |= claimants.first().copied() != owner;
    }

    /// A peer no longer claims an id.
    pub(crate) fn remove(&mut self, id: u16, peer: PeerName) {
        let Some(claimants) = self.claimants.get_mut(&id) else {
            return;
        };
        let owner = claimants.first().copied();
        claimants.remove(&peer);
        self.changed |= claimants.first().copied() != owner;
        if claimants.is_empty() {
            self.claimants.remove(&id);
        }
    }

    /// Every id in use and the peer that owns it.
    pub(crate) fn owners(&self) -> BTreeMap<u16, PeerName> {
        let owner = |(id, claimants): (&u16, &BTreeSet<PeerName>)| Some((*id, *claimants.first()?));
        self.claimants.iter().filter_map(owner).collect()
    }

    /// The peer that owns an id.
    pub(crate) fn owner(&self, id: u16) -> Option<PeerName> {
        self.claimants
            .get(&id)
            .and_then(|claimants| claimants.first().copied())
    }

    /// Whether an id got another owner, its first or none since this was last asked.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// A free id chosen at random; `None` if all are taken.
    pub(crate) fn choose_free(&self, rng: &mut impl Rng) -> Option<u16> {
        for _ in 0..RANDOM_TRIES {
            let id = rng.random_range(0..SHORT_IDS);
            if self.owner(id).is_none() {
                return Some(id);
            }
        }
        let free: Vec<u16> = (0..SHORT_IDS)
            .filter(|id| self.owner(*id).is_none())
            .collect();
        if free.is_empty() {
            return None;
        }
        Some(free[rng.random_range(0..free.len())])
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const A: PeerName = PeerName::from_u64(1);
    const B: PeerName = PeerName::from_u64(2);

    #[test]
    fn the_lowest_name_owns_and_the_next_inherits() {
        let mut ids = ShortIds::default();
        ids.add(7, B);
        assert!(ids.take_changed(), "a first owner");
        ids.add(7, A);
        assert_eq!(ids.owner(7), Some(A));
        assert!(ids.take_changed());
        ids.remove(7, A);
        assert_eq!(ids.owner(7), Some(B));
        assert!(ids.take_changed());
    }

    #[test]
    fn a_higher_claimant_changes_nothing() {
        let mut ids = ShortIds::default();
        ids.add(7, A);
        assert!(ids.take_changed());
        ids.add(7, B);
        ids.remove(7, B);
        assert_eq!(ids.owner(7), Some(A));
        assert!(!ids.take_changed());
    }

    #[test]
    fn release_of_an_id_is_an_event_and_so_is_its_reuse() {
        let mut ids = ShortIds::default();
        ids.add(7, A);
        assert!(ids.take_changed());
        ids.remove(7, A);
        assert_eq!(ids.owner(7), None);
        assert!(ids.owners().is_empty() && ids.take_changed());
        ids.add(7, A);
        assert!(ids.take_changed());
    }

    #[test]
    fn the_last_free_id_is_found() {
        let mut rng = StdRng::from_seed([1; 32]);
        let mut ids = ShortIds::default();
        for id in (0..SHORT_IDS).filter(|id| *id != 1234) {
            ids.add(id, A);
        }
        assert_eq!(ids.choose_free(&mut rng), Some(1234));
        ids.add(1234, B);
        assert_eq!(ids.choose_free(&mut rng), None);
    }
}
