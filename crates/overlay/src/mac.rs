//! Which peer each Ethernet address was last seen at (spec/sleeve.md 9).
//!
//! The table belongs to the data plane: forwarders learn into it at once. The control plane hears of
//! what was learned in batches ([`Sighting`]) and says what is wrong ([`MacCorrection`]); it never
//! hands over a table of its own.
//!
//! Time is coarse monotonic seconds handed in by the caller. Bounded: when full, the entry that was
//! refreshed longest ago makes room.

use std::collections::{BTreeSet, HashMap};

use wire::PeerName;
use wire::ethernet::MacAddr;

/// Entries are forgotten after this long without being refreshed, seconds.
pub const EXPIRY_SECS: u32 = 600;
/// A refresh is recorded at most once in this time, seconds, so that reading stays cheap.
pub const REFRESH_SECS: u32 = 60;
/// Most addresses kept; a flood of invented addresses costs memory up to here.
pub const ENTRIES_MAX: usize = 65_536;

/// What seeing an address did to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// First sight.
    New,
    /// Known at this peer already.
    Known,
    /// It was at another peer before.
    Moved {
        /// Where it was.
        from: PeerName,
    },
}

/// An address was seen at a peer for the first time, or after it was at another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// The address.
    pub mac: MacAddr,
    /// Where it is.
    pub peer: PeerName,
}

/// What the control plane knows better than the table: a difference, never the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacCorrection {
    /// Peers that are gone; no address is there any more.
    pub gone: BTreeSet<PeerName>,
}

/// One line of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacEntry {
    /// The address.
    pub mac: MacAddr,
    /// Where it was last seen.
    pub peer: PeerName,
    /// When it was last refreshed, seconds of the caller's clock.
    pub seen_secs: u32,
}

#[derive(Clone, Copy)]
struct Place {
    peer: PeerName,
    seen_secs: u32,
}

/// Addresses and where they were seen.
///
/// Invariant: `by_age` holds exactly the (time, address) pairs of `places`.
#[derive(Default)]
pub struct MacTable {
    places: HashMap<MacAddr, Place>,
    by_age: BTreeSet<(u32, MacAddr)>,
}

impl MacTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of addresses known.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Where an address was last seen.
    pub fn lookup(&self, mac: MacAddr) -> Option<PeerName> {
        self.places.get(&mac).map(|place| place.peer)
    }

    /// Whether `learn` with these arguments would change nothing; lets callers avoid write access.
    pub fn is_current(&self, mac: MacAddr, peer: PeerName, now_secs: u32) -> bool {
        mac.is_group()
            || self.places.get(&mac).is_some_and(|place| {
                place.peer == peer && now_secs.saturating_sub(place.seen_secs) < REFRESH_SECS
            })
    }

    /// Records that a frame from `mac` came from `peer`. Group addresses are never learned: they
    /// cannot be a sender, and would catch everybody's broadcasts.
    pub fn learn(&mut self, mac: MacAddr, peer: PeerName, now_secs: u32) -> Learned {
        if self.is_current(mac, peer, now_secs) {
            return Learned::Known;
        }
        let place = Place {
            peer,
            seen_secs: now_secs,
        };
        let learned = match self.places.insert(mac, place) {
            None => Learned::New,
            Some(old) => {
                self.by_age.remove(&(old.seen_secs, mac));
                if old.peer == peer {
                    Learned::Known
                } else {
                    Learned::Moved { from: old.peer }
                }
            }
        };
        self.by_age.insert((now_secs, mac));
        if self.places.len() > ENTRIES_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.places.remove(&oldest);
        }
        learned
    }

    /// Forgets what was not refreshed for `EXPIRY_SECS`; returns how many went. Call once a minute.
    pub fn expire(&mut self, now_secs: u32) -> usize {
        let mut gone = 0;
        while let Some(&(seen_secs, mac)) = self.by_age.first() {
            if now_secs.saturating_sub(seen_secs) < EXPIRY_SECS {
                break;
            }
            self.by_age.pop_first();
            self.places.remove(&mac);
            gone += 1;
        }
        gone
    }

    /// Forgets what is wrong.
    pub fn correct(&mut self, correction: &MacCorrection) {
        let gone = &correction.gone;
        self.places.retain(|_, place| !gone.contains(&place.peer));
        let places = &self.places;
        self.by_age.retain(|(_, mac)| places.contains_key(mac));
    }

    /// A copy for reports, ascending by address.
    pub fn entries(&self) -> Vec<MacEntry> {
        let mut entries: Vec<MacEntry> = self
            .by_age
            .iter()
            .filter_map(|&(seen_secs, mac)| {
                self.lookup(mac).map(|peer| MacEntry {
                    mac,
                    peer,
                    seen_secs,
                })
            })
            .collect();
        entries.sort_by_key(|entry| entry.mac);
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerName = PeerName::from_u64(0xa);
    const B: PeerName = PeerName::from_u64(0xb);

    fn mac(n: u32) -> MacAddr {
        let [a, b, c, d] = n.to_be_bytes();
        MacAddr([2, 0, a, b, c, d])
    }

    #[test]
    fn address_is_new_then_known_then_moved() {
        let mut table = MacTable::new();
        assert_eq!(table.learn(mac(1), A, 5), Learned::New);
        assert_eq!(table.learn(mac(1), A, 6), Learned::Known);
        assert_eq!(table.learn(mac(1), B, 7), Learned::Moved { from: A });
        assert_eq!(table.lookup(mac(1)), Some(B));
        assert_eq!(
            table.entries(),
            [MacEntry {
                mac: mac(1),
                peer: B,
                seen_secs: 7
            }]
        );
    }

    #[test]
    fn refresh_is_recorded_at_most_once_a_minute() {
        let mut table = MacTable::new();
        table.learn(mac(1), A, 100);
        assert!(table.is_current(mac(1), A, 159));
        table.learn(mac(1), A, 159);
        assert_eq!(table.entries()[0].seen_secs, 100);
        assert!(!table.is_current(mac(1), A, 160));
        table.learn(mac(1), A, 160);
        assert_eq!(table.entries()[0].seen_secs, 160);
    }

    #[test]
    fn entry_expires_ten_minutes_after_its_last_refresh() {
        let mut table = MacTable::new();
        table.learn(mac(1), A, 0);
        table.learn(mac(2), A, 0);
        table.learn(mac(2), A, 60);
        assert_eq!(table.expire(599), 0);
        assert_eq!(table.expire(600), 1);
        assert_eq!(table.lookup(mac(1)), None);
        assert_eq!(table.expire(660), 1);
        assert!(table.is_empty());
    }

    #[test]
    fn flood_of_addresses_evicts_the_oldest() {
        let mut table = MacTable::new();
        table.learn(mac(0), A, 0);
        for n in 1..=ENTRIES_MAX as u32 {
            table.learn(mac(n), B, 1);
        }
        assert_eq!(table.len(), ENTRIES_MAX);
        assert_eq!(table.by_age.len(), ENTRIES_MAX);
        assert_eq!(table.lookup(mac(0)), None);
        assert_eq!(table.lookup(mac(1)), Some(B));
    }

    #[test]
    fn group_address_is_never_learned() {
        let mut table = MacTable::new();
        assert_eq!(table.learn(MacAddr([0xff; 6]), A, 0), Learned::Known);
        assert_eq!(
            table.learn(MacAddr([1, 0, 0x5e, 0, 0, 1]), A, 0),
            Learned::Known
        );
        assert!(table.is_empty());
    }

    #[test]
    fn addresses_of_a_vanished_peer_are_forgotten() {
        let mut table = MacTable::new();
        table.learn(mac(1), A, 0);
        table.learn(mac(2), B, 0);
        let gone = BTreeSet::from([A]);
        table.correct(&MacCorrection { gone });
        assert_eq!(table.lookup(mac(1)), None);
        assert_eq!(table.lookup(mac(2)), Some(B));
        assert_eq!(table.by_age.len(), 1);
    }
}
