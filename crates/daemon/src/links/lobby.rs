//! Accepted connections that wait until the rate limit lets them in (spec/mesh.md 11).
//!
//! Sources take turns, so that a crowd from one address delays a peer at another by one turn, not by
//! the length of the crowd. What is too much is turned away.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

/// Most connections of one source that wait.
const SOURCE_MAX: usize = 32;
/// Most connections that wait.
const WAITING_MAX: usize = 256;
/// Bits of an IPv6 address that one customer of a provider cannot change.
const IPV6_SOURCE_BITS: u32 = 64;

/// The waiting connections.
///
/// Invariant: a source is in `turns` once if it is in `waiting`, where no queue is empty.
#[derive(Debug)]
pub(super) struct Lobby<T> {
    waiting: BTreeMap<IpAddr, VecDeque<T>>,
    turns: VecDeque<IpAddr>,
    count: usize,
}

impl<T> Lobby<T> {
    /// Nobody waits.
    pub(super) const fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            turns: VecDeque::new(),
            count: 0,
        }
    }

    /// Whether nobody waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Lets a connection wait. Returns one there is no room for: itself when its source has too many
    /// already, else the latest of the source that has most.
    pub(super) fn enter(&mut self, from: IpAddr, visitor: T) -> Option<T> {
        let source = source_of(from);
        let own = self.waiting.get(&source).map_or(0, VecDeque::len);
        if own >= SOURCE_MAX {
            return Some(visitor);
        }
        let mut turned_away = None;
        if self.count >= WAITING_MAX {
            let queues = self.waiting.iter();
            let (largest, most) = queues
                .map(|(source, queue)| (*source, queue.len()))
                .max_by_key(|(_, length)| *length)
                .expect("somebody waits");
            if most <= own + 1 {
                return Some(visitor);
            }
            let queue = self.waiting.get_mut(&largest);
            turned_away = queue.expect("was just seen").pop_back();
            self.count -= 1;
        }
        if own == 0 {
            self.turns.push_back(source);
        }
        self.waiting.entry(source).or_default().push_back(visitor);
        self.count += 1;
        turned_away
    }

    /// The one whose turn it is.
    pub(super) fn leave(&mut self) -> Option<T> {
        let source = self.turns.pop_front()?;
        let queue = self.waiting.get_mut(&source);
        let queue = queue.expect("who has a turn waits");
        let visitor = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&source);
        } else {
            self.turns.push_back(source);
        }
        self.count -= 1;
        visitor
    }
}

/// What counts as one source: an IPv4 address, or what a provider gives to one IPv6 customer.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let mask = u128::MAX << (u128::BITS - IPV6_SOURCE_BITS);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    #[test]
    fn sources_take_turns() {
        let mut lobby = Lobby::new();
        for number in 0..5 {
            assert_eq!(lobby.enter(ip(1), (1, number)), None);
        }
        assert_eq!(lobby.enter(ip(2), (2, 0)), None);
        let order: Vec<_> = std::iter::from_fn(|| lobby.leave()).collect();
        assert_eq!(order, [(1, 0), (2, 0), (1, 1), (1, 2), (1, 3), (1, 4)]);
        assert!(lobby.is_empty());
    }

    #[test]
    fn one_source_fills_only_its_share() {
        let mut lobby = Lobby::new();
        let turned_away = (0..1000).filter_map(|n| lobby.enter(ip(1), n)).count();
        assert_eq!(turned_away, 1000 - SOURCE_MAX);
        assert_eq!(lobby.enter(ip(2), 5000), None);
        lobby.leave();
        assert_eq!(lobby.leave(), Some(5000));
    }

    #[test]
    fn a_full_lobby_makes_room_for_a_new_source() {
        let mut lobby = Lobby::new();
        for source in 0..10 {
            for number in 0..SOURCE_MAX {
                lobby.enter(ip(source), (source, number));
            }
        }
        assert_eq!(lobby.count, WAITING_MAX);
        let turned_away = lobby.enter(ip(200), (200, 0));
        assert!(turned_away.is_some_and(|(source, _)| source < 10));
        assert_eq!(lobby.count, WAITING_MAX);
        let order: Vec<_> = std::iter::from_fn(|| lobby.leave()).collect();
        assert!(order[..=10].contains(&(200, 0)));
        assert_eq!(order.len(), WAITING_MAX);
    }

    #[test]
    fn as_many_sources_as_places_turn_newcomers_away() {
        let mut lobby = Lobby::new();
        let sources: Vec<IpAddr> = (0..300_u16)
            .map(|n| [10, 1, n.to_be_bytes()[0], n.to_be_bytes()[1]].into())
            .collect();
        let turned_away = sources
            .iter()
            .filter_map(|ip| lobby.enter(*ip, *ip))
            .count();
        assert_eq!(turned_away, 300 - WAITING_MAX);
    }

    #[test]
    fn addresses_of_one_ipv6_customer_are_one_source() {
        let ip = |text: &str| source_of(text.parse().expect("an address"));
        assert_eq!(ip("2001:db8:0:1::5"), ip("2001:db8:0:1:ffff::"));
        assert_ne!(ip("2001:db8:0:1::5"), ip("2001:db8:0:2::5"));
        assert_eq!(ip("::ffff:10.0.0.1"), ip("10.0.0.1"));
    }
}
